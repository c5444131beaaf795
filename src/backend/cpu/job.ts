/**
 * A job is numbers only: what to run, where its rows lie, and how it is cut into items. Every thread that takes part
 * walks the same list of phases and draws items by one shared counter, so the answer does not depend on who does what.
 */

/** Fields that the executor reads whatever the job does. */
const common = [
  "kind",
  "program",
  /** Units [first, first + units). */
  "first",
  "units",
  /** Threads that take part. */
  "threads",
  /** Work memory belongs to units (no more than threads), not to threads: what it holds outlives the job. */
  "slotted",
  /** All threads work on one row at a time, in phases. */
  "together",
  /** Work memory of thread 0, and from thread to thread. */
  "workspace",
  "threadBytes",
  "batch",
  "channels",
] as const;

/** Fields of the long convolution, whose units are rows (forward) or channels (spectra, backward). */
const dense = [
  /** Rows of the units lie one after another from `u`, `y`, …; else row b·channels + h of whole tensors. */
  "packed",
  /** Batch rows [batchFrom, batchTo) of a backward job; the kernel gradient is stored after the last of the batch. */
  "batchFrom",
  "batchTo",
  "table",
  "k",
  "kernelBytes",
  "spectra",
  "spectrumBytes",
  "u",
  "pregate",
  "inputBytes",
  "y",
  "postgate",
  "outputBytes",
  "skip",
  "dy",
  "du",
  "dpregate",
  "dpostgate",
  "dk",
  "dkBytes",
  /** Transforms lie so far apart in a thread's work memory. */
  "transformBytes",
  "hasPregate",
  "hasPostgate",
  "hasSkip",
  /** Tiles of an end, units of a body, sinks of the kernel gradient. */
  "tiles",
  "bodies",
  "dkSinks",
  /** Kernel gradients are cleared first: some taps have no effect, or two sinks add up. */
  "clearTaps",
  /** Blocks: of a row, and from block to block; samples before a block's own, of the block, of one row. */
  "blocks",
  "hop",
  "lead",
  "span",
  "length",
  "outputLength",
  /** Period of rows that go on circularly around their blocks; 0 for zeros. */
  "period",
  "sampleBytes",
  /** Bytes of one scratch area of a thread, and from block to block where they are packed. */
  "scratchBytes",
  /** Shares of a channel's blocks, whose sums lie `transformBytes` apart; blocks [termFrom, termTo) of each. */
  "shares",
  "sums",
  "termFrom",
  "termTo",
  /** Streams: spectra of a row's blocks, as many as partitions, the newest in `slot`; what to do besides products. */
  "ring",
  "partitions",
  "slot",
  "analyse",
  "synthesise",
] as const;

/**
 * Fields of the short depthwise convolution. A line is what a filter runs along: a row of layout BHL, a batch item of BLH;
 * a unit is a chunk of a line. Fields that end in a digit belong to a branch (x, dx, w, b, state) or an output (y, dy).
 */
const depthwise = [
  "branches",
  "outputs",
  "kernelLength",
  "left",
  "length",
  "outputLength",
  /** Chunks of a line and positions of one; positions of a window; channels of one, and how many such there are. */
  "chunks",
  "chunk",
  "tile",
  "tileChannels",
  "channelTiles",
  /** Outputs are computed from the user's samples where no edge is near. */
  "direct",
  /** Bytes of a sample, and from position to position in x, y and a window. */
  "sampleBytes",
  "inputStep",
  "outputStep",
  "windowStep",
  /** Bytes of one window, of one branch's sums, and from channel to channel (BHL) in the taps. */
  "windowBytes",
  "sumBytes",
  "tapBytes",
  /** Line l is line l mod linesPerBatch of batch item l div linesPerBatch. */
  "linesPerBatch",
  "inputBatchBytes",
  "inputLineBytes",
  "outputBatchBytes",
  "outputLineBytes",
  "stateBatchBytes",
  "stateLineBytes",
  "x0",
  "x1",
  "x2",
  "w0",
  "w1",
  "w2",
  "b0",
  "b1",
  "b2",
  "y0",
  "y1",
  "dy0",
  "dy1",
  "dx0",
  "dx1",
  "dx2",
  /** The K − 1 samples before each line, their gradient, and that of the K − 1 last ones; 0 where there is none. */
  "state0",
  "state1",
  "state2",
  "dstate0",
  "dstate1",
  "dstate2",
  "dstateOut0",
  "dstateOut1",
  "dstateOut2",
  /** Where unit u's sums go: so many bytes apart, branch after branch. */
  "partials",
  "partialBytes",
  "branchPartialBytes",
] as const;

type Field = (typeof common)[number] | (typeof dense)[number] | (typeof depthwise)[number];

/** All fields there are; those that its kind has no use for stay 0. */
export type Job = Record<Field, number>;

export const jobKinds = {
  spectra: 0,
  forward: 1,
  backward: 2,
  blockForward: 3,
  blockBackward: 4,
  blockTaps: 5,
  stream: 6,
  compactSpectra: 7,
  depthwiseForward: 8,
  depthwiseBackward: 9,
} as const;

const denseFields: readonly Field[] = [...common, ...dense];
const depthwiseFields: readonly Field[] = [...common, ...depthwise];

/** Fields of a kind of job, in the order in which they cross to the workers. */
export function jobFields(kind: number): readonly (keyof Job)[] {
  return kind >= jobKinds.depthwiseForward ? depthwiseFields : denseFields;
}

/** Fields of the kind that has most. */
export const mostFields: number = Math.max(denseFields.length, depthwiseFields.length);

const empty = Object.fromEntries([...denseFields, ...depthwise].map((f) => [f, 0])) as Job;

/** A job with every field 0. */
export function emptyJob(): Job {
  return { ...empty };
}
