/** A machine that runs programs by their definition, in float64: what all others are compared with. */

import { activations } from "../../src/math/activation.ts";
import type { Node } from "../../src/math/expr.ts";
import { Graph } from "../../src/math/expr.ts";
import type { RowOperand, RowProgram, RowShape } from "../../src/math/row-program.ts";
import type { CompiledSteps, ModelMachine, Region } from "../../src/nn/machine.ts";
import type { ConvolutionStep, FilterStep } from "../../src/nn/step.ts";
import type { Step, TapeTensor } from "../../src/nn/tape.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import type { Matrix, ProductProblem } from "../../src/plan/product.ts";
import { oracleBackward, oracleForward } from "../../src/reference/convolution.ts";
import type { GatherProblem } from "../../src/schedule/gather.ts";
import { depthwiseOracleBackward, depthwiseOracleForward } from "./depthwise-oracle.ts";

/** Numbers of four bytes each, as float64. */
type Memory = Float64Array;
type Named = (name: string) => Float64Array;

/** Float64 on one thread. */
export class Float64Machine implements ModelMachine<Memory> {
  readonly name = "float64";
  readonly storage = "float32";
  readonly filtersAdd = true;
  /** What was read last, in float64. */
  exact: Float64Array = new Float64Array();

  async allocate(bytes: number): Promise<Memory> {
    return new Float64Array(Math.ceil(bytes / 4));
  }

  free(): void {}

  write({ memory, offset }: Region<Memory>, data: ArrayBufferView): void {
    memory.set(data as Float32Array, offset / 4);
  }

  async read({ memory, offset }: Region<Memory>, into: ArrayBufferView): Promise<void> {
    const array = into as Float32Array;
    this.exact = memory.slice(offset / 4, offset / 4 + array.length);
    array.set(this.exact);
  }

  async compile(
    steps: readonly Step[],
    place: (tensor: TapeTensor) => Region<Memory>,
  ): Promise<CompiledSteps> {
    const run = (): void => {
      for (const { work, reads, writes } of steps) {
        const tensors = { ...reads, ...writes };
        const named: Named = (name) => {
          const { memory, offset, bytes } = place(tensors[name]!);
          return memory.subarray(offset / 4, (offset + bytes) / 4);
        };
        if (work.kind === "product") runProduct(work.problem, named);
        else if (work.kind === "rows") runRows(work.program, work.shape, named);
        else if (work.kind === "convolution") runConvolution(work, named);
        else if ("entries" in work) runGather(work, named);
        else runFilter(work, named);
      }
    };
    return { launches: steps.length, scratchBytes: 0, run, profile: async () => [], dispose() {} };
  }

  dispose(): void {}
}

const at = ({ transposed, stride, batchStride }: Matrix, b: number, r: number, c: number): number =>
  b * batchStride + (transposed ? c * stride + r : r * stride + c);

function runProduct(problem: ProductProblem, named: Named): void {
  const { batch, m, n, k, a, b, c, sumsBatch, epilogue } = problem;
  const { bias, activation, keeps, slope, residual, accumulate } = epilogue;
  const [A, B, C] = [named("a"), named("b"), named("c")];
  const items = sumsBatch ? 1 : batch;
  for (let i = 0; i < items; i++)
    for (let r = 0; r < m; r++)
      for (let s = 0; s < n; s++) {
        let sum = 0;
        for (let j = i; j < (sumsBatch ? batch : i + 1); j++)
          for (let t = 0; t < k; t++) sum += A[at(a, j, r, t)]! * B[at(b, j, t, s)]!;
        if (bias) sum += named("bias")[bias === "rows" ? r : s]!;
        const to = at(c, i, r, s);
        if (keeps) named("sum")[to] = sum;
        if (activation) sum = applied(activation, "value", sum);
        if (slope) sum *= applied(slope, "slope", named("z")[to]!);
        if (residual) sum += named("residual")[to]!;
        C[to] = accumulate ? C[to]! + sum : sum;
      }
}

function applied(name: keyof typeof activations, which: "value" | "slope", x: number): number {
  const g = new Graph();
  const input = g.load({ pointer: "x", offset: 0 }, "float32");
  return evaluate(activations[name][which](g, input), () => x, new Map());
}

/** The value of a node; `leaf` knows what loads stand for. */
function evaluate(n: Node, leaf: (n: Node) => number, known: Map<Node, number>): number {
  const found = known.get(n);
  if (found !== undefined) return found;
  const of = (m: Node): number => evaluate(m, leaf, known);
  const made = ((): number => {
    switch (n.op) {
      case "const":
      case "word":
        return n.value;
      case "load":
        return leaf(n);
      case "add":
        return of(n.a) + of(n.b);
      case "sub":
        return of(n.a) - of(n.b);
      case "mul":
        return of(n.a) * of(n.b);
      case "div":
        return of(n.a) / of(n.b);
      case "min":
        return Math.min(of(n.a), of(n.b));
      case "max":
        return Math.max(of(n.a), of(n.b));
      case "neg":
        return -of(n.a);
      case "nearest":
        return Math.round(of(n.a));
      case "pow2":
        return 2 ** of(n.a);
      case "sqrt":
        return Math.sqrt(of(n.a));
      case "exponent":
        return Math.floor(Math.log2(Math.abs(of(n.a))));
      case "fraction":
        return Math.abs(of(n.a)) / 2 ** Math.floor(Math.log2(Math.abs(of(n.a))));
      case "float":
        return of(n.a);
      case "uniform":
        return (of(n.a) >>> 8) * 2 ** -24;
      case "hash":
        return hash(of(n.a), of(n.b));
      case "fma":
        return of(n.a) * of(n.b) + of(n.c);
      case "fnma":
        return of(n.c) - of(n.a) * of(n.b);
      case "select":
        return of(n.a) > 0 ? of(n.b) : of(n.c);
      default:
        throw new Error(`no ${n.op} in row programs`);
    }
  })();
  known.set(n, made);
  return made;
}

