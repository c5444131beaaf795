/**
 * All plans worth comparing for a number of points: which padded size, which radices in which order, and where control
 * descends into blocks that fit a cache.
 */
import { primeFactors, smoothMultiples } from "../../math/factor.ts";
import type { Part } from "../geometry.ts";
import type { Level, TransformPlan } from "./plan.ts";
import { product } from "./plan.ts";

/** Smallest transform: one group of the middle. */
const leastPoints = 16;
/** Transforms up to this share more points than needed are tried: other factors may be worth a longer transform. */
const padding = 1.3;
/** How many sizes are tried. */
const sizes = 6;

/** Whether a transform of so many points can be built: a multiple of 16 of the form 2^a 3^b 5^c 7^d. */
export function transformable(points: number): boolean {
  return points % leastPoints === 0 && primeFactors(points).every((p) => p <= 7);
}

/** Transform sizes for a part: its exact one, or those that hold its positions, the smallest first. */
export function candidateSizes(part: Part): number[] {
  if (part.exact) return transformable(part.positions / 2) ? [part.positions / 2] : [];
  const need = Math.max(leastPoints, Math.ceil(part.positions / 2));
  const smooth = smoothMultiples(need, Math.max(4 * leastPoints, need * padding), leastPoints);
  // Always the next power of two, whose radix-4 stages are the fastest.
  const power = 2 ** Math.ceil(Math.log2(need));
  const chosen = smooth.filter((n) => n !== power).slice(0, sizes);
  return [...chosen, power].sort((a, b) => a - b);
}

/** Blocks are tried up to this many times as long as what they overlap, and up to `longestBlock` at least. */
const blockFactor = 32;
/** Positions of a block that lies in the second-level cache. */
const longestBlock = 32_768;
/** Rows in so few blocks are cut evenly; into more, by powers of two, where the last block's idle part does not matter. */
const evenBlocks = 8;

/**
 * Transform sizes for overlap-save over `outputs` outputs, `overlap` of whose samples a block shares with others: those
 * that leave at least a quarter of a block's positions to its outputs and make at least two blocks.
 */
export function blockSizesFor(outputs: number, overlap: number): number[] {
  const most = Math.max(longestBlock, blockFactor * overlap);
  const sizes = new Set<number>();
  const add = (points: number): void => {
    const hop = 2 * points - overlap;
    if (2 * points <= most && 2 * hop >= points && hop < outputs) sizes.add(points);
  };
  for (let points = leastPoints; 2 * points <= most; points *= 2) add(points);
  for (let n = 2; n <= evenBlocks; n++) {
    const need = Math.ceil((Math.ceil(outputs / n) + overlap) / 2);
    const fit = smoothMultiples(
      need,
      Math.max(need + 4 * leastPoints, need * padding),
      leastPoints,
    );
    if (fit.length > 0) add(fit[0]!);
  }
  return [...sizes].sort((a, b) => a - b);
}

/** Most taps that are tried in the time domain: their products are written out one by one. */
export const mostDirectTaps = 64;
/** Blocks in the time domain are whole vectors of outputs. */
const directStep = 4;
/** Most outputs of one: its float32 windows stay in the first-level cache, or just leave it. */
const longestDirect = 4_096;

/** Outputs of a block in the time domain: rows are cut evenly, into vectors. */
export function directHop(outputs: number): number {
  const blocks = Math.ceil(outputs / longestDirect);
  return directStep * Math.ceil(outputs / (blocks * directStep));
}

/** Whether rows of so many outputs may be computed in blocks of `hop`, whose outputs depend on `taps` samples each. */
export function isDirect(outputs: number, taps: number, hop: number): boolean {
  const most = directStep * Math.ceil(outputs / directStep);
  return taps <= mostDirectTaps && hop % directStep === 0 && hop <= most;
}

/**
 * The radices whose product is points/4, outermost first: odd ones, then a 2 for an odd power of two, then fours. Radix 8
 * in place of 2·4 keeps 32 numbers in 16 registers and takes 1.17 times as long (EPYC 7003, relaxed SIMD).
 */
export function radicesOf(points: number): number[] {
  const factors = primeFactors(points / 4);
  const odd = factors.filter((f) => f > 2).reverse();
  const twos = factors.length - odd.length;
  return [...odd, ...(twos % 2 ? [2] : []), ...new Array<number>(twos >> 1).fill(4)];
}

const plain = (radices: readonly number[]): Level => ({ radices, tile: 0, pad: 0 });

/** Cut a list of radices into levels after the given stages; the outermost level gets the tile and padding. */
function cut(
  points: number,
  radices: readonly number[],
  cuts: readonly number[],
  top: Pick<Level, "tile" | "pad">,
): TransformPlan {
  const edges = [0, ...cuts, radices.length];
  const levels = edges.slice(1).map((to, i) => plain(radices.slice(edges[i], to)));
  return { points, levels: [{ ...levels[0]!, ...top }, ...levels.slice(1)] };
}

/** Block sizes in points that the second level may have: what fits a second-level cache, and smaller. */
const blockSizes = { least: 4_096, most: 65_536 } as const;
/** Points of a row that go through a tiled level together. */
const tiles = [64, 256, 1_024] as const;
/** Transforms up to this many points lie in the second-level cache, where tiles cannot pay. */
const untiled = 32_768;

/**
 * Plans of one size for blocks, all of whose positions hold samples. They begin with radix 2 in place of 4: with both
 * parts of four slots, of u and of its gate, the first stage would read 16 streams, which takes 1.4 times as long as two
 * stages that read 8 (M = 4,096, gated, EPYC 7003), and costs a tenth where there is no gate.
 */
export function blockPlans(points: number): TransformPlan[] {
  if (points > untiled) return candidatePlans(points);
  const [first, ...others] = radicesOf(points);
  const radices = first === 4 ? [2, 2, ...others] : [first!, ...others];
  return [cut(points, radices, [], { tile: 0, pad: 0 })];
}

/** Plans of one size, with these radices in this order. */
export function candidatePlans(
  points: number,
  radices: readonly number[] = radicesOf(points),
): TransformPlan[] {
  const top = { tile: 0, pad: 0 };
  const plans: TransformPlan[] = [cut(points, radices, [], top)];
  if (points <= untiled) {
    if (radices.length > 2) plans.push(cut(points, radices, [1], top));
    return plans;
  }
  for (let stage = 1; stage < radices.length; stage++) {
    const block = points / product(radices.slice(0, stage));
    if (block < blockSizes.least || block > blockSizes.most) continue;
    const deeper = radices.length - stage > 4 ? [[stage], [stage, stage + 2]] : [[stage]];
    for (const cuts of deeper) {
      plans.push(cut(points, radices, cuts, top));
      for (const tile of tiles) {
        if (block % tile === 0) plans.push(cut(points, radices, cuts, { tile, pad: 64 }));
      }
    }
  }
  return plans;
}
