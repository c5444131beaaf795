/** Tensors of a tape: what a value is, before it has been computed or has a place in memory. */
import { InvalidArgumentError } from "../errors.ts";
import { show } from "../show.ts";

/** How a tensor's numbers are stored. `uint32` holds tokens and labels. */
export type Storage = "float32" | "float16" | "uint32";

/** Bytes of a stored number. */
export const storageBytes: Readonly<Record<Storage, number>> = {
  float32: 4,
  float16: 2,
  uint32: 4,
};

/** Lengths of a tensor's dimensions, the outermost first; a scalar has none. */
export type TensorShape = readonly number[];

/**
 * What a tensor is: `value` lives between its step and the last that reads it; all others stay from run to run. `input` is written
 * by the caller, `state` is what steps keep, and all others lie in arenas of a model: a parameter, its gradient, its copy in float16
 (`half`), the optimiser's averages of gradients and of their squares, and an average of the parameter itself.
 */
export type TensorRole = "value" | "input" | "state" | ArenaName;

/** What a model may have for all of its parameters at once. */
export type ArenaName = "parameter" | "gradient" | "half" | "moment" | "square" | "average";

/** What checks ask of a tensor. */
export interface DescribedTensor {
  readonly shape: TensorShape;
  /** Length of the last dimension. */
  readonly width: number;
}

/** Numbers of a tensor of a shape. */
export function sizeOf(shape: TensorShape): number {
  return shape.reduce((product, length) => product * length, 1);
}

/** The error for a shape that does not fit; `place` is where, as `blocks.3.mixer.inProjection`. */
export function misshapen(
  place: string,
  requirement: string,
  value: unknown,
): InvalidArgumentError {
  return new InvalidArgumentError({
    call: place,
    requirement,
    value: Array.isArray(value) ? `[${value.join(", ")}]` : show(value),
    remedy: "Check the model's configuration and the shapes of its parameters.",
  });
}

/** Refuse a tensor whose last dimension is not `width` long. */
export function checkWidth(place: string, tensor: DescribedTensor, width: number): void {
  if (tensor.width !== width) {
    throw misshapen(place, `width ${show(width)} expected`, `${show(tensor.width)} given`);
  }
}

/** Refuse a tensor of another shape; −1 stands for any length. */
export function checkShape(place: string, tensor: DescribedTensor, shape: TensorShape): void {
  const fits =
    tensor.shape.length === shape.length &&
    shape.every((length, i) => length === -1 || length === tensor.shape[i]);
  if (!fits) {
    const wanted = shape.map((length) => (length === -1 ? "any" : length)).join(", ");
    throw misshapen(place, `shape (${wanted}) expected`, `(${tensor.shape.join(", ")}) given`);
  }
}
