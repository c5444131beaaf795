/**
 * The same for short convolutions and projections: every output of the first channel of the first batch item, or its
 * gradients, those of weights summed over the whole batch.
 */
import type { Dtype } from "../src/dtype.ts";
import type { FlashDepthwiseConv1d, GpuTensor } from "../src/index.ts";
import { relativeError } from "../src/reference/convolution.ts";
import {
  depthwiseOracleBackward,
  depthwiseOracleForward,
} from "../test/support/depthwise-oracle.ts";
import { filled, type Places, readPlaces } from "./gpu-data.ts";

/** Where in the pool each tensor begins, dy one after the other. */
export const shortStarts = {
  x: 0,
  weight: 100_003,
  bias: 200_017,
  dy: [300_007, 400_009],
} as const;

/** A call that was made. */
interface Call {
  readonly problem: FlashDepthwiseConv1d["problem"];
  readonly dtype: Dtype;
  readonly batch: number;
  readonly length: number;
}

/** Wrong answers have no speed: twice what rounding once errs. */
const largestError = { float32: 1e-6, float16: 2 ** -11, bfloat16: 2 ** -8 } as const;

/** Sums over the whole batch of terms that cancel each other, in float32. */
const largestSumError = 1e-4;

/** Channels of x for one of an output. */
const packed = ({ problem }: Call): number => (problem.form === "projections" ? 3 : 1);

/** Rows that meet in the first output channel: `each` of a batch item whose tensor has `each` times as many channels. */
function rows(call: Call, each: number, batch: number): Places[] {
  const { problem, length } = call;
  const { channels, layout } = problem;
  return Array.from({ length: batch * each }, (_, i) => {
    const item = Math.floor(i / each) * each * channels * length;
    const channel = (i % each) * channels;
    return layout === "BHL"
      ? { from: item + channel * length, count: length }
      : { from: item + channel, count: length, apart: each * channels };
  });
}

/** Taps and biases of those rows. */
function parameters(call: Call, each: 1 | "taps"): Places[] {
  const { channels, kernelLength } = call.problem;
  const count = each === "taps" ? kernelLength : 1;
  return Array.from({ length: packed(call) }, (_, i) => ({ from: i * channels * count, count }));
}

function joined(parts: readonly Float64Array[]): Float64Array {
  const all = new Float64Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** What goes into the oracle: `batch` items of the first output channel. */
function inputsOf(call: Call, batch: number) {
  const pooled = (dtype: Dtype, start: number, places: readonly Places[]): Float64Array =>
    joined(places.map((place) => filled(dtype, start, place)));
  return {
    ...{ batch, length: call.length },
    x: pooled(call.dtype, shortStarts.x, rows(call, packed(call), batch)),
    weight: pooled("float32", shortStarts.weight, parameters(call, "taps")),
    bias: pooled("float32", shortStarts.bias, parameters(call, 1)),
    dy: shortStarts.dy.map((start) => pooled(call.dtype, start, rows(call, 1, batch))),
  };
}

/** The oracle's problem of one output channel. */
const alone = ({ problem }: Call) => ({ ...problem, channels: 1, layout: "BHL" as const });

/** The worst relative error of outputs. */
export async function checkShortOutputs(
  device: GPUDevice,
  call: Call,
  outputs: readonly GpuTensor[],
): Promise<number> {
  const right = depthwiseOracleForward(alone(call), inputsOf(call, 1));
  const errors = [];
  for (const [i, output] of outputs.entries()) {
    const [got] = await readPlaces(device, output, call.dtype, rows(call, 1, 1));
    errors.push(relativeError(got!, right[i]!));
  }
  return worst("outputs", errors, largestError[call.dtype]);
}

/** The worst relative error of gradients. */
export async function checkShortGradients(
  device: GPUDevice,
  call: Call,
  { dx, dweight, dbias }: { readonly [name in "dx" | "dweight" | "dbias"]: GpuTensor },
): Promise<number> {
  const { length, problem, dtype } = call;
  const { dy, ...inputs } = inputsOf(call, call.batch);
  const right = depthwiseOracleBackward(alone(call), inputs, dy);
  const got = await readPlaces(device, dx, dtype, rows(call, packed(call), 1));
  const taps = await readPlaces(device, dweight, "float32", parameters(call, "taps"));
  const biases = await readPlaces(device, dbias, "float32", parameters(call, 1));
  const errors = got.map((row, i) =>
    relativeError(row, right.dx.subarray(i * length, (i + 1) * length)),
  );
  // A single sum may happen to be next to nothing: taps and bias of a filter are one vector.
  const sums = taps.map((row, i) => {
    const exact = right.dweight.subarray(i * problem.kernelLength, (i + 1) * problem.kernelLength);
    return relativeError(
      joined([row, biases[i]!]),
      joined([exact, right.dbias.subarray(i, i + 1)]),
    );
  });
  return Math.max(
    worst("dx", errors, largestError[dtype]),
    worst("dweight and dbias", sums, largestSumError),
  );
}

/** @throws Error when one is above its bound. */
function worst(what: string, errors: readonly number[], bound: number): number {
  const most = Math.max(...errors);
  if (most < bound) return most;
  throw new Error(`${what}: the answer is wrong, relative errors ${errors.join(", ")}`);
}
