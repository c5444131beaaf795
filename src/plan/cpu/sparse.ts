/**
 * Frequency-sparse convolutions as exact cyclic ones. Bins of an N-point transform are what remains of a polynomial
 * modulo x^N − 1 at its roots, and
 *
 *     x^N − 1 = (x^{N/2} + 1)(x^{N/4} + 1) ⋯ (x^m + 1)(x^m − 1),
 *
 * so bins f = 2^j·odd are those of the j-th negacyclic factor, each of which has a transform of its own that splits rings
 * further. A sub-block of any ring all of whose bins are masked is never computed; a factor all of whose bins are masked
 * is not even begun.
 */

import type { DeviceSpec } from "../device.ts";
import { keptRuns } from "../frequencies.ts";
import type { Part, Run } from "../geometry.ts";
import { tapRuns } from "../geometry.ts";
import type { Intervals } from "../intervals.ts";
import { append, countOf, digitValues, flagsOf } from "../intervals.ts";
import type { Problem } from "../problem.ts";
import { candidatePlans, radicesOf } from "./candidates.ts";
import { stageSeconds, stageShare } from "./cost.ts";
import type { Sparse, TransformPlan } from "./plan.ts";
import { product } from "./plan.ts";

/** Below this, what remains is one complex transform with no imaginary part: splitting it costs more than it saves. */
const leastSplit = 128;

/** Complex points of a factor's transform. */
export function ringPoints(part: Part): number {
  return part.ring!.wrap < 0 ? part.positions / 2 : part.positions;
}

/** Runs folded modulo x^m − wrap, negative positions first wrapped modulo x^N − 1. */
function folded(runs: readonly Run[], period: number, m: number, wrap: 1 | -1): Run[] {
  return runs.flatMap(({ index, count, position }) => {
    const start = position < 0 ? position + period : position;
    const pieces: Run[] = [];
    for (let done = 0; done < count; ) {
      const at = start + done;
      const length = Math.min(count - done, m - (at % m));
      const sign = wrap < 0 && Math.floor(at / m) % 2 === 1 ? -1 : 1;
      pieces.push({ index: index + done, count: length, position: at % m, sign });
      done += length;
    }
    return pieces;
  });
}

/**
 * Complex points of a factor that are kept, ascending in frequency, by the runs of kept bins: point b is the frequency
 * step·(4b + quarter) of N, whose bin is that or, above N/2, its mirror.
 */
function keptPoints(part: Part, bins: Intervals, period: number): Intervals {
  const count = ringPoints(part);
  const step = period / (4 * count);
  const quarter = part.ring!.wrap < 0 ? 1 : 0;
  const points: number[] = [];
  // Points of frequencies from `low` to before `high`.
  const add = (low: number, high: number): void => {
    const first = (frequency: number): number => Math.ceil((frequency / step - quarter) / 4);
    append(points, Math.max(0, first(low)), Math.min(count, first(high)));
  };
  for (let i = 0; i < bins.length; i += 2) add(bins[i]!, bins[i + 1]!);
  for (let i = bins.length - 2; i >= 0; i -= 2)
    add(Math.max(period / 2 + 1, period - bins[i + 1]! + 1), period - bins[i]! + 1);
  return points;
}

/** The mask on a factor's complex points, by the runs of bins 0 … N/2 that are kept. */
export function ringMask(part: Part, bins: Intervals, period: number): Uint8Array {
  return flagsOf(keptPoints(part, bins, period), ringPoints(part));
}

/** Taps where the cyclic convolution has them, those at lags below 0 at negative positions: a circular kernel's own positions, else the lags that the mode uses. */
export function cyclicTaps(problem: Problem): Run[] {
  const { mode, length, kernelLength, period, frequencies } = problem;
  if (mode !== "circular") return tapRuns(problem);
  const run = (index: number, end: number): Run[] =>
    index < end ? [{ index, count: end - index, position: index, sign: 1 }] : [];
  if (frequencies) return run(0, kernelLength);
  // Unmasked, only taps between two samples of a row matter, reaching back or ahead.
  const back = Math.min(kernelLength, length);
  return [...run(0, back), ...run(Math.max(back, period - length + 1), kernelLength)];
}

/** A factor with the points of it that are kept. */
interface Factor {
  readonly part: Part;
  /** Complex points that are kept, in runs. */
  readonly points: Intervals;
}

