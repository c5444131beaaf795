/** Convolving once, in one line. */
import type { SampleArray } from "../dtype.ts";
import { InvalidArgumentError, show } from "../errors.ts";
import { integer } from "../plan/problem.ts";
import type { Expected } from "./arguments.ts";
import { checkOptions, samplesOf } from "./arguments.ts";
import { FlashFFTConv } from "./conv.ts";
import type { FlashFFTConvOptions, ForwardOptions } from "./options.ts";

/** What a one-line convolution may say besides its samples. */
export interface ConvolveOptions
  extends Omit<FlashFFTConvOptions, "length" | "kernelLength">,
    Omit<ForwardOptions, "out" | "encoder"> {}

/**
 * Convolve once: u and k of one channel each, or k of `channels` rows and u of `batch` times as many, which are no hints
 * here. `full` by default, as scipy.signal.fftconvolve.
 * Plans and compiles for this call alone: for more than a few calls make a FlashFFTConv.
 */
export async function convolve(
  u: SampleArray,
  k: SampleArray,
  options: ConvolveOptions = {},
): Promise<SampleArray> {
  const call = "convolve";
  checkOptions(options, call);
  const { pregate, postgate, skip, mode = "full", channels = 1, ...rest } = options;
  integer(call, "channels", channels, 1, 2 ** 31);
  const batch = integer(call, "batch", rest.batch ?? 1, 1, 2 ** 31);
  const dimensions = ["H", "L"];
  const dtype = rest.dtype ?? "float32";
  const uExpected = { call, name: "u", dtype, dimensions };
  const kExpected = { call, name: "k", dtype, dimensions: ["H", "K"], orFloat32: true };
  const length = perRow(flat(u, uExpected), batch * channels, uExpected);
  const kernelLength = perRow(flat(k, kExpected), channels, kExpected);
  const conv = await FlashFFTConv.createFor(
    { ...rest, mode, channels, length, kernelLength },
    call,
  );
  try {
    return (await conv.forwardFor(u, k, { pregate, postgate, skip }, call)) as SampleArray;
  } finally {
    conv.dispose();
  }
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

/** Samples of one row of an array that holds `rows` rows. */
function perRow(data: SampleArray, rows: number, expected: Expected): number {
  const width = data.length / rows;
  if (Number.isInteger(width)) return width;
  throw new InvalidArgumentError({
    call: expected.call,
    requirement: `${expected.name} must divide into ${show(rows)} rows of equal length`,
    value: show(data),
    remedy: "Check channels and batch.",
  });
}
