/** Matrix products of random operands, what they come to in float64, and the same by a schedule on the driver's GPU. */
import type { WebGpuBackend } from "../../src/backend/webgpu/device.ts";
import { decode, encode, type SampleArray } from "../../src/dtype.ts";
import type { ActivationName } from "../../src/math/activation.ts";
import { itemsOf } from "../../src/plan/gpu/product.ts";
import type {
  Matrix,
  ProductBuffer,
  ProductEpilogue,
  ProductProblem,
} from "../../src/plan/product.ts";
import { relativeError } from "../../src/reference/convolution.ts";
import type { GpuLimits, Schedule } from "../../src/schedule/schedule.ts";
import { runSchedule } from "./gpu.ts";
import { normal } from "./signals.ts";

/** A product in short: `form` says which of A and B are transposed, `pad` how far rows reach beyond what is theirs. */
export interface ProductCase {
  readonly form?: "NN" | "NT" | "TN" | "TT";
  readonly batch?: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly dtypes?: readonly [a: Matrix["dtype"], b: Matrix["dtype"], c: Matrix["dtype"]];
  readonly pad?: number;
  /** Operands that all items share. */
  readonly shared?: readonly ("a" | "b")[];
  readonly sumsBatch?: boolean;
  readonly epilogue?: ProductEpilogue;
}

/** All three matrices in half precision. */
export const halves = ["float16", "float16", "float16"] as const;

export function productOf(given: ProductCase): ProductProblem {
  const { form = "NN", batch = 1, m, n, k, pad = 0, shared = [], epilogue = {} } = given;
  const [a, b, c] = given.dtypes ?? (["float32", "float32", "float32"] as const);
  const matrix = (
    rows: number,
    columns: number,
    transposed: boolean,
    dtype: Matrix["dtype"],
    one: boolean,
  ): Matrix => {
    const [down, along] = transposed ? [columns, rows] : [rows, columns];
    const stride = along + pad;
    return { transposed, stride, batchStride: one ? 0 : down * stride + pad, dtype };
  };
  return {
    ...{ batch, m, n, k, epilogue, sumsBatch: given.sumsBatch ?? false },
    a: matrix(m, k, form[0] === "T", a, shared.includes("a")),
    b: matrix(k, n, form[1] === "T", b, shared.includes("b")),
    c: matrix(m, n, false, c, false),
  };
}

/** Elements of a matrix in memory, all items. */
function elementsOf(problem: ProductProblem, name: "a" | "b" | "c"): number {
  const { m, n, k, batch } = problem;
  const [rows, columns] = { a: [m, k], b: [k, n], c: [m, n] }[name] as [number, number];
  const { transposed, stride, batchStride } = problem[name];
  const items = name === "c" ? itemsOf(problem) : batch;
  const [down, along] = transposed ? [columns, rows] : [rows, columns];
  return (items - 1) * batchStride + (down - 1) * stride + along;
}

/** Where an element lies. */
const place = (matrix: Matrix, item: number, row: number, column: number): number => {
  const [down, along] = matrix.transposed ? [column, row] : [row, column];
  return item * matrix.batchStride + down * matrix.stride + along;
};

export type Operands = Readonly<Partial<Record<ProductBuffer, SampleArray>>> & {
  readonly a: SampleArray;
  readonly b: SampleArray;
  readonly c: SampleArray;
};

const stored = (values: Float64Array, dtype: Matrix["dtype"]): SampleArray =>
  encode(values, dtype) as SampleArray;

/** Operands of unit scale, as far as the epilogue names them; C is what was there before. */
export function drawProduct(problem: ProductProblem, seed: number): Operands {
  const { m, n, epilogue } = problem;
  const draw = (name: "a" | "b" | "c", salt: number) =>
    stored(normal(elementsOf(problem, name), seed + salt), problem[name].dtype);
  const bias = epilogue.bias && normal(epilogue.bias === "rows" ? m : n, seed + 4);
  return {
    ...{ a: draw("a", 1), b: draw("b", 2), c: draw("c", 3) },
    ...(bias && { bias: stored(bias, "float32") }),
    ...(epilogue.slope && { z: draw("c", 5) }),
    ...(epilogue.residual && { residual: draw("c", 6) }),
    ...(epilogue.keeps && { sum: draw("c", 7) }),
  };
}

/** Activations and their slopes in float64. */
const exactActivations: Readonly<
  Record<string, Readonly<Record<"value" | "slope", (z: number) => number>>>
> = {
  silu: {
    value: (z) => z / (1 + Math.exp(-z)),
    slope: (z) => (1 + z * (1 - 1 / (1 + Math.exp(-z)))) / (1 + Math.exp(-z)),
  },
  relu: { value: (z) => Math.max(0, z), slope: (z) => (z > 0 ? 1 : 0) },
};
const exactActivation = (name: ActivationName) => exactActivations[name]!;

/** C, and the sums that are kept, in float64; what no product writes stays as it was. */
export function exactProduct(
  problem: ProductProblem,
  operands: Operands,
): { readonly c: Float64Array; readonly sum?: Float64Array } {
  const { batch, m, n, k, a, b, c, epilogue } = problem;
  const values = (name: ProductBuffer, dtype: Matrix["dtype"]) =>
    operands[name] && decode(operands[name], dtype);
  const [left, right] = [values("a", a.dtype)!, values("b", b.dtype)!];
  const before = values("c", c.dtype)!;
  const [z, residual, bias] = [
    values("z", c.dtype),
    values("residual", c.dtype),
    values("bias", "float32"),
  ];
  const result = before.slice();
  const sum = values("sum", c.dtype);
  const items = itemsOf(problem);
  for (let item = 0; item < items; item++)
    for (let i = 0; i < m; i++)
      for (let j = 0; j < n; j++) {
        let s = 0;
        for (let of = item; of < batch; of += items)
          for (let q = 0; q < k; q++) s += left[place(a, of, i, q)]! * right[place(b, of, q, j)]!;
        const at = place(c, item, i, j);
        if (bias) s += bias[epilogue.bias === "rows" ? i : j]!;
        if (sum) sum[at] = s;
        if (epilogue.activation) s = exactActivation(epilogue.activation).value(s);
        if (epilogue.slope) s *= exactActivation(epilogue.slope).slope(z![at]!);
        if (residual) s += residual[at]!;
        if (epilogue.accumulate) s += before[at]!;
        result[at] = s;
      }
  return { c: result, ...(sum && { sum }) };
}

/** The worst relative error of the results of a schedule. */
export async function productError(
  backend: WebGpuBackend,
  problem: ProductProblem,
  schedule: Schedule<ProductBuffer>,
  limits: GpuLimits,
  seed = 1,
): Promise<{ readonly error: number; readonly results: Readonly<Record<string, SampleArray>> }> {
  const operands = drawProduct(problem, seed);
  const { c, sum, ...given } = operands;
  const results = await runSchedule(backend, schedule, limits, given, { c, ...(sum && { sum }) });
  const exact = exactProduct(problem, operands);
  const errors = Object.entries(exact).map(([name, values]) =>
    relativeError(
      decode((results as Readonly<Record<string, SampleArray>>)[name]!, problem.c.dtype),
      values,
    ),
  );
  return { error: Math.max(...errors), results };
}
