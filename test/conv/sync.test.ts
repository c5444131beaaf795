/** Calls that return no promise: at once, whatever else is under way, with the bits of those that do. */
import { getHeapStatistics } from "node:v8";
import { expect, test } from "vitest";
import { RepeatedCalls } from "../../src/conv/repeat.ts";
import type { Dtype } from "../../src/dtype.ts";
import type { PreparedKernel } from "../../src/index.ts";
import {
  convolve,
  convolveSync,
  FlashFFTConv,
  InvalidArgumentError,
  UnsupportedError,
} from "../../src/index.ts";
import { describeBackends, onCpu } from "../support/backends.ts";
import { drawInputs } from "../support/cases.ts";
import { expectSameBits } from "../support/close.ts";
import { normal } from "../support/signals.ts";

const noise = (length: number, seed: number): Float32Array =>
  Float32Array.from(normal(length, seed));
const problem = { length: 1024, kernelLength: 1024 };

/**
 * Bytes that a call leaves on the heap: the least of many tries, until it is few enough. Numbers are boxed until the compiler is
 * done, which waits for a processor, and collectors come between.
 */
function bytesPerCall(run: () => void, enough: number): number {
  const calls = 10_000;
  let least = Number.POSITIVE_INFINITY;
  for (const end = performance.now() + 20_000; performance.now() < end && least >= enough; ) {
    const before = getHeapStatistics().used_heap_size;
    for (let call = 0; call < calls; call++) run();
    const grown = getHeapStatistics().used_heap_size - before;
    if (grown >= 0) least = Math.min(least, grown / calls);
  }
  return least;
}

