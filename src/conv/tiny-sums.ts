/** Convolutions so small that their sums take less time than a plan: term by term, in float64, rounded once. */
import type { SampleArray } from "../dtype.ts";
import { decode, encode } from "../dtype.ts";
import { tapRuns } from "../plan/geometry.ts";
import type { Problem } from "../plan/problem.ts";
import type { Shape } from "./cpu-rows.ts";

/**
 * B·H·Lout·K up to which a convolution is summed: 0.4 ms, where planning and compiling take 13 to 23 (two cores of an EPYC,
 * Node 20). Sums of integers are whole as long as float64 and the dtype hold them: to 2^24 in float32.
 */
const mostProducts = 262_144;

/** Operands of a convolution, as stored. */
export interface SumOperands {
  readonly u: SampleArray;
  readonly k: SampleArray;
  readonly pregate?: SampleArray | undefined;
  readonly postgate?: SampleArray | undefined;
  readonly skip?: SampleArray | undefined;
}

/** Whether a convolution is small enough. Masked frequencies take a transform. */
export function summable(problem: Problem, { batch, channels }: Shape): boolean {
  const { outputLength, kernelLength, frequencies } = problem;
  return !frequencies && batch * channels * outputLength * kernelLength <= mostProducts;
}

/** y = postgate ⊙ ((pregate ⊙ u) ∗ k) + skip ⊙ u, in an array of u's kind; operands have the sizes of the problem. */
export function sumOf(problem: Problem, operands: SumOperands, shape: Shape): SampleArray {
  const { length, kernelLength, outputLength, dtype } = problem;
  const wide = (samples: SampleArray): Float64Array =>
    decode(samples, samples instanceof Float32Array ? "float32" : dtype);
  const [u, k] = [wide(operands.u), wide(operands.k)];
  const [pregate, postgate, skip] = [operands.pregate, operands.postgate, operands.skip].map(
    (samples) => samples && wide(samples),
  );
  const x = pregate ? u.map((value, m) => value * pregate[m]!) : u;
  const y = new Float64Array(shape.batch * shape.channels * outputLength);
  const taps = tapRuns(problem);
  for (let row = 0; row < shape.batch * shape.channels; row++) {
    const channel = row % shape.channels;
    const [input, output] = [row * length, row * outputLength];
    for (const { index, count, position } of taps) {
      for (let i = 0; i < count; i++) {
        const tap = k[channel * kernelLength + index + i]!;
        const lag = position + i;
        const end = Math.min(outputLength, length + lag);
        for (let n = Math.max(0, lag); n < end; n++) y[output + n]! += tap * x[input + n - lag]!;
      }
    }
    for (let n = 0; n < outputLength; n++) {
      if (postgate) y[output + n]! *= postgate[output + n]!;
      if (skip) y[output + n]! += skip[channel]! * u[input + n]!;
    }
  }
  if (operands.u instanceof Float32Array || operands.u instanceof Uint16Array)
    return encode(y, dtype);
  return (operands.u.constructor as unknown as Float32ArrayConstructor).from(y);
}
