/// <reference lib="esnext.disposable" preserve="true" />
/**
 * flashfftconv: exact long convolutions with gradients.
 * @packageDocumentation
 */
export type { Instructions } from "./backend/cpu/features.ts";
export type { GpuRange } from "./backend/gpu.ts";
export type { Operation } from "./calls/operation.ts";
export { PreparedKernel } from "./calls/prepared.ts";
export type {
  BoundRecorder,
  GpuBufferBinding,
  GpuRecorder,
  RecorderOperand,
} from "./calls/recorder.ts";
export type { RuntimeOptions } from "./calls/runtime.ts";
export { FlashFFTConv } from "./conv/conv.ts";
export type { Convolved, ConvolveOptions, Numbers } from "./conv/convolve.ts";
export { convolve } from "./conv/convolve.ts";
export { convolveSync } from "./conv/convolve-sync.ts";
export type { Explanation, LeftOut, PlanPrediction, Saved } from "./conv/explain.ts";
export type {
  BackwardOptions,
  ConvolutionWorker,
  ConvRecorderOptions,
  FlashFFTConvOptions,
  ForwardOptions,
  GpuGradients,
  GradientArrays,
  Gradients,
  GradientsOf,
  MemoryUse,
  RecordedConvCall,
  WarmUp,
} from "./conv/options.ts";
export { serveConvolutions } from "./conv/serve.ts";
export type { SparseKernel } from "./conv/sparsify.ts";
export { sparsifyKernel } from "./conv/sparsify.ts";
export { FlashDepthwiseConv1d } from "./depthwise/depthwise.ts";
export type {
  DepthwiseBackwardOptions,
  DepthwiseForwardOptions,
  DepthwiseGradientArrays,
  DepthwiseGradients,
  DepthwiseGradientsOf,
  DepthwiseOptions,
  DepthwiseRecorderOptions,
  DepthwiseWarmUp,
  FlashDepthwiseConv1dOptions,
  FlashHyenaProjectionsOptions,
  GpuDepthwiseGradients,
  GpuHyenaProjections,
  GpuProjectionsUpstream,
  HyenaProjections,
  HyenaProjectionsOf,
  ProjectionsForwardOptions,
  ProjectionsUpstream,
  RecordedDepthwiseCall,
} from "./depthwise/options.ts";
export { FlashHyenaProjections } from "./depthwise/projections.ts";
export type { ShortConvolution } from "./depthwise/short-convolution.ts";
export type { Dtype, NewArray, SampleArray, StoredArray } from "./dtype.ts";
export * from "./errors.ts";
export type { ActivationName } from "./math/activation.ts";
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
export type { StreamMode, StreamOptions, StreamPiece } from "./stream/options.ts";
export { FlashFFTConvStream } from "./stream/stream.ts";
export type {
  GivenAs,
  GivenResult,
  KnownOptions,
  NewResult,
  NewWeights,
  NoOthers,
  OutOf,
  ResultOf,
  Shaped,
  WithGradientsOf,
} from "./tensors/result-types.ts";
export type { GpuTensor, Tensor } from "./tensors/tensor.ts";
export type { TimedPlan, TunedPlan, TuneProblem } from "./tune/plans.ts";
export type { Tuned, TuneOptions } from "./tune/tune.ts";
export { tune } from "./tune/tune.ts";
