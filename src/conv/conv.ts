/**
 * FlashFFTConv: the object users hold. It plans once, then runs y = postgate ⊙ ((pregate ⊙ u) ∗ k) + skip ⊙ u and its
 * gradients as often as asked.
 */
import type { Instructions } from "../backend/cpu/features.ts";
import type { RowField } from "../calls/cpu-staging.ts";
import { PreparedKernel } from "../calls/prepared.ts";
import type { GpuRecorder } from "../calls/recorder.ts";
import { refuseRecorder } from "../calls/recorder.ts";
import { checkEncoder, madeByCreate } from "../calls/runtime.ts";
import { checkFlags, checkOptions, integer, known } from "../checks.ts";
import type { Dtype, SampleArray, StoredArray } from "../dtype.ts";
import { InvalidArgumentError } from "../errors.ts";
import type { GpuDevice } from "../gpu.ts";
import { product } from "../plan/cpu/plan.ts";
import type { Problem } from "../plan/problem.ts";
import { show } from "../show.ts";
import type { Expected, Named } from "../tensors/check.ts";
import { apart, checkSizes, exactly, rowsOf, samplesOf } from "../tensors/check.ts";
import type { ResultOf } from "../tensors/result-types.ts";
import { newArray, orDestroyed, settled } from "../tensors/results.ts";
import type { GpuTensor, Tensor, TensorData } from "../tensors/tensor.ts";
import { GpuSamples, handed, isGpuTensor } from "../tensors/tensor.ts";
import type { Gates, Shape } from "./cpu-rows.ts";
import type { Explanation } from "./explain.ts";
import { openRunner } from "./open.ts";
import type {
  BackwardOptions,
  ConvRecorderOptions,
  FlashFFTConvOptions,
  ForwardOptions,
  GradientArrays,
  GradientsOf,
  MemoryUse,
  RecordedConvCall,
  WarmUp,
} from "./options.ts";
import { checkedProblem } from "./options.ts";
import type { KernelArgument, Request, RowOperand, Runner } from "./runner.ts";

const inputDimensions = ["B", "H", "L"] as const;
const outputDimensions = ["B", "H", "Lout"] as const;
/** Options of forward and backward calls, and of a backward call's `out`. */
const operandNames = ["pregate", "postgate", "skip", "out", "encoder"] as const;
/** Options of `warmUp`. */
const warmUpNames = ["backward", "pregate", "postgate", "skip"] as const;
const gradientNames = ["du", "dk", "dpregate", "dpostgate", "dskip"] as const;

/** The dimensions of each result that a caller may give. */
const resultDimensions: Readonly<Record<string, readonly string[]>> = {
  out: outputDimensions,
  du: inputDimensions,
  dpregate: inputDimensions,
  dpostgate: outputDimensions,
  dk: ["H", "K"],
  dskip: ["H"],
};

/**
 * A long convolution with fixed lengths, mode and dtype `D`. Make it with `FlashFFTConv.create`, free it with `dispose`.
 */
export class FlashFFTConv<out D extends Dtype = "float32"> {
  /** Lengths, mode and dtype. */
  readonly problem: Problem<D>;
  readonly #runner: Runner;
  #disposed = false;

  private constructor(problem: Problem<D>, runner: Runner) {
    madeByCreate(typeof runner?.leave === "function", "FlashFFTConv");
    this.problem = problem;
    this.#runner = runner;
    // What calls rely on cannot be written to.
    Object.freeze(this);
  }

  /**
   * Plan, compile, open the backend.
   * @throws InvalidArgumentError for options out of range, UnsupportedError for what the runtime lacks.
   */
  static create<D extends Dtype = "float32">(
    options: FlashFFTConvOptions<D>,
  ): Promise<FlashFFTConv<D>> {
    return FlashFFTConv.createFor(options, "FlashFFTConv.create");
  }

  /** @internal create, with errors that name another call. */
  static async createFor<D extends Dtype = "float32">(
    options: FlashFFTConvOptions<D>,
    call: string,
  ): Promise<FlashFFTConv<D>> {
    const problem = checkedProblem(options, call);
    return new FlashFFTConv(problem, await openRunner(problem, options, call));
  }

  /** Samples of one output row. */
  get outputLength(): number {
    return this.problem.outputLength;
  }

  /** Threads in use, the caller's included. */
  get threads(): number {
    return this.#runner.threads;
  }

  /** In what the kernels are written: an instruction set of the CPU, or WebGPU's language. */
  get instructions(): Instructions | "wgsl" {
    return this.#runner.instructions;
  }

