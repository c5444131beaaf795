/** What one `flashfftconv conv` is to do: its files opened and everything checked that can be without their samples. */
import { extname } from "node:path";
import type { Dtype } from "../dtype.ts";
import { InvalidArgumentError, show } from "../errors.ts";
import type { Mode, Problem } from "../plan/problem.ts";
import { maxLength } from "../plan/problem.ts";
import { sharedChoices, type Values } from "./options.ts";
import { problemOf } from "./request.ts";
import { type Arrangement, arrange } from "./rows.ts";
import { checkSampleRates, rowsOf, SignalFile } from "./signal.ts";
import type { WavEncoding, WavFormat } from "./wav.ts";
import { checkWavSize } from "./wav-output.ts";

/** Values of --bits. */
const encodings = ["16", "24", "32", "float"] as const;

/** Everything that is known before the first sample is read. */
export interface Job {
  readonly call: string;
  readonly problem: Problem;
  readonly arrangement: Arrangement;
  readonly input: SignalFile;
  readonly kernel: SignalFile;
  readonly pregate: SignalFile | undefined;
  readonly postgate: SignalFile | undefined;
  readonly skip: SignalFile | undefined;
  readonly outputPath: string;
  /** What to write: a .wav file of this format, or a .npy file. */
  readonly wav: WavFormat | undefined;
  readonly normalize: boolean;
  /** Piece by piece instead of row by row. */
  readonly streamed: boolean;
}

/**
 * Open every file, into `files`, and check all that can be checked without samples.
 * @throws FileError or InvalidArgumentError
 */
export async function readJob(values: Values, files: SignalFile[]): Promise<Job> {
  const call = values.call;
  const choices = sharedChoices(values);
  const open = async (path: string): Promise<SignalFile> => {
    const file = await SignalFile.open(path, call, choices.dtype);
    files.push(file);
    return file;
  };
  const maybeOpen = async (name: string): Promise<SignalFile | undefined> => {
    const path = values.text(name);
    return path === undefined ? undefined : await open(path);
  };
  const outputPath = values.required("output");
  const encoding = values.choice("bits", encodings);
  const extension = checkExtension(outputPath, values);
  const input = await open(values.required("input"));
  const kernel = await open(values.required("kernel"));
  const pregate = await maybeOpen("pregate");
  const postgate = await maybeOpen("postgate");
  const skip = await maybeOpen("skip");
  checkSampleRates(input, kernel, call);
  const dtype = dtypeOf(input, [pregate, postgate], choices.dtype, call);
  const { mode = "full", period } = choices;
  const streamable = isStreamable(input, [pregate, postgate], extension, mode);
  if (values.has("stream") && !streamable) refuseStream(call);
  const longest = streamable ? longestStream : maxLength;
  const arrangement = arrange(input, kernel, skip !== undefined, longest, call);
  const { length, kernelLength } = arrangement;
  const streamed = streamable && (values.has("stream") || length >= longInput);
  const problem = problemOf({ mode, length, kernelLength, dtype, period }, call, longest);
  const { outputLength } = problem;
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
    arrangement,
    input,
    kernel,
    pregate,
    postgate,
    skip,
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

function checkExtension(path: string, values: Values): ".wav" | ".npy" {
  const extension = extname(path).toLowerCase();
  if (extension !== ".wav" && extension !== ".npy") {
    throw new InvalidArgumentError({
      call: values.call,
      requirement: "--output must end in .wav or .npy",
      value: show(path),
      remedy: "The ending chooses the format.",
    });
  }
  const option = ["bits", "normalize"].find((name) => values.has(name));
  if (extension === ".wav" || option === undefined) return extension;
  throw new InvalidArgumentError({
    call: values.call,
    requirement: `--${option} belongs to .wav output`,
    value: show(path),
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
  const rows = rowsOf(gate.shape);
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
