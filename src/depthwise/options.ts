/** What calls of short depthwise convolutions take and give. */
import type { RuntimeOptions } from "../calls/runtime.ts";
import type { Dtype } from "../dtype.ts";
import type { GpuCommandEncoder } from "../gpu.ts";
import type { ActivationName } from "../math/activation.ts";
import type { DepthwiseProblemOptions } from "../plan/depthwise.ts";
import type {
  GivenAs,
  GivenResult,
  NewResult,
  NewWeights,
  OutOf,
  WithGradientsOf,
} from "../tensors/result-types.ts";
import type { GpuTensor, Tensor } from "../tensors/tensor.ts";

/** What every short convolution is made from. */
export interface DepthwiseOptions<D extends Dtype = Dtype>
  extends DepthwiseProblemOptions<D>,
    RuntimeOptions {
  /** B of tensors that come as flat arrays; 1 by default. Tensors with a shape may have any. */
  readonly batch?: number;
}

/** What a FlashDepthwiseConv1d is made from. */
export interface FlashDepthwiseConv1dOptions<D extends Dtype = Dtype> extends DepthwiseOptions<D> {
  /** What follows the filter: nothing (the default), or an activation by its name. */
  readonly activation?: "none" | ActivationName;
}

/** What a FlashHyenaProjections is made from. */
export interface FlashHyenaProjectionsOptions<D extends Dtype = Dtype> extends DepthwiseOptions<D> {
  /**
   * Which third of the packed channels multiplies v, the last third: `second`, as in Hyena and HyenaDNA (the default), or
   * `first`, as in M2-BERT. The other one gates behind the long convolution.
   */
  readonly pregate?: "first" | "second";
}

/** Calls that `warmUp` makes ready for. */
export interface DepthwiseWarmUp {
  /** Samples of a row. */
  readonly length: number;
  /** B; the object's by default. */
  readonly batch?: number;
  /** Gradients, rather than forward calls. */
  readonly backward?: boolean;
  /** With biases. */
  readonly bias?: boolean;
  /** With a state before the first sample and one behind the last, or the gradients of both. */
  readonly state?: boolean;
}

/** Optional operands of a forward call, with samples of dtype `D`, on an object of that dtype; `O` is what `out` may be. */
export interface DepthwiseForwardOptions<
  D extends Dtype = "float32",
  O extends Tensor<D> | GpuTensor | undefined = Tensor<D> | GpuTensor | undefined,
> {
  /** (H), float32 or the dtype, in a GPU buffer float32: added to each channel's filter output. */
  readonly bias?: Tensor<D | "float32"> | GpuTensor | undefined;
  /**
   * The K − 1 samples before the first, of x's layout: (B, H, K − 1) or (B, K − 1, H); causal padding only. Zeros where
   * it is left out.
   */
  readonly state?: Tensor<D> | GpuTensor | undefined;
  /** Takes the last K − 1 samples of state and x, for the call that goes on from here; may be `state` itself. */
  readonly stateOut?: Tensor<D> | GpuTensor | undefined;
  /** Where the result goes, instead of a new array or buffer; it is there once the promise has resolved. */
  readonly out?: O | undefined;
  /** Record the work here instead of submitting it; for samples and states that are all in GPU buffers. */
  readonly encoder?: GpuCommandEncoder | undefined;
}

/**
 * Optional operands of a backward call: bias and state of the forward call that it belongs to, the state as it was then.
 * `stateOut` is refused: what backward may be told of it is its gradient, `dstateOut`.
 */
export interface DepthwiseBackwardOptions<D extends Dtype = "float32">
  extends Pick<DepthwiseForwardOptions<D>, "bias" | "state" | "encoder"> {
  /** ∂loss/∂stateOut, where the loss depends on it: what `dstate` was in the call that went on from there. */
  readonly dstateOut?: Tensor<D> | GpuTensor | undefined;
  /** Where the gradients go, instead of new arrays or buffers; each by itself, and there once the promise has resolved. */
  readonly out?: DepthwiseGradientArrays<D> | undefined;
}

