/**
 * A job is numbers only: what to run, where its samples lie, how it is cut into units. Threads that take part draw units by
 * shared counters, so the answer does not depend on who does what. Each kind of job has the fields that it reads: objects of
 * zeros below, whose types are the jobs' types and whose order is that in which numbers cross to the workers.
 *
 * Fields without a unit in their comment are counts or, if they begin with `has` or say so, flags: 0 or 1. Rows of a call are
 * numbered b·channels + h.
 */
import { productNumbers } from "../../plan/cpu/product.ts";

/** What is read of every job. */
const common = {
  /** One of jobKinds. Crosses first, since it says what the other numbers are. */
  kind: 0,
  /** Number of the compiled program. */
  program: 0,
  /** The first unit. */
  first: 0,
  /** Units to do, from the first on. */
  units: 0,
  /** Threads that take part, the caller's included. */
  threads: 0,
  /** Flag: unit first + i has the i-th piece of work memory, not its thread, because what it holds outlives the job. */
  slotted: 0,
  /** Flag: all threads work on one unit at a time, step by step. */
  together: 0,
  /** Address of the first thread's work memory. */
  workspace: 0,
  /** Bytes from one thread's work memory to the next one's. */
  threadBytes: 0,
};

/** A transform. */
const transform = {
  /** Address of the program's table of constants. */
  table: 0,
  /** Tiles of an end and units of a body: how much its functions have to do for a whole transform. */
  tiles: 0,
  bodies: 0,
};

/** Address of the first channel's spectrum, and bytes from one to the next. */
const kept = { spectra: 0, spectrumBytes: 0 };

/** Address of the first unit's taps, and bytes from one unit's to the next one's. */
const kernel = { k: 0, kernelBytes: 0 };

/** Rows of a call with what is fused into their ends. */
const rows = {
  batch: 0,
  channels: 0,
  /** Flag: tensors hold the rows (or blocks) of the job's units only, one after another. */
  packed: 0,
  /** Addresses of row 0 of tensors as long as the input, and bytes from row to row. */
  u: 0,
  pregate: 0,
  inputBytes: 0,
  /** The same of a tensor as long as the output. */
  postgate: 0,
  outputBytes: 0,
  /** Address of the skip weights, one float32 a channel. */
  skip: 0,
  hasPregate: 0,
  hasPostgate: 0,
  hasSkip: 0,
};

/** Address of row 0. */
const result = { y: 0 };

/** Where dk goes, one row of taps a channel. */
const taps = {
  /** Address of the first unit's dk, and bytes from channel to channel. */
  dk: 0,
  dkBytes: 0,
  /** Functions that store dk: where a tap acts at two lags, the second adds to the first. */
  dkSinks: 0,
  /** Flag: dk is cleared first, because some taps have no effect or two functions add up. */
  clearTaps: 0,
  /** Bytes from one transform in work memory to the next. */
  transformBytes: 0,
};

/** Tensors of gradients: addresses of row 0, as long as the output (dy) or as the input. */
const gradients = { dy: 0, du: 0, dpregate: 0 };

/** What only whole rows have. */
const wholeGradients = {
  dpostgate: 0,
  /** Batch rows [batchFrom, batchTo) of each unit: dk is stored after the last of the batch. */
  batchFrom: 0,
  batchTo: 0,
};

/** How rows are cut into blocks. Positions count samples. */
const blocks = {
  /** Blocks of a row. */
  blocks: 0,
  /** Samples from the start of one block's own to the next one's. */
  hop: 0,
  /** Samples of a block before its own. */
  lead: 0,
  /** All samples of a block. */
  span: 0,
  /** Samples of a row of the input, and of the output. */
  length: 0,
  outputLength: 0,
  /** Samples after which a circular row repeats around its ends; 0 where zeros surround it. */
  period: 0,
  sampleBytes: 0,
  /** Bytes of one of a thread's scratch areas; also from block to block where they are packed. */
  scratchBytes: 0,
  transformBytes: 0,
};

/** Sums of products of spectra, which several threads make for one channel. */
const sums = {
  /** Address of the first unit's sum; sums lie transformBytes apart. */
  sums: 0,
  /** Shares that the blocks of a channel, of its whole batch, are divided into. */
  shares: 0,
};

/** Terms [termFrom, termTo) of a sum: blocks of each share, or partitions of a stream's taps. */
const terms = { termFrom: 0, termTo: 0 };

