/**
 * Loops over the samples of a window, for both layouts. A cell is one vector of results: in layout BHL consecutive samples
 * of a row, in BLH consecutive channels of one sample. Blocks of cells are tried from large to small, at last single lanes,
 * so that nothing is written beyond the end. Every sample's arithmetic is the same whichever block it falls into, which is
 * why a sequence may be cut anywhere without a bit changing.
 */
import type { Layout } from "../../../plan/depthwise.ts";
import type { Int, Statement } from "../ir.ts";
import { loop, plus, times } from "../ir.ts";

/** A block of cells: `rows` along the sequence times `vectors` across channels (1 in BHL). */
export interface Cells {
  readonly rows: number;
  readonly vectors: number;
  /** Lanes that are stored: all, or 1 at an edge. */
  readonly stored: number;
}

/** A pointer that moves with the walk; inside the blocks its name ends in "p". */
export interface Moving {
  readonly name: string;
  /** Bytes from one position of the sequence to the next. */
  readonly position: number;
  /** Bytes from one channel to the next; layout BLH only. */
  readonly channel: number;
}

export interface Walk {
  readonly layout: Layout;
  readonly lanes: 1 | 4;
  /** The largest block. */
  readonly rows: number;
  readonly vectors: number;
  readonly pointers: readonly Moving[];
  /** Whether the last vector may write beyond the end: into work memory, which has room. */
  readonly overrun: boolean;
  readonly block: (cells: Cells) => readonly Statement[];
}

/** Statements that walk `count` positions and, in layout BLH, `width` channels of each. */
export function walk(w: Walk): Statement[] {
  return w.layout === "BHL" ? alongRow(w) : acrossChannels(w);
}

/** `value` rounded down to a multiple. */
function floor(value: Int, multiple: number): Int {
  return multiple === 1 ? value : times({ op: "div", a: value, by: multiple }, multiple);
}

/** One loop of a walk: its step, and how far it goes. */
interface Stretch {
  readonly from: Int;
  readonly end: Int;
  readonly step: number;
  readonly vectors: number;
  readonly stored: number;
}

/** Stretches over [0, count): blocks of `vectors` vectors, single vectors, single lanes. */
function stretches(
  count: string,
  vectors: number,
  lanes: number,
  overrun: boolean,
): { readonly before: Statement[]; readonly parts: Stretch[] } {
  const [wide, narrow] = [`${count}Wide`, `${count}Narrow`];
  const before: Statement[] = [
    {
      op: "let",
      name: wide,
      value: overrun && vectors === 1 ? count : floor(count, vectors * lanes),
    },
    { op: "let", name: narrow, value: overrun ? count : floor(count, lanes) },
  ];
  const parts: Stretch[] = [
    { from: 0, end: wide, step: vectors * lanes, vectors, stored: lanes },
    { from: wide, end: narrow, step: lanes, vectors: 1, stored: lanes },
    { from: narrow, end: count, step: 1, vectors: 1, stored: 1 },
  ];
  const needed = parts.filter(
    (_, i) => i === 0 || (i === 1 && vectors > 1) || (i === 2 && lanes > 1 && !overrun),
  );
  return { before, parts: needed };
}

function alongRow({ lanes, rows, pointers, overrun, block }: Walk): Statement[] {
  const moving = pointers.filter((p) => p.position !== 0);
  const still = pointers.filter((p) => p.position === 0);
  const { before, parts } = stretches("count", rows, lanes, overrun);
  return [
    ...before,
    ...still.map(({ name }): Statement => ({ op: "let", name: `${name}p`, value: name })),
    ...parts.map(({ from, end, step, vectors, stored }) => {
      const also = moving.map(({ name, position }) => ({
        ...{ name: `${name}p`, from: plus(name, times(from, position)), step: step * position },
      }));
      const body = block({ rows: vectors, vectors: 1, stored });
      return loop("n", from, end, step, body, also, false);
    }),
  ];
}

function acrossChannels({ lanes, rows, vectors, pointers, overrun, block }: Walk): Statement[] {
  const { before, parts } = stretches("width", vectors, lanes, overrun);
  const inner = (height: number): Statement[] =>
    parts.map(({ from, end, step, vectors, stored }) => {
      const also = pointers.map(({ name, position, channel }) => ({
        name: `${name}p`,
        from: plus(position === 0 ? name : `${name}r`, times(from, channel)),
        step: step * channel,
      }));
      return loop("c", from, end, step, block({ rows: height, vectors, stored }), also, false);
    });
  const moving = pointers.filter((p) => p.position !== 0);
  const outer = (from: Int, end: Int, height: number): Statement => {
    const also = moving.map(({ name, position }) => ({
      ...{ name: `${name}r`, from: plus(name, times(from, position)), step: height * position },
    }));
    return loop("n", from, end, height, inner(height), also, false);
  };
  const tall = floor("count", rows);
  const rest = rows > 1 ? [outer("countTall", "count", 1)] : [];
  return [
    ...before,
    { op: "let", name: "countTall", value: tall },
    outer(0, "countTall", rows),
    ...rest,
  ];
}
