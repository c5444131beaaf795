/** Where the tensors of a short convolution lie in their buffers, and its calls in pieces that can be bound. */
import type { Dtype } from "../dtype.ts";
import { bytesPerSample } from "../dtype.ts";
import { UnsupportedError } from "../errors.ts";
import type { Width } from "../kernels/gpu/filter/samples.ts";
import { widthFor } from "../kernels/gpu/filter/samples.ts";
import type { OwnParameters } from "../kernels/gpu/kernel.ts";
import type { DepthwiseProblem } from "../plan/depthwise.ts";
import { outputLengthOf, widths } from "../plan/depthwise.ts";
import { show } from "../show.ts";
import type { BufferName, BufferRange, GpuLimits } from "./schedule.ts";

/** What a call computes. */
export interface DepthwiseGpuCall {
  /** As errors name it. */
  readonly name: string;
  readonly batch: number;
  readonly length: number;
  readonly bias: boolean;
  readonly state: boolean;
  /** Whether a state is left behind, and whether it is the buffer of the one before. */
  readonly stateOut: "none" | "apart" | "same";
  readonly dstateOut: boolean;
  /** Backward: whether dweight and dbias, sums in float32, join what is in their buffers; by default they replace it. */
  readonly add?: boolean;
  /** Bytes of the tensors' ranges before their first samples: less than the alignment of bindings. */
  readonly offsets: Readonly<Partial<Record<BufferName, number>>>;
}

/** Pieces of lines begin at multiples of so many positions, to which every run and access fits. */
export const pieceStep = 64;

/** What is worked on at once: some lines, some channels, and some positions where one line is too large to be bound. */
export interface CallPiece {
  readonly batchFrom: number;
  readonly batch: number;
  readonly channelFrom: number;
  readonly channels: number;
  /** Positions of the longest tensor, from below 0 where something lies before the first. */
  readonly from: number;
  readonly to: number;
}

/** A tensor of a step: its place in a kernel, its buffer, and which positions that holds. */
export interface PieceOperand {
  readonly name: string;
  readonly buffer: BufferName;
  readonly dtype: Dtype;
  readonly width: Width;
  readonly writes?: boolean;
  /** First position, 0 by default, and how many there are. */
  readonly first?: number;
  readonly size: number;
  /** Positions from line to line where that is not `size`. */
  readonly pitch?: number;
  /** Whether the buffer holds no more than the piece. */
  readonly own?: boolean;
  /** Which channels of an item with three times as many it has, where it is packed. */
  readonly part?: PackedThird;
}

/**
 * Of an item's packed channels, a step takes one third, all three side by side, each for itself, or all as if there were
 * no thirds.
 */
export type PackedThird = 0 | 1 | 2 | "thirds" | "all";

/** The positions that a step reads or writes. */
export type Span = readonly [from: number, to: number];

/** The smallest multiple of `step` that is not below `n`. */
export const roundUp = (n: number, step: number): number => Math.ceil(n / step) * step;

/** What a step is given: ranges by the names of its bindings, and parameters. */
export interface Bound {
  readonly ranges: Readonly<Record<string, BufferRange>>;
  readonly parameters: OwnParameters;
}

/** Tensors that hold no positions: their offsets decide about no access to samples. */
const parameterTensors: ReadonlySet<string> = new Set<BufferName>([
  ...(["weight", "bias", "dweight", "dbias"] as const),
]);

/** The places of a call's tensors, and the bytes of work memory that its steps turn out to need. */
export class CallPlaces {
  readonly problem: DepthwiseProblem;
  readonly call: DepthwiseGpuCall;
  readonly outputLength: number;
  /** Whether threads stand side by side along the channels. */
  readonly across: boolean;
  /** Channels of a cell. */
  readonly cell: Width;
  /** Whether a step may take all thirds of packed channels: where an item, and its taps, can be bound at once. */
  readonly together: boolean;
  readonly bytes: Partial<Record<BufferName, number>> = {};
  readonly #limits: GpuLimits;

  constructor(problem: DepthwiseProblem, limits: GpuLimits, call: DepthwiseGpuCall) {
    this.problem = problem;
    this.#limits = limits;
    this.call = call;
    this.outputLength = outputLengthOf(problem, call.length);
    this.across = problem.layout === "BLH";
    const { channels, dtype } = problem;
    const offsets = Object.entries(call.offsets)
      .filter(([name]) => !parameterTensors.has(name))
      .map(([, offset]) => offset);
    this.cell = this.across
      ? (Math.min(...[0, ...offsets].map((o) => widthFor(dtype, "BLH", channels, o))) as Width)
      : 1;
    const item = { batchFrom: 0, batch: 1, channelFrom: 0, channels, from: 0, to: pieceStep };
    this.together =
      this.#packs &&
      this.#boundBytes(item, "thirds") <= this.#room &&
      3 * channels * problem.kernelLength * 4 <= this.#room;
  }

