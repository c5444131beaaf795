/** Short convolutions where only a GPU has something to say: buffers, encoders, pieces that can be bound, what must not leak. */
import { describe, expect, test } from "vitest";
import { WebGpuBackend } from "../../src/backend/webgpu/device.ts";
import { carryState } from "../../src/depthwise/cpu-state.ts";
import type { Dtype, SampleArray } from "../../src/dtype.ts";
import {
  BackendError,
  type DepthwiseBackwardOptions,
  type DepthwiseForwardOptions,
  type DepthwiseGradients,
  FlashDepthwiseConv1d,
  FlashFFTConv,
  FlashHyenaProjections,
  type GpuDepthwiseGradients,
  type GpuTensor,
  InvalidArgumentError,
  type Layout,
  type Tensor,
} from "../../src/index.ts";
import { activationOf, type Form, outputLengthOf } from "../../src/plan/depthwise.ts";
import { DepthwiseScheduler } from "../../src/schedule/depthwise.ts";
import type { DepthwiseGpuCall } from "../../src/schedule/pieces.ts";
import type { GpuLimits, Schedule } from "../../src/schedule/schedule.ts";
import { onGpu } from "../support/backends.ts";
import { expectSameBits } from "../support/close.ts";
import {
  checkGradients,
  checkOutputs,
  type DepthwiseCase,
  type DepthwiseInputs,
  drawCase,
} from "../support/depthwise.ts";
import { download, openDevice, runSchedule, upload } from "../support/gpu.ts";

const base: DepthwiseCase = {
  ...{ form: "silu", layout: "BHL", dtype: "float32", storedTaps: false, batch: 2 },
  ...{ channels: 4, length: 40, kernelLength: 4, padding: "causal", bias: true, state: true },
  pregate: "second",
};

const projected: DepthwiseCase = { ...base, form: "projections", kernelLength: 3 };

/** Either class, with results as a list, of arrays and of tensors in buffers. */
interface OnGpu extends Disposable {
  readonly device: unknown;
  readonly instructions: string;
  createState(batch: number): SampleArray;
  forward<T extends Tensor | GpuTensor>(
    x: T,
    weight: Tensor | GpuTensor,
    options?: DepthwiseForwardOptions<Dtype>,
    out?: readonly GpuTensor[],
  ): Promise<T extends GpuTensor ? GpuTensor[] : SampleArray[]>;
  backward<T extends Tensor | GpuTensor>(
    dy: readonly T[],
    x: T,
    weight: Tensor | GpuTensor,
    options: DepthwiseBackwardOptions<Dtype>,
  ): Promise<T extends GpuTensor ? GpuDepthwiseGradients : DepthwiseGradients>;
}

async function createFor(c: DepthwiseCase, device?: GPUDevice): Promise<OnGpu> {
  const { channels, kernelLength, padding, layout, dtype } = c;
  const options = {
    ...{ channels, kernelLength, padding, layout, dtype, backend: "webgpu" as const },
    ...(device && { device }),
  };
  if (c.form === "projections") {
    const conv = await FlashHyenaProjections.create({ ...options, pregate: c.pregate });
    return {
      ...common(conv),
      async forward(x: never, weight: Tensor, rest: object, out?: readonly GpuTensor[]) {
        const given = out && { gated: out[0]!, postgate: out[1]! };
        const { gated, postgate } = await conv.forward(x, weight, { ...rest, out: given });
        return [gated, postgate] as never;
      },
      backward: (dy: readonly never[], x: never, weight: Tensor, rest: object) =>
        conv.backward({ dgated: dy[0]!, dpostgate: dy[1]! }, x, weight, rest) as never,
    };
  }
  const activation = activationOf(c.form) ?? "none";
  const conv = await FlashDepthwiseConv1d.create({ ...options, activation });
  return {
    ...common(conv),
    forward: async (x: never, weight: Tensor, rest: object, out?: readonly GpuTensor[]) =>
      [await conv.forward(x, weight, { ...rest, out: out?.[0] })] as never,
    backward: (dy: readonly never[], x: never, weight: Tensor, rest: object) =>
      conv.backward(dy[0]!, x, weight, rest) as never,
  };
}

function common(conv: FlashDepthwiseConv1d<Dtype> | FlashHyenaProjections<Dtype>) {
  return {
    device: conv.device,
    instructions: conv.instructions,
    createState: (batch: number) => conv.createState(batch),
    [Symbol.dispose]: () => conv.dispose(),
  };
}

