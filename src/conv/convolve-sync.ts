/** Convolving once, without a promise. All code that it may need is loaded with it. */
import { usePrinter } from "../backend/cpu/compile.ts";
import type { Dtype, SampleArray } from "../dtype.ts";
import * as javascript from "../kernels/cpu/print/javascript.ts";
import { FlashFFTConv } from "./conv.ts";
import type { Convolved, ConvolveOptions, Numbers } from "./convolve.ts";
import { checkedCall } from "./convolve.ts";
import * as other from "./cpu-other.ts";

/**
 * convolve, done when it returns: on the CPU, on the calling thread, with the bits of `convolve` on one thread. What takes no
 * transform takes microseconds; the others plan and compile in some 10 ms, so that for more than a few calls a FlashFFTConv and
 * its `forwardSync` are quicker.
 * @example convolveSync([1, 2, 3], [1, 1]) // → Float32Array [1, 3, 5, 3]
 * @throws InvalidArgumentError, UnsupportedError where the options ask for a GPU or a worker, BackendError.
 */
export function convolveSync<
  D extends Dtype = "float32",
  U extends SampleArray<D> | Numbers = SampleArray<D> | Numbers,
>(
  u: U,
  k: SampleArray<D | "float32"> | Numbers,
  options: ConvolveOptions<D> = {},
): Convolved<U, D> {
  const call = "convolveSync";
  const { settings, samples, taps, operands, sum } = checkedCall(u, k, options, call);
  if (sum) return sum() as Convolved<U, D>;
  usePrinter(javascript);
  const conv = FlashFFTConv.createNow({ threads: 1, ...settings }, other, call);
  try {
    return conv.forwardNow(samples, taps, operands, call) as Convolved<U, D>;
  } finally {
    conv.dispose();
  }
}
