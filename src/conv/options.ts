/** What objects are made from, and what calls take and give. */
import type { RuntimeOptions } from "../calls/runtime.ts";
import { checkNames, runtimeNames } from "../calls/runtime.ts";
import type { Dtype } from "../dtype.ts";
import type { GpuCommandEncoder } from "../gpu.ts";
import { createProblem } from "../plan/create-problem.ts";
import type { Problem, ProblemOptions } from "../plan/problem.ts";
import { problemNames } from "../plan/problem.ts";
import type {
  GivenAs,
  NewResult,
  NewWeights,
  OutOf,
  WithGradientsOf,
} from "../tensors/result-types.ts";
import type { GpuTensor, Tensor } from "../tensors/tensor.ts";

/** A worker: a page's `Worker`, or one of `node:worker_threads`. */
export interface ConvolutionWorker {
  /** As every worker's. */
  postMessage(message: unknown, transfer: never[]): void;
  /** A page's worker tells of a script that does not load. */
  addEventListener?(type: "error", listener: (event: { readonly message?: string }) => void): void;
  /** And is asked no more when it has. */
  removeEventListener?(
    type: "error",
    listener: (event: { readonly message?: string }) => void,
  ): void;
}

/** What a FlashFFTConv is made from. */
export interface FlashFFTConvOptions<D extends Dtype = Dtype>
  extends ProblemOptions<D>,
    RuntimeOptions {
  /**
   * A worker of yours that computes instead of this thread, which then never waits: its script calls `serveConvolutions()`. Arrays
   * are copied there and back. For pages that are not cross-origin isolated, whose calls hold the page (docs/workers.md).
   */
  readonly worker?: ConvolutionWorker;
  /** B of the calls to come, by default 1, on WebGPU 8: a hint for the planner; calls may have any. */
  readonly batch?: number;
  /** H of the calls to come, by default 16, on WebGPU 1,024: a hint, as `batch` is. */
  readonly channels?: number;
  /**
   * Use this plan, as `explain()` prints it, instead of the planner's choice. On WebGPU it serves gradients too;
   * `"plan; gradients plan"` names another one for them, of as many points. `"direct K"`, for up to 64 taps, names the time
   * domain on every backend.
   */
  readonly plan?: string;
}

/** Options that say where and how to compute, not what. */
export const howNames: readonly (keyof FlashFFTConvOptions)[] = [...runtimeNames, "worker", "plan"];

/** Options of a FlashFFTConv besides those that every class takes. */
const ownNames = [...problemNames, "batch", "channels", "worker", "plan"];

/** Options that a FlashFFTConv is made from. */
export const convOptionNames: readonly string[] = [...ownNames, ...runtimeNames];

/**
 * The problem of an object's options.
 * @throws InvalidArgumentError naming `call`.
 */
export function checkedProblem<D extends Dtype>(
  options: FlashFFTConvOptions<D>,
  call: string,
): Problem<D> {
  checkNames(options, ownNames, call, "Pass { length: L }.");
  return createProblem(options, call);
}

/** Optional operands of a forward call, with samples of dtype `D`, on an object of that dtype; `O` is what `out` may be. */
export interface ForwardOptions<
  D extends Dtype = "float32",
  O extends Tensor<D> | GpuTensor | undefined = Tensor<D> | GpuTensor | undefined,
> {
  /** (B, H, L), multiplies u. */
  readonly pregate?: Tensor<D> | GpuTensor | undefined;
  /** (B, H, Lout), multiplies the convolution. */
  readonly postgate?: Tensor<D> | GpuTensor | undefined;
  /** (H) float32: adds skip ⊙ u, ungated; for modes whose outputs are as long as their inputs. */
  readonly skip?: Tensor<"float32"> | GpuTensor | undefined;
  /**
   * (B, H, Lout): where the result goes, instead of a new array or buffer. It holds the result once the promise has resolved;
   * what it holds before is not promised.
   */
  readonly out?: O | undefined;
  /**
   * Record the work here instead of submitting it; for tensors that are all in GPU buffers. It must be an encoder of the object's
   * device, with no pass open: others fail only where you finish them. Only undefined stands for none. After submitting, say so by `submitted()`.
   */
  readonly encoder?: GpuCommandEncoder | undefined;
}

