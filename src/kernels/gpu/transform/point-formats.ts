/**
 * Complex points in work memory: as they are, or as words of 32 bits, which halve the traffic between passes. A word holds
 * the exponent of the larger part, as float32 has it, above two parts of 12 bits, which count steps of 1/1024 of that power
 * of two from −2048 on. So any magnitude keeps its accuracy, and no pass needs to know the size of what it will store.
 *
 * A pair of 64 bits holds two neighbours, whose four parts share an exponent: 14 bits are left for each, in steps of 1/4096.
 */
import type { PointFormat } from "../../../plan/gpu/passes.ts";
import type { Value } from "../text.ts";

/** WGSL type of a buffer's elements. */
export const pointElement = { float32: "vec2f", word: "u32", pair: "vec2u" } as const;

/** Points of an element: neighbours, which one thread holds. */
export const pointsEach = { float32: 1, word: 1, pair: 2 } as const;

/**
 * 1.5 · 2^23 + 2048: a float32 of that size counts integers in its last bits, so that a sum rounds and a bit mask reads. The
 * least exponent that words hold is 11, of 2^−116: what is smaller loses bits as float32's own subnormals do. Infinity and
 * NaN come back as infinity: steps of its exponent overflow.
 */
const wordFunctions = [
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
const pairFunctions = [
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

const functions = { float32: [], word: wordFunctions, pair: pairFunctions } as const;

/** Functions that a kernel with points of a format needs. */
export function pointFunctions(format: PointFormat): readonly string[] {
  return functions[format];
}

/** The points of what a buffer holds, one after the other in one vector. */
export function readPoints(format: PointFormat, stored: string): string {
  return format === "float32" ? stored : `from_${format}(${stored})`;
}

/** What a buffer holds of points; `parts` are text, real and imaginary in turn. */
export function writePoints(format: PointFormat, parts: readonly string[]): string {
  const points = `vec${parts.length}f(${parts.join(", ")})`;
  return format === "float32" ? points : `to_${format}(${points})`;
}

/** WGSL type of two neighbouring points in a buffer. */
export const neighbourElement = { float32: "vec4f", word: "vec2u", pair: "vec2u" } as const;

/** Both points of what a buffer holds of two. */
export function readNeighbours(format: PointFormat, stored: string): readonly [string, string] {
  if (format === "word")
    return [readPoints(format, `${stored}.x`), readPoints(format, `${stored}.y`)];
  const both = readPoints(format, stored);
  return [`${both}.xy`, `${both}.zw`];
}

/** What a buffer holds of two neighbouring points. */
export function writeNeighbours(format: PointFormat, first: Value, second: Value): string {
  const [a, b] = [first, second].map(({ re, im }) => [re || "0.0f", im || "0.0f"]);
  if (format !== "word") return writePoints(format, [...a!, ...b!]);
  return `vec2u(${writePoints(format, a!)}, ${writePoints(format, b!)})`;
}
