/**
 * The innermost loops of a product. Packed panels hold, step by step of k, an element of each row or column of a tile; the
 * sums of the tile stay in registers.
 */
import type { Node } from "../../../math/expr.ts";
import { Graph } from "../../../math/expr.ts";
import type { RegisterTile } from "../../../plan/cpu/product.ts";
import { tileWidth } from "../../../plan/cpu/product.ts";
import type { Int, KernelFunction, Statement, Store } from "../ir.ts";
import { loop, plus, times } from "../ir.ts";

export const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
export const set = (name: string, value: Int): Statement => ({ op: "let", name, value });
const sumOf = (i: number): string => `sum${i}`;

/** Sums begin at 0. */
function clearSums(count: number): Statement {
  const value = new Graph().constant(0);
  return {
    op: "block",
    stores: [],
    registers: range(count).map((i) => ({ name: sumOf(i), value })),
  };
}

/** Each sum gains a product. */
function gain(g: Graph, products: readonly (readonly [Node, Node])[]): Statement {
  const registers = products.map(([a, b], i) => ({
    name: sumOf(i),
    value: g.fma(a, b, g.register(sumOf(i))),
  }));
  return { op: "block", stores: [], registers };
}

/** Steps of k that a round of the loop takes. */
const unroll = 4;

/** {name}(a, b, t, depth): the tile at t becomes the sum over `depth` steps of packed panels, or gains it. */
export function tileFunction(name: string, tile: RegisterTile, adds: boolean): KernelFunction {
  const { rows, vectors, lanes } = tile;
  const width = tileWidth(tile);
  const step = (at: number): Statement => {
    const g = new Graph();
    const a = (row: number): Node =>
      g.load({ pointer: "a", offset: 4 * (at * rows + row) }, "splat", 0, lanes);
    const b = (v: number): Node =>
      g.load({ pointer: "b", offset: 4 * (at * width + lanes * v) }, "float32", 0, lanes);
    return gain(
      g,
      range(rows).flatMap((row) => range(vectors).map((v) => [a(row), b(v)] as const)),
    );
  };
  const rounds = (steps: number, end: Int): Statement =>
    loop(
      "a",
      "a",
      end,
      4 * rows * steps,
      range(steps).map(step),
      [{ name: "b", from: "b", step: 4 * width * steps }],
      false,
    );
  const g = new Graph();
  const stores = range(rows * vectors).map((i): Store => {
    const at = { pointer: "t", offset: 4 * lanes * i };
    const sum = g.register(sumOf(i));
    const value = adds ? g.add(g.load(at, "float32", 0, lanes), sum) : sum;
    return { at, format: "float32", value, first: 0, last: lanes };
  });
  const whole = times({ op: "div", a: "depth", by: unroll }, 4 * rows * unroll);
  return {
    ...{ name, parameters: ["a", "b", "t", "depth"], exported: false },
    body: [
      clearSums(rows * vectors),
      set("end", plus("a", times("depth", 4 * rows))),
      rounds(unroll, plus("a", whole)),
      rounds(1, "end"),
      { op: "block", stores },
    ],
  };
}

/** Pointers x0 … to `count` lines of memory, `stride` bytes apart from `source` on; in place of those behind the last, the last. */
export function linePointers(
  count: number,
  source: string,
  stride: string,
  last: string,
): Statement[] {
  return range(count).map((i) =>
    set(`x${i}`, i === 0 ? source : { op: "min", a: plus(`x${i - 1}`, stride), b: last }),
  );
}

/** A loop along such lines, in rounds of `steps` elements: `variable` goes to `end` by `by` bytes a round. */
export function alongLines(
  count: number,
  [variable, by, end]: readonly [string, number, Int],
  steps: number,
  body: Statement,
): Statement {
  const also = range(count).map((i) => ({ name: `x${i}`, from: `x${i}`, step: 4 * steps }));
  return loop(variable, variable, end, by, [body], also, false);
}

/**
 * {name}(a, b, t, depth, stride, last): a row of sums at t, from a row of A and columns of B that lie as lines. A sum
 * has a part in each lane.
 */
export function dotFunction(name: string, { lanes, ...tile }: RegisterTile): KernelFunction {
  const width = tileWidth({ lanes, ...tile });
  const rounds = (count: number, end: Int): Statement => {
    const g = new Graph();
    const load = (pointer: string): Node => g.load({ pointer, offset: 0 }, "float32", 0, count);
    const products = range(width).map((i) => [load("a"), load(`x${i}`)] as const);
    return alongLines(width, ["a", 4 * count, end], count, gain(g, products));
  };
  const g = new Graph();
  const stores = range(width / lanes).map((v): Store => {
    const sums = range(lanes).map((i) => g.register(sumOf(v * lanes + i)));
    const value =
      lanes === 1
        ? sums[0]!
        : g.transpose4(sums as [Node, Node, Node, Node]).reduce((x, y) => g.add(x, y));
    return {
      at: { pointer: "t", offset: 4 * lanes * v },
      format: "float32",
      value,
      first: 0,
      last: lanes,
    };
  });
  return {
    ...{ name, parameters: ["a", "b", "t", "depth", "stride", "last"], exported: false },
    body: [
      clearSums(width),
      ...linePointers(width, "b", "stride", "last"),
      set("end", plus("a", times("depth", 4))),
      ...(lanes > 1
        ? [rounds(lanes, plus("a", times({ op: "div", a: "depth", by: lanes }, 4 * lanes)))]
        : []),
      rounds(1, "end"),
      { op: "block", stores },
    ],
  };
}
