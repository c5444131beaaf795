/** Gradient of the skip weights: dskip[h] = Σ_b Σ_n dy[b,h,n]·u[b,h,n], in float64, in the order of the rows. */
import type { Running } from "../calls/cpu-threads.ts";
import { inSteps } from "../calls/cpu-threads.ts";
import type { Dtype, SampleArray } from "../dtype.ts";
import { decode } from "../dtype.ts";
import { intact } from "../tensors/check.ts";
import type { Shape } from "./cpu-rows.ts";

/** Samples that are summed between two looks at the clock, and decoded at a time where they are half precision. */
const chunk = 65_536;

/** `sum` and the products of samples [from, to), added one after the other. */
function addProducts(
  sum: number,
  a: SampleArray,
  b: SampleArray,
  from: number,
  to: number,
  dtype: Dtype,
): number {
  const x = dtype === "float32" ? a : decode(slice(a, from, to), dtype);
  const y = dtype === "float32" ? b : decode(slice(b, from, to), dtype);
  const first = dtype === "float32" ? from : 0;
  let all = sum;
  for (let i = first; i < first + to - from; i++) all += x[i]! * y[i]!;
  return all;
}

function slice(array: SampleArray, from: number, to: number): SampleArray {
  return (array as Uint16Array).subarray(from, to);
}

/** dskip ← the sums of dy and u, which are (B, H, length). */
export function sumSkipGradient(
  dy: SampleArray,
  u: SampleArray,
  dtype: Dtype,
  { batch, channels }: Shape,
  length: number,
  dskip: Float32Array,
  call: string,
): Running {
  const size = batch * channels * length;
  const perRow = Math.ceil(length / chunk);
  const perChannel = batch * perRow;
  let sum = 0;
  return inSteps(0, channels * perChannel, 1, (at) => {
    const [h, piece] = [Math.floor(at / perChannel), at % perChannel];
    const row = (Math.floor(piece / perRow) * channels + h) * length;
    const from = row + (piece % perRow) * chunk;
    intact("dy", dy, size, call);
    intact("u", u, size, call);
    intact("dskip", dskip, channels, call);
    if (piece === 0) sum = 0;
    sum = addProducts(sum, dy, u, from, Math.min(row + length, from + chunk), dtype);
    if (piece === perChannel - 1) dskip[h] = sum;
  });
}
