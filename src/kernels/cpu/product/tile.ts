/**
 * The innermost part of a product: a tile of C in registers, summed over packed panels. A panel of A holds, step by step of
 * k, an element of each of the tile's rows; one of B an element of each of its columns.
 */
import { Graph } from "../../../math/expr.ts";
import type { CpuProductTile } from "../../../plan/cpu/product.ts";
import { tileWidth } from "../../../plan/cpu/product.ts";
import type { KernelFunction, Statement } from "../ir.ts";
import { loop, plus, times } from "../ir.ts";

/** Steps of k that a round of the loop takes. */
const unroll = 4;

/** Cells of a tile, and the registers that hold their sums. */
function cells({ rows, vectors, lanes }: CpuProductTile) {
  return Array.from({ length: rows * vectors }, (_, i) => ({
    row: Math.floor(i / vectors),
    vector: i % vectors,
    offset: 4 * lanes * i,
    register: `sum${i}`,
  }));
}

/** One step of k: each sum gains a product. */
function step(tile: CpuProductTile, at: number): Statement {
  const g = new Graph();
  const { rows, lanes } = tile;
  const registers = cells(tile).map(({ row, vector, register }) => {
    const a = g.load({ pointer: "pa", offset: 4 * (at * rows + row) }, "splat", 0, lanes);
    const offset = 4 * (at * tileWidth(tile) + lanes * vector);
    const b = g.load({ pointer: "pb", offset }, "float32", 0, lanes);
    return { name: register, value: g.fma(a, b, g.register(register)) };
  });
  return { op: "block", stores: [], registers };
}

/** {name}(a, b, t, depth): the tile at t becomes the sum over `depth` steps, or gains it. */
export function tileFunction(name: string, tile: CpuProductTile, adds: boolean): KernelFunction {
  const [perA, perB] = [4 * tile.rows, 4 * tileWidth(tile)];
  const rounds = (from: readonly [string, string], steps: number, nth: number): Statement =>
    loop(
      "pa",
      from[0],
      nth === 1
        ? plus("a", times("depth", perA))
        : plus("a", times({ op: "div", a: "depth", by: nth }, nth * perA)),
      nth * perA,
      Array.from({ length: steps }, (_, at) => step(tile, at)),
      [{ name: "pb", from: from[1], step: nth * perB }],
      false,
    );
  const g = new Graph();
  const zero = g.constant(0);
  const stores = cells(tile).map(({ offset, register }) => {
    const at = { pointer: "t", offset };
    const sum = g.register(register);
    const value = adds ? g.add(g.load(at, "float32", 0, tile.lanes), sum) : sum;
    return { at, format: "float32", value, first: 0, last: tile.lanes } as const;
  });
  return {
    name,
    parameters: ["a", "b", "t", "depth"],
    exported: false,
    body: [
      {
        op: "block",
        stores: [],
        registers: cells(tile).map(({ register }) => ({ name: register, value: zero })),
      },
      rounds(["a", "b"], unroll, unroll),
      rounds(["pa", "pb"], 1, 1),
      { op: "block", stores },
    ],
  };
}
