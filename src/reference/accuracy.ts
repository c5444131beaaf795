/** How exact results must be, and how exact they are: the bounds that docs/numerics.md derives, row by row. */
import { type Dtype, decode, encode, type SampleArray } from "../dtype.ts";
import { tapRuns } from "../plan/geometry.ts";
import { barFormat, parsePasses } from "../plan/gpu/passes.ts";
import type { Problem } from "../plan/problem.ts";
import type { OracleInputs } from "./convolution.ts";

/** What is compared: the output, or one of the gradients. */
export type Quantity = "y" | "du" | "dk" | "dpregate" | "dpostgate" | "dskip";

/** Relative L2 error of the row nearest to, or furthest above, its bound. */
export interface Comparison {
  readonly quantity: Quantity;
  readonly error: number;
  readonly bound: number;
  readonly passed: boolean;
}

/**
 * Largest relative L2 error that float32 arithmetic may leave in a row, for random samples of unit scale: 3e-7 to 4K
 * and 6e-7 to 4M for y, growing beyond with √log2 of the length; 5e-7 in rows of fewer than 256 samples, of which a gate may weigh the
 * few that err most (3.7e-7 in 540,000 rows; 2.9e-7 without gates); 1e-6 for gradients. dk and dskip sum the rows of the
 * batch in float32 and in order, which adds √B · 2^−24: under the bound to B = 256, its law from there.
 */
export function float32Bound(quantity: Quantity, problem: Problem, batch: number): number {
  if (quantity === "y") {
    const { mode, length, kernelLength } = problem;
    const size = mode === "bidirectional" ? length : Math.max(length, kernelLength);
    if (size < 256) return 5e-7;
    if (size <= 4096) return 3e-7;
    return 6e-7 * Math.max(1, Math.sqrt(Math.log2(size) / 22));
  }
  return quantity === "dk" || quantity === "dskip"
    ? 1e-6 * Math.max(1, Math.sqrt(batch / 256))
    : 1e-6;
}

/** Bounds for y where points wait in 32 bits each between the passes of a GPU, or spectra have as many. */
const pointBounds = {
  float32: { float32: 0, float16: 0, bfloat16: 0 },
  word: { float32: 0, float16: 5e-4, bfloat16: 2e-3 },
  pair: { float32: 0, float16: 3.5e-4, bfloat16: 2e-3 },
} as const;
/** Gradients go there more often. */
const pointGradients = 1.5;

/** The plan that a quantity comes from: gradients may have one of their own. */
export function planOf(
  quantity: Quantity,
  {
    chosen,
    gradientPlan = chosen.plan,
  }: { readonly chosen: { readonly plan: string }; readonly gradientPlan?: string },
): string {
  return quantity === "y" ? chosen.plan : gradientPlan;
}

/**
 * Largest relative L2 error that the arithmetic of a plan may leave in a row, for random samples of unit scale: float32's,
 * or more where the plan is one of passes whose memory holds points in 32 bits.
 */
export function planBound(
  quantity: Quantity,
  problem: Problem,
  batch: number,
  plan: string,
): number {
  const bound = float32Bound(quantity, problem, batch);
  const passes = parsePasses(plan);
  if (!passes) return bound;
  const forPoints = pointBounds[barFormat(passes, problem.dtype)][problem.dtype];
  return Math.max(bound, forPoints * (quantity === "y" ? 1 : pointGradients));
}

/** What is compared with what. */
interface Comparand {
  readonly quantity: Quantity;
  readonly actual: SampleArray;
  readonly exact: Float64Array;
  readonly rowLength: number;
  /** How `actual` is stored. */
  readonly dtype: Dtype;
  /** Of the arithmetic. */
  readonly bound: number;
  /** What a row's error is relative to where that is more than the row's own norm: for sums that cancel. */
  readonly scale?: Float64Array;
}

/** Rows shorter than this, where they have no `scale`, are measured together: a few sums that cancel say nothing. */
const leastRow = 64;

/**
 * Compare row by row. Half precision may err by 1.1 × what rounding the exact row once errs, or by the arithmetic's bound
 * where that is more.
 */
