/**
 * FlashFFTConvStream: y = postgate ⊙ ((pregate ⊙ u) ∗ k) + skip ⊙ u of a sequence that comes in pieces, of any length,
 * in memory that depends on the kernel alone.
 */
import type { CpuBackend } from "../backend/cpu.ts";
import { openCpu } from "../backend/cpu.ts";
import type { Instructions } from "../backend/features.ts";
import type { Dtype, SampleArray } from "../dtype.ts";
import { decode, encode } from "../dtype.ts";
import { InvalidArgumentError, show, UnsupportedError } from "../errors.ts";
import type { Mode } from "../plan/problem.ts";
import { createProblem, integer, maxLength, oneOf } from "../plan/problem.ts";
import type { StreamLevel } from "../plan/stream.ts";
import { formatStream, streamable, streamLevels } from "../plan/stream.ts";
import type { Expected, Tensor } from "./arguments.ts";
import { checkOptions, checkSizes, emptyOf, exactly, samplesOf } from "./arguments.ts";
import { Delay } from "./delay.ts";
import { pickInstructions, pickThreads } from "./options.ts";
import type { Slice } from "./stream-level.ts";
import { LevelState } from "./stream-level.ts";
import { webStream } from "./web-stream.ts";
import { deviceFor } from "./wisdom.ts";

/** Modes of a stream: all whose first outputs do not wait for the end of the input. */
export type StreamMode = Exclude<Mode, "circular">;

const streamModes: readonly StreamMode[] = ["causal", "full", "same", "bidirectional"];

/** What a stream is made from, besides its kernel. */
export interface StreamOptions {
  /** `causal` by default; as in FlashFFTConv, for an L that is known when the input ends. */
  readonly mode?: StreamMode;
  /** K: taps of one kernel row. */
  readonly kernelLength: number;
  /** B: sequences that share the kernels; 1 by default. */
  readonly batch?: number;
  /** H: kernel rows; 1 by default. */
  readonly channels?: number;
  /** Storage of u, y and the gates; `float32` by default. */
  readonly dtype?: Dtype;
  /** (H) float32: adds skip ⊙ u, ungated; for modes whose outputs are as long as their inputs. */
  readonly skip?: Float32Array;
  /**
   * Samples of a block: outputs come for every so many inputs. A multiple of 16 with no prime factor above 7, such as
   * 128 … 1,024 for live audio, whose work is spread evenly over the blocks; by default what takes the least time.
   */
  readonly blockLength?: number;
  /** Threads, the caller's included; all cores by default. A row goes to one thread. */
  readonly threads?: number;
  /** Instruction set of the kernels; by default the best that the runtime has. */
  readonly instructions?: "auto" | Instructions;
}

/** A piece of the input, with the pieces of the gates that belong to the same samples. */
export interface StreamPiece {
  /** (B, H, n); n may be 0. */
  readonly u: Tensor;
  /** (B, H, n), multiplies u. */
  readonly pregate?: Tensor | undefined;
  /** (B, H, n), multiplies the outputs at the same samples; not in mode `full`. */
  readonly postgate?: Tensor | undefined;
}

/** Longest block: a level's transform is twice as long as its block. */
const maxBlock = 2 ** 20;

/** A long convolution that is fed piece by piece. Make it with `FlashFFTConvStream.create`, free it with `dispose`. */
export class FlashFFTConvStream {
  /** Outputs come for every so many inputs. */
  readonly blockLength: number;
  /**
   * Samples by which outputs follow inputs at most: output n comes with the call that brings input n + latency, or
   * before. Input in pieces of `blockLength` comes back, in modes without taps that look ahead, in the same call.
   */
  readonly latency: number;
  /** Levels of partitioned convolution: block × partitions, and transforms. */
  readonly plan: string;
  readonly #backend: CpuBackend;
  readonly #options: Required<Pick<StreamOptions, "mode" | "kernelLength" | "dtype">>;
  readonly #rows: number;
  readonly #batch: number;
  readonly #skip: Float32Array | undefined;
  readonly #channels: number;
  readonly #ahead: number;
  #levels: readonly LevelState[] = [];
  /** Input that its skip term, and gates that their outputs, wait for. */
  readonly #inputs: Delay;
  readonly #gates: Delay;
  /** Whether the pieces since the start have gates, which must then all have. */
  #gated: boolean | undefined;
  #pending = 0;
  #blocks = 0;
  #received = 0;
  #sent = 0;
  #disposed = false;

