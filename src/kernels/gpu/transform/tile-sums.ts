/**
 * Sums over the threads of a tile: by shuffles among the lanes of a subgroup, then through workgroup memory, where every thread
 * reads the subgroups' sums. The order of additions is the same in every run.
 */
import type { PassLayout } from "../../../plan/gpu/passes.ts";
import { choice, shuffled } from "../dialect/wgsl.ts";
import type { Machine } from "../kernel.ts";
import type { Text } from "../text.ts";

/** How the values of a tile's threads become sums that every thread has. */
interface SumShape {
  /** Values of each thread, a power of two of them. */
  readonly parts: number;
  /** Threads that add up by shuffles. */
  readonly span: number;
  /** Rows of `parts` partial sums that go to workgroup memory, one for each span; 1: none do. */
  readonly rows: number;
  /** Rows that come of them in a step between, in which each thread adds up one column; 0: each thread reads all of them. */
  readonly between: number;
}

/** Most numbers that every thread reads. */
const mostRead = 32;

/** Sums of a tile, and their place in its workgroup memory. */
export interface TileSums extends SumShape {
  /** The first element: 0, where the points are exchanged, or beyond them. */
  readonly first: number;
  /** Elements of the tile in all. */
  readonly elements: number;
}

/** Elements of points for each one that sums may have beside them: more would leave room for fewer workgroups. */
const pointsPerSum = 16;

/** Sums of `parts` values of each thread of a tile whose points take so many elements of workgroup memory. */
export function tileSums(
  parts: number,
  { threads, tiles, exchange }: PassLayout,
  points: number,
  { lanes = 1, sharedBytes }: Machine,
): TileSums {
  const shape = sumShape(parts, threads, lanes);
  const { rows, between } = shape;
  const sums = rows === 1 ? 0 : parts * (rows + between);
  const bytes = (points + sums) * tiles * (exchange === "whole" ? 8 : 4);
  // Elements of their own save waiting until those of the points are read.
  if (sums * pointsPerSum <= points && bytes <= sharedBytes)
    return { ...shape, first: points, elements: points + sums };
  return { ...shape, first: 0, elements: Math.max(points, sums) };
}

/** The shape of the sums of `parts` values of so many threads, of which `lanes` at a time are lanes of one subgroup. */
function sumShape(parts: number, threads: number, lanes: number): SumShape {
  let span = 1;
  while (2 * span <= lanes && threads % (2 * span) === 0) span *= 2;
  const rows = threads / span;
  let between = 0;
  if (rows * parts > mostRead) {
    const reads = (n: number): number => rows / n + n * parts;
    for (let n = 2; n * parts <= threads && n < rows; n++) {
      if (rows % n === 0 && (between === 0 || reads(n) < reads(between))) between = n;
    }
  }
  return { parts, span, rows, between };
}

/** Workgroup memory as the sums use it: texts of an element to be stored and as it is read, and barriers. */
export interface SumMemory {
  readonly put: (index: string, value: string) => void;
  readonly get: (index: string) => string;
  /** Waits until nobody reads what was there before. */
  readonly claim: () => void;
  /** Waits until everybody has stored. */
  readonly meet: () => void;
}

/**
 * Butterfly reduce-scatter over the lanes of a span, log2(span) shuffles: each halves the parts that a lane has, then lane b ends
 * with the sum of part bit-reverse(b). Four lanes, parts abcd: ab|cd|ab|cd, then a|c|b|d. With no parts left to halve, sums are of all.
 */
function fold(text: Text, values: readonly string[], span: number): string[] {
  let v = [...values];
  for (let distance = 1; distance < span; distance *= 2) {
    const half = v.length / 2;
    if (half < 1) {
      v = v.map((x) => text.hold("n", `${x} + ${shuffled(x, distance)}`));
      continue;
    }
    const upper = text.hold("o", `(t & ${distance}u) != 0u`);
    v = v.slice(0, half).map((low, i) => {
      const high = v[half + i]!;
      const given = shuffled(choice(upper, low, high), distance);
      return text.hold("n", `${choice(upper, high, low)} + ${given}`);
    });
  }
  return v;
}

/** Butterfly all-gather: every lane of a span gets all parts, the way back from `fold`. */
function unfold(text: Text, folded: readonly string[], parts: number): string[] {
  let v = [...folded];
  while (v.length < parts) {
    const distance = parts / v.length / 2;
    const upper = text.hold("o", `(t & ${distance}u) != 0u`);
    const others = v.map((x) => text.hold("n", shuffled(x, distance)));
    const pick = (low: string, high: string): string => text.hold("n", choice(upper, high, low));
    v = [...v.map((x, i) => pick(x, others[i]!)), ...v.map((x, i) => pick(others[i]!, x))];
  }
  return v;
}

/** Sums of each of the values over the threads of a tile; the thread's number is `t`. */
export function addUp(
  text: Text,
  values: readonly string[],
  shape: SumShape,
  memory: SumMemory,
): string[] {
  const { parts, span, between } = shape;
  const folded = fold(text, values, span);
  if (shape.rows === 1) return unfold(text, folded, parts);
  memory.claim();
  const holders = parts / folded.length;
  const row = span === 1 ? "t" : text.hold("n", `t / ${span}u`);
  // Bits of the lane from the lowest on say which half, which quarter and so on of the parts is the thread's.
  const own: string[] = [];
  for (let d = 1; d < holders; d *= 2) own.push(`(t / ${d}u % 2u) * ${parts / (2 * d)}u`);
  const put = (): void =>
    folded.forEach((x, i) => {
      memory.put([`${row} * ${parts}u`, ...own, `${i}u`].join(" + "), x);
    });
  if (span > 1) text.when(`t % ${span}u < ${holders}u`, put);
  else put();
  memory.meet();
  let first = 0;
  let rows = shape.rows;
  if (between > 0) {
    const columns = between * parts;
    const column = text.hold("n", `t % ${columns}u`);
    const sum = text.variable(text.fresh("n"), "0.0f");
    text.loop("j", column, `j < ${rows * parts}u`, `j += ${columns}u`, () =>
      text.line(`${sum} += ${memory.get("j")};`),
    );
    first = rows * parts;
    rows = between;
    text.when(`t < ${columns}u`, () => memory.put(`${column} + ${first}u`, sum));
    memory.meet();
  }
  return values.map((_, part) => {
    const all = Array.from({ length: rows }, (_, r) => memory.get(`${first + r * parts + part}u`));
    return text.hold("n", all.join(" + "));
  });
}
