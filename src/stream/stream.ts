/**
 * FlashFFTConvStream: y = postgate ⊙ ((pregate ⊙ u) ∗ k) + skip ⊙ u of a sequence that comes in pieces, of any length,
 * in memory that depends on the kernel alone.
 */
import type { Running } from "../calls/cpu-threads.ts";
import { loadGpu } from "../calls/load-gpu.ts";
import { Operation } from "../calls/operation.ts";
import { checkRuntime } from "../calls/runtime.ts";
import type { Dtype, NewArray, StoredArray } from "../dtype.ts";
import { encode } from "../dtype.ts";
import { BackendError, InvalidArgumentError } from "../errors.ts";
import { intact } from "../tensors/check.ts";
import { newArray } from "../tensors/results.ts";
import type { Tensor } from "../tensors/tensor.ts";
import { CpuStream } from "./cpu.ts";
import { Delay } from "./delay.ts";
import type { StreamEngine, StreamRows } from "./engine.ts";
import type { CheckedStream, StreamOptions, StreamPiece, StreamSettings } from "./options.ts";
import { checkStream } from "./options.ts";
import type { PieceSamples } from "./pieces.ts";
import { checkPiece, checkSource, rowsIn } from "./pieces.ts";
import { blocksNow, renderer, renderLength } from "./render.ts";
import { webStream } from "./web-stream.ts";

