/**
 * `flashfftconv conv`: y = postgate ⊙ ((pregate ⊙ u) ∗ k) + skip ⊙ u from file to file. Rows are independent, so a
 * .npy file of any size is worked through in slices of rows; a .wav file is one slice.
 */

import type { PreparedKernel } from "../../calls/prepared.ts";
import type { FlashFFTConv } from "../../conv/conv.ts";
import type { Dtype } from "../../dtype.ts";
import { printable, show } from "../../show.ts";
import { readKernel, readSkip } from "../kernel.ts";
import { npyHeader } from "../npy.ts";
import { backendOf, openConv } from "../open-conv.ts";
import {
  type Command,
  type CommandContext,
  exitCodes,
  shared,
  sharedChoices,
  type Values,
} from "../options.ts";
import { type ByteSink, openSink, pipeName } from "../pipes.ts";
import { duration, jsonLine, threeDigits } from "../report.ts";
import { type RowSlice, slicesOf } from "../row-slices.ts";
import { allocate, bytesOf, type HostArray, type SignalFile } from "../signal.ts";
import type { WavFormat } from "../wav.ts";
import { measureLevel, outputGain, peakOf, writeWav } from "../wav-output.ts";
import { type ConvJob, readJob } from "./conv-job.ts";
import { type Streamed, streamToWav } from "./conv-streaming.ts";

const notes = `
A .npy file holds float32, float16 or bfloat16 ('<V2', as ml_dtypes saves it, or '<u2' with --dtype bfloat16).
u is (L), (H, L) or (B, H, L), k is (K) or (H, K), and the output has the rank of u. One kernel row serves
all input rows, and one input row goes through all kernel rows.

A .wav file is (channels, samples), of 16, 24 or 32-bit PCM or float32. A mono kernel is applied to each
channel of the input, a stereo kernel makes a mono input stereo, and stereo with stereo goes channel by channel.
Input and kernel must have the same sample rate; --resample brings a kernel to the input's (npm install
@alexanderolsen/libsamplerate-js), with the same gain at every frequency, whatever rings ahead of it included.

The output has L+K-1 samples in mode full, L in the others. Sound of any length is
convolved in pieces, in memory that depends on the kernel alone, on the CPU or, with --backend webgpu, on the
GPU, there with kernels of up to 16,777,216 taps. Integer .wav output that would clip is refused:
--normalize brings its peak to full scale, --gain turns it down, --bits float keeps it as it is. The file appears
complete or not at all, in place of one of that name; it may be the input's.

One file that is read may be -, the standard input, and OUTPUT may be -, the standard output: in the format of
the input, with all messages on the standard error. What has gone through a pipe before an error cannot be taken
back; the exit code tells.

examples:
  flashfftconv conv speech.wav hall.wav wet.wav --mix 0.3 --normalize
  flashfftconv conv u.npy k.npy y.npy --mode causal
  sox in.mp3 -t wav - | flashfftconv conv - hall.wav - | play -`;

/** A file that stands alone or after its option. */
function file(name: string, short: string) {
  return { name, short, value: "FILE", required: true, positional: true } as const;
}

