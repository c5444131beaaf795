/** Checks of what users pass: shapes, dtypes, buffers. Every refusal names the call, the rule, the value and the remedy. */
import type { Dtype, SampleArray } from "../dtype.ts";
import { bytesPerSample } from "../dtype.ts";
import { BackendError, InvalidArgumentError, UnsupportedError } from "../errors.ts";
import type { GpuBuffer, GpuDevice } from "../gpu.ts";
import { show } from "../show.ts";

export { checkFlags, checkOptions, known } from "../plan/checks.ts";

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

/** Destroy what lies on the GPU: results of a call that failed, which its caller never gets. */
export function destroyBuffers(results: Iterable<unknown>): void {
  for (const r of results) if (r instanceof GpuSamples) r.buffer.destroy();
}

/** An object of promises → an object of what they give; where one of them fails, the buffers of the others are destroyed. */
export async function settled<T>(
  promises: Readonly<Record<string, T | Promise<T>>>,
): Promise<Record<string, T>> {
  const names = Object.keys(promises);
  const values = await Promise.allSettled(Object.values(promises));
  const failed = values.find((v) => v.status === "rejected");
  const made = values.map((v) => (v.status === "fulfilled" ? v.value : undefined));
  if (!failed) return Object.fromEntries(names.map((name, i) => [name, made[i]!]));
  destroyBuffers(
    Object.values(promises).map((p, i) => (p instanceof Promise ? made[i] : undefined)),
  );
  throw failed.reason;
}

/** What a call gives; where it fails, the buffers that were made for its results are destroyed. */
export async function orDestroyed<T>(running: Promise<T>, results: readonly Samples[]): Promise<T> {
  try {
    return await running;
  } catch (error) {
    destroyBuffers(results);
    throw error;
  }
}

/** Samples of a tensor, wherever they are. */
export type Samples = SampleArray | GpuSamples;

/** What a tensor argument must be. */
export interface Expected {
  readonly call: string;
  readonly name: string;
  readonly dtype: Dtype;
  /** float32 is also accepted (kernels). */
  readonly orFloat32?: boolean;
  /** Names of the dimensions, for messages: ["B", "H", "L"]. */
  readonly dimensions: readonly string[];
  /** The device whose buffers are accepted; undefined where only arrays are. */
  readonly device?: GpuDevice | undefined;
}

const float16Name = "Float16Array";

