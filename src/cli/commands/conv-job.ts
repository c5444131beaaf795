/** What one `flashfftconv conv` is to do: its files opened and everything checked that can be without their samples. */
import { extname } from "node:path";
import type { Dtype } from "../../dtype.ts";
import { InvalidArgumentError } from "../../errors.ts";
import { InputFile } from "../../files/input.ts";
import type { Mode, Problem } from "../../plan/problem.ts";
import { maxLength } from "../../plan/problem.ts";
import { show } from "../../show.ts";
import { problemOf } from "../open-conv.ts";
import { type CommandContext, sharedChoices, type Values } from "../options.ts";
import { openPipe, pipeName } from "../pipes.ts";
import { type Resampling, rateChange, resampledModes } from "../resample.ts";
import { type Arrangement, arrange } from "../row-slices.ts";
import { fileRowsOf, SignalFile } from "../signal.ts";
import type { WavEncoding, WavFormat } from "../wav.ts";
import { checkWavSize } from "../wav-output.ts";

/** Values of --bits. */
const encodings = ["16", "24", "32", "float"] as const;

/** Everything that is known before the first sample is read. */
export interface ConvJob {
  readonly call: string;
  /** What is computed. A resampled kernel, which rings ahead of its first sample, is computed in mode full. */
  readonly problem: Problem;
  /** What the user asked for. */
  readonly mode: Mode;
  /** Those of the problem's outputs that are written. */
  readonly outputs: OutputRange;
  readonly arrangement: Arrangement;
  readonly input: SignalFile;
  readonly kernel: SignalFile;
  readonly pregate: SignalFile | undefined;
  readonly postgate: SignalFile | undefined;
  readonly skip: SignalFile | undefined;
  readonly resampling: Resampling | undefined;
  readonly blend: Blend;
  readonly outputPath: string;
  /** What to write: a .wav file of this format, or a .npy file. */
  readonly wav: WavFormat | undefined;
  readonly normalize: boolean;
  /** Piece by piece instead of row by row. */
  readonly streamed: boolean;
}

/** What --mix and --gain ask for: y = gain · (wet · (u ∗ k) + (1 − wet) · u). That is u ∗ k′ with another kernel. */
interface Blend {
  readonly wet: number;
  /** A factor. */
  readonly gain: number;
  /** The tap of lag 0. */
  readonly tap: number;
}

/** A run of a row's outputs. */
export interface OutputRange {
  readonly first: number;
  readonly count: number;
}

/**
 * Open every file, into `files`, and check all that can be checked without samples.
 * @throws FileError or InvalidArgumentError
 */
export async function readJob(
  values: Values,
  files: SignalFile[],
  context: CommandContext,
): Promise<ConvJob> {
  const call = values.call;
  const choices = sharedChoices(values);
  checkPipes(values);
  const open = async (path: string): Promise<SignalFile> => {
    const file = path === pipeName ? openPipe(call, context) : InputFile.open(path, call);
    const signal = await SignalFile.of(await file, choices.dtype);
    files.push(signal);
    return signal;
  };
  const maybeOpen = async (name: string): Promise<SignalFile | undefined> => {
    const path = values.text(name);
    return path === undefined ? undefined : await open(path);
  };
  const outputPath = values.required("output");
  const encoding = values.choice("bits", encodings);
  const named = outputPath === pipeName ? undefined : checkExtension(outputPath, call);
  const levels = readLevels(values);
  const input = await open(values.required("input"));
  const extension = named ?? (input.wav ? ".wav" : ".npy");
  checkSoundOptions(extension, values);
  const kernel = await open(values.required("kernel"));
  const pregate = await maybeOpen("pregate");
  const postgate = await maybeOpen("postgate");
  const skip = await maybeOpen("skip");
  const { mode = "full", period } = choices;
  const resampling = rateChange(input, kernel, values.has("resample"), call);
  const dtype = dtypeOf(input, [pregate, postgate], choices.dtype, call);
  const streamable = isStreamable(input, [pregate, postgate], extension, mode);
  if (values.has("stream") && !streamable) refuseStream(call);
  if (resampling && (!streamable || skip || !resampledModes.includes(mode))) refuseResample(call);
  const longest = streamable ? longestStream : maxLength;
  const stored = arrange(input, kernel, skip !== undefined, longest, call);
  const arrangement = resampling ? { ...stored, kernelLength: resampling.taps } : stored;
  const { length, kernelLength } = arrangement;
  const streamed =
    streamable && (values.has("stream") || resampling !== undefined || length >= longInput);
  const computed = resampling ? "full" : mode;
  const shape = { mode: computed, length, kernelLength, dtype, period };
  const problem = problemOf(shape, call, longest);
  const outputs = outputsOf(problem, mode, resampling);
  const outputLength = outputs.count;
  checkGate("pregate", pregate, arrangement, arrangement.length, call);
  checkGate("postgate", postgate, arrangement, outputLength, call);
  checkSkip(skip, arrangement, problem, call);
  const wav =
    extension === ".wav" ? wavFormat(input, arrangement, outputLength, encoding, call) : undefined;
  if (wav) checkWavSize(wav, outputPath, call);
  const normalize = values.has("normalize");
  return {
    call,
    problem,
    mode,
    outputs,
    arrangement,
    input,
    kernel,
    pregate,
    postgate,
    skip,
    resampling,
    blend: { ...levels, tap: lagZero(problem, resampling) },
    outputPath,
    wav,
    normalize,
    streamed,
  };
}

