/**
 * `npm run bench -- webgpu`: the convolution on a GPU, device time of a forward or backward call with everything in GPU
 * buffers, the spectrum of k included, against the time that its tensors need to be copied once, and against PyTorch,
 * flash-fft-conv and ThunderKittens where they are there. The work is the paper's, B·H = 49,152 rows, cut where tensors would grow too
 * large; `scaled_ms` says what all rows would take.
 */

import type { Dtype } from "../src/dtype.ts";
import { FlashFFTConv, type GpuTensor } from "../src/index.ts";
import type { FrequencyBlocks } from "../src/plan/frequencies.ts";
import { planOf } from "../src/reference/accuracy.ts";
import { checkResults, starts } from "./gpu-check.ts";
import { empty, fill, usage } from "./gpu-data.ts";
import { timedSubmission } from "./gpu-device.ts";
import { round } from "./records.ts";
import type { TorchAnswer, TorchCase, TorchGpu } from "./torch-gpu.ts";

/** What a kernel of few taps or frequencies is compared with: ours, with all of them. */
export const wholeKernel = "ours, whole kernel";

/** A peer that is given the spectrum of k. */
export const kittens = "ThunderKittens";

/** Rows of the paper's benchmark. */
const allRows = 49_152;

/**
 * A record: one line of JSON. Times are medians over the rounds; `ratio` is how many times faster ours is. A peer without a
 * time gave a wrong answer.
 */
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
  /** Whether the spectrum of k was kept and the times are without it. */
  readonly kept_kernel?: true;
  readonly ours_ms: number;
  readonly ours_min_ms: number;
  readonly scaled_ms: number;
  readonly floor_ms: number;
  readonly over_floor: number;
  readonly copy_gb_per_s: number;
  readonly peer: string | null;
  /** How the peer's data were stored; older records lack it, and where the peer is ours. */
  readonly peer_dtype?: string;
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
  /** Whether calls are given the spectrum of k, forward: what `prepareKernel` keeps. */
  readonly keptKernel?: true;
  /** B and H, where they are not those of the paper's benchmark. */
  readonly rows?: { readonly B: number; readonly H: number };
}

const lengths = [8, 10, 12, 13, 14, 15, 16, 17, 18, 20, 22].map((e) => 2 ** e);

/** Lengths at which bfloat16 has cases of its own, from one pass on chip to the longest. */
const bfloatLengths = [10, 14, 16, 20, 22].map((e) => 2 ** e);

/** All cases; quick ones are every third length, gated and forward in float16 alone. */
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
      ...(bfloatLengths.includes(N)
        ? [{ N, dtype: "bfloat16", mode: "causal", pass: "forward", gated: true } as const]
        : []),
    ];
    return quick ? cases.slice(0, 1) : cases;
  });
}

/** What ThunderKittens has: two lengths, circular, without gates, in bfloat16, the spectrum of k given. */
export function gpuKeptCases(): GpuCase[] {
  const kept = { mode: "circular", pass: "forward", gated: false, keptKernel: true } as const;
  return [10, 12].map((e) => ({ ...kept, N: 2 ** e, dtype: "bfloat16" }));
}

/** Kernels shorter than the input, beside kernels as long as it; then one kernel on ever longer inputs. */
export function gpuPartialCases(): GpuCase[] {
  const causal = { mode: "causal", pass: "forward", gated: true, dtype: "float16" } as const;
  const shorter = [14, 12, 10, 8, 6, 4, 2].map((e) => ({
    ...causal,
    N: 2 ** 17,
    kernelLength: 2 ** e,
  }));
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
  const { mode, pass, N, gated, dtype, kernelLength, frequencies, keptKernel } = c;
  const taps = kernelLength ? ` K=${kernelLength}` : "";
  const kept = frequencies ? ` dropped=${frequencies.dropped.join()}` : "";
  const given = keptKernel ? ", kernel kept" : "";
  return `${mode} ${pass} N=${N}${taps}${kept} ${dtype}${gated ? " gated" : ""}${given}`;
}

/** B and H, as the paper's benchmark cuts them. */
function rowsOf(N: number): { B: number; H: number } {
  const B = N <= 8192 ? 64 : Math.max(8, (64 * 8192) / N);
  const H = N <= 65_536 ? 768 : Math.max(16, (768 * 65_536) / N);
  return { B, H };
}

