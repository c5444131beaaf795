/**
 * Twiddle tables. All butterflies of a block share the factors t^j, t = e^{2πi·f/r}, where f is the block's phase; the table
 * of a stage holds a few powers of every block's t, and the others are products of two of them.
 */
import type { Complex, Graph } from "../../math/expr.ts";
import { root } from "../../math/twiddle.ts";
import type { PassPlan } from "../../plan/passes.ts";

/** One stage's table: power p of block b at offset + p·blocks + b. */
export interface StageTable {
  readonly offset: number;
  /** Which powers are kept. */
  readonly powers: readonly number[];
  /** Blocks of the whole transform at this stage. */
  readonly blocks: number;
  /** Of them, blocks within one block of the pass. */
  readonly local: number;
}

/** Powers 1, 2, 3 and the multiples of 4: any other is a product of two of them. */
export function keptPowers(radix: number): number[] {
  return Array.from({ length: radix }, (_, j) => j).filter((j) => j > 0 && (j < 4 || j % 4 === 0));
}

/** All powers 0 … radix − 1 from the kept ones. */
export function expandPowers(
  g: Graph,
  powers: readonly number[],
  kept: readonly Complex[],
  radix: number,
): Complex[] {
  const power = (j: number): Complex => kept[powers.indexOf(j)]!;
  return Array.from({ length: radix }, (_, j) => {
    if (j === 0) return { re: g.constant(1), im: g.constant(0) };
    if (powers.includes(j)) return power(j);
    return g.cmul(power(j - (j % 4)), power(j % 4));
  });
}

/** Phase of the transform's root, in quarter turns: x^M = i, or x^M = 1. */
export function rootQuarters(plan: PassPlan): 0 | 1 {
  return plan.packing === "halves" ? 1 : 0;
}

/** Tables of every pass and stage; the first stage of all has one block, whose factors are constants. */
export function stageTables(plan: PassPlan): (StageTable | undefined)[][] {
  let offset = 0;
  let blocks = 1;
  return plan.passes.map((pass) => {
    let local = 1;
    return pass.radices.map((radix) => {
      const powers = keptPowers(radix);
      const table = blocks === 1 ? undefined : { offset, powers, blocks, local };
      if (table) offset += powers.length * blocks;
      blocks *= radix;
      local *= radix;
      return table;
    });
  });
}

/** The tables' contents: complex float32, real and imaginary parts in turn. */
export function twiddleValues(plan: PassPlan): Float32Array<ArrayBuffer> {
  const tables = stageTables(plan).flat();
  const radices = plan.passes.flatMap((p) => p.radices);
  const last = tables.at(-1);
  const size = last ? last.offset + last.powers.length * last.blocks : 1;
  const values = new Float32Array(2 * size);
  // Phases are (quarter + 4·n) / (4·blocks) turns: integers n stand for them exactly.
  let numerators = new Float64Array([rootQuarters(plan)]);
  radices.forEach((radix, s) => {
    const table = tables[s];
    const blocks = numerators.length;
    table?.powers.forEach((power, p) => {
      for (let b = 0; b < blocks; b++) {
        const w = root(power * numerators[b]!, 4 * blocks * radix);
        const at = 2 * (table.offset + p * blocks + b);
        values[at] = w.re;
        values[at + 1] = w.im;
      }
    });
    const next = new Float64Array(blocks * radix);
    for (let b = 0; b < blocks; b++) {
      for (let q = 0; q < radix; q++) next[b * radix + q] = numerators[b]! + 4 * blocks * q;
    }
    numerators = next;
  });
  return values;
}
