/** What calls of short depthwise convolutions take and give. */
import type { Instructions } from "../backend/features.ts";
import type { SampleArray } from "../dtype.ts";
import type { GpuCommandEncoder, GpuDevice } from "../gpu.ts";
import type { DepthwiseProblemOptions } from "../plan/depthwise.ts";
import type { GpuTensor, Tensor } from "./arguments.ts";

/** What every short convolution is made from. */
export interface DepthwiseOptions extends DepthwiseProblemOptions {
  /** B of tensors that come as flat arrays; 1 by default. Tensors with a shape may have any. */
  readonly batch?: number;
  /** Where to compute: `auto` takes WebGPU where you pass a `device` and the CPU elsewhere. */
  readonly backend?: "auto" | "cpu" | "webgpu";
  /** A WebGPU device of yours, for tensors in its buffers; by default the library opens one. */
  readonly device?: GpuDevice;
  /** Bytes of GPU memory that a call may take above its tensors; 256 MiB by default. The CPU ignores it. */
  readonly workspaceBytes?: number;
  /** Threads, the caller's included; all cores by default, one where memory cannot be shared. */
  readonly threads?: number;
  /** Where worker threads start from, as in FlashFFTConv. */
  readonly workerUrl?: string | URL;
  /** Instruction set of the kernels; by default the best that the runtime has. */
  readonly instructions?: "auto" | Instructions;
}

/** What a FlashDepthwiseConv1d is made from. */
export interface FlashDepthwiseConv1dOptions extends DepthwiseOptions {
  /** What follows the filter: nothing (the default), or SiLU, z/(1 + e^−z). */
  readonly activation?: "none" | "silu";
}

/** What a FlashHyenaProjections is made from. */
export interface FlashHyenaProjectionsOptions extends DepthwiseOptions {
  /**
   * Which third of the packed channels multiplies v, the last third: `second`, as in Hyena and HyenaDNA (the default), or
   * `first`, as in M2-BERT. The other one gates behind the long convolution.
   */
  readonly pregate?: "first" | "second";
}

/** Optional operands of a forward call. */
export interface DepthwiseForwardOptions {
  /** (H), float32 or the dtype, in a GPU buffer float32: added to each channel's filter output. */
  readonly bias?: Tensor | GpuTensor | undefined;
  /**
   * The K − 1 samples before the first, of x's layout: (B, H, K − 1) or (B, K − 1, H); causal padding only. Zeros where
   * it is left out.
   */
  readonly state?: Tensor | GpuTensor | undefined;
  /** Takes the last K − 1 samples of state and x, for the call that goes on from here; may be `state` itself. */
  readonly stateOut?: Tensor | GpuTensor | undefined;
  /** Where the result goes, instead of a new array or buffer. */
  readonly out?: Tensor | GpuTensor | undefined;
  /** Record the work here instead of submitting it; for samples and states that are all in GPU buffers. */
  readonly encoder?: GpuCommandEncoder | undefined;
}

/**
 * Optional operands of a backward call: bias and state of the forward call that it belongs to, the state as it was then.
 * `stateOut` is refused: what backward may be told of it is its gradient, `dstateOut`.
 */
export interface DepthwiseBackwardOptions
  extends Pick<DepthwiseForwardOptions, "bias" | "state" | "encoder"> {
  /** ∂loss/∂stateOut, where the loss depends on it: what `dstate` was in the call that went on from there. */
  readonly dstateOut?: Tensor | GpuTensor | undefined;
  /** Where dx goes, instead of a new array or buffer. */
  readonly out?: Tensor | GpuTensor | undefined;
}

/** Gradients of a loss, given dy = ∂loss/∂y. */
export interface DepthwiseGradients {
  /** As x, in its dtype. */
  readonly dx: SampleArray;
  /** (H, K), float32: summed over batch and samples in an order that does not depend on threads. */
  readonly dweight: Float32Array;
  /** (H), float32, where there was a bias. */
  readonly dbias?: Float32Array;
  /** As the state, where there was one. */
  readonly dstate?: SampleArray;
}

/** Gradients of a call whose tensors are in GPU buffers; buffers that the caller did not give are the caller's to destroy. */
export interface GpuDepthwiseGradients {
  /** As x, in its dtype. */
  readonly dx: GpuTensor;
  /** (H, K), float32, the same bits in every run. */
  readonly dweight: GpuTensor;
  /** (H), float32, where there was a bias. */
  readonly dbias?: GpuTensor;
  /** As the state, where there was one. */
  readonly dstate?: GpuTensor;
}

/** What the fused projections return. */
export interface HyenaProjections {
  /** v ⊙ pregate behind their filters, what the long convolution is fed: (B, H, Lout) or (B, Lout, H). */
  readonly gated: SampleArray;
  /** The other gate behind its filter, what multiplies the long convolution's result. */
  readonly postgate: SampleArray;
}

/** The same of a call whose tensors are in GPU buffers; buffers that the caller did not give are the caller's to destroy. */
export interface GpuHyenaProjections {
  /** v ⊙ pregate behind their filters. */
  readonly gated: GpuTensor;
  /** The other gate behind its filter. */
  readonly postgate: GpuTensor;
}

/** Where the results of the fused projections go. */
export interface ProjectionsOut {
  /** (B, H, Lout) or (B, Lout, H). */
  readonly gated: Tensor | GpuTensor;
  /** The same. */
  readonly postgate: Tensor | GpuTensor;
}

/** Optional operands of a call of the fused projections; x and state have 3H channels. */
interface ProjectionsOperands {
  /** (3H), float32 or the dtype, in a GPU buffer float32. */
  readonly bias?: Tensor | GpuTensor | undefined;
  /** The K − 1 samples before the first, as in `DepthwiseForwardOptions`. */
  readonly state?: Tensor | GpuTensor | undefined;
  /** Record the work here instead of submitting it; for samples and states that are all in GPU buffers. */
  readonly encoder?: GpuCommandEncoder | undefined;
}

/** Optional operands of a forward call of the fused projections. */
export interface ProjectionsForwardOptions extends ProjectionsOperands {
  /** Takes the last K − 1 samples of state and x; may be `state` itself. */
  readonly stateOut?: Tensor | GpuTensor | undefined;
  /** Where the results go, instead of new arrays or buffers. */
  readonly out?: ProjectionsOut | undefined;
}

/** Optional operands of a backward call: bias and state of the forward call that it belongs to, as in `DepthwiseBackwardOptions`. */
export interface ProjectionsBackwardOptions extends ProjectionsOperands {
  /** ∂loss/∂stateOut, where the loss depends on it. */
  readonly dstateOut?: Tensor | GpuTensor | undefined;
  /** Where dx goes, instead of a new array or buffer. */
  readonly out?: Tensor | GpuTensor | undefined;
}

/** Gradients with respect to what the fused projections return. */
export interface ProjectionsUpstream {
  /** ∂loss/∂gated. */
  readonly dgated: Tensor;
  /** ∂loss/∂postgate. */
  readonly dpostgate: Tensor;
}

/** The same in GPU buffers. */
export interface GpuProjectionsUpstream {
  /** ∂loss/∂gated. */
  readonly dgated: GpuTensor;
  /** ∂loss/∂postgate. */
  readonly dpostgate: GpuTensor;
}
