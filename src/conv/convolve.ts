/** Convolving once, in one line. */

import { checkOptions, integer } from "../checks.ts";
import type { Dtype, NewArray, SampleArray, StoredArray } from "../dtype.ts";
import { encode } from "../dtype.ts";
import { InvalidArgumentError } from "../errors.ts";
import type { Problem } from "../plan/problem.ts";
import { show } from "../show.ts";
import type { Expected } from "../tensors/check.ts";
import { evenRows, samplesOf } from "../tensors/check.ts";
import type { GpuTensor, Tensor } from "../tensors/tensor.ts";
import { holds } from "../tensors/tensor.ts";
import { FlashFFTConv } from "./conv.ts";
import type { Shape } from "./cpu-rows.ts";
import type { FlashFFTConvOptions, ForwardOptions } from "./options.ts";
import { checkedProblem, howNames } from "./options.ts";
import { type SumOperands, summable, sumOf } from "./tiny-sums.ts";

/** Plain numbers, which are rounded to the dtype. */
export type Numbers = readonly number[] | Float64Array;

/** What a one-line convolution may say besides its samples. */
export interface ConvolveOptions<D extends Dtype = Dtype>
  extends Omit<FlashFFTConvOptions<D>, "length" | "kernelLength"> {
  /** (B, H, L), multiplies u. */
  readonly pregate?: Tensor<D> | GpuTensor | Numbers | undefined;
  /** (B, H, Lout), multiplies the convolution. */
  readonly postgate?: Tensor<D> | GpuTensor | Numbers | undefined;
  /** (H) float32: adds skip ⊙ u, ungated; for modes whose outputs are as long as their inputs. */
  readonly skip?: Float32Array | Numbers | undefined;
}

/** The array that a one-line convolution of a `U` in dtype `D` returns. */
export type Convolved<U, D extends Dtype> = U extends SampleArray
  ? NewArray<U>
  : NewArray<StoredArray<D>>;

/**
 * Convolve once: u and k of one channel each, or k of `channels` rows and u of `batch` times as many, which are no hints
 * here. `full` by default, as scipy.signal.fftconvolve.
 *
 * Samples are arrays of the dtype, or `number[]` and `Float64Array`, which are rounded to it first. The result is an array of
 * u's kind, for plain numbers the one that holds the dtype: a Float32Array.
 *
 * Plans and compiles for this call alone: for more than a few calls make a FlashFFTConv. Up to 262,144 products (B·H·Lout·K)
 * are summed in float64 instead, at once and on the caller's thread, unless an option says how to compute or masks frequencies:
 * small integers come out whole.
 * @example convolve([1, 2, 3], [1, 1]) // → Float32Array [1, 3, 5, 3]
 * @throws InvalidArgumentError, UnsupportedError, BackendError.
 */
export async function convolve<
  D extends Dtype = "float32",
  U extends SampleArray<D> | Numbers = SampleArray<D> | Numbers,
>(
  u: U,
  k: SampleArray<D | "float32"> | Numbers,
  options: ConvolveOptions<D> = {},
): Promise<Convolved<U, D>> {
  const call = "convolve";
  const { settings, samples, taps, operands, sum } = checkedCall(u, k, options, call);
  if (sum) return sum() as Convolved<U, D>;
  const conv = await FlashFFTConv.createFor(settings, call);
  try {
    return (await conv.forwardFor(samples, taps, operands, call)) as Convolved<U, D>;
  } finally {
    conv.dispose();
  }
}

/** A one-line convolution, checked: an object's options, and its call. */
interface CheckedCall<D extends Dtype> {
  readonly settings: FlashFFTConvOptions<D>;
  readonly samples: SampleArray;
  readonly taps: SampleArray;
  readonly operands: ForwardOptions<Dtype>;
  /** Term by term, where that is quicker. */
  readonly sum?: () => SampleArray;
}

/** @internal The checks of a one-line convolution. */
export function checkedCall<D extends Dtype>(
  u: SampleArray<D> | Numbers,
  k: SampleArray<D | "float32"> | Numbers,
  options: ConvolveOptions<D>,
  call: string,
): CheckedCall<D> {
  checkOptions(options, call);
  const { pregate, postgate, skip, mode = "full", channels = 1, ...rest } = options;
  integer(call, "channels", channels, 1, 2 ** 31);
  const batch = integer(call, "batch", rest.batch ?? 1, 1, 2 ** 31);
  const dtype: Dtype = rest.dtype ?? "float32";
  const expected = { call, name: "u", dtype, dimensions: ["H", "L"] };
  const kExpected = { ...expected, name: "k", dimensions: ["H", "K"], orFloat32: true };
  const samples = flat(rounded(u, dtype, "u", call), expected);
  const taps = flat(rounded(k, "float32", "k", call), kExpected);
  const operands = {
    pregate: rounded(pregate, dtype, "pregate", call),
    postgate: rounded(postgate, dtype, "postgate", call),
    skip: rounded(skip, "float32", "skip", call),
  };
  const remedy = "Check channels and batch.";
  const length = evenRows(samples, batch * channels, expected, remedy);
  const kernelLength = evenRows(taps, channels, kExpected, remedy);
  const settings = { ...rest, mode, channels, length, kernelLength };
  const checked = { settings, samples, taps, operands };
  if (howNames.some((name) => settings[name] !== undefined)) return checked;
  const problem = checkedProblem(settings, call);
  const shape = { batch, channels };
  const all = { u: samples, k: taps, ...operands };
  if (!summable(problem, shape) || !fits(all, problem, shape)) return checked;
  return { ...checked, sum: () => sumOf(problem, all, shape) };
}

/** Plain numbers in the array that holds a dtype; everything else as it is. */
function rounded<T, D extends Dtype>(
  samples: T | Numbers,
  dtype: D,
  name: string,
  call: string,
): Exclude<T, Numbers> | NewArray<StoredArray<D>> {
  if (samples instanceof Float64Array) return encode(samples, dtype);
  if (!Array.isArray(samples)) return samples as Exclude<T, Numbers>;
  const wrong = samples.findIndex((value) => typeof value !== "number");
  if (wrong < 0) return encode(samples, dtype);
  throw new InvalidArgumentError({
    call,
    requirement: `${name} must hold numbers, all in one list`,
    value: `${show(samples[wrong])} at index ${show(wrong)}`,
    remedy: "Pass the rows one after the other, and channels: H (and batch: B) in the options.",
  });
}

/** Whether optional operands are arrays of the right sizes: whatever else they are, FlashFFTConv takes or refuses. */
function fits(
  operands: { readonly [Name in keyof SumOperands]: unknown },
  { length, outputLength, dtype }: Problem,
  { batch, channels }: Shape,
): operands is SumOperands {
  const { pregate, postgate, skip } = operands;
  const isRows = (rows: unknown, width: number): boolean =>
    rows === undefined || (holds(rows, dtype) && rows.length === batch * channels * width);
  const isSkip = holds(skip, "float32") && skip.length === channels && length === outputLength;
  return (
    isRows(pregate, length) && isRows(postgate, outputLength) && (skip === undefined || isSkip)
  );
}

/** A samples argument, which has no shape of its own here: `channels` and `batch` say it. */
function flat(samples: SampleArray, expected: Expected): SampleArray {
  const { data, shape } = samplesOf(samples, expected);
  if (!shape) return data;
  throw new InvalidArgumentError({
    call: expected.call,
    requirement: `${expected.name} must be a typed array without a shape`,
    value: `shape ${show(shape)}`,
    remedy: "Pass the data, and channels: H (and batch: B) in the options.",
  });
}
