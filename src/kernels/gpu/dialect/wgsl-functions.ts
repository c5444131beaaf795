/** Functions of kernels that work on the bits of numbers, as WGSL: rounding, points in words, scales of rows. */
import type { Dtype } from "../../../dtype.ts";
import { packHalves, shortFunction } from "./wgsl.ts";

/** Rounds float32 to the nearest bfloat16, ties to even; NaN stays NaN. */
const roundBfloat16 = `fn round_bfloat16(x: f32) -> u32 {
  let w = bitcast<u32>(x);
  let rounded = (w + 0x7fffu + ((w >> 16u) & 1u)) >> 16u;
  return select(rounded, 0x7fc0u, (w & 0x7fffffffu) > 0x7f800000u);
}`;

/** Two samples in a word, rounded one by one. */
const packPair = (round: string): string =>
  shortFunction("pack_pair", "x: vec2f", "u32", `${round}(x.x) | (${round}(x.y) << 16u)`);

/**
 * Rounds float32 to the nearest float16, ties to even: pack2x16float leaves values out of range undefined, and some
 * drivers round towards zero.
 */
const roundFloat16 = `fn round_float16(x: f32) -> u32 {
  let w = bitcast<u32>(x);
  let sign = (w >> 16u) & 0x8000u;
  let m = w & 0x7fffffffu;
  let normal = (m + 0xfffu + ((m >> 13u) & 1u) - 0x38000000u) >> 13u;
  let small = bitcast<u32>(bitcast<f32>(min(m, 0x38800000u)) + 0.5f) - 0x3f000000u;
  var h = select(small, normal, m >= 0x38800000u);
  h = select(h, 0x7c00u, m > 0x477fefffu);
  h = select(h, 0x7e00u, m > 0x7f800000u);
  return sign | h;
}`;

/**
 * The function `pack_pair` that stores of a storage type need: two samples, rounded, in one word. `packs` says that the
 * device's own conversion rounds to nearest; ours takes fifteen instructions a sample.
 */
export function roundingFunctions(dtype: Dtype, packs: boolean | undefined): string[] {
  if (dtype === "float32") return [];
  if (dtype === "bfloat16") return [roundBfloat16, packPair("round_bfloat16")];
  if (packs) return [shortFunction("pack_pair", "x: vec2f", "u32", packHalves("x"))];
  return [roundFloat16, packPair("round_float16")];
}

/**
 * 1.5 · 2^23 + 2048: a float32 of that size counts integers in its last bits, so that a sum rounds and a bit mask reads. The
 * least exponent that words hold is 11, of 2^−116: what is smaller loses bits as float32's own subnormals do. Infinity and
 * NaN come back as infinity: steps of its exponent overflow.
 */
export const wordFunctions: readonly string[] = [
  `fn to_word(z: vec2f) -> u32 {
  let larger = max(bitcast<u32>(abs(z.x)), bitcast<u32>(abs(z.y)));
  let exponent = max(larger & 0x7f800000u, 0x05800000u);
  let steps = bitcast<f32>(0x84000000u - exponent);
  let x = bitcast<u32>(min(fma(z.x, steps, 12584960.0f), 12587007.0f));
  let y = bitcast<u32>(min(fma(z.y, steps, 12584960.0f), 12587007.0f));
  return (x & 0xfffu) | ((y & 0xfffu) << 12u) | (exponent << 1u);
}`,
  `fn from_word(w: u32) -> vec2f {
  let step = bitcast<f32>(((w >> 1u) & 0x7f800000u) - 0x05000000u);
  let parts = vec2u(w & 0xfffu, (w >> 12u) & 0xfffu) | vec2u(0x4b400000u);
  return (bitcast<vec2f>(parts) - 12584960.0f) * step;
}`,
];

/**
 * The same for pairs, where the magic number is 1.5 · 2^23 + 8192 and the least exponent 12, of 2^−115. The lower 28 bits of
 * each half are the parts of a point, the upper 4 a half of the exponent. What lies above a part in a float32 of that size,
 * 0x4b400000, is shifted out, or has all bits of the exponent 255, that of infinity and NaN, around it. Reading, parts
 * are numbers of −2 to 2 next to 1.5 · 2^11, and times infinity all four are infinity or NaN.
 */
