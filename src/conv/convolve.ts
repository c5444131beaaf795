/** Convolving once, in one line. */
import type { SampleArray } from "../dtype.ts";
import { InvalidArgumentError, show } from "../errors.ts";
import { integer } from "../plan/problem.ts";
import type { Expected } from "./arguments.ts";
import { samplesOf } from "./arguments.ts";
import { FlashFFTConv } from "./conv.ts";
import type { FlashFFTConvOptions, ForwardOptions } from "./options.ts";

/** What a one-line convolution may say besides its samples. */
export interface ConvolveOptions
  extends Omit<FlashFFTConvOptions, "length" | "kernelLength">,
    Omit<ForwardOptions, "out"> {}

/**
 * Convolve once: u and k of one channel each, or of `channels` rows. `full` by default, as scipy.signal.fftconvolve.
 * Plans and compiles for this call alone: for more than a few calls make a FlashFFTConv.
 */
export async function convolve(
  u: SampleArray,
  k: SampleArray,
  options: ConvolveOptions = {},
): Promise<SampleArray> {
  const call = "convolve";
  const { pregate, postgate, skip, mode = "full", channels = 1, ...rest } = options;
  integer(call, "channels", channels, 1, 2 ** 31);
  const batch = integer(call, "batch", rest.batch ?? 1, 1, 2 ** 31);
  const dimensions = ["H", "L"];
  const dtype = rest.dtype ?? "float32";
  const uExpected = { call, name: "u", dtype, dimensions };
  const kExpected = { call, name: "k", dtype, dimensions: ["H", "K"], orFloat32: true };
  const length = perRow(samplesOf(u, uExpected).data, batch * channels, uExpected);
  const kernelLength = perRow(samplesOf(k, kExpected).data, channels, kExpected);
  const conv = await FlashFFTConv.createFor(
    { ...rest, mode, channels, length, kernelLength },
    call,
  );
  try {
    return await conv.forward(u, k, { pregate, postgate, skip });
  } finally {
    conv.dispose();
  }
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
