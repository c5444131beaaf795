/**
 * Gradients of a short convolution, from windows of x and of dy: dz behind the filters (z computed again where it is
 * needed), dx as the transposed filter of dz, and dw[j] = Σ_n dz[n]·x[n + j − left] with dbias = Σ_n dz[n] beside it.
 */
import type { Node } from "../../../math/expr.ts";
import { Graph } from "../../../math/expr.ts";
import { exported } from "../function-names.ts";
import type { KernelFunction, Statement } from "../ir.ts";
import { loop, plus, times } from "../ir.ts";
import type { Frame } from "./addressing.ts";
import {
  cellsOf,
  columns,
  eachCell,
  filterParameters,
  filterWalk,
  rows,
  sampleNode,
  storeCell,
} from "./addressing.ts";
import { formCode } from "./forms.ts";
import type { Cells } from "./loops.ts";
import { walk } from "./loops.ts";

/** The functions that only backward programs have. */
export function gradientFunctions(f: Frame): KernelFunction[] {
  const transposes = [transposeFunction(f, false), transposeFunction(f, true)];
  return [...upstreamFunctions(f), ...transposes, sumFunction(f), foldFunction(f)];
}

/** upstream(windows of x…, taps…, biases…, windows of dy…, count, width): dy → dz, in place. */
function upstreamFunctions(f: Frame): KernelFunction[] {
  const { backward } = formCode(f.spec.problem.form);
  if (!backward) return [];
  const branches = Array.from({ length: f.branches }, (_, b) => b);
  const filters = { window: f.window, branches };
  const windows = branches.map((b) => `d${b}`);
  const pointers = windows.map((d) => rows(f, d, f.window, "float32"));
  const body = filterWalk(f, filters, pointers, false, (g, cell, z, stored) => {
    const d = windows.slice(0, f.outputs).map((name) => sampleNode(f, g, name, f.window, cell, 0));
    return backward(g, z, d).flatMap((dz, b) =>
      dz ? [storeCell(f, windows[b]!, f.window, "float32", cell, dz, stored)] : [],
    );
  });
  const parameters = [...filterParameters(filters), ...windows, "count", "width"];
  return [exported("upstream", parameters, body)];
}

/**
 * transpose(window of dz, taps, dx, count, width): dx[m] = Σ_j w[K−1−j]·dz[m + j]; transposeOnto takes a window r before dx
 * and adds r[m], so that the sum of both is rounded once.
 */
function transposeFunction(f: Frame, onto: boolean): KernelFunction {
  const { dtype } = f.spec.problem;
  const filters = { window: f.window, branches: [0], reversed: true };
  const rest = onto ? [rows(f, "r", f.window, "float32")] : [];
  const pointers = [...rest, rows(f, "dx", f.input, dtype)];
  const body = filterWalk(f, filters, pointers, false, (g, cell, z, stored) => {
    const dx = onto ? g.add(z(0), sampleNode(f, g, "r", f.window, cell, 0)) : z(0);
    return [storeCell(f, "dx", f.input, dtype, cell, dx, stored)];
  });
  const parameters = [...filterParameters(filters), ...(onto ? ["r"] : []), "dx", "count", "width"];
  return exported(onto ? "transposeOnto" : "transpose", parameters, body);
}

/** Taps whose sums are in registers at a time. */
const tapsAtOnce = 8;

/** Sum of products by pairs: what a sum has gained so far then rounds once for a whole block of cells. */
function pairwise(g: Graph, a: readonly Node[], b: readonly (Node | undefined)[]): Node {
  if (a.length === 1) return b[0] ? g.mul(a[0]!, b[0]) : a[0]!;
  if (a.length === 2) {
    const first = pairwise(g, a.slice(0, 1), b);
    return b[1] ? g.fma(a[1]!, b[1], first) : g.add(first, a[1]!);
  }
  const half = a.length >> 1;
  return g.add(
    pairwise(g, a.slice(0, half), b.slice(0, half)),
    pairwise(g, a.slice(half), b.slice(half)),
  );
}

