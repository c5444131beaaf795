/** Calls on the CPU: a seat on a backend, and the move to one that can lend arrays. */
import type { Program } from "../backend/cpu/backend.ts";
import type { Instructions } from "../backend/cpu/features.ts";
import type { OpenedCpu } from "../calls/cpu-open.ts";
import { lendingBackend } from "../calls/cpu-open.ts";
import type { RowTensor } from "../calls/cpu-staging.ts";
import { PreparedKernel } from "../calls/prepared.ts";
import type { Dtype, SampleArray } from "../dtype.ts";
import { bytesPerSample } from "../dtype.ts";
import type { Candidate } from "../plan/cpu/planner.ts";
import { refuseBuffer } from "../tensors/check.ts";
import { zeros } from "../tensors/results.ts";
import type { GpuSamples } from "../tensors/tensor.ts";
import type { Transforms } from "./cpu-parts.ts";
import { createEngine } from "./cpu-parts.ts";
import { CpuResidency } from "./cpu-residency.ts";
import type { RowCall, RowRuns, Spectra } from "./cpu-rows.ts";
import { makeSpectra, wholeRuns } from "./cpu-rows.ts";
import { sumSkipGradient } from "./cpu-skip-gradient.ts";
import { transformsOf } from "./cpu-transforms.ts";
import type { Choice, Explanation } from "./explain.ts";
import { withNotes } from "./explain.ts";
import type { MemoryUse, WarmUp } from "./options.ts";
import type { KernelArgument, Request, Runner, WeightGradients } from "./runner.ts";

/** Thrown inside prepare when the object has moved meanwhile. */
class Moved extends Error {}

/** How a plan's rows run: code for blocks is loaded where there are some. */
async function runsOf({ geometry }: Candidate): Promise<RowRuns> {
  return geometry[0]!.blocks ? (await import("./cpu-other.ts")).blockRuns() : wholeRuns;
}

/** One convolution on the CPU. Its tensors are arrays: the caller refuses others. */
export class CpuRunner implements Runner {
  readonly device = undefined;
  #seat: CpuResidency;
  readonly #choice: Choice;
  readonly #transforms: Transforms;
  readonly #runs: RowRuns;
  readonly #notes: readonly string[];

  private constructor(
    seat: CpuResidency,
    choice: Choice,
    transforms: Transforms,
    runs: RowRuns,
    notes: readonly string[],
  ) {
    this.#seat = seat;
    this.#choice = choice;
    this.#transforms = transforms;
    this.#runs = runs;
    this.#notes = notes;
  }

  /** Compile the plan's forward programs. Threads start with the first call that they are worth it for. */
  static async open(
    { backend, threads, notes }: OpenedCpu,
    choice: Choice,
    call: string,
  ): Promise<CpuRunner> {
    const transforms = await transformsOf(choice.candidate);
    const runs = await runsOf(choice.candidate);
    const seat = new CpuResidency(createEngine(choice, transforms, backend, threads));
    const runner = new CpuRunner(seat, choice, transforms, runs, notes);
    try {
      await backend.exclusive(() => seat.forward("float32", call));
    } catch (error) {
      runner.leave();
      throw error;
    }
    return runner;
  }

  get threads(): number {
    return this.#seat.backend.threadsFor(this.#seat.threads);
  }

  get instructions(): Instructions {
    return this.#seat.backend.settings.instructions;
  }

