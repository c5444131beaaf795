/** Matrix products of tensors, seen as matrices: what linear layers, their gradients and losses are made of. */
import type { Matrix, ProductEpilogue } from "../../plan/product.ts";
import type { TapeTensor } from "../tape.ts";
import { misshapen } from "../tensor.ts";

/** A tensor as a batch of matrices. */
export interface MatrixView {
  readonly tensor: TapeTensor;
  readonly rows: number;
  readonly columns: number;
  /** Whether it is stored as its transpose, columns × rows. */
  readonly transposed: boolean;
  /** Items of the batch that follow one another in memory; 1: one for all of a product's. */
  readonly batch: number;
}

/** The same matrices transposed: nothing moves. */
export function transpose({ rows, columns, transposed, ...rest }: MatrixView): MatrixView {
  return { ...rest, rows: columns, columns: rows, transposed: !transposed };
}

/** All but the last dimension as rows, of one matrix. */
export function asRows(tensor: TapeTensor): MatrixView {
  return { tensor, rows: tensor.rows, columns: tensor.width, transposed: false, batch: 1 };
}

/** What is done with the sums; `bias` runs along the columns of the result. */
export interface MultiplyOptions extends Omit<ProductEpilogue, "bias" | "keeps" | "residual"> {
  readonly bias?: TapeTensor | undefined;
  /** Added to the result, and stored as it is. */
  readonly residual?: TapeTensor | undefined;
  /** Behind `slope`: what the activation was given. */
  readonly z?: TapeTensor | undefined;
  /** Takes what the activation is given. */
  readonly sum?: TapeTensor | undefined;
  /** The results of the batch are added up. */
  readonly sumsBatch?: boolean;
}

function matrixOf({ tensor, rows, columns, transposed, batch }: MatrixView): Matrix {
  if (tensor.storage === "uint32") throw misshapen(tensor.label, "numbers", "tokens");
  return {
    transposed,
    stride: transposed ? rows : columns,
    batchStride: batch === 1 ? 0 : rows * columns,
    dtype: tensor.storage,
  };
}

/** Trace c = a·b. Where c is stored transposed, the product is cᵀ = bᵀ·aᵀ: no matrix is ever turned by itself. */
export function multiply(
  a: MatrixView,
  b: MatrixView,
  c: MatrixView,
  options: MultiplyOptions = {},
): void {
  if (c.transposed) return trace(transpose(b), transpose(a), transpose(c), options, "rows");
  trace(a, b, c, options, "columns");
}

function trace(
  a: MatrixView,
  b: MatrixView,
  c: MatrixView,
  options: MultiplyOptions,
  along: "rows" | "columns",
): void {
  const { bias, residual, z, sum, sumsBatch = false, activation, slope, accumulate } = options;
  const problem = {
    batch: Math.max(a.batch, b.batch, c.batch),
    ...{ m: a.rows, n: b.columns, k: a.columns },
    ...{ a: matrixOf(a), b: matrixOf(b), c: matrixOf(c), sumsBatch },
    epilogue: {
      ...(bias && { bias: along }),
      ...(activation && { activation, keeps: sum !== undefined }),
      ...(slope && { slope }),
      ...(residual && { residual: true }),
      ...(accumulate && { accumulate }),
    },
  };
  const { tape } = c.tensor;
  tape.step(
    { kind: "product", problem },
    {
      ...{ a: a.tensor, b: b.tensor },
      ...(bias && { bias }),
      ...(residual && { residual }),
      ...(z && { z }),
      ...(accumulate && { c: c.tensor }),
    },
    { c: c.tensor, ...(sum && { sum }) },
  );
}