describeBackends(
  "calls that return no promise",
  (_, configuration) => {
    const { instructions } = onCpu(configuration);
    const options = { ...problem, instructions, threads: 1 };

    test.each(["float32", "float16", "bfloat16"] as const)(
      "take taps of %s",
      async (dtype: Dtype) => {
        using conv = await FlashFFTConv.create({ ...options, dtype });
        const { u, k, dy } = drawInputs(conv.problem, { batch: 2, channels: 3 }, 5);
        expectSameBits(conv.forwardSync(u, k), await conv.forward(u, k));
        expectSameBits(conv.backwardSync(dy, u, k), await conv.backward(dy, u, k));
      },
    );

    test("see what arrays hold now", async () => {
      using conv = await FlashFFTConv.create(options);
      using kernel = conv.prepareKernelSync(noise(1024, 1));
      const [u, out, skip] = [noise(1024, 2), new Float32Array(1024), noise(1, 3)];
      const gate = noise(1024, 4);
      for (let seed = 5; seed < 9; seed++) {
        u.set(noise(1024, seed));
        skip[0] = seed;
        gate[7] = seed;
        const given = { out, skip, pregate: gate };
        expect(conv.forwardSync(u, kernel, given)).toBe(out);
        const { out: _out, ...operands } = given;
        expectSameBits(out, await conv.forward(u, kernel, operands));
      }
    });

    test("those that do, in a row, see what arrays hold, wait for calls under way, and are refused", async () => {
      const conv = await FlashFFTConv.create(options);
      const kernel = await conv.prepareKernel(noise(1024, 1));
      const [u, out] = [noise(1024, 2), new Float32Array(1024)];
      for (let seed = 3; seed < 6; seed++) {
        u.set(noise(1024, seed));
        expect(await conv.forward(u, kernel, { out })).toBe(out);
        expectSameBits(out, conv.forwardSync(u, kernel));
      }
      const y = out.slice();
      out.fill(0);
      const before = conv.prepareKernel(noise(1024, 6));
      const waiting = conv.forward(u, kernel, { out });
      expect(out.every((sample) => sample === 0)).toBe(true);
      await waiting;
      expectSameBits(out, y);
      kernel.dispose();
      await expect(conv.forward(u, kernel, { out })).rejects.toThrow(/must be alive/);
      const other = await before;
      await conv.forward(u, other, { out });
      structuredClone(u.buffer, { transfer: [u.buffer] });
      await expect(conv.forward(u, other, { out })).rejects.toThrow(InvalidArgumentError);
      conv.dispose();
      await expect(conv.forward(u, other, { out })).rejects.toThrow(/disposed/);
    });

    test("run again after whatever moves their memory", async () => {
      const conv = await FlashFFTConv.create(options);
      const first = conv.prepareKernelSync(noise(1024, 1));
      const [u, out] = [noise(1024, 2), new Float32Array(1024)];
      const y = conv.forwardSync(u, first).slice();
      const again = (kernel: PreparedKernel): void => {
        out.fill(0);
        conv.forwardSync(u, kernel, { out });
        expectSameBits(out, y);
      };
      again(first);
      again(first);
      // Work memory that grows, and goes with another object.
      const large = await FlashFFTConv.create({ length: 65_536, instructions, threads: 1 });
      large.forwardSync(noise(65_536, 1), noise(65_536, 2));
      again(first);
      large.dispose();
      again(first);
      // The object moves to a memory that it can lend.
      conv.allocateInput(1, 1);
      again(first);
      // Its spectra are others, in the place of those that were freed.
      first.dispose();
      expect(() => conv.forwardSync(u, first, { out })).toThrow(/prepared kernel must be alive/);
      const second = conv.prepareKernelSync(noise(1024, 1));
      again(second);
      conv.dispose();
      expect(() => conv.forwardSync(u, second, { out })).toThrow(InvalidArgumentError);
      expect(() => conv.forwardSync(u, second, { out })).toThrow(/disposed/);
    });

    test("check calls that differ from the ones before", async () => {
      using conv = await FlashFFTConv.create(options);
      using kernel = conv.prepareKernelSync(noise(1024, 1));
      const [u, out] = [noise(1024, 2), new Float32Array(1024)];
      conv.forwardSync(u, kernel, { out });
      const wrong =
        (given: object): unknown =>
        () =>
          conv.forwardSync(u, kernel, given as object);
      expect(wrong({ out, gate: u })).toThrow(/gate/);
      expect(wrong({ out, constructor: u })).toThrow(/constructor/);
      expect(wrong({ out, encoder: {} })).toThrow(/encoder/);
      expect(wrong({ out: u })).toThrow(/overlap/);
      expect(wrong({ out: new Float32Array(5) })).toThrow(InvalidArgumentError);
      expect(() => conv.forwardSync(u, kernel, null as unknown as object)).toThrow(
        InvalidArgumentError,
      );
      structuredClone(u.buffer, { transfer: [u.buffer] });
      expect(wrong({ out })).toThrow(InvalidArgumentError);
    });

    test.skipIf(instructions === "javascript")("allocate nothing where they repeat", async () => {
      using conv = await FlashFFTConv.create(options);
      const kernel = conv.prepareKernelSync(noise(1024, 1));
      const arrays = [
        { u: noise(1024, 2), given: { out: new Float32Array(1024) } },
        { u: conv.allocateInput(1, 1), given: { out: conv.allocateOutput(1, 1) } },
        { u: conv.allocateInput(1, 1), given: { out: conv.allocateOutput(1, 1) } },
      ];
      for (const { u, given } of arrays) {
        // Node 20 boxes a number; a view of memory would be 100 bytes, a promise as many.
        expect(bytesPerCall(() => conv.forwardSync(u, kernel, given), 20)).toBeLessThan(20);
      }
      const turns = (): void => {
        for (const { u, given } of arrays) conv.forwardSync(u, kernel, given);
      };
      expect(bytesPerCall(turns, 60)).toBeLessThan(60);
    });

    test("disturb no call under way, nor wait for it", async () => {
      const length = instructions === "javascript" ? 30_000 : 200_000;
      const long = { length, kernelLength: length, instructions };
      for (const threads of instructions === "javascript" ? [1] : [1, 2]) {
        using conv = await FlashFFTConv.create({ ...long, threads });
        using other = await FlashFFTConv.create({ ...options, threads });
        const [u, k] = [noise(4 * length, 1), noise(length, 2)];
        const [small, taps] = [noise(1024, 3), noise(1024, 4)];
        const y = await conv.forward(u, k);
        const gradients = await conv.backward(u, u, k);
        const one = other.forwardSync(small, taps).slice();
        const same = conv.forwardSync(u.subarray(0, length), k).slice();
        const calls = [conv.forward(u, k), conv.backward(u, u, k)] as const;
        let done = false;
        const all = Promise.all(calls).then((results) => {
          done = true;
          return results;
        });
        let met = 0;
        while (!done) {
          try {
            expectSameBits(other.forwardSync(small, taps), one);
            if (met % 4 === 0) expectSameBits(conv.forwardSync(u.subarray(0, length), k), same);
            met++;
          } catch (error) {
            if (!(error instanceof UnsupportedError)) throw error;
            expect(instructions).toBe("javascript");
            expect(error.message).toMatch(/Await the promises/);
          }
          await new Promise((resolve) => setImmediate(resolve));
        }
        const [again, others] = await all;
        expectSameBits(again, y);
        expectSameBits(others, gradients);
        if (instructions !== "javascript") expect(met).toBeGreaterThan(0);
      }
    });

    test("compile what workers are given later", async () => {
      if (instructions === "javascript") return;
      const length = 20_000;
      using conv = await FlashFFTConv.create({ length, instructions, threads: 2 });
      const [u, k] = [noise(16 * length, 1), noise(16 * length, 2)];
      await conv.forward(u, k);
      const gradients = conv.backwardSync(u, u, k);
      expectSameBits(await conv.backward(u, u, k), gradients);
    });
  },
  { threads: 1 },
);

test("a convolution in a line", async () => {
  for (const [length, kernelLength] of [
    [3, 2],
    [1000, 1000],
    [200_000, 50],
    [100_000, 3000],
  ] as const) {
    const [u, k] = [noise(length, 1), noise(kernelLength, 2)];
    const how = length > 1000 ? { threads: 1 } : {};
    expectSameBits(convolveSync(u, k), await convolve(u, k, how));
  }
  expect(convolveSync([1, 2, 3], [1, 1])).toEqual(Float32Array.of(1, 3, 5, 3));
  expect(() => convolveSync([1], [1], { backend: "webgpu" })).toThrow(UnsupportedError);
  expect(() => convolveSync([1], [1], { channels: 0 })).toThrow(InvalidArgumentError);
});

test("a repeated call that has lost its place takes one place again", () => {
  const calls = new RepeatedCalls();
  const [u, k, out] = [noise(16, 1), noise(16, 2), new Float32Array(16)];
  calls.keep(u, k, { out }, () => false);
  expect(calls.run(u, k, { out }, false)).toBe(false);
  calls.keep(u, k, { out }, () => true);
  expect(calls.run(u, k, { out }, false)).toBe(true);
});