/** As the library's: murmur3's finaliser with a key. */
function hash(key: number, index: number): number {
  let x = key ^ index;
  x = (Math.imul(x ^ (x >>> 16), 0x85ebca6b) + key) | 0;
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

function cellOf({ stride, offset = 0, period, kind }: RowOperand, columns: number) {
  return (r: number, c: number): number => {
    if (kind === "scalar") return offset;
    if (kind === "row") return offset + r;
    if (kind === "column") return offset + c;
    return offset + (period ? r % period : r) * (stride ?? columns) + c;
  };
}

function runRows(program: RowProgram, { rows, columns }: RowShape, named: Named): void {
  const { leaves, reductions, outputs, passes } = program;
  // Sums replace what is there once all rows are known: an input may be the same memory.
  const sums = outputs.map(({ how }) => new Float64Array(how === "columnSum" ? columns : 1));
  for (let r = 0; r < rows; r++) {
    const reduced: number[] = [];
    const valueAt = (node: Node, c: number, known: Map<Node, number>): number =>
      evaluate(
        node,
        (n) => {
          const leaf = leaves.get(n)!;
          if (leaf.from === "reduction") return reduced[reductions.indexOf(leaf.reduction)]!;
          if (leaf.from === "column") return c;
          if (leaf.from === "row") return r;
          if (leaf.from !== "operand") return r * columns + c;
          return named(leaf.operand.name)[cellOf(leaf.operand, columns)(r, c)]!;
        },
        known,
      );
    for (let pass = 0; pass < passes; pass++)
      reductions.forEach(({ op, value, pass: own }, i) => {
        if (own !== pass) return;
        const values = Array.from({ length: columns }, (_, c) => valueAt(value, c, new Map()));
        reduced[i] = op === "sum" ? values.reduce((a, b) => a + b, 0) : Math.max(...values);
      });
    const stores: (() => void)[] = [];
    for (let c = 0; c < columns; c++) {
      const known = new Map<Node, number>();
      outputs.forEach(({ how, operand, value }, i) => {
        if (how === "columnSum") sums[i]![c]! += valueAt(value, c, known);
        else if (operand.kind === "cell" || c === 0) {
          const x = valueAt(value, c, known);
          if (how === "total") sums[i]![0]! += x;
          else {
            stores.push(() => {
              named(operand.name)[cellOf(operand, columns)(r, c)] = x;
            });
          }
        }
      });
    }
    for (const store of stores) store();
  }
  outputs.forEach(({ how, operand, accumulate }, i) => {
    if (how === "store") return;
    const to = named(operand.name);
    sums[i]!.forEach((sum, j) => {
      const place = (operand.offset ?? 0) + j;
      to[place] = accumulate ? to[place]! + sum : sum;
    });
  });
}

function runGather({ kind, rows, columns }: GatherProblem, named: Named): void {
  const [ids, table, cells] = [named("ids"), named("table"), named(kind === "gather" ? "y" : "dy")];
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; c++) {
      const entry = ids[r]! * columns + c;
      if (kind === "gather") cells[r * columns + c] = table[entry]!;
      else table[entry]! += cells[r * columns + c]!;
    }
}

function runConvolution(work: ConvolutionStep, named: Named): void {
  const { way, batch, channels, length, kernelLength, mode, pregate, postgate } = work;
  const problem = createProblem({ length, kernelLength, mode }, "test");
  const inputs = {
    ...{ batch, channels, u: named("u"), k: named("k") },
    ...(pregate && { pregate: named("pregate") }),
    ...(postgate && { postgate: named("postgate") }),
  };
  if (way === "forward") return named("y").set(oracleForward(problem, inputs));
  const found = oracleBackward(problem, { ...inputs, dy: named("dy") });
  for (const [name, values] of Object.entries(found)) if (values) named(name).set(values);
}

function runFilter(work: FilterStep, named: Named): void {
  const { kind, way, batch, channels, length, kernelLength, bias, pregate } = work;
  const packed = kind === "projections";
  const shape = {
    ...{ channels, kernelLength, left: kernelLength - 1, right: 0, layout: "BHL" as const },
    form: packed ? ("projections" as const) : ("linear" as const),
  };
  const inputs = {
    ...{ batch, length, x: named("x"), weight: named("weight") },
    ...(bias && { bias: named("bias") }),
    pregate: pregate === "first" ? (0 as const) : (1 as const),
  };
  const names = packed ? ["gated", "postgate"] : ["y"];
  if (way === "forward") {
    depthwiseOracleForward(shape, inputs).forEach((values, i) => {
      named(names[i]!).set(values);
    });
    return;
  }
  const dy = names.map((name) => named(`d${name}`));
  const { dx, dweight, dbias } = depthwiseOracleBackward(shape, inputs, dy);
  named("dx").set(dx);
  const add = (name: string, values: Float64Array): void => {
    const to = named(name);
    values.forEach((v, i) => {
      to[i]! += v;
    });
  };
  add("dweight", dweight);
  if (bias) add("dbias", dbias);
}
