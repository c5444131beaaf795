/** Short convolutions where only a GPU has something to say: buffers, encoders, pieces that can be bound, what must not leak. */
import { describe, expect, test } from "vitest";
import { WebGpuBackend } from "../../src/backend/webgpu.ts";
import type { Dtype, SampleArray } from "../../src/dtype.ts";
import {
  FlashDepthwiseConv1d,
  FlashFFTConv,
  FlashHyenaProjections,
  type GpuTensor,
  InvalidArgumentError,
  type Layout,
} from "../../src/index.ts";
import type { DepthwiseGpuCall } from "../../src/kernels/wgsl/depthwise-places.ts";
import { DepthwiseScheduler } from "../../src/kernels/wgsl/depthwise-schedule.ts";
import type { GpuLimits, Schedule } from "../../src/kernels/wgsl/steps.ts";
import { outputLengthOf } from "../../src/plan/depthwise.ts";
import { onGpu } from "../support/backends.ts";
import { expectSameBits } from "../support/close.ts";
import {
  checkGradients,
  checkOutputs,
  type DepthwiseCase,
  type DepthwiseInputs,
  drawCase,
} from "../support/depthwise.ts";
import { download, openDevice } from "../support/gpu.ts";

const roomFor = (bytes: number): number => Math.ceil(bytes / 4) * 4;

