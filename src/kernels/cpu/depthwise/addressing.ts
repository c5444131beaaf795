/** Where the samples, taps and cells of a short convolution lie, and the filters' sums over them. */
import type { Dtype } from "../../../dtype.ts";
import { bytesPerSample } from "../../../dtype.ts";
import type { Node } from "../../../math/expr.ts";
import { Graph } from "../../../math/expr.ts";
import type { DepthwiseProblem } from "../../../plan/depthwise.ts";
import { cutting, widths } from "../../../plan/depthwise.ts";
import { heldTaps } from "../../../plan/device.ts";
import type { Statement, Store } from "../ir.ts";
import type { Cells, Moving } from "./loops.ts";
import { walk } from "./loops.ts";

/** What determines a program's text. */
export interface DepthwiseSpec {
  readonly kind: "forward" | "backward";
  readonly problem: DepthwiseProblem;
  readonly lanes: 1 | 4;
}

/** Where things lie, in bytes, for one spec. */
export interface Frame {
  readonly spec: DepthwiseSpec;
  readonly branches: number;
  readonly outputs: number;
  readonly bytes: 2 | 4;
  /** From one position to the next: in the window, in x, in y, in the table of taps (from tap to tap). */
  readonly window: number;
  readonly input: number;
  readonly output: number;
  readonly tap: number;
}

/** Sizes of a program's memory that jobs must know. */
export function frame(spec: DepthwiseSpec): Frame {
  const { problem } = spec;
  const { branches, outputs } = widths(problem.form);
  const bytes = bytesPerSample(problem.dtype);
  const across = problem.layout === "BLH";
  return {
    ...{ spec, branches, outputs, bytes },
    window: across ? 4 * cutting(problem).tileChannels : 4,
    input: across ? branches * problem.channels * bytes : bytes,
    output: across ? problem.channels * bytes : bytes,
    tap: across ? 4 * branches * problem.channels : 4,
  };
}

/** A pointer into rows of `position` bytes from sample to sample. */
export function rows(f: Frame, name: string, position: number, format: Dtype): Moving {
  return { name, position, channel: f.spec.problem.layout === "BLH" ? bytesPerSample(format) : 0 };
}

/** A pointer that moves across channels only: taps, bias, sums. */
export function columns(f: Frame, name: string): Moving {
  return { name, position: 0, channel: f.spec.problem.layout === "BLH" ? 4 : 0 };
}

/** Byte offset of a cell from a pointer whose positions lie `position` bytes apart, plus `ahead` positions. */
export function cellOffset(
  { spec }: Frame,
  format: Dtype,
  position: number,
  [row, vector]: readonly [row: number, vector: number],
  ahead = 0,
): number {
  const size = bytesPerSample(format);
  if (spec.problem.layout === "BHL") return (row * spec.lanes + ahead) * size;
  return (row + ahead) * position + vector * spec.lanes * size;
}

/** All cells of a block, row by row within each vector of channels: neighbours share taps and samples. */
export function cellsOf({ rows, vectors }: Cells): [row: number, vector: number][] {
  return Array.from({ length: rows * vectors }, (_, i) => [i % rows, Math.floor(i / rows)]);
}

/** A block of what `store` says of each of its cells. */
export function eachCell(
  store: (g: Graph, cell: readonly [row: number, vector: number], stored: number) => Store[],
): (shape: Cells) => Statement[] {
  return (shape) => {
    const g = new Graph();
    const stores = cellsOf(shape).flatMap((cell) => store(g, cell, shape.stored));
    return [{ op: "block", stores }];
  };
}

/** A tap as every lane of a cell needs it. */
export function tapNode(f: Frame, g: Graph, name: string, tap: number, vector: number): Node {
  const across = f.spec.problem.layout === "BLH";
  const offset = tap * f.tap + (across ? vector * f.spec.lanes * 4 : 0);
  return g.load({ pointer: `${name}p`, offset }, across ? "float32" : "splat", 0, f.spec.lanes);
}

/** A sample of the window under a cell, `ahead` positions further on. */
export function sampleNode(
  f: Frame,
  g: Graph,
  name: string,
  position: number,
  cell: readonly [number, number],
  ahead: number,
): Node {
  const offset = cellOffset(f, "float32", position, cell, ahead);
  // Unaligned vectors of one row overlap: to load them again is cheaper than to keep them.
  const copy = f.spec.problem.layout === "BHL" && f.spec.lanes > 1 ? cell[0] : 0;
  return g.load({ pointer: `${name}p`, offset, copy }, "float32", 0, f.spec.lanes);
}

export function storeCell(
  f: Frame,
  pointer: string,
  position: number,
  format: Dtype,
  cell: readonly [number, number],
  value: Node,
  stored: number,
): Store {
  const offset = cellOffset(f, format, position, cell);
  return { at: { pointer: `${pointer}p`, offset }, format, value, first: 0, last: stored };
}

/**
 * Block sizes of filters. Few taps are kept and cells follow each other; with many, the sums of four cells advance together
 * (256 taps: 3 times the speed of eight, whose partial sums spill; EPYC 7003, Node 20).
 */
