/**
 * Whether the GPU's answers are right, before anything is timed: the first row of a result, and the first channel of the
 * kernel's gradient, against float64.
 */
import type { Dtype } from "../src/dtype.ts";
import { type FlashFFTConv, type GpuTensor, sparsifyKernel } from "../src/index.ts";
import { createProblem } from "../src/plan/create-problem.ts";
import type { Problem } from "../src/plan/problem.ts";
import { oracleBackward, oracleForward, relativeError } from "../src/reference/convolution.ts";
import { filled, poolSize, readPlaces } from "./gpu-data.ts";

/** Where in the pool each tensor begins: no two alike, or one taken for another would go unseen. */
export const starts = {
  k: 0,
  u: 100_003,
  pregate: 200_017,
  postgate: 300_007,
  dy: 400_009,
} as const;

/** What a call works on. */
interface Call {
  readonly pass: "forward" | "backward";
  readonly dtype: Dtype;
  readonly B: number;
  readonly H: number;
  readonly gated: boolean;
}

/** Wrong answers have no speed. */
const largestError = { float32: 1e-5, float16: 2e-3, bfloat16: 1e-2 } as const;

type Inputs = Parameters<typeof oracleBackward>[1];

/** Exact results by what they depend on: several cases share one. */
const known = new Map<string, Readonly<Record<string, Float64Array>>>();

/** What is right: y, or the gradients. */
function exact(
  problem: Problem,
  { B, H, gated, pass, dtype }: Call,
): Readonly<Record<string, Float64Array>> {
  const { mode, length: L, kernelLength: K, frequencies } = problem;
  const rows = pass === "backward" ? `${B} ${H}` : "";
  const key = [pass, mode, L, K, JSON.stringify(frequencies), dtype, gated, rows].join(" ");
  const found = known.get(key);
  if (found) return found;
  const taps = filled("float32", starts.k, { from: 0, count: K });
  const k = frequencies ? masked(problem, taps) : taps;
  const inputs = (from: number): Inputs => {
    const row = (name: keyof typeof starts): Float64Array =>
      filled(dtype, starts[name], { from, count: L });
    return {
      ...{ batch: 1, channels: 1, u: row("u"), k },
      ...(gated && { pregate: row("pregate"), postgate: row("postgate") }),
      dy: row("dy"),
    };
  };
  const results =
    pass === "forward"
      ? { y: oracleForward(denseOf(problem), inputs(0)) }
      : gradients(problem, inputs, B, H);
  known.set(key, results);
  return results;
}

function gradients(
  problem: Problem,
  inputs: (from: number) => Inputs,
  B: number,
  H: number,
): Record<string, Float64Array> {
  const { length: L, kernelLength: K, frequencies } = problem;
  const dense = denseOf(problem);
  // Batch items whose first rows begin at the same sample of the pool are alike: all of them, where rows are long.
  const items = new Map<number, number>();
  for (let b = 0; b < B; b++) {
    const from = (b * H * L) % poolSize;
    items.set(from, (items.get(from) ?? 0) + 1);
  }
  const sum = new Float64Array(dense.kernelLength);
  let first: Record<string, Float64Array> | undefined;
  for (const [from, count] of items) {
    const all = oracleBackward(dense, inputs(from));
    for (let j = 0; j < sum.length; j++) sum[j] = sum[j]! + count * all.dk[j]!;
    first ??= { ...all };
  }
  // The mask is symmetric: what it takes from taps it takes from their gradient.
  return { ...first, dk: frequencies ? masked(problem, sum).subarray(0, K) : sum };
}

/**
 * The worst relative error of results that a call of `conv` left in `tensors`: y, or du, dk and the gradients of gates.
 * @throws Error when one is wrong.
 */
export async function checkResults(
  conv: FlashFFTConv<Dtype>,
  device: GPUDevice,
  tensors: Readonly<Record<string, GpuTensor>>,
  call: Call,
): Promise<number> {
  const { problem } = conv;
  let worst = 0;
  for (const [name, right] of Object.entries(exact(problem, call))) {
    const stored = name === "dk" ? "float32" : call.dtype;
    const places = [{ from: 0, count: right.length }];
    const [got] = await readPlaces(device, tensors[name]!, stored, places);
    const error = relativeError(got!, right);
    if (!(error < largestError[call.dtype])) {
      const { plan } = conv.explain().chosen;
      throw new Error(`${name} is wrong, relative error ${error}, plan ${plan}`);
    }
    worst = Math.max(worst, error);
  }
  return worst;
}

/** The dense convolution that one with frequencies is by its masked kernel. */
function denseOf(problem: Problem): Problem {
  const { length, frequencies } = problem;
  if (!frequencies) return problem;
  const { period } = frequencies;
  const options = { mode: "circular", length, kernelLength: period, period } as const;
  return createProblem(options, "bench");
}

/** Taps on the circle of all frequencies, with those alone that are kept. */
function masked({ frequencies }: Problem, taps: Float64Array): Float64Array {
  const { period } = frequencies!;
  const { taps: kept } = sparsifyKernel(Float32Array.from(taps), {
    ...{ mode: "circular", length: period, kernelLength: taps.length, frequencies: frequencies! },
  });
  return Float64Array.from(kept);
}