  private constructor(
    backend: CpuBackend,
    options: StreamOptions,
    levels: readonly StreamLevel[],
    ahead: number,
  ) {
    const { mode = "causal", dtype = "float32", kernelLength, batch = 1, channels = 1 } = options;
    this.#backend = backend;
    this.#options = { mode, dtype, kernelLength };
    this.#rows = batch * channels;
    this.#batch = batch;
    this.#channels = channels;
    this.#skip = options.skip?.slice();
    this.#ahead = ahead;
    this.#inputs = new Delay(this.#rows);
    this.#gates = new Delay(this.#rows);
    this.blockLength = levels[0]!.hop;
    this.latency = this.blockLength - 1 + ahead;
    this.plan = formatStream(levels);
    backend.retain();
  }

  /**
   * Plan, compile, transform the taps k (H, K). Streams run on the CPU.
   * @throws InvalidArgumentError for options out of range, UnsupportedError for what the runtime lacks.
   */
  static async create(k: Tensor, options: StreamOptions): Promise<FlashFFTConvStream> {
    const call = "FlashFFTConvStream.create";
    checkOptions(options, call, "options", "Pass { kernelLength: K }.");
    const { mode = "causal", dtype = "float32", kernelLength, blockLength } = options;
    refuseFrequencies(options, call);
    refuseGpu(options, call);
    oneOf(call, "mode", mode, streamModes);
    const channels = integer(call, "channels", options.channels ?? 1, 1, 2 ** 31);
    const batch = integer(call, "batch", options.batch ?? 1, 1, 2 ** 31);
    // A length as good as any that the kernel goes with: it checks K, mode and dtype.
    createProblem({ mode, dtype, kernelLength, length: maxLength }, call);
    if (blockLength !== undefined)
      checkBlock(integer(call, "blockLength", blockLength, 16, maxBlock), call);
    const expected: Expected = { call, name: "k", dtype, orFloat32: true, dimensions: ["H", "K"] };
    const { data, shape } = samplesOf(k, expected);
    exactly(data, channels * kernelLength, expected);
    checkSizes(shape, [channels, kernelLength], expected);
    checkSkip(options.skip, channels, mode, call);
    const instructions = pickInstructions(options.instructions ?? "auto", call);
    const threads = pickThreads(options.threads, instructions, call);
    const device = deviceFor(instructions);
    const { rows, ahead } = tapsInOrder(data, dtype, mode, kernelLength);
    const levels = streamLevels(rows[0]!.length, blockLength, device);
    const backend = openCpu({ threads, instructions, shared: threads > 1 });
    const stream = new FlashFFTConvStream(backend, options, levels, ahead);
    try {
      await backend.exclusive(async () => {
        for (const level of levels) {
          const state = await LevelState.open(
            level,
            backend,
            { batch, channels },
            rows,
            device,
            call,
          );
          stream.#levels = [...stream.#levels, state];
        }
      });
    } catch (error) {
      stream.dispose();
      throw error;
    }
    return stream;
  }

  /** Threads in use at most, the caller's included. */
  get threads(): number {
    return this.#backend.settings.threads;
  }

  /** Instruction set in use. */
  get instructions(): Instructions {
    return this.#backend.settings.instructions;
  }

  /** Bytes held in the backend: spectra of the taps and of the blocks they still meet, and blocks under way. */
  get memoryBytes(): number {
    return this.#levels.reduce((sum, l) => sum + l.bytes, 0);
  }

