/** The kernel's rows as they are convolved with: read, at the input's rate, louder or softer, and with the input mixed in. */
import type { ConvJob } from "./commands/conv-job.ts";
import { resample } from "./resample.ts";
import type { RowSlice } from "./row-slices.ts";

/** (channels of the slice, kernelLength). */
export async function readKernel(job: ConvJob, slice: RowSlice): Promise<Float32Array> {
  const k = await readRows(job, slice);
  const { wet, gain, tap } = job.blend;
  if (wet === 1 && gain === 1) return k;
  for (let i = 0; i < k.length; i++) k[i]! *= wet * gain;
  for (let at = tap; at < k.length; at += job.arrangement.kernelLength) k[at]! += (1 - wet) * gain;
  return k;
}

async function readRows(
  { kernel, arrangement, resampling, call }: ConvJob,
  slice: RowSlice,
): Promise<Float32Array> {
  const { kernelLength: taps, repeatKernel } = arrangement;
  const k = new Float32Array(slice.channelCount * taps);
  if (!repeatKernel && !kernel.wav) {
    await kernel.read(k, "float32", slice.channelFirst * taps);
    return k;
  }
  const stored = new Float32Array(kernel.count);
  await kernel.read(stored, "float32");
  const frames = kernel.shape.at(-1)!;
  const row = async (channel: number): Promise<Float32Array> => {
    const response = stored.subarray(channel * frames, (channel + 1) * frames);
    return resampling ? await resample(response, resampling, call) : response;
  };
  const shared = repeatKernel ? await row(0) : undefined;
  for (let c = 0; c < slice.channelCount; c++)
    k.set(shared ?? (await row(slice.channelFirst + c)), c * taps);
  return k;
}

/** D, of each channel, as it is added. */
export async function readSkip({ skip, blend }: ConvJob): Promise<Float32Array | undefined> {
  if (!skip) return undefined;
  const d = new Float32Array(skip.count);
  await skip.read(d, "float32");
  return d.map((x) => x * blend.gain);
}
