/** Steps of a tape: the few kinds of work that backends know, on tensors. All operations come down to them. */
import type { RowProgram, RowShape } from "../math/row-program.ts";
import type { Frequencies } from "../plan/frequencies.ts";
import type { ProductProblem } from "../plan/product.ts";
import type { GatherProblem } from "../schedule/gather.ts";

/** A call of a long convolution, y = postgate ⊙ (u ∗ k), or all of its gradients. */
export interface ConvolutionStep {
  readonly kind: "convolution";
  readonly way: "forward" | "backward";
  readonly batch: number;
  readonly channels: number;
  readonly length: number;
  readonly kernelLength: number;
  readonly mode: "causal" | "bidirectional";
  readonly dtype: "float32" | "float16";
  readonly pregate: boolean;
  readonly postgate: boolean;
  /** Frequencies that the kernel keeps; all where there are none. */
  readonly frequencies?: Frequencies;
}

/** A call of short filters, alone or as a Hyena operator's projections. */
export interface FilterStep {
  readonly kind: "filter" | "projections";
  readonly way: "forward" | "backward";
  readonly batch: number;
  readonly channels: number;
  readonly length: number;
  readonly kernelLength: number;
  readonly dtype: "float32" | "float16";
  readonly bias: boolean;
  /** Projections: which third multiplies v. */
  readonly pregate?: "first" | "second";
}

/** What a backend does at once. */
export type StepWork =
  | { readonly kind: "product"; readonly problem: ProductProblem }
  | { readonly kind: "rows"; readonly program: RowProgram; readonly shape: RowShape }
  | GatherProblem
  | ConvolutionStep
  | FilterStep;