  get #packs(): boolean {
    return widths(this.problem.form).branches > 1;
  }

  /** Bytes of a tensor that one binding has room for, wherever it begins. */
  get #room(): number {
    return this.#limits.bindingBytes - this.#limits.alignment - 64;
  }

  /** Where a tensor begins in the user's buffer. */
  offset(buffer: BufferName): number {
    return this.call.offsets[buffer] ?? 0;
  }

  /** A user's tensor of `size` positions. */
  tensor(name: string, buffer: BufferName, size: number, writes = false): PieceOperand {
    const { dtype } = this.problem;
    const width = this.across ? this.cell : widthFor(dtype, "BHL", size, this.offset(buffer));
    return { name, buffer, dtype, width, size, writes };
  }

  /** A state, whose positions are taken one by one. */
  state(
    name: string,
    buffer: BufferName,
    part: PackedThird | undefined,
    writes = false,
  ): PieceOperand {
    const state = this.tensor(name, buffer, this.problem.kernelLength - 1, writes);
    return this.#packed(this.across ? state : { ...state, width: 1 }, part);
  }

  /** Bytes of a buffer, bound as `name` at an allowed offset; the parameter of that name is the first element. */
  values(
    name: string,
    buffer: BufferName,
    begin: number,
    bytes: number,
    elementBytes: number,
  ): Bound {
    const from = this.offset(buffer) + begin;
    const offset = from - (from % this.#limits.alignment);
    const size = Math.ceil((from - offset + bytes) / 8) * 8;
    return {
      ranges: { [name]: { buffer, offset, size } },
      parameters: { [name]: (from - offset) / elementBytes },
    };
  }

  /** The same of x or its gradient, whose channels may be packed. */
  input(
    name: string,
    buffer: BufferName,
    part: PackedThird | undefined,
    writes = false,
  ): PieceOperand {
    return this.#packed(this.tensor(name, buffer, this.call.length, writes), part);
  }

  #packed(tensor: PieceOperand, part: PackedThird | undefined): PieceOperand {
    return part === undefined ? tensor : { ...tensor, part };
  }

  /** Channels of an item of a tensor, the first that a piece from channel 0 on binds, and how many it binds beyond its own. */
  channels(part: PackedThird | undefined): { all: number; first: number; beyond: number } {
    const { channels } = this.problem;
    if (part === undefined) return { all: channels, first: 0, beyond: 0 };
    return {
      all: 3 * channels,
      first: typeof part === "number" ? part * channels : 0,
      beyond: part === "thirds" ? 2 * channels : 0,
    };
  }

  /** Whether a kernel must be told how far the thirds are from each other. */
  apart(part: PackedThird | undefined): boolean {
    return part === "thirds" || (typeof part === "number" && !this.across);
  }

  /** Samples of a tensor that a piece has between positions, and the first of them in the buffer. */
  #samples(
    o: PieceOperand,
    piece: CallPiece,
    [low, high]: Span,
  ): { begin: number; count: number; from: number } {
    const { batch, channels, batchFrom, channelFrom } = piece;
    const { first = 0, size, pitch = size, own = false } = o;
    const {
      all,
      first: skipped,
      beyond,
    } = own ? { all: channels, first: 0, beyond: 0 } : this.channels(o.part);
    const lines = this.across ? batch : (batch - 1) * all + beyond + channels;
    const positions = own ? pitch : size;
    const clip = (n: number): number => Math.min(first + positions, Math.max(first, n));
    const inLine = this.across ? 1 : o.width;
    const begins = clip(low);
    const from =
      lines > 1
        ? first
        : Math.min(begins - ((begins - first) % inLine), first + positions - inLine);
    const to =
      lines > 1
        ? first + positions
        : Math.max(from + inLine, clip(roundUp(high - first, inLine) + first));
    if (this.across) {
      const line = own ? 0 : batchFrom * pitch;
      return {
        begin: (line + from - first) * all + (own ? 0 : skipped + channelFrom),
        count: ((lines - 1) * pitch + to - from - 1) * all + beyond + channels,
        from,
      };
    }
    const line = own ? 0 : batchFrom * all + skipped + channelFrom;
    return { begin: line * pitch + from - first, count: (lines - 1) * pitch + to - from, from };
  }

  /** A tensor's positions in a piece, bound. */
  bind(o: PieceOperand, piece: CallPiece, span: Span): Bound {
    const { name, buffer, dtype, width, first = 0, size, pitch = size, own = false } = o;
    const bytes = bytesPerSample(dtype);
    const { begin, count, from } = this.#samples(o, piece, span);
    if (own) {
      const lines = piece.batch * piece.channels;
      this.need(buffer, roundUp(lines * pitch * bytes, 16));
    }
    const at = this.values(name, buffer, begin * bytes, count * bytes, width * bytes);
    const { all } = this.channels(o.part);
    const step = (own ? piece.channels : all) / width;
    const parameters: Record<string, number> = {
      [name]: at.parameters[name]! - (this.across ? from * step : from / width),
      [`${name}_from`]: first,
      [`${name}_size`]: size,
      [`${name}_line`]: this.across ? pitch * step : pitch / width,
      ...(this.across && { [`${name}_step`]: step }),
    };
    return { ranges: at.ranges, parameters };
  }

  /** Note that work memory must have room for so many bytes. */
  need(buffer: BufferName, bytes: number): void {
    this.bytes[buffer] = Math.max(this.bytes[buffer] ?? 0, bytes);
  }

  /** The call in pieces whose tensors can be bound and whose work memory, `work` bytes at a time, keeps to its limit. */
  pieces(from: number, to: number, work: (piece: CallPiece) => number): CallPiece[] {
    const { batch } = this.call;
    const { channels } = this.problem;
    return this.#split({ batchFrom: 0, batch, channelFrom: 0, channels, from, to }, work);
  }

  #split(piece: CallPiece, work: (piece: CallPiece) => number): CallPiece[] {
    const { bindingBytes, workspaceBytes } = this.#limits;
    const { kernelLength } = this.problem;
    const room = this.#room;
    const bytes = this.#boundBytes(piece, this.together ? "thirds" : this.#packs ? 0 : undefined);
    const tooLong = bytes > room;
    const tooMuch =
      work(piece) > Math.min(bindingBytes, workspaceBytes / 2) ||
      piece.channels * kernelLength * 4 > room;
    if (!tooLong && !tooMuch) return [piece];
    const halves = this.#halves(piece, tooLong);
    if (halves) return halves.flatMap((half) => this.#split(half, work));
    throw new UnsupportedError({
      call: this.call.name,
      requirement: "a GPU that binds the samples around a few positions at once",
      value: `${show(bytes)} bytes of ${show(piece.channels)} channels where ${show(bindingBytes)} can be bound`,
      remedy: "Use layout 'BHL', fewer channels a call, or backend: 'cpu'.",
    });
  }

  /** A piece in two, by what there is to divide. Several batch items always have all of their channels. */
  #halves(piece: CallPiece, tooLong: boolean): [CallPiece, CallPiece] | undefined {
    const { batchFrom, batch, channelFrom, channels, from, to } = piece;
    if (batch > 1) {
      const half = Math.ceil(batch / 2);
      return [
        { ...piece, batch: half },
        { ...piece, batchFrom: batchFrom + half, batch: batch - half },
      ];
    }
    const some = roundUp(channels / 2, this.across ? 4 : 1);
    if (some < channels && !(this.across && tooLong)) {
      return [
        { ...piece, channels: some },
        { ...piece, channelFrom: channelFrom + some, channels: channels - some },
      ];
    }
    const middle = from + roundUp((to - from) / 2, pieceStep);
    if (middle >= to) return undefined;
    return [
      { ...piece, to: middle },
      { ...piece, from: middle },
    ];
  }

  /** Bytes of the longest tensor's part in a piece. */
  #boundBytes(piece: CallPiece, part: PackedThird | undefined): number {
    const { dtype, kernelLength, left } = this.problem;
    const size = Math.max(this.call.length, this.outputLength, kernelLength);
    const longest = this.#packed(this.tensor("x", "x", size), part);
    const reach = Math.max(kernelLength, Math.abs(left)) + kernelLength + 2 * pieceStep;
    const span: Span = [piece.from - reach, piece.to + reach];
    return this.#samples(longest, piece, span).count * bytesPerSample(dtype);
  }

  /** Work memory in float32 for positions of a piece. */
  work(name: string, first: number, size: number): PieceOperand {
    const own = { first, size, pitch: roundUp(size, 8), own: true };
    return { name, buffer: "dz", dtype: "float32", width: this.across ? this.cell : 4, ...own };
  }
}
