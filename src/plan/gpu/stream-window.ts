/**
 * Streams on a GPU: overlap-save with one transform, or blocks of some, for each block of the stream. A window is a row of
 * the samples that a block's outputs reach back to, its past, and the block's own.
 */
import type { DeviceSpec } from "../device.ts";
import type { Problem } from "../problem.ts";
import { maxLength } from "../problem.ts";
import type { WorkgroupLimits } from "./candidates.ts";
import { leastPassPoints } from "./candidates.ts";
import type { GpuWorkload } from "./planner.ts";
import { passCandidates } from "./planner.ts";

/** Most taps of a stream on a GPU: a window of twice as many samples is the longest transform. */
export const mostWindowTaps: number = maxLength;

/** Bytes that the buffers of a stream may take by default, beside work memory: windows, pasts, outputs, spectra. */
const bufferBytes = 256 * 2 ** 20;

/** Seconds that a block costs besides its transforms and its samples: commands, and the wait for its outputs. An estimate. */
const blockSeconds = 1e-3;

/** Seconds that a sample takes from an array to the GPU and its output back: 8 bytes at 4 GB/s. An estimate. */
const sampleSeconds = 2e-9;

/** Samples of a block, of all rows together, below which the wait takes longer than all else. */
const leastSamples = 2 ** 18;

/** How much more than the least a sample may cost, so that blocks, and what waits for them, are no longer than they need be. */
const allowance = 1.25;

/** Samples of the past in a window: K − 1, or one more, so that rows of an even block are even. */
function pastOf(taps: number): number {
  return taps - 1 + ((taps - 1) % 2);
}

/** The convolution of one window with `taps` taps, whose outputs are those of the `hop` samples at its end. */
export function windowProblem(taps: number, hop: number): Problem {
  const past = pastOf(taps);
  return {
    ...{ mode: "causal", dtype: "float32", period: 0, kernelLength: taps },
    ...{ length: past + hop, outputLength: hop, past },
  };
}

/** What of a device limits windows. */
interface WindowLimits extends WorkgroupLimits {
  /** Bytes that one binding may span: a window's row lies in one. */
  readonly bindingBytes: number;
}

/**
 * Samples of a block for the most samples a second: the shortest that comes near the cheapest within bounded memory. At least
 * half of a window is new, whatever memory that takes.
 */
export function windowHop(
  taps: number,
  workload: GpuWorkload,
  device: DeviceSpec,
  limits: WindowLimits,
): number {
  const { batch, channels } = workload;
  const rows = batch * channels;
  const past = pastOf(taps);
  const bandwidth = device.memory.at(-1)!.bandwidth;
  const blocks: { readonly hop: number; readonly seconds: number }[] = [];
  const wanted = Math.max(2 * leastPassPoints, 2 * past, leastSamples / rows);
  const least = 2 ** Math.ceil(Math.log2(wanted));
  for (let window = least; ; window *= 2) {
    const hop = window - past;
    const bytes = 4 * (rows * (window + past + 2 * hop) + channels * window);
    const fits = bytes <= bufferBytes && 4 * window <= limits.bindingBytes;
    if (window > least && (!fits || window > 2 * maxLength)) break;
    const [best] = passCandidates({ problem: windowProblem(taps, hop), device, limits, workload });
    // The past is copied aside and to the front: read and written twice.
    const copied = (4 * 4 * rows * past) / bandwidth;
    const seconds = (best!.seconds + copied + blockSeconds) / (rows * hop) + sampleSeconds;
    // Nothing costs less than the way there and back.
    if (seconds <= allowance * sampleSeconds) return hop;
    blocks.push({ hop, seconds });
  }
  const cheapest = Math.min(...blocks.map((b) => b.seconds));
  return blocks.find((b) => b.seconds <= allowance * cheapest)!.hop;
}
