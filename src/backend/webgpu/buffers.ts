/** Buffers of a GPU: made where there is room, and rows copied from one to another. */
import { BackendError } from "../../errors.ts";

/** Rows in a buffer, in bytes: the first at `offset`, each `stride` after the one before. */
export interface BufferRows {
  readonly buffer: GPUBuffer;
  readonly offset: number;
  readonly stride: number;
}

export const usage = {
  storage: 0x80,
  uniform: 0x40,
  copyTo: 0x8,
  copyFrom: 0x4,
  mapRead: 0x1,
} as const;

/**
 * The size of a storage buffer for so many bytes.
 * @throws BackendError where no buffer of the device is that large.
 */
export function storageSize(device: GPUDevice, bytes: number, call: string): number {
  const size = Math.max(16, Math.ceil(bytes / 16) * 16);
  const most = device.limits.maxBufferSize;
  if (size > most) {
    throw new BackendError({
      call,
      requirement: `tensors and memory of a call that each fit one buffer of the device, ${most.toLocaleString("en-US")} bytes (maxBufferSize)`,
      value: `${size.toLocaleString("en-US")} bytes`,
      remedy:
        "Use fewer rows or channels a call, or open the device with a greater requiredLimits.maxBufferSize, where its adapter has it.",
    });
  }
  return size;
}

/**
 * A storage buffer of zeros on a device.
 * @throws BackendError where the device has no room for it.
 */
export async function storageBuffer(
  device: GPUDevice,
  bytes: number,
  call: string,
): Promise<GPUBuffer> {
  const size = storageSize(device, bytes, call);
  device.pushErrorScope("out-of-memory");
  const buffer = device.createBuffer({
    size,
    usage: usage.storage | usage.copyTo | usage.copyFrom,
    mappedAtCreation: false,
  });
  const error = await device.popErrorScope();
  if (error) throw outOfMemory(call, size, error.message);
  return buffer;
}

export function outOfMemory(call: string, bytes: number, message: string): BackendError {
  return new BackendError({
    call,
    requirement: "GPU memory for the call",
    value: bytes ? `${bytes.toLocaleString("en-US")} bytes refused (${message})` : message,
    remedy: "Use fewer rows or channels a call, or a smaller workspace.",
  });
}

/** Add copies of the first `bytes` bytes of so many rows, of zeros where there is no source, to an encoder. */
export function copyBufferRows(
  encoder: GPUCommandEncoder,
  from: BufferRows | undefined,
  to: BufferRows,
  rows: number,
  bytes: number,
): void {
  if (bytes === 0) return;
  for (let row = 0; row < rows; row++) {
    const at = to.offset + row * to.stride;
    if (!from) encoder.clearBuffer(to.buffer, at, bytes);
    else {
      const source = from.offset + row * from.stride;
      encoder.copyBufferToBuffer(from.buffer, source, to.buffer, at, bytes);
    }
  }
}