export const convCommand: Command = {
  name: "conv",
  summary: "convolve a signal with a kernel, file to file",
  options: [
    { ...file("input", "i"), help: "the signal u, .wav or .npy" },
    { ...file("kernel", "k"), help: "the kernel k, .wav or .npy" },
    { ...file("output", "o"), help: "where to write y, .wav or .npy; .wav needs a .wav input" },
    { ...shared.mode, help: `${shared.mode.help} (default: full)` },
    shared.period,
    { name: "pregate", value: "FILE", help: "gate multiplied into u, of its shape" },
    { name: "postgate", value: "FILE", help: "gate multiplied into the output, of its shape" },
    { name: "skip", value: "FILE", help: "D, .npy (H): adds D ⊙ u to the output" },
    {
      name: "dtype",
      value: "TYPE",
      help: "storage of u, gates and y: float32, float16 or bfloat16 (default: as the input is stored)",
    },
    {
      name: "bits",
      value: "BITS",
      help: "encoding of a .wav output: 16, 24, 32 or float (default: float)",
    },
    {
      name: "mix",
      value: "WET",
      help: "0 to 1: WET of the convolution, the rest of the input itself (default: 1)",
    },
    { name: "gain", value: "DB", help: "decibels by which the output is louder, such as -6" },
    { name: "normalize", help: "scale a .wav output so that its peak is full scale" },
    { name: "resample", help: "bring a .wav kernel to the sample rate of the input" },
    {
      name: "stream",
      help: "convolve .wav to .wav in pieces, in little memory; longer than 2^20 frames it is so in any case",
    },
    shared.backend,
    shared.threads,
    shared.instructions,
  ],
  notes,
  words: {
    kernelLength: "the length of --kernel",
    "2·length": "twice that of --input",
    "length must": "the length of --input must",
    "Dispose what is no longer needed": "Give the process more memory",
  },
  toPipe: (values) => values.text("output") === pipeName,
  run: async (values, context) => {
    const files: SignalFile[] = [];
    try {
      return await convolveFiles(values, context, files);
    } finally {
      for (const file of files) await file.close();
    }
  },
};

/** What was measured of a .wav output, and the factor it was written with. */
interface Loudness {
  readonly peak: number;
  readonly gain: number;
  /** Samples that are NaN or infinite. */
  readonly notFinite: number;
}

/** Milliseconds spent. */
interface Times {
  read: number;
  convolve: number;
  write: number;
}

async function convolveFiles(
  values: Values,
  context: CommandContext,
  files: SignalFile[],
): Promise<number> {
  const job = await readJob(values, files, context);
  const { call, problem, arrangement } = job;
  const sink = await openSink(job.outputPath, call, context);
  const { batch, channels } = arrangement;
  const times: Times = { read: 0, convolve: 0, write: 0 };
  if (job.streamed && job.wav) {
    const streamed = await streamFile(job, job.wav, sink, values, context, times);
    context.progress.clear();
    report(job, streamed, times, streamed, context);
    return exitCodes.done;
  }
  using conv = await openConv(problem, batch, channels, sharedChoices(values), call);
  let level: Loudness | undefined;
  await sink(async (write) => {
    if (job.wav) {
      level = await convolveToWav(job, conv, job.wav, context, times, write);
    } else {
      await convolveToNpy(job, conv, context, times, write);
    }
    context.progress.update("synchronizing with the disk");
  });
  context.progress.clear();
  const { plan, predictedMs } = conv.explain().chosen;
  const { threads, instructions } = conv;
  const engine = { backend: backendOf(conv), threads, instructions, plan, predictedMs };
  report(job, engine, times, level, context);
  return exitCodes.done;
}

/** Sound to sound, piece by piece. */
async function streamFile(
  job: ConvJob,
  format: WavFormat,
  sink: ByteSink,
  values: Values,
  context: CommandContext,
  times: Times,
): Promise<Streamed> {
  const { backend, threads, instructions } = sharedChoices(values);
  const choices = { backend, threads, instructions };
  let streamed: Streamed | undefined;
  await sink(async (write) => {
    const k = await readKernel(job, everyRow(job));
    streamed = await streamToWav(job, format, k, choices, context, times, write);
    context.progress.update("synchronizing with the disk");
  });
  return streamed!;
}

/** All rows as one slice. */
function everyRow({ arrangement, problem }: ConvJob): RowSlice {
  return slicesOf(arrangement, problem.outputLength, true)[0]!;
}

