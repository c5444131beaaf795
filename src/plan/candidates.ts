/**
 * All plans worth comparing for a number of points: which padded size, which radices in which order, and where control
 * descends into blocks that fit a cache.
 */
import { primeFactors, smoothMultiples } from "../math/factor.ts";
import type { Level, TransformPlan } from "./plan.ts";
import { product } from "./plan.ts";

/** Smallest transform: one group of the middle. */
export const leastPoints = 16;
/** Transforms up to this share more points than needed are tried: other factors may be worth a longer transform. */
const padding = 1.3;
/** How many sizes are tried. */
const sizes = 6;

/** Transform sizes that hold `positions` real positions: multiples of 16 of the form 2^a 3^b 5^c 7^d, the smallest first. */
export function candidateSizes(positions: number): number[] {
  const need = Math.max(leastPoints, Math.ceil(positions / 2));
  const smooth = smoothMultiples(need, Math.max(4 * leastPoints, need * padding), leastPoints);
  // Always the next power of two, whose radix-4 stages are the fastest.
  const power = 2 ** Math.ceil(Math.log2(need));
  const chosen = smooth.filter((n) => n !== power).slice(0, sizes);
  return [...chosen, power].filter((n) => n <= need * 2 || n === leastPoints).sort((a, b) => a - b);
}

/** Orders of the radices whose product is points/4: odd ones first, then fours, with one 2 or 8 for an odd power of two. */
function radixOrders(points: number): number[][] {
  const factors = primeFactors(points / 4);
  const odd = factors.filter((f) => f > 2).reverse();
  const twos = factors.length - odd.length;
  const fours = (n: number): number[] => new Array<number>(n).fill(4);
  if (twos % 2 === 0) return [[...odd, ...fours(twos / 2)]];
  const two = [...odd, 2, ...fours((twos - 1) / 2)];
  const eight = twos >= 3 ? [[...odd, 8, ...fours((twos - 3) / 2)]] : [];
  return [...eight, two];
}

const plain = (radices: readonly number[]): Level => ({ radices, tile: 0, pad: 0 });

/** Cut a list of radices into levels after the given stages; the outermost level gets the tile and padding. */
function cut(points: number, radices: readonly number[], cuts: readonly number[], top: Pick<Level, "tile" | "pad">): TransformPlan {
  const edges = [0, ...cuts, radices.length];
  const levels = edges.slice(1).map((to, i) => plain(radices.slice(edges[i], to)));
  return { points, levels: [{ ...levels[0]!, ...top }, ...levels.slice(1)] };
}

/** Block sizes in points that the second level may have: L2-sized and smaller. */
const blockSizes = { least: 4_096, most: 65_536 } as const;
/** Tiles in points: 8 bytes each, a row's part of a tile. */
const tiles = [64, 128, 256, 512] as const;
/** Up to here a whole transform lies in the second-level cache and tiles cannot pay. */
const untiled = 32_768;

/** Plans of one size. */
export function candidatePlans(points: number): TransformPlan[] {
  return radixOrders(points).flatMap((radices) => {
    const plans: TransformPlan[] = [cut(points, radices, [], { tile: 0, pad: 0 })];
    for (let stage = 1; stage < radices.length; stage++) {
      const block = points / product(radices.slice(0, stage));
      if (points <= untiled) {
        if (stage === 1 && radices.length > 2) plans.push(cut(points, radices, [stage], { tile: 0, pad: 0 }));
        continue;
      }
      if (block < blockSizes.least || block > blockSizes.most) continue;
      plans.push(cut(points, radices, [stage], { tile: 0, pad: 0 }));
      for (const tile of tiles) {
        if (block % tile !== 0) continue;
        plans.push(cut(points, radices, [stage], { tile, pad: 64 }));
        if (radices.length - stage > 4) plans.push(cut(points, radices, [stage, stage + 2], { tile, pad: 64 }));
      }
    }
    return plans;
  });
}
