/** Convolving once, in one line. */
import type { SampleArray } from "../dtype.ts";
import { integer } from "../plan/problem.ts";
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
  const uRows = samplesOf(u, { call, name: "u", dtype, dimensions }).data;
  const kRows = samplesOf(k, {
    call,
    name: "k",
    dtype,
    dimensions: ["H", "K"],
    orFloat32: true,
  }).data;
  const [length, kernelLength] = [uRows.length / channels / batch, kRows.length / channels];
  const conv = await FlashFFTConv.create({ ...rest, mode, channels, length, kernelLength });
  try {
    return await conv.forward(u, k, { pregate, postgate, skip });
  } finally {
    conv.dispose();
  }
}
