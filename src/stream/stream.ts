/**
 * FlashFFTConvStream: y = postgate ⊙ ((pregate ⊙ u) ∗ k) + skip ⊙ u of a sequence that comes in pieces, of any length,
 * in memory that depends on the kernel alone.
 */
import { loadGpu } from "../calls/load-gpu.ts";
import { Operation } from "../calls/operation.ts";
import { checkRuntime } from "../calls/runtime.ts";
import { checkOptions, known } from "../checks.ts";
import type { Dtype, NewArray, SampleArray, StoredArray } from "../dtype.ts";
import { decode, encode } from "../dtype.ts";
import { BackendError, InvalidArgumentError } from "../errors.ts";
import { show } from "../show.ts";
import type { Expected } from "../tensors/check.ts";
import { checkSizes, emptyOf, exactly, intact, samplesOf } from "../tensors/check.ts";
import { newArray } from "../tensors/results.ts";
import type { Tensor } from "../tensors/tensor.ts";
import { CpuStream } from "./cpu.ts";
import { Delay } from "./delay.ts";
import type { StreamEngine, StreamRows } from "./engine.ts";
import type { CheckedStream, StreamOptions, StreamPiece, StreamSettings } from "./options.ts";
import { checkStream, pieceNames, refuseStreamBuffer } from "./options.ts";
import { renderer, renderLength } from "./render.ts";
import { webStream } from "./web-stream.ts";

/**
 * A long convolution with samples of dtype `D` that is fed piece by piece. Make it with `FlashFFTConvStream.create`, free it
 * with `dispose`. Outputs are new arrays: Float32Array, or for half precision Uint16Array, the bits.
 */
export class FlashFFTConvStream<out D extends Dtype = "float32"> extends Operation {
  /** Outputs come for every so many inputs. */
  readonly blockLength: number;
  /**
   * Samples by which outputs follow inputs at most: output n comes with the call that brings input n + latency, or
   * before. Input in pieces of `blockLength` comes back, in modes without taps that look ahead, in the same call.
   */
  readonly latency: number;
  /** On the CPU, levels of partitioned convolution: block × partitions, and transforms; on a GPU the plan of a block. */
  readonly plan: string;
  readonly #engine: StreamEngine;
  readonly #options: Required<Pick<StreamSettings, "mode" | "kernelLength" | "dtype">>;
  readonly #shape: StreamRows;
  /** How many. */
  readonly #rows: number;
  readonly #skip: Float32Array | undefined;
  readonly #ahead: number;
  /** Input that its skip term, and gates that their outputs, wait for. */
  readonly #inputs: Delay;
  readonly #gates: Delay;
  /** Whether the pieces since the start have gates, which must then all have. */
  #gated: boolean | undefined;
  #pending = 0;
  #blocks = 0;
  #received = 0;
  #sent = 0;
  /** Calls under way that return promises. */
  #calls = 0;
  /** Whether a call has lost some of the sequence. */
  #broken = false;

  private constructor(
    engine: StreamEngine,
    options: StreamSettings,
    shape: StreamRows,
    checked: Pick<CheckedStream, "ahead" | "skip">,
  ) {
    super(engine, "FlashFFTConvStream");
    const { mode = "causal", dtype = "float32", kernelLength } = options;
    this.#engine = engine;
    this.#options = { mode, dtype, kernelLength };
    this.#shape = shape;
    this.#rows = shape.batch * shape.channels;
    this.#skip = checked.skip?.slice();
    this.#ahead = checked.ahead;
    this.#inputs = new Delay(this.#rows);
    this.#gates = new Delay(this.#rows);
    this.blockLength = engine.blockLength;
    this.latency = this.blockLength - 1 + checked.ahead;
    this.plan = engine.plan;
    // What calls rely on cannot be written to.
    Object.freeze(this);
  }

  /**
   * Plan, compile, transform the taps k (H, K), flat or with their shape. A stream runs on the CPU unless the options ask for a GPU.
   * @throws InvalidArgumentError for options out of range, UnsupportedError for what the runtime lacks, BackendError.
   */
  static create<D extends Dtype = "float32">(
    k: Tensor<D | "float32">,
    options: StreamOptions<D> = {},
  ): Promise<FlashFFTConvStream<D>> {
    return FlashFFTConvStream.createFor(k, options, "FlashFFTConvStream.create");
  }

  /** @internal create, with errors that name another call. */
  static async createFor<D extends Dtype = "float32">(
    k: Tensor,
    options: StreamOptions<D>,
    call: string,
  ): Promise<FlashFFTConvStream<D>> {
    const checked = checkStream(k, options, call);
    const { taps, rows, settings } = checked;
    const { open } = checkRuntime(options, call).gpu
      ? (await loadGpu(options.device, call, () => import("./gpu.ts"))).GpuStream
      : CpuStream;
    const engine = await open(taps, rows, settings, call);
    return new FlashFFTConvStream(engine, settings, rows, checked);
  }

  /** Bytes held in the backend: spectra of the taps, what blocks to come need of those before, and blocks under way. */
  get memoryBytes(): number {
    return this.#engine.bytes;
  }