  /** The GPU device in use, for buffers and commands of your own; undefined on the CPU. */
  get device(): GpuDevice | undefined {
    return this.#runner.device;
  }

  /** Which plan was chosen, what it is predicted to cost, and what the others would. */
  explain(): Explanation {
    return this.#runner.explain();
  }

  /** Bytes held in the backend. */
  memory(): MemoryUse {
    return this.#runner.memory();
  }

  /** A zeroed array (B, H, L) that forward and backward use without copying; it lives until `dispose`. */
  allocateInput(batch: number, channels: number): StoredArray<D> {
    return this.#lend(batch, channels, this.problem.length, "conv.allocateInput");
  }

  /** A zeroed array (B, H, Lout) that forward and backward use without copying; it lives until `dispose`. */
  allocateOutput(batch: number, channels: number): StoredArray<D> {
    return this.#lend(batch, channels, this.problem.outputLength, "conv.allocateOutput");
  }

  #lend(batch: number, channels: number, width: number, call: string): StoredArray<D> {
    this.#alive(call);
    const rows =
      integer(call, "batch", batch, 1, 2 ** 31) * integer(call, "channels", channels, 1, 2 ** 31);
    return this.#runner.lend(rows * width, this.problem.dtype, call) as StoredArray<D>;
  }

  #expected(call: string, name: string, dimensions: readonly string[]): Expected {
    return { call, name, dtype: this.problem.dtype, dimensions, device: this.#runner.device };
  }

  /** The taps of a kernel argument (H, K) and their storage type. */
  #taps(k: Tensor | GpuTensor, call: string): { data: TensorData; dtype: Dtype; channels: number } {
    const stored = { ...this.#expected(call, "k", ["H", "K"]), orFloat32: true };
    // A buffer does not say what it holds: taps on the GPU are float32.
    const expected = isGpuTensor(k) ? { ...stored, dtype: "float32" as const } : stored;
    const { data, shape } = samplesOf(k, expected);
    this.#width(shape, this.problem.kernelLength, expected);
    const channels = rowsOf(data, this.problem.kernelLength, expected);
    const wide = data instanceof Float32Array || data instanceof GpuSamples;
    return { data, dtype: wide ? "float32" : this.problem.dtype, channels };
  }

  #width(shape: readonly number[] | undefined, width: number, e: Expected): void {
    if (!shape || shape.at(-1) === width) return;
    throw new InvalidArgumentError({
      call: e.call,
      requirement: `the last dimension of ${e.name} must be ${show(width)}`,
      value: show(shape),
      remedy: "Create the FlashFFTConv object with that length.",
    });
  }

  /** Compute and keep the spectrum of k (H, K), for calls whose kernel does not change. */
  async prepareKernel(k: Tensor<D | "float32"> | GpuTensor): Promise<PreparedKernel> {
    const call = "conv.prepareKernel";
    this.#alive(call);
    const { data, dtype, channels } = this.#taps(k, call);
    const request = { name: call, alive: () => this.#alive(call) };
    return this.#runner.prepare(data, dtype, channels, request);
  }

  /** A kernel argument: one that this object has prepared, or taps. */
  #kernel(
    k: Tensor | GpuTensor | PreparedKernel,
    call: string,
  ): { kernel: KernelArgument; channels: number; taps: Named[] } {
    if (!(k instanceof PreparedKernel)) {
      const { data, dtype, channels } = this.#taps(k, call);
      return { kernel: { taps: data, dtype }, channels, taps: [{ name: "k", data }] };
    }
    if (this.#runner.holds(k)) return { kernel: { prepared: k }, channels: k.channels, taps: [] };
    throw new InvalidArgumentError({
      call,
      requirement: "a prepared kernel must be alive and of the same FlashFFTConv object",
      value: "one that is disposed or of another object",
      remedy: "Call prepareKernel on this object.",
    });
  }

  /** The batch and channels of a call, from u and the number of kernel rows. */
  #shape(
    u: Tensor | GpuTensor,
    channels: number,
    call: string,
  ): { data: TensorData; shape: Shape } {
    const expected = this.#expected(call, "u", inputDimensions);
    const { data, shape } = samplesOf(u, expected);
    this.#width(shape, this.problem.length, expected);
    const rows = rowsOf(data, this.problem.length, expected);
    const batch = rows / channels;
    if (Number.isInteger(batch) && (!shape || shape[1] === channels))
      return { data, shape: { batch, channels } };
    throw new InvalidArgumentError({
      call,
      requirement: `u must have as many channels as k has rows (${show(channels)}), for each of B batch rows`,
      value: shape ? show(shape) : `${show(rows)} rows`,
      remedy: "Pass k of shape (H, K) for u of shape (B, H, L).",
    });
  }

  /** An optional row tensor with exactly the rows of the call. */
  #rows(
    tensor: Tensor | GpuTensor,
    field: RowField,
    width: number,
    shape: Shape,
    call: string,
  ): RowOperand {
    const long = field === "postgate" || field === "dy";
    const expected = this.#expected(call, field, long ? outputDimensions : inputDimensions);
    const { data, shape: given } = samplesOf(tensor, expected);
    checkSizes(given, [shape.batch, shape.channels, width], expected);
    exactly(data, shape.batch * shape.channels * width, expected);
    return { field, data, width, direction: "in" };
  }

  #gates(
    options: Pick<ForwardOptions<Dtype>, "pregate" | "postgate">,
    shape: Shape,
    call: string,
  ): { rows: RowOperand[]; flags: Gates } {
    const { length, outputLength } = this.problem;
    const rows: RowOperand[] = [];
    if (options.pregate !== undefined)
      rows.push(this.#rows(options.pregate, "pregate", length, shape, call));
    if (options.postgate !== undefined)
      rows.push(this.#rows(options.postgate, "postgate", outputLength, shape, call));
    return {
      rows,
      flags: { pregate: options.pregate !== undefined, postgate: options.postgate !== undefined },
    };
  }

  #skip(skip: Tensor | GpuTensor | undefined, shape: Shape, call: string): TensorData | undefined {
    if (skip === undefined) return undefined;
    const { length, outputLength, mode } = this.problem;
    if (length !== outputLength) {
      throw new InvalidArgumentError({
        call,
        requirement: "skip needs outputs as long as the inputs",
        value: `mode ${show(mode)} with ${show(outputLength)} outputs for ${show(length)} inputs`,
        remedy: "Use another mode, or add skip ⊙ u yourself.",
      });
    }
    const expected: Expected = { ...this.#expected(call, "skip", ["H"]), dtype: "float32" };
    const { data } = samplesOf(skip, expected);
    exactly(data, shape.channels, expected);
    return data;
  }

  /** Check what the caller gives for a result of a shape, and note it. */
  #output(
    out: Tensor | GpuTensor,
    shape: readonly number[],
    name: string,
    call: string,
    outputs: Named[],
    dtype: Dtype = this.problem.dtype,
  ): TensorData {
    const expected = { ...this.#expected(call, name, resultDimensions[name]!), dtype };
    const { data, shape: own } = samplesOf(out, expected);
    checkSizes(own, shape, expected);
    exactly(data, product(shape), expected);
    outputs.push({ name, data, isOutput: true });
    return data;
  }

  /** Memory for a result: an array of u's kind, or a new buffer that is the caller's where u is in one. */
  #result(
    like: TensorData,
    shape: readonly number[],
    dtype: Dtype,
    call: string,
  ): TensorData | Promise<TensorData> {
    const size = product(shape);
    if (like instanceof GpuSamples) return this.#runner.allocate(size, dtype, call);
    const Kind = dtype === this.problem.dtype ? like.constructor : Float32Array;
    return newArray(Kind as new (n: number) => SampleArray, size, call);
  }

  /**
   * y = postgate ⊙ ((pregate ⊙ u) ∗ k) + skip ⊙ u. Inputs are read, and `out` is written, until the promise settles; what
   * `out` holds before that is not promised.
   * @param u (B, H, L) samples of the object's dtype.
   * @param k (H, K) taps, float32 or the dtype, or a kernel from `prepareKernel`.
   * @returns (B, H, Lout) samples: `out`, or an array of u's kind; a new buffer that is the caller's where u is in one.
   * @throws InvalidArgumentError, BackendError.
   */
  forward<U extends Tensor<D> | GpuTensor, O extends Tensor<D> | GpuTensor | undefined = undefined>(
    u: U,
    k: Tensor<D | "float32"> | GpuTensor | PreparedKernel,
    options: ForwardOptions<D, O> = {},
  ): Promise<ResultOf<U, O>> {
    return this.forwardFor(u, k, options, "conv.forward") as Promise<ResultOf<U, O>>;
  }

  /** @internal forward, with errors that name another call. */
  async forwardFor(
    u: Tensor | GpuTensor,
    k: Tensor | GpuTensor | PreparedKernel,
    options: ForwardOptions<Dtype>,
    call: string,
  ): Promise<SampleArray | GpuTensor> {
    this.#alive(call);
    checkOptions(options, call);
    known(options, operandNames, call);
    checkEncoder(options.encoder, this.#runner.device, call);
    const { kernel, channels, taps } = this.#kernel(k, call);
    const { data, shape } = this.#shape(u, channels, call);
    const gates = this.#gates(options, shape, call);
    const skip = this.#skip(options.skip, shape, call);
    const { length, outputLength, dtype } = this.problem;
    const whole = [shape.batch, channels, outputLength];
    const given: Named[] = [];
    const out =
      options.out === undefined
        ? this.#result(data, whole, dtype, call)
        : this.#output(options.out, whole, "out", call, given);
    if (given[0]) {
      const gateRows = gates.rows.map((r) => ({ name: r.field, data: r.data }));
      const weights = skip ? [{ name: "skip", data: skip }] : [];
      apart(given[0], [{ name: "u", data }, ...taps, ...gateRows, ...weights], call);
    }
    const y = out instanceof Promise ? await out : out;
    const rows: RowOperand[] = [
      { field: "u", data, width: length, direction: "in" },
      ...gates.rows,
      { field: "y", data: y, width: outputLength, direction: "out" },
    ];
    const request = this.#request({ kernel, shape, rows, gates: gates.flags, skip }, options, call);
    const running = this.#runner.forward(request);
    if (running) await orDestroyed(running, given[0] ? [] : [y]);
    return handed(y, whole);
  }

  #request(
    checked: Omit<Request, "name" | "encoder" | "alive">,
    options: Pick<ForwardOptions, "encoder">,
    call: string,
  ): Request {
    return {
      ...{ ...checked, name: call, encoder: options.encoder },
      alive: () => this.#alive(call),
    };
  }

  /**
   * Gradients of a forward call with the same u, k and options, given dy = ∂loss/∂y (B, H, Lout). Nothing of the forward
   * call is kept but what is passed here; transforms are computed again.
   * @throws InvalidArgumentError, BackendError.
   */
  async backward<
    U extends Tensor<D> | GpuTensor,
    O extends GradientArrays<D> | undefined = undefined,
  >(
    dy: Tensor<D> | GpuTensor,
    u: U,
    k: Tensor<D | "float32"> | GpuTensor | PreparedKernel,
    options: BackwardOptions<D, O> = {},
  ): Promise<GradientsOf<U, O>> {
    const call = "conv.backward";
    this.#alive(call);
    checkOptions(options, call);
    known(options, operandNames, call);
    checkEncoder(options.encoder, this.#runner.device, call);
    const { kernel, channels, taps } = this.#kernel(k, call);
    const { data, shape } = this.#shape(u, channels, call);
    const { length, outputLength, kernelLength, dtype } = this.problem;
    const upstream = this.#rows(dy, "dy", outputLength, shape, call);
    const gates = this.#gates(options, shape, call);
    const skip = this.#skip(options.skip, shape, call);
    const out: GradientArrays<Dtype> = options.out === undefined ? {} : options.out;
    checkOptions(out, call, "out");
    known(out, gradientNames, call, "out");
    for (const operand of ["pregate", "postgate", "skip"] as const)
      this.#gradientOf(operand, options, call);
    const given: Named[] = [];
    const make = (
      field: "du" | "dk" | "dpregate" | "dpostgate" | "dskip",
      size: readonly number[],
      storage: Dtype,
    ): TensorData | Promise<TensorData> => {
      const wanted = out[field];
      if (wanted === undefined) return this.#result(data, size, storage, call);
      return this.#output(wanted, size, field, call, given, storage);
    };
    const rowsOfWidth = (width: number): number[] => [shape.batch, channels, width];
    const made = {
      du: make("du", rowsOfWidth(length), dtype),
      ...(options.pregate && { dpregate: make("dpregate", rowsOfWidth(length), dtype) }),
      ...(options.postgate && { dpostgate: make("dpostgate", rowsOfWidth(outputLength), dtype) }),
      dk: make("dk", [channels, kernelLength], "float32"),
      ...(skip && { dskip: make("dskip", [channels], "float32") }),
    };
    const weights = skip ? [{ name: "skip", data: skip }] : [];
    const inputs = [upstream, { field: "u", data }, ...gates.rows].map((r) => ({
      name: r.field,
      data: r.data,
    }));
    given.forEach((o, i) => {
      apart(o, [...inputs, ...taps, ...weights, ...given.slice(0, i)], call);
    });
    // Arrays are there at once, so that calls on them take their turns in the order in which they were made.
    const waits = Object.values(made).some((r) => r instanceof Promise);
    const all = (waits ? await settled(made) : made) as Record<string, TensorData>;
    const { dk, dskip, ...results } = all;
    const widths = { du: length, dpregate: length, dpostgate: outputLength };
    const rows: RowOperand[] = [
      upstream,
      { field: "u", data, width: length, direction: "in" },
      ...gates.rows,
      ...(Object.keys(results) as (keyof typeof widths)[]).map(
        (field): RowOperand => ({
          ...{ field, data: results[field]!, width: widths[field], direction: "out" },
        }),
      ),
    ];
    const request = this.#request({ kernel, shape, rows, gates: gates.flags, skip }, options, call);
    const own = Object.entries(all).filter(([name]) => out[name as keyof typeof out] === undefined);
    await orDestroyed(
      this.#runner.backward(request, { dk: dk!, dskip }),
      own.map(([, samples]) => samples),
    );
    const named = Object.entries(results).map(([name, samples]) => [
      name,
      handed(samples, rowsOfWidth(widths[name as keyof typeof widths])),
    ]);
    const { du, ...others } = Object.fromEntries(named);
    return {
      du,
      dk: handed(dk!, [channels, kernelLength]),
      ...others,
      ...(dskip && { dskip: handed(dskip, [channels]) }),
    } as GradientsOf<U, O>;
  }

  /** Refuse an array for the gradient of an operand that the call does not have: nothing would be written there. */
  #gradientOf(
    operand: "pregate" | "postgate" | "skip",
    options: BackwardOptions<Dtype>,
    call: string,
  ): void {
    const name = `d${operand}` as const;
    if (options.out?.[name] === undefined || options[operand] !== undefined) return;
    throw new InvalidArgumentError({
      call,
      requirement: `out.${name} needs a ${operand}`,
      value: `${show(options.out[name])} without one`,
      remedy: `Pass the ${operand} of the forward call, or leave out.${name} out.`,
    });
  }

  /**
   * Compile what calls with these operands need, so that the first of them has nothing left to compile. `create` has compiled what
   * `forward(u, k)` and `prepareKernel` need, with taps in float32; on the CPU that serves gates and the skip term too.
   */
  async warmUp(calls: WarmUp = {}): Promise<void> {
    const call = "conv.warmUp";
    this.#alive(call);
    checkOptions(calls, call);
    known(calls, warmUpNames, call);
    checkFlags(calls, warmUpNames, call);
    const { length, outputLength, mode } = this.problem;
    if (calls.skip && length !== outputLength) {
      throw new InvalidArgumentError({
        call,
        requirement: "skip needs outputs as long as the inputs",
        value: `mode ${show(mode)} with ${show(outputLength)} outputs for ${show(length)} inputs`,
        remedy: "Leave skip out.",
      });
    }
    await this.#runner.warmUp(calls, call);
  }

  /**
   * Say that you have submitted every encoder that calls were given so far. What only their commands name is freed: spectra of
   * kernels disposed of since, outgrown work memory, former values of `skip`. A loop that records needs this now and then;
   * without it they stay until `dispose`.
   */
  async submitted(): Promise<void> {
    this.#alive("conv.submitted");
    await this.#runner.submitted?.();
  }

  /**
   * A call of one shape on the GPU, compiled, to be bound to ranges of your buffers and recorded in the middle of other commands,
   * without waiting. It stands for the method that it is named after.
   * @example
   * ```js
   * const backward = await conv.recorder("backward", { batch: 8, channels: 768, add: true });
   * const bound = backward.bind({ dy, u, k, du, dk }, scratch);
   * bound.encode(pass);
   * ```
   * @throws InvalidArgumentError, UnsupportedError on the CPU, BackendError.
   */
  async recorder(recorded: RecordedConvCall, options: ConvRecorderOptions): Promise<GpuRecorder> {
    const call = "conv.recorder";
    this.#alive(call);
    const recorder = this.#runner.recorder?.(recorded, options, call, (c) => this.#alive(c));
    return recorder ?? refuseRecorder(call);
  }

  #alive(call: string): void {
    if (!this.#disposed) return;
    throw new InvalidArgumentError({
      call,
      requirement: "it needs a FlashFFTConv object that has not been disposed",
      value: "a disposed one",
      remedy: "Create a new object, or dispose later.",
    });
  }

  /** Free spectra, lent arrays and programs. Calls under way finish first; lent arrays must not be used after. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#runner.leave();
  }

  /** The same as `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** The same as `dispose`, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }
}