/** A level of a stream. */
const level = {
  channels: 0,
  transformBytes: 0,
  /** Addresses of the first row's newest samples and of its outputs, and bytes from row to row. */
  u: 0,
  inputBytes: 0,
  y: 0,
  outputBytes: 0,
  /** Address of the first row's sum of products. */
  sums: 0,
  /** Address of the spectra of the first row's blocks, as many as partitions of the taps. */
  ring: 0,
  partitions: 0,
  /** Place in the ring of the newest block. */
  slot: 0,
  /** Flag: transform the newest block first. */
  analyse: 0,
  /** Flag: transform the sum back last. */
  synthesise: 0,
};

/**
 * Short depthwise convolutions. A line is what a filter runs along: a row of layout BHL, a batch item of BLH; a unit is a chunk
 * of a line. Fields that end in a digit are addresses, of a branch (x, dx, w, b, state) or an output (y, dy).
 */
const depthwise = {
  batch: 0,
  channels: 0,
  branches: 0,
  outputs: 0,
  kernelLength: 0,
  /** Zeros before a line. */
  left: 0,
  /** Positions of a line of x, and of y. */
  length: 0,
  outputLength: 0,
  /** Chunks of a line, and positions of one. */
  chunks: 0,
  chunk: 0,
  /** Outputs that are made from one filling of the windows. */
  tile: 0,
  /** Channels of a window (BLH), and how many times so many there are. */
  tileChannels: 0,
  channelTiles: 0,
  /** Flag: outputs are made from the user's samples where no edge is near. */
  direct: 0,
  sampleBytes: 0,
  /** Bytes from position to position: of x, of y, of a window. */
  inputStep: 0,
  outputStep: 0,
  windowStep: 0,
  /** Bytes of a window, and of one branch's sums. */
  windowBytes: 0,
  sumBytes: 0,
  /** Bytes from channel to channel (BHL) of the taps; 0 in layout BLH. */
  tapBytes: 0,
  /** Line l is line l mod linesPerBatch of batch item l div linesPerBatch. */
  linesPerBatch: 0,
  /** Bytes from batch item to batch item, and from line to line: of x, of y, of a state. */
  inputBatchBytes: 0,
  inputLineBytes: 0,
  outputBatchBytes: 0,
  outputLineBytes: 0,
  stateBatchBytes: 0,
  stateLineBytes: 0,
};

/** Taps and biases, float32. */
const filters = { w0: 0, w1: 0, w2: 0, b0: 0, b1: 0, b2: 0 };
/** Samples; the K − 1 before each line, or 0 where there are none. */
const branches = { x0: 0, x1: 0, x2: 0, state0: 0, state1: 0, state2: 0 };
const depthwiseOutputs = { y0: 0, y1: 0 };
/** Gradients of outputs and of samples. */
const branchGradients = { dy0: 0, dy1: 0, dx0: 0, dx1: 0, dx2: 0 };
/** Of the K − 1 samples before each line, and of its K − 1 last ones; 0 where there are none. */
const stateGradients = { dstate0: 0, dstate1: 0, dstate2: 0 };
const stateOutGradients = { dstateOut0: 0, dstateOut1: 0, dstateOut2: 0 };
const partialSums = {
  /** Address of the first unit's sums, bytes from unit to unit, and from branch to branch. */
  partials: 0,
  partialBytes: 0,
  branchPartialBytes: 0,
};

/** Addresses of a matrix product's operands. */
const productOperands = { a: 0, b: 0, c: 0, bias: 0, residual: 0, z: 0, sum: 0 };
/** A tensor of a row program: address of its first row, bytes from row to row, rows after which they repeat or 0. */
type RowTensorField = `${"p" | "s" | "m"}${number}`;
/** By their place in `addressed`. */
const rowTensors: Record<RowTensorField, number> = Object.fromEntries(
  ["p", "s", "m"].flatMap((letter) => Array.from({ length: 16 }, (_, i) => [`${letter}${i}`, 0])),
);

/** A row program; a unit is a chunk of rows. */
const rowProgram = {
  tensors: 0,
  rows: 0,
  columns: 0,
  /** Columns of the last row, where rows are pieces of a flat program's cells. */
  lastColumns: 0,
  /** Rows of a unit. */
  chunk: 0,
  /** Address of the first unit's sums, bytes from unit to unit, and from column sums to column sums. */
  partials: 0,
  partialBytes: 0,
  sumBytes: 0,
};

/** A job as those see it that only pass it on. */
export type Job = typeof common;
type Transform = Job & typeof transform;
type Rows = Transform & typeof kept & typeof rows;
type Depthwise = Job & typeof depthwise & typeof filters & typeof branches;
type States = typeof stateGradients & typeof stateOutGradients;