/** Frames from which on sound is convolved in pieces: whole, u and y of two channels would take 16 MB. */
const longInput = 2 ** 20;
/** More frames than a .wav file has room for. */
const longestStream = 2 ** 32;

/** Whether an input can be convolved piece by piece: sound to sound, where no output waits for the end of the input. */
function isStreamable(
  input: SignalFile,
  gates: readonly (SignalFile | undefined)[],
  extension: string,
  mode: Mode,
): boolean {
  const sound = input.wav !== undefined && extension === ".wav";
  return sound && gates.every((gate) => gate === undefined) && mode !== "circular";
}

function refuseStream(call: string): never {
  throw new InvalidArgumentError({
    call,
    requirement:
      "--stream takes a .wav file to a .wav file, without gates, in a mode that is not circular",
    value: "another input, output, gate or mode",
    remedy: "Leave --stream out.",
  });
}

function refuseResample(call: string): never {
  throw new InvalidArgumentError({
    call,
    requirement: `--resample takes a .wav file to a .wav file, without gates and --skip, in mode ${resampledModes.join(", ")}`,
    value: "another output, mode, or a gate or --skip",
    remedy: "Leave that out, or resample the kernel with another program.",
  });
}

/** The outputs to be written: of a resampled kernel, from where its first sample acts. */
function outputsOf(
  { outputLength, length }: Problem,
  mode: Mode,
  resampling: Resampling | undefined,
): OutputRange {
  if (!resampling) return { first: 0, count: outputLength };
  const { ring, taps } = resampling;
  if (mode === "full") return { first: ring, count: outputLength - ring };
  const response = taps - 2 * ring;
  return { first: mode === "same" ? ring + ((response - 1) >> 1) : ring, count: length };
}

/** The tap that acts at lag 0, of those that are convolved with. */
function lagZero({ mode, kernelLength }: Problem, resampling: Resampling | undefined): number {
  if (resampling) return resampling.ring;
  return mode === "same" ? (kernelLength - 1) >> 1 : 0;
}

/** Most that --gain raises or lowers. */
const mostDecibels = 200;

/** Factors of --mix and --gain. */
function readLevels(values: Values): Pick<Blend, "wet" | "gain"> {
  const wet = values.number("mix", 0, 1) ?? 1;
  const decibels = values.number("gain", -mostDecibels, mostDecibels) ?? 0;
  const { call } = values;
  const gate = ["pregate", "postgate"].find((name) => values.has(name));
  if (values.has("mix") && gate) {
    throw new InvalidArgumentError({
      call,
      requirement: "--mix mixes the input with its convolution, without gates",
      value: `--mix with --${gate}`,
      remedy: "Leave one of the two out.",
    });
  }
  if (values.has("gain") && values.has("normalize")) {
    throw new InvalidArgumentError({
      call,
      requirement: "--gain and --normalize both say how loud the output is",
      value: "both",
      remedy: "Leave one of the two out.",
    });
  }
  return { wet, gain: 10 ** (decibels / 20) };
}