function filterShape(f: Frame, branches: number): { rows: number; vectors: number } {
  const { problem, lanes } = f.spec;
  const few = !advanceTogether(f, branches);
  if (problem.layout === "BHL") return { rows: few ? 8 : branches > 1 ? 2 : 4, vectors: 1 };
  if (lanes === 1) return { rows: 4, vectors: 1 };
  if (branches > 1) return { rows: 2, vectors: few ? 2 : 1 };
  return few ? { rows: 4, vectors: 4 } : { rows: 4, vectors: 1 };
}

/** Which filters a function applies: windows, taps and biases by branch, and how the window lies. */
export interface Filters {
  readonly window: number;
  readonly branches: readonly number[];
  /** Taps from last to first and no bias: the transpose, for gradients of x. */
  readonly reversed?: boolean;
  /** No bias. */
  readonly unbiased?: boolean;
}

function isBiased({ reversed, unbiased }: Filters): boolean {
  return !reversed && !unbiased;
}

/** Taps whose products are summed before they join the sum: 256 taps then err by 1.2e-7 instead of 2.8e-7. */
const tapsPerSum = 32;

/** Outputs z of the filters for every cell of a block, taps in one order for all: z = bias + Σ_j w[j]·window[j]. */
function filterNodes(
  f: Frame,
  g: Graph,
  filters: Filters,
  cells: readonly (readonly [number, number])[],
): Map<number, Node[]> {
  const { window, branches, reversed } = filters;
  const { kernelLength } = f.spec.problem;
  const zero = g.constant(0);
  const start = ([, vector]: readonly [number, number], b: number): Node =>
    isBiased(filters) ? tapNode(f, g, `b${b}`, 0, vector) : zero;
  const sums = new Map(branches.map((b) => [b, cells.map((cell) => start(cell, b))]));
  const few = kernelLength <= tapsPerSum;
  const parts = few ? sums : new Map(branches.map((b) => [b, cells.map(() => zero)]));
  for (let j = 0; j < kernelLength; j++) {
    const tap = reversed ? kernelLength - 1 - j : j;
    const last = !few && (j + 1 === kernelLength || (j + 1) % tapsPerSum === 0);
    for (const b of branches) {
      const [z, part] = [sums.get(b)!, parts.get(b)!];
      cells.forEach((cell, i) => {
        const x = sampleNode(f, g, `s${b}`, window, cell, j);
        part[i] = g.fma(x, tapNode(f, g, `w${b}`, tap, cell[1]), part[i]!);
        if (!last) return;
        z[i] = g.add(z[i]!, part[i]!);
        part[i] = zero;
      });
    }
  }
  return sums;
}

/** Whether the sums of a filter block are to advance together. */
function advanceTogether(f: Frame, branches: number): boolean {
  const held = branches > 1 ? heldTaps.several : heldTaps.one;
  return branches * f.spec.problem.kernelLength > held;
}

/** Names of the pointers that filters take. */
export function filterParameters(filters: Filters): string[] {
  const names = isBiased(filters) ? ["s", "w", "b"] : ["s", "w"];
  return names.flatMap((p) => filters.branches.map((b) => `${p}${b}`));
}

/** The same, as they move. */
function filterPointers(f: Frame, filters: Filters): Moving[] {
  return filterParameters(filters).map((name) =>
    name.startsWith("s") ? rows(f, name, filters.window, "float32") : columns(f, name),
  );
}

/** The body of a walk in layout BHL with the few taps and biases loaded once, ahead of its loops. */
function holdTaps(f: Frame, g: Graph, filters: Filters, body: readonly Statement[]): Statement[] {
  const { branches } = filters;
  const { layout, kernelLength } = f.spec.problem;
  if (layout === "BLH") return [...body];
  const taps = Array.from({ length: kernelLength }, (_, j) => j);
  const nodes = branches.flatMap((b) => [
    ...(isBiased(filters) ? [tapNode(f, g, `b${b}`, 0, 0)] : []),
    ...taps.map((j) => tapNode(f, g, `w${b}`, j, 0)),
  ]);
  const loops = body.findIndex((s) => s.op === "loop");
  return [...body.slice(0, loops), { op: "hold", nodes }, ...body.slice(loops)];
}

/** A walk over the cells of filters: `store` says what becomes of their outputs z, by branch, at one of them. */
export function filterWalk(
  f: Frame,
  filters: Filters,
  pointers: readonly Moving[],
  overrun: boolean,
  store: (
    g: Graph,
    cell: readonly [row: number, vector: number],
    z: (branch: number) => Node,
    stored: number,
  ) => readonly Store[],
): Statement[] {
  const { problem, lanes } = f.spec;
  const { length } = filters.branches;
  const together = advanceTogether(f, length);
  const g = new Graph();
  const block = (shape: Cells): Statement[] => {
    const cells = cellsOf(shape);
    const sums = filterNodes(f, g, filters, cells);
    const stores = cells.flatMap((cell, i) =>
      store(g, cell, (b) => sums.get(b)![i]!, shape.stored),
    );
    return [{ op: "block", stores, ordered: together }];
  };
  const body = walk({
    ...{ layout: problem.layout, lanes, ...filterShape(f, length), overrun, block },
    pointers: [...filterPointers(f, filters), ...pointers],
  });
  return together ? body : holdTaps(f, g, filters, body);
}
