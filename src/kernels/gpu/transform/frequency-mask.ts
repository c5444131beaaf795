/**
 * The table of a frequency-sparse convolution, which kernels bind as `pattern`: for each pass but the first the numbers of
 * the blocks that keep a bin, then a bit for each block, and last a bit for each point.
 */
import type { KeptFrequencies } from "../../../plan/frequencies.ts";
import { keptByPass } from "../../../plan/gpu/kept-blocks.ts";
import type { PassPlan } from "../../../plan/gpu/passes.ts";

/** Where the blocks of a pass, or the points, stand in the table, in words. */
interface Section {
  /** The first of the blocks' numbers. */
  readonly list: number;
  /** How many blocks are left. */
  readonly count: number;
  /** The first word of bits. */
  readonly bits: number;
}

/** The table and its contents. */
export interface PatternTable {
  /** Of the blocks of each pass, and of the points. */
  readonly sections: readonly Section[];
  readonly words: Uint32Array<ArrayBuffer>;
}

/** The table of a plan and a pattern. */
export function patternTable(plan: PassPlan, kept: KeptFrequencies): PatternTable {
  const parts: ArrayLike<number>[] = [];
  let size = 0;
  const add = (more: ArrayLike<number>): number => {
    parts.push(more);
    size += more.length;
    return size - more.length;
  };
  const sections = keptByPass(kept, plan).map((blocks, i, all): Section => {
    const left: number[] = [];
    for (let b = 0; b < blocks.length; b++) if (blocks[b] === 1) left.push(b);
    // Points are never listed, and the first pass has one block.
    const list = i > 0 && i < all.length - 1 ? add(left) : size;
    const packed = new Uint32Array(Math.ceil(blocks.length / 32));
    for (const b of left) packed[b >> 5]! |= 1 << (b & 31);
    return { list, count: left.length, bits: add(packed) };
  });
  const words = new Uint32Array(size);
  for (let i = 0, at = 0; i < parts.length; at += parts[i++]!.length) words.set(parts[i]!, at);
  return { sections, words };
}

/** Text of whether a section's block or point of that number is left. */
export function isLeft({ bits }: Section, number: string): string {
  return `((pattern[${bits}u + ((${number}) >> 5u)] >> ((${number}) & 31u)) & 1u) == 1u`;
}
