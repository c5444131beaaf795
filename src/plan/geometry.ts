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

/**
 * Overlap-save: a row is cut into blocks of `hop` outputs, each computed from the samples that its taps reach. Block j
 * holds the samples from j·hop − behind on, at positions 0 … P−1.
 */
export interface Blocks {
  /** Outputs of a block. */
  readonly hop: number;
  /** Samples before its first output that a block needs: the furthest that a tap reaches back. */
  readonly behind: number;
  /** Samples after its last output. */
  readonly ahead: number;
  /** N of a circular convolution, whose rows go on periodically; 0 where zeros lie around them. */
  readonly period: number;
}

/**
 * A part that is the factor x^m − wrap of x^N − 1, of an exact cyclic convolution. It takes a longer sequence, modulo
 * x^from − 1, folds it modulo its own ring and hands on what remains modulo x^m − 1; on the way back it joins both.
 */
export interface Ring {
  /** −1 for a negacyclic factor of m = `positions`, 1 for the last one, whose transform is complex of m points. */
  readonly wrap: 1 | -1;
  /** Positions of the sequence that it folds. */
  readonly from: number;
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
  /** Where the part is not a row but a block of one: runs then count samples from the block's first. */
  readonly blocks?: Blocks;
  /** Where the part is a factor of an exact cyclic convolution. */
  readonly ring?: Ring;
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

/** Taps at their lags, where the mode uses them; those at lags below 0 have negative positions. */
export function tapRuns({ mode, length: L, kernelLength: K, period: N, past = 0 }: Problem): Run[] {
  const R = K / 2;
  switch (mode) {
    case "causal":
      // Output n stands `past` samples behind the input of that number.
      return lags(0 - past, Math.min(K, L) - 1 - past, past);
    case "full":
      return lags(0, K - 1, 0);
    case "same": {
      const centre = (K - 1) >> 1;
      return lags(Math.max(-centre, 1 - L), Math.min(K - 1 - centre, L - 1), centre);
    }
    case "bidirectional":
      return [...lags(0, R - 1, 0), ...lags(1 - R, -1, K)];
    case "circular":
      // Only lags between two samples of the row matter: −(L−1) … L−1; tap = lag mod N, if there is such a tap.
      return [...lags(0, Math.min(K, L) - 1, 0), ...lags(1 - L, Math.min(K - 1 - N, -1), N)];
  }
}

/** How many samples before and after its own an output depends on. */
function reachOf(taps: readonly Run[]): { readonly behind: number; readonly ahead: number } {
  return {
    behind: Math.max(0, ...taps.map((t) => t.position + t.count - 1)),
    ahead: Math.max(0, ...taps.map((t) => -t.position)),
  };
}

/** Positions that a convolution needs so that what wraps around misses every output. */
function neededPositions(taps: readonly Run[], length: number, outputLength: number): number {
  const { behind, ahead } = reachOf(taps);
  return Math.max(outputLength + ahead, length + behind, outputLength, length);
}

/** Every mode as one part. */
export function onePart(problem: Problem): Geometry {
  const { length, outputLength } = problem;
  const taps = tapRuns(problem);
  const positions = neededPositions(taps, length, outputLength);
  const [inputs, outputs] = [plainRun(length), plainRun(outputLength)];
  return [{ inputs, taps, outputs, positions, exact: false, scale: 1 }];
}

/**
 * A circular problem as it is, a cyclic convolution whose positions are those of its period; or, of any mode, one with
 * frequencies, cyclic over their N, where nothing that wraps around meets an output of the dense convolution.
 */
export function cyclicPart(problem: Problem): Part {
  const { length, kernelLength, outputLength, mode } = problem;
  const taps = mode === "circular" ? plainRun(kernelLength) : tapRuns(problem);
  return {
    ...{ inputs: plainRun(length), taps, outputs: plainRun(outputLength) },
    ...{ positions: problem.frequencies?.period ?? problem.period, exact: true, scale: 1 },
  };
}

/** Taps as blocks see them: a circular row goes on periodically around a block, so that its taps only reach back. */
function blockTaps(problem: Problem): Run[] {
  return problem.mode === "circular" ? lags(0, problem.kernelLength - 1, 0) : tapRuns(problem);
}

/** Samples that one output of a problem depends on, besides its own. */
export function blockOverlap(problem: Problem): number {
  const { behind, ahead } = reachOf(blockTaps(problem));
  return behind + ahead;
}

/** Whether one tap acts: an output is a product, which no transform comes near to. */
export function isProduct(problem: Problem): boolean {
  return problem.frequencies === undefined && blockOverlap(problem) === 0;
}

/**
 * One block of `hop` outputs in P positions, P ≥ hop + blockOverlap. All P positions hold samples, and what wraps around
 * falls on the positions before and after the outputs.
 */
export function blockPart(problem: Problem, positions: number, hop: number): Part {
  const taps = blockTaps(problem);
  const { behind, ahead } = reachOf(taps);
  return {
    inputs: plainRun(positions),
    taps,
    outputs: [{ index: behind, count: hop, position: behind, sign: 1 }],
    ...{ positions, exact: true, scale: 1 },
    blocks: { hop, behind, ahead, period: problem.period },
  };
}

/** Positions around a block's outputs that its taps reach. */
interface Margins {
  /** Before the first output. */
  readonly behind: number;
  /** After the last one. */
  readonly ahead: number;
}

/** A block's margins, even, so that samples stay two to a word. */
export function blockMargins({ blocks }: Part): Margins {
  const even = (n: number): number => n + (n % 2);
  return { behind: even(blocks!.behind), ahead: even(blocks!.ahead) };
}

/**
 * The part that a part's gradients are computed with. Of a block: du by overlap-save over dy, whose samples fill all
 * positions, from j·hop − ahead on; the taps of dk are the products of those with the `hop` samples of u that are the
 * block's own.
 */
export function gradientPart(part: Part): Part {
  if (!part.blocks) return part;
  const { hop, behind, ahead } = part.blocks;
  return {
    ...part,
    inputs: [{ index: ahead, count: hop, position: ahead, sign: 1 }],
    outputs: plainRun(part.positions),
    blocks: { ...part.blocks, behind: ahead, ahead: behind },
  };
}

/** `count` samples from sample `from` of a row on, at place `at` of a block. */
export interface Piece {
  /** First place in the block. */
  readonly at: number;
  /** First sample of the row. */
  readonly from: number;
  /** Samples. */
  readonly count: number;
}

/** Where samples `first` … first + count − 1 of a row of `length` samples lie in it: zeros, or periods, go on around it. */
export function extension(first: number, count: number, length: number, period: number): Piece[] {
  const pieces: Piece[] = [];
  const add = (shift: number): void => {
    const from = Math.max(first, shift);
    const to = Math.min(first + count, shift + length);
    if (from < to) pieces.push({ at: from - first, from: from - shift, count: to - from });
  };
  if (period === 0) add(0);
  else {
    const last = Math.floor((first + count - 1) / period);
    for (let q = Math.floor(first / period); q <= last; q++) add(q * period);
  }
  return pieces;
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
  const sorted = runs.map(({ index, count: n }) => [index, index + n] as const);
  let [seen, end] = [0, 0];
  for (const [from, to] of sorted.sort((a, b) => a[0] - b[0])) {
    seen += Math.max(0, Math.min(to, count) - Math.max(from, end));
    end = Math.max(end, to);
  }
  return seen;
}