/**
 * sum(window of x, window of dz, sums, count, width): sums[j] += Σ_n dz[n]·x[n + j], and Σ_n dz[n] behind them, if there are
 * to be so many sums. In layout BHL a sum is a vector of `lanes` partial ones; beyond the count dz must be zero and x
 * finite up to a whole vector.
 */
export function sumFunction(
  f: Frame,
  count: number = f.spec.problem.kernelLength + 1,
): KernelFunction {
  const { problem, lanes } = f.spec;
  const { layout, kernelLength } = problem;
  const across = layout === "BLH";
  const g = new Graph();
  const block = (shape: Cells): Statement[] => {
    const cells = cellsOf(shape);
    const dz = cells.map((cell) => sampleNode(f, g, "d", f.window, cell, 0));
    const products = (tap: number): Node => {
      const x = cells.map((cell) =>
        tap < kernelLength ? sampleNode(f, g, "x", f.window, cell, tap) : undefined,
      );
      return pairwise(g, dz, x);
    };
    return groups(count).map((taps) => ({
      op: "block",
      stores: taps.map((tap) => {
        const at = { pointer: "ap", offset: tap * (across ? f.window : 4 * lanes) };
        const value = g.add(g.load(at, "float32", 0, lanes), products(tap));
        return { at, format: "float32", value, first: 0, last: lanes };
      }),
    }));
  };
  const pointers = [
    rows(f, "x", f.window, "float32"),
    rows(f, "d", f.window, "float32"),
    columns(f, "a"),
  ];
  const shape = { rows: lanes === 1 ? 8 : 4, vectors: 1 };
  const body = walk({ layout, lanes, ...shape, pointers, overrun: true, block });
  return exported("sum", ["x", "d", "a", "count", "width"], body);
}

/** 0 … count − 1 in groups. */
function groups(count: number): number[][] {
  return Array.from({ length: Math.ceil(count / tapsAtOnce) }, (_, i) =>
    Array.from(
      { length: Math.min(tapsAtOnce, count - i * tapsAtOnce) },
      (_, j) => i * tapsAtOnce + j,
    ),
  );
}

/** Sums of a channel as they lie behind each other: those of the taps, the bias's, and up to a multiple of four. */
export function sumCount(kernelLength: number): number {
  return 4 * Math.ceil((kernelLength + 1) / 4);
}

/**
 * fold(sums, result, count, width): what `sum` has gathered goes to the result. In layout BHL `count` is sumCount / 4 and
 * the lanes are added up; in BLH it is K + 1 and rows are copied.
 */
export function foldFunction(f: Frame): KernelFunction {
  const { problem, lanes } = f.spec;
  const { layout, channels } = problem;
  const parameters = ["a", "p", "count", "width"];
  if (layout === "BHL") {
    const step = 16;
    const also = [{ name: "ap", from: "a", step: step * lanes }];
    const end = plus("p", times("count", step));
    return exported("fold", parameters, [loop("pp", "p", end, step, [foldBlock(lanes)], also)]);
  }
  const position = 4 * channels;
  const block = eachCell((g, cell, stored) => {
    const value = sampleNode(f, g, "a", f.window, cell, 0);
    return [storeCell(f, "p", position, "float32", cell, value, stored)];
  });
  const pointers = [rows(f, "a", f.window, "float32"), rows(f, "p", position, "float32")];
  const body = walk({ layout, lanes, rows: 1, vectors: 1, pointers, overrun: false, block });
  return exported("fold", parameters, body);
}

/** Four sums: each vector's lanes added up, by a transpose. */
function foldBlock(lanes: 1 | 4): Statement {
  const g = new Graph();
  const load = (i: number): Node =>
    g.load({ pointer: "ap", offset: 4 * lanes * i }, "float32", 0, lanes);
  const store = (offset: number, value: Node) =>
    ({ at: { pointer: "pp", offset }, format: "float32", value, first: 0, last: lanes }) as const;
  if (lanes === 1) return { op: "block", stores: [0, 1, 2, 3].map((i) => store(4 * i, load(i))) };
  const [a, b, c, d] = g.transpose4([load(0), load(1), load(2), load(3)]);
  return { op: "block", stores: [store(0, g.add(g.add(a, b), g.add(c, d)))] };
}
