/** The one numeric check of the suite: relative L2 error, row by row, against float64. */
import { type Dtype, decode, encode, type SampleArray } from "../../src/dtype.ts";

/** How close is close. */
export interface Closeness {
  /** Values of one row; each row is held to the bound by itself. */
  readonly rowLength: number;
  /** Largest ‖actual − exact‖ / ‖exact‖ of a row in float32. */
  readonly bound: number;
  /** How `actual` is stored, `float32` by default. Half precision may err by 1.1 × what rounding `exact` once errs. */
  readonly dtype?: Dtype;
  /**
   * Per row, the size of what was summed: a lower limit on ‖exact‖ in the bound. Short rows need it, where terms
   * cancel and no summation order keeps the relative error of their sum.
   */
  readonly scale?: Float64Array;
  /** Named in the message. */
  readonly name?: string;
}

/** Rounding the exact values once is the best that storage allows; this much more is granted. */
export const storageAllowance = 1.1;

/**
 * Throw unless every row of `actual` is as close to `exact` as asked. A NaN or an infinity in `actual` or `exact` is
 * never close to anything.
 */
export function expectClose(actual: SampleArray, exact: Float64Array, closeness: Closeness): void {
  const { rowLength, bound, dtype = "float32", scale, name = "values" } = closeness;
  if (actual.length !== exact.length || exact.length === 0 || exact.length % rowLength !== 0) {
    throw new Error(
      `${name}: ${actual.length} values against ${exact.length} in rows of ${rowLength}`,
    );
  }
  const values = decode(actual, dtype);
  for (let row = 0; row < exact.length / rowLength; row++) {
    const got = values.subarray(row * rowLength, (row + 1) * rowLength);
    const want = exact.subarray(row * rowLength, (row + 1) * rowLength);
    let limit = bound * Math.max(norm(want), scale?.[row] ?? 0);
    if (dtype !== "float32") {
      const rounded = decode(encode(want, dtype), dtype);
      limit = Math.max(limit, storageAllowance * distance(rounded, want));
    }
    const error = distance(got, want);
    if (Number.isFinite(error) && error <= limit) continue;
    throw new Error(describeMiss(name, row, got, want, error, limit));
  }
}

/** L2 norm. */
export function norm(values: Float64Array): number {
  let sum = 0;
  for (let n = 0; n < values.length; n++) sum += values[n]! * values[n]!;
  return Math.sqrt(sum);
}

/** L2 norm of the difference. */
export function distance(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let n = 0; n < a.length; n++) {
    const miss = a[n]! - b[n]!;
    sum += miss * miss;
  }
  return Math.sqrt(sum);
}

function describeMiss(
  name: string,
  row: number,
  got: Float64Array,
  want: Float64Array,
  error: number,
  limit: number,
): string {
  let worst = 0;
  for (let n = 0; n < want.length; n++) {
    const miss = Math.abs(got[n]! - want[n]!);
    if (Number.isNaN(miss) || miss > Math.abs(got[worst]! - want[worst]!)) worst = n;
    if (Number.isNaN(miss)) break;
  }
  const size = norm(want);
  return (
    `${name}, row ${row} of ${want.length}: relative L2 error ${(error / size).toExponential(2)} is above ` +
    `${(limit / size).toExponential(2)}; worst at ${worst}: ${got[worst]} for ${want[worst]}`
  );
}

/**
 * Throw unless two results are the same bits: arrays of one type and length, or objects of such arrays with the same
 * names, as backward returns them.
 */
export function expectSameBits(actual: object, expected: object, name = "values"): void {
  if (!ArrayBuffer.isView(actual) || !ArrayBuffer.isView(expected)) {
    const names = Object.keys(expected).sort();
    if (names.join() !== Object.keys(actual).sort().join() || names.length === 0) {
      throw new Error(`${name}: ${Object.keys(actual)} against ${names}`);
    }
    for (const key of names) {
      expectSameBits(actual[key as never], expected[key as never], `${name}.${key}`);
    }
    return;
  }
  const bytes = (view: ArrayBufferView) =>
    Buffer.from(view.buffer, view.byteOffset, view.byteLength);
  const [a, b] = [bytes(actual), bytes(expected)];
  if (actual.constructor !== expected.constructor || a.length !== b.length || a.length === 0) {
    throw new Error(`${name}: ${actual.constructor.name} of ${a.length} bytes against ${b.length}`);
  }
  if (a.equals(b)) return;
  const first = a.findIndex((byte, n) => byte !== b[n]);
  throw new Error(`${name}: bits differ from byte ${first} of ${a.length} on`);
}