/** Jobs by kind. */
export interface Jobs {
  /** Spectra of the rows of a kernel; a unit is a channel. */
  spectra: Transform & typeof kept & typeof kernel;
  /** y of rows; a unit is a row, all of a channel before the next: h·batch + b. */
  forward: Rows & typeof result;
  /** Gradients of rows; a unit is a channel. */
  backward: Rows & typeof gradients & typeof taps & typeof wholeGradients;
  /** y of blocks; a unit is a block: block unit mod blocks of the row that unit div blocks is of `forward`. */
  blockForward: Rows & typeof result & typeof blocks;
  /** Gradients of blocks and the sums that are dk; a unit is a share of a channel: h·shares + share. */
  blockBackward: Rows & typeof gradients & typeof blocks & typeof sums & typeof terms;
  /** dk from the sums of its shares; a unit is a channel. */
  blockTaps: Transform & typeof taps & typeof sums;
  /** Spectra of which only some points are kept. */
  compactSpectra: Jobs["spectra"];
  /** Some of the work on the newest block of a level of a stream; a unit is a row. */
  stream: Transform & typeof kept & typeof terms & typeof level;
  depthwiseForward: Depthwise & typeof depthwiseOutputs;
  depthwiseBackward: Depthwise & typeof branchGradients & States & typeof partialSums;
  /** A product; a unit is a rectangle of C. */
  product: Job & typeof productNumbers & typeof productOperands;
  rows: Job & typeof rowProgram & typeof rowTensors;
}
type Kind = keyof Jobs;

const line = { ...common, ...depthwise, ...filters, ...branches };
const states = { ...stateGradients, ...stateOutGradients };
const row = { ...common, ...transform, ...kept, ...rows };
/** Fields of each kind; its number is its place. */
const fields: Readonly<Jobs> = {
  spectra: { ...common, ...transform, ...kept, ...kernel },
  forward: { ...row, ...result },
  backward: { ...row, ...gradients, ...taps, ...wholeGradients },
  blockForward: { ...row, ...result, ...blocks },
  blockBackward: { ...row, ...gradients, ...blocks, ...sums, ...terms },
  blockTaps: { ...common, ...transform, ...taps, ...sums },
  compactSpectra: { ...common, ...transform, ...kept, ...kernel },
  stream: { ...common, ...transform, ...kept, ...terms, ...level },
  depthwiseForward: { ...line, ...depthwiseOutputs },
  depthwiseBackward: { ...line, ...branchGradients, ...states, ...partialSums },
  product: { ...common, ...productNumbers, ...productOperands },
  rows: { ...common, ...rowProgram, ...rowTensors },
};

const kinds = Object.keys(fields) as Kind[];
export const jobKinds: Readonly<Record<Kind, number>> = Object.fromEntries(
  kinds.map((kind, i) => [kind, i]),
) as Record<Kind, number>;

/** A job of any kind of long convolution, and of either kind of short one, for whoever fills in several kinds. */
export type ConvolutionJob = Jobs["spectra"] &
  Jobs["backward"] &
  Jobs["blockForward"] &
  Jobs["blockBackward"];
export type DepthwiseJob = Jobs["depthwiseForward"] & Jobs["depthwiseBackward"];

/** Every field 0. */
export const convolutionJob: Readonly<ConvolutionJob> = {
  ...{ ...fields.spectra, ...fields.backward },
  ...{ ...fields.blockForward, ...fields.blockBackward },
};
export const depthwiseJob: Readonly<DepthwiseJob> = {
  ...fields.depthwiseForward,
  ...fields.depthwiseBackward,
};
export const streamJob: Readonly<Jobs["stream"]> = fields.stream;
export const productJob: Readonly<Jobs["product"]> = fields.product;
export const rowsJob: Readonly<Jobs["rows"]> = fields.rows;

/** Fields of each kind, and jobs that are read into: by number of the kind. */
const names = kinds.map((kind) => Object.keys(fields[kind]) as (keyof Job)[]);
const read = kinds.map((kind): Job => ({ ...fields[kind] }));

/** Numbers of the largest job. */
export const mostFields: number = Math.max(...names.map((list) => list.length));

/** Write a job's numbers for other threads. */
export function sendJob(job: Job, to: Float64Array): void {
  names[job.kind]!.forEach((field, i) => {
    to[i] = job[field];
  });
}

/** The job that was written: valid until the next of its kind. */
export function receivedJob(from: Float64Array): Job {
  const kind = from[0]!;
  const job = read[kind]!;
  names[kind]!.forEach((field, i) => {
    job[field] = from[i]!;
  });
  return job;
}
