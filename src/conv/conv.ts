/**
 * FlashFFTConv: the object users hold. It plans once, then runs y = postgate ⊙ ((pregate ⊙ u) ∗ k) + skip ⊙ u and its
 * gradients as often as asked.
 */
import type { CpuBackend, Program } from "../backend/cpu.ts";
import { openCpu } from "../backend/cpu.ts";
import type { Instructions } from "../backend/features.ts";
import type { Job } from "../backend/job.ts";
import type { Block } from "../backend/memory.ts";
import type { Dtype, SampleArray } from "../dtype.ts";
import { bytesPerSample } from "../dtype.ts";
import { InvalidArgumentError, show } from "../errors.ts";
import type { ProgramKind } from "../kernels/program.ts";
import type { Problem } from "../plan/problem.ts";
import { createProblem, integer, oneOf } from "../plan/problem.ts";
import type { Expected, Named, Tensor } from "./arguments.ts";
import { apart, exactly, rowsOf, samplesOf } from "./arguments.ts";
import { dskipOf } from "./dskip.ts";
import type { Explanation } from "./explain.ts";
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
import type { Engine, Shape, Spectra } from "./run.ts";
import { createEngine, makeSpectra, runBackward, runForward } from "./run.ts";
import type { RowField, RowTensor } from "./staging.ts";

/** A long convolution with fixed lengths, mode and dtype. Make it with `FlashFFTConv.create`, free it with `dispose`. */
export class FlashFFTConv {
  /** Lengths, mode and dtype. */
  readonly problem: Problem;
  readonly #engine: Engine;
  readonly #explanation: Explanation;
  /** Programs by storage of the kernel. */
  readonly #forward = new Map<Dtype, readonly Program[]>();
  #backward: readonly Program[] | undefined;
  readonly #kernels = new Map<PreparedKernel, Block>();
  readonly #lent: Block[] = [];
  #workspaceBytes = 0;
  #disposed = false;

  private constructor(engine: Engine, explanation: Explanation) {
    this.problem = engine.problem;
    this.#engine = engine;
    this.#explanation = explanation;
    engine.backend.retain();
  }

  /**
   * Plan, compile, start threads.
   * @throws InvalidArgumentError for options out of range, UnsupportedError for what the runtime lacks.
   */
  static async create(options: FlashFFTConvOptions): Promise<FlashFFTConv> {
    const call = "FlashFFTConv.create";
    const problem = createProblem(options, call);
    oneOf(call, "backend", options.backend ?? "auto", ["auto", "cpu"]);
    const instructions = pickInstructions(options.instructions ?? "auto", call);
    const threads = pickThreads(options.threads, instructions, call);
    const batch = integer(call, "batch", options.batch ?? 1, 1, 2 ** 31);
    const channels = integer(call, "channels", options.channels ?? 16, 1, 2 ** 31);
    const workload = { rows: batch * channels, threads };
    const { explanation, device, candidate } = choosePlan(
      problem,
      instructions,
      workload,
      options.plan,
      call,
    );
    const backend = await openCpu({ threads, instructions });
    const engine = createEngine(problem, candidate, backend, device);
    const conv = new FlashFFTConv(engine, explanation);
    try {
      await backend.exclusive(() => conv.#forwardPrograms("float32", call));
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
    return this.#engine.backend.settings.threads;
  }

  /** Instruction set in use. */
  get instructions(): Instructions {
    return this.#engine.backend.settings.instructions;
  }

  /** @internal For tests. */
  get backend(): CpuBackend {
    return this.#engine.backend;
  }

  /** Which plan was chosen, what it is predicted to cost, and what the others would. */
  explain(): Explanation {
    return this.#explanation;
  }

  /** Bytes held in the backend. */
  memory(): MemoryUse {
    const { spectrumBytes: perChannel, parts } = this.#engine;
    const spectrumBytes = [...this.#kernels.keys()].reduce(
      (n, k) => n + k.channels * perChannel,
      0,
    );
    return {
      transformBytes: Math.max(...parts.map((p) => p.template.transformBytes)),
      workspaceBytes: this.#workspaceBytes,
      spectrumBytes,
      backendBytes: this.#engine.backend.arena.used,
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
    const { backend } = this.#engine;
    const size = rows * width;
    const { dtype } = this.problem;
    // Where memory cannot be shared its views die when it grows: there, an ordinary array, which forward copies.
    if (!backend.lendsArrays)
      return dtype === "float32" ? new Float32Array(size) : new Uint16Array(size);
    const block = backend.arena.allocate(size * bytesPerSample(dtype), call);
    this.#lent.push(block);
    const { buffer } = backend.arena.memory;
    const array =
      dtype === "float32"
        ? new Float32Array(buffer, block.address, size)
        : new Uint16Array(buffer, block.address, size);
    return array.fill(0);
  }

  async #forwardPrograms(kernelDtype: Dtype, call: string): Promise<readonly Program[]> {
    const found = this.#forward.get(kernelDtype);
    if (found) return found;
    const programs = await this.#programs("forward", kernelDtype, call);
    this.#forward.set(kernelDtype, programs);
    return programs;
  }

  async #backwardPrograms(call: string): Promise<readonly Program[]> {
    this.#backward ??= await this.#programs("backward", "float32", call);
    return this.#backward;
  }

  async #programs(
    kind: ProgramKind,
    kernelDtype: Dtype,
    call: string,
  ): Promise<readonly Program[]> {
    const { problem, parts, backend } = this.#engine;
    const programs: Program[] = [];
    for (const { part, plan } of parts) {
      const spec = {
        kind,
        part,
        adds: programs.length > 0,
        plan,
        dtype: problem.dtype,
        kernelDtype,
      };
      programs.push(await backend.program(spec, call));
    }
    return programs;
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
    const engine = this.#engine;
    return engine.backend.exclusive(async () => {
      const programs = await this.#forwardPrograms(dtype, call);
      const block = engine.backend.arena.allocate(channels * engine.spectrumBytes, call);
      try {
        await makeSpectra(engine, programs, data, [0, channels], block.address, call);
      } catch (error) {
        engine.backend.arena.free(block);
        throw error;
      }
      const kernel = new PreparedKernel(this, channels, block, (k) => this.#freeKernel(k));
      this.#kernels.set(kernel, block);
      return kernel;
    });
  }

  #freeKernel(kernel: PreparedKernel): void {
    const block = this.#kernels.get(kernel);
    this.#kernels.delete(kernel);
    if (block) void this.#engine.backend.exclusive(() => this.#engine.backend.arena.free(block));
  }

