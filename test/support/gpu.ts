/** Devices of the driver that the environment names, and their buffers. */
import { create, globals } from "webgpu";
import type { SampleArray } from "../../src/dtype.ts";
import type { GpuTensor } from "../../src/index.ts";
import { onGpu } from "./backends.ts";

Object.assign(globalThis, globals);
/** Held on to: devices end with it. */
const gpu = onGpu ? create([]) : undefined;

/** That driver's adapter. */
export async function openAdapter(): Promise<GPUAdapter> {
  return (await gpu!.requestAdapter())!;
}

/** A device of the default limits. */
export async function openDevice(): Promise<GPUDevice> {
  return (await openAdapter()).requestDevice();
}

/** What a tensor holds, in an array of another one's kind. */
export async function download<T extends SampleArray>(
  device: GPUDevice,
  tensor: GpuTensor,
  like: T,
): Promise<T> {
  const Kind = like.constructor as new (n: ArrayBuffer, at: number, length: number) => T;
  const length = tensor.shape.reduce((a, b) => a * b, 1);
  const size = Math.ceil((length * (like as Float32Array).BYTES_PER_ELEMENT) / 4) * 4;
  const staging = device.createBuffer({ size, usage: 0x9 });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(tensor.data as GPUBuffer, tensor.offset ?? 0, staging, 0, size);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(1);
  const values = new Kind(staging.getMappedRange().slice(0), 0, length);
  staging.destroy();
  return values;
}
