/** Short convolutions that return no promise: the bits of those that do, whatever else is under way. */
import { expect, test } from "vitest";
import { encode } from "../../src/dtype.ts";
import {
  FlashDepthwiseConv1d,
  FlashHyenaProjections,
  InvalidArgumentError,
} from "../../src/index.ts";
import { describeBackends, onCpu } from "../support/backends.ts";
import { expectSameBits } from "../support/close.ts";
import { normal } from "../support/signals.ts";

const noise = (size: number, seed: number): Float32Array => Float32Array.from(normal(size, seed));

describeBackends(
  "short convolutions that return no promise",
  (_, configuration) => {
    const { instructions } = onCpu(configuration);

    test.each([
      ["BHL", "float32"],
      ["BLH", "bfloat16"],
    ] as const)("filters, %s of %s", async (layout, dtype) => {
      const [batch, channels, length] = [2, 5, 300];
      using conv = await FlashDepthwiseConv1d.create({
        ...{ channels, kernelLength: 4, layout, dtype, instructions, threads: 1 },
        ...{ activation: "silu", batch },
      });
      const size = batch * channels * length;
      const [x, dy] = [encode(noise(size, 1), dtype), encode(noise(size, 2), dtype)];
      const options = { bias: noise(channels, 3), state: conv.createState(batch) };
      const weight = noise(channels * 4, 4);
      const y = await conv.forward(x, weight, options);
      const gradients = await conv.backward(dy, x, weight, options);
      expectSameBits(conv.forwardSync(x, weight, options), y);
      expectSameBits(conv.backwardSync(dy, x, weight, options), gradients);
      const out = conv.allocateOutput(batch, length);
      const stateOut = conv.createState(batch);
      expect(conv.forwardSync(x, weight, { ...options, out, stateOut })).toBe(out);
      expectSameBits(out.slice(), y);
      expect(Array.from(stateOut).some((value) => value !== 0)).toBe(true);
    });

    test("projections", async () => {
      const [channels, length] = [3, 200];
      using projections = await FlashHyenaProjections.create({
        ...{ channels, kernelLength: 3, instructions, threads: 1 },
      });
      const [x, weight] = [noise(9 * length, 1), noise(27, 2)];
      const [dgated, dpostgate] = [noise(3 * length, 3), noise(3 * length, 4)];
      const results = await projections.forward(x, weight);
      expectSameBits(projections.forwardSync(x, weight), results);
      const out = { gated: new Float32Array(600), postgate: new Float32Array(600) };
      expect(projections.forwardSync(x, weight, { out }).gated).toBe(out.gated);
      expectSameBits(out, results);
      const gradients = await projections.backward({ dgated, dpostgate }, x, weight);
      expectSameBits(projections.backwardSync({ dgated, dpostgate }, x, weight), gradients);
      expect(() => projections.forwardSync(x, weight, { out: { gate: x } as never })).toThrow(
        InvalidArgumentError,
      );
    });

    test.skipIf(instructions === "javascript")("disturb no call under way", async () => {
      const [channels, length] = [64, 40_000];
      using conv = await FlashDepthwiseConv1d.create({
        ...{ channels, kernelLength: 4, instructions, threads: 2 },
      });
      const [x, weight] = [noise(channels * length, 1), noise(channels * 4, 2)];
      const some = x.subarray(0, channels * 100);
      const [y, one] = [await conv.forward(x, weight), conv.forwardSync(some, weight)];
      const gradients = await conv.backward(x, x, weight);
      const calls = Promise.all([conv.forward(x, weight), conv.backward(x, x, weight)]);
      let done = false;
      void calls.then(() => {
        done = true;
      });
      while (!done) {
        expectSameBits(conv.forwardSync(some, weight), one);
        await new Promise((resolve) => setImmediate(resolve));
      }
      const [again, others] = await calls;
      expectSameBits(again, y);
      expectSameBits(others, gradients);
    });
  },
  { threads: 1 },
);
