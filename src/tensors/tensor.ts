/** What users pass and get: rows of samples, in arrays or in buffers of a GPU. */
import type { Dtype, SampleArray } from "../dtype.ts";
import type { GpuBuffer } from "../gpu.ts";

/**
 * Rows of samples of a storage type, or of any where none is named: a flat typed array whose shape follows from the plan's
 * lengths, or an array with its shape.
 */
export type Tensor<D extends Dtype = Dtype> =
  | SampleArray<D>
  | {
      /** The samples, row after row. */
      readonly data: SampleArray<D>;
      /** (B, H, samples), or (H, samples) for taps. */
      readonly shape: readonly number[];
    }
  | {
      /** The samples, row after row. */
      readonly data: SampleArray<D>;
      /** The shape, as ONNX Runtime calls it. */
      readonly dims: readonly number[];
    };

/** Rows of samples in a buffer of the GPU, for objects with `backend: 'webgpu'` on the same device. */
export interface GpuTensor {
  /** A buffer with usage STORAGE; outputs may not share it with inputs, and lie 256 bytes apart in it. */
  readonly data: GpuBuffer;
  /** (B, H, samples), or (H, samples) for taps, which are float32. */
  readonly shape: readonly number[];
  /** Bytes before the first sample: a multiple of 8; 0 by default. */
  readonly offset?: number;
}

/** Samples in a buffer of the GPU, as wide as an array of the same dtype would be. */
export class GpuSamples {
  readonly buffer: GpuBuffer;
  readonly byteOffset: number;
  readonly length: number;
  readonly byteLength: number;

  constructor(buffer: GpuBuffer, byteOffset: number, length: number, bytesEach: number) {
    this.buffer = buffer;
    this.byteOffset = byteOffset;
    this.length = length;
    this.byteLength = length * bytesEach;
  }
}

/** Samples of a tensor, wherever they are. */
export type TensorData = SampleArray | GpuSamples;

const float16Name = "Float16Array";

/** Names of the arrays that hold a dtype. */
export function arrayNames(dtype: Dtype): string {
  if (dtype === "float32") return "a Float32Array";
  return dtype === "float16"
    ? "a Uint16Array of float16 bits (or a Float16Array)"
    : "a Uint16Array of bfloat16 bits";
}

/** Whether an array holds samples of a dtype. */
export function holds(array: unknown, dtype: Dtype): array is SampleArray {
  if (dtype === "float32") return array instanceof Float32Array;
  if (array instanceof Uint16Array) return true;
  return dtype === "float16" && ArrayBuffer.isView(array) && array.constructor.name === float16Name;
}

/** Whether a tensor argument lies in a buffer of the GPU. */
export function isGpuTensor(tensor: unknown): tensor is GpuTensor {
  if (elsewhere(tensor) !== undefined) return false;
  const data = (tensor as GpuTensor | undefined | null)?.data as Partial<GpuBuffer> | undefined;
  return typeof data?.mapState === "string" && typeof data.destroy === "function";
}

/** A result as the caller gets it: arrays as they are, samples in a GPU buffer with their shape. */
export function handed(samples: TensorData, shape: readonly number[]): SampleArray | GpuTensor {
  if (!(samples instanceof GpuSamples)) return samples;
  return { data: samples.buffer, shape, offset: samples.byteOffset };
}

/** Where a tensor of ONNX Runtime has its samples when not in an array; reading its `data` throws there. */
export function elsewhere(tensor: unknown): string | undefined {
  const { location } = Object(tensor) as { location?: unknown };
  return typeof location === "string" && !location.startsWith("cpu") ? location : undefined;
}