  /** Kernel argument → spectra or taps, channels, storage. */
  #kernel(
    k: Tensor | PreparedKernel,
    call: string,
  ): { spectra: Spectra; channels: number; dtype: Dtype } {
    if (k instanceof PreparedKernel) {
      return { spectra: { kept: k.blockFor(this, call) }, channels: k.channels, dtype: "float32" };
    }
    const { data, dtype, channels } = this.#taps(k, call);
    return { spectra: { kernel: data }, channels, dtype };
  }

  /** The batch and channels of a call, from u and the number of kernel rows. */
  #shape(u: Tensor, channels: number, call: string): { data: SampleArray; shape: Shape } {
    const expected = this.#expected(call, "u", ["B", "H", "L"]);
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
    const long =
      width === this.problem.length && field !== "postgate" && field !== "dy" ? "L" : "Lout";
    const expected = this.#expected(call, name, ["B", "H", long]);
    const { data, shape: given } = samplesOf(tensor, expected);
    this.#width(given, width, expected);
    exactly(data, shape.batch * shape.channels * width, expected);
    return { field, data, width, direction: "in" };
  }

  #gates(
    options: Pick<ForwardOptions, "pregate" | "postgate">,
    shape: Shape,
    call: string,
  ): { rows: RowTensor[]; flags: Partial<Job> } {
    const { length, outputLength } = this.problem;
    const rows: RowTensor[] = [];
    if (options.pregate)
      rows.push(this.#rows(options.pregate, "pregate", "pregate", length, shape, call));
    if (options.postgate)
      rows.push(this.#rows(options.postgate, "postgate", "postgate", outputLength, shape, call));
    return {
      rows,
      flags: { hasPregate: Number(!!options.pregate), hasPostgate: Number(!!options.postgate) },
    };
  }

  #skip(skip: Float32Array | undefined, shape: Shape, call: string): Float32Array | undefined {
    if (!skip) return undefined;
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

  #newArray(like: SampleArray, size: number): SampleArray {
    const Kind = like.constructor as new (n: number) => SampleArray;
    return new Kind(size);
  }

  /**
   * y = postgate ⊙ ((pregate ⊙ u) ∗ k) + skip ⊙ u.
   * @param u (B, H, L) samples of the object's dtype.
   * @param k (H, K) taps, float32 or the dtype, or a kernel from `prepareKernel`.
   * @returns (B, H, Lout) samples in an array of u's kind, or `out`.
   * @throws InvalidArgumentError, BackendError.
   */
  async forward(
    u: Tensor,
    k: Tensor | PreparedKernel,
    options: ForwardOptions = {},
  ): Promise<SampleArray> {
    const call = "conv.forward";
    this.#alive(call);
    const { spectra, channels, dtype } = this.#kernel(k, call);
    const { data, shape } = this.#shape(u, channels, call);
    const gates = this.#gates(options, shape, call);
    const skip = this.#skip(options.skip, shape, call);
    const { length, outputLength } = this.problem;
    const size = shape.batch * channels * outputLength;
    const out = options.out ?? this.#newArray(data, size);
    if (options.out) {
      const given: Named[] = [];
      this.#output(options.out, size, "out", call, given);
      const taps = "kernel" in spectra ? [{ name: "k", data: spectra.kernel }] : [];
      const gateRows = gates.rows.map((r) => ({ name: r.field, data: r.data }));
      apart(given[0]!, [{ name: "u", data }, ...taps, ...gateRows], call);
    }
    const rows: RowTensor[] = [
      { field: "u", data, width: length, direction: "in" },
      ...gates.rows,
      { field: "y", data: out, width: outputLength, direction: "out" },
    ];
    const engine = this.#engine;
    const run = (programs: readonly Program[]): void | Promise<void> => {
      this.#alive(call);
      return runForward(engine, programs, spectra, { shape, rows, skip, name: call }, gates.flags);
    };
    const running = engine.backend.exclusive(() => {
      const programs = this.#forward.get(dtype);
      return programs ? run(programs) : this.#forwardPrograms(dtype, call).then(run);
    });
    if (running) await running;
    this.#workspaceBytes = engine.backend.workspaceBytes;
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
    const { spectra, channels, dtype } = this.#kernel(k, call);
    const { data, shape } = this.#shape(u, channels, call);
    const { length, outputLength, kernelLength } = this.problem;
    const upstream = this.#rows(dy, "dy", "dy", outputLength, shape, call);
    const gates = this.#gates(options, shape, call);
    const skip = this.#skip(options.skip, shape, call);
    const out = options.out ?? {};
    const given: Named[] = [];
    const make = (field: "du" | "dpregate" | "dpostgate", width: number): RowTensor => {
      const size = shape.batch * channels * width;
      const array = out[field];
      if (array) this.#output(array, size, field, call, given);
      return { field, data: array ?? this.#newArray(data, size), width, direction: "out" };
    };
    const du = make("du", length);
    const dpregate = options.pregate && make("dpregate", length);
    const dpostgate = options.postgate && make("dpostgate", outputLength);
    const dk = out.dk ?? new Float32Array(channels * kernelLength);
    if (out.dk) this.#output(out.dk, channels * kernelLength, "dk", call, given, "float32");
    const outputs = [du, dpregate, dpostgate].filter((r) => r !== undefined);
    const taps = "kernel" in spectra ? [{ name: "k", data: spectra.kernel }] : [];
    const inputs = [upstream, { field: "u", data }, ...gates.rows].map((r) => ({
      name: r.field,
      data: r.data,
    }));
    given.forEach((o, i) => {
      apart(o, [...inputs, ...taps, ...given.slice(0, i)], call);
    });
    const rows: RowTensor[] = [
      upstream,
      { field: "u", data, width: length, direction: "in" },
      ...gates.rows,
      ...outputs,
    ];
    await this.#engine.backend.exclusive(async () => {
      this.#alive(call);
      const forward = await this.#forwardPrograms(dtype, call);
      const backward = await this.#backwardPrograms(call);
      await runBackward(
        this.#engine,
        { forward, backward },
        spectra,
        { shape, rows, skip, name: call },
        gates.flags,
        dk,
      );
      this.#workspaceBytes = this.#engine.backend.workspaceBytes;
    });
    return {
      du: du.data,
      dk,
      ...(dpregate ? { dpregate: dpregate.data } : {}),
      ...(dpostgate ? { dpostgate: dpostgate.data } : {}),
      ...(skip ? { dskip: dskipOf(upstream.data, data, this.problem.dtype, shape, length) } : {}),
    };
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
    const { backend } = this.#engine;
    void backend.exclusive(() => {
      for (const block of this.#kernels.values()) backend.arena.free(block);
      for (const block of this.#lent) backend.arena.free(block);
      this.#kernels.clear();
      for (const p of [...this.#forward.values(), this.#backward ?? []].flat()) {
        backend.releaseProgram(p);
      }
      backend.release();
    });
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }
}
