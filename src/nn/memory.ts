/**
 * Where the values of a tape lie. A slot is memory that one value has from the step that makes it to the last that reads it; values
 * of later steps have it after that. Models repeat their sizes block by block, so slots fit again and again, and what a step reads
 * and writes never shares one, which is what GPUs ask for.
 */
import type { Step, TapeTensor } from "./tape.ts";

/** Slots and who has them. */
export interface MemoryPlan {
  /** Bytes of each slot. */
  readonly slots: readonly number[];
  /** The slot of each value that is no part of another. */
  readonly slotOf: ReadonlyMap<TapeTensor, number>;
}

/** Slots begin and end at multiples of this. */
const grain = 256;

/** A slot may be this much larger than the value that it is given to. */
const looseness = 1.25;

/** The steps that something needs: those that write what stays, or what a needed step reads. */
export function neededSteps(steps: readonly Step[], kept: ReadonlySet<TapeTensor>): Step[] {
  const wanted = new Set([...kept].map((t) => t.owner));
  const needed = [...steps].reverse().filter(({ reads, writes }) => {
    const isNeeded = Object.values(writes).some(
      ({ owner }) => owner.role !== "value" || wanted.has(owner),
    );
    if (isNeeded) for (const t of Object.values(reads)) wanted.add(t.owner);
    return isNeeded;
  });
  return needed.reverse();
}

/** Give every value a slot; those of `kept` have theirs to the end. */
export function planMemory(steps: readonly Step[], kept: ReadonlySet<TapeTensor>): MemoryPlan {
  const last = new Map<TapeTensor, number>();
  steps.forEach(({ reads, writes }, at) => {
    for (const { owner } of [...Object.values(reads), ...Object.values(writes)])
      if (owner.role === "value") last.set(owner, at);
  });
  for (const { owner } of kept) if (owner.role === "value") last.set(owner, steps.length);
  const ends = new Map<number, TapeTensor[]>();
  for (const [owner, at] of last) ends.set(at, [...(ends.get(at) ?? []), owner]);

  const slots: number[] = [];
  const free = new Set<number>();
  const slotOf = new Map<TapeTensor, number>();
  const take = (bytes: number): number => {
    const fitting = [...free].filter((s) => slots[s]! >= bytes && slots[s]! <= looseness * bytes);
    const best = fitting.sort((a, b) => slots[a]! - slots[b]!)[0];
    if (best === undefined) return slots.push(bytes) - 1;
    free.delete(best);
    return best;
  };
  steps.forEach(({ writes }, at) => {
    for (const { owner } of Object.values(writes)) {
      if (owner.role !== "value" || slotOf.has(owner)) continue;
      slotOf.set(owner, take(Math.max(grain, Math.ceil(owner.bytes / grain) * grain)));
    }
    for (const owner of ends.get(at) ?? []) free.add(slotOf.get(owner)!);
  });
  return { slots, slotOf };
}
