/** What streams are made from and fed with, checked. */
import type { RuntimeOptions } from "../calls/runtime.ts";
import { checkNames } from "../calls/runtime.ts";
import { checkOptions, integer, oneOf } from "../checks.ts";
import type { Dtype, SampleArray } from "../dtype.ts";
import { decode, dtypes } from "../dtype.ts";
import { InvalidArgumentError, UnsupportedError } from "../errors.ts";
import { streamable } from "../plan/cpu/stream-levels.ts";
import { createProblem } from "../plan/create-problem.ts";
import type { Mode } from "../plan/problem.ts";
import { maxLength } from "../plan/problem.ts";
import { show } from "../show.ts";
import type { Expected } from "../tensors/check.ts";
import { evenRows, samplesOf, sized } from "../tensors/check.ts";
import type { Tensor } from "../tensors/tensor.ts";
import { isGpuTensor } from "../tensors/tensor.ts";
import type { StreamRows, StreamTaps } from "./engine.ts";

/** Modes of a stream: all whose first outputs do not wait for the end of the input. */
export type StreamMode = Exclude<Mode, "circular">;

const streamModes: readonly StreamMode[] = ["causal", "full", "same", "bidirectional"];

/**
 * What a stream is made from, besides its kernel. A GPU is for long kernels and many samples at a time; live audio belongs on the
 * CPU, which answers a block within its time. Pieces and outputs are arrays on both. On the CPU a row goes to one thread.
 */
export interface StreamOptions<D extends Dtype = Dtype> extends RuntimeOptions {
  /** `causal` by default; as in FlashFFTConv, for an L that is known when the input ends. */
  readonly mode?: StreamMode;
  /** K: taps of one kernel row, by default all of k's samples by `channels`; on a GPU at most 16,777,216. */
  readonly kernelLength?: number;
  /** B: sequences that share the kernels; 1 by default. */
  readonly batch?: number;
  /** H: kernel rows; 1 by default. */
  readonly channels?: number;
  /** Storage of u, y and the gates; `float32` by default. */
  readonly dtype?: D;
  /** (H) float32: adds skip ⊙ u, ungated; for modes whose outputs are as long as their inputs. */
  readonly skip?: Tensor;
  /**
   * Samples of a block: outputs come for every so many inputs. A multiple of 16 with no prime factor above 7, such as
   * 128 … 1,024 for live audio, whose work is spread evenly over the blocks; by default what takes the least time. On a GPU
   * each block is a transform of K − 1 samples more and a wait of about a millisecond: there, short ones cost far more, and the
   * default may be millions.
   */
  readonly blockLength?: number;
}

/** A piece of the input of dtype `D`, with the pieces of the gates that belong to the same samples. */
export interface StreamPiece<D extends Dtype = "float32"> {
  /** (B, H, n); n may be 0. */
  readonly u: Tensor<D>;
  /** (B, H, n), multiplies u. */
  readonly pregate?: Tensor<D> | undefined;
  /** (B, H, n), multiplies the outputs at the same samples; not in mode `full`. */
  readonly postgate?: Tensor<D> | undefined;
}

/** Options of a stream. */
const optionNames = [
  ...["mode", "kernelLength", "batch", "channels", "dtype", "skip", "blockLength"],
] as const;

/** What a piece has. */
export const pieceNames = ["u", "pregate", "postgate"] as const;

/** Longest block: a level's transform is twice as long as its block. */
const maxBlock = 2 ** 20;

/** Options whose kernel is known. */
export type StreamSettings = StreamOptions & { readonly kernelLength: number };

/** A stream's kernel and rows, checked. */
export interface CheckedStream {
  readonly taps: StreamTaps;
  /** Samples by which the first tap looks ahead. */
  readonly ahead: number;
  readonly rows: StreamRows;
  readonly skip: Float32Array | undefined;
  readonly settings: StreamSettings;
}

/**
 * Check the options and the kernel k (H, K).
 * @throws InvalidArgumentError, UnsupportedError.
 */
