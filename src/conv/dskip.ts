/** Gradient of the skip weights: dskip[h] = Σ_b Σ_n dy[b,h,n]·u[b,h,n], in float64, in the order of the rows. */
import type { Dtype, SampleArray } from "../dtype.ts";
import { decode } from "../dtype.ts";
import { intact } from "./arguments.ts";
import type { Shape } from "./run.ts";

/** Samples decoded at a time where they are half precision. */
const chunk = 65_536;

function dot(a: SampleArray, b: SampleArray, from: number, to: number, dtype: Dtype): number {
  let sum = 0;
  if (dtype === "float32") {
    for (let i = from; i < to; i++) sum += a[i]! * b[i]!;
    return sum;
  }
  for (let at = from; at < to; at += chunk) {
    const end = Math.min(to, at + chunk);
    const x = decode(slice(a, at, end), dtype);
    const y = decode(slice(b, at, end), dtype);
    for (let i = 0; i < x.length; i++) sum += x[i]! * y[i]!;
  }
  return sum;
}

function slice(array: SampleArray, from: number, to: number): SampleArray {
  return (array as Uint16Array).subarray(from, to);
}

/** dy and u are (B, H, length). */
export function dskipOf(
  dy: SampleArray,
  u: SampleArray,
  dtype: Dtype,
  shape: Shape,
  length: number,
  call: string,
): Float32Array {
  const size = shape.batch * shape.channels * length;
  intact("dy", dy, size, call);
  intact("u", u, size, call);
  const out = new Float32Array(shape.channels);
  for (let h = 0; h < shape.channels; h++) {
    let sum = 0;
    for (let b = 0; b < shape.batch; b++) {
      const at = (b * shape.channels + h) * length;
      sum += dot(dy, u, at, at + length, dtype);
    }
    out[h] = sum;
  }
  return out;
}
