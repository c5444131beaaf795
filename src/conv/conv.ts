/**
 * FlashFFTConv: the object users hold. It plans once, then runs y = postgate ⊙ ((pregate ⊙ u) ∗ k) + skip ⊙ u and its
 * gradients as often as asked.
 */
import type { CpuBackend, Program } from "../backend/cpu.ts";
import { openCpu } from "../backend/cpu.ts";
import type { Instructions } from "../backend/features.ts";
import { features } from "../backend/features.ts";
import type { Block } from "../backend/memory.ts";
import type { Dtype, SampleArray } from "../dtype.ts";
import { bytesPerSample } from "../dtype.ts";
import { InvalidArgumentError, show } from "../errors.ts";
import type { Problem } from "../plan/problem.ts";
import { createProblem, integer, oneOf } from "../plan/problem.ts";
import type { Expected, Named, Tensor } from "./arguments.ts";
import { apart, checkOptions, exactly, newArray, rowsOf, samplesOf } from "./arguments.ts";
import { dskipOf } from "./dskip.ts";
import type { Choice, Explanation } from "./explain.ts";
import { choosePlan } from "./explain.ts";
import type {
  BackwardOptions,
  FlashFFTConvOptions,
  ForwardOptions,
  Gradients,
  MemoryUse,
} from "./options.ts";
import { pickInstructions, pickThreads } from "./options.ts";
import { PreparedKernel } from "./prepared.ts";
import type { Engine, Gates, Shape, Spectra } from "./run.ts";
import { createEngine, makeSpectra, runBackward, runForward } from "./run.ts";
import { Seat } from "./seat.ts";
import type { RowField, RowTensor } from "./staging.ts";

const inputDimensions = ["B", "H", "L"] as const;
const outputDimensions = ["B", "H", "Lout"] as const;

/** Thrown inside prepareKernel when the object has moved meanwhile. */
class Moved extends Error {}

/** A long convolution with fixed lengths, mode and dtype. Make it with `FlashFFTConv.create`, free it with `dispose`. */
export class FlashFFTConv {
  /** Lengths, mode and dtype. */
  readonly problem: Problem;
  #seat: Seat;
  readonly #choice: Choice;
  #workspaceBytes = 0;
  #disposed = false;

  private constructor(engine: Engine, choice: Choice) {
    this.problem = engine.problem;
    this.#seat = new Seat(engine);
    this.#choice = choice;
  }

  /**
   * Plan, compile, start threads.
   * @throws InvalidArgumentError for options out of range, UnsupportedError for what the runtime lacks.
   */
  static create(options: FlashFFTConvOptions): Promise<FlashFFTConv> {
    return FlashFFTConv.createFor(options, "FlashFFTConv.create");
  }

  /** @internal create, with errors that name another call. */
  static async createFor(options: FlashFFTConvOptions, call: string): Promise<FlashFFTConv> {
    const problem = createProblem(options, call);
    oneOf(call, "backend", options.backend ?? "auto", ["auto", "cpu"]);
    const instructions = pickInstructions(options.instructions ?? "auto", call);
    const threads = pickThreads(options.threads, instructions, call);
    const batch = integer(call, "batch", options.batch ?? 1, 1, 2 ** 31);
    const channels = integer(call, "channels", options.channels ?? 16, 1, 2 ** 31);
    const workload = { rows: batch * channels, threads };
    const choice = choosePlan(problem, instructions, workload, options.plan, call);
    const backend = openCpu({ threads, instructions, shared: threads > 1 });
    const engine = createEngine(problem, choice.candidate, backend, choice.device);
    const conv = new FlashFFTConv(engine, choice);
    try {
      await backend.exclusive(() => conv.#seat.forward("float32", call));
    } catch (error) {
      conv.dispose();
      throw error;
    }
    return conv;
  }

  /** Samples of one output row. */
  get outputLength(): number {
    return this.problem.outputLength;
  }

  /** Threads in use, the caller's included. */
  get threads(): number {
    return this.#seat.backend.settings.threads;
  }

  /** Instruction set in use. */
  get instructions(): Instructions {
    return this.#seat.backend.settings.instructions;
  }

  /** @internal For tests. */
  get backend(): CpuBackend {
    return this.#seat.backend;
  }

  /** Which plan was chosen, what it is predicted to cost, and what the others would. */
  explain(): Explanation {
    return this.#choice.explanation;
  }

  /** Bytes held in the backend. */
  memory(): MemoryUse {
    const { engine, kernels, backend } = this.#seat;
    let channels = 0;
    for (const kernel of kernels.keys()) channels += kernel.channels;
    return {
      transformBytes: Math.max(...engine.parts.map((p) => p.transformBytes)),
      workspaceBytes: this.#workspaceBytes,
      spectrumBytes: channels * engine.spectrumBytes,
      backendBytes: backend.arena.used,
    };
  }

  /** A zeroed array (B, H, L) that forward and backward use without copying; it lives until `dispose`. */
  allocateInput(batch: number, channels: number): Float32Array | Uint16Array {
    return this.#lend(batch, channels, this.problem.length, "conv.allocateInput");
  }

  /** A zeroed array (B, H, Lout) that forward and backward use without copying; it lives until `dispose`. */
  allocateOutput(batch: number, channels: number): Float32Array | Uint16Array {
    return this.#lend(batch, channels, this.problem.outputLength, "conv.allocateOutput");
  }

  #lend(batch: number, channels: number, width: number, call: string): Float32Array | Uint16Array {
    this.#alive(call);
    const rows =
      integer(call, "batch", batch, 1, 2 ** 31) * integer(call, "channels", channels, 1, 2 ** 31);
    const size = rows * width;
    const { dtype } = this.problem;
    const { arena } = this.#lender(call).backend;
    // Where no memory is shared, an ordinary array, which calls copy.
    if (!this.#seat.backend.settings.shared) {
      return newArray<Float32Array | Uint16Array>(
        dtype === "float32" ? Float32Array : Uint16Array,
        size,
        call,
      );
    }
    const block = arena.allocate(size * bytesPerSample(dtype), call);
    this.#seat.lent.push(block);
    const { buffer } = arena.memory;
    const array =
      dtype === "float32"
        ? new Float32Array(buffer, block.address, size)
        : new Uint16Array(buffer, block.address, size);
    return array.fill(0);
  }