export function checkStream(k: Tensor, options: StreamOptions, call: string): CheckedStream {
  checkOptions(options, call, "options", "Pass { channels: H }.");
  const { mode = "causal", dtype = "float32", blockLength } = options;
  refuseFrequencies(options, call);
  checkNames(options, optionNames, call, "Pass { channels: H }.");
  oneOf(call, "mode", mode, streamModes);
  const { channels = 1, batch = 1 } = options;
  integer(call, "channels", channels, 1, 2 ** 31);
  integer(call, "batch", batch, 1, 2 ** 31);
  const { kernelLength = kernelLengthOf(k, channels, dtype, call) } = options;
  integer(call, "kernelLength", kernelLength, 1, 2 * maxLength);
  // A length as good as any that the kernel goes with: it checks K, mode and dtype.
  createProblem({ mode, dtype, kernelLength, length: maxLength }, call);
  if (blockLength !== undefined)
    checkBlock(integer(call, "blockLength", blockLength, 16, maxBlock), call);
  refuseStreamBuffer(k, "k", call);
  const expected: Expected = { call, name: "k", dtype, orFloat32: true, dimensions: ["H", "K"] };
  const data = sized(k, [channels, kernelLength], expected);
  const skip = checkSkip(options.skip, channels, mode, call);
  const { rows: taps, ahead } = tapsInOrder(data, dtype, mode, kernelLength);
  const settings = { ...options, kernelLength };
  return { taps, ahead, rows: { batch, channels }, skip, settings };
}

/** K of taps (H, K) that come without it. */
function kernelLengthOf(k: Tensor, channels: number, dtype: Dtype, call: string): number {
  oneOf(call, "dtype", dtype, dtypes);
  refuseStreamBuffer(k, "k", call);
  const expected = { call, name: "k", dtype, orFloat32: true, dimensions: ["H", "K"] };
  const { data, shape } = samplesOf(k, expected);
  const remedy = "Check channels, or pass { data, shape: [H, K] }.";
  return shape ? shape[1]! : evenRows(data, channels, expected, remedy);
}

/** Refuse samples in a buffer of the GPU. */
export function refuseStreamBuffer(tensor: unknown, name: string, call: string): void {
  if (!isGpuTensor(tensor)) return;
  throw new InvalidArgumentError({
    call,
    requirement: `${name} must be an array: a stream carries samples to the GPU itself`,
    value: "a GPUBuffer",
    remedy: "Pass the samples, or use FlashFFTConv for tensors in buffers.",
  });
}

/** The taps of each channel in the order of their lags, and how far the first looks ahead. */
function tapsInOrder(
  k: SampleArray,
  dtype: Dtype,
  mode: StreamMode,
  kernelLength: number,
): { rows: Float32Array[]; ahead: number } {
  const values = k instanceof Float32Array ? k : Float32Array.from(decode(k, dtype));
  const half = kernelLength >> 1;
  const rows: Float32Array[] = [];
  for (let at = 0; at < values.length; at += kernelLength) {
    const row = values.subarray(at, at + kernelLength);
    // Bidirectional taps look ahead from the end on; the one in the middle is never used.
    rows.push(
      mode === "bidirectional" ? joined([row.subarray(half + 1), row.subarray(0, half)]) : row,
    );
  }
  const ahead = mode === "same" ? (kernelLength - 1) >> 1 : mode === "bidirectional" ? half - 1 : 0;
  return { rows, ahead };
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const out = new Float32Array(parts.reduce((sum, p) => sum + p.length, 0));
  let at = 0;
  for (const p of parts) {
    out.set(p, at);
    at += p.length;
  }
  return out;
}

/** A pattern over N samples needs all of them at once. */
function refuseFrequencies(options: StreamOptions, call: string): void {
  if ((options as { frequencies?: unknown }).frequencies === undefined) return;
  throw new UnsupportedError({
    call,
    requirement: "streams keep all frequencies: a masked kernel is as long as the transform",
    value: "an object with frequencies",
    remedy: "Pass taps that sparsifyKernel has masked, or use FlashFFTConv on whole rows.",
  });
}

function checkBlock(blockLength: number, call: string): void {
  if (streamable(blockLength)) return;
  throw new InvalidArgumentError({
    call,
    requirement: "blockLength must be a multiple of 16 with no prime factor above 7",
    value: show(blockLength),
    remedy: "Take 64, 128, 256, 480, 512, 960 or 1,024.",
  });
}

function checkSkip(
  skip: Tensor | undefined,
  channels: number,
  mode: StreamMode,
  call: string,
): Float32Array | undefined {
  if (skip === undefined) return undefined;
  refuseStreamBuffer(skip, "skip", call);
  const expected: Expected = { call, name: "skip", dtype: "float32", dimensions: ["H"] };
  const data = sized(skip, [channels], expected);
  if (mode !== "full") return data as Float32Array;
  throw new InvalidArgumentError({
    call,
    requirement: "skip needs outputs as long as the inputs",
    value: "a stream of mode 'full'",
    remedy: "Use another mode, or add skip ⊙ u yourself.",
  });
}
