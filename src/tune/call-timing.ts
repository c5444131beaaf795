/** Times of forward calls of one problem, on either backend: what `tune` tells plans apart by. */

import { loadGpu } from "../calls/load-gpu.ts";
import type { FlashFFTConv } from "../conv/conv.ts";
import { type Dtype, encode, type SampleArray } from "../dtype.ts";
import type { Problem } from "../plan/problem.ts";
import { normalSamples, normalSource } from "../reference/random.ts";
import type { GpuTensor } from "../tensors/tensor.ts";
import type { GpuTiming } from "./gpu-timing.ts";

/** Rows of the calls, and whether they have both gates. */
interface CallShape {
  readonly batch: number;
  readonly channels: number;
  readonly gates: boolean;
}

/** Random samples that tensors are filled with, again and again: an even number. */
const blockSize = 65_538;
/** Calls of a CPU whose median counts. */
const fewestCalls = 5;

/** Milliseconds of a call: after a fifth of the budget to warm up, the median of as many as fit, five at least. */
export async function medianMs(budget: number, call: () => unknown): Promise<number> {
  const times: number[] = [];
  const warm = performance.now() + budget / 5;
  do await call();
  while (performance.now() < warm);
  const end = performance.now() + budget;
  while (times.length < fewestCalls || performance.now() < end) {
    const start = performance.now();
    await call();
    times.push(performance.now() - start);
  }
  times.sort((a, b) => a - b);
  return times[times.length >> 1]!;
}

/** Tensors of calls with values of random samples, which any object of the same backend may use. */
interface Tensors<T> {
  readonly u: T;
  readonly out: T;
  readonly gates: { readonly pregate?: T; readonly postgate?: T };
}

/** Those of a GPU. */
interface OnGpu {
  readonly timing: GpuTiming;
  readonly tensors: Tensors<GpuTensor> & { readonly k: GpuTensor };
}
type TimedSamples = Float32Array | Uint16Array;

/**
 * Forward calls of objects for one problem, timed as the cost model prices them: on a GPU of the device, from taps; on the CPU
 * with the spectrum of k kept, in arrays that an object lends.
 */
export class CallTiming {
  readonly #problem: Problem;
  readonly #shape: CallShape;
  readonly #block: SampleArray;
  #onGpu: OnGpu | undefined;
  #onCpu: Tensors<TimedSamples> | undefined;
  readonly #calls = new WeakMap<FlashFFTConv<Dtype>, () => unknown>();

  constructor(problem: Problem, shape: CallShape) {
    this.#problem = problem;
    this.#shape = shape;
    this.#block = encode(normalSamples(normalSource(1), blockSize), problem.dtype);
  }

  /**
   * Make the tensors of all calls, where an object computes: on the CPU they are that object's, which must outlive the timing.
   * @throws BackendError where there is no room for them.
   */
  async open(conv: FlashFFTConv<Dtype>): Promise<void> {
    const { device } = conv;
    if (device) {
      const { GpuTiming } = await loadGpu(device, "tune", () => import("./gpu-timing.ts"));
      await this.#openGpu(new GpuTiming(device, "tune"));
    } else this.#onCpu ??= this.#lent(conv);
  }

  /** Milliseconds of a call, in about so many: the compiling that a first call waits for is not counted. */
  async ms(conv: FlashFFTConv<Dtype>, budget: number): Promise<number> {
    if (!this.#onGpu && !this.#onCpu) await this.open(conv);
    if (!this.#onGpu) return medianMs(budget, await this.#callOf(conv));
    const { timing, tensors } = this.#onGpu;
    const { u, k, out, gates } = tensors;
    try {
      return await timing.median(budget, (encoder) =>
        conv.forward(u, k, { ...gates, out, encoder }),
      );
    } finally {
      await conv.submitted();
    }
  }

  async #openGpu(timing: GpuTiming): Promise<void> {
    const { batch, channels, gates } = this.#shape;
    const { length, kernelLength, outputLength } = this.#problem;
    const rows = (width: number): Promise<GpuTensor> =>
      timing.upload(this.#block, [batch, channels, width]);
    const taps = Float32Array.from(normalSamples(normalSource(2), blockSize));
    try {
      const tensors = {
        u: await rows(length),
        k: await timing.upload(taps, [channels, kernelLength]),
        out: await rows(outputLength),
        gates: gates ? { pregate: await rows(length), postgate: await rows(outputLength) } : {},
      };
      this.#onGpu = { timing, tensors };
    } catch (error) {
      timing.free();
      throw error;
    }
  }

  #lent(conv: FlashFFTConv<Dtype>): Tensors<TimedSamples> {
    const { batch, channels, gates } = this.#shape;
    const filled = (array: TimedSamples): TimedSamples => {
      const block = this.#block as typeof array;
      for (let at = 0; at < array.length; at += block.length)
        array.set(block.subarray(0, array.length - at), at);
      return array;
    };
    return {
      u: filled(conv.allocateInput(batch, channels)),
      out: conv.allocateOutput(batch, channels),
      gates: gates
        ? {
            pregate: filled(conv.allocateInput(batch, channels)),
            postgate: filled(conv.allocateOutput(batch, channels)),
          }
        : {},
    };
  }

  /** The call of an object on the CPU, its kernel prepared. */
  async #callOf(conv: FlashFFTConv<Dtype>): Promise<() => unknown> {
    const known = this.#calls.get(conv);
    if (known) return known;
    const { u, out, gates } = this.#onCpu!;
    // An object of one thread moves to the memory that arrays are lent from when it lends one.
    conv.allocateOutput(1, 1);
    const source = normalSource(2);
    const taps = new Float32Array(this.#shape.channels * this.#problem.kernelLength);
    for (let i = 0; i < taps.length; i++) taps[i] = source();
    const kernel = await conv.prepareKernel(taps);
    const call = (): unknown => conv.forward(u, kernel, { out, ...gates });
    this.#calls.set(conv, call);
    return call;
  }

  /** Destroy the buffers. */
  free(): void {
    this.#onGpu?.timing.free();
  }
}