  /**
   * Feed the next samples (B, H, n) of every row, flat or with their shape; n may differ from call to call, and be 0. The
   * array must stay as it is until the promise resolves.
   * @returns (B, H, m): the outputs that these samples complete. How the input is cut does not change a bit of them.
   * @throws InvalidArgumentError, BackendError.
   */
  async process(piece: Tensor<D> | StreamPiece<D>): Promise<NewArray<StoredArray<D>>> {
    const call = "stream.process";
    this.alive(call);
    if (Array.isArray(piece)) {
      throw new InvalidArgumentError({
        call,
        requirement: "the piece must be one typed array, or { u, pregate, postgate }",
        value: show(piece),
        remedy: "Pass the next samples of every row, one row after the other.",
      });
    }
    if (!ArrayBuffer.isView(piece)) {
      const remedy = "Pass the next samples of every row, or { u, pregate, postgate }.";
      checkOptions(piece, call, "the piece", remedy);
    }
    const { u, pregate, postgate } = named(piece, call);
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
    const size = data.length;
    if (after && this.#options.mode === "full") {
      throw new InvalidArgumentError({
        call,
        requirement: "postgate needs outputs as long as the inputs",
        value: "a stream of mode 'full'",
        remedy: "Use another mode, or multiply the outputs yourself.",
      });
    }
    if (size === 0) return this.#stored(new Float32Array(0));
    return await this.#turn(async () => {
      this.#whole(call);
      for (const [name, samples] of Object.entries({ u: data, pregate: before, postgate: after })) {
        if (samples) intact(name, samples, size, call);
      }
      this.#open(call, after !== undefined);
      // What fails from here on may have taken some of the samples, which nobody gives again.
      this.#broken = true;
      const rows = rowsIn(data, dtype, this.#rows);
      const n = size / this.#rows;
      this.#received += n;
      if (this.#skip) this.#inputs.push(rows);
      if (after) this.#gates.push(rowsIn(after, dtype, this.#rows));
      const factors = before && rowsIn(before, dtype, this.#rows);
      const inputs = factors ? rows.map((row, r) => row.map((x, i) => x * factors[r]![i]!)) : rows;
      const y = this.#finish(await this.#feed(inputs, n, call));
      this.#broken = false;
      return y;
    });
  }

  /**
   * The next blocks, convolved when this returns: for who cannot await, such as `process` of an AudioWorklet. Inputs and
   * outputs are lists with an array for each row, in the order b·H + h, all of one length, a multiple of `blockLength`; an
   * array may be both. Everything runs on the calling thread. For streams on the CPU, of float32, in mode `causal` or `full`.
   * The outputs have the bits of `process`, which may be called between.
   * @throws InvalidArgumentError, UnsupportedError, BackendError.
   */
  render(inputs: readonly Float32Array[], outputs: readonly Float32Array[]): void {
    const call = "stream.render";
    this.alive(call);
    const { dtype } = this.#options;
    const [ahead, pending, busy] = [this.#ahead, this.#pending, this.#calls > 0];
    const run = renderer(this.#engine, { dtype, ahead, pending, busy });
    const n = renderLength({ inputs, outputs }, this.#rows, this.blockLength);
    this.#whole(call);
    this.#open(call, false);
    this.#broken = true;
    const hop = this.blockLength;
    const block = (row: Float32Array, at: number): Float32Array =>
      n === hop ? row : row.subarray(at, at + hop);
    this.#received += n;
    for (let at = 0; at < n; at += hop) {
      if (this.#skip) this.#inputs.push(inputs.map((row) => block(row, at)));
      this.#engine.take(inputs, at, hop);
      run(this.#blocks);
      const rows = outputs.map((row) => block(row, at));
      for (const [r, row] of rows.entries()) this.#engine.output(this.#blocks, r, 0, row);
      this.#complete(rows);
      this.#blocks++;
    }
    this.#broken = false;
  }

  /** Samples (B, H, n) of a piece or its gate. */
  #samples(tensor: Tensor, name: string, call: string): SampleArray {
    const { dtype } = this.#options;
    const expected: Expected = { call, name, dtype, dimensions: streamDimensions };
    refuseStreamBuffer(tensor, name, call);
    const nothing = emptyOf(tensor, dtype);
    const { data, shape } = nothing ?? samplesOf(tensor, expected);
    const { batch, channels } = this.#shape;
    checkSizes(shape, [batch, channels, nothing ? 0 : undefined], expected);
    return data;
  }

  /**
   * The end of the input: the outputs that are still to come, so that there are L of all, or L + K − 1 in mode `full`.
   * The stream then stands at its beginning again, for another sequence.
   */
  async flush(): Promise<NewArray<StoredArray<D>>> {
    const call = "stream.flush";
    this.alive(call);
    return await this.#turn(async () => {
      this.#whole(call);
      this.#broken = true;
      const { mode, kernelLength } = this.#options;
      const all =
        this.#received === 0 ? 0 : this.#received + (mode === "full" ? kernelLength - 1 : 0);
      const left = Math.max(0, all - this.#sent);
      const silence = new Array<Float32Array>(this.#rows).fill(new Float32Array(this.blockLength));
      const rest = new Float32Array(this.#rows * left);
      for (let at = 0; at < left; ) {
        const y = await this.#feed(silence, this.blockLength - this.#pending, call);
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
    this.alive("stream.reset");
    await this.#turn(() => this.#reset());
  }

  /** A sequence that is given up leaves nothing to the next one. */
  async #abandon(): Promise<void> {
    await this.#turn(() => {
      if (!this.disposed) this.#reset();
    });
  }

  /**
   * Convolve pieces as they come, to the end of the input: outputs piece by piece, none of them empty. Where it ends before
   * that, by `break`, an error of the source or a piece that is refused, the stream stands at its beginning again.
   * @throws InvalidArgumentError, BackendError.
   */
  async *convolve(
    source: AsyncIterable<Tensor<D> | StreamPiece<D>> | Iterable<Tensor<D> | StreamPiece<D>>,
  ): AsyncGenerator<NewArray<StoredArray<D>>, void, undefined> {
    checkSource(source, "stream.convolve");
    let rest: NewArray<StoredArray<D>> | undefined;
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
  transform(): TransformStream<Tensor<D> | StreamPiece<D>, NewArray<StoredArray<D>>> {
    return webStream({
      process: (piece: Tensor<D> | StreamPiece<D>) => this.process(piece),
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
    this.#engine.reset();
    this.#inputs.clear();
    this.#gates.clear();
    this.#gated = undefined;
    this.#broken = false;
    this.#pending = this.#blocks = this.#received = this.#sent = 0;
  }

  /** Convolve `n` samples of each row: the rows of outputs that they complete, those before the first one dropped. */
  async #feed(
    inputs: readonly Float32Array[],
    n: number,
    call: string,
  ): Promise<NewArray<Float32Array>> {
    const hop = this.blockLength;
    const done = Math.floor((this.#pending + n) / hop);
    const early = Math.max(0, this.#ahead - this.#blocks * hop);
    const size = Math.max(0, done * hop - early);
    const y = newArray(Float32Array, this.#rows * size, call);
    let at = -Math.min(early, done * hop);
    for (let from = 0; from < n; ) {
      const count = Math.min(n - from, hop - this.#pending);
      this.#engine.take(inputs, from, count);
      from += count;
      this.#pending += count;
      if (this.#pending < hop) break;
      await this.#engine.run(this.#blocks, call);
      for (let r = 0; r < this.#rows; r++) {
        this.#output(y.subarray(r * size, (r + 1) * size), r, at);
      }
      at += hop;
      this.#pending = 0;
      this.#blocks++;
    }
    return y;
  }

  /** The newest outputs of row r to out[at …]; those before index 0 are dropped. */
  #output(out: Float32Array, r: number, at: number): void {
    const hop = this.blockLength;
    const drop = Math.min(hop, Math.max(0, -at));
    if (drop === hop) return;
    this.#engine.output(this.#blocks, r, drop, out.subarray(at + drop, at + hop));
  }

  /** Rows of outputs that are due, in the stream's type. */
  #finish(y: NewArray<Float32Array>): NewArray<StoredArray<D>> {
    this.#complete(rowsIn(y, "float32", this.#rows));
    return this.#stored(y);
  }

  /** Outputs in the stream's type; float32 ones are that already. */
  #stored(y: NewArray<Float32Array>): NewArray<StoredArray<D>> {
    const { dtype } = this.#options;
    return (dtype === "float32" ? y : encode(y, dtype)) as NewArray<StoredArray<D>>;
  }

  /** Gates and skip of rows of outputs that are due. */
  #complete(rows: readonly Float32Array[]): void {
    const count = rows[0]!.length;
    this.#sent += count;
    const gates = this.#gated ? this.#gates.shift(count) : undefined;
    const inputs = this.#skip ? this.#inputs.shift(count) : undefined;
    for (const [r, row] of rows.entries()) {
      const gate = gates?.[r];
      if (gate) for (let i = 0; i < count; i++) row[i]! *= gate[i]!;
      const input = inputs?.[r];
      const skip = this.#skip?.[r % this.#shape.channels] ?? 0;
      if (input) for (let i = 0; i < count; i++) row[i]! += skip * input[i]!;
    }
  }

  /** Run `work` when no other call is running. */
  async #turn<T>(work: () => T | Promise<T>): Promise<T> {
    this.#calls++;
    try {
      return await this.#engine.exclusive(work);
    } finally {
      this.#calls--;
    }
  }

  /** Refuse to go on with a sequence that has lost samples. */
  #whole(call: string): void {
    if (!this.#broken) return;
    throw new BackendError({
      call,
      requirement: "a sequence of which every block was computed",
      value: "one in which a call failed",
      remedy: "Call reset() and feed the sequence from its beginning, or create a new stream.",
    });
  }
}

/** A piece with the names of what it has. */
function named<D extends Dtype>(
  piece: Tensor<D> | StreamPiece<D>,
  call: string,
): StreamPiece<Dtype> {
  if (ArrayBuffer.isView(piece) || "data" in piece) return { u: piece };
  known(piece, pieceNames, call, "the piece");
  return piece;
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
