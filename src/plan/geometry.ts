/**
 * How each mode becomes negacyclic convolutions, whose P positions wrap with a change of sign (x^P = −1).
 *
 * One part serves every mode: outputs sit at 0 … Lout−1, inputs at 0 … L−1, and tap i acts at a lag from −a to b: a lag
 * ℓ ≥ 0 sits at position ℓ, a lag ℓ < 0 at P+ℓ with its sign changed. What wraps around misses every output when
 * P ≥ max(Lout + a, L + b), so no mode needs more transform points than its outputs ask for.
 *
 * A circular convolution of even period N can also be split exactly: x^N − 1 = (x^{N/2} + 1)(x^{N/2} − 1), a negacyclic
 * part of N/2 positions and a circular one of period N/2, which splits again (the real FFT's own recursion). By the
 * Chinese remainder theorem the result is the half sum and half difference of the parts.
 */
import type { Problem } from "./problem.ts";

/** `count` consecutive samples from `index` on, at positions `position` …, times `sign`; negative positions wrap. */
export interface Run {
  /** First sample or tap. */
  readonly index: number;
  /** How many. */
  readonly count: number;
  /** Where the first one stands; below 0 it wraps to P + position, with its sign changed. */
  readonly position: number;
  /** Factor on the samples. */
  readonly sign: 1 | -1;
}

/** One negacyclic convolution. */
export interface Part {
  /** Where the samples of a row stand. */
  readonly inputs: readonly Run[];
  /** Where the taps stand. */
  readonly taps: readonly Run[];
  /** Where the outputs stand. */
  readonly outputs: readonly Run[];
  /** Number of positions P: exactly this many, or at least. The transform has half as many complex points. */
  readonly positions: number;
  /** Whether the transform must have exactly `positions`, because wrapping around is part of the result. */
  readonly exact: boolean;
  /** Factor on the part's result in the sum of all parts. */
  readonly scale: number;
}

/** The convolution as a sum of parts. */
export type Geometry = readonly Part[];

const plainRun = (count: number): Run[] => [{ index: 0, count, position: 0, sign: 1 }];

/** Taps at lags `first` … `last`; tap = lag + shift. Runs lie on one side of lag 0. */
function lags(first: number, last: number, shift: number): Run[] {
  if (last < first) return [];
  if (first < 0 && last >= 0) return [...lags(0, last, shift), ...lags(first, -1, shift)];
  return [{ index: first + shift, count: last - first + 1, position: first, sign: 1 }];
}

function tapRuns({ mode, length: L, kernelLength: K, period: N }: Problem): Run[] {
  switch (mode) {
    case "causal":
      return lags(0, Math.min(K, L) - 1, 0);
    case "full":
      return lags(0, K - 1, 0);
    case "same": {
      const centre = (K - 1) >> 1;
      return lags(Math.max(-centre, 1 - L), Math.min(K - 1 - centre, L - 1), centre);
    }
    case "bidirectional":
      return [...lags(0, L - 1, 0), ...lags(1 - L, -1, 2 * L)];
    case "circular":
      // Only lags between two samples of the row matter: −(L−1) … L−1; tap = lag mod N, if there is such a tap.
      return [...lags(0, Math.min(K, L) - 1, 0), ...lags(1 - L, Math.min(K - 1 - N, -1), N)];
  }
}

/** Positions that a convolution needs so that what wraps around misses every output. */
function neededPositions(taps: readonly Run[], length: number, outputLength: number): number {
  const back = Math.max(0, ...taps.map((t) => -t.position));
  const ahead = Math.max(0, ...taps.map((t) => t.position + t.count - 1));
  return Math.max(outputLength + back, length + ahead, outputLength, length);
}

/** Every mode as one part. */
export function onePart(problem: Problem): Geometry {
  const { length, outputLength } = problem;
  const taps = tapRuns(problem);
  const positions = neededPositions(taps, length, outputLength);
  const [inputs, outputs] = [plainRun(length), plainRun(outputLength)];
  return [{ inputs, taps, outputs, positions, exact: false, scale: 1 }];
}

/** Samples 0 … count−1 folded modulo x^m ± 1: sample n + q·m lands on n with sign^q. */
function folded(count: number, m: number, sign: 1 | -1): Run[] {
  return Array.from({ length: Math.ceil(count / m) }, (_, q) => ({
    index: q * m,
    count: Math.min(m, count - q * m),
    position: 0,
    sign: q % 2 === 0 ? 1 : sign,
  }));
}

/** Smallest negacyclic part: 16 complex points. */
const leastPositions = 32;
/** Deepest split: what remains is less than a thirtieth of the work. */
const mostSplits = 5;

/** A circular problem split `depth` times: negacyclic parts of N/2, N/4, … positions and the circular rest. */
function splitCircular(
  { length: L, kernelLength: K, period: N }: Problem,
  depth: number,
): Geometry {
  const parts: Part[] = [];
  for (let j = 1; j <= depth; j++) {
    const m = N / 2 ** j;
    const runs = (count: number): Run[] => folded(count, m, -1);
    parts.push({
      ...{ inputs: runs(L), taps: runs(K), outputs: runs(L) },
      ...{ positions: m, exact: true, scale: 2 ** -j },
    });
  }
  const m = N / 2 ** depth;
  const taps = folded(K, m, 1).flatMap((t): Run[] => {
    // Tap j of the rest acts at lag j and at lag j − m.
    const back =
      t.count > 1 ? [{ ...t, index: t.index + 1, count: t.count - 1, position: 1 - m }] : [];
    return [t, ...back];
  });
  const span = Math.min(m, L);
  const positions = neededPositions(taps, span, span);
  const rest = { inputs: folded(L, m, 1), taps, outputs: folded(L, m, 1) };
  parts.push({ ...rest, positions, exact: false, scale: 2 ** -depth });
  return parts;
}

/**
 * All ways to compute a problem. Splits are for float32: the parts are summed where the outputs lie, and half
 * precision would round every partial sum.
 */
export function geometries(problem: Problem): Geometry[] {
  const all = [onePart(problem)];
  if (problem.mode !== "circular" || problem.dtype !== "float32") return all;
  for (let depth = 1; depth <= mostSplits; depth++) {
    const m = problem.period / 2 ** depth;
    if (!Number.isInteger(m) || m % leastPositions !== 0) break;
    all.push(splitCircular(problem, depth));
  }
  return all;
}

/** Runs in as few groups as keep samples apart: within a group no sample occurs twice. */
export function apartBySample(runs: readonly Run[]): Run[][] {
  const groups: Run[][] = [];
  const overlap = (a: Run, b: Run): boolean =>
    a.index < b.index + b.count && b.index < a.index + a.count;
  for (const run of runs) {
    const group = groups.find((g) => g.every((r) => !overlap(r, run)));
    if (group) group.push(run);
    else groups.push([run]);
  }
  return groups;
}

/** How many of `count` samples occur in the runs. */
export function covered(runs: readonly Run[], count: number): number {
  const seen = new Uint8Array(count);
  for (const r of runs) seen.fill(1, r.index, r.index + r.count);
  return seen.reduce((a, b) => a + b, 0);
}
