/** The innermost loops of a product: the sums of a tile stay in registers while k goes by. */
import type { Format, Node } from "../../../math/expr.ts";
import { Graph } from "../../../math/expr.ts";
import type { RegisterTile } from "../../../plan/cpu/product.ts";
import { tileWidth } from "../../../plan/cpu/product.ts";
import type { Int, KernelFunction, Statement, Store } from "../ir.ts";
import { loop, plus, times } from "../ir.ts";

export const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

export const set = (name: string, value: Int): Statement => ({ op: "let", name, value });

/** `lanes` elements from the `first` one at a pointer on. */
export function load(
  ...[g, pointer, first, lanes, format = "float32"]: [Graph, string, number, number, Format?]
): Node {
  return g.load({ pointer, offset: 4 * first }, format, 0, lanes);
}

export function store(pointer: string, first: number, value: Node, lanes: number): Store {
  const at = { pointer, offset: 4 * first };
  return { at, format: "float32", value, first: 0, last: lanes };
}

/** Sets registers sum0 …, as many as there are values. */
function setSums(values: readonly Node[]): Statement {
  const registers = values.map((value, i) => ({ name: `sum${i}`, value }));
  return { op: "block", stores: [], registers };
}

const zeros = (count: number): Statement =>
  setSums(range(count).map(() => new Graph().constant(0)));

/** Each sum gains a product. */
function gain(g: Graph, products: readonly (readonly [Node, Node])[]): Statement {
  return setSums(products.map(([a, b], i) => g.fma(a, b, g.register(`sum${i}`))));
}

/**
 * {name}(a, b, t, depth): the tile at t becomes the sum over `depth` steps of packed panels, or gains it. More than a step a
 * round gains 1.5 % at most.
 */
export function tileFunction(name: string, tile: RegisterTile, adds: boolean): KernelFunction {
  const { rows, vectors, lanes } = tile;
  const g = new Graph();
  const a = range(rows).map((row) => load(g, "a", row, lanes, "splat"));
  const b = range(vectors).map((v) => load(g, "b", lanes * v, lanes));
  const products = a.flatMap((x) => b.map((y) => [x, y] as const));
  const stores = products.map((_, i): Store => {
    const sum = g.register(`sum${i}`);
    return store("t", lanes * i, adds ? g.add(load(g, "t", lanes * i, lanes), sum) : sum, lanes);
  });
  const end = plus("a", times("depth", 4 * rows));
  const also = [{ name: "b", from: "b", step: 4 * tileWidth(tile) }];
  return {
    ...{ name, parameters: ["a", "b", "t", "depth"], exported: false },
    body: [
      zeros(products.length),
      loop("a", "a", end, 4 * rows, [gain(g, products)], also),
      { op: "block", stores },
    ],
  };
}

/** Pointers x0 … to `count` lines of memory, `stride` bytes apart; in place of those behind the last, the last. */
export function linesFrom(source: string, count: number): Statement[] {
  const next = (i: number): Int => ({ op: "min", a: plus(`x${i - 1}`, "stride"), b: "last" });
  return range(count).map((i) => set(`x${i}`, i === 0 ? source : next(i)));
}

/** Goes along them by `steps` elements a round, while a pointer goes on by so many bytes until `end`. */
export function alongLines(
  count: number,
  steps: number,
  [pointer, bytes, end]: readonly [string, number, Int],
  round: Statement,
): Statement {
  const also = range(count).map((i) => ({ name: `x${i}`, from: `x${i}`, step: 4 * steps }));
  return loop(pointer, pointer, end, bytes, [round], also, false);
}

/** `depth` without what does not fill a vector. */
export const wholeVectors = (lanes: 1 | 4): Int =>
  times({ op: "div", a: "depth", by: lanes }, lanes);

/** dot(a, b, t, depth, stride, last): a row of sums at t, of a row of A and of columns of B that lie as lines. */
export function dotFunction(tile: RegisterTile): KernelFunction {
  const { lanes, vectors } = tile;
  const width = tileWidth(tile);
  const rounds = (steps: number, end: Int): Statement => {
    const g = new Graph();
    const of = (pointer: string): Node => load(g, pointer, 0, steps);
    const products = range(width).map((i) => [of("a"), of(`x${i}`)] as const);
    return alongLines(width, steps, ["a", 4 * steps, end], gain(g, products));
  };
  const g = new Graph();
  const stores = range(vectors).map((v): Store => {
    const [x, ...rest] = range(lanes).map((i) => g.register(`sum${v * lanes + i}`));
    const lines = rest.length > 0 ? g.transpose4([x, ...rest] as never) : [x!];
    return store(
      "t",
      lanes * v,
      lines.reduce((sum, line) => g.add(sum, line)),
      lanes,
    );
  });
  return {
    ...{ name: "dot", parameters: ["a", "b", "t", "depth", "stride", "last"], exported: false },
    body: [
      zeros(width),
      ...linesFrom("b", width),
      set("end", plus("a", times("depth", 4))),
      rounds(lanes, plus("a", times(wholeVectors(lanes), 4))),
      rounds(1, "end"),
      { op: "block", stores },
    ],
  };
}
