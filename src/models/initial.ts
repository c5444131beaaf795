/** Weights before training: drawn from a seed, the same on every machine. */
import type { Weight } from "../nn/parameters.ts";
import { normalSource } from "../reference/random.ts";

/** Weights, or tensors, of a linear layer, or of a norm. */
export type LayerOf<T> = { readonly weight: T; readonly bias: T };

/** Draws weights one after another. */
export class Initial {
  readonly #normal: () => number;

  constructor(seed: number) {
    this.#normal = normalSource(seed);
  }

  /** Normal, of mean 0. */
  normal(shape: readonly number[], deviation: number): Weight {
    return this.#drawn(shape, () => deviation * this.#normal());
  }

  /** Uniform between −bound and bound. */
  uniform(shape: readonly number[], bound: number): Weight {
    // The distribution of a normal number's own place among normal numbers would do; two make an angle, which is uniform too.
    return this.#drawn(shape, () => (bound * Math.atan2(this.#normal(), this.#normal())) / Math.PI);
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

  #drawn(shape: readonly number[], draw: () => number): Weight {
    return weightOf(shape, draw);
  }
}

/** A weight whose numbers `value` gives in order. */
export function weightOf(shape: readonly number[], value: (i: number) => number): Weight {
  const size = shape.reduce((product, length) => product * length, 1);
  return { shape, data: Float32Array.from({ length: size }, (_, i) => value(i)) };
}

/** A weight of equal numbers. */
export function filled(shape: readonly number[], value: number): Weight {
  return weightOf(shape, () => value);
}
