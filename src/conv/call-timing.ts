/** Times of forward calls of one problem, on either backend: what `tune` tells plans apart by. */
import { encode, type SampleArray } from "../dtype.ts";
import type { Problem } from "../plan/problem.ts";
import type { GpuTensor } from "./arguments.ts";
import type { FlashFFTConv } from "./conv.ts";
import { GpuTiming } from "./gpu-timing.ts";
import { normalSamples, normalSource } from "./random.ts";

/** Rows of the calls, and whether they have both gates. */
export interface CallShape {
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

/** Tensors of a GPU's calls, which any object on its device may use. */
type GpuTensors = Readonly<Record<"u" | "k" | "out", GpuTensor>> & {
  readonly gates: { readonly pregate?: GpuTensor; readonly postgate?: GpuTensor };
};

/**
 * Forward calls of objects for one problem, timed as the cost model prices them: on a GPU of the device, from taps; on the CPU
 * with the spectrum of k kept, in arrays that the object lends.
 */
export class CallTiming {
  readonly #problem: Problem;
  readonly #shape: CallShape;
  readonly #block: SampleArray;
  #gpu: { readonly timing: GpuTiming; readonly tensors: GpuTensors } | undefined;
  readonly #calls = new WeakMap<FlashFFTConv, () => unknown>();

  constructor(problem: Problem, shape: CallShape) {
    this.#problem = problem;
    this.#shape = shape;
    this.#block = encode(normalSamples(normalSource(1), blockSize), problem.dtype);
  }

  /** Milliseconds of a call, in about so many: the compiling that a first call waits for is not counted. */
  async ms(conv: FlashFFTConv, budget: number): Promise<number> {
    const { device } = conv;
    if (!device) return medianMs(budget, await this.#onCpu(conv));
    this.#gpu ??= this.#openGpu(new GpuTiming(device));
    const { timing, tensors } = this.#gpu;
    const { u, k, out, gates } = tensors;
    try {
      return await timing.median(budget, (encoder) =>
        conv.forward(u, k, { ...gates, out, encoder }),
      );
    } finally {
      await conv.submitted();
    }
  }

  #openGpu(timing: GpuTiming) {
    const { batch, channels, gates } = this.#shape;
    const { length, kernelLength, outputLength } = this.#problem;
    const rows = (width: number): GpuTensor => timing.upload(this.#block, [batch, channels, width]);
    const taps = Float32Array.from(normalSamples(normalSource(2), blockSize));
    const tensors: GpuTensors = {
      u: rows(length),
      k: timing.upload(taps, [channels, kernelLength]),
      out: rows(outputLength),
      gates: gates ? { pregate: rows(length), postgate: rows(outputLength) } : {},
    };
    return { timing, tensors };
  }

  async #onCpu(conv: FlashFFTConv): Promise<() => unknown> {
    const known = this.#calls.get(conv);
    if (known) return known;
    const { batch, channels, gates } = this.#shape;
    const filled = (array: Float32Array | Uint16Array): Float32Array | Uint16Array => {
      const block = this.#block as typeof array;
      for (let at = 0; at < array.length; at += block.length)
        array.set(block.subarray(0, array.length - at), at);
      return array;
    };
    const u = filled(conv.allocateInput(batch, channels));
    const out = conv.allocateOutput(batch, channels);
    const both = gates && {
      pregate: filled(conv.allocateInput(batch, channels)),
      postgate: filled(conv.allocateOutput(batch, channels)),
    };
    const source = normalSource(2);
    const taps = new Float32Array(channels * this.#problem.kernelLength);
    for (let i = 0; i < taps.length; i++) taps[i] = source();
    const kernel = await conv.prepareKernel(taps);
    const call = (): unknown => conv.forward(u, kernel, { out, ...both });
    this.#calls.set(conv, call);
    return call;
  }

  /** Destroy the buffers. */
  free(): void {
    this.#gpu?.timing.free();
  }
}
