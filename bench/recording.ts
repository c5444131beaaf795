/**
 * What it costs to record calls in the middle of other work: on Dawn's null backend the processor's time a call; on a GPU,
 * twelve layers in one encoder beside the sum of what their calls take there.
 */
import type { GpuBufferBinding, GpuRecorder } from "../src/index.ts";
import { FlashFFTConv, FlashHyenaProjections } from "../src/index.ts";
import { appendRecords, round } from "./records.ts";

/** A layer's shape: Hyena's, as the issue of this bench has it. */
const shape = { batch: 8, channels: 768, length: 2048 } as const;
const dtype = "float16" as const;
const taps = 3;

/** One measurement; `bar` is what it may come to. */
export interface RecordingRecord {
  readonly case: string;
  readonly B: number;
  readonly H: number;
  readonly L: number;
  readonly dtype: string;
  readonly dispatches: number;
  /** Microseconds of the processor for `encode` into a pass that is open. */
  readonly encode_us?: number;
  /** The same into an encoder, which gets a pass. */
  readonly encoder_us?: number;
  /** The same for the promise of the public call with `encoder`. */
  readonly call_us?: number;
  readonly bar_us?: number;
  /** Milliseconds from an empty encoder to the end of its work on an idle GPU; per step of many in a row. */
  readonly step_ms?: number;
  readonly steps_ms?: number;
  /** Milliseconds of the processor for recording and submitting a step. */
  readonly record_ms?: number;
  /** Sum of what the step's calls take on the GPU. */
  readonly device_ms?: number;
  /** steps_ms / device_ms. */
  readonly ratio?: number;
  readonly adapter: string;
  readonly node: string;
}

type Ranges = Readonly<Record<string, GpuBufferBinding>>;

const storage = 0x8c;

/** Buffers of a device that are asked for by size, all given back at once. */
class Buffers {
  readonly #device: GPUDevice;
  readonly #made: GPUBuffer[] = [];

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  make(size: number): GPUBuffer {
    const buffer = this.#device.createBuffer({ size, usage: storage });
    this.#made.push(buffer);
    return buffer;
  }

  /** A buffer for each operand that `shared` does not have. */
  operands({ operands }: GpuRecorder, shared: Ranges): Ranges {
    const names = Object.entries(operands);
    return Object.fromEntries(
      names.map(([name, { bytes }]) => [name, shared[name] ?? { buffer: this.make(bytes) }]),
    );
  }