/** Convolve slice after slice; `take` gets the rows of y of each, in the order of the output file. */
async function convolveSlices(
  job: ConvJob,
  conv: FlashFFTConv<Dtype>,
  slices: readonly RowSlice[],
  context: CommandContext,
  times: Times,
  take: (y: HostArray) => Promise<void>,
): Promise<void> {
  const { problem, arrangement } = job;
  const { dtype, length, outputLength } = problem;
  const totalRows = arrangement.batch * arrangement.channels;
  const skip = await readSkip(job);
  let prepared: { readonly slice: RowSlice; readonly kernel: PreparedKernel } | undefined;
  let rowsDone = 0;
  const share = (rows: number): number | undefined =>
    slices.length > 1 ? rows / totalRows : undefined;
  for (const slice of slices) {
    context.signal.throwIfAborted();
    const rows = slice.batchCount * slice.channelCount;
    const started = performance.now();
    const onRead = (fraction: number): void =>
      context.progress.update("reading", share(rowsDone + fraction * rows) ?? fraction);
    const u = await readInput(job, slice, onRead);
    const pregate = job.pregate && (await readRows(job.pregate, dtype, slice, length));
    const postgate = job.postgate && (await readRows(job.postgate, dtype, slice, outputLength));
    const k = sameChannels(prepared?.slice, slice) ? undefined : await readKernel(job, slice);
    times.read += performance.now() - started;
    context.progress.update("convolving", share(rowsDone));
    const ready = performance.now();
    if (k) {
      prepared?.kernel.dispose();
      prepared = { slice, kernel: await conv.prepareKernel(k) };
    }
    const y = allocate(dtype, rows * outputLength);
    await conv.forward(u, prepared!.kernel, {
      out: y,
      ...(pregate && { pregate }),
      ...(postgate && { postgate }),
      ...(skip && {
        skip: skip.subarray(slice.channelFirst, slice.channelFirst + slice.channelCount),
      }),
    });
    times.convolve += performance.now() - ready;
    rowsDone += rows;
    const finished = performance.now();
    await take(y);
    times.write += performance.now() - finished;
  }
  prepared?.kernel.dispose();
}

function sameChannels(a: RowSlice | undefined, b: RowSlice): boolean {
  return a?.channelFirst === b.channelFirst && a.channelCount === b.channelCount;
}

/** u of a slice; an input row that every kernel row shares is laid out once for each. */
async function readInput(
  job: ConvJob,
  slice: RowSlice,
  onProgress: (fraction: number) => void,
): Promise<HostArray> {
  const { arrangement, input, problem } = job;
  const { dtype, length } = problem;
  if (!arrangement.repeatInput) return await readRows(input, dtype, slice, length, onProgress);
  const source = allocate(dtype, slice.batchCount * length);
  await input.read(source, dtype, slice.batchFirst * length, onProgress);
  const u = allocate(dtype, slice.batchCount * slice.channelCount * length);
  for (let row = 0; row < slice.batchCount * slice.channelCount; row++) {
    const from = Math.floor(row / slice.channelCount) * length;
    u.set(source.subarray(from, from + length), row * length);
  }
  return u;
}

async function readRows(
  file: SignalFile,
  dtype: Dtype,
  slice: RowSlice,
  length: number,
  onProgress?: (fraction: number) => void,
): Promise<HostArray> {
  const rows = allocate(dtype, slice.batchCount * slice.channelCount * length);
  await file.read(rows, dtype, slice.firstRow * length, onProgress);
  return rows;
}

async function convolveToNpy(
  job: ConvJob,
  conv: FlashFFTConv<Dtype>,
  context: CommandContext,
  times: Times,
  write: (bytes: Uint8Array) => Promise<void>,
): Promise<void> {
  const { arrangement, problem, input } = job;
  const stored = input.stored === "bits16" ? "bits16" : problem.dtype;
  await write(npyHeader(stored, arrangement.outputShape(problem.outputLength)));
  const whole = [input, job.pregate, job.postgate].some((file) => file?.wav);
  const slices = slicesOf(arrangement, problem.outputLength, whole);
  await convolveSlices(job, conv, slices, context, times, (y) => write(bytesOf(y)));
}