export function compare(comparand: Comparand): Comparison {
  const { quantity, exact, dtype, bound, scale } = comparand;
  const together = comparand.rowLength < leastRow && !scale;
  const rowLength = together ? exact.length : comparand.rowLength;
  const actual = decode(comparand.actual, dtype);
  let worst = { error: 0, bound };
  for (let row = 0; row < exact.length / rowLength; row++) {
    const want = exact.subarray(row * rowLength, (row + 1) * rowLength);
    const got = actual.subarray(row * rowLength, (row + 1) * rowLength);
    const size = Math.max(norm(want), scale?.[row] ?? 0);
    const error = relative(distance(got, want), size);
    const rounding =
      dtype === "float32" ? 0 : relative(distance(decode(encode(want, dtype), dtype), want), size);
    const rowBound = Math.max(bound, 1.1 * rounding);
    // Written so that a NaN, which is above nothing, is the worst of all.
    if (!(error / rowBound <= worst.error / worst.bound)) worst = { error, bound: rowBound };
    if (Number.isNaN(error)) break;
  }
  return { quantity, ...worst, passed: worst.error <= worst.bound };
}

/**
 * What the norm of each row is where its terms have signs at random, ‖u‖·‖k‖ for the whole of a convolution: errors of the
 * arithmetic are relative to that, also where the terms of a row cancel. Of the products of two rows a mode takes some: the root
 * of their share remains. A gate multiplies by its root mean square, and the skip term is beside it.
 */
export function termNorms(
  problem: Problem,
  { batch, channels, u, k, pregate, postgate, skip, dy }: OracleInputs & { dy?: Float64Array },
): Record<Quantity, Float64Array> {
  const { length, kernelLength, outputLength } = problem;
  const sums = (quantity: Quantity): Float64Array =>
    new Float64Array(quantity === "dk" || quantity === "dskip" ? channels : batch * channels);
  const found = {
    ...{ y: sums("y"), du: sums("du"), dpregate: sums("dpregate"), dpostgate: sums("dpostgate") },
    ...{ dk: sums("dk"), dskip: sums("dskip") },
  };
  const ofRow = (values: Float64Array | undefined, r: number, size: number, gate?: Float64Array) =>
    values
      ? norm(
          gate
            ? Float64Array.from(
                { length: size },
                (_, n) => values[r * size + n]! * gate[r * size + n]!,
              )
            : values.subarray(r * size, (r + 1) * size),
        )
      : 0;
  const products = productsOf(problem);
  const share = (a: number, b: number): number => Math.sqrt(products / (a * b));
  const forward = share(length, kernelLength);
  const back = share(outputLength, kernelLength);
  const taps = share(length, outputLength);
  for (let r = 0; r < batch * channels; r++) {
    const h = r % channels;
    const weights = ofRow(k, h, kernelLength);
    const weight = Math.abs(skip?.[h] ?? 0);
    const [samples, upstream] = [ofRow(u, r, length), ofRow(dy, r, outputLength)];
    const x = ofRow(u, r, length, pregate);
    const dz = ofRow(dy, r, outputLength, postgate);
    const mean = (size: number, total: number): number => total / Math.sqrt(size);
    const before = pregate ? mean(length, ofRow(pregate, r, length)) : 1;
    const after = postgate ? mean(outputLength, ofRow(postgate, r, outputLength)) : 1;
    found.y[r] = Math.hypot(after * forward * x * weights, weight * samples);
    found.du[r] = Math.hypot(before * back * dz * weights, weight * upstream);
    found.dpregate[r] = mean(length, samples) * back * dz * weights;
    found.dpostgate[r] = mean(outputLength, upstream) * forward * x * weights;
    found.dk[h] = Math.hypot(found.dk[h]!, taps * dz * x);
    found.dskip[h] = Math.hypot(found.dskip[h]!, mean(length, samples * upstream));
  }
  return found;
}

/** Products of a sample and a tap that outputs of a row are sums of. */
function productsOf(problem: Problem): number {
  const { length, outputLength } = problem;
  let count = 0;
  for (const run of tapRuns(problem)) {
    for (let lag = run.position; lag < run.position + run.count; lag++)
      count += Math.max(0, Math.min(outputLength, length + lag) - Math.max(0, lag));
  }
  return count;
}

/** L2 norm. */
function norm(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]! ** 2;
  return Math.sqrt(sum);
}

function distance(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < b.length; i++) sum += (a[i]! - b[i]!) ** 2;
  return Math.sqrt(sum);
}

function relative(difference: number, size: number): number {
  return difference === 0 ? 0 : difference / size;
}
