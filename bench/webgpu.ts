/**
 * `npm run bench -- webgpu`: the convolution on a GPU, device time of a forward or backward call with everything in GPU
 * buffers, the spectrum of k included, against the time that its tensors need to be copied once, and against PyTorch and
 * flash-fft-conv where they are there. The work is the paper's, B·H = 49,152 rows, cut where tensors would grow too
 * large; `scaled_ms` says what all rows would take.
 */
import { planOf } from "../src/cli/accuracy.ts";
import { type Dtype, decode, encode } from "../src/dtype.ts";
import { FlashFFTConv, type GpuTensor, sparsifyKernel } from "../src/index.ts";
import { oracleForward, relativeError } from "../src/math/oracle.ts";
import type { FrequencyBlocks } from "../src/plan/frequencies.ts";
import { createProblem, type Problem } from "../src/plan/problem.ts";
import { readBytes, timedSubmission } from "./gpu-device.ts";
import { round } from "./records.ts";
import type { TorchCase, TorchGpu } from "./torch-gpu.ts";

/** What a kernel of few taps or frequencies is compared with: ours, with all of them. */
export const wholeKernel = "ours, whole kernel";

/** Rows of the paper's benchmark. */
const allRows = 49_152;

/** A record: one line of JSON. Times are medians over the rounds; `ratio` is how many times faster ours is. */
export interface GpuRecord {
  readonly case: string;
  readonly mode: string;
  readonly pass: "forward" | "backward";
  readonly gated: boolean;
  readonly B: number;
  readonly H: number;
  readonly L: number;
  readonly K: number;
  /** Length of the transform that peers take. */
  readonly N: number;
  readonly dtype: string;
  readonly ours_ms: number;
  readonly ours_min_ms: number;
  readonly scaled_ms: number;
  readonly floor_ms: number;
  readonly over_floor: number;
  readonly copy_gb_per_s: number;
  readonly peer: string | null;
  readonly peer_ms: number | null;
  readonly peer_rel_error: number | null;
  readonly peer_workspace_bytes: number | null;
  readonly ratio: number | null;
  readonly rel_error: number;
  readonly plan: string;
  readonly predicted_ms: number;
  readonly workspace_bytes: number;
  readonly rounds: number;
  readonly adapter: string;
  readonly node: string;
}

/** One measurement to take. */
export interface GpuCase {
  readonly mode: "causal" | "circular";
  readonly pass: "forward" | "backward";
  readonly N: number;
  readonly gated: boolean;
  readonly dtype: Dtype;
  readonly plan?: string;
  /** Taps, where they are fewer than the samples of a row. */
  readonly kernelLength?: number;
  /** Frequencies that the kernel keeps. */
  readonly frequencies?: FrequencyBlocks;
  /** B and H, where they are not those of the paper's benchmark. */
  readonly rows?: { readonly B: number; readonly H: number };
}

const lengths = [8, 10, 12, 13, 14, 15, 16, 17, 18, 20, 22].map((e) => 2 ** e);

/** All cases; quick ones are every other length, half precision alone. */
export function gpuCases(quick: boolean): GpuCase[] {
  const chosen = lengths.filter((_, i) => !quick || i % 3 === 1);
  return chosen.flatMap((N) => {
    const half = { N, dtype: "float16" } as const;
    const cases: GpuCase[] = [
      { ...half, mode: "causal", pass: "forward", gated: true },
      { ...half, mode: "causal", pass: "forward", gated: false },
      { ...half, mode: "circular", pass: "forward", gated: true },
      { ...half, mode: "causal", pass: "backward", gated: true },
      { N, dtype: "float32", mode: "causal", pass: "forward", gated: true },
    ];
    return quick ? cases.slice(0, 1) : cases;
  });
}

/** Kernels shorter than the input, beside kernels as long as it; then one kernel on ever longer inputs. */
export function gpuPartialCases(): GpuCase[] {
  const causal = { mode: "causal", pass: "forward", gated: true, dtype: "float16" } as const;
  const shorter = [14, 12, 10, 8].map((e) => ({ ...causal, N: 2 ** 17, kernelLength: 2 ** e }));
  const rows = { B: 1, H: 32 };
  const longer = [16, 18, 20, 22].map((e) => ({
    ...{ ...causal, N: 2 ** (e + 1), kernelLength: 1024, rows },
  }));
  const million = [21, 23].map((e) => ({ ...causal, N: 2 ** e, kernelLength: 2 ** 20, rows }));
  return [...shorter, { ...shorter[2]!, pass: "backward" }, ...longer, ...million];
}

