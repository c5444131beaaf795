/**
 * How each mode becomes one negacyclic convolution of P positions. Outputs sit at 0 … Lout−1, inputs at 0 … L−1, and tap
 * i acts at a lag from −a to b: a lag ℓ ≥ 0 sits at position ℓ, a lag ℓ < 0 at P+ℓ with its sign changed. Wrapped-around
 * terms miss every output when P ≥ max(Lout + a, L + b), so no mode needs more transform points than its outputs ask for.
 */
import type { Problem } from "./problem.ts";

/** Consecutive taps: tap `index + i` acts at lag `lag + i`, i < count; all lags on one side of 0. */
export interface TapRun {
  readonly index: number;
  readonly count: number;
  readonly lag: number;
}

/** The linear problem inside a mode. */
export interface Geometry {
  readonly length: number;
  readonly kernelLength: number;
  readonly outputLength: number;
  /** Which taps act, and at which lags. A tap of a circular kernel may act at two. */
  readonly taps: readonly TapRun[];
  /** Least number of positions P; the transform has at least half as many complex points. */
  readonly positions: number;
}

/** Runs of taps from lag `first` to lag `last` inclusive, apart on both sides of lag 0; tap = lag + shift. */
function run(first: number, last: number, shift: number): TapRun[] {
  if (last < first) return [];
  if (first < 0 && last >= 0) return [...run(0, last, shift), ...run(first, -1, shift)];
  return [{ index: first + shift, count: last - first + 1, lag: first }];
}

function tapRuns({ mode, length: L, kernelLength: K, period: N }: Problem): TapRun[] {
  switch (mode) {
    case "causal":
      return run(0, Math.min(K, L) - 1, 0);
    case "full":
      return run(0, K - 1, 0);
    case "same": {
      const centre = (K - 1) >> 1;
      return run(Math.max(-centre, 1 - L), Math.min(K - 1 - centre, L - 1), centre);
    }
    case "bidirectional":
      return [...run(0, L - 1, 0), ...run(1 - L, -1, 2 * L)];
    case "circular":
      // Only lags between two samples of the row matter: −(L−1) … L−1; tap = lag mod N, if there is such a tap.
      return [...run(0, Math.min(K, L) - 1, 0), ...run(1 - L, Math.min(K - 1 - N, -1), N)];
  }
}

/** The geometry of a problem. */
export function geometry(problem: Problem): Geometry {
  const { length, kernelLength, outputLength } = problem;
  const taps = tapRuns(problem);
  const back = Math.max(0, ...taps.map((t) => -t.lag));
  const ahead = Math.max(0, ...taps.map((t) => t.lag + t.count - 1));
  const positions = Math.max(outputLength + back, length + ahead, outputLength, length);
  return { length, kernelLength, outputLength, taps, positions };
}