/** Samples in a buffer, with others before and behind them that no call may touch. */
function upload(
  device: GPUDevice,
  values: SampleArray,
  shape: readonly number[],
  offset = 0,
): GpuTensor {
  const view = values as Float32Array<ArrayBuffer>;
  const data = device.createBuffer({ size: offset + roomFor(view.byteLength) + 8, usage: 0x8c });
  const padded = new Uint8Array(roomFor(view.byteLength));
  padded.set(new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
  device.queue.writeBuffer(data, offset, padded);
  return { data, shape, offset };
}

const base: DepthwiseCase = {
  ...{ form: "silu", layout: "BHL", dtype: "float32", storedTaps: false, batch: 2 },
  ...{ channels: 4, length: 40, kernelLength: 4, padding: "causal", bias: true, state: true },
  pregate: "second",
};

function createFor(c: DepthwiseCase, device?: GPUDevice): Promise<FlashDepthwiseConv1d> {
  const { channels, kernelLength, padding, layout, dtype } = c;
  return FlashDepthwiseConv1d.create({
    ...{ channels, kernelLength, padding, layout, dtype, backend: "webgpu" },
    activation: c.form === "silu" ? "silu" : "none",
    ...(device && { device }),
  });
}

/** (B, H, n) or (B, n, H). */
const shapeFor = ({ layout, batch, channels }: DepthwiseCase, n: number): number[] =>
  layout === "BHL" ? [batch, channels, n] : [batch, n, channels];

/** The operands of a case in buffers, at offsets that suit every access and offsets that suit only narrow ones. */
function uploaded(device: GPUDevice, c: DepthwiseCase, inputs: DepthwiseInputs, offset: number) {
  const { channels, kernelLength, length } = c;
  const { bias, state } = inputs.options;
  return {
    x: upload(device, inputs.x, shapeFor(c, length), offset),
    weight: upload(device, inputs.weight, [channels, kernelLength], offset),
    dy: upload(device, inputs.dy[0]!, shapeFor(c, length), offset + 256),
    bias: upload(device, bias!, [channels], 8),
    state: upload(device, state!, shapeFor(c, kernelLength - 1), offset),
  };
}

const placed: readonly (readonly [Layout, Dtype, number, number])[] = [
  ["BHL", "float32", 40, 8],
  ["BHL", "float16", 39, 8],
  ["BLH", "float32", 40, 16],
  ["BLH", "bfloat16", 39, 264],
];

describe.skipIf(!onGpu)("tensors in GPU buffers", () => {
  test.each(placed)("%s %s, %i samples, %i bytes into their buffers", async (...sizes) => {
    const [layout, dtype, length, offset] = sizes;
    // Four channels at once and an activation in one kernel take a software driver long.
    const [form, channels] = offset === 16 ? (["linear", 4] as const) : (["silu", 3] as const);
    const c = { ...base, layout, dtype, length, form, channels };
    const inputs = drawCase(c, 8);
    const device = await openDevice();
    using conv = await createFor(c, device);
    expect(conv.device).toBe(device);
    expect(conv.instructions).toBe("wgsl");
    const { x, weight, dy, bias, state } = uploaded(device, c, inputs, offset);
    const room = new (inputs.x.constructor as Float32ArrayConstructor)(inputs.x.length);
    const out = upload(device, room, shapeFor(c, length), 8);
    const y = await conv.forward(x, weight, { bias, state, out });
    expect(y).toEqual(out);
    checkOutputs(inputs, [await download(device, y, inputs.x)]);
    const g = await conv.backward(dy, x, weight, { bias, state });
    const found = {
      dx: await download(device, g.dx, inputs.x),
      dweight: await download(device, g.dweight, new Float32Array()),
      dbias: await download(device, g.dbias!, new Float32Array()),
      dstate: await download(device, g.dstate!, inputs.x),
    };
    expect(g.dx.shape).toEqual(x.shape);
    expect(g.dweight.shape).toEqual(weight.shape);
    checkGradients(inputs, found);
    // The same numbers in arrays, one at a time beside buffers.
    const { x: samples, weight: taps, options } = inputs;
    const whole = { data: samples, shape: shapeFor(c, length) };
    expectSameBits(
      await conv.forward(whole, taps, options),
      await download(device, await conv.forward(x, taps, { bias, state }), samples),
    );
    device.destroy();
  });

  test.each(["BHL", "BLH"] as const)("%s: blocks in one encoder, one state", async (layout) => {
    const c = { ...base, layout, kernelLength: 6 };
    const inputs = drawCase(c, 9);
    const device = await openDevice();
    using conv = await createFor(c, device);
    const { weight, bias, state } = uploaded(device, c, inputs, 8);
    const before = await download(device, state, inputs.x);
    const encoder = device.createCommandEncoder();
    const blocks = [3, 20, 17];
    const buffers: GpuTensor[] = [];
    const arrays: SampleArray[] = [];
    const carried = conv.createState(2) as Float32Array;
    carried.set(inputs.options.state as Float32Array);
    for (const [i, n] of blocks.entries()) {
      const values = (inputs.x as Float32Array).slice(i * 8, i * 8 + 8 * n);
      const shape = shapeFor(c, n);
      const x = upload(device, values, shape, 16);
      buffers.push(await conv.forward(x, weight, { bias, state, stateOut: state, encoder }));
      const options = { ...inputs.options, state: carried, stateOut: carried };
      arrays.push(await conv.forward({ data: values, shape }, inputs.weight, options));
    }
    expectSameBits(await download(device, state, inputs.x), before);
    device.queue.submit([encoder.finish()]);
    for (const [i, y] of arrays.entries())
      expectSameBits(await download(device, buffers[i]!, y), y, `block ${i}`);
    expectSameBits(await download(device, state, carried), carried, "state");
    device.destroy();
  });
});

describe.skipIf(!onGpu)("refusals and resources", () => {
  test("name what is wrong", async () => {
    const device = await openDevice();
    const c = { ...base, state: false };
    const inputs = drawCase(c, 8);
    using conv = await createFor(c, device);
    const x = upload(device, inputs.x, shapeFor(c, 40));
    const weight = upload(device, inputs.weight, [4, 4]);
    const encoder = device.createCommandEncoder();
    const calls: [() => Promise<unknown>, RegExp][] = [
      [() => conv.forward({ ...x, offset: 4 }, weight), /offset of x must be a multiple of 8/],
      [() => conv.forward({ ...x, shape: [2, 5, 40] }, weight), /must hold 1,600 bytes/],
      [() => conv.forward(x, { ...weight, shape: [2, 4] }), /weight must hold 16 samples/],
      [() => conv.forward(x, weight, { out: x }), /out must not overlap x/],
      [() => conv.forward({ data: inputs.x, shape: x.shape }, weight, { encoder }), /encoder all/],
      [
        async () => {
          using cpu = await FlashDepthwiseConv1d.create({ channels: 4, kernelLength: 4 });
          await cpu.forward(inputs.x, inputs.weight, { encoder });
        },
        /an encoder needs backend 'webgpu'/,
      ],
      [
        () =>
          FlashHyenaProjections.create({
            ...{ channels: 4, kernelLength: 4 },
            backend: "webgpu" as never,
          }),
        /backend must be one of auto, cpu/,
      ],
    ];
    for (const [call, message] of calls) {
      const promise = call();
      await expect(promise).rejects.toThrow(InvalidArgumentError);
      await expect(promise).rejects.toThrow(message);
    }
    device.destroy();
  });

  test("100 rounds of create, run, dispose leave no buffer", async () => {
    const device = await openDevice();
    const inputs = drawCase(base, 8);
    const { x, weight, dy, options } = inputs;
    const data = { data: x, shape: shapeFor(base, 40) };
    using witness = await FlashFFTConv.create({ length: 100, device });
    const before = witness.memory().backendBytes;
    for (let round = 0; round < 100; round++) {
      const conv = await createFor(base, device);
      const stateOut = conv.createState(2);
      await conv.forward(data, weight, { ...options, stateOut });
      if (round % 20 === 0) await conv.backward({ ...data, data: dy[0]! }, data, weight, options);
      expect(witness.memory().backendBytes).toBeGreaterThan(before);
      conv.dispose();
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(witness.memory().backendBytes).toBe(before);
    device.destroy();
  });

  test("more workgroups than one dimension of a dispatch has", async () => {
    const batch = 65_536 * 256 + 300;
    using conv = await FlashDepthwiseConv1d.create({
      ...{ channels: 1, kernelLength: 1, batch, backend: "webgpu" },
    });
    const x = Float32Array.from({ length: batch }, (_, i) => i % 4096);
    const y = (await conv.forward(x, Float32Array.of(2))) as Float32Array;
    expect(y.findIndex((v, i) => v !== 2 * (i % 4096))).toBe(-1);
  });
});

/** Cases, and how many bytes a binding may span: lines, channels and positions are cut. */
const cuts: readonly (readonly [Partial<DepthwiseCase>, number])[] = [
  [{}, 1024],
  [{ layout: "BLH", form: "linear", state: false, channels: 8 }, 2048],
  [{ layout: "BLH", length: 700, batch: 1, form: "linear", channels: 3 }, 8192],
  [{ length: 2001, batch: 1, channels: 2, form: "linear", dtype: "float16" }, 2048],
  [{ length: 900, kernelLength: 20, padding: [30, 2], state: false }, 2048],
];

/** Cases as a GPU takes them, in long runs: the last ones short of a run, and all of them whole. */
const longRuns: readonly Partial<DepthwiseCase>[] = [
  { layout: "BLH", form: "linear", state: false, kernelLength: 3, length: 50 },
  { layout: "BLH", form: "linear", state: false, kernelLength: 5, length: 48, dtype: "float16" },
];

const typed = (values: SampleArray): Float32ArrayConstructor =>
  values.constructor as Float32ArrayConstructor;

/** Forward and backward of a case under other limits than its device's. */
async function checkWith(c: DepthwiseCase, override: Partial<GpuLimits>): Promise<number> {
  const inputs = drawCase(c, 3);
  const device = await openDevice();
  const backend = await WebGpuBackend.open(device, "test");
  const limits = { ...backend.limits(2 ** 28), ...override };
  const scheduler = new DepthwiseScheduler(inputs.problem, limits);
  const { batch, length, channels, kernelLength, bias, state } = c;
  const flags = { stateOut: "none", dstateOut: false, offsets: {} } as const;
  const call: DepthwiseGpuCall = { name: "test", batch, length, bias, state, ...flags };
  const run = async <R extends Record<string, SampleArray>>(schedule: Schedule, results: R) => {
    for (const { ranges } of schedule.steps) {
      for (const { size } of Object.values(ranges))
        expect(size).toBeLessThanOrEqual(limits.bindingBytes);
    }
    const given = { x: inputs.x, dy: inputs.dy[0]!, weight: inputs.weight, ...inputs.options };
    const buffers: Record<string, GPUBuffer> = {};
    for (const [name, values] of Object.entries({ ...given, ...results }))
      buffers[name] = upload(device, values, [values.length]).data as GPUBuffer;
    for (const [name, bytes] of Object.entries(schedule.bytes))
      buffers[name] = await backend.buffer(bytes, "test");
    const recording = await backend.prepare(schedule, "test");
    await backend.submit((encoder) => backend.record(encoder, recording, buffers), "test");
    const found = await Promise.all(
      Object.entries(results).map(async ([name, values]) => [
        name,
        await download(device, { data: buffers[name]!, shape: [values.length] }, values),
      ]),
    );
    return Object.fromEntries(found) as R;
  };
  const outputs = batch * channels * outputLengthOf(inputs.problem, length);
  const forward = scheduler.forward(call);
  const { y } = await run(forward, { y: new (typed(inputs.x))(outputs) });
  checkOutputs(inputs, [y]);
  const gradients = await run(scheduler.backward(call), {
    dx: new (typed(inputs.x))(inputs.x.length),
    dweight: new Float32Array(channels * kernelLength),
    dbias: new Float32Array(channels),
    ...(state && { dstate: new (typed(inputs.x))(inputs.options.state!.length) }),
  });
  checkGradients(inputs, gradients);
  device.destroy();
  return forward.steps.length;
}

describe.skipIf(!onGpu)("what the adapter here does not ask for", () => {
  test.each(cuts)("in pieces: %o, %i bytes a binding", async (part, bindingBytes) => {
    expect(await checkWith({ ...base, ...part }, { bindingBytes })).toBeGreaterThan(1);
  });

  test.each(longRuns)("in long runs: %o", async (part) => {
    expect(await checkWith({ ...base, ...part }, { slowFma: false })).toBe(1);
  });
});
