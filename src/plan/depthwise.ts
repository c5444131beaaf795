/**
 * Short depthwise convolutions as data: what is asked for, checked, and how a call is cut into pieces that fit a cache.
 */

import { checkOptions, integer, oneOf } from "../checks.ts";
import type { Dtype } from "../dtype.ts";
import { bytesPerSample, dtypes } from "../dtype.ts";
import { InvalidArgumentError } from "../errors.ts";
import type { ActivationName } from "../math/activation.ts";
import { show } from "../show.ts";

/** How tensors lie in memory: (B, H, L), rows of samples, or (B, L, H), rows of channels. */
export type Layout = "BHL" | "BLH";

/** Both layouts. */
export const layouts: readonly Layout[] = ["BHL", "BLH"];

/**
 * What becomes of the filters' outputs: nothing, an activation, or, with three filters side by side, the product of two and
 * the third as it is (the projections of a Hyena operator).
 */
export type Form = "linear" | "projections" | ActivationName;

/**
 * Zeros before and after each row: `causal` is [K − 1, 0]; `same` is [(K−1) div 2, K div 2], as torch.nn.Conv1d puts
 * them; or the two numbers.
 */
export type Padding = "causal" | "same" | readonly [left: number, right: number];

/** Most taps of a short filter. */
const maxKernelLength = 256;
/** Most zeros on either side. */
const maxPadding = 65_536;

/** A checked problem, without batch and length, which calls bring. */
export interface DepthwiseProblem {
  /** H: channels of an output. */
  readonly channels: number;
  /** K: taps of one filter. */
  readonly kernelLength: number;
  /** Zeros before a row. */
  readonly left: number;
  /** Zeros after it. */
  readonly right: number;
  /** Order of the dimensions of all tensors but weight and bias. */
  readonly layout: Layout;
  /** What the filters' outputs go through. */
  readonly form: Form;
  /** Storage of x, y and the state. */
  readonly dtype: Dtype;
}

/** What a problem is made from. */
export interface DepthwiseProblemOptions<D extends Dtype = Dtype> {
  /** H: channels, 1 … 1,048,576. */
  readonly channels: number;
  /** K: taps of each channel's filter, 1 … 256. */
  readonly kernelLength: number;
  /** Zeros around each row; `causal` by default. Both numbers 0 … 65,536. */
  readonly padding?: Padding;
  /** `BHL` by default. */
  readonly layout?: Layout;
  /** Storage of x, y and the state; `float32` by default. */
  readonly dtype?: D;
}

/**
 * Check the options and fill in what follows from them.
 * @throws InvalidArgumentError naming `call`.
 */
export function createDepthwiseProblem(
  options: DepthwiseProblemOptions,
  form: Form,
  call: string,
): DepthwiseProblem {
  checkOptions(options, call, "options", "Pass { channels: H, kernelLength: K }.");
  const { layout = "BHL", dtype = "float32", padding = "causal" } = options;
  oneOf(call, "layout", layout, layouts);
  oneOf(call, "dtype", dtype, dtypes);
  const channels = integer(call, "channels", options.channels, 1, 2 ** 20);
  const kernelLength = integer(call, "kernelLength", options.kernelLength, 1, maxKernelLength);
  const [left, right] = paddingOf(padding, kernelLength, call);
  return Object.freeze({ channels, kernelLength, left, right, layout, form, dtype });
}

function paddingOf(padding: Padding, taps: number, call: string): readonly [number, number] {
  if (padding === "causal") return [taps - 1, 0];
  if (padding === "same") return [Math.floor((taps - 1) / 2), Math.floor(taps / 2)];
  if (!Array.isArray(padding) || padding.length !== 2) {
    throw new InvalidArgumentError({
      call,
      requirement: "padding must be 'causal', 'same' or [left, right]",
      value: show(padding),
      remedy: "Pass one of the three.",
    });
  }
  return [
    integer(call, "padding[0]", padding[0], 0, maxPadding),
    integer(call, "padding[1]", padding[1], 0, maxPadding),
  ];
}

/** Samples of an output row for `length` samples of an input row; below 1 where the filter does not fit. */
export function outputLengthOf(
  { kernelLength, left, right }: DepthwiseProblem,
  length: number,
): number {
  return length + left + right - kernelLength + 1;
}

/** Whether state may be carried from call to call: where the outputs end with the inputs. */
export function streams({ kernelLength, left, right }: DepthwiseProblem): boolean {
  return left === kernelLength - 1 && right === 0;
}

/** Filters that are applied side by side, and rows that come out. */
export function widths(form: Form): { readonly branches: number; readonly outputs: number } {
  return form === "projections" ? { branches: 3, outputs: 2 } : { branches: 1, outputs: 1 };
}

/** What a filter's outputs go through, if anything. */
export const activationOf = (form: Form): ActivationName | undefined =>
  form === "linear" || form === "projections" ? undefined : form;

/** How a call is cut; none of it depends on the number of threads, so neither do the sums that it decides about. */
interface Cutting {
  /** Channels that are widened to float32 together in layout BLH (a multiple of 4), 1 in BHL. */
  readonly tileChannels: number;
  /** Outputs that a thread takes at a time, forward. */
  readonly forwardChunk: number;
  /** Outputs that are computed from one widened window, forward. */
  readonly forwardTile: number;
  /** Outputs that a thread takes at a time, backward: over so many, the gradient of a tap is summed in float32. */
  readonly backwardChunk: number;
}

/**
 * Channels that lie side by side in the widened window of layout BLH. Less than a kilobyte of each row at a time is read
 * more slowly: 64 channels of 768 in float16 took 1.7 times as long (K = 4, EPYC 7003).
 */
const tileWidth = 256;

/** Cut for windows that stay in a first-level cache where taps are few; a thread takes 64 KiB of samples at a time. */
export function cutting(problem: DepthwiseProblem): Cutting {
  const { channels, kernelLength, layout, dtype } = problem;
  if (layout === "BHL") {
    const forwardChunk = 65_536 / bytesPerSample(dtype);
    return { tileChannels: 1, forwardChunk, forwardTile: 1024, backwardChunk: 1024 };
  }
  const rows = 65_536 / bytesPerSample(dtype) / channels;
  return {
    tileChannels: Math.min(tileWidth, 4 * Math.ceil(channels / 4)),
    forwardChunk: Math.max(4 * kernelLength, 8 * Math.ceil(rows / 8)),
    forwardTile: Math.max(32, kernelLength),
    backwardChunk: Math.max(128, kernelLength),
  };
}