/** Memory for gradients, of the shapes and kinds of `DepthwiseGradients`. */
export interface DepthwiseGradientArrays<D extends Dtype = "float32"> {
  /** As x. */
  readonly dx?: Tensor<D> | GpuTensor | undefined;
  /** (H, K), float32; (3H, K) of the fused projections. */
  readonly dweight?: Tensor<"float32"> | GpuTensor | undefined;
  /** (H), float32; (3H) of the fused projections. */
  readonly dbias?: Tensor<"float32"> | GpuTensor | undefined;
  /** As the state. */
  readonly dstate?: Tensor<D> | GpuTensor | undefined;
}

/** Gradients of a loss, given dy = ∂loss/∂y: of x in `X`, of weights in `W`, of the state in `S`. */
export interface DepthwiseGradients<X = Float32Array, W = Float32Array, S = X> {
  /** As x, in its dtype. */
  readonly dx: X;
  /** (H, K), float32: summed over batch and samples in an order that does not depend on threads. */
  readonly dweight: W;
  /** (H), float32, where there was a bias. */
  readonly dbias?: W;
  /** As the state, where there was one. */
  readonly dstate?: S;
}

/** Gradients of a call whose tensors are in GPU buffers; buffers that the caller did not give are the caller's to destroy. */
export type GpuDepthwiseGradients = DepthwiseGradients<GpuTensor, GpuTensor>;

/** Gradients of a call whose x is `X` and whose options are `P`. */
export type DepthwiseGradientsOf<X, P = unknown> = WithGradientsOf<
  P,
  "bias" | "state",
  DepthwiseGradients<
    NewResult<X> | GivenAs<OutOf<P>, "dx">,
    NewWeights<X> | GivenAs<OutOf<P>, "dweight" | "dbias">,
    NewResult<X> | GivenAs<OutOf<P>, "dstate">
  >
>;

/** What the fused projections return: in `R`. */
export interface HyenaProjections<R = Float32Array> {
  /** v ⊙ pregate behind their filters, what the long convolution is fed: (B, H, Lout) or (B, Lout, H). */
  readonly gated: R;
  /** The other gate behind its filter, what multiplies the long convolution's result. */
  readonly postgate: R;
}

/** The same of a call whose tensors are in GPU buffers; buffers that the caller did not give are the caller's to destroy. */
export type GpuHyenaProjections = HyenaProjections<GpuTensor>;

/** What the fused projections of a call return whose x is `X` and whose `out` is `O`. */
export type HyenaProjectionsOf<X, O> =
  O extends HyenaProjections<infer R>
    ? HyenaProjections<GivenResult<R>>
    : HyenaProjections<NewResult<X>>;

/** Optional operands of a forward call of the fused projections; bias, x and state have 3H channels. `O` is what `out` may be. */
export interface ProjectionsForwardOptions<
  D extends Dtype = "float32",
  O extends HyenaProjections<Tensor<D> | GpuTensor> | undefined =
    | HyenaProjections<Tensor<D> | GpuTensor>
    | undefined,
> extends Omit<DepthwiseForwardOptions<D>, "out"> {
  /** Where the results go, instead of new arrays or buffers; they are there once the promise has resolved. */
  readonly out?: O | undefined;
}

/** Gradients with respect to what the fused projections return, in `R`. */
export interface ProjectionsUpstream<R = Tensor<"float32">> {
  /** ∂loss/∂gated. */
  readonly dgated: R;
  /** ∂loss/∂postgate. */
  readonly dpostgate: R;
}

/** The same in GPU buffers. */
export type GpuProjectionsUpstream = ProjectionsUpstream<GpuTensor>;

/** Calls that `recorder` records, by the methods that they stand for. */
export type RecordedDepthwiseCall = "forward" | "backward";

/** The shape of a recorded call, and the operands it has. */
export interface DepthwiseRecorderOptions {
  /** B. */
  readonly batch: number;
  /** L. */
  readonly length: number;
  /** Whether there is a bias, float32. */
  readonly bias?: boolean;
  /** Whether there is a state, the K − 1 samples before the first; causal padding only. */
  readonly state?: boolean;
  /** Forward: whether the state that the call leaves behind goes to a range of its own, or to that of `state`. */
  readonly stateOut?: "none" | "apart" | "same";
  /** Backward: whether there is a gradient of the state that the call left behind. */
  readonly dstateOut?: boolean;
  /**
   * Backward: whether dweight and dbias are added to what their ranges hold, as for weights of several calls, or gradients over
   * several batches. Gradients of samples are always written.
   */
  readonly add?: boolean;
}
