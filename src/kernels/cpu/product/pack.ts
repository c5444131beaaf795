/** Packing: rows of A, or columns of B, to panels as wide as a tile, one step of k after the other. */
import type { Node } from "../../../math/expr.ts";
import { Graph } from "../../../math/expr.ts";
import type { Int, KernelFunction, Statement, Store } from "../ir.ts";
import { loop, plus, times } from "../ir.ts";
import { alongLines, linePointers, range, set } from "./tile.ts";

/** pack{name}(source, stride, last, to, count, depth): `count` rows or columns, the last of them at `last`, `depth` steps of k. */
function packing(name: string, body: readonly Statement[]): KernelFunction {
  const parameters = ["source", "stride", "last", "to", "count", "depth"];
  return { name: `pack${name}`, parameters, body, exported: true };
}

/** Steps of k that are packed for all panels before the next: whole cache lines of each. */
const chunk = 16;

/** Of elements that lie beside each other for a step of k, steps `stride` bytes apart. Behind the count comes what lies there. */
export function packBeside(name: string, width: number, lanes: 1 | 4): KernelFunction {
  const g = new Graph();
  const stores = range(Math.ceil(width / lanes)).map((i): Store => {
    const value = g.load({ pointer: "from", offset: 4 * lanes * i }, "float32", 0, lanes);
    const last = Math.min(lanes, width - lanes * i);
    return {
      at: { pointer: "at", offset: 4 * lanes * i },
      format: "float32",
      value,
      first: 0,
      last,
    };
  });
  const panel = [
    set("from", plus("source", times("i", 4))),
    set("at", "to"),
    loop("step", "first", "end", 1, [
      { op: "block", stores },
      set("from", plus("from", "stride")),
      set("at", plus("at", 4 * width)),
    ]),
    set("next", "from"),
    set("to", plus("to", times("depth", 4 * width))),
  ];
  return packing(name, [
    set("start", "to"),
    loop("first", 0, "depth", chunk, [
      set("end", { op: "min", a: plus("first", chunk), b: "depth" }),
      set("to", plus("start", times("first", 4 * width))),
      loop("i", 0, "count", width, panel),
      set("source", plus(plus("next", times("i", -4)), 4 * width)),
    ]),
  ]);
}

/** Of elements whose steps of k lie beside each other, rows or columns `stride` bytes apart. Behind the count comes the last again. */
export function packAcross(name: string, width: number, lanes: 1 | 4): KernelFunction {
  const store = (element: number, value: Node, last: number): Store => ({
    ...{ at: { pointer: "to", offset: 4 * element }, format: "float32", value, first: 0, last },
  });
  const rounds = (steps: number, end: Int): Statement => {
    const g = new Graph();
    const lines = range(width).map((i) =>
      g.load({ pointer: `x${i}`, offset: 0 }, "float32", 0, lanes),
    );
    const line = (i: number): Node => lines[Math.min(i, width - 1)]!;
    const stores =
      steps === 1
        ? lines.map((value, i) => store(i, value, 1))
        : range(Math.ceil(width / 4)).flatMap((v) =>
            g
              .transpose4([line(4 * v), line(4 * v + 1), line(4 * v + 2), line(4 * v + 3)])
              .map((value, step) => store(step * width + 4 * v, value, Math.min(4, width - 4 * v))),
          );
    return alongLines(width, ["to", 4 * width * steps, end], steps, { op: "block", stores });
  };
  const whole = times({ op: "div", a: "depth", by: lanes }, 4 * width * lanes);
  return packing(name, [
    loop("i", 0, "count", width, [
      ...linePointers(width, "source", "stride", "last"),
      set("source", plus(`x${width - 1}`, "stride")),
      set("end", plus("to", times("depth", 4 * width))),
      ...(lanes > 1 ? [rounds(lanes, plus("to", whole))] : []),
      rounds(1, "end"),
    ]),
  ]);
}
