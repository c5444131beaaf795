/** Calls that are recorded in the middle of other work, on ranges of the caller's buffers, with work memory that the caller lends. */
import { describe, expect, test } from "vitest";
import type { Dtype, SampleArray } from "../../src/dtype.ts";
import {
  BackendError,
  FlashFFTConv,
  type FlashFFTConvOptions,
  type GpuBufferBinding,
  type GpuRecorder,
  InvalidArgumentError,
  UnsupportedError,
} from "../../src/index.ts";
import { onGpu } from "../support/backends.ts";
import { checkBackward, checkForward, drawInputs, type Inputs } from "../support/cases.ts";
import { expectClose, expectSameBits } from "../support/close.ts";
import { openAdapter, openDevice } from "../support/gpu.ts";
import { before, countCalls, lendScratch, onBuffers } from "../support/recording.ts";

type Conv = FlashFFTConv<Dtype>;

/** Both calls of an object as recorders of one shape. */
async function recordersOf(
  conv: Conv,
  inputs: Inputs,
  kernel: "taps" | "spectrum",
  add = false,
): Promise<{ forward: GpuRecorder; backward: GpuRecorder; prepare: GpuRecorder }> {
  const { batch, channels } = inputs.exact;
  const flags = Object.fromEntries(Object.keys(inputs.options).map((name) => [name, true]));
  const options = { batch, channels, kernel, ...flags };
  return {
    forward: await conv.recorder("forward", options),
    backward: await conv.recorder("backward", { ...options, add }),
    prepare: await conv.recorder("prepareKernel", { channels }),
  };
}

const like = (values: SampleArray, length = values.length): SampleArray =>
  new (values.constructor as Float32ArrayConstructor)(length);

/** Records the kernel's spectrum, both calls and their gradients, all into one pass, and holds the results to the bars. */
async function checkRecorded(
  options: FlashFFTConvOptions<Dtype>,
  shape: Parameters<typeof drawInputs>[1],
  kernel: "taps" | "spectrum",
): Promise<void> {
  const device = await openDevice();
  using conv = await FlashFFTConv.create({ ...options, device });
  const inputs = drawInputs(conv.problem, shape, 3);
  const { u, k, dy, options: operands } = inputs;
  const recorders = await recordersOf(conv, inputs, kernel);
  const { forward, backward, prepare } = recorders;
  const scratch = lendScratch(device, forward, backward, prepare);
  const kept = onBuffers(device, prepare, scratch(prepare), { k });
  const given = { ...{ u, dy, k, spectrum: kept.ranges.spectrum }, ...operands };
  const there = onBuffers(device, forward, scratch(forward), given);
  const back = onBuffers(device, backward, scratch(backward), { ...given, ...there.ranges });
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  for (const { bound } of [kept, there, back]) bound.encode(pass);
  pass.end();
  await forward.submit(encoder);
  const results = {
    explain: () => conv.explain(),
    forward: () => there.read("y", like(dy)),
    backward: async () => ({
      ...{ du: await back.read("du", like(u)), dk: await back.read("dk", like(k)) },
      ...(operands.pregate && { dpregate: await back.read("dpregate", like(u)) }),
      ...(operands.postgate && { dpostgate: await back.read("dpostgate", like(dy)) }),
      ...(operands.skip && { dskip: await back.read("dskip", like(operands.skip)) }),
    }),
  } as unknown as Conv;
  await checkForward(results, inputs);
  await checkBackward(results, inputs);
  device.destroy();
}

const everything = { batch: 2, channels: 3, pregate: true, postgate: true, skip: true };

describe.skipIf(!onGpu)("a recorded call gives what is right, at offsets", () => {
  test.each([
    ["float32, taps", { length: 100 }, "taps"],
    ["float16, a spectrum", { length: 100, dtype: "float16" }, "spectrum"],
    // Odd rows: a pair of halves shares its word with another row.
    ["float16, odd rows", { length: 33, kernelLength: 17, dtype: "float16" }, "taps"],
    ["the time domain", { length: 100, kernelLength: 9 }, "taps"],
    // Two passes: work memory in several buffers.
    ["two passes", { length: 256, plan: "halves 256: 4 /16 ×16 | 8·8 ×8" }, "taps"],
  ] as const)("%s", async (_, options, kernel) => {
    await checkRecorded(options, everything, kernel);
  });
});