/** Work before anything is timed. */
const wakingMs = 300;

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
  const { device, rounds, torch } = run;
  const { mode, N, dtype, gated, pass } = c;
  const L = mode === "causal" ? N / 2 : N;
  const each = dtype === "float32" ? 4 : 2;
  const K = c.kernelLength ?? L;
  const most = c.rows ?? rowsOf(N);
  const B = Math.max(1, Math.min(most.B, Math.floor(run.mostBytes / (most.H * L * each))));
  const H = B > 1 ? most.H : Math.max(1, Math.min(most.H, Math.floor(run.mostBytes / (L * each))));
  const options = { mode, length: L, dtype, device, batch: B, channels: H } as const;
  using conv = await FlashFFTConv.create({
    ...{ ...options, kernelLength: K },
    ...(c.frequencies && { frequencies: c.frequencies }),
    ...(c.plan && { plan: c.plan }),
  });
  const tensors = openTensors(device, { shape: [B, H, L], dtype, gated, pass });
  /** Checked, then timed. */
  const measured = async (of: FlashFFTConv<Dtype>, taps: number) => {
    const { u, k: all, dy, pregate, postgate, y, ...out } = tensors;
    const k = { ...all, shape: [H, taps] };
    const gates = { pregate, postgate };
    using kept = c.keptKernel && (await of.prepareKernel(k));
    const call = (encoder?: GPUCommandEncoder): Promise<unknown> => {
      if (!dy) return of.forward(u, kept ?? k, { ...gates, out: y, encoder });
      const gradients = { ...out, dk: { ...out.dk!, shape: k.shape } };
      return of.backward(dy, u, k, { ...gates, out: gradients, encoder });
    };
    await call();
    const error = await checkResults(of, device, tensors, { B, H, gated, pass, dtype });
    return { error, times: await deviceTimes(device, call, rounds) };
  };
  try {
    const { error, times } = await measured(conv, K);
    const touched = (pass === "forward" ? (gated ? 4 : 2) : gated ? 7 : 3) * B * H * L * each;
    const ms = median(times);
    const floor = (touched / run.bandwidth) * 1e3;
    const ours = {
      ...{ case: caseName(c), mode, pass, gated, B, H, L, K, N, dtype },
      ...(c.keptKernel && { kept_kernel: c.keptKernel }),
      ...{ ours_ms: round(ms), ours_min_ms: round(times[0]!) },
      scaled_ms: round((ms * allRows) / (B * H)),
      ...{ floor_ms: round(floor), over_floor: round(ms / floor) },
      copy_gb_per_s: round(run.bandwidth / 1e9),
      ...{ rel_error: round(error), plan: planOf(pass === "forward" ? "y" : "du", conv.explain()) },
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
      const dense = await measured(whole, L);
      const wholeMs = median(dense.times);
      return [
        {
          ...{ ...ours, peer: wholeKernel, peer_ms: round(wholeMs) },
          peer_rel_error: round(dense.error),
          peer_workspace_bytes: whole.memory().workspaceBytes,
          ratio: round(wholeMs / ms),
        },
      ];
    }
    if (typeof torch === "string") return [alone];
    const records: GpuRecord[] = [];
    for (const [peer, peerDtype] of peersOf(c)) {
      const shape = { B, H, L, N, dtype: peerDtype };
      const answer = await torch.measure({ ...shape, peer, gated, pass, rounds });
      if (!answer.refusal) records.push({ ...ours, ...compared(answer, peer, peerDtype, ms) });
    }
    return records.length > 0 ? records : [alone];
  } finally {
    for (const t of Object.values(tensors)) (t.data as GPUBuffer).destroy();
  }
}

/** Who a case meets, and in which type: flash-fft-conv in both of half precision where it is the bar, for the faster counts. */
function peersOf({ mode, pass, dtype, keptKernel }: GpuCase): [TorchCase["peer"], Dtype][] {
  const flash = "flash-fft-conv";
  if (keptKernel) return [[kittens, dtype]];
  if (dtype === "float32") return [["rfft", dtype]];
  if (dtype === "bfloat16") return [[flash, dtype]];
  const both = mode === "causal" && pass === "forward";
  return [
    ...(["fft", "rfft", flash] as const).map((peer): [TorchCase["peer"], Dtype] => [peer, dtype]),
    ...(both ? [[flash, "bfloat16"] as [TorchCase["peer"], Dtype]] : []),
  ];
}

/** What a record says of a peer that took part; one whose answer is wrong has no time. */
export function compared(
  { ms, error, bytes }: TorchAnswer,
  peer: string,
  dtype: string,
  oursMs: number,
): Pick<GpuRecord, (`peer${string}` & keyof GpuRecord) | "ratio"> {
  const peerMs = ms ? median(ms) : null;
  return {
    ...{ peer, peer_dtype: dtype, peer_ms: peerMs && round(peerMs) },
    peer_rel_error: error == null ? null : round(error),
    peer_workspace_bytes: bytes ?? null,
    ratio: peerMs && round(peerMs / oursMs),
  };
}

/** Tensors of a call by their names: those of the forward or of the backward pass. */
type Tensors = { readonly u: GpuTensor; readonly k: GpuTensor } & {
  readonly [name in "y" | "pregate" | "postgate" | "dy" | Gradient]?: GpuTensor;
};
type Gradient = "du" | "dk" | "dpregate" | "dpostgate";

function openTensors(
  device: GPUDevice,
  call: Pick<GpuCase, "dtype" | "gated" | "pass"> & {
    readonly shape: readonly [number, number, number];
  },
): Tensors {
  const { dtype, gated, pass, shape } = call;
  const kernel = [shape[1], shape[2]];
  const given = (name: keyof typeof starts): GpuTensor => fill(device, shape, dtype, starts[name]);
  return {
    u: given("u"),
    k: fill(device, kernel, "float32", starts.k),
    ...(gated && { pregate: given("pregate"), postgate: given("postgate") }),
    ...(pass === "forward"
      ? { y: empty(device, shape, dtype) }
      : {
          dy: given("dy"),
          du: empty(device, shape, dtype),
          dk: empty(device, kernel, "float32"),
          ...(gated && {
            dpregate: empty(device, shape, dtype),
            dpostgate: empty(device, shape, dtype),
          }),
        }),
  };
}
