/**
 * flashfftconv: exact long convolutions with gradients.
 * @packageDocumentation
 */
export type { Instructions } from "./backend/features.ts";
export type { Tensor } from "./conv/arguments.ts";
export type {
  BackwardOptions,
  ConvolveOptions,
  FlashFFTConvOptions,
  ForwardOptions,
  Gradients,
  MemoryUse,
} from "./conv/conv.ts";
export { convolve, FlashFFTConv, PreparedKernel } from "./conv/conv.ts";
export type { Tuned, TuneOptions } from "./conv/tune.ts";
export { tune } from "./conv/tune.ts";
export type { Explanation, PlanPrediction } from "./conv/explain.ts";
export type { Dtype, SampleArray } from "./dtype.ts";
export * from "./errors.ts";
export type { Mode, Problem, ProblemOptions } from "./plan/problem.ts";
