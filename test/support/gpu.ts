/** Devices of the driver that the environment names, and their buffers. */
import { expect } from "vitest";
import { create, globals } from "webgpu";
import type { WebGpuBackend } from "../../src/backend/webgpu/device.ts";
import type { SampleArray } from "../../src/dtype.ts";
import type { GpuTensor } from "../../src/index.ts";
import type { GpuLimits, Schedule } from "../../src/schedule/schedule.ts";
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

/** Samples in a buffer, with room before and behind them that no call may touch. */
export function upload(
  device: GPUDevice,
  values: SampleArray | Uint32Array,
  shape: readonly number[],
  offset = 0,
): GpuTensor {
  const bytes = Math.ceil(values.byteLength / 4) * 4;
  const padded = new Uint8Array(bytes);
  padded.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  const data = device.createBuffer({ size: offset + bytes + 8, usage: 0x8c });
  device.queue.writeBuffer(data, offset, padded);
  return { data, shape, offset };
}

/**
 * Run a schedule made for limits, whatever the device's own: the results, in arrays like those of their names. An array that
 * stands twice is one buffer.
 */
export async function runSchedule<R extends Readonly<Record<string, SampleArray>>>(
  backend: WebGpuBackend,
  { steps, bytes }: Schedule<string>,
  limits: GpuLimits,
  given: Readonly<Record<string, SampleArray | Uint32Array | undefined>>,
  results: R,
): Promise<R> {
  const { device } = backend;
  for (const { ranges } of steps)
    for (const { size } of Object.values(ranges))
      expect(size).toBeLessThanOrEqual(limits.bindingBytes);
  const held = Object.values(bytes).reduce<number>((sum, n) => sum + (n ?? 0), 0);
  expect(held).toBeLessThanOrEqual(limits.workspaceBytes);
  const uploaded = new Map<SampleArray | Uint32Array, GPUBuffer>();
  const buffers: Record<string, GPUBuffer> = {};
  for (const [name, values] of Object.entries({ ...given, ...results })) {
    if (!values) continue;
    const buffer =
      uploaded.get(values) ?? (upload(device, values, [values.length]).data as GPUBuffer);
    uploaded.set(values, buffer);
    buffers[name] = buffer;
  }
  for (const [name, size] of Object.entries(bytes))
    buffers[name] = await backend.buffer(size!, "test");
  const compiled = await backend.prepare({ steps, bytes }, "test");
  const ranges = Object.fromEntries(
    Object.entries(buffers).map(([name, buffer]) => [name, { buffer }]),
  );
  await backend.submit((encoder) => compiled.bind(ranges, []).encode(encoder), "test");
  const found = await Promise.all(
    Object.entries(results).map(async ([name, values]) => [
      name,
      await download(device, { data: buffers[name]!, shape: [values.length] }, values),
    ]),
  );
  return Object.fromEntries(found) as R;
}