/**
 * A long convolution with samples of dtype `D` that is fed piece by piece. Make it with `FlashFFTConvStream.create`, free it
 * with `dispose`. Outputs are new arrays: Float32Array, or for half precision Uint16Array, the bits. The kernel is cut into
 * partitions that grow with their lag (Gardner, J. Audio Eng. Soc. 43, 1995).
 * @example
 * const stream = await FlashFFTConvStream.create(Float32Array.of(1, 1), { blockLength: 16 });
 * const first = await stream.process(new Float32Array(20).fill(1));
 * const last = await stream.flush();
 * console.log(first.length, last.map(Math.round)); // 16 Float32Array(4) [ 2, 2, 2, 2 ]
 * stream.dispose();
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
    const checked = checkPiece(piece, { ...this.#shape, ...this.#options }, call);
    if (checked.size === 0) return this.#stored(new Float32Array(0));
    return await this.#turn(() => this.#process(checked, call, this.#run));
  }

  /**
   * process, done when it returns: on the CPU, on the calling thread, with the same bits. For pieces of any length, gates and all
   * types and modes; `render` is quicker for whole blocks of float32.
   * @throws InvalidArgumentError, UnsupportedError on a GPU, BackendError.
   */
  processSync(piece: Tensor<D> | StreamPiece<D>): NewArray<StoredArray<D>> {
    const call = "stream.processSync";
    this.alive(call);
    const checked = checkPiece(piece, { ...this.#shape, ...this.#options }, call);
    const run = blocksNow(this.#engine, this.#calls > 0, call);
    if (checked.size === 0) return this.#stored(new Float32Array(0));
    return this.#process(checked, call, run) as NewArray<StoredArray<D>>;
  }

  /** Take a piece: the outputs that it completes. */
  #process(
    piece: PieceSamples,
    call: string,
    run: RunBlock,
  ): NewArray<StoredArray<D>> | Promise<NewArray<StoredArray<D>>> {
    const { size, u, pregate, postgate } = piece;
    const { dtype } = this.#options;
    this.#whole(call);
    for (const [name, samples] of Object.entries({ u, pregate, postgate })) {
      if (samples) intact(name, samples, size, call);
    }
    this.#open(call, postgate !== undefined);
    // What fails from here on may have taken some of the samples, which nobody gives again.
    this.#broken = true;
    const rows = rowsIn(u, dtype, this.#rows);
    const n = size / this.#rows;
    this.#received += n;
    if (this.#skip) this.#inputs.push(rows);
    if (postgate) this.#gates.push(rowsIn(postgate, dtype, this.#rows));
    const factors = pregate && rowsIn(pregate, dtype, this.#rows);
    const inputs = factors ? rows.map((row, r) => row.map((x, i) => x * factors[r]![i]!)) : rows;
    const finish = (y: NewArray<Float32Array>): NewArray<StoredArray<D>> => {
      const out = this.#finish(y);
      this.#broken = false;
      return out;
    };
    const y = this.#feed(inputs, n, call, run);
    return y instanceof Promise ? y.then(finish) : finish(y);
  }

  /**
   * The next blocks, convolved when this returns: for who cannot await, such as `process` of an AudioWorklet. Inputs and
   * outputs are lists with an array for each row, in the order b·H + h, all of one length, a multiple of `blockLength`; an
   * array may be both. Everything runs on the calling thread. For streams on the CPU, of float32, in mode `causal` or `full`.
   * The outputs have the bits of `process`, which may be called between.
   * @throws InvalidArgumentError, UnsupportedError, BackendError.
   * @example
   * const stream = await FlashFFTConvStream.create(Float32Array.of(1, 1), { blockLength: 16, backend: "cpu" });
   * const block = new Float32Array(16).fill(1);
   * stream.render([block], [block]);
   * console.log(block.slice(0, 3).map(Math.round)); // Float32Array(3) [ 1, 2, 2 ]
   * stream.dispose();
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

  /**
   * The end of the input: the outputs that are still to come, so that there are L of all, or L + K − 1 in mode `full`.
   * The stream then stands at its beginning again, for another sequence.
   */
  async flush(): Promise<NewArray<StoredArray<D>>> {
    const call = "stream.flush";
    this.alive(call);
    return await this.#turn(() => this.#flush(call, this.#run));
  }

  /** flush, done when it returns, as processSync is. */
  flushSync(): NewArray<StoredArray<D>> {
    const call = "stream.flushSync";
    this.alive(call);
    const run = blocksNow(this.#engine, this.#calls > 0, call);
    return this.#flush(call, run) as NewArray<StoredArray<D>>;
  }

  #flush(
    call: string,
    run: RunBlock,
  ): NewArray<StoredArray<D>> | Promise<NewArray<StoredArray<D>>> {
    this.#whole(call);
    this.#broken = true;
    const { mode, kernelLength } = this.#options;
    const all =
      this.#received === 0 ? 0 : this.#received + (mode === "full" ? kernelLength - 1 : 0);
    const left = Math.max(0, all - this.#sent);
    // Silence until all of them are out, for the samples of the block under way and the look-ahead.
    const n = left === 0 ? 0 : this.#untilOut(left);
    const silence = new Array<Float32Array>(this.#rows).fill(new Float32Array(n));
    const finish = (y: NewArray<Float32Array>): NewArray<StoredArray<D>> => {
      const width = y.length / this.#rows;
      const rest = new Float32Array(this.#rows * left);
      for (let r = 0; r < this.#rows; r++)
        rest.set(y.subarray(r * width, r * width + left), r * left);
      const out = this.#finish(rest);
      this.#reset();
      return out;
    };
    const y = this.#feed(silence, n, call, run);
    return y instanceof Promise ? y.then(finish) : finish(y);
  }

  /** Samples to feed so that `left` more outputs come: whole blocks, the first of which is begun. */
  #untilOut(left: number): number {
    const hop = this.blockLength;
    const early = Math.max(0, this.#ahead - this.#blocks * hop);
    return Math.ceil((early + left) / hop) * hop - this.#pending;
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
   * @example
   * const stream = await FlashFFTConvStream.create(Float32Array.of(1, 1), { blockLength: 16 });
   * let samples = 0;
   * for await (const y of stream.convolve([new Float32Array(20), new Float32Array(7)])) samples += y.length;
   * console.log(samples); // 27
   * stream.dispose();
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

  readonly #run: RunBlock = (block, call) => this.#engine.run(block, call);

  /** Convolve `n` samples of each row: the rows of outputs that they complete, those before the first one dropped. */
  #feed(
    inputs: readonly Float32Array[],
    n: number,
    call: string,
    run: RunBlock,
  ): NewArray<Float32Array> | Promise<NewArray<Float32Array>> {
    const hop = this.blockLength;
    const done = Math.floor((this.#pending + n) / hop);
    const early = Math.max(0, this.#ahead - this.#blocks * hop);
    const size = Math.max(0, done * hop - early);
    const y = newArray(Float32Array, this.#rows * size, call);
    let at = -Math.min(early, done * hop);
    let from = 0;
    const take = (): boolean => {
      const count = Math.min(n - from, hop - this.#pending);
      this.#engine.take(inputs, from, count);
      from += count;
      this.#pending += count;
      return this.#pending === hop;
    };
    const bring = (): void => {
      for (let r = 0; r < this.#rows; r++) {
        this.#output(y.subarray(r * size, (r + 1) * size), r, at);
      }
      at += hop;
      this.#pending = 0;
      this.#blocks++;
    };
    const rest = (): Running => {
      while (from < n && take()) {
        const running = run(this.#blocks, call);
        if (running) return running.then(bring).then(rest);
        bring();
      }
    };
    const running = rest();
    return running ? running.then(() => y) : y;
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

/** Convolves a whole block. */
type RunBlock = (block: number, call: string) => Running;
