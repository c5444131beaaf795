/** `flashfftconv conv` of sound in pieces: a .wav file of any length through a kernel, in memory that both leave alone. */

import type { StreamMode } from "../../stream/options.ts";
import { FlashFFTConvStream } from "../../stream/stream.ts";
import { readSkip } from "../kernel.ts";
import type { ComputeChoice } from "../open-conv.ts";
import { backendOf } from "../open-conv.ts";
import type { CommandContext } from "../options.ts";
import { defined } from "../options.ts";
import type { WavFormat } from "../wav.ts";
import { sampleBytes } from "../wav.ts";
import {
  encodeFrames,
  louder,
  measureLevel,
  outputGain,
  padding,
  peakOf,
  silence,
  wavHeader,
} from "../wav-output.ts";
import type { ConvJob, OutputRange } from "./conv-job.ts";

/** Frames read at a time: 256 KB a channel. */
const pieceFrames = 2 ** 16;

/** Milliseconds spent. */
interface StreamTimes {
  read: number;
  convolve: number;
  write: number;
}

/** What the report says of a stream. */
export interface Streamed {
  readonly peak: number;
  readonly gain: number;
  readonly notFinite: number;
  readonly backend: "cpu" | "webgpu";
  readonly plan: string;
  readonly threads: number;
  readonly instructions: string;
}

/** Convolve the input piece by piece, `kernel` (H, K) with one row a channel of the arrangement. */
export async function streamToWav(
  job: ConvJob,
  format: WavFormat,
  kernel: Float32Array,
  choices: ComputeChoice,
  context: CommandContext,
  times: StreamTimes,
  write: (bytes: Uint8Array) => Promise<void>,
): Promise<Streamed> {
  const { problem, arrangement, call } = job;
  const { batch, channels } = arrangement;
  const skip = await readSkip(job);
  const options = {
    ...{ mode: problem.mode as StreamMode, kernelLength: problem.kernelLength, batch, channels },
    ...defined({ skip, ...choices }),
  };
  using stream = await FlashFFTConvStream.createFor(kernel, options, call);
  const rows = batch * channels;
  let level = silence;
  let gain = 1;
  if (job.normalize) {
    // The loudest output decides about the first: a first time through without writing.
    await pieces(job, stream, context, times, "measuring", async (y) => {
      level = louder(level, measureLevel(y));
    });
    gain = outputGain(level, format.encoding, true, call);
  }
  const bytes = new Uint8Array(pieceFrames * rows * sampleBytes(format.encoding));
  await write(wavHeader(format));
  await pieces(job, stream, context, times, "convolving", async (y) => {
    if (!job.normalize) {
      level = louder(level, measureLevel(y));
      outputGain(level, format.encoding, false, call);
    }
    const width = y.length / rows;
    // A piece of outputs may be a block of the stream: encoded in smaller ones.
    for (let first = 0; first < width; first += pieceFrames) {
      const end = Math.min(width, first + pieceFrames);
      const piece = Array.from({ length: rows }, (_, r) =>
        y.subarray(r * width + first, r * width + end),
      );
      await write(encodeFrames(format, piece, gain, bytes));
    }
  });
  await write(padding(format));
  const { plan, threads, instructions } = stream;
  return {
    ...{ peak: peakOf(level), gain, notFinite: level.notFinite },
    ...{ backend: backendOf(stream), plan, threads, instructions },
  };
}

/** Feed the whole input; `take` gets the outputs, (channels, frames), as they come. */
async function pieces(
  job: ConvJob,
  stream: FlashFFTConvStream,
  context: CommandContext,
  times: StreamTimes,
  doing: string,
  take: (y: Float32Array) => Promise<void>,
): Promise<void> {
  const { input, arrangement } = job;
  const { frames, channels } = input.wav!;
  const room = new Float32Array(Math.min(pieceFrames, frames) * channels);
  const timed = async <T>(part: keyof StreamTimes, work: () => Promise<T>): Promise<T> => {
    const started = performance.now();
    const result = await work();
    times[part] += performance.now() - started;
    return result;
  };
  const rows = arrangement.batch * arrangement.channels;
  let position = 0;
  const give = async (made: Float32Array): Promise<void> => {
    const y = wanted(made, rows, position, job.outputs);
    position += made.length / rows;
    if (y.length > 0) await timed("write", () => take(y));
  };
  for (let first = 0; first < frames; first += pieceFrames) {
    context.signal.throwIfAborted();
    context.progress.update(doing, first / frames);
    const count = Math.min(pieceFrames, frames - first);
    const read = await timed("read", () => input.readFrames(first, count, room));
    const u = arrangement.repeatInput ? repeated(read, arrangement.channels) : read;
    await give((await timed("convolve", () => stream.process(u))) as Float32Array);
  }
  await give((await timed("convolve", () => stream.flush())) as Float32Array);
}

/** Of outputs (rows, width) from `position` on, those that are to be written. */
function wanted(
  y: Float32Array,
  rows: number,
  position: number,
  { first, count }: OutputRange,
): Float32Array {
  const width = y.length / rows;
  const from = Math.min(width, Math.max(0, first - position));
  const to = Math.min(width, Math.max(from, first + count - position));
  if (to - from === width) return y;
  const kept = new Float32Array(rows * (to - from));
  for (let r = 0; r < rows; r++)
    kept.set(y.subarray(r * width + from, r * width + to), r * (to - from));
  return kept;
}

function repeated(row: Float32Array, times: number): Float32Array {
  const out = new Float32Array(row.length * times);
  for (let r = 0; r < times; r++) out.set(row, r * row.length);
  return out;
}