/** Masked frequencies, beside all of them: 75 % and 91 % zero, in blocks of the paper's kind. */
export function gpuSparseCases(): GpuCase[] {
  const half = { gated: true, dtype: "float16" } as const;
  const patterns: [number, number[][]][] = [
    [
      16,
      [
        [8, 8, 0, 0],
        [8, 8, 8, 4],
      ],
    ],
    [
      32,
      [
        [16, 16, 0, 0],
        [16, 16, 16, 8],
      ],
    ],
  ];
  return patterns.flatMap(([n, droppings]) =>
    droppings.flatMap((dropped) => {
      const masked = { ...half, N: n ** 4, frequencies: { digits: [n, n, n, n], dropped } };
      return [
        { ...masked, mode: "circular", pass: "forward" },
        { ...masked, mode: "causal", pass: "forward" },
        { ...masked, mode: "circular", pass: "backward" },
      ] as const;
    }),
  );
}

export function caseName(c: GpuCase): string {
  const { mode, pass, N, gated, dtype, kernelLength, frequencies } = c;
  const taps = kernelLength ? ` K=${kernelLength}` : "";
  const kept = frequencies ? ` dropped=${frequencies.dropped.join()}` : "";
  return `${mode} ${pass} N=${N}${taps}${kept} ${dtype}${gated ? " gated" : ""}`;
}

/** B and H, as the paper's benchmark cuts them. */
function rowsOf(N: number): { B: number; H: number } {
  const B = N <= 8192 ? 64 : Math.max(8, (64 * 8192) / N);
  const H = N <= 65_536 ? 768 : Math.max(16, (768 * 65_536) / N);
  return { B, H };
}

/** Work before anything is timed. */
const wakingMs = 300;

const usage = 0x80 | 0x8 | 0x4;

/** Samples of unit scale that repeat after 2^20: long enough for no length to see them again in a row's window of cache. */
function samples(count: number): Float64Array {
  let state = 12_345;
  const uniform = (): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32 - 0.5;
  };
  return Float64Array.from(
    { length: count },
    () => 1.7 * (uniform() + uniform() + uniform() + uniform()),
  );
}

const pool = samples(2 ** 20);
const stored = new Map<Dtype, Float32Array | Uint16Array>();

/** Samples that tensors are filled with, again and again. */
export function storedPool(dtype: Dtype): Float32Array | Uint16Array {
  let values = stored.get(dtype);
  if (!values) {
    values = encode(pool, dtype);
    stored.set(dtype, values);
  }
  return values;
}

/** A buffer of samples. */
export function fill(device: GPUDevice, shape: readonly number[], dtype: Dtype): GpuTensor {
  const values = storedPool(dtype);
  const count = shape.reduce((a, b) => a * b, 1);
  const each = values.BYTES_PER_ELEMENT;
  const data = device.createBuffer({ size: Math.ceil((count * each) / 16) * 16, usage });
  const first = values.subarray(0, Math.min(values.length, count));
  device.queue.writeBuffer(data, 0, first as Float32Array<ArrayBuffer>);
  const staging = device.createBuffer({ size: first.byteLength, usage });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(data, 0, staging, 0, first.byteLength);
  for (let at = values.length; at < count; at += values.length) {
    const bytes = Math.min(values.length, count - at) * each;
    encoder.copyBufferToBuffer(staging, 0, data, at * each, bytes);
  }
  device.queue.submit([encoder.finish()]);
  staging.destroy();
  return { data, shape };
}

const destroy = (t: GpuTensor): void => (t.data as GPUBuffer).destroy();

async function readRow(device: GPUDevice, tensor: GpuTensor, dtype: Dtype): Promise<Float64Array> {
  const width = tensor.shape.at(-1)!;
  const bytes = Math.ceil((width * storedPool(dtype).BYTES_PER_ELEMENT) / 4) * 4;
  const copy = await readBytes(device, tensor.data as GPUBuffer, bytes);
  const values = dtype === "float32" ? new Float32Array(copy) : new Uint16Array(copy);
  return decode(values.subarray(0, width), dtype);
}

export const median = (sorted: readonly number[]): number => sorted[sorted.length >> 1]!;

/**
 * Milliseconds of the device for one call: a submission of 1 + n calls less one of a single call, over n, sorted; n is such
 * that a submission takes a tenth of a second or so.
 */
export async function deviceTimes(
  device: GPUDevice,
  record: (encoder: GPUCommandEncoder) => Promise<unknown>,
  rounds: number,
): Promise<number[]> {
  const submit = async (calls: number): Promise<number> => {
    const encoder = device.createCommandEncoder();
    for (let i = 0; i < calls; i++) await record(encoder);
    return timedSubmission(device, encoder);
  };
  // An idle GPU runs at a fraction of its clock: an H200 takes a quarter of a second of work to wake up.
  for (const start = performance.now(); performance.now() - start < wakingMs; ) await submit(4);
  const one = Math.min(await submit(1), await submit(1));
  const calls = Math.max(2, Math.min(40, Math.round(100 / one)));
  const times: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const single = Math.min(await submit(1), await submit(1));
    times.push(((await submit(1 + calls)) - single) / calls);
  }
  return times.sort((a, b) => a - b);
}

