/** What objects are made from, and what calls take and give. */
import type { Instructions } from "../backend/features.ts";
import type { SampleArray } from "../dtype.ts";
import type { GpuCommandEncoder, GpuDevice } from "../gpu.ts";
import type { ProblemOptions } from "../plan/problem.ts";
import { problemNames } from "../plan/problem.ts";
import type { GpuTensor, Tensor } from "./arguments.ts";

/** What a FlashFFTConv is made from. */
export interface FlashFFTConvOptions extends ProblemOptions {
  /** Where to compute: `auto` takes WebGPU where you pass a `device` and the CPU elsewhere. */
  readonly backend?: "auto" | "cpu" | "webgpu";
  /** A WebGPU device of yours, for tensors in its buffers; by default the library opens one. */
  readonly device?: GpuDevice;
  /**
   * Bytes of GPU memory that a call may take above its tensors and kept spectra; 256 MiB by default. One row at a time is
   * always computed, where its transforms (one forward, with the kernel's two; up to five in gradients) take more than that.
   */
  readonly workspaceBytes?: number;
  /**
   * Threads of the CPU, the caller's included: all cores by default, one where memory cannot be shared or workers do not start,
   * four a core at most. WebGPU ignores them.
   */
  readonly threads?: number;
  /**
   * Where worker threads start from: the address of a copy of `flashfftconv/worker`. For pages that import the library from
   * another origin, and for bundlers that do not follow `new Worker(new URL(…))` (docs/browser.md).
   */
  readonly workerUrl?: string | URL;
  /** Instruction set of the CPU's kernels; by default the best that the runtime has. WebGPU ignores it. */
  readonly instructions?: "auto" | Instructions;
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

/** Options that a FlashFFTConv is made from. */
export const convOptionNames: readonly string[] = [
  ...[...problemNames, "batch", "channels"],
  ...["backend", "device", "workspaceBytes", "threads", "workerUrl", "instructions", "plan"],
];

/** Optional operands of a forward call. */
export interface ForwardOptions {
  /** (B, H, L), multiplies u. */
  readonly pregate?: Tensor | GpuTensor | undefined;
  /** (B, H, Lout), multiplies the convolution. */
  readonly postgate?: Tensor | GpuTensor | undefined;
  /** (H) float32: adds skip ⊙ u, ungated; for modes whose outputs are as long as their inputs. */
  readonly skip?: Tensor | GpuTensor | undefined;
  /** (B, H, Lout): where the result goes, instead of a new array or buffer. */
  readonly out?: Tensor | GpuTensor | undefined;
  /**
   * Record the work here instead of submitting it; for tensors that are all in GPU buffers. It must be an encoder of the object's
   * device, with no pass open: others fail only where you finish them. Only undefined stands for none. After submitting, say so by `submitted()`.
   */
  readonly encoder?: GpuCommandEncoder | undefined;
}

/** Optional operands of a backward call: those of the forward call that it belongs to. */
export interface BackwardOptions extends Omit<ForwardOptions, "out"> {
  /** Where the gradients go, instead of new arrays; each by itself. */
  readonly out?: GradientArrays | undefined;
}

/** Arrays for gradients, of the shapes and kinds of `Gradients`. */
export interface GradientArrays {
  /** (B, H, L). */
  readonly du?: Tensor | GpuTensor | undefined;
  /** (H, K). */
  readonly dk?: Tensor | GpuTensor | undefined;
  /** (B, H, L). */
  readonly dpregate?: Tensor | GpuTensor | undefined;
  /** (B, H, Lout). */
  readonly dpostgate?: Tensor | GpuTensor | undefined;
  /** (H). */
  readonly dskip?: Tensor | GpuTensor | undefined;
}

/** Gradients of a loss, given dy = ∂loss/∂y. */
export interface Gradients {
  /** (B, H, L), in the dtype of u. */
  readonly du: SampleArray;
  /** (H, K), float32, summed over the batch in a fixed order. */
  readonly dk: Float32Array;
  /** (B, H, L), where there was a pregate. */
  readonly dpregate?: SampleArray;
  /** (B, H, Lout), where there was a postgate. */
  readonly dpostgate?: SampleArray;
  /** (H), float32, where there was a skip. */
  readonly dskip?: Float32Array;
}

/** Gradients of a call whose tensors are in GPU buffers; buffers that the caller did not give are the caller's to destroy. */
export interface GpuGradients {
  /** (B, H, L), in the dtype of u. */
  readonly du: GpuTensor;
  /** (H, K), float32, summed over the batch in a fixed order. */
  readonly dk: GpuTensor;
  /** (B, H, L), where there was a pregate. */
  readonly dpregate?: GpuTensor;
  /** (B, H, Lout), where there was a postgate. */
  readonly dpostgate?: GpuTensor;
  /** (H), float32, where there was a skip. */
  readonly dskip?: GpuTensor;
}

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
