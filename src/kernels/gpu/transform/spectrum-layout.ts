/**
 * Where points of spectra, and of sums of them, lie in memory, and in which format. All plans of a length have them in one order
 * (`digitAt`) and at the same places, so that a kept spectrum serves forward and backward whatever the plans of either.
 *
 * A thread has consecutive points, so adjacent threads would read at strides of 64 to 256 bytes. Runs of 512 points are
 * transposed instead, as 32 × 16: threads of a last stage of radix 16, the usual one, then read 256 bytes side by side.
 */
import type { PassLayout, PassPlan, SpectrumFormat } from "../../../plan/gpu/passes.ts";
import { isPower, spectrumBytes, workPoints } from "../../../plan/gpu/passes.ts";
import type { Place } from "./tile.ts";

/** WGSL type of a buffer of spectra. */
export const spectrumElement = { float32: "vec2f", float16: "u32" } as const;

const elementBytes = { float32: 8, float16: 4 } as const;

/** Elements from one channel's spectrum to the next one's. */
export function spectrumStride(plan: PassPlan, format: SpectrumFormat): number {
  return spectrumBytes(plan, format) / elementBytes[format];
}

const mostRows = 32;
const mostColumns = 16;

/** Rows and columns of the runs that are transposed: powers of two whose product divides the points. */
function runOf(points: number): { rows: number; columns: number } {
  const even = points & -points;
  const columns = Math.min(mostColumns, even);
  return { rows: Math.min(mostRows, even / columns), columns };
}

/** Where a point of the last pass lies in its spectrum, by its place in the pass's block; `hold` names a text. */
export function spectrumPlace(
  plan: PassPlan,
  { size, blocks, radices, threads }: PassLayout,
  place: Place,
  hold: (text: string) => string,
): Place {
  const { rows, columns } = runOf(workPoints(plan));
  const column = Math.log2(columns);
  const row = Math.log2(rows);
  // Row r and column c of a run swap their bits.
  const text = (n: string): string =>
    `(${n} & ${2 ** 32 - rows * columns}u) + ((${n} & ${columns - 1}u) << ${row}u) + ((${n} >> ${column}u) & ${rows - 1}u)`;
  const number = (n: number): number =>
    n - (n % (rows * columns)) + (n % columns) * rows + (Math.floor(n / columns) % rows);
  // Bits of block, thread and point never meet where the sizes are powers of two: then each moves by itself.
  const apart = isPower(threads) && isPower(radices.at(-1)!) && (blocks === 1 || isPower(size));
  const base = `${place.base} + block * ${size}u`;
  if (apart) return { base: hold(text(hold(base))), offset: number(place.offset) };
  return { base: hold(text(hold(`${base} + ${place.offset}u`))), offset: 0 };
}
