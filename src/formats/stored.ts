/** Tensors as files hold them: a type, a shape, and bytes that are read when they are asked for. */
import { decode } from "../dtype.ts";
import { InvalidArgumentError, UnsupportedError } from "../errors.ts";
import { show } from "../show.ts";

/** A type of elements, by its name in safetensors. */
export type TensorType =
  | ("BOOL" | "BF16" | "C64" | "F4" | `F${16 | 32 | 64}` | `${"I" | "U"}${8 | 16 | 32 | 64}`)
  | (`F8_${"E4M3" | "E5M2" | "E8M0"}` | `F6_${"E2M3" | "E3M2"}`);

/** Bits of an element. Types that `float32Of` does not read can be copied all the same. */
export const typeBits: Readonly<Record<TensorType, number>> = {
  ...{ F64: 64, F32: 32, F16: 16, BF16: 16, I64: 64, I32: 32, I16: 16, I8: 8 },
  ...{ U64: 64, U32: 32, U16: 16, U8: 8, BOOL: 8, C64: 64 },
  ...{ F8_E4M3: 8, F8_E5M2: 8, F8_E8M0: 8, F6_E2M3: 6, F6_E3M2: 6, F4: 4 },
};

/** A tensor of a file, or one to be written into one. */
export interface StoredTensor {
  readonly dtype: TensorType;
  /** Sizes from the slowest to the fastest; empty for a single number. */
  readonly shape: readonly number[];
  /** The elements in row-major order, little-endian, without gaps. */
  bytes(): Promise<Uint8Array<ArrayBuffer>>;
}

/** A file of weights that is open: its tensors are read from it until it is closed. */
export interface WeightFile {
  /** By name, in the order of the file. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  close(): Promise<void>;
}

/** Elements of a shape. */
export const elements = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** Bytes of so many elements; the last one is filled up with zeros. */
export const storedBytes = (dtype: TensorType, count: number): number =>
  Math.ceil((count * typeBits[dtype]) / 8);

/** Whether a value of a file is a number of elements or bytes. */
export const isCount = (value: unknown): value is number =>
  Number.isSafeInteger(value) && (value as number) >= 0;

/** Whether a value of a file is a shape whose tensor can be addressed. */
export const isShape = (value: unknown): value is readonly number[] =>
  Array.isArray(value) && value.every(isCount) && elements(value) <= Number.MAX_SAFE_INTEGER / 64;

type Numbers = ArrayLike<number> | ArrayLike<bigint>;

/** How elements become numbers, of the types that can. */
const readers: Readonly<Partial<Record<TensorType, (buffer: ArrayBuffer) => Numbers>>> = {
  F64: (buffer) => new Float64Array(buffer),
  F32: (buffer) => new Float32Array(buffer),
  F16: (buffer) => decode(new Uint16Array(buffer), "float16"),
  BF16: (buffer) => decode(new Uint16Array(buffer), "bfloat16"),
  I64: (buffer) => new BigInt64Array(buffer),
  I32: (buffer) => new Int32Array(buffer),
  I16: (buffer) => new Int16Array(buffer),
  I8: (buffer) => new Int8Array(buffer),
  U64: (buffer) => new BigUint64Array(buffer),
  U32: (buffer) => new Uint32Array(buffer),
  U16: (buffer) => new Uint16Array(buffer),
  U8: (buffer) => new Uint8Array(buffer),
  BOOL: (buffer) => new Uint8Array(buffer),
};

/**
 * The values of a tensor of any type of numbers, rounded to float32.
 * @throws UnsupportedError for complex numbers and for floats of 8 bits and less.
 * @example
 * const table = await float32Of(file.tensors.get("embeddings.weight")!); // vocabulary · width numbers
 */
export async function float32Of(tensor: StoredTensor): Promise<Float32Array<ArrayBuffer>> {
  const read = readers[tensor.dtype];
  if (!read) {
    throw new UnsupportedError({
      call: "float32Of",
      requirement: `elements must be of type ${Object.keys(readers).join(", ")}`,
      value: show(tensor.dtype),
      remedy: "Convert the file with the program that wrote it.",
    });
  }
  const values = read((await tensor.bytes()).buffer);
  if (values instanceof Float32Array) return values as Float32Array<ArrayBuffer>;
  const rounded = new Float32Array(values.length);
  for (let i = 0; i < rounded.length; i++) rounded[i] = Number(values[i]);
  return rounded;
}

const typesOfArrays: Readonly<Record<string, TensorType>> = {
  ...{ Float64Array: "F64", Float32Array: "F32", Float16Array: "F16", BigInt64Array: "I64" },
  ...{ Int32Array: "I32", Int16Array: "I16", Int8Array: "I8", BigUint64Array: "U64" },
  ...{ Uint32Array: "U32", Uint16Array: "U16", Uint8Array: "U8" },
};

/**
 * A tensor to be written, over the memory of an array; `dtype` where the array does not say it: bits of halves, bytes.
 * @throws InvalidArgumentError where the array is not as long as the shape.
 * @example
 * const weight = tensorOf(new Float32Array(6), [2, 3]);
 * const half = tensorOf(Uint16Array.of(0x3c00), [1], "F16");
 */
export function tensorOf(
  data: ArrayBufferView,
  shape: readonly number[],
  dtype: TensorType | undefined = typesOfArrays[data.constructor.name],
): StoredTensor {
  if (dtype && Object.hasOwn(typeBits, dtype) && isShape(shape)) {
    const { buffer, byteOffset, byteLength } = data;
    // A copy: what lies in a memory that threads share cannot be written to a file everywhere.
    const bytes = async () => new Uint8Array(buffer, byteOffset, byteLength).slice();
    if (byteLength === storedBytes(dtype, elements(shape)))
      return { dtype, shape: [...shape], bytes };
  }
  throw new InvalidArgumentError({
    call: "tensorOf",
    requirement: "data must have the elements of its shape, of a known type",
    value: `${show(data)} for shape ${show(shape)} of type ${show(dtype)}`,
    remedy: "Give as many elements as the product of the sizes.",
  });
}
