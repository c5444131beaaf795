/** Calls on a GPU that are recorded in the middle of other work: what they are bound to, and what records them. */
import { UnsupportedError } from "../errors.ts";
import type { GpuBuffer, GpuCommandEncoder, GpuComputePassEncoder } from "../gpu.ts";
import type { BufferName } from "../schedule/schedule.ts";

/** Part of a buffer, as WebGPU's `GPUBufferBinding` has it. */
export interface GpuBufferBinding {
  /** A buffer with usage STORAGE. */
  readonly buffer: GpuBuffer;
  /** Bytes before the range: a multiple of `minStorageBufferOffsetAlignment`, 256; 0 by default. */
  readonly offset?: number | undefined;
  /** Bytes of the range; by default to the end of the buffer. */
  readonly size?: number | undefined;
}

/** Refuse to record calls where no GPU computes. */
export function refuseRecorder(call: string): never {
  throw new UnsupportedError({
    call,
    requirement: "calls are recorded on a GPU",
    value: "an object on the CPU",
    remedy: "Create the object with backend: 'webgpu' or your device.",
  });
}

/** What a recorded call reads or writes. */
export interface RecorderOperand {
  /** Bytes that its range must have. */
  readonly bytes: number;
  /** Whether the call reads it, writes it, or adds to what is there. */
  readonly access: "read" | "write" | "read-write";
}

/** @internal An operand as users name it, and the buffers of schedules that it stands for. */
export interface NamedOperand extends RecorderOperand {
  readonly name: string;
  readonly buffers: readonly BufferName[];
}

/**
 * A call of fixed shape whose commands go wherever you record them. Its kernels are compiled; work memory and all tensors are
 * yours.
 *
 * WebGPU lets a dispatch read a buffer or write it, not both. So what is written shares no buffer with what is read, results that
 * share one do not overlap, and work memory shares none with either.
 * @example
 * ```js
 * const forward = await conv.recorder("forward", { batch: 8, channels: 768, kernel: "spectrum" });
 * const scratch = forward.scratchBytes.map((size) => device.createBuffer({ size, usage: GPUBufferUsage.STORAGE }));
 * const bound = forward.bind({ u: { buffer: u }, spectrum: { buffer: spectra }, y: { buffer: y } }, scratch);
 * const encoder = device.createCommandEncoder();
 * bound.encode(encoder);
 * await forward.submit(encoder);
 * ```
 */
export interface GpuRecorder {
  /** What `bind` must be given, by name. */
  readonly operands: Readonly<Record<string, RecorderOperand>>;
  /**
   * Bytes of each buffer of work memory that `bind` must be lent; none where it is empty. Nothing is kept there between calls: lend the
   * same buffers, as large as the largest of each place, to all calls of a queue.
   */
  readonly scratchBytes: readonly number[];
  /** Dispatches that `encode` records. */
  readonly dispatches: number;
  /**
   * Make the bind groups for these ranges, to be recorded as often as you like.
   * @param ranges A range of a buffer with usage STORAGE for each of `operands`.
   * @param scratch A buffer, or a range of one, for each of `scratchBytes`.
   * @throws InvalidArgumentError for ranges that are missing, misaligned, too short or share a buffer that they may not. Buffers of
   * another device are noticed by the device alone: `submit` throws then.
   */
  bind(
    ranges: Readonly<Record<string, GpuBufferBinding>>,
    scratch?: readonly (GpuBuffer | GpuBufferBinding)[],
  ): BoundRecorder;
  /**
   * Finish encoders and submit them: any, whatever else was recorded there. Resolves as soon as the device has checked the commands.
   * @throws BackendError where it refuses some, or buffers that were bound since the last time.
   */
  submit(...encoders: GpuCommandEncoder[]): Promise<void>;
  /** Free what belongs to the recorder, once its commands are submitted; `dispose` of the object does it too. */
  dispose(): void;
  /** The same as `dispose`, for `using`. */
  [Symbol.dispose](): void;
}

/** A recorded call with all that it reads and writes. */
export interface BoundRecorder {
  /** Dispatches that `encode` records. */
  readonly dispatches: number;
  /**
   * Record the call, at once: into a compute pass that is open, whose pipeline and bind group 0 it sets, or an encoder, which gets a
   * pass of its own. Errors of the device come to light where the encoder is finished: `submit` throws them.
   * @throws InvalidArgumentError where the object or the recorder has been disposed of, or `into` is no encoder.
   */
  encode(into: GpuCommandEncoder | GpuComputePassEncoder): void;
}
