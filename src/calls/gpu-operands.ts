/** Operands of calls on a GPU: which buffers of a schedule they are, and where in their buffers they begin. */
import type { GpuRange } from "../backend/gpu.ts";
import { InvalidArgumentError } from "../errors.ts";
import type { BufferName } from "../schedule/schedule.ts";
import type { TensorData } from "../tensors/tensor.ts";
import { GpuSamples } from "../tensors/tensor.ts";

/** A tensor of a call. */
export interface CallOperand {
  readonly buffer: BufferName;
  /** As the user knows it. */
  readonly name: string;
  readonly data: TensorData;
  /** Samples when the call was made. */
  readonly size: number;
  /** `kept`: weights, whose values stay on the device while they do not change. */
  readonly use: "in" | "kept" | "out";
}

export function operand(
  buffer: BufferName,
  data: TensorData,
  use: CallOperand["use"],
  name: string = buffer,
): CallOperand {
  return { buffer, name, data, size: data.length, use };
}

/** Bytes before the first samples of ranges that begin where bindings may; those of the others are 0 and left out. */
export function offsetsOf(
  operands: readonly CallOperand[],
  alignment: number,
): Partial<Record<BufferName, number>> {
  const offsets: Partial<Record<BufferName, number>> = {};
  for (const { buffer, data } of operands) {
    const rest = data instanceof GpuSamples ? data.byteOffset % alignment : 0;
    if (rest > 0) offsets[buffer] = rest;
  }
  return offsets;
}

/** The range of samples in a buffer, from where bindings may begin. */
export function alignedRange(
  { buffer, byteOffset }: GpuSamples,
  alignment: number,
): GpuRange<GPUBuffer> {
  return { buffer: buffer as GPUBuffer, offset: byteOffset - (byteOffset % alignment) };
}

/** Arrays would be read and written while the encoder still waits; weights are uploaded and stay. */
export function onlyBuffers(operands: readonly CallOperand[], call: string): void {
  const array = operands.find((o) => o.use !== "kept" && !(o.data instanceof GpuSamples));
  if (!array) return;
  throw new InvalidArgumentError({
    call,
    requirement: "with an encoder every tensor must be in a GPU buffer, a kernel there or prepared",
    value: `${array.name} in an array`,
    remedy: "Upload it, or leave encoder out.",
  });
}
