/** What the GPU benches fill tensors with, and what they read of them. */
import { type Dtype, decode, encode } from "../src/dtype.ts";
import type { GpuTensor } from "../src/index.ts";
import { readBytes } from "./gpu-device.ts";

/** Of every buffer: storage, and copies from and to it. */
export const usage: number = 0x80 | 0x8 | 0x4;

/** Samples until they repeat: long enough for no length to see them again in a row's window of cache. */
export const poolSize: number = 2 ** 20;

/** Samples of unit scale. */
function samples(count: number): Float64Array {
  let state = 12_345;
  const uniform = (): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32 - 0.5;
  };
  return Float64Array.from(
    { length: count },
    () => 1.7 * (uniform() + uniform() + uniform() + uniform()),
  );
}

const pool = samples(poolSize);
const stored = new Map<Dtype, { bits: Float32Array | Uint16Array; values: Float64Array }>();

/** The pool as it is stored, and what is stored. */
function storedPool(dtype: Dtype): { bits: Float32Array | Uint16Array; values: Float64Array } {
  let found = stored.get(dtype);
  if (!found) {
    const bits = encode(pool, dtype);
    found = { bits, values: decode(bits, dtype) };
    stored.set(dtype, found);
  }
  return found;
}

/** Samples of a tensor: `count` of them, every `apart`-th, from sample `from` on. */
export interface Places {
  readonly from: number;
  readonly count: number;
  readonly apart?: number;
}

/** What `fill` with the same `start` writes there. */
export function filled(
  dtype: Dtype,
  start: number,
  { from, count, apart = 1 }: Places,
): Float64Array {
  const { values } = storedPool(dtype);
  return Float64Array.from(
    { length: count },
    (_, i) => values[(start + from + i * apart) % poolSize]!,
  );
}

/** A buffer of zeros. */
export function empty(device: GPUDevice, shape: readonly number[], dtype: Dtype): GpuTensor {
  const bytes = shape.reduce((a, b) => a * b, dtype === "float32" ? 4 : 2);
  return { data: device.createBuffer({ size: Math.ceil(bytes / 16) * 16, usage }), shape };
}

/** A buffer of the pool's samples, again and again from sample `start` on. */
export function fill(
  device: GPUDevice,
  shape: readonly number[],
  dtype: Dtype,
  start: number,
): GpuTensor {
  const { bits } = storedPool(dtype);
  const count = shape.reduce((a, b) => a * b, 1);
  const each = bits.BYTES_PER_ELEMENT;
  const tensor = empty(device, shape, dtype);
  const data = tensor.data as GPUBuffer;
  const first = bits.slice(0, Math.min(poolSize, count));
  for (let i = 0; i < first.length; i++) first[i] = bits[(start + i) % poolSize]!;
  device.queue.writeBuffer(data, 0, first as Float32Array<ArrayBuffer>);
  const staging = device.createBuffer({ size: first.byteLength, usage });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(data, 0, staging, 0, first.byteLength);
  for (let at = poolSize; at < count; at += poolSize) {
    const bytes = Math.min(poolSize, count - at) * each;
    encoder.copyBufferToBuffer(staging, 0, data, at * each, bytes);
  }
  device.queue.submit([encoder.finish()]);
  staging.destroy();
  return tensor;
}

/** What a tensor holds at some places of it. */
export async function readPlaces(
  device: GPUDevice,
  tensor: GpuTensor,
  dtype: Dtype,
  places: readonly Places[],
): Promise<Float64Array[]> {
  const each = dtype === "float32" ? 4 : 2;
  const ends = places.map(({ from, count, apart = 1 }) => from + (count - 1) * apart + 1);
  const bytes = Math.ceil((Math.max(...ends) * each) / 4) * 4;
  const copy = await readBytes(device, tensor.data as GPUBuffer, bytes);
  return places.map(({ from, count, apart = 1 }) => {
    const bits = dtype === "float32" ? new Float32Array(count) : new Uint16Array(count);
    const all = dtype === "float32" ? new Float32Array(copy) : new Uint16Array(copy);
    for (let i = 0; i < count; i++) bits[i] = all[from + i * apart]!;
    return decode(bits, dtype);
  });
}
