/** Where the work memory of a schedule lies: in as few buffers as the rules for bindings allow. */
import type { Schedule } from "./schedule.ts";

/** A named part of work memory: in which of its buffers, and from which byte on. */
export interface ScratchPlace {
  readonly index: number;
  readonly offset: number;
}

/** Work memory of a schedule. */
export interface ScratchLayout {
  /** Bytes of each buffer. */
  readonly bytes: readonly number[];
  readonly places: ReadonlyMap<string, ScratchPlace>;
}

/** The names that some dispatch reads while it writes the other, or the other way round. */
function conflicts({ steps, bytes }: Schedule<string>): Map<string, Set<string>> {
  const found = new Map<string, Set<string>>();
  for (const { kernel, ranges } of steps) {
    const bound = kernel.bindings
      .map(({ name, access }) => ({ name: ranges[name]!.buffer, access }))
      .filter(({ name }) => name in bytes);
    for (const a of bound) {
      const others = found.get(a.name) ?? new Set();
      found.set(a.name, others);
      for (const b of bound) if (a.access !== b.access) others.add(b.name);
    }
  }
  return found;
}

/**
 * Put each part into the first buffer where it may lie: WebGPU lets a dispatch write several ranges of a buffer or read them, not
 * both. No buffer has more than `most` bytes, but for a part that alone has.
 */
export function layOutScratch(
  schedule: Schedule<string>,
  alignment: number,
  most: number,
): ScratchLayout {
  const against = conflicts(schedule);
  const sizes: number[] = [];
  const places = new Map<string, ScratchPlace>();
  for (const [name, bytes = 0] of Object.entries(schedule.bytes)) {
    const size = Math.ceil(bytes / alignment) * alignment;
    const taken = new Set([...(against.get(name) ?? [])].map((other) => places.get(other)?.index));
    const free = sizes.findIndex((held, i) => !taken.has(i) && held + size <= most);
    const index = free < 0 ? sizes.length : free;
    const offset = sizes[index] ?? 0;
    places.set(name, { index, offset });
    sizes[index] = offset + size;
  }
  return { bytes: sizes, places };
}
