/** Recorded calls in tests: operands in buffers with room before them, what was made while they were recorded, what came of them. */
import type { SampleArray } from "../../src/dtype.ts";
import type { BoundRecorder, GpuBufferBinding, GpuRecorder } from "../../src/index.ts";
import { download, upload } from "./gpu.ts";

/** Bytes before every operand, and between those that share a buffer. */
export const before = 512;

/** A recorded call with its buffers. */
export interface OnBuffers {
  readonly ranges: Readonly<Record<string, GpuBufferBinding>>;
  readonly bound: BoundRecorder;
  /** What an operand holds, in an array like another. */
  read<T extends SampleArray>(name: string, like: T): Promise<T>;
}

/** Lend work memory to recorders: the same to all. */
export function lendScratch(
  device: GPUDevice,
  ...recorders: readonly GpuRecorder[]
): (recorder: GpuRecorder) => GPUBuffer[] {
  const places = Math.max(...recorders.map((r) => r.scratchBytes.length));
  const buffers = Array.from({ length: places }, (_, i) => {
    const size = Math.max(...recorders.map((r) => r.scratchBytes[i] ?? 0));
    return device.createBuffer({ size, usage: 0x80 });
  });
  return ({ scratchBytes }) => buffers.slice(0, scratchBytes.length);
}

/** Bind a recorder: to ranges that are there, to what is given, or to zeros. */
export function onBuffers(
  device: GPUDevice,
  recorder: GpuRecorder,
  scratch: readonly GPUBuffer[],
  given: Readonly<Record<string, SampleArray | GpuBufferBinding | undefined>>,
): OnBuffers {
  const ranges: Record<string, GpuBufferBinding> = {};
  for (const [name, { bytes }] of Object.entries(recorder.operands)) {
    const value = given[name] ?? new Float32Array(bytes / 4);
    ranges[name] = ArrayBuffer.isView(value)
      ? { buffer: upload(device, value, [value.length], before).data, offset: before }
      : value;
  }
  return {
    ranges,
    bound: recorder.bind(ranges, scratch),
    read: (name, like) => {
      const { buffer, offset = 0 } = ranges[name]!;
      return download(device, { data: buffer, offset, shape: [like.length] }, like);
    },
  };
}

/** Counts what is asked of a device, until `undo`. */
export function countCalls(
  device: GPUDevice,
  ...names: ("createBuffer" | "createBindGroup" | "pushErrorScope")[]
): { readonly made: () => number; undo(): void } {
  let count = 0;
  for (const name of names) {
    const own = device[name].bind(device) as (...a: unknown[]) => unknown;
    Object.assign(device, {
      [name]: (...parameters: unknown[]) => {
        count++;
        return own(...parameters);
      },
    });
  }
  return {
    made: () => count,
    undo: () => {
      for (const name of names) delete (device as unknown as Record<string, unknown>)[name];
    },
  };
}