/** Names of the arrays that hold a dtype. */
function arrayNames(dtype: Dtype): string {
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

function refuse(e: Expected, requirement: string, value: string, remedy: string): never {
  throw new InvalidArgumentError({ call: e.call, requirement, value, remedy });
}

/** Where a tensor of ONNX Runtime has its samples when not in an array; reading its `data` throws there. */
function elsewhere(tensor: unknown): string | undefined {
  const { location } = Object(tensor) as { location?: unknown };
  return typeof location === "string" && !location.startsWith("cpu") ? location : undefined;
}

/** Whether a tensor argument lies in a buffer of the GPU. */
export function isGpuTensor(tensor: unknown): tensor is GpuTensor {
  if (elsewhere(tensor) !== undefined) return false;
  const data = (tensor as GpuTensor | undefined | null)?.data as Partial<GpuBuffer> | undefined;
  return typeof data?.mapState === "string" && typeof data.destroy === "function";
}

/** What offsets of tensors in GPU buffers must be multiples of: two float32 samples. */
const gpuAlignment = 8;
const storageUsage = 0x80;

function gpuSamples(
  { data, shape, offset = 0 }: GpuTensor,
  e: Expected,
): { data: GpuSamples; shape: readonly number[] } {
  if (!e.device) {
    refuse(
      e,
      `${e.name} must be an array here`,
      "a GPUBuffer",
      "Create the object with backend: 'webgpu' and your device.",
    );
  }
  if (!Number.isInteger(offset) || offset < 0 || offset % gpuAlignment !== 0) {
    refuse(
      e,
      `the offset of ${e.name} must be a multiple of ${gpuAlignment} bytes`,
      show(offset),
      "Move the samples, or give them a buffer of their own.",
    );
  }
  if ((data.usage & storageUsage) === 0) {
    refuse(
      e,
      `the buffer of ${e.name} must have GPUBufferUsage.STORAGE`,
      `usage ${show(data.usage)}`,
      "Create it with STORAGE.",
    );
  }
  const size = Array.isArray(shape) ? shape.reduce((a, b) => a * b, 1) : Number.NaN;
  const samples = new GpuSamples(data, offset, size, bytesPerSample(e.dtype));
  checkShape(shape, samples, e);
  // Bindings are whole words.
  const needed = offset + Math.ceil(samples.byteLength / 4) * 4;
  if (needed > data.size) {
    refuse(
      e,
      `the buffer of ${e.name} must hold ${show(needed)} bytes`,
      `one of ${show(data.size)}`,
      "Check shape, dtype and offset.",
    );
  }
  return { data: samples, shape };
}

/** A tensor argument that was given with its shape, which ONNX Runtime calls `dims`. */
function shapedOf(tensor: unknown): { data: SampleArray; shape: readonly number[] } | undefined {
  if (typeof tensor !== "object" || tensor === null || elsewhere(tensor)) return undefined;
  const { data, shape, dims } = tensor as Record<"data" | "shape" | "dims", unknown>;
  if (!("shape" in tensor) && !("dims" in tensor)) return undefined;
  return { data: data as SampleArray, shape: (shape ?? dims) as readonly number[] };
}

/** Refuse tensors of other libraries that hold their samples where no property gives them. */
function refuseForeign(tensor: unknown, e: Expected): void {
  const { dataToGPU, dataSync } = Object(tensor) as Record<string, unknown>;
  if (typeof dataToGPU === "function" || typeof dataSync === "function") {
    refuse(
      e,
      `${e.name} must be an array, or { data, shape }`,
      "a tf.Tensor",
      "Pass { data: await tensor.data(), shape: tensor.shape }, or, for a GPUBuffer, { data: tensor.dataToGPU().buffer, shape: tensor.shape }.",
    );
  }
  const location = elsewhere(tensor);
  if (location === undefined) return;
  refuse(
    e,
    `${e.name} must be an array, or { data, shape }`,
    `a tensor of ONNX Runtime whose samples are in ${show(location)}`,
    "Pass { data: await tensor.getData(), shape: tensor.dims }, or, for a GPUBuffer, { data: tensor.gpuBuffer, shape: tensor.dims }.",
  );
}

/** What makes samples of what was given instead. */
function remedyFor(data: unknown, dtype: Dtype): string {
  if (data instanceof Promise) return "Await it first.";
  if (data === undefined) return "Pass one.";
  if (dtype !== "float32" || data instanceof Uint16Array)
    return "Convert it, or set another dtype.";
  return "Convert it: Float32Array.from(numbers).";
}

/** The samples of a tensor argument and its shape where it was given with one. */
export function samplesOf(
  tensor: Tensor,
  e: Expected,
): { data: SampleArray; shape: readonly number[] | undefined };
export function samplesOf(
  tensor: Tensor | GpuTensor,
  e: Expected,
): { data: Samples; shape: readonly number[] | undefined };
export function samplesOf(
  tensor: Tensor | GpuTensor,
  e: Expected,
): { data: Samples; shape: readonly number[] | undefined } {
  refuseForeign(tensor, e);
  if (isGpuTensor(tensor)) return gpuSamples(tensor, e);
  const shaped = shapedOf(tensor);
  const data = shaped ? shaped.data : (tensor as SampleArray);
  if (!holds(data, e.dtype) && !(e.orFloat32 && holds(data, "float32"))) {
    const allowed =
      arrayNames(e.dtype) + (e.orFloat32 && e.dtype !== "float32" ? ", or a Float32Array" : "");
    refuse(
      e,
      `${e.name} must be ${allowed} for dtype '${e.dtype}'`,
      show(data),
      remedyFor(data, e.dtype),
    );
  }
  if (data.length === 0) {
    refuse(
      e,
      `${e.name} must hold at least one row`,
      show(data),
      `Pass samples of shape (${e.dimensions.join(", ")}); a buffer that was transferred away (detached) holds none.`,
    );
  }
  if (!shaped) return { data, shape: undefined };
  checkShape(shaped.shape, data, e);
  return { data, shape: shaped.shape };
}

function checkShape(shape: readonly number[], data: Samples, e: Expected): void {
  const wanted = `(${e.dimensions.join(", ")})`;
  if (!Array.isArray(shape) || shape.length !== e.dimensions.length) {
    const rank = Array.isArray(shape) ? `rank ${shape.length}: ${show(shape)}` : show(shape);
    refuse(
      e,
      `${e.name} must have shape ${wanted}`,
      rank,
      "Squeeze or add dimensions of 1 to that rank.",
    );
  }
  for (const n of shape) {
    if (Number.isInteger(n) && n >= 1) continue;
    refuse(
      e,
      `every dimension of ${e.name} must be a positive integer`,
      show(shape),
      `Give the sizes of ${wanted}.`,
    );
  }
  const size = shape.reduce((a, b) => a * b, 1);
  if (size === data.length) return;
  refuse(
    e,
    `${e.name} must hold ${show(size)} samples for shape ${show(shape)}`,
    show(data),
    "Pass matching data and shape.",
  );
}

/** Rows of `width` samples in an array; the array must hold whole rows. */
export function rowsOf(data: Samples, width: number, e: Expected): number {
  const rows = data.length / width;
  if (Number.isInteger(rows)) return rows;
  return refuse(
    e,
    `${e.name} must hold whole rows of ${show(width)} samples (${e.dimensions.at(-1)})`,
    show(data),
    "Check the lengths that the FlashFFTConv object was created with.",
  );
}

/** An argument that must hold exactly `size` samples. */
export function exactly(data: Samples, size: number, e: Expected): void {
  if (data.length === size) return;
  const factors = e.dimensions.map((d) => (d.includes(" ") ? `(${d})` : d));
  refuse(
    e,
    `${e.name} must hold ${show(size)} samples (${factors.join("·")})`,
    show(data),
    "Pass an array of that length.",
  );
}

/** A shape that was given must have these sizes, any where one is undefined: as many samples may lie in another order. */
export function checkSizes(
  shape: readonly number[] | undefined,
  sizes: readonly (number | undefined)[],
  e: Expected,
): void {
  if (shape === undefined) return;
  const fits = Array.isArray(shape) && shape.length === sizes.length;
  if (fits && sizes.every((n, i) => n === undefined || n === shape[i])) return;
  const wanted = sizes.map((n, i) => (n === undefined ? e.dimensions[i] : show(n)));
  refuse(
    e,
    `${e.name} must have shape (${e.dimensions.join(", ")}) = [${wanted.join(", ")}]`,
    show(shape),
    "Transpose the samples to that order, or check the sizes that the object was created with.",
  );
}

/**
 * The array of a tensor argument that holds no samples at all, flat or with its shape; undefined for every other argument,
 * arrays among them whose buffer was transferred away: those have lost theirs.
 */
export function emptyOf(
  tensor: unknown,
  dtype: Dtype,
): { data: SampleArray; shape: readonly number[] | undefined } | undefined {
  const shaped = shapedOf(tensor);
  const data = shaped ? shaped.data : tensor;
  if (!holds(data, dtype) || data.length > 0) return undefined;
  try {
    // The one test that every supported runtime has: no view can be made of a detached buffer.
    new Uint8Array(data.buffer);
  } catch {
    return undefined;
  }
  return { data, shape: shaped?.shape };
}

/** Refuse an array that no longer holds `size` samples: its buffer was detached or resized after the call began. */
export function intact(name: string, data: SampleArray, size: number, call: string): void {
  if (data.length >= size) return;
  throw new InvalidArgumentError({
    call,
    requirement: `${name} must keep its buffer until the promise settles`,
    value: `${show(data)}, whose buffer was transferred or resized meanwhile`,
    remedy: "Await the call first.",
  });
}

/**
 * A new array of a kind.
 * @throws BackendError where the runtime has no memory for it.
 */
export function newArray<T extends SampleArray>(
  Kind: new (size: number) => T,
  size: number,
  call: string,
): T {
  try {
    return new Kind(size);
  } catch (cause) {
    const parts = {
      call,
      requirement: `memory for an array of ${show(size)} samples`,
      value: String(cause),
      remedy: "Work on fewer rows at a time.",
    };
    throw new BackendError(parts, cause);
  }
}

/** A new array of zeros for a type, halves as bits. */
export function zeros(dtype: Dtype, size: number, call: string): Float32Array | Uint16Array {
  const Kind = dtype === "float32" ? Float32Array : Uint16Array;
  return newArray<Float32Array | Uint16Array>(Kind, size, call);
}

/** What the CPU answers where it is asked for a buffer. */
export function refuseBuffer(size: number, call: string): never {
  throw new UnsupportedError({
    call,
    requirement: "buffers need a GPU",
    value: `one of ${show(size)} samples asked of the CPU`,
    remedy: "Pass arrays.",
  });
}

/** An array of a call and what it is called there. */
export interface Named {
  readonly name: string;
  readonly data: Samples;
  /** Whether the call writes it. */
  readonly isOutput?: boolean;
}

/** What ranges of a buffer that one dispatch writes must be apart: bindings begin at multiples of it. */
const bindingAlignment = 256;

/** Whether two ranges meet, whose beginnings are rounded down to multiples of a number. */
function meet(a: Samples, b: Samples, alignment: number): boolean {
  const from = (s: Samples): number => s.byteOffset - (s.byteOffset % alignment);
  return from(a) < b.byteOffset + b.byteLength && from(b) < a.byteOffset + a.byteLength;
}

/**
 * Refuse an output that shares bytes with an input or another output: rows are written before later ones are read. On a GPU
 * an output shares no buffer with inputs, and bindings of outputs must not overlap.
 */
export function apart(out: Named, others: readonly Named[], call: string): void {
  const onGpu = out.data instanceof GpuSamples;
  for (const { name, data, isOutput } of others) {
    if (out.data.buffer !== data.buffer) continue;
    const overlap = meet(out.data, data, 1);
    const aside = onGpu && (isOutput ? meet(out.data, data, bindingAlignment) : true);
    if (!overlap && !aside) continue;
    const rule = isOutput
      ? `be ${bindingAlignment} bytes apart from ${name}`
      : `not share a buffer with ${name}`;
    throw new InvalidArgumentError({
      call,
      requirement: `${out.name} must ${overlap ? `not overlap ${name}` : rule}`,
      value: `${out.name} and ${name} ${overlap ? "on bytes" : "at different offsets"} of the same buffer`,
      remedy: `Give ${out.name} memory of its own.`,
    });
  }
}

/** A result as the caller gets it: arrays as they are, samples in a GPU buffer with their shape. */
export function handed(samples: Samples, shape: readonly number[]): SampleArray | GpuTensor {
  if (!(samples instanceof GpuSamples)) return samples;
  return { data: samples.buffer, shape, offset: samples.byteOffset };
}

/** Refuse what is no device: its first use would fail far from here. */
export function checkDevice(device: unknown, call: string): void {
  const { createBuffer, queue, features } = (device ?? {}) as Partial<GPUDevice>;
  if (typeof createBuffer === "function" && queue && features) return;
  throw new InvalidArgumentError({
    call,
    requirement: "device must be a GPUDevice",
    value: show(device),
    remedy: "Pass what adapter.requestDevice() resolves to, or leave device out.",
  });
}