  explain(): Explanation {
    const { refusal } = this.#seat.backend;
    const oneThread =
      refusal === undefined ? [] : [`one thread: workers do not start (${refusal})`];
    return withNotes(this.#choice.explanation, [...this.#notes, ...oneThread]);
  }

  memory(): MemoryUse {
    const { engine, kernels, backend } = this.#seat;
    let channels = 0;
    for (const kernel of kernels.keys()) channels += kernel.channels;
    return {
      transformBytes: Math.max(...engine.parts.map((p) => p.transformBytes)),
      workspaceBytes: this.#seat.workspaceBytes,
      spectrumBytes: channels * engine.spectrumBytes,
      backendBytes: backend.arena.used,
    };
  }

  lend(size: number, dtype: Dtype, call: string): Float32Array | Uint16Array {
    const { backend } = this.#lender(call);
    const half = dtype !== "float32";
    // Where no memory is shared, an ordinary array, which calls copy.
    if (!this.#seat.backend.settings.shared) {
      return zeros(dtype, size, call);
    }
    const block = backend.lend(size * bytesPerSample(dtype), call);
    this.#seat.lent.push(block);
    const { buffer } = backend.arena.memory;
    const array = half
      ? new Uint16Array(buffer, block.address, size)
      : new Float32Array(buffer, block.address, size);
    return array.fill(0);
  }

  /** A seat whose backend can lend arrays, where the runtime has one: the object moves there, spectra and all. */
  #lender(call: string): CpuResidency {
    const old = this.#seat;
    const backend = lendingBackend(old.backend, call);
    if (backend === old.backend) return old;
    const seat = new CpuResidency(
      createEngine(this.#choice, this.#transforms, backend, old.threads),
    );
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

  allocate(size: number, _dtype: Dtype, call: string): Promise<GpuSamples> {
    return refuseBuffer(size, call);
  }

  async prepare(
    taps: SampleArray,
    dtype: Dtype,
    channels: number,
    request: Pick<Request, "name" | "alive">,
  ): Promise<PreparedKernel> {
    const seat = this.#seat;
    const { engine, backend } = seat;
    return backend.exclusive(async () => {
      const programs = await seat.forward(dtype, request.name);
      const block = backend.allocate(channels * engine.spectrumBytes, request.name);
      try {
        await makeSpectra(engine, programs, taps, [0, channels], block.address, request.name);
        // Disposed, or moved to another seat, while the spectra were made: begin again, or say so.
        request.alive();
        if (seat !== this.#seat) throw new Moved();
      } catch (error) {
        backend.arena.free(block);
        if (error instanceof Moved) return this.prepare(taps, dtype, channels, request);
        throw error;
      }
      const kernel = new PreparedKernel(channels, (k) => this.#freeKernel(k));
      seat.kernels.set(kernel, block);
      return kernel;
    });
  }

  async warmUp({ backward }: WarmUp, call: string): Promise<void> {
    // One program has all gates and skip terms.
    const seat = this.#seat;
    await seat.backend.exclusive(async () => {
      await seat.forward("float32", call);
      if (backward) await seat.backward(call);
    });
  }

  #freeKernel(kernel: PreparedKernel): void {
    const { kernels, backend } = this.#seat;
    const block = kernels.get(kernel);
    kernels.delete(kernel);
    if (block) void backend.exclusive(() => backend.arena.free(block));
  }

  holds(kernel: PreparedKernel): boolean {
    return this.#seat.kernels.has(kernel);
  }

  #spectra(kernel: KernelArgument): { spectra: Spectra; dtype: Dtype } {
    if ("prepared" in kernel) {
      return { spectra: { kept: this.#seat.kernels.get(kernel.prepared)! }, dtype: "float32" };
    }
    return { spectra: { kernel: kernel.taps as SampleArray }, dtype: kernel.dtype };
  }

  #call({ shape, rows, skip, name }: Request): RowCall {
    return {
      ...{ shape, rows: rows as readonly RowTensor[], name },
      skip: skip as Float32Array | undefined,
    };
  }

  forward(request: Request): void | Promise<void> {
    const seat = this.#seat;
    const { spectra, dtype } = this.#spectra(request.kernel);
    const run = (programs: readonly Program[]): void | Promise<void> => {
      request.alive();
      return this.#runs.forward(seat.engine, programs, spectra, this.#call(request), request.gates);
    };
    const note = (): void => {
      seat.workspaceBytes = seat.backend.workspaceBytes;
    };
    const running = seat.backend.exclusive(() => {
      const programs = seat.forwardNow(dtype);
      return programs ? run(programs) : seat.forward(dtype, request.name).then(run);
    });
    return running ? running.then(note) : note();
  }

  async backward(request: Request, weights: WeightGradients): Promise<void> {
    const [dk, dskip] = [weights.dk, weights.dskip] as [Float32Array, Float32Array | undefined];
    const seat = this.#seat;
    const { spectra, dtype } = this.#spectra(request.kernel);
    const call = this.#call(request);
    await seat.backend.exclusive(async () => {
      request.alive();
      const programs = {
        forward: await seat.forward(dtype, request.name),
        backward: await seat.backward(request.name),
      };
      await this.#runs.backward(seat.engine, programs, spectra, call, request.gates, dk);
      // In its turn: after a dispose, lent arrays are another's.
      if (dskip) await this.#sumSkip(call, dskip);
    });
    seat.workspaceBytes = seat.backend.workspaceBytes;
  }

  #sumSkip({ rows, shape, name }: RowCall, dskip: Float32Array): Promise<void> {
    const { dtype, length } = this.#choice.explanation.problem;
    const data = (field: string): SampleArray => rows.find((r) => r.field === field)!.data;
    return sumSkipGradient(data("dy"), data("u"), dtype, shape, length, dskip, name);
  }

  leave(): void {
    this.#seat.leave();
  }
}
