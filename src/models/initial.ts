/** Weights before training: drawn from a seed, the same on every machine. */
import type { Weight } from "../nn/parameters.ts";
import { sizeOf } from "../nn/tensor.ts";
import { normalSource } from "../reference/random.ts";

/** Weights, or tensors, of a linear layer, or of a norm. */
export type LayerOf<T> = { readonly weight: T; readonly bias: T };

/** Draws weights one after another. */
export class Initial {
  readonly #normal: (() => number) | undefined;

  /** @param seed a number; `zeros` draws nothing: shapes for weights that are read from elsewhere. */
  constructor(seed: number | "zeros") {
    this.#normal = seed === "zeros" ? undefined : normalSource(seed);
  }

  /** Normal, of mean 0. */
  normal(shape: readonly number[], deviation: number): Weight {
    return this.#drawn(shape, (normal) => deviation * normal());
  }

  /** Uniform between −bound and bound. */
  uniform(shape: readonly number[], bound: number): Weight {
    // The distribution of a normal number's own place among normal numbers would do; two make an angle, which is uniform too.
    return this.#drawn(shape, (normal) => (bound * Math.atan2(normal(), normal())) / Math.PI);
  }

  /** A linear layer as PyTorch draws it: uniform in ±1/√inputs. */
  linear(outputs: number, inputs: number): LayerOf<Weight> {
    const bound = 1 / Math.sqrt(inputs);
    return { weight: this.uniform([outputs, inputs], bound), bias: this.uniform([outputs], bound) };
  }

  /** A linear layer of normal weights and no bias yet. */
  projection(outputs: number, inputs: number, deviation: number): LayerOf<Weight> {
    return { weight: this.normal([outputs, inputs], deviation), bias: filled([outputs], 0) };
  }

  /** A normalisation that changes nothing. */
  norm(width: number): LayerOf<Weight> {
    return { weight: filled([width], 1), bias: filled([width], 0) };
  }

  /** Numbers that `value` gives in order. */
  of(shape: readonly number[], value: (i: number) => number): Weight {
    return this.#drawn(shape, (_, i) => value(i));
  }

  #drawn(shape: readonly number[], draw: (normal: () => number, i: number) => number): Weight {
    const normal = this.#normal;
    if (normal) return weightOf(shape, (i) => draw(normal, i));
    return { shape, data: new Float32Array(sizeOf(shape)) };
  }
}

/** A weight whose numbers `value` gives in order. */
export function weightOf(shape: readonly number[], value: (i: number) => number): Weight {
  const data = new Float32Array(sizeOf(shape));
  for (let i = 0; i < data.length; i++) data[i] = value(i);
  return { shape, data };
}

/** A weight of equal numbers. */
export function filled(shape: readonly number[], value: number): Weight {
  return weightOf(shape, () => value);
}
