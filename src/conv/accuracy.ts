/** How exact results must be, and how exact they are: the bounds that docs/numerics.md derives, row by row. */
import { type Dtype, decode, encode, type SampleArray } from "../dtype.ts";
import { barFormat, parsePasses } from "../plan/passes.ts";
import type { Problem } from "../plan/problem.ts";

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
 * and 6e-7 to 4M for y, growing beyond with √log2 of the length; 1e-6 for gradients. dk and dskip sum the rows of the
 * batch in float32 and in order, which adds √B · 2^−24: under the bound to B = 256, its law from there.
 */
export function float32Bound(quantity: Quantity, problem: Problem, batch: number): number {
  if (quantity === "y") {
    const { mode, length, kernelLength } = problem;
    const size = mode === "bidirectional" ? length : Math.max(length, kernelLength);
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
export interface Comparand {
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

/**
 * Rows shorter than this are measured by their `scale`, or all together: a few sums that cancel say nothing about the
 * arithmetic.
 */
export const leastRow = 64;

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
