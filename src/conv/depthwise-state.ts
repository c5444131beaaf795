/** The K − 1 samples that a causal short convolution carries from call to call, and their gradients. */
import type { Dtype, SampleArray } from "../dtype.ts";
import { decode, encode } from "../dtype.ts";
import type { DepthwiseProblem } from "../plan/depthwise.ts";
import { widths } from "../plan/depthwise.ts";

/** How state and x lie: `lines` lines of positions, each of `step` samples. */
function shapeOf({ channels, layout, form }: DepthwiseProblem, batch: number) {
  const packed = channels * widths(form).branches;
  return layout === "BHL" ? { lines: batch * packed, step: 1 } : { lines: batch, step: packed };
}

/** The same bytes as numbers that can be copied without conversion. */
function raw(array: SampleArray): Float32Array | Uint16Array {
  if (array instanceof Float32Array || array instanceof Uint16Array) return array;
  return new Uint16Array(array.buffer, array.byteOffset, array.length);
}

/** stateOut ← the last K − 1 positions of state (zeros where there is none) followed by x. They may be one array. */
export function carryState(
  problem: DepthwiseProblem,
  x: SampleArray,
  state: SampleArray | undefined,
  stateOut: SampleArray,
  batch: number,
  length: number,
): void {
  const { lines, step } = shapeOf(problem, batch);
  const size = (problem.kernelLength - 1) * step;
  const [from, to] = [raw(x), raw(stateOut)];
  const before = state && raw(state);
  const fresh = Math.min(size, length * step);
  for (let line = 0; line < lines; line++) {
    const at = line * size;
    if (before) to.set(before.subarray(at + fresh, at + size), at);
    else to.fill(0, at, at + size - fresh);
    const end = (line + 1) * length * step;
    to.set(from.subarray(end - fresh, end), at + size - fresh);
  }
}

/**
 * Add the gradient of stateOut to that of the samples which it is made of: the last of x and, where x is shorter than
 * the state, those of the state before it. Half precision is rounded a second time here.
 */
export function addToTail(
  problem: DepthwiseProblem,
  dstateOut: SampleArray,
  dx: SampleArray,
  dstate: SampleArray | undefined,
  batch: number,
  length: number,
  dtype: Dtype,
): void {
  const { lines, step } = shapeOf(problem, batch);
  const size = (problem.kernelLength - 1) * step;
  const fresh = Math.min(size, length * step);
  for (let line = 0; line < lines; line++) {
    const at = line * size;
    const end = (line + 1) * length * step;
    add(dx, end - fresh, dstateOut, at + size - fresh, fresh, dtype);
    if (dstate) add(dstate, at + fresh, dstateOut, at, size - fresh, dtype);
  }
}

/** to[at …] += from[index …], `count` samples. */
function add(
  to: SampleArray,
  at: number,
  from: SampleArray,
  index: number,
  count: number,
  dtype: Dtype,
): void {
  const target = raw(to).subarray(at, at + count);
  const a = decode(target, dtype);
  const b = decode(raw(from).subarray(index, index + count), dtype);
  target.set(
    encode(
      a.map((v, i) => v + b[i]!),
      dtype,
    ),
  );
}