/** Optional operands of a backward call: those of the forward call that it belongs to. */
export interface BackwardOptions<D extends Dtype = "float32">
  extends Omit<ForwardOptions<D>, "out"> {
  /** Where the gradients go, instead of new arrays; each by itself, and there once the promise has resolved. */
  readonly out?: GradientArrays<D> | undefined;
}

/** Arrays for gradients, of the shapes and kinds of `Gradients`. */
export interface GradientArrays<D extends Dtype = "float32"> {
  /** (B, H, L). */
  readonly du?: Tensor<D> | GpuTensor | undefined;
  /** (H, K), float32. */
  readonly dk?: Tensor<"float32"> | GpuTensor | undefined;
  /** (B, H, L). */
  readonly dpregate?: Tensor<D> | GpuTensor | undefined;
  /** (B, H, Lout). */
  readonly dpostgate?: Tensor<D> | GpuTensor | undefined;
  /** (H), float32. */
  readonly dskip?: Tensor<"float32"> | GpuTensor | undefined;
}

/** Gradients of a loss, given dy = ∂loss/∂y: of rows in `R`, of weights in `W`. */
export interface Gradients<R = Float32Array, W = Float32Array> {
  /** (B, H, L), in the dtype of u. */
  readonly du: R;
  /** (H, K), float32, summed over the batch in a fixed order. */
  readonly dk: W;
  /** (B, H, L), where there was a pregate. */
  readonly dpregate?: R;
  /** (B, H, Lout), where there was a postgate. */
  readonly dpostgate?: R;
  /** (H), float32, where there was a skip. */
  readonly dskip?: W;
}

/** Gradients of a call whose tensors are in GPU buffers; buffers that the caller did not give are the caller's to destroy. */
export type GpuGradients = Gradients<GpuTensor, GpuTensor>;

/** Gradients of a call whose u is `U` and whose options are `P`: of rows in arrays of u's kind, of weights in float32. */
export type GradientsOf<U, P = unknown> = WithGradientsOf<
  P,
  "pregate" | "postgate" | "skip",
  Gradients<
    NewResult<U> | GivenAs<OutOf<P>, "du" | "dpregate" | "dpostgate">,
    NewWeights<U> | GivenAs<OutOf<P>, "dk" | "dskip">
  >
>;

/** Bytes that an object holds in its backend. */
export interface MemoryUse {
  /**
   * One transform: the complex float32 points of one row (of its largest part, where a plan has several). In the time domain
   * what stands in its place: on the CPU the window of a block, on WebGPU a channel's taps.
   */
  readonly transformBytes: number;
  /** Work memory of the last call, beyond inputs and outputs in the backend's memory: transforms and staging. */
  readonly workspaceBytes: number;
  /** Spectra of prepared kernels. */
  readonly spectrumBytes: number;
  /** Everything in use in the backend's memory, by all objects on it. */
  readonly backendBytes: number;
}

/** Calls that `warmUp` makes ready for, by what they are given. */
export interface WarmUp {
  /** Gradients, rather than forward calls. */
  readonly backward?: boolean;
  /** With a pregate. */
  readonly pregate?: boolean;
  /** With a postgate. */
  readonly postgate?: boolean;
  /** With a skip weight. */
  readonly skip?: boolean;
}

/** Calls that `recorder` records, by the methods that they stand for. */
export type RecordedConvCall = "prepareKernel" | "forward" | "backward";

/** The shape of a recorded call, and the operands it has. */
export interface ConvRecorderOptions {
  /** B; not for `prepareKernel`. */
  readonly batch?: number;
  /** H. */
  readonly channels: number;
  /**
   * Whether calls read taps `k`, (H, K) in float32, and transform them each time, or a `spectrum` that a recorded `prepareKernel` of
   * this object wrote; taps by default.
   */
  readonly kernel?: "taps" | "spectrum";
  /** Whether there is a pregate, (B, H, L). */
  readonly pregate?: boolean;
  /** Whether there is a postgate, (B, H, Lout). */
  readonly postgate?: boolean;
  /** Whether there is a skip weight, (H) in float32. */
  readonly skip?: boolean;
  /**
   * Backward: whether dk and dskip are added to what their ranges hold, as for weights of several calls, or gradients over several
   * batches. Gradients of rows are always written.
   */
  readonly add?: boolean;
}