/** One file alone can come through the standard input. */
function checkPipes(values: Values): void {
  const names = ["input", "kernel", "pregate", "postgate", "skip"];
  const piped = names.filter((name) => values.text(name) === pipeName);
  if (piped.length < 2) return;
  throw new InvalidArgumentError({
    call: values.call,
    requirement: "- may stand for one file that is read",
    value: piped.map((name) => `--${name} -`).join(" and "),
    remedy: "Give the path of a file for the others.",
  });
}

function checkExtension(path: string, call: string): ".wav" | ".npy" {
  const extension = extname(path).toLowerCase();
  if (extension === ".wav" || extension === ".npy") return extension;
  throw new InvalidArgumentError({
    call,
    requirement: "--output must end in .wav or .npy, or be - for the standard output",
    value: show(path),
    remedy: "The ending chooses the format; through a pipe it is that of the input.",
  });
}

function checkSoundOptions(extension: ".wav" | ".npy", values: Values): void {
  const option = ["bits", "normalize"].find((name) => values.has(name));
  if (extension === ".wav" || option === undefined) return;
  throw new InvalidArgumentError({
    call: values.call,
    requirement: `--${option} belongs to .wav output`,
    value: show(values.required("output")),
    remedy: `Leave --${option} out, or write a .wav file.`,
  });
}

/** The storage type of u, the gates and y. */
function dtypeOf(
  input: SignalFile,
  gates: readonly (SignalFile | undefined)[],
  asked: Dtype | undefined,
  call: string,
): Dtype {
  // A float64 input without --dtype was refused when it was opened.
  const dtype = asked ?? (input.meaning === "float64" ? "float32" : input.meaning);
  const sound = [input, ...gates].find((file) => file?.wav);
  if (dtype === "float32" || !sound) return dtype;
  throw new InvalidArgumentError({
    call,
    requirement: "the samples of a .wav file are float32",
    value: `${dtype} with ${show(sound.path)}`,
    remedy: "Leave --dtype out, or save all as .npy of one type.",
  });
}

function checkGate(
  name: string,
  gate: SignalFile | undefined,
  { shownBatch, shownChannels }: Arrangement,
  length: number,
  call: string,
): void {
  if (!gate) return;
  const rows = fileRowsOf(gate.shape);
  if (rows.batch === shownBatch && rows.channels === shownChannels && rows.length === length)
    return;
  throw new InvalidArgumentError({
    call,
    requirement: `--${name} must hold ${show([shownBatch, shownChannels, length])} samples (batch, channels, length)`,
    value: `shape ${show(gate.shape)} in ${show(gate.path)}`,
    remedy: "Give the gate one sample for each that it multiplies.",
  });
}

function checkSkip(
  skip: SignalFile | undefined,
  { channels }: Arrangement,
  problem: Problem,
  call: string,
): void {
  if (!skip) return;
  if (problem.outputLength !== problem.length) {
    throw new InvalidArgumentError({
      call,
      requirement: "--skip needs an output as long as the input",
      value: `${show(problem.outputLength)} samples of mode ${problem.mode} for ${show(problem.length)}`,
      remedy: "Add --mode causal or --mode same.",
    });
  }
  if (skip.shape.length === 1 && skip.count === channels) return;
  throw new InvalidArgumentError({
    call,
    requirement: `--skip must hold one number a channel: shape (${channels})`,
    value: `shape ${show(skip.shape)} in ${show(skip.path)}`,
    remedy: "Save D as a .npy file of that shape.",
  });
}

function wavFormat(
  input: SignalFile,
  { shownChannels }: Arrangement,
  frames: number,
  encoding: (typeof encodings)[number] | undefined,
  call: string,
): WavFormat {
  if (!input.wav) {
    throw new InvalidArgumentError({
      call,
      requirement: "a .wav output needs a .wav input, whose sample rate it takes",
      value: show(input.path),
      remedy: "Write a .npy file.",
    });
  }
  const { sampleRate, channelMask, channels } = input.wav;
  return {
    sampleRate,
    frames,
    channels: shownChannels,
    encoding:
      encoding === undefined || encoding === "float" ? "float" : (Number(encoding) as WavEncoding),
    channelMask: channels === shownChannels ? channelMask : 0,
  };
}