  /**
   * Feed the next samples (B, H, n) of every row, flat or with their shape; n may differ from call to call, and be 0. The
   * array must stay as it is until the promise resolves.
   * @returns (B, H, m): the outputs that these samples complete. How the input is cut does not change a bit of them.
   * @throws InvalidArgumentError, BackendError.
   */
  async process(piece: Tensor | StreamPiece): Promise<SampleArray> {
    const call = "stream.process";
    this.#alive(call);
    if (!ArrayBuffer.isView(piece)) {
      const remedy = "Pass the next samples of every row, or { u, pregate, postgate }.";
      checkOptions(piece, call, "the piece", remedy);
    }
    const { u, pregate, postgate }: StreamPiece =
      ArrayBuffer.isView(piece) || "data" in piece ? { u: piece } : piece;
    const { dtype } = this.#options;
    const data = this.#samples(u, "u", call);
    if (data.length % this.#rows !== 0) {
      throw new InvalidArgumentError({
        call,
        requirement: `u must hold ${show(this.#rows)} rows of equal length`,
        value: show(data),
        remedy: "Pass the next samples of every row, one row after the other.",
      });
    }
    const gate = (tensor: Tensor | undefined, name: string): SampleArray | undefined => {
      if (tensor === undefined) return undefined;
      const samples = this.#samples(tensor, name, call);
      exactly(samples, data.length, { call, name, dtype, dimensions: streamDimensions });
      return samples;
    };
    const before = gate(pregate, "pregate");
    const after = gate(postgate, "postgate");
    if (after && this.#options.mode === "full") {
      throw new InvalidArgumentError({
        call,
        requirement: "postgate needs outputs as long as the inputs",
        value: "a stream of mode 'full'",
        remedy: "Use another mode, or multiply the outputs yourself.",
      });
    }
    if (data.length === 0) return encode(new Float32Array(0), dtype);
    return await this.#backend.exclusive(async () => {
      this.#alive(call);
      this.#open(call, after !== undefined);
      const rows = rowsIn(data, dtype, this.#rows);
      const n = data.length / this.#rows;
      this.#received += n;
      if (this.#skip) this.#inputs.push(rows);
      if (after) this.#gates.push(rowsIn(after, dtype, this.#rows));
      const factors = before && rowsIn(before, dtype, this.#rows);
      const inputs = factors ? rows.map((row, r) => row.map((x, i) => x * factors[r]![i]!)) : rows;
      return this.#finish(await this.#feed(inputs, n));
    });
  }

  /** Samples (B, H, n) of a piece or its gate. */
  #samples(tensor: Tensor, name: string, call: string): SampleArray {
    const { dtype } = this.#options;
    const expected: Expected = { call, name, dtype, dimensions: streamDimensions };
    const nothing = emptyOf(tensor, dtype);
    const { data, shape } = nothing ?? samplesOf(tensor, expected);
    checkSizes(shape, [this.#batch, this.#channels, nothing ? 0 : undefined], expected);
    return data;
  }

  /**
   * The end of the input: the outputs that are still to come, so that there are L of all, or L + K − 1 in mode `full`.
   * The stream then stands at its beginning again, for another sequence.
   */
  async flush(): Promise<SampleArray> {
    const call = "stream.flush";
    this.#alive(call);
    return await this.#backend.exclusive(async () => {
      this.#alive(call);
      const { mode, kernelLength } = this.#options;
      const all =
        this.#received === 0 ? 0 : this.#received + (mode === "full" ? kernelLength - 1 : 0);
      const left = Math.max(0, all - this.#sent);
      const silence = new Array<Float32Array>(this.#rows).fill(new Float32Array(this.blockLength));
      const rest = new Float32Array(this.#rows * left);
      for (let at = 0; at < left; ) {
        const y = await this.#feed(silence, this.blockLength - this.#pending);
        const width = y.length / this.#rows;
        const count = Math.min(left - at, width);
        for (let r = 0; r < this.#rows; r++) {
          rest.set(y.subarray(r * width, r * width + count), r * left + at);
        }
        at += count;
      }
      const out = this.#finish(rest);
      this.#reset();
      return out;
    });
  }

  /** Forget the input and begin anew. */
  async reset(): Promise<void> {
    this.#alive("stream.reset");
    await this.#backend.exclusive(() => this.#reset());
  }

  /** A sequence that is given up leaves nothing to the next one. */
  async #abandon(): Promise<void> {
    await this.#backend.exclusive(() => {
      if (!this.#disposed) this.#reset();
    });
  }

  /**
   * Convolve pieces as they come, to the end of the input: outputs piece by piece, none of them empty. Where it ends before
   * that, by `break`, an error of the source or a piece that is refused, the stream stands at its beginning again.
   * @throws InvalidArgumentError, BackendError.
   */
  async *convolve(
    source: AsyncIterable<Tensor | StreamPiece> | Iterable<Tensor | StreamPiece>,
  ): AsyncGenerator<SampleArray, void, undefined> {
    checkSource(source, "stream.convolve");
    let rest: SampleArray | undefined;
    try {
      for await (const piece of source) {
        const y = await this.process(piece);
        if (y.length > 0) yield y;
      }
      rest = await this.flush();
    } finally {
      if (!rest) await this.#abandon();
    }
    if (rest.length > 0) yield rest;
  }

  /**
   * A Web Stream of pieces in, outputs out. Where it ends before the input does, by a cancelled reader, an aborted writer
   * or an error, the stream stands at its beginning again.
   */
  transform(): TransformStream<Tensor | StreamPiece, SampleArray> {
    return webStream({
      process: (piece: Tensor | StreamPiece) => this.process(piece),
      flush: () => this.flush(),
      abandon: () => this.#abandon(),
    });
  }

  /** The first piece of a sequence says whether the others have a postgate. */
  #open(call: string, gated: boolean): void {
    this.#gated ??= gated;
    if (this.#gated === gated) return;
    throw new InvalidArgumentError({
      call,
      requirement: "a postgate with every piece of a sequence, or with none",
      value: gated ? "one after pieces without" : "none after pieces with one",
      remedy: "Pass ones where a piece is not to be gated.",
    });
  }

  #reset(): void {
    for (const level of this.#levels) level.reset();
    this.#inputs.clear();
    this.#gates.clear();
    this.#gated = undefined;
    this.#pending = this.#blocks = this.#received = this.#sent = 0;
  }

  /** Convolve `n` samples of each row: the rows of outputs that they complete, those before the first one dropped. */
  async #feed(inputs: readonly Float32Array[], n: number): Promise<Float32Array> {
    const hop = this.blockLength;
    const done = Math.floor((this.#pending + n) / hop);
    const early = Math.max(0, this.#ahead - this.#blocks * hop);
    const size = Math.max(0, done * hop - early);
    const y = new Float32Array(this.#rows * size);
    let at = -Math.min(early, done * hop);
    for (let from = 0; from < n; ) {
      const count = Math.min(n - from, hop - this.#pending);
      for (const level of this.#levels) level.take(inputs, from, count);
      from += count;
      this.#pending += count;
      if (this.#pending < hop) break;
      await this.#step();
      for (let r = 0; r < this.#rows; r++) {
        this.#output(y.subarray(r * size, (r + 1) * size), r, at);
      }
      at += hop;
      this.#pending = 0;
      this.#blocks++;
    }
    return y;
  }

  /** The work of one block: all of the first level's, a share of the others'. */
  async #step(): Promise<void> {
    for (const [index, state] of this.#levels.entries()) {
      const { partitions, hop } = state.level;
      if (index === 0) {
        const running = state.run({ analyse: true, from: 0, to: partitions, synthesise: true }, 0);
        if (running) await running;
        continue;
      }
      const steps = hop / this.blockLength;
      const block = Math.floor((this.#blocks + 1) / steps) - 1;
      if (block < 0) continue;
      const slice = sliceOf((this.#blocks + 1) % steps, steps, partitions);
      const running = state.run(slice, block % 2);
      if (running) await running;
    }
  }

  /** The newest outputs of row r, all levels', to out[at …]; those before index 0 are dropped. */
  #output(out: Float32Array, r: number, at: number): void {
    const hop = this.blockLength;
    const drop = Math.min(hop, Math.max(0, -at));
    if (drop === hop) return;
    const target = out.subarray(at + drop, at + hop);
    target.set(this.#levels[0]!.output(0, r, drop, hop - drop));
    for (const state of this.#levels.slice(1)) {
      const steps = state.level.hop / hop;
      const block = Math.floor(this.#blocks / steps) - 2;
      if (block < 0) continue;
      const from = (this.#blocks % steps) * hop + drop;
      const late = state.output(block % 2, r, from, hop - drop);
      for (let i = 0; i < target.length; i++) target[i]! += late[i]!;
    }
  }

  /** Gates, skip and storage of rows of outputs that are due. */
  #finish(y: Float32Array): SampleArray {
    const count = y.length / this.#rows;
    this.#sent += count;
    const gates = this.#gated ? this.#gates.shift(count) : undefined;
    const inputs = this.#skip ? this.#inputs.shift(count) : undefined;
    for (let r = 0; r < this.#rows; r++) {
      const row = y.subarray(r * count, (r + 1) * count);
      const gate = gates?.[r];
      if (gate) for (let i = 0; i < count; i++) row[i]! *= gate[i]!;
      const input = inputs?.[r];
      const skip = this.#skip?.[r % this.#channels] ?? 0;
      if (input) for (let i = 0; i < count; i++) row[i]! += skip * input[i]!;
    }
    return this.#options.dtype === "float32" ? y : encode(y, this.#options.dtype);
  }

  #alive(call: string): void {
    if (!this.#disposed) return;
    throw new InvalidArgumentError({
      call,
      requirement: "a stream that has not been disposed",
      value: "a disposed one",
      remedy: "Create a new stream, or dispose later.",
    });
  }

  /** Free what the stream holds. Calls under way finish first. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    void this.#backend.exclusive(() => {
      for (const level of this.#levels) level.close();
      this.#backend.release();
    });
  }

  /** The same as `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * The share of step `step` of a block's work over `steps` steps: its transform in the first, so that the block may be
 * overwritten, the transform back in the last.
 */
function sliceOf(step: number, steps: number, partitions: number): Slice {
  const from = step === 0 ? 0 : Math.floor((partitions * (step - 1)) / (steps - 1));
  const to = step === 0 ? 0 : Math.floor((partitions * step) / (steps - 1));
  return { analyse: step === 0, from, to, synthesise: step === steps - 1 };
}

/** The taps of each channel in the order of their lags, and how far the first looks ahead. */
function tapsInOrder(
  k: SampleArray,
  dtype: Dtype,
  mode: StreamMode,
  kernelLength: number,
): { rows: Float32Array[]; ahead: number } {
  const values = k instanceof Float32Array ? k : Float32Array.from(decode(k, dtype));
  const half = kernelLength >> 1;
  const rows: Float32Array[] = [];
  for (let at = 0; at < values.length; at += kernelLength) {
    const row = values.subarray(at, at + kernelLength);
    // Bidirectional taps look ahead from the end on; the one in the middle is never used.
    rows.push(
      mode === "bidirectional" ? joined([row.subarray(half + 1), row.subarray(0, half)]) : row,
    );
  }
  const ahead = mode === "same" ? (kernelLength - 1) >> 1 : mode === "bidirectional" ? half - 1 : 0;
  return { rows, ahead };
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const out = new Float32Array(parts.reduce((sum, p) => sum + p.length, 0));
  let at = 0;
  for (const p of parts) {
    out.set(p, at);
    at += p.length;
  }
  return out;
}

/** The rows of an array as float32. */
function rowsIn(data: SampleArray, dtype: Dtype, rows: number): Float32Array[] {
  const values = data instanceof Float32Array ? data : Float32Array.from(decode(data, dtype));
  const n = values.length / rows;
  return Array.from({ length: rows }, (_, r) => values.subarray(r * n, (r + 1) * n));
}

/** Dimensions of a piece, for messages. */
const streamDimensions = ["B", "H", "n"] as const;

/** Refuse what does not come in pieces; an array is a piece, not a list of them. */
function checkSource(source: unknown, call: string): void {
  const { [Symbol.asyncIterator]: later, [Symbol.iterator]: now } = Object(source) as Partial<
    AsyncIterable<unknown> & Iterable<unknown>
  >;
  const iterates = typeof later === "function" || typeof now === "function";
  if (iterates && typeof source === "object" && !ArrayBuffer.isView(source)) return;
  throw new InvalidArgumentError({
    call,
    requirement: "source must be an iterable of pieces, async or not",
    value: show(source),
    remedy: "Pass [samples] for a single piece, or pipe a Web Stream through stream.transform().",
  });
}

/** Where a GPU is asked for, the CPU must not answer in silence. */
function refuseGpu(options: StreamOptions, call: string): void {
  const { backend = "auto", device } = options as { backend?: string; device?: unknown };
  oneOf(call, "backend", backend, ["auto", "cpu", "webgpu"]);
  if (backend !== "webgpu" && (backend === "cpu" || device === undefined)) return;
  throw new UnsupportedError({
    call,
    requirement: "streams run on the CPU alone",
    value: backend === "webgpu" ? "backend 'webgpu'" : "a device",
    remedy: "Leave backend and device out, or use FlashFFTConv with them on whole rows.",
  });
}

/** A pattern over N samples needs all of them at once. */
function refuseFrequencies(options: StreamOptions, call: string): void {
  if ((options as { frequencies?: unknown }).frequencies === undefined) return;
  throw new UnsupportedError({
    call,
    requirement: "streams keep all frequencies: a masked kernel is as long as the transform",
    value: "an object with frequencies",
    remedy: "Pass taps that sparsifyKernel has masked, or use FlashFFTConv on whole rows.",
  });
}

function checkBlock(blockLength: number, call: string): void {
  if (streamable(blockLength)) return;
  throw new InvalidArgumentError({
    call,
    requirement: "blockLength must be a multiple of 16 with no prime factor above 7",
    value: show(blockLength),
    remedy: "Take 64, 128, 256, 480, 512, 960 or 1,024.",
  });
}

function checkSkip(
  skip: Float32Array | undefined,
  channels: number,
  mode: StreamMode,
  call: string,
): void {
  if (skip === undefined) return;
  const expected: Expected = { call, name: "skip", dtype: "float32", dimensions: ["H"] };
  exactly(samplesOf(skip, expected).data, channels, expected);
  if (mode !== "full") return;
  throw new InvalidArgumentError({
    call,
    requirement: "skip needs outputs as long as the inputs",
    value: "a stream of mode 'full'",
    remedy: "Use another mode, or add skip ⊙ u yourself.",
  });
}
