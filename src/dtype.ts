/**
 * Storage types: float32, float16, bfloat16. Half-precision data travels as 16-bit patterns in a Uint16Array, or in a
 * Float16Array where the runtime has one; arithmetic is always float32 or wider.
 */

/** How samples are stored. */
export type Dtype = "float32" | "float16" | "bfloat16";

/** All storage types. */
export const dtypes: readonly Dtype[] = ["float32", "float16", "bfloat16"];

/** The shape of the runtime's Float16Array, which TypeScript's ES2023 library does not know; under ES2025 it is that array. */
export interface Float16ArrayLike {
  readonly BYTES_PER_ELEMENT: 2;
  readonly buffer: ArrayBufferLike;
  readonly byteOffset: number;
  readonly byteLength: number;
  readonly length: number;
  [index: number]: number;
}

/** Float16Array as the program's own library declares it. */
type Float16 = typeof globalThis extends {
  readonly Float16Array: { readonly prototype: infer T };
}
  ? T
  : Float16ArrayLike;

/** What the program's own library makes anew of numbers: a Float16Array on an ArrayBuffer. */
type NewFloat16 = typeof globalThis extends {
  readonly Float16Array: { of(...items: number[]): infer T };
}
  ? T
  : Float16ArrayLike;

/**
 * Arrays that hold samples of a storage type, or of any where none is named: Float32Array for float32; Uint16Array (bits) or
 * Float16Array for float16; Uint16Array for bfloat16.
 */
export type SampleArray<D extends Dtype = Dtype> = D extends "float32"
  ? Float32Array
  : Uint16Array | (D extends "float16" ? Float16 : never);

/** The array that the library makes itself for a storage type: halves are bits. */
export type StoredArray<D extends Dtype = Dtype> = D extends "float32" ? Float32Array : Uint16Array;

/**
 * A new array of the kind of `A`, on an ArrayBuffer of its own. What `of` returns is `Float32Array<ArrayBuffer>`, and before
 * TypeScript 5.7, where arrays don't name their buffers, `Float32Array`.
 */
export type NewArray<A> = A extends Float32Array
  ? ReturnType<Float32ArrayConstructor["of"]>
  : A extends Uint16Array
    ? ReturnType<Uint16ArrayConstructor["of"]>
    : NewFloat16;

/** Bytes of one stored sample. */
export function bytesPerSample(dtype: Dtype): 2 | 4 {
  return dtype === "float32" ? 4 : 2;
}

const word = new Uint32Array(1);
const real = new Float32Array(word.buffer);

/** float16 bits → number. */
export function fromFloat16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** number → float16 bits, rounded once, to nearest, ties to even. */
export function toFloat16(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  if (Number.isNaN(value)) return 0x7e00;
  if (magnitude >= 65520) return sign | 0x7c00;
  const exponent = Math.max(-14, Math.floor(Math.log2(magnitude)));
  // Log2 may land one off at a power of two: the rounded integer below carries into the exponent by itself.
  const scaled = magnitude === 0 ? 0 : roundToEven(magnitude * 2 ** (10 - exponent));
  if (magnitude < 2 ** -14) return sign | roundToEven(magnitude * 2 ** 24);
  return sign | (((exponent + 15) << 10) + (scaled - 1024));
}

/** bfloat16 bits → number. */
export function fromBfloat16(bits: number): number {
  word[0] = bits << 16;
  return real[0]!;
}

/** number → bfloat16 bits, rounded once from float64, to nearest, ties to even. */
export function toBfloat16(value: number): number {
  if (Number.isNaN(value)) return 0x7fc0;
  const magnitude = Math.abs(value);
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  if (magnitude === Number.POSITIVE_INFINITY) return sign | 0x7f80;
  const exponent = magnitude === 0 ? -126 : Math.max(-126, Math.floor(Math.log2(magnitude)));
  const scaled = roundToEven(magnitude * 2 ** (7 - exponent));
  if (magnitude < 2 ** -126) return sign | roundToEven(magnitude * 2 ** 133);
  return sign | Math.min(0x7f80, ((exponent + 127) << 7) + (scaled - 128));
}

function roundToEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest > 0.5 || (rest === 0.5 && floor % 2 === 1)) return floor + 1;
  return floor;
}

/** Widen stored samples to float64. Float16Array and Float32Array elements are numbers already. */
export function decode(samples: SampleArray, dtype: Dtype): Float64Array {
  if (!(samples instanceof Uint16Array)) return Float64Array.from(samples as Float32Array);
  return Float64Array.from(samples, dtype === "float16" ? fromFloat16 : fromBfloat16);
}

/** Round float64 values once to the storage type; half precision comes as bits. */
export function encode<D extends Dtype>(
  values: ArrayLike<number>,
  dtype: D,
): NewArray<StoredArray<D>>;
export function encode(values: ArrayLike<number>, dtype: Dtype): NewArray<StoredArray> {
  if (dtype === "float32") return Float32Array.from(values);
  return Uint16Array.from(values, dtype === "float16" ? toFloat16 : toBfloat16);
}
