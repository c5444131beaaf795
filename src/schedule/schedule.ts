/** Schedules of a call on a GPU, as data: the kernels of its steps, in order, and the ranges of buffers that they work on. */
import type { Dtype } from "../dtype.ts";
import type { DepthwiseBuffer } from "../kernels/gpu/filter/samples.ts";
import type {
  Kernel,
  Machine,
  OwnParameters,
  Parameters,
  ScaleBuffer,
  WorkBuffer,
} from "../kernels/gpu/kernel.ts";
import type { TensorName } from "../kernels/gpu/storage.ts";
import type { Part } from "../plan/geometry.ts";
import type { PassPlan } from "../plan/gpu/passes.ts";
import type { Problem } from "../plan/problem.ts";

/** What a device allows, and how much work memory a call may take. */
export interface GpuLimits extends Machine {
  /** Most complex values that a thread should hold. */
  readonly values: number;
  /** Bytes that one binding may span. */
  readonly bindingBytes: number;
  /** Storage buffers of one kernel. */
  readonly bindings: number;
  /** What offsets of bindings must be multiples of. */
  readonly alignment: number;
  /** Bytes of work memory: everything above inputs, outputs and kept spectra. */
  readonly workspaceBytes: number;
}

/** Buffers of a schedule by name: the user's tensors, tables, and work memory that is lent for the call. */
export type BufferName =
  | TensorName
  | DepthwiseBuffer
  | "k"
  | "dk"
  | "dskip"
  | "skip"
  | "spectrum"
  | "twiddles"
  | "pattern"
  | WorkBuffer
  | ScaleBuffer
  | "norms"
  | "sums";

/** Part of a buffer; `Name` are the buffers that a schedule knows, those of convolutions by default. */
export interface BufferRange<Name extends string = BufferName> {
  readonly buffer: Name;
  /** Bytes. */
  readonly offset: number;
  /** Bytes. */
  readonly size: number;
}

/** One dispatch. */
export interface ScheduleStep<Name extends string = BufferName> {
  readonly kernel: Kernel;
  /** Tiles in all; the kernel takes `kernel.tiles` in a workgroup. */
  readonly tiles: number;
  readonly parameters: Parameters | OwnParameters;
  /** What each of the kernel's bindings is bound to. */
  readonly ranges: Readonly<Record<string, BufferRange<Name>>>;
}

/** Steps of a call and the bytes of the buffers that it needs besides its tensors. */
export interface Schedule<Name extends string = BufferName> {
  readonly steps: readonly ScheduleStep<Name>[];
  readonly bytes: Readonly<Partial<Record<Name, number>>>;
}

/** What a call computes. */
export interface GpuCall {
  readonly batch: number;
  readonly channels: number;
  readonly pregate: boolean;
  readonly postgate: boolean;
  readonly skip: boolean;
  /** Backward: whether dk and dskip, sums in float32, join what is in their buffers; by default they replace it. */
  readonly add?: boolean;
  /** Storage of the taps, or undefined where their spectra are kept. */
  readonly taps: Dtype | undefined;
  /** Bytes of the tensors' ranges before their first samples: less than the alignment of bindings. */
  readonly offsets: Readonly<Partial<Record<BufferName, number>>>;
}

/** Makes the schedules of one convolution under one plan. */
export interface CallScheduler {
  /** Bytes of a transform in float32; of the time domain, of a channel's taps. */
  readonly transformBytes: number;
  /** Bytes of what is kept of a channel's kernel. */
  readonly spectrumBytes: number;
  /** What kernels read besides tensors and spectra, by the name of the buffer. */
  tables(): Readonly<Partial<Record<BufferName, Float32Array | Uint32Array>>>;
  /** What is kept of the taps of some channels; `offset` is that of k in its buffer, in bytes. */
  spectra(channels: number, taps: Dtype, offset: number): Schedule;
  /** y = postgate ⊙ ((pregate ⊙ u) ∗ k) + skip ⊙ u. */
  forward(call: GpuCall): Schedule;
  /** All gradients. */
  backward(call: GpuCall): Schedule;
}

/** The convolution that schedules are made for. */
export interface GpuConvolution {
  readonly problem: Problem;
  readonly part: Part;
  readonly plan: PassPlan;
  /** The plan that makes the spectra that are kept. */
  readonly keeper: PassPlan;
  readonly limits: GpuLimits;
}