  free(): void {
    for (const buffer of this.#made) buffer.destroy();
  }
}

/** Work memory that serves all of some recorders. */
function scratchFor(recorders: readonly GpuRecorder[], buffers: Buffers): GPUBuffer[] {
  const most: number[] = [];
  for (const { scratchBytes } of recorders)
    scratchBytes.forEach((bytes, i) => {
      most[i] = Math.max(most[i] ?? 0, bytes);
    });
  return most.map((bytes) => buffers.make(bytes));
}

const common = { B: shape.batch, H: shape.channels, L: shape.length, dtype } as const;

/** Least microseconds of one `work` among so many, in rounds. */
async function leastMicroseconds(
  device: GPUDevice,
  rounds: number,
  work: (encoder: GPUCommandEncoder, pass: () => GPUComputePassEncoder) => void | Promise<void>,
): Promise<number> {
  const each = 200;
  let best = Number.POSITIVE_INFINITY;
  for (let r = 0; r < rounds; r++) {
    const encoder = device.createCommandEncoder();
    let open: GPUComputePassEncoder | undefined;
    const pass = () => {
      open ??= encoder.beginComputePass();
      return open;
    };
    const start = performance.now();
    for (let i = 0; i < each; i++) {
      const running = work(encoder, pass);
      if (running) await running;
    }
    best = Math.min(best, (1e3 * (performance.now() - start)) / each);
    open?.end();
    encoder.finish();
  }
  return best;
}

/** The processor's time on Dawn's null backend, which runs nothing. */
async function measureEncoding(rounds: number): Promise<RecordingRecord[]> {
  const { create, globals } = await import("webgpu");
  Object.assign(globalThis, globals);
  const gpu = create(["backend=null"]);
  const adapter = (await gpu.requestAdapter())!;
  const { limits } = adapter;
  const requiredLimits = {
    maxBufferSize: limits.maxBufferSize,
    maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
    maxStorageBuffersPerShaderStage: limits.maxStorageBuffersPerShaderStage,
  };
  const device = await adapter.requestDevice({ requiredLimits });
  const buffers = new Buffers(device);
  using conv = await FlashFFTConv.create({ ...shape, dtype, device });
  const options = { batch: shape.batch, channels: shape.channels, kernel: "spectrum" } as const;
  const forward = await conv.recorder("forward", options);
  const backward = await conv.recorder("backward", options);
  const scratch = scratchFor([forward, backward], buffers);
  const there = buffers.operands(forward, {});
  const back = buffers.operands(backward, there);
  const tensor = (name: string) => ({
    data: back[name]?.buffer ?? there[name]!.buffer,
    shape: name.endsWith("k")
      ? [shape.channels, shape.length]
      : [shape.batch, shape.channels, shape.length],
  });
  const k = { data: buffers.make(4 * shape.channels * shape.length), shape: [768, shape.length] };
  const kernel = await conv.prepareKernel(k);
  const calls = [
    {
      ...{ name: "forward", bar: 15, bound: forward.bind(there, scratch) },
      call: (encoder: GPUCommandEncoder) =>
        conv.forward(tensor("u"), kernel, { encoder, out: tensor("y") }),
    },
    {
      ...{ name: "backward", bar: 40, bound: backward.bind(back, scratch) },
      call: (encoder: GPUCommandEncoder) => {
        const out = { du: tensor("du"), dk: tensor("dk") };
        return conv.backward(tensor("dy"), tensor("u"), kernel, { encoder, out });
      },
    },
  ];
  const records: RecordingRecord[] = [];
  for (const { name, bar, bound, call } of calls) {
    const least = (work: Parameters<typeof leastMicroseconds>[2]) =>
      leastMicroseconds(device, rounds, work);
    const encode = await least((_, pass) => bound.encode(pass()));
    const encoder = await least((to) => bound.encode(to));
    const promise = await least(async (to) => void (await call(to)));
    await conv.submitted();
    records.push({
      ...{ case: `record ${name}`, ...common, dispatches: bound.dispatches },
      ...{ encode_us: round(encode), encoder_us: round(encoder), call_us: round(promise) },
      ...{ bar_us: bar, adapter: "Dawn's null backend", node: process.version },
    });
  }
  buffers.free();
  return records;
}

/** A call of a layer, bound. */
interface Recorded {
  readonly dispatches: number;
  encode(into: unknown): void;
}

/** Milliseconds until a device has done what is recorded, the recording included. */
async function stepMs(device: GPUDevice, encode: (to: GPUCommandEncoder) => void, steps = 1) {
  await device.queue.onSubmittedWorkDone();
  const start = performance.now();
  let recorded = 0;
  for (let i = 0; i < steps; i++) {
    const begin = performance.now();
    const encoder = device.createCommandEncoder();
    encode(encoder);
    device.queue.submit([encoder.finish()]);
    recorded += performance.now() - begin;
  }
  await device.queue.onSubmittedWorkDone();
  return { ms: (performance.now() - start) / steps, recordMs: recorded / steps };
}

function inOnePass(encoder: GPUCommandEncoder, calls: readonly Recorded[], times = 1): void {
  const pass = encoder.beginComputePass();
  for (let i = 0; i < times; i++) for (const call of calls) call.encode(pass);
  pass.end();
}

/** Twelve layers, forward and backward, on the GPU that the library opens. */
async function measureLayers(
  rounds: number,
  layers: number,
  rows: { readonly batch: number; readonly channels: number },
): Promise<RecordingRecord[]> {
  const { length } = shape;
  using conv = await FlashFFTConv.create({ ...rows, length, dtype, backend: "webgpu" });
  const device = conv.device!;
  using projections = await FlashHyenaProjections.create({
    ...{ channels: rows.channels, kernelLength: taps, dtype, device },
  });
  const convOptions = { ...rows, kernel: "spectrum", postgate: true, skip: true } as const;
  const shortOptions = { batch: rows.batch, length, bias: true } as const;
  const recorders = {
    prepare: await conv.recorder("prepareKernel", { channels: rows.channels }),
    projected: await projections.recorder("forward", shortOptions),
    convolved: await conv.recorder("forward", convOptions),
    back: await conv.recorder("backward", { ...convOptions, add: true }),
    gradients: await projections.recorder("backward", { ...shortOptions, add: true }),
  };
  const buffers = new Buffers(device);
  const scratch = scratchFor(Object.values(recorders), buffers);
  // Gradients of rows serve two layers by turns.
  const gradient = (name: string) => ({
    buffer: buffers.make(recorders.back.operands[name]!.bytes),
  });
  const gradients = [0, 1].map(() => ({
    ...{ dy: gradient("dy"), du: gradient("du"), dpostgate: gradient("dpostgate") },
  }));
  const dx = [0, 1].map(() => buffers.make(recorders.gradients.operands.dx!.bytes));
  const kinds: { name: string; calls: Recorded[] }[] = [
    ...["taps → spectrum", "projections", "convolution"].map((name) => ({ name, calls: [] })),
    ...["gradients of the convolution", "of the projections"].map((name) => ({ name, calls: [] })),
  ];
  for (let layer = 0; layer < layers; layer++) {
    const shared = gradients[layer % 2]!;
    const { prepare, projected, convolved, back, gradients: short } = recorders;
    const kernel = buffers.operands(prepare, {});
    const first = buffers.operands(projected, {});
    const own = { u: first.gated!, postgate: first.postgate!, spectrum: kernel.spectrum! };
    const second = buffers.operands(convolved, own);
    const sums = { dk: { buffer: buffers.make(back.operands.dk!.bytes) } };
    const third = buffers.operands(back, { ...second, ...shared, ...sums });
    const fourth = buffers.operands(short, {
      ...{ x: first.x!, weight: first.weight!, bias: first.bias!, dgated: shared.du },
      ...{ dpostgate: shared.dpostgate, dx: { buffer: dx[layer % 2]! } },
    });
    const pick = (from: Ranges, r: GpuRecorder): Ranges =>
      Object.fromEntries(Object.keys(r.operands).map((name) => [name, from[name]!]));
    const used = (r: GpuRecorder) => scratch.slice(0, r.scratchBytes.length);
    const bound = [
      prepare.bind(pick(kernel, prepare), used(prepare)),
      projected.bind(pick(first, projected), used(projected)),
      convolved.bind(pick(second, convolved), used(convolved)),
      back.bind(pick(third, back), used(back)),
      short.bind(pick(fourth, short), used(short)),
    ];
    for (const [i, { calls }] of kinds.entries()) calls.push(bound[i]!);
  }
  const [, projected, convolved, back, short] = kinds.map(({ calls }) => calls);
  const there = kinds[0]!.calls.flatMap((c, i) => [c, projected![i]!, convolved![i]!]);
  const backAgain = back!.flatMap((c, i) => [c, short![i]!]).reverse();
  const step = [...there, ...backAgain];
  const encoder = device.createCommandEncoder();
  inOnePass(encoder, step);
  await recorders.prepare.submit(encoder);
  const least = async (run: () => Promise<{ ms: number; recordMs: number }>) => {
    let [ms, recordMs] = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];
    for (let r = 0; r < rounds; r++) {
      const found = await run();
      ms = Math.min(ms, found.ms);
      recordMs = Math.min(recordMs, found.recordMs);
    }
    return { ms, recordMs };
  };
  // What a kind of call takes on the device: the difference of many times and a few, all layers' one after the other.
  let deviceMs = 0;
  for (const { name, calls } of kinds) {
    const timed = (times: number) =>
      least(() => stepMs(device, (to) => inOnePass(to, calls, times)));
    const [few, many] = [await timed(2), await timed(10)];
    const ms = (many.ms - few.ms) / 8;
    console.log(`${name}: ${ms.toFixed(3)} ms, ${calls[0]!.dispatches} dispatches a layer`);
    deviceMs += ms;
  }
  const one = await least(() => stepMs(device, (to) => inOnePass(to, step)));
  const many = await least(() => stepMs(device, (to) => inOnePass(to, step), 20));
  buffers.free();
  return [
    {
      ...{ case: `${layers} layers, forward and backward`, ...common },
      ...{ B: rows.batch, H: rows.channels },
      dispatches: step.reduce((sum, { dispatches }) => sum + dispatches, 0),
      ...{ step_ms: round(one.ms), steps_ms: round(many.ms), record_ms: round(many.recordMs) },
      ...{ device_ms: round(deviceMs), ratio: round(many.ms / deviceMs) },
      ...{ adapter: conv.explain().device.name, node: process.version },
    },
  ];
}

/** `npm run bench -- recording`: the processor's side, and with `--device` the GPU's too. */
export async function runRecording(
  quick: boolean,
  onDevice: boolean,
  json: string | undefined,
): Promise<void> {
  const report = (records: readonly RecordingRecord[]): void => {
    for (const r of records) console.log(JSON.stringify(r));
    if (json !== undefined) appendRecords(json, records);
  };
  report(await measureEncoding(quick ? 5 : 40));
  if (!onDevice) return;
  const { batch, channels } = quick ? { batch: 1, channels: 16 } : shape;
  report(await measureLayers(quick ? 1 : 7, quick ? 2 : 12, { batch, channels }));
}