describe.skipIf(!onGpu)("recorders", () => {
  test("of two objects, recorded in turns into one encoder without waiting", async () => {
    const device = await openDevice();
    using a = await FlashFFTConv.create({ length: 100, device });
    using b = await FlashFFTConv.create({ length: 40, kernelLength: 20, device });
    const cases = [a, b].map((conv, i) => ({
      conv,
      inputs: drawInputs(conv.problem, everything, 5 + i),
    }));
    const all = [];
    for (const { conv, inputs } of cases)
      all.push({ conv, inputs, ...(await recordersOf(conv, inputs, "taps")) });
    const scratch = lendScratch(
      device,
      ...all.flatMap(({ forward, backward }) => [forward, backward]),
    );
    const bound = all.map(({ inputs, forward, backward }) => {
      const { u, k, dy, options } = inputs;
      const there = onBuffers(device, forward, scratch(forward), { u, k, ...options });
      const back = onBuffers(device, backward, scratch(backward), { dy, ...there.ranges });
      return { there, back };
    });
    const encoder = device.createCommandEncoder();
    for (const { there } of bound) there.bound.encode(encoder);
    for (const { back } of bound) back.bound.encode(encoder);
    for (const { there } of bound) there.bound.encode(encoder);
    await all[0]!.forward.submit(encoder);
    for (const [i, { conv, inputs }] of cases.entries()) {
      const { there, back } = bound[i]!;
      const { u, k, dy, options } = inputs;
      const results = {
        explain: () => conv.explain(),
        forward: () => there.read("y", dy),
        backward: async () => ({
          ...{ du: await back.read("du", u), dk: await back.read("dk", k) },
          ...{
            dpregate: await back.read("dpregate", u),
            dskip: await back.read("dskip", options.skip!),
          },
          dpostgate: await back.read("dpostgate", dy),
        }),
      } as unknown as Conv;
      await checkForward(results, inputs);
      await checkBackward(results, inputs);
    }
    device.destroy();
  });

  test("add sums to what is there, and write rows", async () => {
    const device = await openDevice();
    for (const options of [{ length: 100 }, { length: 100, kernelLength: 9 }]) {
      using conv = await FlashFFTConv.create({ ...options, device });
      const inputs = drawInputs(conv.problem, everything, 7);
      const { u, k, dy, options: operands } = inputs;
      const { backward } = await recordersOf(conv, inputs, "taps", true);
      expect(backward.operands.dk!.access).toBe("read-write");
      expect(backward.operands.du!.access).toBe("write");
      const scratch = lendScratch(device, backward);
      const start = { dk: k.map((x) => 3 * x), dskip: Float32Array.of(10, 20, 30), du: u };
      const given = { dy, u, k, ...operands, ...start };
      const { bound, read } = onBuffers(device, backward, scratch(backward), given);
      const encoder = device.createCommandEncoder();
      bound.encode(encoder);
      bound.encode(encoder);
      await backward.submit(encoder);
      const exact = inputs.gradients();
      const twice = (name: "dk" | "dskip") => exact[name]!.map((x, i) => 2 * x + start[name][i]!);
      const rule = { rowLength: k.length, bound: 3e-6 };
      expectClose(await read("dk", k), twice("dk"), { ...rule, name: "dk" });
      const skips = { rowLength: 3, bound: 3e-6, name: "dskip" };
      expectClose(await read("dskip", operands.skip!), twice("dskip"), skips);
      expectClose(await read("du", u as Float32Array), exact.du, { rowLength: 100, bound: 3e-6 });
    }
    device.destroy();
  });

  test("of gradients whose results share a buffer, and of a hundred shapes in rotation", async () => {
    const device = await openDevice();
    using conv = await FlashFFTConv.create({ length: 24, device });
    const shapes = Array.from({ length: 100 }, (_, i) => ({
      batch: 1 + (i % 10),
      channels: 1 + Math.floor(i / 10),
    }));
    const all = [];
    for (const shape of shapes) {
      const inputs = drawInputs(conv.problem, shape, 11);
      const backward = await conv.recorder("backward", shape);
      const { du, dk } = backward.operands;
      const apart = Math.ceil(du!.bytes / 256) * 256;
      const buffer = device.createBuffer({ size: before + apart + dk!.bytes, usage: 0x8c });
      const out = { du: { buffer, offset: before }, dk: { buffer, offset: before + apart } };
      all.push({ inputs, backward, out });
    }
    const scratch = lendScratch(device, ...all.map(({ backward }) => backward));
    const bound = all.map(({ inputs: { dy, u, k }, backward, out }) =>
      onBuffers(device, backward, scratch(backward), { dy, u, k, ...out }),
    );
    const held = conv.memory().backendBytes;
    for (let turn = 0; turn < 3; turn++) {
      const encoder = device.createCommandEncoder();
      for (const { bound: each } of bound) each.encode(encoder);
      await all[0]!.backward.submit(encoder);
    }
    expect(conv.memory().backendBytes).toBe(held);
    for (const [i, { inputs }] of all.entries()) {
      const { read } = bound[i]!;
      const { u, k } = inputs;
      const results = {
        explain: () => conv.explain(),
        backward: async () => ({ du: await read("du", u), dk: await read("dk", k) }),
      } as unknown as Conv;
      await checkBackward(results, inputs);
    }
    device.destroy();
  });

  test("record 10,000 steps without making or keeping anything", async () => {
    const device = await openDevice();
    using conv = await FlashFFTConv.create({ length: 16, device });
    const inputs = drawInputs(conv.problem, { batch: 2, channels: 2, skip: true }, 13);
    const { u, k, dy, options } = inputs;
    const { prepare, forward, backward } = await recordersOf(conv, inputs, "spectrum", true);
    const scratch = lendScratch(device, prepare, forward, backward);
    const kept = onBuffers(device, prepare, scratch(prepare), { k });
    const given = { u, spectrum: kept.ranges.spectrum, ...options };
    const there = onBuffers(device, forward, scratch(forward), given);
    const back = onBuffers(device, backward, scratch(backward), { dy, ...there.ranges });
    const held = conv.memory().backendBytes;
    const count = countCalls(device, "createBuffer", "createBindGroup", "pushErrorScope");
    for (let i = 0; i < 100; i++) {
      const encoder = device.createCommandEncoder();
      if (i === 0) kept.bound.encode(encoder);
      for (const sums of ["dk", "dskip"] as const)
        encoder.clearBuffer(back.ranges[sums]!.buffer as GPUBuffer);
      const pass = encoder.beginComputePass();
      for (let step = 0; step < 100; step++) {
        there.bound.encode(pass);
        back.bound.encode(pass);
      }
      pass.end();
      device.queue.submit([encoder.finish()]);
      await device.queue.onSubmittedWorkDone();
    }
    expect(count.made()).toBe(0);
    count.undo();
    expect(conv.memory().backendBytes).toBe(held);
    expectClose(await there.read("y", dy), inputs.y(), { rowLength: dy.length, bound: 1e-6 });
    // One of the last hundred steps that is missing, or counted twice, is 1e-2 of their sum.
    const exact = inputs.gradients();
    const all = (values: Float64Array) => values.map((x) => 100 * x);
    const rule = { rowLength: k.length, bound: 1e-5 };
    expectClose(await back.read("dk", k), all(exact.dk), rule);
    const skips = { rowLength: 2, bound: 1e-5 };
    expectClose(await back.read("dskip", options.skip!), all(exact.dskip!), skips);
    device.destroy();
  });

  test("leave the object's own calls alone, which remember the shapes used last", async () => {
    const device = await openDevice();
    using conv = await FlashFFTConv.create({ length: 24, device });
    const often = drawInputs(conv.problem, { batch: 3, channels: 2 }, 17);
    const y = await checkForward(conv, often);
    let held = 0;
    for (let i = 0; i < 300; i++) {
      const batch = 4 + (i % 150);
      const u = new Float32Array(batch * 24);
      await conv.forward(u, often.k.subarray(0, 24));
      const prepare = countCalls(device, "createBuffer");
      expectSameBits(await conv.forward(often.u as Float32Array, often.k), y);
      // What is read goes by way of a buffer; the schedule's parameters are still there.
      expect(prepare.made()).toBe(1);
      prepare.undo();
      if (i === 149) held = conv.memory().backendBytes;
    }
    expect(conv.memory().backendBytes).toBe(held);
    device.destroy();
  });
});