/** Channels of x. */
const packedOf = ({ form, channels }: DepthwiseCase): number =>
  form === "projections" ? 3 * channels : channels;

/** (B, C, n) or (B, n, C) of as many channels as x has. */
const shapeFor = (c: DepthwiseCase, n: number, channels = packedOf(c)): number[] =>
  c.layout === "BHL" ? [c.batch, channels, n] : [c.batch, n, channels];

/** The operands of a case in buffers, at offsets that suit every access and offsets that suit only narrow ones. */
function uploaded(device: GPUDevice, c: DepthwiseCase, inputs: DepthwiseInputs, offset: number) {
  const { channels, kernelLength, length } = c;
  const { bias, state } = inputs.options;
  return {
    x: upload(device, inputs.x, shapeFor(c, length), offset),
    weight: upload(device, inputs.weight, [packedOf(c), kernelLength], offset),
    dy: inputs.dy.map((dy) => upload(device, dy, shapeFor(c, length, channels), offset + 256)),
    bias: upload(device, bias!, [packedOf(c)], 8),
    state: upload(device, state!, shapeFor(c, kernelLength - 1), offset),
  };
}

const placed: readonly (readonly [Layout, Dtype, number, number, Form])[] = [
  ["BHL", "float32", 40, 8, "silu"],
  ["BHL", "float16", 39, 8, "silu"],
  // Four channels at once and an activation in one kernel take a software driver long.
  ["BLH", "float32", 40, 16, "linear"],
  ["BHL", "float32", 39, 8, "relu"],
  ["BLH", "bfloat16", 39, 264, "silu"],
  ["BHL", "float16", 40, 16, "projections"],
  ["BLH", "float16", 39, 8, "projections"],
];