/** Bytes a second of a copy on the device, read and written counted. */
export async function copyBandwidth(device: GPUDevice, bytes: number): Promise<number> {
  const buffers = [0, 1].map(() => device.createBuffer({ size: bytes, usage }));
  const code = `@group(0) @binding(0) var<storage, read> a: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> b: array<vec4u>;
@compute @workgroup_size(256) fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) n: vec3u) {
  let i = id.y * n.x * 256u + id.x;
  b[i] = a[i];
}`;
  const module = device.createShaderModule({ code });
  const pipeline = await device.createComputePipelineAsync({
    layout: "auto",
    compute: { module, entryPoint: "main" },
  });
  const entries = buffers.map((buffer, binding) => ({ binding, resource: { buffer } }));
  const group = device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
  const groups = bytes / 16 / 256;
  const times = await deviceTimes(
    device,
    async (encoder) => {
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(Math.min(groups, 32_768), Math.max(1, groups / 32_768));
      pass.end();
    },
    5,
  );
  for (const b of buffers) b.destroy();
  return (2 * bytes) / (times[0]! / 1e3);
}

/** What all cases of a run share. */
export interface GpuRun {
  readonly device: GPUDevice;
  readonly bandwidth: number;
  readonly torch: TorchGpu | string;
  readonly rounds: number;
  readonly adapter: string;
  /** Fewer rows, for adapters and runs that are only to show that everything works. */
  readonly mostBytes: number;
}

/** Measure one case: ours, then each peer, and the records of it. */
export async function runGpuCase(c: GpuCase, run: GpuRun): Promise<GpuRecord[]> {
  const { device, rounds } = run;
  const { mode, N, dtype, gated } = c;
  const L = mode === "causal" ? N / 2 : N;
  const each = dtype === "float32" ? 4 : 2;
  const K = c.kernelLength ?? L;
  const most = c.rows ?? rowsOf(N);
  const B = Math.max(1, Math.min(most.B, Math.floor(run.mostBytes / (most.H * L * each))));
  const H = B > 1 ? most.H : Math.max(1, Math.min(most.H, Math.floor(run.mostBytes / (L * each))));
  const shape = [B, H, L];
  const options = { mode, length: L, dtype, device, batch: B, channels: H } as const;
  using conv = await FlashFFTConv.create({
    ...{ ...options, kernelLength: K },
    ...(c.frequencies && { frequencies: c.frequencies }),
    ...(c.plan && { plan: c.plan }),
  });
  const tensors: Record<string, GpuTensor> = {
    u: fill(device, shape, dtype),
    k: fill(device, [H, L], "float32"),
    y: fill(device, shape, dtype),
    ...(gated && { pregate: fill(device, shape, dtype), postgate: fill(device, shape, dtype) }),
  };
  const { u, k, y, pregate, postgate } = tensors as Record<"u" | "k" | "y", GpuTensor> &
    Partial<Record<string, GpuTensor>>;
  try {
    await conv.forward(u, { ...k, shape: [H, K] }, { pregate, postgate, out: y });
    const rel = await checkRow(conv, device, { y, gated, dtype, L });
    const taps = { ...k, shape: [H, K] };
    let call = (
      of: FlashFFTConv,
      kernel: GpuTensor,
      encoder: GPUCommandEncoder,
    ): Promise<unknown> => of.forward(u, kernel, { pregate, postgate, out: y, encoder });
    if (c.pass === "backward") {
      const dk = fill(device, [H, L], "float32");
      const out: Record<string, GpuTensor> = { du: y };
      if (gated) for (const g of ["dpregate", "dpostgate"]) out[g] = fill(device, shape, dtype);
      const dy = fill(device, shape, dtype);
      Object.assign(tensors, { dy, dk, a: out.dpregate ?? dy, b: out.dpostgate ?? dy });
      call = (of, kernel, encoder) => {
        const all = { ...out, dk: { ...dk, shape: kernel.shape } };
        return of.backward(dy, u, kernel, { pregate, postgate, out: all, encoder });
      };
    }
    const times = await deviceTimes(device, (encoder) => call(conv, taps, encoder), rounds);
    const touched = (c.pass === "forward" ? (gated ? 4 : 2) : gated ? 7 : 3) * B * H * L * each;
    const ms = median(times);
    const floor = (touched / run.bandwidth) * 1e3;
    const ours = {
      ...{ case: caseName(c), mode, pass: c.pass, gated, B, H, L, K, N, dtype },
      ...{ ours_ms: round(ms), ours_min_ms: round(times[0]!) },
      scaled_ms: round((ms * allRows) / (B * H)),
      ...{ floor_ms: round(floor), over_floor: round(ms / floor) },
      copy_gb_per_s: round(run.bandwidth / 1e9),
      ...{ rel_error: round(rel), plan: planOf(c.pass === "forward" ? "y" : "du", conv.explain()) },
      predicted_ms: round(conv.explain().chosen.predictedMs),
      workspace_bytes: conv.memory().workspaceBytes,
      ...{ rounds, adapter: run.adapter, node: process.version },
    };
    const alone = {
      ...ours,
      peer: null,
      peer_ms: null,
      peer_rel_error: null,
      peer_workspace_bytes: null,
      ratio: null,
    };
    if (c.kernelLength || c.frequencies) {
      using whole = await FlashFFTConv.create(options);
      await whole.forward(u, k, { pregate, postgate, out: y });
      const wholeError = await checkRow(whole, device, { y, gated, dtype, L });
      const wholeTimes = await deviceTimes(device, (encoder) => call(whole, k, encoder), rounds);
      const wholeMs = median(wholeTimes);
      const peer = {
        peer: wholeKernel,
        peer_ms: round(wholeMs),
        ratio: round(wholeMs / ms),
      };
      const peerBytes = whole.memory().workspaceBytes;
      const compared = { peer_rel_error: round(wholeError), peer_workspace_bytes: peerBytes };
      return [{ ...ours, ...peer, ...compared }];
    }
    if (typeof run.torch === "string") return [alone];
    const records: GpuRecord[] = [];
    const peers =
      dtype === "float32" ? (["rfft"] as const) : (["fft", "rfft", "flash-fft-conv"] as const);
    for (const peer of peers) {
      const request: TorchCase = { peer, B, H, L, N, dtype, gated, pass: c.pass, rounds };
      const answer = await run.torch.measure(request);
      if (!answer.ms) continue;
      const peerMs = median(answer.ms);
      records.push({
        ...{ ...ours, peer, peer_ms: round(peerMs), peer_rel_error: round(answer.error!) },
        peer_workspace_bytes: answer.bytes ?? null,
        ratio: round(peerMs / ms),
      });
    }
    return records.length > 0 ? records : [alone];
  } finally {
    for (const t of new Set(Object.values(tensors))) destroy(t);
  }
}

