/** Packing: rows of A, or columns of B, to panels as wide as a tile, one step of k after the other. */
import type { Node } from "../../../math/expr.ts";
import { Graph } from "../../../math/expr.ts";
import type { KernelFunction, Statement, Store } from "../ir.ts";
import { loop, plus, times } from "../ir.ts";

/** Stores of one step of k, `width` elements in vectors. */
function storeStep(values: readonly Node[], step: number, width: number, lanes: 1 | 4): Store[] {
  return values.map((value, i) => ({
    at: { pointer: "to", offset: 4 * (step * width + i * lanes) },
    ...{ format: "float32", value, first: 0, last: Math.min(lanes, width - i * lanes) },
  }));
}

const packParameters = ["source", "stride", "last", "to", "count", "depth"];

function packing(name: string, body: readonly Statement[]): KernelFunction {
  return { name, parameters: packParameters, body, exported: true };
}

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

/**
 * {name}(source, stride, last, to, count, depth): `count` elements beside each other in memory, the steps of k `stride` bytes
 * apart.
 */
export function packBeside(name: string, width: number, lanes: 1 | 4): KernelFunction {
  const g = new Graph();
  const vectors = range(Math.ceil(width / lanes)).map((i) =>
    g.load({ pointer: "from", offset: 4 * lanes * i }, "float32", 0, lanes),
  );
  const panels = loop(
    "i",
    0,
    "count",
    width,
    [
      { op: "block", stores: storeStep(vectors, 0, width, lanes) },
      { op: "let", name: "to", value: plus("to", times("depth", 4 * width)) },
    ],
    [{ name: "from", from: "source", step: 4 * width }],
  );
  return packing(name, [
    { op: "let", name: "first", value: "to" },
    loop("step", 0, "depth", 1, [
      { op: "let", name: "to", value: "first" },
      panels,
      { op: "let", name: "source", value: plus("source", "stride") },
      { op: "let", name: "first", value: plus("first", 4 * width) },
    ]),
  ]);
}

/**
 * {name}(…): `count` elements `stride` bytes apart, the last of them at `last`, the steps of k beside each other. Beyond the
 * count the last is packed again, for cells that are not stored.
 */
export function packAcross(name: string, width: number, lanes: 1 | 4): KernelFunction {
  const rows = range(width).map((i) => `row${i}`);
  const pointers: Statement[] = rows.map((row, i) => {
    const value =
      i === 0 ? "source" : ({ op: "min", a: plus(rows[i - 1]!, "stride"), b: "last" } as const);
    return { op: "let", name: row, value };
  });
  /** Rounds of so many steps, until `end`. */
  const rounds = (steps: number, end: Parameters<typeof loop>[2]): Statement => {
    const g = new Graph();
    const loads = rows.map((pointer) => g.load({ pointer, offset: 0 }, "float32", 0, lanes));
    const pick = (i: number): Node => loads[Math.min(i, width - 1)]!;
    const groups = range(Math.ceil(width / lanes)).map((i) => i * lanes);
    const stores =
      steps === 1
        ? loads.map((value, i) => ({
            ...storeStep([value], 0, 1, 1)[0]!,
            at: { pointer: "to", offset: 4 * i },
          }))
        : groups
            .map((i) => g.transpose4([pick(i), pick(i + 1), pick(i + 2), pick(i + 3)]))
            .flatMap((columns, i) =>
              columns.map((value, step) => ({
                at: { pointer: "to", offset: 4 * (step * width + groups[i]!) },
                ...({
                  format: "float32",
                  value,
                  first: 0,
                  last: Math.min(lanes, width - groups[i]!),
                } as const),
              })),
            );
    const also = rows.map((row) => ({ name: row, from: row, step: 4 * steps }));
    return loop("to", "to", end, 4 * width * steps, [{ op: "block", stores }], also, false);
  };
  const whole = plus("to", times({ op: "div", a: "depth", by: lanes }, 4 * width * lanes));
  return packing(name, [
    loop("i", 0, "count", width, [
      ...pointers,
      { op: "let", name: "source", value: plus(rows.at(-1)!, "stride") },
      { op: "let", name: "end", value: plus("to", times("depth", 4 * width)) },
      ...(lanes > 1 ? [rounds(lanes, whole)] : []),
      rounds(1, "end"),
    ]),
  ]);
}