  /** A seat whose backend can lend arrays, where the runtime has one: the object moves there, spectra and all. */
  #lender(call: string): Seat {
    const old = this.#seat;
    const { settings } = old.backend;
    if (settings.shared || settings.instructions === "javascript" || !features().sharedMemory)
      return old;
    const backend = openCpu({ ...settings, shared: true });
    const { candidate, device } = this.#choice;
    const seat = new Seat(createEngine(this.problem, candidate, backend, device));
    try {
      seat.takeKernels(old, call);
    } catch (error) {
      seat.leave();
      throw error;
    }
    this.#seat = seat;
    old.leave();
    return seat;
  }

  #expected(call: string, name: string, dimensions: readonly string[]): Expected {
    return { call, name, dtype: this.problem.dtype, dimensions };
  }

  /** The taps of a kernel argument (H, K) and their storage type. */
  #taps(k: Tensor, call: string): { data: SampleArray; dtype: Dtype; channels: number } {
    const expected = { ...this.#expected(call, "k", ["H", "K"]), orFloat32: true };
    const { data, shape } = samplesOf(k, expected);
    const channels = rowsOf(data, this.problem.kernelLength, expected);
    this.#width(shape, this.problem.kernelLength, expected);
    return { data, dtype: data instanceof Float32Array ? "float32" : this.problem.dtype, channels };
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
  async prepareKernel(k: Tensor): Promise<PreparedKernel> {
    const call = "conv.prepareKernel";
    this.#alive(call);
    const { data, dtype, channels } = this.#taps(k, call);
    const seat = this.#seat;
    const { engine, backend } = seat;
    return backend.exclusive(async () => {
      const programs = await seat.forward(dtype, call);
      const block = backend.arena.allocate(channels * engine.spectrumBytes, call);
      try {
        await makeSpectra(engine, programs, data, [0, channels], block.address, call);
        // Disposed, or moved to another seat, while the spectra were made: begin again, or say so.
        this.#alive(call);
        if (seat !== this.#seat) throw new Moved();
      } catch (error) {
        backend.arena.free(block);
        if (error instanceof Moved) return this.prepareKernel(k);
        throw error;
      }
      const kernel = new PreparedKernel(channels, (k) => this.#freeKernel(k));
      seat.kernels.set(kernel, block);
      return kernel;
    });
  }

  #freeKernel(kernel: PreparedKernel): void {
    const { kernels, backend } = this.#seat;
    const block = kernels.get(kernel);
    kernels.delete(kernel);
    if (block) void backend.exclusive(() => backend.arena.free(block));
  }

  /** The spectra of a kernel that this object has prepared. */
  #prepared(kernel: PreparedKernel, call: string): Block {
    const block = this.#seat.kernels.get(kernel);
    if (block) return block;
    throw new InvalidArgumentError({
      call,
      requirement: "a prepared kernel must be alive and of the same FlashFFTConv object",
      value: "one that is disposed or of another object",
      remedy: "Call prepareKernel on this object.",
    });
  }

  /** Kernel argument → spectra or taps, channels, storage. */
  #kernel(
    k: Tensor | PreparedKernel,
    call: string,
  ): { spectra: Spectra; channels: number; dtype: Dtype } {
    if (k instanceof PreparedKernel) {
      return { spectra: { kept: this.#prepared(k, call) }, channels: k.channels, dtype: "float32" };
    }
    const { data, dtype, channels } = this.#taps(k, call);
    return { spectra: { kernel: data }, channels, dtype };
  }

  /** The batch and channels of a call, from u and the number of kernel rows. */
  #shape(u: Tensor, channels: number, call: string): { data: SampleArray; shape: Shape } {
    const expected = this.#expected(call, "u", inputDimensions);
    const { data, shape } = samplesOf(u, expected);
    const rows = rowsOf(data, this.problem.length, expected);
    this.#width(shape, this.problem.length, expected);
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
    tensor: Tensor,
    field: RowField,
    name: string,
    width: number,
    shape: Shape,
    call: string,
  ): RowTensor {
    const long = field === "postgate" || field === "dy";
    const expected = this.#expected(call, name, long ? outputDimensions : inputDimensions);
    const { data, shape: given } = samplesOf(tensor, expected);
    this.#width(given, width, expected);
    exactly(data, shape.batch * shape.channels * width, expected);
    return { field, data, width, direction: "in" };
  }

  #gates(
    options: Pick<ForwardOptions, "pregate" | "postgate">,
    shape: Shape,
    call: string,
  ): { rows: RowTensor[]; flags: Gates } {
    const { length, outputLength } = this.problem;
    const rows: RowTensor[] = [];
    if (options.pregate !== undefined)
      rows.push(this.#rows(options.pregate, "pregate", "pregate", length, shape, call));
    if (options.postgate !== undefined)
      rows.push(this.#rows(options.postgate, "postgate", "postgate", outputLength, shape, call));
    return {
      rows,
      flags: { pregate: options.pregate !== undefined, postgate: options.postgate !== undefined },
    };
  }

  #skip(skip: Float32Array | undefined, shape: Shape, call: string): Float32Array | undefined {
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
    const expected: Expected = { call, name: "skip", dtype: "float32", dimensions: ["H"] };
    const { data } = samplesOf(skip, expected);
    exactly(data, shape.channels, expected);
    return skip;
  }

  /** Check an array that the caller gives for a result, and note it. */
  #output(
    array: SampleArray,
    size: number,
    name: string,
    call: string,
    given: Named[],
    dtype: Dtype = this.problem.dtype,
  ): void {
    const expected: Expected = { call, name, dtype, dimensions: ["samples"] };
    exactly(samplesOf(array, expected).data, size, expected);
    given.push({ name, data: array });
  }

  #arrayLike(like: SampleArray, size: number, call: string): SampleArray {
    return newArray(like.constructor as new (n: number) => SampleArray, size, call);
  }

  /**
   * y = postgate ⊙ ((pregate ⊙ u) ∗ k) + skip ⊙ u.
   * @param u (B, H, L) samples of the object's dtype.
   * @param k (H, K) taps, float32 or the dtype, or a kernel from `prepareKernel`.
   * @returns (B, H, Lout) samples in an array of u's kind, or `out`.
   * @throws InvalidArgumentError, BackendError.
   */
  forward(
    u: Tensor,
    k: Tensor | PreparedKernel,
    options: ForwardOptions = {},
  ): Promise<SampleArray> {
    return this.forwardFor(u, k, options, "conv.forward");
  }

  /** @internal forward, with errors that name another call. */
  async forwardFor(
    u: Tensor,
    k: Tensor | PreparedKernel,
    options: ForwardOptions,
    call: string,
  ): Promise<SampleArray> {
    this.#alive(call);
    checkOptions(options, call);
    const { spectra, channels, dtype } = this.#kernel(k, call);
    const { data, shape } = this.#shape(u, channels, call);
    const gates = this.#gates(options, shape, call);
    const skip = this.#skip(options.skip, shape, call);
    const { length, outputLength } = this.problem;
    const size = shape.batch * channels * outputLength;
    const out = options.out ?? this.#arrayLike(data, size, call);
    if (options.out !== undefined) {
      const given: Named[] = [];
      this.#output(options.out, size, "out", call, given);
      const taps = "kernel" in spectra ? [{ name: "k", data: spectra.kernel }] : [];
      const gateRows = gates.rows.map((r) => ({ name: r.field, data: r.data }));
      const weights = skip ? [{ name: "skip", data: skip }] : [];
      apart(given[0]!, [{ name: "u", data }, ...taps, ...gateRows, ...weights], call);
    }
    const rows: RowTensor[] = [
      { field: "u", data, width: length, direction: "in" },
      ...gates.rows,
      { field: "y", data: out, width: outputLength, direction: "out" },
    ];
    const seat = this.#seat;
    const run = (programs: readonly Program[]): void | Promise<void> => {
      this.#alive(call);
      const request = { shape, rows, skip, name: call };
      return runForward(seat.engine, programs, spectra, request, gates.flags);
    };
    const running = seat.backend.exclusive(() => {
      const programs = seat.forwardNow(dtype);
      return programs ? run(programs) : seat.forward(dtype, call).then(run);
    });
    if (running) await running;
    this.#workspaceBytes = seat.backend.workspaceBytes;
    return out;
  }

  /**
   * Gradients of a forward call with the same u, k and options, given dy = ∂loss/∂y (B, H, Lout). Nothing of the forward
   * call is kept but what is passed here; transforms are computed again.
   * @throws InvalidArgumentError, BackendError.
   */
  async backward(
    dy: Tensor,
    u: Tensor,
    k: Tensor | PreparedKernel,
    options: BackwardOptions = {},
  ): Promise<Gradients> {
    const call = "conv.backward";
    this.#alive(call);
    checkOptions(options, call);
    const { spectra, channels, dtype } = this.#kernel(k, call);
    const { data, shape } = this.#shape(u, channels, call);
    const { length, outputLength, kernelLength } = this.problem;
    const upstream = this.#rows(dy, "dy", "dy", outputLength, shape, call);
    const gates = this.#gates(options, shape, call);
    const skip = this.#skip(options.skip, shape, call);
    const out = options.out ?? {};
    checkOptions(out, call, "out");
    const given: Named[] = [];
    const make = (field: "du" | "dpregate" | "dpostgate", width: number): RowTensor => {
      const size = shape.batch * channels * width;
      const array = out[field];
      if (array !== undefined) this.#output(array, size, field, call, given);
      return { field, data: array ?? this.#arrayLike(data, size, call), width, direction: "out" };
    };
    const du = make("du", length);
    for (const gate of ["pregate", "postgate"] as const) this.#gradientOf(gate, options, call);
    const dpregate = options.pregate && make("dpregate", length);
    const dpostgate = options.postgate && make("dpostgate", outputLength);
    const dk = out.dk ?? newArray(Float32Array, channels * kernelLength, call);
    if (out.dk !== undefined)
      this.#output(out.dk, channels * kernelLength, "dk", call, given, "float32");
    const outputs = [du, dpregate, dpostgate].filter((r) => r !== undefined);
    const taps = "kernel" in spectra ? [{ name: "k", data: spectra.kernel }] : [];
    const weights = skip ? [{ name: "skip", data: skip }] : [];
    const inputs = [upstream, { field: "u", data }, ...gates.rows].map((r) => ({
      name: r.field,
      data: r.data,
    }));
    given.forEach((o, i) => {
      apart(o, [...inputs, ...taps, ...weights, ...given.slice(0, i)], call);
    });
    const rows: RowTensor[] = [
      upstream,
      { field: "u", data, width: length, direction: "in" },
      ...gates.rows,
      ...outputs,
    ];
    const seat = this.#seat;
    await seat.backend.exclusive(async () => {
      this.#alive(call);
      const programs = {
        forward: await seat.forward(dtype, call),
        backward: await seat.backward(call),
      };
      const request = { shape, rows, skip, name: call };
      await runBackward(seat.engine, programs, spectra, request, gates.flags, dk);
    });
    this.#workspaceBytes = seat.backend.workspaceBytes;
    return {
      du: du.data,
      dk,
      ...(dpregate ? { dpregate: dpregate.data } : {}),
      ...(dpostgate ? { dpostgate: dpostgate.data } : {}),
      ...(skip
        ? { dskip: dskipOf(upstream.data, data, this.problem.dtype, shape, length, call) }
        : {}),
    };
  }

  /** Refuse an array for the gradient of a gate that the call does not have: nothing would be written there. */
  #gradientOf(gate: "pregate" | "postgate", options: BackwardOptions, call: string): void {
    const name = `d${gate}` as const;
    if (options.out?.[name] === undefined || options[gate] !== undefined) return;
    throw new InvalidArgumentError({
      call,
      requirement: `out.${name} needs a ${gate}`,
      value: `${show(options.out[name])} without one`,
      remedy: `Pass the ${gate} of the forward call, or leave out.${name} out.`,
    });
  }

  #alive(call: string): void {
    if (!this.#disposed) return;
    throw new InvalidArgumentError({
      call,
      requirement: "a FlashFFTConv object that has not been disposed",
      value: "a disposed one",
      remedy: "Create a new object, or dispose later.",
    });
  }

  /** Free spectra, lent arrays and programs. Calls under way finish first; lent arrays must not be used after. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#seat.leave();
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
