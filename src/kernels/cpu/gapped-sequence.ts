/**
 * Float32 sequences in work memory, between the factors of a cyclic transform. A butterfly reads and writes one at places
 * that are often a power of two apart, which would share a cache set: 16 streams then evict each other's lines before
 * they are used up, and a sweep takes four times as long (EPYC 7003). So there are gaps.
 */
import type { TransformPlan } from "../../plan/cpu/plan.ts";
import { layout } from "../../plan/cpu/plan.ts";

/** Position p lies at byte 4·p, and one cache line further for every `chunk` positions before it. */
export interface Sequence {
  /** Positions between gaps; 0 where there are none. */
  readonly chunk: number;
}

/** Bytes of a gap: a cache line. */
export const gap = 64;

/** Bytes up to the end of a cache line. */
export function wholeLines(bytes: number): number {
  return gap * Math.ceil(bytes / gap);
}

/** Bytes to position `p`, which begins a chunk where there are any. */
export function sequenceOffset({ chunk }: Sequence, p: number): number {
  return 4 * p + (chunk ? (p / chunk) * gap : 0);
}

/** Bytes of a sequence of so many positions. */
export function sequenceBytes(sequence: Sequence, positions: number): number {
  return Math.ceil(sequenceOffset(sequence, positions));
}

/** Positions of a slot of the first stage, and of a run of columns that it works on at a time. */
function shape(plan: TransformPlan): { readonly slot: number; readonly run: number } {
  const top = layout(plan)[0]!;
  const slot = plan.points / top.radices[0]!;
  if (top.tile === 0 && top.pad === 0) return { slot, run: slot };
  return { slot, run: top.tile || top.columns };
}

/** Chunks shorter than this are not worth the loops that stop at each. */
const shortest = 64;

/** The greatest common divisor. */
export function commonDivisor(a: number, b: number): number {
  return b === 0 ? a : commonDivisor(b, a % b);
}

/** A sequence between two transforms: gaps where slots of both begin, and nowhere within what one works on at a time. */
export function sequenceBetween(a: TransformPlan, b: TransformPlan): Sequence {
  const [x, y] = [shape(a), shape(b)];
  const chunk = commonDivisor(x.slot, y.slot);
  const even = [x, y].every(({ run }) => run % chunk === 0 || chunk % run === 0);
  return { chunk: even && chunk >= shortest ? chunk : 0 };
}