async function convolveToWav(
  job: ConvJob,
  conv: FlashFFTConv<Dtype>,
  format: WavFormat,
  context: CommandContext,
  times: Times,
  write: (bytes: Uint8Array) => Promise<void>,
): Promise<Loudness> {
  let level: Loudness = { peak: 0, gain: 1, notFinite: 0 };
  const slices = slicesOf(job.arrangement, job.problem.outputLength, true);
  await convolveSlices(job, conv, slices, context, times, async (y) => {
    const samples = y as Float32Array;
    const measured = measureLevel(samples);
    const gain = outputGain(measured, format.encoding, job.normalize, job.call);
    level = { peak: peakOf(measured), gain, notFinite: measured.notFinite };
    await writeWav(write, format, samples, gain, (fraction) =>
      context.progress.update("writing", fraction),
    );
  });
  return level;
}

/** What computed it. */
interface ConvEngine {
  readonly backend: "cpu" | "webgpu";
  readonly threads: number;
  readonly instructions: string;
  readonly plan: string;
  readonly predictedMs?: number;
}

function report(
  job: ConvJob,
  engine: ConvEngine,
  times: Times,
  level: Loudness | undefined,
  context: CommandContext,
): void {
  const { problem, arrangement, input, kernel, wav, mode } = job;
  const shape = arrangement.outputShape(job.outputs.count);
  if (context.json) {
    const { length, kernelLength, period, dtype } = problem;
    const record = {
      ...{ command: "conv", input: input.path, kernel: kernel.path, output: job.outputPath },
      ...{ mode, length, kernelLength, ...(mode === "circular" && { period }), dtype, shape },
      ...(job.resampling && { resampledFrom: job.resampling.from }),
      ...(job.blend.wet !== 1 && { mix: job.blend.wet }),
      ...(job.blend.gain !== 1 && { gain_db: 20 * Math.log10(job.blend.gain) }),
      ...(wav && { sampleRate: wav.sampleRate, bits: wav.encoding, ...level }),
      ...{ backend: engine.backend, threads: engine.threads },
      ...{ instructions: engine.instructions, plan: engine.plan },
      ...(engine.predictedMs !== undefined && { predicted_ms: engine.predictedMs }),
      ...(job.streamed && { streamed: true }),
      ...{ read_ms: times.read, convolve_ms: times.convolve, write_ms: times.write },
    };
    context.stdout.write(jsonLine(record));
    return;
  }
  const encoding = wav
    ? `, ${wav.encoding === "float" ? "float32" : `${wav.encoding}-bit`}, ${show(wav.sampleRate)} Hz`
    : `, ${problem.dtype}`;
  const { backend, threads, instructions } = engine;
  const ofCpu = `${threads} ${threads === 1 ? "thread" : "threads"}, ${instructions}`;
  const used = backend === "cpu" ? ofCpu : "on WebGPU";
  const resampled = job.resampling ? `, resampled to ${show(job.resampling.to)} Hz` : "";
  const to = job.outputPath === pipeName ? "standard output" : printable(job.outputPath);
  const lines = [
    `${input.describe()} ∗ ${kernel.describe()}${resampled}`,
    `→ ${to} (${shape.map((size) => show(size)).join(" × ")}${encoding}), mode ${mode}`,
    `convolved in ${duration(times.convolve)} (${used}); read in ${duration(times.read)}, written in ${duration(times.write)}`,
  ];
  if (level && level.gain !== 1)
    lines.push(`peak ${threeDigits(level.peak)}, scaled by ${threeDigits(level.gain)}`);
  else if (level) lines.push(peakLine(level.peak, job.blend.gain));
  if (level && level.notFinite > 0)
    lines.push(`${show(level.notFinite)} samples are NaN or infinite`);
  context.stdout.write(`${lines.join("\n")}\n`);
}

/** How loud the output is, and what to do where players would clip it. */
function peakLine(peak: number, gain: number): string {
  const said = `peak ${threeDigits(peak)} of full scale 1`;
  if (peak <= 1) return said;
  // Rounded down to a tenth of a decibel, so that it is enough.
  const needed = Math.floor(200 * Math.log10(gain / peak)) / 10;
  return `${said}: players will clip it; add --normalize, or --gain ${needed.toFixed(1)}`;
}
