/** Tensors of a tape: what a value is, before it has been computed or has a place in memory. */
import { InvalidArgumentError } from "../errors.ts";
import { show } from "../show.ts";
import type { Tape } from "./tape.ts";

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

/** A value of a model: row-major, of one shape and storage. Operations make them; none is computed until the tape runs. */
export class Tensor {
  readonly tape: Tape;
  readonly shape: TensorShape;
  readonly storage: Storage;
  readonly role: TensorRole;
  /** Where it comes from, as errors name it: the path of a parameter, or the place of the operation. */
  readonly label: string;
  /** The tensor whose memory this one is part of, and the bytes before it there. */
  readonly base: Tensor | undefined;
  readonly offset: number;

  constructor(
    tape: Tape,
    shape: TensorShape,
    storage: Storage,
    label: string,
    role: TensorRole = "value",
    within?: { readonly base: Tensor; readonly offset: number },
  ) {
    this.tape = tape;
    this.shape = shape;
    this.storage = storage;
    this.role = role;
    this.label = label;
    this.base = within?.base;
    this.offset = within?.offset ?? 0;
  }

  /** How many numbers it has. */
  get size(): number {
    return sizeOf(this.shape);
  }

  /** Bytes that it takes. */
  get bytes(): number {
    return this.size * storageBytes[this.storage];
  }

  /** The tensor whose memory it lies in: itself, where it is no part of another. */
  get owner(): Tensor {
    return this.base?.owner ?? this;
  }

  /** Bytes before it in its owner's memory. */
  get start(): number {
    return this.base ? this.base.start + this.offset : 0;
  }

  /** Length of the last dimension. */
  get width(): number {
    return this.shape.at(-1) ?? 1;
  }

  /** How many rows of that length it has. */
  get rows(): number {
    return this.width === 0 ? 0 : this.size / this.width;
  }

  /** The same numbers under another shape. */
  reshape(...shape: number[]): Tensor {
    if (sizeOf(shape) !== this.size) {
      throw misshapen("reshape", `${this.label} has ${show(this.size)} numbers`, shape);
    }
    return this.tape.view(this, shape, 0);
  }

  /** Items [from, to) of the first dimension, in the same memory. */
  slice(from: number, to: number): Tensor {
    const [first = 1, ...rest] = this.shape;
    if (!(from >= 0 && from < to && to <= first)) {
      throw misshapen("slice", `0 ≤ from < to ≤ ${show(first)} in ${this.label}`, [from, to]);
    }
    const offset = from * sizeOf(rest) * storageBytes[this.storage];
    return this.tape.view(this, [to - from, ...rest], offset);
  }
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
export function checkWidth(place: string, tensor: Tensor, width: number): void {
  if (tensor.width !== width) {
    throw misshapen(place, `width ${show(width)} expected`, `${show(tensor.width)} given`);
  }
}

/** Refuse a tensor of another shape; −1 stands for any length. */
export function checkShape(place: string, tensor: Tensor, shape: TensorShape): void {
  const fits =
    tensor.shape.length === shape.length &&
    shape.every((length, i) => length === -1 || length === tensor.shape[i]);
  if (!fits) {
    const wanted = shape.map((length) => (length === -1 ? "any" : length)).join(", ");
    throw misshapen(place, `shape (${wanted}) expected`, `(${tensor.shape.join(", ")}) given`);
  }
}
