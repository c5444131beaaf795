/** Taking frequencies out of a trained kernel. */

import { checkOptions, known } from "../checks.ts";
import { decode, type NewArray } from "../dtype.ts";
import { InvalidArgumentError } from "../errors.ts";
import { cyclicTaps } from "../plan/cpu/sparse.ts";
import { createProblem } from "../plan/create-problem.ts";
import { keptBins } from "../plan/frequencies.ts";
import type { ProblemOptions } from "../plan/problem.ts";
import { Dft64 } from "../reference/dft64.ts";
import { checkSizes, rowsOf, samplesOf } from "../tensors/check.ts";
import type { Tensor } from "../tensors/tensor.ts";
import { convOptionNames } from "./options.ts";

/** A kernel with the frequencies that a pattern keeps. */
export interface SparseKernel {
  /**
   * (H, N) float32: the tap of lag ℓ at ℓ modulo N. The circular convolution with period N by these taps, of u followed by
   * zeros, is what `FlashFFTConv` with the same options computes of the whole kernel.
   */
  readonly taps: NewArray<Float32Array>;
  /** N, the samples that frequencies are taken over. */
  readonly period: number;
  /** (H): the part of each channel's energy Σ tap² that the dropped frequencies held, 0 … 1. */
  readonly dropped: Float64Array;
}

/**
 * Apply a frequency pattern to the taps k (H, K) of a kernel, in float64, and tell what it costs: how much of each channel's
 * energy lies in the frequencies that are dropped. Taps that the mode does not use are left out first.
 * @param options Those of the `FlashFFTConv` that the kernel is for, with `frequencies`.
 * @throws InvalidArgumentError.
 */
export function sparsifyKernel(k: Tensor, options: ProblemOptions): SparseKernel {
  const call = "sparsifyKernel";
  const remedy = "Pass those of the FlashFFTConv that the kernel is for, with frequencies.";
  checkOptions(options, call, "options", remedy);
  const problem = createProblem(options, call);
  known(options, convOptionNames, call);
  const { frequencies, kernelLength, dtype } = problem;
  if (!frequencies) {
    throw new InvalidArgumentError({
      call,
      requirement: "options must name the frequencies to keep",
      value: "none",
      remedy: "Pass frequencies: { band: [f0, f1] } or { digits, dropped }.",
    });
  }
  const expected = { call, name: "k", dtype, orFloat32: true, dimensions: ["H", "K"] };
  const { data, shape } = samplesOf(k, expected);
  const channels = rowsOf(data, kernelLength, expected);
  checkSizes(shape, [channels, kernelLength], expected);
  const given = decode(data, data instanceof Float32Array ? "float32" : dtype);
  const { period } = frequencies;
  const bins = keptBins(frequencies);
  const dft = new Dft64(period);
  const taps = new Float32Array(channels * period);
  const dropped = new Float64Array(channels);
  for (let h = 0; h < channels; h++) {
    const re = new Float64Array(period);
    for (const { index, count, position } of cyclicTaps(problem)) {
      const from = h * kernelLength + index;
      re.set(given.subarray(from, from + count), (position + period) % period);
    }
    const spectrum = dft.transform({ re, im: new Float64Array(period) }, -1);
    let [all, lost] = [0, 0];
    for (let f = 0; f < period; f++) {
      const energy = spectrum.re[f]! ** 2 + spectrum.im[f]! ** 2;
      all += energy;
      if (bins[Math.min(f, period - f)]) continue;
      lost += energy;
      spectrum.re[f] = 0;
      spectrum.im[f] = 0;
    }
    dropped[h] = all > 0 ? lost / all : 0;
    taps.set(
      dft.transform(spectrum, 1).re.map((v) => v / period),
      h * period,
    );
  }
  return { taps, period, dropped };
}
