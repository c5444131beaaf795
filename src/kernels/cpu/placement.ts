/**
 * Where a row lies in the negacyclic sequence of P = 2M positions. Sample i of a row sits at one position, or at several
 * (a circular kernel reaches back and ahead); negative positions wrap with their sign changed, since x^P = −1.
 */
import type { Run } from "../../plan/geometry.ts";

/** How one slot of a butterfly is fed over a run of vectors: sample = n + delta for column n, lanes [first, last). */
export interface Feed {
  readonly delta: number;
  readonly sign: 1 | -1;
  readonly first: number;
  readonly last: number;
}

/** Vectors [from, to) of the columns of a radix-r stage, over which every slot is fed alike. */
export interface Segment {
  readonly from: number;
  readonly to: number;
  /** Feeds of slot j's real (2j) and imaginary (2j+1) part; none means zero. */
  readonly slots: readonly (readonly Feed[])[];
}

interface Cover {
  readonly slot: number;
  readonly from: number;
  readonly to: number;
  readonly delta: number;
  readonly sign: 1 | -1;
}

/** Cut the columns 0 … points/radix − 1 into segments, in vectors of `lanes`. */
export function segments(
  runs: readonly Run[],
  points: number,
  radix: number,
  lanes: number,
): Segment[] {
  const columns = points / radix;
  const covers: Cover[] = [];
  for (let slot = 0; slot < 2 * radix; slot++) {
    const base = (slot & 1) * points + (slot >> 1) * columns;
    for (const { index, count, ...run } of runs) {
      const wraps = run.position < 0;
      const position = wraps ? 2 * points + run.position : run.position;
      const sign = wraps === (run.sign === 1) ? -1 : 1;
      const from = Math.max(0, position - base);
      const to = Math.min(columns, position + count - base);
      if (from < to) covers.push({ slot, from, to, delta: base - position + index, sign });
    }
  }
  const cuts = new Set([0, columns / lanes]);
  for (const c of covers) {
    for (const edge of [c.from, c.to]) {
      cuts.add(Math.floor(edge / lanes));
      cuts.add(Math.ceil(edge / lanes));
    }
  }
  const sorted = [...cuts].sort((a, b) => a - b);
  return sorted.slice(1).map((to, i) => {
    const from = sorted[i]!;
    const slots = Array.from({ length: 2 * radix }, (_, slot) =>
      covers
        .filter((c) => c.slot === slot && c.from < to * lanes && c.to > from * lanes)
        .map((c) => ({
          delta: c.delta,
          sign: c.sign,
          first: Math.max(0, c.from - from * lanes),
          last: to - from === 1 ? Math.min(lanes, c.to - from * lanes) : lanes,
        })),
    );
    return { from, to, slots };
  });
}