/** Wrong answers have no speed. */
const largestError = { float32: 1e-5, float16: 2e-3, bfloat16: 1e-2 } as const;

/** Exact rows by what they depend on: several cases share one. */
const oracles = new Map<string, Float64Array>();

/** The first row against float64: all its tensors begin with the pool's first samples. */
async function checkRow(
  conv: FlashFFTConv,
  device: GPUDevice,
  { y, gated, dtype, L }: { y: GpuTensor; gated: boolean; dtype: Dtype; L: number },
): Promise<number> {
  const { problem } = conv;
  const { kernelLength: K, frequencies } = problem;
  const repeated = (from: ArrayLike<number>, count: number): Float64Array =>
    Float64Array.from({ length: count }, (_, i) => from[i % pool.length]!);
  const x = repeated(decode(storedPool(dtype), dtype), L);
  const key = `${problem.mode} ${L} ${K} ${JSON.stringify(frequencies)} ${dtype} ${gated}`;
  let exact = oracles.get(key);
  if (!exact) {
    const k = repeated(storedPool("float32"), K);
    exact = oracleForward(frequencies ? circularOver(problem) : problem, {
      ...{ batch: 1, channels: 1, u: x, k: frequencies ? masked(problem, k) : k },
      ...(gated && { pregate: x, postgate: x }),
    });
    oracles.set(key, exact);
  }
  const rel = relativeError(Float32Array.from(await readRow(device, y, dtype)), exact);
  if (rel < largestError[dtype]) return rel;
  throw new Error(`the answer is wrong, relative error ${rel}, plan ${conv.explain().chosen.plan}`);
}

/** The dense convolution that one with frequencies is by its masked kernel. */
function circularOver({ length, frequencies }: Problem): Problem {
  const { period } = frequencies!;
  const options = { mode: "circular", length, kernelLength: period, period } as const;
  return createProblem(options, "bench");
}

/** That kernel. */
function masked({ mode, length, frequencies }: Problem, k: Float64Array): Float64Array {
  const kernelLength = k.length;
  const { taps } = sparsifyKernel(Float32Array.from(k), {
    ...{ mode, length, kernelLength, frequencies: frequencies! },
  });
  return Float64Array.from(taps);
}