describe.skipIf(!onGpu)("refusals", () => {
  const shape = { batch: 2, channels: 3 };

  async function bindable() {
    const device = await openDevice();
    const conv = await FlashFFTConv.create({ length: 100, device });
    const forward = await conv.recorder("forward", { ...shape, kernel: "taps" });
    const make = (size: number, usage = 0x8c) => device.createBuffer({ size, usage });
    const [u, k, y] = [make(4096), make(4096), make(4096)];
    const ranges = { u: { buffer: u }, k: { buffer: k }, y: { buffer: y } };
    const scratch = lendScratch(device, forward)(forward);
    return { device, conv, forward, make, ranges, scratch };
  }

  test("name what is wrong with ranges", async () => {
    const { device, forward, make, ranges, scratch } = await bindable();
    const { buffer } = ranges.u;
    expect(forward.operands).toEqual({
      u: { bytes: 2400, access: "read" },
      k: { bytes: 1200, access: "read" },
      y: { bytes: 2400, access: "write" },
    });
    const cases: [object, RegExp][] = [
      [{ u: { buffer, offset: 128 } }, /offset of u must be a multiple of 256 bytes/],
      [{ u: { buffer, offset: -256 } }, /offset of u must be a multiple of 256/],
      [{ u: { buffer, offset: 2048 } }, /range of u must have 2,400 bytes.*got 2,048/],
      [{ u: { buffer, ofset: 256 } }, /u may have buffer, offset, size; got "ofset"/],
      [{ u: { buffer, size: 2396 } }, /range of u must have 2,400 bytes.*got 2,396/],
      [{ u: undefined }, /u needs \{ buffer \} with a GPUBuffer; got undefined/],
      [{ u: buffer }, /u needs \{ buffer \}/],
      [{ u: { buffer: make(4096, 0x8) } }, /buffer of u must have GPUBufferUsage.STORAGE/],
      [{ y: ranges.u }, /y must not overlap u/],
      [{ y: { buffer: make(8192), offset: 4096 }, u: undefined }, /u needs/],
      [{ v: ranges.u }, /ranges may have u, k, y; got "v"/],
    ];
    for (const [wrong, message] of cases) {
      const bind = () => forward.bind({ ...ranges, ...wrong } as typeof ranges, scratch);
      expect(bind).toThrow(InvalidArgumentError);
      expect(bind).toThrow(message);
    }
    const wide = make(8192);
    const beside = { ...ranges, u: { buffer: wide }, y: { buffer: wide, offset: 4096 } };
    expect(() => forward.bind(beside, scratch)).toThrow(/y must not share a buffer with u/);
    expect(() => forward.bind(undefined as never, scratch)).toThrow(/ranges must be an object/);
    device.destroy();
  });

  test("name what is wrong with work memory", async () => {
    const device = await openDevice();
    using conv = await FlashFFTConv.create({ length: 100, device });
    const backward = await conv.recorder("backward", shape);
    const sizes = backward.scratchBytes;
    expect(sizes.length).toBeGreaterThan(1);
    const make = (size: number) => device.createBuffer({ size, usage: 0x80 });
    const ranges = Object.fromEntries(
      Object.entries(backward.operands).map(([name, { bytes }]): [string, GpuBufferBinding] => [
        name,
        { buffer: make(bytes + 65_536) },
      ]),
    );
    const enough = sizes.map((size) => make(size));
    backward.bind(ranges, enough);
    const cases: [readonly GPUBuffer[], RegExp][] = [
      [[], /scratch 0 needs \{ buffer \}/],
      [[sizes[0] as never], /scratch 0 needs \{ buffer \}/],
      [null as never, /scratch 0 needs \{ buffer \}/],
      [[make(sizes[0]! - 256), ...enough.slice(1)], /range of scratch 0 must have/],
      [[enough[0]!, enough[0]!, ...enough.slice(2)], /scratch 1 must not overlap scratch 0/],
      [[ranges.u!.buffer as GPUBuffer, ...enough.slice(1)], /scratch 0 must not overlap u/],
    ];
    for (const [scratch, message] of cases) {
      const wrong = () => backward.bind(ranges, scratch);
      expect(wrong).toThrow(InvalidArgumentError);
      expect(wrong).toThrow(message);
    }
    device.destroy();
  });

  test("name what is wrong with options, encoders and objects that have ended", async () => {
    const { device, conv, forward, ranges, scratch } = await bindable();
    const cases: [string, object, RegExp][] = [
      ["sideways", shape, /the recorded call must be/],
      ["forward", { channels: 3 }, /batch must be an integer/],
      ["forward", { ...shape, add: true }, /options may have channels, batch, kernel/],
      ["prepareKernel", shape, /options may have channels; got "batch"/],
      ["forward", { ...shape, kernel: "fft" }, /kernel must be/],
      ["backward", { ...shape, add: 1 }, /add must be true or false/],
    ];
    for (const [way, options, message] of cases) {
      const made = conv.recorder(way as "forward", options as typeof shape);
      await expect(made).rejects.toThrow(InvalidArgumentError);
      await expect(made).rejects.toThrow(message);
    }
    using full = await FlashFFTConv.create({ length: 100, mode: "full", device });
    const skip = full.recorder("forward", { ...shape, skip: true });
    await expect(skip).rejects.toThrow(/skip needs outputs as long as the inputs/);
    // Nothing is planned for tensors that no buffer holds: a schedule would be as long.
    const large = conv.recorder("forward", { batch: 2 ** 31, channels: 2 ** 31 });
    await expect(large).rejects.toThrow(BackendError);
    await expect(large).rejects.toThrow(/conv\.recorder: tensors .* fit one buffer/);
    const bound = forward.bind(ranges, scratch);
    expect(() => bound.encode({} as never)).toThrow(/into must be a GPUCommandEncoder/);
    await expect(forward.submit(5 as never)).rejects.toThrow(/encoder must be a GPUCommandEncoder/);
    const other = await conv.recorder("forward", shape);
    other.dispose();
    expect(() => other.bind(ranges, scratch)).toThrow(/a recorder that has not been disposed/);
    conv.dispose();
    const encoder = device.createCommandEncoder();
    for (const late of [() => bound.encode(encoder), () => forward.bind(ranges, scratch)]) {
      expect(late).toThrow(InvalidArgumentError);
      expect(late).toThrow(/that has not been disposed/);
    }
    const ended = conv.recorder("forward", shape);
    await expect(ended).rejects.toThrow(/that has not been disposed/);
    device.destroy();
  });

  test("name buffers of another device and passes that have ended when the commands are submitted", async () => {
    const { device, forward, ranges, scratch } = await bindable();
    const stranger = await (await openAdapter()).requestDevice();
    const foreign = { buffer: stranger.createBuffer({ size: 4096, usage: 0x8c }) };
    const bound = forward.bind({ ...ranges, u: foreign }, scratch);
    const encoder = device.createCommandEncoder();
    bound.encode(encoder);
    const submitted = forward.submit(encoder);
    await expect(submitted).rejects.toThrow(BackendError);
    await expect(submitted).rejects.toThrow(/buffers and encoder are of conv\.device/);
    const late = device.createCommandEncoder();
    const pass = late.beginComputePass();
    pass.end();
    const right = forward.bind(ranges, scratch);
    right.encode(pass);
    await expect(forward.submit(late)).rejects.toThrow(BackendError);
    const good = device.createCommandEncoder();
    right.encode(good);
    await forward.submit(good);
    for (const d of [device, stranger]) d.destroy();
  });
});

test("calls on the CPU are not recorded", async () => {
  using conv = await FlashFFTConv.create({ length: 16, backend: "cpu", threads: 1 });
  const made = conv.recorder("forward", { batch: 1, channels: 1 });
  await expect(made).rejects.toThrow(UnsupportedError);
  await expect(made).rejects.toThrow(/conv\.recorder.*recorded on a GPU.*backend: 'webgpu'/s);
});
