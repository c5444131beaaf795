/** Matrix products, what is asked for in numbers: C[b] = epilogue(A[b]·B[b]), or C = epilogue(Σ_b A[b]·B[b]). Sums are float32 always. */
import type { ActivationName } from "../math/activation.ts";

/** One operand: rows of elements, the same distance apart, item by item of the batch. */
export interface Matrix {
  /** Whether it is stored as its transpose. */
  readonly transposed: boolean;
  /** Elements between rows as stored. */
  readonly stride: number;
  /** Elements between items of the batch; 0: one for all. */
  readonly batchStride: number;
  readonly dtype: "float32" | "float16";
}

/** What becomes of the sums before they are stored, in this order. */
export interface ProductEpilogue {
  /** A vector is added: along the columns of C (length n) or along its rows (length m). */
  readonly bias?: "columns" | "rows";
  /** C = activation(sum + bias). */
  readonly activation?: ActivationName;
  /** With an activation: the sum + bias itself is stored too, as `sum`. */
  readonly keeps?: boolean;
  /** C = (sum + bias) ⊙ activation'(z), z a matrix like C. */
  readonly slope?: ActivationName;
  /** C = … + residual, a matrix like C. */
  readonly residual?: boolean;
  /** C += … */
  readonly accumulate?: boolean;
}

/** A product. A is m×k, stored k×m where transposed; B is k×n, stored n×k where transposed; C is m×n, never transposed. */
export interface ProductProblem {
  readonly batch: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly a: Matrix;
  readonly b: Matrix;
  readonly c: Matrix;
  /** C = Σ over the batch. */
  readonly sumsBatch: boolean;
  readonly epilogue: ProductEpilogue;
}

/** Operands of a product by name: matrices, the bias, and the partial sums of a GPU's split of k. `z`, `residual` and `sum` lie as C does. */
export type ProductBuffer = "a" | "b" | "c" | "bias" | "z" | "residual" | "sum" | "scratch";
