/** Packing: rows of A, or columns of B, to panels as wide as a tile, one step of k after the other. */
import type { Node } from "../../../math/expr.ts";
import { Graph } from "../../../math/expr.ts";
import type { Int, KernelFunction, Statement } from "../ir.ts";
import { loop, plus, times } from "../ir.ts";
import { alongLines, linesFrom, load, range, set, store, wholeVectors } from "./tile.ts";

/** pack{name}(source, stride, last, to, count, depth): `count` rows or columns, the last of them at `last`, `depth` steps of k. */
function packing(name: string, body: readonly Statement[]): KernelFunction {
  const parameters = ["source", "stride", "last", "to", "count", "depth"];
  return { name: `pack${name}`, parameters, body, exported: true };
}

/** Steps of k that are packed for all panels before the next: whole cache lines of each. */
const chunk = 16;

/** Of rows or columns that lie beside each other, steps of k `stride` bytes apart. Behind the count comes what lies there. */
export function packBeside(name: string, width: number, lanes: 1 | 4): KernelFunction {
  const g = new Graph();
  const stores = range(Math.ceil(width / lanes)).map((v) =>
    store("at", lanes * v, load(g, "from", lanes * v, lanes), Math.min(lanes, width - lanes * v)),
  );
  const step = [{ op: "block", stores } as const, set("from", plus("from", "stride"))];
  const panel = [
    set("from", plus("source", times("i", 4))),
    loop("step", "first", "end", 1, step, [{ name: "at", from: "to", step: 4 * width }]),
    set("to", plus("to", times("depth", 4 * width))),
  ];
  return packing(name, [
    set("start", "to"),
    loop("first", 0, "depth", chunk, [
      set("end", { op: "min", a: plus("first", chunk), b: "depth" }),
      set("to", plus("start", times("first", 4 * width))),
      loop("i", 0, "count", width, panel),
      set("source", plus("from", times(plus("i", -width), -4))),
    ]),
  ]);
}

/** Of rows or columns `stride` bytes apart, whose steps of k lie beside each other. Behind the count comes the last again. */
export function packAcross(name: string, width: number, lanes: 1 | 4): KernelFunction {
  const rounds = (steps: number, end: Int): Statement => {
    const g = new Graph();
    const lines = range(width).map((i) => load(g, `x${i}`, 0, lanes));
    const line = (i: number): Node => lines[Math.min(i, width - 1)]!;
    const transposed = range(Math.ceil(width / 4)).flatMap((v) =>
      g
        .transpose4([line(4 * v), line(4 * v + 1), line(4 * v + 2), line(4 * v + 3)])
        .map((value, step) => store("to", step * width + 4 * v, value, Math.min(4, width - 4 * v))),
    );
    const stores = steps > 1 ? transposed : lines.map((value, i) => store("to", i, value, 1));
    return alongLines(width, steps, ["to", 4 * width * steps, end], { op: "block", stores });
  };
  return packing(name, [
    loop("i", 0, "count", width, [
      ...linesFrom("source", width),
      set("source", plus(`x${width - 1}`, "stride")),
      set("end", plus("to", times("depth", 4 * width))),
      rounds(lanes, plus("to", times(wholeVectors(lanes), 4 * width))),
      rounds(1, "end"),
    ]),
  ]);
}
