/**
 * Where points of spectra, and of sums of them, lie in memory. All plans of a length have them in one order (`digitAt`), and
 * find them at the same places, so that a kept spectrum serves forward and backward whatever the plans of either.
 *
 * A thread has the points of its butterflies of the last stage, neighbours in that order, so that threads next to each other
 * would read at strides of 64 to 256 bytes. Runs of 512 points are transposed instead, as 32 × 16: threads of a last stage of
 * radix 16, the usual one, then read 256 bytes side by side; those of radix 8 two pieces of 128; those of radix 32 every
 * second point of 512 bytes, and the others with their next load. Points in pairs, two neighbours of a butterfly, are read in
 * half as many pieces of the same size.
 */
import type { PassLayout, PassPlan } from "../../plan/passes.ts";
import { isPower, workPoints } from "../../plan/passes.ts";
import type { Place } from "./tile.ts";

const mostRows = 32;
const mostColumns = 16;

/** Rows and columns of the runs that are transposed, in elements of `each` points: powers of two whose product divides them. */
function runOf(points: number, each: 1 | 2): { rows: number; columns: number } {
  const even = (points & -points) / each;
  const columns = Math.min(mostColumns / each, even);
  return { rows: Math.min(mostRows, even / columns), columns };
}

/**
 * Where the element of a spectrum lies that begins with a point of the last pass, by the point's place in the pass's block: one
 * of `each` points; `hold` names a text.
 */
export function spectrumPlace(
  plan: PassPlan,
  { size, blocks, radices, threads }: PassLayout,
  place: Place,
  each: 1 | 2,
  hold: (text: string) => string,
): Place {
  const { rows, columns } = runOf(workPoints(plan), each);
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
  const element = (n: string): string => hold(each === 1 ? n : `(${n}) >> 1u`);
  if (apart) return { base: hold(text(element(base))), offset: number(place.offset / each) };
  return { base: hold(text(element(`${base} + ${place.offset}u`))), offset: 0 };
}
