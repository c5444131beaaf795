/**
 * What schedules run on, whatever the language of the kernels: `B` is a buffer of the device, `C` what takes commands.
 * WebGPU's devices are one implementation (backend/webgpu).
 */
import type { GpuLimits, Schedule } from "../schedule/schedule.ts";

/** Part of a buffer. */
export interface GpuRange<B> {
  /** The buffer. */
  readonly buffer: B;
  /** Bytes before the range; 0 by default. */
  readonly offset?: number | undefined;
  /** Bytes of the range; by default to the end of the buffer. */
  readonly size?: number | undefined;
}

/** What the names of a schedule stand for. */
export type GpuRanges<B> = Readonly<Record<string, GpuRange<B>>>;

/** A schedule whose kernels are compiled and whose parameters are on the device. */
export interface CompiledSchedule<B, C> {
  readonly schedule: Schedule<string>;
  /**
   * Bytes of each range of work memory: several where a dispatch may not read one part of a buffer and write another. Work memory
   * carries nothing from call to call, so that all calls of a queue may have the same.
   */
  readonly scratchBytes: readonly number[];
  /** Fix what is read and written; offsets are multiples of the device's alignment. */
  bind(ranges: GpuRanges<B>, scratch: readonly GpuRange<B>[]): BoundSchedule<C>;
}

/** A schedule with the ranges that it works on. */
export interface BoundSchedule<C> {
  readonly dispatches: number;
  /** Add the commands. Nothing is awaited, and nothing is made. */
  encode(into: C): void;
}

/** A device. */
export interface GpuDeviceBackend<B, C> {
  /** What schedules may use of it. */
  limits(workspaceBytes: number): GpuLimits;
  /** Compile a schedule; `tables` are ranges that every call of it binds. */
  prepare(
    schedule: Schedule<string>,
    call: string,
    tables?: GpuRanges<B>,
  ): Promise<CompiledSchedule<B, C>>;
}
