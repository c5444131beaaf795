/**
 * Twiddle factors. In the ring view a stage's twiddles belong to its blocks, not to positions: block b with ring
 * x^m − c needs t, t², …, t^{r−1} with t^r = c. Phases are exact fractions of a turn: the root ring x^M − i has phase
 * 1/4, and child j of a block of phase f under radix r has phase (f + j)/r.
 */
import { root } from "../math/twiddle.ts";
import type { TransformPlan } from "../plan/plan.ts";

/** One stage in the order of execution; the last one has radix 4 and works on transposed vectors. */
export interface StageTable {
  readonly radix: number;
  /** Blocks that the stage splits. */
  readonly blocks: number;
  /** Bytes from the start of the table. */
  readonly offset: number;
  readonly last: boolean;
}

/** Radices of all stages, outermost first, the fused radix-4 stage last. */
export function allRadices(plan: TransformPlan): number[] {
  return [...plan.levels.flatMap((l) => l.radices), 4];
}

/** Where each stage's twiddles lie, and how many bytes there are. */
export function stageTables(plan: TransformPlan): {
  readonly stages: StageTable[];
  readonly bytes: number;
} {
  const radices = allRadices(plan);
  let blocks = 1;
  let offset = 0;
  const stages = radices.map((radix, i) => {
    const stage = { radix, blocks, offset, last: i === radices.length - 1 };
    offset += blocks * (radix - 1) * 8;
    blocks *= radix;
    return stage;
  });
  return { stages, bytes: offset };
}

/**
 * The twiddle table of a plan: per stage and block the float32 pairs of t, …, t^{r−1}; for the last stage `lanes` blocks
 * together, real parts then imaginary parts of each power.
 */
export function twiddleTable(plan: TransformPlan, lanes: 1 | 4): Float32Array {
  const { stages, bytes } = stageTables(plan);
  const table = new Float32Array(bytes / 4);
  // Phase of block b: numerators[b] / (4·blocks).
  let numerators = [1];
  for (const { radix, blocks, offset, last } of stages) {
    const base = offset / 4;
    const width = last ? lanes : 1;
    for (let b = 0; b < blocks; b++) {
      for (let j = 1; j < radix; j++) {
        const w = root(numerators[b]! * j, 4 * blocks * radix);
        const at =
          base +
          Math.floor(b / width) * 2 * (radix - 1) * width +
          2 * (j - 1) * width +
          (b % width);
        table[at] = w.re;
        table[at + width] = w.im;
      }
    }
    if (last) break;
    const next = new Array<number>(blocks * radix);
    for (let b = 0; b < blocks; b++) {
      for (let j = 0; j < radix; j++) next[b * radix + j] = numerators[b]! + 4 * blocks * j;
    }
    numerators = next;
  }
  return table;
}
