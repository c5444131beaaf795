/**
 * FlashFFTConv: the object users hold. It plans once, then runs y = postgate ⊙ ((pregate ⊙ u) ∗ k) + skip ⊙ u and its
 * gradients as often as asked.
 */
import type { SampleArray } from "../dtype.ts";
import type { ProblemOptions } from "../plan/problem.ts";

/** Rows of samples: a flat typed array whose shape follows from the plan's lengths, or the array with its shape. */
export type Tensor = SampleArray | { readonly data: SampleArray; readonly shape: readonly number[] };

export interface FlashFFTConvOptions extends ProblemOptions {
  readonly backend?: "auto" | "cpu";
  readonly threads?: number;
  readonly instructions?: "auto" | "relaxed-simd" | "simd" | "javascript";
}
export interface ForwardOptions {
  readonly pregate?: Tensor;
  readonly postgate?: Tensor;
  readonly skip?: Float32Array;
  readonly out?: SampleArray;
}
export interface BackwardOptions {
  readonly pregate?: Tensor;
  readonly postgate?: Tensor;
  readonly skip?: Float32Array;
}
export interface Gradients {
  readonly du: SampleArray;
  readonly dk: Float32Array;
  readonly dpregate?: SampleArray;
  readonly dpostgate?: SampleArray;
  readonly dskip?: Float32Array;
}