/** The factors of a problem's cyclic convolution that keep any bin, longest first. */
export function cyclicFactors(problem: Problem): Factor[] {
  const { period } = problem.frequencies ?? problem;
  const bins = problem.frequencies ? keptRuns(problem.frequencies) : [0, period / 2 + 1];
  const rings: { wrap: 1 | -1; positions: number }[] = [];
  let rest = period;
  for (; rest > leastSplit && rest % 64 === 0; rest /= 2)
    rings.push({ wrap: -1, positions: rest / 2 });
  rings.push({ wrap: 1, positions: rest });
  const whole = (count: number): Run[] => [{ index: 0, count, position: 0, sign: 1 }];
  const factors: Factor[] = [];
  let from = period;
  for (const { wrap, positions } of rings) {
    const first = factors.length === 0;
    const fold = (runs: readonly Run[]): Run[] => folded(runs, period, positions, wrap);
    const all = fold(whole(from));
    const part: Part = {
      inputs: first ? fold(whole(problem.length)) : all,
      taps: first ? fold(cyclicTaps(problem)) : all,
      outputs: first ? fold(whole(problem.outputLength)) : all,
      ...{ positions, exact: true, scale: positions / period },
      ring: { wrap, from },
    };
    const points = keptPoints(part, bins, period);
    if (points.length === 0) continue;
    factors.push({ part, points });
    from = positions;
  }
  return factors;
}

/** Outputs by stage that the points of a factor ask for with radices in this order, the fused radix 4 last. */
function outputsFor({ points }: Factor, radices: readonly number[]): number[][] {
  let below = 1;
  return [...radices, 4].map((radix) => {
    const values = digitValues(points, below, radix);
    below *= radix;
    return values;
  });
}

/** Sub-blocks that the middle takes at a time. */
const together = 4;

/**
 * So many of the four outputs of the stage before the middle that its sub-blocks come in groups of four, of one parent or
 * of two or four that lie evenly: `parents` is a number of those.
 */
function groupable(wanted: number, parents: number): number {
  return [1, 2, together].find((n) => n >= wanted && (n * parents) % together === 0)!;
}

/** The plans with what they compute of a factor; all have the same radices in the same order. */
function withOutputs(factor: Factor, plans: readonly TransformPlan[]): TransformPlan[] {
  const radices = plans[0]!.levels.flatMap((l) => l.radices);
  const outputs = outputsFor(factor, radices);
  return plans.map((plan) => {
    const kept = outputs.slice();
    const at = radices.length - 1;
    const parents = plan.levels.at(-1)!.radices.length > 1 ? kept[at - 1]!.length : 1;
    const count = groupable(kept[at]!.length, parents);
    const others = [0, 1, 2, 3].filter((j) => !kept[at]!.includes(j));
    kept[at] = [...kept[at]!, ...others].slice(0, count).sort((a, b) => a - b);
    const sparse: Sparse = {
      quarter: factor.part.ring!.wrap < 0 ? 1 : 0,
      kept,
      masked: product(kept.map((k) => k.length)) > countOf(factor.points),
    };
    return { ...plan, sparse };
  });
}

/** Whether a factor can have a plan: of its size, and with a last stage whose outputs make groups for the middle. */
export function suits({ part }: Factor, plan: TransformPlan): boolean {
  return plan.points === ringPoints(part) && plan.levels.at(-1)!.radices.at(-1) === together;
}

/** A plan of a factor that computes only what its frequencies ask for. */
export function sparsePlan(factor: Factor, plan: TransformPlan): TransformPlan {
  return withOutputs(factor, [plan])[0]!;
}

/** Plans of a factor, with radices in the order in which its pattern skips the most and in the usual one. */
export function sparsePlans(factor: Factor, device: DeviceSpec): TransformPlan[] {
  const points = ringPoints(factor.part);
  return [sparseRadices(factor, device), radicesOf(points)].flatMap((radices) =>
    withOutputs(factor, candidatePlans(points, radices)),
  );
}

const radicesTried = [2, 3, 4, 5, 7, 8] as const;

/**
 * The order of radices in which a factor's pattern skips the most, weighed with what each stage costs. A stage resolves
 * the lowest digit of the frequency that is left, and everything after it works on the sub-blocks that it keeps; so the
 * best rest of a plan depends on nothing but the product of the radices before it.
 */
function sparseRadices(factor: Factor, device: DeviceSpec): number[] {
  const { points } = factor;
  const product = ringPoints(factor.part) / 4;
  const middle = stageShare(4, digitValues(points, product, 4).length) * device.pointSeconds;
  const best = new Map<number, { readonly seconds: number; readonly radices: number[] }>();
  const from = (below: number): { readonly seconds: number; readonly radices: number[] } => {
    const known = best.get(below);
    if (known) return known;
    let found = { seconds: Number.POSITIVE_INFINITY, radices: [] as number[] };
    for (const radix of radicesTried) {
      if ((product / below) % radix !== 0) continue;
      const ends = below * radix === product;
      if (ends && radix !== together) continue;
      const wanted = digitValues(points, below, radix).length;
      const outputs = ends ? groupable(wanted, together) : wanted;
      const rest = ends ? { seconds: middle, radices: [] } : from(below * radix);
      const seconds = stageSeconds(radix, outputs, device) + (outputs / radix) * rest.seconds;
      if (seconds < found.seconds) found = { seconds, radices: [radix, ...rest.radices] };
    }
    best.set(below, found);
    return found;
  };
  return from(1).radices;
}