describe.skipIf(!onGpu)("tensors in GPU buffers", () => {
  test.each(placed)("%s %s, %i samples, %i bytes into their buffers, %s", async (...sizes) => {
    const [layout, dtype, length, offset, form] = sizes;
    const channels = offset === 16 ? 4 : 3;
    const c = { ...base, layout, dtype, length, form, channels };
    const inputs = drawCase(c, 8);
    const device = await openDevice();
    using conv = await createFor(c, device);
    expect(conv.device).toBe(device);
    expect(conv.instructions).toBe("wgsl");
    const { x, weight, dy, bias, state } = uploaded(device, c, inputs, offset);
    const out = inputs.dy.map((dy) =>
      upload(device, new (typed(dy))(dy.length), shapeFor(c, length, channels), 8),
    );
    const y = await conv.forward(x, weight, { bias, state }, out);
    expect(y).toEqual(out);
    const outputs = await Promise.all(y.map((each) => download(device, each, inputs.x)));
    checkOutputs(inputs, outputs);
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
    expectSameBits(await conv.forward(whole, taps, options), outputs);
    for (const [o, again] of (await conv.forward(x, taps, { bias, state })).entries())
      expectSameBits(await download(device, again, samples), outputs[o]!);
    device.destroy();
  });

  const streamed: readonly (readonly [Layout, Form])[] = [
    ["BHL", "silu"],
    ["BLH", "silu"],
    ["BHL", "projections"],
    ["BLH", "projections"],
  ];
  test.each(streamed)("%s %s: blocks in one encoder, one state", async (layout, form) => {
    const c = { ...base, layout, form, kernelLength: 6 };
    const inputs = drawCase(c, 9);
    const device = await openDevice();
    using conv = await createFor(c, device);
    const { weight, bias, state } = uploaded(device, c, inputs, 8);
    const before = await download(device, state, inputs.x);
    const encoder = device.createCommandEncoder();
    const blocks = [3, 20, 17];
    const buffers: GpuTensor[][] = [];
    const arrays: SampleArray[][] = [];
    const carried = conv.createState(2) as Float32Array;
    carried.set(inputs.options.state as Float32Array);
    for (const [i, n] of blocks.entries()) {
      const values = (inputs.x as Float32Array).slice(i * 8, i * 8 + 2 * packedOf(c) * n);
      const shape = shapeFor(c, n);
      const x = upload(device, values, shape, 16);
      buffers.push(await conv.forward(x, weight, { bias, state, stateOut: state, encoder }));
      const options = { ...inputs.options, state: carried, stateOut: carried };
      arrays.push(await conv.forward({ data: values, shape }, inputs.weight, options));
    }
    expectSameBits(await download(device, state, inputs.x), before);
    device.queue.submit([encoder.finish()]);
    for (const [i, block] of arrays.entries()) {
      for (const [o, y] of block.entries())
        expectSameBits(await download(device, buffers[i]![o]!, y), y, `block ${i}`);
    }
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
      [() => conv.forward(x, weight, {}, [x]), /out must not overlap x/],
      [
        () => conv.forward({ data: inputs.x, shape: x.shape }, weight, { encoder }),
        /with an encoder every tensor must be in a GPU buffer/,
      ],
      [
        async () => {
          using cpu = await FlashDepthwiseConv1d.create({ channels: 4, kernelLength: 4 });
          await cpu.forward(inputs.x as Float32Array, inputs.weight as Float32Array, { encoder });
        },
        /an encoder needs backend 'webgpu'/,
      ],
      [
        async () => {
          using projections = await createFor({ ...projected, channels: 1 }, device);
          const shared = upload(device, new Float32Array(180), [2, 1, 40], 0);
          const out = [shared, { ...shared, offset: 328 }];
          const taps = { ...weight, shape: [3, 3] };
          await projections.forward({ ...x, shape: [2, 3, 40] }, taps, {}, out);
        },
        /out.postgate must be 256 bytes apart from out.gated/,
      ],
    ];
    for (const [call, message] of calls) {
      const promise = call();
      await expect(promise).rejects.toThrow(InvalidArgumentError);
      await expect(promise).rejects.toThrow(message);
    }
    device.destroy();
  });

  test("both results in one buffer", async () => {
    const device = await openDevice();
    const inputs = drawCase(projected, 8);
    using conv = await createFor(projected, device);
    const { x, weight, bias, state } = uploaded(device, projected, inputs, 0);
    const size = 2 * 4 * 40;
    const both = upload(device, new Float32Array(512 + size), [2, 4, 40]);
    const out = [both, { ...both, offset: 2048 }];
    const y = await conv.forward(x, weight, { bias, state }, out);
    checkOutputs(inputs, await Promise.all(y.map((each) => download(device, each, inputs.x))));
    device.destroy();
  });

  test("buffers made for a call that fails are destroyed", async () => {
    const device = await openDevice();
    const inputs = drawCase(projected, 8);
    using conv = await createFor(projected, device);
    const { x, weight, dy, bias, state } = uploaded(device, projected, inputs, 0);
    const gone = upload(device, inputs.x, shapeFor(projected, 40));
    (gone.data as GPUBuffer).destroy();
    const made: GPUBuffer[] = [];
    const destroyed = new Set<GPUBuffer>();
    const create = device.createBuffer.bind(device);
    device.createBuffer = (descriptor) => {
      const buffer = create(descriptor);
      made.push(buffer);
      const destroy = buffer.destroy.bind(buffer);
      buffer.destroy = () => {
        destroyed.add(buffer);
        return destroy();
      };
      return buffer;
    };
    const options = { bias, state };
    await expect(conv.forward(gone, weight, options)).rejects.toThrow(BackendError);
    await expect(conv.backward(dy, gone, weight, options)).rejects.toThrow(BackendError);
    const refused = conv.forward(x, weight, { ...options, stateOut: x });
    await expect(refused).rejects.toThrow(InvalidArgumentError);
    conv[Symbol.dispose]();
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(made.length).toBeGreaterThan(5);
    expect(made.filter((b) => !destroyed.has(b))).toEqual([]);
    device.destroy();
  });

  test.each([base, projected])(
    "rounds of create, run, dispose leave no buffer: $form",
    async (c) => {
      const device = await openDevice();
      const inputs = drawCase(c, 8);
      const { x, weight, dy, options } = inputs;
      const data = { data: x, shape: shapeFor(c, 40) };
      using witness = await FlashFFTConv.create({ length: 100, device });
      const before = witness.memory().backendBytes;
      for (let round = 0; round < 100; round++) {
        const conv = await createFor(c, device);
        const stateOut = conv.createState(2);
        await conv.forward(data, weight, { ...options, stateOut });
        const upstream = dy.map((d) => ({ data: d, shape: shapeFor(c, 40, c.channels) }));
        if (round % 20 === 0) await conv.backward(upstream, data, weight, options);
        expect(witness.memory().backendBytes).toBeGreaterThan(before);
        conv[Symbol.dispose]();
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
      expect(witness.memory().backendBytes).toBe(before);
      device.destroy();
    },
  );

  test("work memory keeps to workspaceBytes", async () => {
    const device = await openDevice();
    using witness = await FlashFFTConv.create({ length: 100, device });
    const [batch, channels, length, kernelLength] = [8, 16, 2048, 12];
    const x = upload(device, new Float32Array(batch * channels * length), [
      batch,
      channels,
      length,
    ]);
    const weight = upload(device, new Float32Array(channels * kernelLength), [
      channels,
      kernelLength,
    ]);
    const before = witness.memory().backendBytes;
    const used: number[] = [];
    for (const workspaceBytes of [undefined, 2 ** 20]) {
      using conv = await FlashDepthwiseConv1d.create({
        ...{ channels, kernelLength, activation: "silu", device },
        ...(workspaceBytes && { workspaceBytes }),
      });
      await conv.backward(x, x, weight);
      used.push(witness.memory().backendBytes - before);
      conv.dispose();
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    // Parameters of the steps come on top.
    expect(used[0]).toBeGreaterThan(2 ** 20);
    expect(used[1]).toBeLessThan(2 ** 20 + 65_536);
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
  // Batch items by themselves; then, where not all three thirds can be bound, one after the other.
  [projected, 4096],
  [projected, 1024],
  [{ ...projected, length: 700, batch: 1, state: false, padding: "same", dtype: "float16" }, 1024],
  [{ ...projected, layout: "BLH", length: 300, batch: 1, pregate: "first" }, 16384],
];

/** Cases as a GPU takes them, in long runs: the last ones short of a run, and all of them whole. */
const longRuns: readonly Partial<DepthwiseCase>[] = [
  { layout: "BLH", form: "linear", state: false, kernelLength: 3, length: 50 },
  { layout: "BLH", form: "linear", state: false, kernelLength: 5, length: 48, dtype: "float16" },
  { ...projected, layout: "BLH", state: false, length: 41 },
];

function typed(values: SampleArray): Float32ArrayConstructor {
  return values.constructor as Float32ArrayConstructor;
}

/** Forward and backward of a case under other limits than its device's. */
async function checkWith(c: DepthwiseCase, override: Partial<GpuLimits>): Promise<number> {
  const inputs = drawCase(c, 3);
  const device = await openDevice();
  const backend = await WebGpuBackend.open(device, "test");
  const limits = { ...backend.limits(2 ** 28), ...override };
  const order = c.pregate === "first" ? [0, 1, 2] : [1, 0, 2];
  const scheduler = new DepthwiseScheduler(inputs.problem, limits, order);
  const { batch, length, channels, kernelLength, bias, state } = c;
  const stateOut = state ? ("same" as const) : ("none" as const);
  const flags = { stateOut, dstateOut: false, offsets: {} };
  const call: DepthwiseGpuCall = { name: "test", batch, length, bias, state, ...flags };
  const { x, dy, weight, options } = inputs;
  const tensors = { x, dy: dy[0]!, dpostgate: dy[1], weight, ...options, stateOut: options.state };
  const run = <R extends Record<string, SampleArray>>(schedule: Schedule, results: R) =>
    runSchedule(backend, schedule, limits, tensors, results);
  const outputs = batch * channels * outputLengthOf(inputs.problem, length);
  const forward = scheduler.forward(call);
  const results = { y: new (typed(inputs.x))(outputs), postgate: new (typed(inputs.x))(outputs) };
  const before = inputs.options.state;
  const { y, postgate, ...after } = await run(forward, {
    ...results,
    ...(before && { state: before }),
  });
  checkOutputs(inputs, c.form === "projections" ? [y, postgate] : [y]);
  if (before) {
    const carried = (before as Float32Array).slice();
    carryState(inputs.problem, inputs.x, before, carried, batch, length);
    expectSameBits((after as { state: SampleArray }).state, carried, "state");
  }
  const gradients = await run(scheduler.backward(call), {
    dx: new (typed(inputs.x))(inputs.x.length),
    dweight: new Float32Array(packedOf(c) * kernelLength),
    dbias: new Float32Array(packedOf(c)),
    ...(state && { dstate: new (typed(inputs.x))(inputs.options.state!.length) }),
  });
  checkGradients(inputs, gradients);
  // Once more onto what is there: sums of float32 double, all else is written as before.
  const added = await run(scheduler.backward({ ...call, add: true }), gradients);
  const half = (sums: Float32Array): Float32Array => sums.map((v) => v / 2);
  const { dweight, dbias, ...samples } = added;
  checkGradients(inputs, { ...samples, dweight: half(dweight), dbias: half(dbias) });
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
