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
const wide = new Float64Array(1);
const wideWords = new Uint32Array(wide.buffer);
const highWord = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1 ? 1 : 0;

/** float16 bits → number: read as a float32 of the same exponent bits, whose bias is larger by 112. */
export function fromFloat16(bits: number): number {
  word[0] = (bits & 0x7fff) << 13;
  const magnitude = real[0]! * 2 ** 112;
  if (magnitude >= 65536) return (bits & 1023) !== 0 ? Number.NaN : signed(bits, 1 / 0);
  return signed(bits, magnitude);
}

const signed = (bits: number, magnitude: number): number =>
  (bits & 0x8000) !== 0 ? -magnitude : magnitude;

/** number → float16 bits, rounded once, to nearest, ties to even. */
export function toFloat16(value: number): number {
  if (Number.isNaN(value)) return 0x7e00;
  return round(value, -14, 10, 0x7c00);
}

/** bfloat16 bits → number. */
export function fromBfloat16(bits: number): number {
  word[0] = bits << 16;
  return real[0]!;
}

/** number → bfloat16 bits, rounded once from float64, to nearest, ties to even. */
export function toBfloat16(value: number): number {
  if (Number.isNaN(value)) return 0x7fc0;
  return round(value, -126, 7, 0x7f80);
}

/**
 * Bits of a format with so many of a fraction and, of normal numbers, this least exponent. A float64 of 2^52 and more has no
 * fraction: adding 2^52 rounds to an integer, ties to even. One that rounds up to 2^(bits + 1) carries into the exponent.
 */
function round(value: number, least: number, bits: number, infinity: number): number {
  wide[0] = value;
  const sign = (wideWords[highWord]! >>> 16) & 0x8000;
  const exponent = Math.max(least, ((wideWords[highWord]! >>> 20) & 0x7ff) - 1023);
  if (exponent > 127) return sign | infinity;
  wide[0] = 0;
  wideWords[highWord] = (1023 + bits - exponent) << 20;
  const fraction = Math.abs(value) * wide[0]! + 2 ** 52 - 2 ** 52;
  return sign | Math.min(infinity, ((exponent - least) << bits) + fraction);
}

/** Widen stored samples to float64. Float16Array and Float32Array elements are numbers already. */
export function decode(samples: SampleArray, dtype: Dtype): Float64Array {
  const values = new Float64Array(samples as Float32Array);
  if (!(samples instanceof Uint16Array)) return values;
  const widen = dtype === "float16" ? fromFloat16 : fromBfloat16;
  for (let n = 0; n < values.length; n++) values[n] = widen(samples[n]!);
  return values;
}

/** Round float64 values once to the storage type; half precision comes as bits. */
export function encode<D extends Dtype>(
  values: ArrayLike<number>,
  dtype: D,
): NewArray<StoredArray<D>>;
export function encode(values: ArrayLike<number>, dtype: Dtype): NewArray<StoredArray> {
  if (dtype === "float32") return new Float32Array(values);
  const bits = new Uint16Array(values.length);
  const narrow = dtype === "float16" ? toFloat16 : toBfloat16;
  for (let n = 0; n < bits.length; n++) bits[n] = narrow(values[n]!);
  return bits;
}
