/** Gradient of the skip weights: dskip[h] = Σ_b Σ_n dy[b,h,n]·u[b,h,n], in float64, in the order of the rows. */
import { isDue, pause } from "../backend/cpu/pauses.ts";
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
export async function sumSkipGradient(
  dy: SampleArray,
  u: SampleArray,
  dtype: Dtype,
  shape: Shape,
  length: number,
  dskip: Float32Array,
  call: string,
): Promise<void> {
  const size = shape.batch * shape.channels * length;
  for (let h = 0; h < shape.channels; h++) {
    let sum = 0;
    for (let b = 0; b < shape.batch; b++) {
      const row = (b * shape.channels + h) * length;
      for (let at = row; at < row + length; at += chunk) {
        if (isDue()) await pause();
        intact("dy", dy, size, call);
        intact("u", u, size, call);
        intact("dskip", dskip, shape.channels, call);
        sum = addProducts(sum, dy, u, at, Math.min(row + length, at + chunk), dtype);
      }
    }
    dskip[h] = sum;
  }
}
