/// <reference lib="esnext.disposable" preserve="true" />
/**
 * flashfftconv: exact long convolutions with gradients.
 * @packageDocumentation
 */
export type { Instructions } from "./backend/features.ts";
export type { GpuTensor, Tensor } from "./conv/arguments.ts";
export { FlashFFTConv } from "./conv/conv.ts";
export type { Convolved, ConvolveOptions, Numbers } from "./conv/convolve.ts";
export { convolve } from "./conv/convolve.ts";
export { FlashDepthwiseConv1d } from "./conv/depthwise.ts";
export type {
  DepthwiseBackwardOptions,
  DepthwiseForwardOptions,
  DepthwiseGradients,
  DepthwiseGradientsOf,
  DepthwiseOptions,
  DepthwiseWarmUp,
  FlashDepthwiseConv1dOptions,
  FlashHyenaProjectionsOptions,
  GpuDepthwiseGradients,
  GpuHyenaProjections,
  GpuProjectionsUpstream,
  HyenaProjections,
  HyenaProjectionsOf,
  ProjectionsBackwardOptions,
  ProjectionsForwardOptions,
  ProjectionsOut,
  ProjectionsUpstream,
} from "./conv/depthwise-options.ts";
export type { Explanation, LeftOut, PlanPrediction, Saved } from "./conv/explain.ts";
export type {
  BackwardOptions,
  ConvolutionWorker,
  FlashFFTConvOptions,
  ForwardOptions,
  GpuGradients,
  GradientArrays,
  Gradients,
  GradientsOf,
  MemoryUse,
  WarmUp,
} from "./conv/options.ts";
export { PreparedKernel } from "./conv/prepared.ts";
export { FlashHyenaProjections } from "./conv/projections.ts";
export type {
  GivenAs,
  GivenResult,
  NewResult,
  NewWeights,
  ResultOf,
  Shaped,
} from "./conv/results.ts";
export { serveConvolutions } from "./conv/serve.ts";
export type { SparseKernel } from "./conv/sparsify.ts";
export { sparsifyKernel } from "./conv/sparsify.ts";
export { FlashFFTConvStream } from "./conv/stream.ts";
export type { StreamMode, StreamOptions, StreamPiece } from "./conv/stream-options.ts";
export type { Tuned, TuneOptions } from "./conv/tune.ts";
export { tune } from "./conv/tune.ts";
export type { TimedPlan, TunedPlan, TuneProblem } from "./conv/tune-plans.ts";
export type { Dtype, NewArray, SampleArray, StoredArray } from "./dtype.ts";
export * from "./errors.ts";
export type {
  DepthwiseProblem,
  DepthwiseProblemOptions,
  Form,
  Layout,
  Padding,
} from "./plan/depthwise.ts";
export type {
  Frequencies,
  FrequencyBand,
  FrequencyBlocks,
  KeptFrequencies,
} from "./plan/frequencies.ts";
export type { Mode, Problem, ProblemOptions } from "./plan/problem.ts";
