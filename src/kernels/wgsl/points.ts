/**
 * Complex points in work memory: as they are, or as words of 32 bits, which halve the traffic between passes. A word holds
 * the exponent of the larger part, as float32 has it, above two parts of 12 bits, which count steps of 1/1024 of that power
 * of two from −2048 on. So any magnitude keeps its accuracy, and no pass needs to know the size of what it will store.
 */
import type { PointFormat } from "../../plan/passes.ts";

/** WGSL type of a point in a buffer. */
export const pointElement = { float32: "vec2f", word: "u32" } as const;

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

/** Functions that a kernel with points of a format needs. */
export function pointFunctions(format: PointFormat): readonly string[] {
  return format === "word" ? wordFunctions : [];
}

/** A point of what a buffer holds. */
export function readPoint(format: PointFormat, stored: string): string {
  return format === "word" ? `from_word(${stored})` : stored;
}

/** What a buffer holds of a point. */
export function writePoint(format: PointFormat, point: string): string {
  return format === "word" ? `to_word(${point})` : point;
}

/** WGSL type of two neighbouring points in a buffer. */
export const neighbourElement = { float32: "vec4f", word: "vec2u" } as const;

/** Both points of what a buffer holds of two. */
export function readNeighbours(format: PointFormat, stored: string): readonly [string, string] {
  const [a, b] = format === "word" ? ["x", "y"] : ["xy", "zw"];
  return [readPoint(format, `${stored}.${a}`), readPoint(format, `${stored}.${b}`)];
}

/** What a buffer holds of two neighbouring points. */
export function writeNeighbours(format: PointFormat, first: string, second: string): string {
  return `${neighbourElement[format]}(${writePoint(format, first)}, ${writePoint(format, second)})`;
}