export const pairFunctions: readonly string[] = [
  `fn to_pair(z: vec4f) -> vec2u {
  let sizes = bitcast<vec4u>(abs(z));
  let largest = max(max(sizes.x, sizes.y), max(sizes.z, sizes.w));
  let exponent = max(largest & 0x7f800000u, 0x06000000u);
  let steps = bitcast<f32>(0x85000000u - exponent);
  let parts = bitcast<vec4u>(min(fma(z, vec4f(steps), vec4f(12591104.0f)), vec4f(12599295.0f)));
  let halves = vec2u((exponent << 1u) & 0xf0000000u, exponent << 5u);
  return (parts.xz & vec2u(0x3fffu)) | (parts.yw << vec2u(14u)) | halves;
}`,
  `fn from_pair(w: vec2u) -> vec4f {
  let power = bitcast<f32>(((w.x >> 1u) & 0x78000000u) | ((w.y >> 5u) & 0x07800000u));
  let parts = vec4u(w.x, w.x >> 14u, w.y, w.y >> 14u) & vec4u(0x3fffu);
  return (bitcast<vec4f>(parts | vec4u(0x45400000u)) - 3074.0f) * power;
}`,
];

/**
 * The function `fit_to`: the powers of two that a spectrum in float16 is written and read with. No bin is larger than the sum of
 * the sizes of the taps, which comes to 2^14 … 2^15, so that nothing overflows; a bin 2^28 times smaller still has all its bits.
 * Where the sum is infinite or NaN, so are bins.
 */
export const fitFunction = `fn fit_to(size: f32) -> vec2f {
  let exponent = min(268u - ((bitcast<u32>(size) >> 23u) & 0xffu), 253u);
  return vec2f(bitcast<f32>(exponent << 23u), bitcast<f32>((254u - exponent) << 23u));
}`;

/**
 * The function `scales_of`: sums of squares of two rows → the first one's factor and its inverse, then the second one's. The
 * second's power of two brings its norm as near the first's as one can. A row of zeros has 1 and 0; a row that is not
 * finite has 0 and something that is not finite either.
 */
export function scaleFunctions([small, large]: readonly [number, number?]): readonly string[] {
  // Logarithms of squared norms, in steps of 2^-23: a float32's bits are one, nearly. Sums below 2^120 have not overflowed.
  const log = (exponent: number, bits: string): string =>
    `i32(${bits}) - ${(127 + 2 * exponent) * 2 ** 23}`;
  const chosen =
    large === undefined
      ? ["let n = sums.x;", `let log = ${log(small, "bitcast<u32>(n)")};`]
      : [
          "let near = bitcast<u32>(sums.x) < 0x7b800000u;",
          "let n = select(sums.y, sums.x, near);",
          "let bits = bitcast<u32>(n);",
          `let log = select(${log(large, "min(bits, 0x7f7fffffu)")}, ${log(small, "bits")}, near);`,
        ];
  return [
    `struct Norm { square: f32, log: i32 }
fn norm_of(sums: vec2f) -> Norm {
  ${chosen.join("\n  ")}
  return Norm(n, log);
}
fn scale_by(norm: Norm, power: i32) -> vec2f {
  let bits = bitcast<u32>(norm.square);
  if (bits >= 0x7f800000u) { return vec2f(0.0f, norm.square); }
  if (bits == 0u) { return vec2f(1.0f, 0.0f); }
  let p = clamp(power, -126, 126);
  return vec2f(bitcast<f32>(u32(127 - p) << 23u), bitcast<f32>(u32(127 + p) << 23u));
}
fn scales_of(a: vec2f, b: vec2f) -> vec4f {
  let x = norm_of(a);
  let y = norm_of(b);
  let plain = x.square > 0.0f && bitcast<u32>(x.square) < 0x7f800000u;
  let first = x.log >> 24u;
  let apart = ((y.log >> 1u) - (x.log >> 1u) + 0x400000) >> 23u;
  return vec4f(scale_by(x, first), scale_by(y, select(y.log >> 24u, first + apart, plain)));
}`,
  ];
}

/** The function `hash_of`, which the graph's `hash` calls: the finaliser of MurmurHash3, with the key added once more half-way. */
export const hashFunction = `fn hash_of(key: u32, index: u32) -> u32 {
  var x = key ^ index;
  x = (x ^ (x >> 16u)) * 0x85ebca6bu + key;
  x = (x ^ (x >> 13u)) * 0xc2b2ae35u;
  return x ^ (x >> 16u);
}`;
