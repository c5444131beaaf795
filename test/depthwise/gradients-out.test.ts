/** Gradients of short convolutions in memory of the caller's: arrays, and ranges of GPU buffers. */
import { describe, expect, test } from "vitest";
import {
  FlashDepthwiseConv1d,
  FlashHyenaProjections,
  type GpuTensor,
  InvalidArgumentError,
} from "../../src/index.ts";
import { describeBackends, onGpu, whereThingsGo } from "../support/backends.ts";
import { expectSameBits } from "../support/close.ts";
import { download, openDevice, upload } from "../support/gpu.ts";

const wave = (count: number, step = 1) =>
  Float32Array.from({ length: count }, (_, i) => Math.sin(step * i + 1));

/** B 2, H 3, L 10, K 4. */
const sizes = { channels: 3, kernelLength: 4, batch: 2 };
const x = wave(60);
const weight = wave(12, 2);
const dy = wave(60, 3);
const operands = { bias: wave(3), state: wave(18, 5) };
const lengths = { dx: 60, dweight: 12, dbias: 3, dstate: 18 };
const gradientNames = ["dx", "dweight", "dbias", "dstate"] as const;

describeBackends(
  "gradients in arrays of the caller's",
  (_, { options: selected }) => {
    test("all of them, and each by itself", async () => {
      using conv = await FlashDepthwiseConv1d.create({
        ...{ ...sizes, activation: "silu", ...selected },
      });
      const fresh = await conv.backward(dy, x, weight, operands);
      expect([...fresh.dweight].some((v) => v !== 0)).toBe(true);
      for (const chosen of [gradientNames, ...gradientNames.map((name) => [name])]) {
        const out = Object.fromEntries(
          chosen.map((name) => [name, new Float32Array(lengths[name as "dx"]).fill(7)]),
        );
        const written = await conv.backward(dy, x, weight, { ...operands, out });
        for (const name of chosen) expect(written[name as "dx"]).toBe(out[name]);
        expectSameBits(written, fresh);
      }
    });

    test("those of the projections", async () => {
      using conv = await FlashHyenaProjections.create({
        ...{ channels: 1, kernelLength: 4, batch: 2, ...selected },
      });
      const upstream = { dgated: wave(20), dpostgate: wave(20, 2) };
      const fresh = await conv.backward(upstream, x, weight, operands);
      const out = {
        ...{ dx: new Float32Array(60), dweight: new Float32Array(12) },
        ...{ dbias: new Float32Array(3), dstate: new Float32Array(18) },
      };
      const written = await conv.backward(upstream, x, weight, { ...operands, out });
      for (const name of gradientNames) expect(written[name]).toBe(out[name]);
      expectSameBits(written, fresh);
    });
  },
  whereThingsGo,
);

describe("refused, and nothing written", () => {
  const both = new Float32Array(20);
  test.each([
    ["the form of before", wave(60), operands, "out must be an object"],
    ["a tensor", { data: wave(60), shape: [2, 3, 10] }, operands, "out may have dx, dweight"],
    ["dbias without a bias", { dbias: wave(3) }, {}, "out.dbias needs a bias"],
    ["dstate without a state", { dstate: wave(18) }, {}, "out.dstate needs a state"],
    ["a short dweight", { dweight: wave(11) }, operands, "dweight must hold 12 samples (H·K)"],
    ["dweight over x", { dweight: x.subarray(0, 12) }, operands, "dweight must not overlap x"],
    [
      "dbias over dweight",
      { dweight: both.subarray(0, 12), dbias: both.subarray(11, 14) },
      operands,
      "dbias must not overlap dweight",
    ],
    [
      "dstate of another shape",
      { dstate: { data: wave(18), shape: [2, 1, 9] } },
      operands,
      "dstate must have shape (B, H, K − 1) = [2, 3, 3]",
    ],
  ] as const)("%s", async (_, out, options, requirement) => {
    using conv = await FlashDepthwiseConv1d.create({ ...sizes, instructions: "simd", threads: 1 });
    const call = conv.backward(dy, x, weight, { ...options, out } as never);
    await expect(call).rejects.toBeInstanceOf(InvalidArgumentError);
    await expect(call).rejects.toThrow(`depthwise.backward: ${requirement}`);
    expect([...both].every((v) => v === 0)).toBe(true);
  });

  test("of one tap the gradient of the state is as empty as the state", async () => {
    using conv = await FlashDepthwiseConv1d.create({
      ...{ channels: 3, kernelLength: 1, batch: 2, instructions: "simd", threads: 1 },
    });
    const [taps, empty] = [wave(3), conv.createState(2)];
    const fresh = await conv.backward(dy, x, taps);
    const options = { state: empty, out: { dstate: new Float32Array(0) } };
    expectSameBits(await conv.backward(dy, x, taps, options), fresh);
    const full = { state: empty, out: { dstate: new Float32Array(6) } };
    await expect(conv.backward(dy, x, taps, full)).rejects.toThrow("dstate must hold 0 samples");
  });
});

describe.skipIf(!onGpu)("gradients in GPU buffers of the caller's", () => {
  test.each(["BHL", "BLH"] as const)(
    "%s, at offsets, nothing beside them touched",
    async (layout) => {
      const device = await openDevice();
      using conv = await FlashDepthwiseConv1d.create({
        ...sizes,
        layout,
        activation: "silu",
        device,
      });
      const rows = (n: number) => (layout === "BHL" ? [2, 3, n] : [2, n, 3]);
      const shapes = { dx: rows(10), dweight: [3, 4], dbias: [3], dstate: rows(3) };
      const on = {
        ...{ x: upload(device, x, rows(10)), dy: upload(device, dy, rows(10), 8) },
        weight: upload(device, weight, [3, 4], 16),
      };
      const given = {
        ...{ bias: upload(device, operands.bias, [3], 8) },
        state: upload(device, operands.state, rows(3), 264),
      };
      const fresh = await conv.backward(on.dy, on.x, on.weight, given);
      const out: Record<string, GpuTensor> = {};
      for (const [i, name] of gradientNames.entries()) {
        const marked = new Float32Array(lengths[name]).fill(7);
        out[name] = upload(device, marked, shapes[name], [8, 264, 16, 0][i]);
      }
      const written = await conv.backward(on.dy, on.x, on.weight, { ...given, out });
      for (const name of gradientNames) {
        expect(written[name]).toEqual(out[name]);
        const like = new Float32Array(0);
        const found = await download(device, out[name]!, like);
        expectSameBits(found, await download(device, fresh[name], like), name);
        expect(found.some((v) => v !== 7 && v !== 0)).toBe(true);
        const { offset = 0 } = out[name]!;
        // What `upload` leaves before the samples.
        const before = { ...out[name]!, offset: 0, shape: [offset / 4] };
        if (offset > 0)
          expect([...(await download(device, before, like))].every((v) => v === 0)).toBe(true);
      }
      device.destroy();
    },
  );

  test("a call that is refused makes no buffer", async () => {
    const device = await openDevice();
    using conv = await FlashDepthwiseConv1d.create({ ...sizes, device });
    const [u, taps] = [upload(device, x, [2, 3, 10]), upload(device, weight, [3, 4])];
    let made = 0;
    const create = device.createBuffer.bind(device);
    device.createBuffer = (descriptor) => {
      made++;
      return create(descriptor);
    };
    const call = conv.backward(u, u, taps, { out: { dweight: { ...taps, shape: [4, 3] } } });
    await expect(call).rejects.toThrow("dweight must have shape (H, K) = [3, 4]");
    expect(made).toBe(0);
    device.destroy();
  });
});
