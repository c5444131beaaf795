/**
 * Formats of complex points in work memory. `word`, 32 bits: the exponent of the larger part, as float32 has it, above two parts of
 * 12 bits in steps of 1/1024 of that power of two. `pair`, 64 bits: two neighbours with one exponent, four parts of 14 bits in
 * steps of 1/4096. Either halves the traffic between passes, and keeps its accuracy at any magnitude.
 */
import type { PointFormat } from "../../../plan/gpu/passes.ts";
import { words } from "../dialect/wgsl.ts";
import { pairFunctions, wordFunctions } from "../dialect/wgsl-functions.ts";
import type { Value } from "../text.ts";
import { vectorOf } from "../text.ts";

/** WGSL type of a buffer's elements. */
export const pointElement = { float32: "vec2f", word: "u32", pair: "vec2u" } as const;

/** Points of an element: neighbours, which one thread holds. */
export const pointsEach = { float32: 1, word: 1, pair: 2 } as const;

const functions = { float32: [], word: wordFunctions, pair: pairFunctions } as const;

/** Functions that a kernel with points of a format needs. */
export function pointFunctions(format: PointFormat): readonly string[] {
  return functions[format];
}

/** The points of what a buffer holds, one after the other in one vector. */
export function readPoints(format: PointFormat, stored: string): string {
  return format === "float32" ? stored : `from_${format}(${stored})`;
}

/** What a buffer holds of points. */
export function writePoints(format: PointFormat, points: readonly Value[]): string {
  const vector = vectorOf(...points);
  return format === "float32" ? vector : `to_${format}(${vector})`;
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
  if (format !== "word") return writePoints(format, [first, second]);
  return words([first, second].map((point) => writePoints(format, [point])));
}
