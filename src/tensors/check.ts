/** Checks of what users pass: shapes, dtypes, buffers. Every refusal names the call, the rule, the value and the remedy. */
import type { Dtype, SampleArray } from "../dtype.ts";
import { bytesPerSample } from "../dtype.ts";
import { InvalidArgumentError, UnsupportedError } from "../errors.ts";
import type { GpuDevice } from "../gpu.ts";
import { show } from "../show.ts";
import type { GpuTensor, Tensor, TensorData } from "./tensor.ts";
import { arrayNames, elsewhere, GpuSamples, holds, isGpuTensor } from "./tensor.ts";

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

function refuse(e: Expected, requirement: string, value: string, remedy: string): never {
  throw new InvalidArgumentError({ call: e.call, requirement, value, remedy });
}

/** What offsets of tensors in GPU buffers must be multiples of: two float32 samples. */
const gpuAlignment = 8;

const storageUsage = 0x80;

/** Refuse a buffer that kernels may not bind. */
export function checkStorage({ usage }: { usage: number }, name: string, call: string): void {
  if ((usage & storageUsage) !== 0) return;
  throw new InvalidArgumentError({
    call,
    requirement: `the buffer of ${name} must have GPUBufferUsage.STORAGE`,
    value: `usage ${show(usage)}`,
    remedy: "Create it with STORAGE.",
  });
}

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
  checkStorage(data, e.name, e.call);
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
): { data: TensorData; shape: readonly number[] | undefined };
export function samplesOf(
  tensor: Tensor | GpuTensor,
  e: Expected,
): { data: TensorData; shape: readonly number[] | undefined } {
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

function checkShape(shape: readonly number[], data: TensorData, e: Expected): void {
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
export function rowsOf(data: TensorData, width: number, e: Expected): number {
  const rows = data.length / width;
  if (Number.isInteger(rows)) return rows;
  return refuse(
    e,
    `${e.name} must hold whole rows of ${show(width)} samples (${e.dimensions.at(-1)})`,
    show(data),
    "Check the lengths that the FlashFFTConv object was created with.",
  );
}

/** Samples of each of `rows` rows that an array must divide into. */
export function evenRows(data: SampleArray, rows: number, e: Expected, remedy: string): number {
  const width = data.length / rows;
  if (Number.isInteger(width)) return width;
  return refuse(
    e,
    `${e.name} must divide into ${show(rows)} rows of equal length`,
    show(data),
    remedy,
  );
}

/** An argument that must hold exactly `size` samples. */
export function exactly(data: TensorData, size: number, e: Expected): void {
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

/** The samples of a tensor argument that must have exactly this shape. */
export function sized(tensor: Tensor, shape: readonly number[], e: Expected): SampleArray;
export function sized(
  tensor: Tensor | GpuTensor,
  shape: readonly number[],
  e: Expected,
): TensorData;
export function sized(
  tensor: Tensor | GpuTensor,
  shape: readonly number[],
  e: Expected,
): TensorData {
  const { data, shape: given } = samplesOf(tensor, e);
  const size = shape.reduce((a, b) => a * b);
  exactly(data, size, e);
  checkSizes(given, shape, e);
  return data;
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
  readonly data: TensorData;
  /** Whether the call writes it. */
  readonly isOutput?: boolean;
}

/** What ranges of a buffer that one dispatch writes must be apart: bindings begin at multiples of it. */
const bindingAlignment = 256;

/** Whether two ranges meet, whose beginnings are rounded down to multiples of a number. */
function meet(a: TensorData, b: TensorData, alignment: number): boolean {
  const from = (s: TensorData): number => s.byteOffset - (s.byteOffset % alignment);
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
