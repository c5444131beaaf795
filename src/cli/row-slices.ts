/** How the rows of an input meet the rows of a kernel, and in what slices they are worked through. */
import { InvalidArgumentError } from "../errors.ts";
import { show } from "../show.ts";
import { fileRowsOf, type SignalFile } from "./signal.ts";

/** Input and kernel rows as one convolution of (batch, channels, length) with (channels, kernelLength). */
export interface Arrangement {
  readonly batch: number;
  readonly channels: number;
  readonly length: number;
  readonly kernelLength: number;
  /** The input has one row for all kernel rows. */
  readonly repeatInput: boolean;
  /** The kernel has one row for all channels, which must be laid out for each. */
  readonly repeatKernel: boolean;
  /** Batch and channels as the user sees them: of gates and output. */
  readonly shownBatch: number;
  readonly shownChannels: number;
  /** The output's shape, of the input's rank, for rows of this length. */
  outputShape(outputLength: number): readonly number[];
}

/**
 * Match rows of at most `longest` samples: as many kernel rows as channels, or one of either for all of the other.
 * @throws InvalidArgumentError where they do not match.
 */
export function arrange(
  input: SignalFile,
  kernel: SignalFile,
  hasSkip: boolean,
  longest: number,
  call: string,
): Arrangement {
  const { batch, channels, length } = fileRowsOf(input.shape);
  const {
    batch: kernelBatch,
    channels: kernelRows,
    length: kernelLength,
  } = fileRowsOf(kernel.shape);
  if (length > longest) {
    const { wav } = input;
    const time = wav
      ? ` (${Math.floor(longest / wav.sampleRate)} s at ${show(wav.sampleRate)} Hz)`
      : "";
    throw new InvalidArgumentError({
      call,
      requirement: `a row of --input holds at most ${show(longest)} samples${time}`,
      value: `${show(length)} in ${show(input.path)}`,
      remedy: wav
        ? "Write a .wav file without gates on the CPU, which is convolved in pieces, or cut the input."
        : "Cut it into shorter pieces.",
    });
  }
  if (kernelBatch !== 1 || kernel.shape.length > 2) {
    throw new InvalidArgumentError({
      call,
      requirement: "--kernel must be of shape (K) or (H, K)",
      value: `shape ${show(kernel.shape)} in ${show(kernel.path)}`,
      remedy: "A kernel has no batch: give one row for each channel.",
    });
  }
  if (kernelRows !== channels && kernelRows !== 1 && channels !== 1) {
    throw new InvalidArgumentError({
      call,
      requirement: "--kernel must have one row, or as many as --input has channels",
      value: `${show(kernelRows)} rows for ${show(channels)} channels`,
      remedy: "Give one kernel row for all channels or one for each.",
    });
  }
  const shownChannels = Math.max(channels, kernelRows);
  const repeatInput = channels === 1 && kernelRows > 1;
  const sharedKernel = kernelRows === 1 && channels > 1;
  // Channels that share a kernel are a batch, and its spectrum is kept once; but D is one number a channel.
  const asBatch = sharedKernel && !hasSkip;
  const lead = input.shape.length === 1 && !repeatInput ? [] : [shownChannels];
  const shape = input.shape.length === 3 ? [batch, ...lead] : lead;
  return {
    batch: asBatch ? batch * channels : batch,
    channels: asBatch ? 1 : shownChannels,
    length,
    kernelLength,
    repeatInput,
    repeatKernel: sharedKernel && hasSkip,
    shownBatch: batch,
    shownChannels,
    outputShape: (outputLength) => [...shape, outputLength],
  };
}

/** Rows worked through together: whole batch entries, or some channels of one. */
export interface RowSlice {
  readonly batchFirst: number;
  readonly batchCount: number;
  readonly channelFirst: number;
  readonly channelCount: number;
  /** Position of the first row among all rows. */
  readonly firstRow: number;
}

/** Samples of a slice: 64 MB of input and output in float32, enough to keep all threads busy. */
const sliceSamples = 2 ** 24;

/** Every row in file order; as one slice if `whole`. */
export function slicesOf(
  arrangement: Arrangement,
  outputLength: number,
  whole: boolean,
): RowSlice[] {
  const { batch, channels, length, kernelLength } = arrangement;
  if (whole)
    return [
      { batchFirst: 0, batchCount: batch, channelFirst: 0, channelCount: channels, firstRow: 0 },
    ];
  const perRow = length + outputLength + kernelLength;
  const rows = Math.max(1, Math.floor(sliceSamples / perRow));
  const slices: RowSlice[] = [];
  const batchStep = Math.max(1, Math.floor(rows / channels));
  const channelStep = Math.min(rows, channels);
  for (let batchFirst = 0; batchFirst < batch; batchFirst += batchStep) {
    for (let channelFirst = 0; channelFirst < channels; channelFirst += channelStep) {
      slices.push({
        batchFirst,
        batchCount: Math.min(batchStep, batch - batchFirst),
        channelFirst,
        channelCount: Math.min(channelStep, channels - channelFirst),
        firstRow: batchFirst * channels + channelFirst,
      });
    }
  }
  return slices;
}
