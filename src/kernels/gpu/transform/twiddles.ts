/**
 * Twiddle tables. All butterflies of a block share the factors t^j, t = e^{2πi·f/r}, where f is the block's phase; the table
 * of a stage holds powers of every block's t, two to an element of 16 bytes.
 */
import type { Complex, Graph } from "../../../math/expr.ts";
import { root } from "../../../math/roots.ts";
import type { PassPlan } from "../../../plan/gpu/passes.ts";
import { digitAt, passLayouts, placeOfSlot } from "../../../plan/gpu/passes.ts";

/** One stage's table: powers 2p and 2p + 1 of those kept, of block b, in element offset + p·blocks + b. */
export interface StageTable {
  /** Elements before it. */
  readonly offset: number;
  /** Which powers are kept. */
  readonly powers: readonly number[];
  /** Blocks of the whole transform at this stage. */
  readonly blocks: number;
  /** Of them, blocks within one block of the pass. */
  readonly local: number;
}

/**
 * Radices up to this keep all powers. Of 16 powers a third is kept: on an H200 the products cost 1 to 3 % less time than the
 * loads that they save.
 */
const fullRadix = 8;

/** Powers that are kept: all, or 1, 2, 3 and the multiples of 4, where any other is a product of two of them. */
export function keptPowers(radix: number): number[] {
  const all = Array.from({ length: radix - 1 }, (_, j) => j + 1);
  return all.filter((j) => radix <= fullRadix || j < 4 || j % 4 === 0);
}

/** Elements of a table for each block. */
const elements = (powers: readonly number[]): number => Math.ceil(powers.length / 2);

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
  return passLayouts(plan).map((pass) => {
    let { blocks } = pass;
    let local = 1;
    return pass.radices.map((radix) => {
      const powers = keptPowers(radix);
      const table = blocks === 1 ? undefined : { offset, powers, blocks, local };
      if (table) offset += elements(powers) * blocks;
      blocks *= radix;
      local *= radix;
      return table;
    });
  });
}

/** The phases of the blocks that are kept of a real row, out of those of all R blocks. */
function keptOf(all: Float64Array): Float64Array<ArrayBuffer> {
  const rows = all.length;
  return Float64Array.from({ length: rows / 2 + 1 }, (_, slot) => all[placeOfSlot(slot, rows)]!);
}

/** The tables' contents: complex float32, real and imaginary parts in turn, two to an element. */
export function twiddleValues(plan: PassPlan): Float32Array<ArrayBuffer> {
  const tables = stageTables(plan).flat();
  const radices = plan.passes.flatMap((p) => p.radices);
  const last = tables.at(-1);
  const size = last ? last.offset + elements(last.powers) * last.blocks : 1;
  const values = new Float32Array(4 * size);
  // Phases are (quarter + 4·n) / (4·all) turns, of all blocks, kept or not: integers n stand for them exactly.
  let numerators = new Float64Array([rootQuarters(plan)]);
  let all = 1;
  const apart = plan.packing === "neighbours" ? plan.passes[0]!.radices.length - 1 : undefined;
  radices.forEach((radix, s) => {
    const table = tables[s];
    const blocks = numerators.length;
    table?.powers.forEach((power, p) => {
      for (let b = 0; b < blocks; b++) {
        const w = root(power * numerators[b]!, 4 * all * radix);
        const at = 4 * (table.offset + (p >> 1) * blocks + b) + 2 * (p & 1);
        values[at] = w.re;
        values[at + 1] = w.im;
      }
    });
    const next = new Float64Array(blocks * radix);
    for (let b = 0; b < blocks; b++) {
      for (let q = 0; q < radix; q++)
        next[b * radix + q] = numerators[b]! + 4 * all * digitAt(q, radix);
    }
    numerators = s === apart ? keptOf(next) : next;
    all *= radix;
  });
  return values;
}
