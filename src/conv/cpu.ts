/** Calls on the CPU: a place on a backend, and the move to one that can lend arrays. */
import type { Program } from "../backend/cpu/backend.ts";
import type { Instructions } from "../backend/cpu/features.ts";
import type { OpenedCpu } from "../calls/cpu-open.ts";
import { lender } from "../calls/cpu-residency.ts";
import type { RowTensor } from "../calls/cpu-staging.ts";
import type { Running } from "../calls/cpu-threads.ts";
import { after, given } from "../calls/cpu-threads.ts";
import { PreparedKernel } from "../calls/prepared.ts";
import type { Dtype, SampleArray } from "../dtype.ts";
import { refuseBuffer } from "../tensors/check.ts";
import type { GpuSamples } from "../tensors/tensor.ts";
import { ConvolutionResidency } from "./cpu-kernels.ts";
import type { Engine } from "./cpu-parts.ts";
import type { BoundRows, Programs, RowCall, Spectra } from "./cpu-rows.ts";
import { isShort, makeSpectra, overChannels } from "./cpu-rows.ts";
import { sumSkipGradient } from "./cpu-skip-gradient.ts";
import type { OtherPlans, PlanCode } from "./cpu-transforms.ts";
import { planCode, planCodeOf } from "./cpu-transforms.ts";
import type { Choice, Explanation } from "./explain.ts";
import { withNotes } from "./explain.ts";
import type { MemoryUse, WarmUp } from "./options.ts";
import type {
  KernelArgument,
  Repeat,
  Request,
  Runner,
  RunnerNow,
  WeightGradients,
} from "./runner.ts";
import { boundCalls } from "./runner.ts";

/** Thrown inside prepare when the object has moved meanwhile. */
class Moved extends Error {}

/** One convolution on the CPU. Its tensors are arrays: the caller refuses others. */
export class CpuRunner implements Runner, RunnerNow {
  readonly device = undefined;
  readonly now: RunnerNow = this;
  #seat: ConvolutionResidency;
  readonly #choice: Choice;
  readonly #code: PlanCode;
  readonly #notes: readonly string[];
  /** The last forward calls that returned no promise, bound to their memory; none when something has moved since. */
  readonly #bound: BoundRows[] = [];
  #next = 0;

  private constructor({ backend, threads, notes }: OpenedCpu, choice: Choice, code: PlanCode) {
    this.#seat = new ConvolutionResidency(choice, code.transforms, backend, threads);
    this.#choice = choice;
    this.#code = code;
    this.#notes = notes;
  }

  /** Compile the plan's forward programs. Threads start with the first call that they are worth it for. */
  static async open(opened: OpenedCpu, choice: Choice, call: string): Promise<CpuRunner> {
    const runner = new CpuRunner(opened, choice, await planCode(choice.candidate));
    try {
      await opened.backend.exclusive(() => runner.#seat.forward("float32", call));
    } catch (error) {
      runner.leave();
      throw error;
    }
    return runner;
  }

  /** The same at once, with the code that the plan may need. */
  static openNow(opened: OpenedCpu, choice: Choice, other: OtherPlans, call: string): CpuRunner {
    const runner = new CpuRunner(opened, choice, planCodeOf(choice.candidate, other));
    try {
      opened.backend.now(() => runner.#seat.forwardNow("float32", call), call);
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
    const { engine, channels, backend } = this.#seat;
    return {
      transformBytes: Math.max(...engine.parts.map((p) => p.transformBytes)),
      workspaceBytes: this.#seat.workspaceBytes,
      spectrumBytes: channels * engine.spectrumBytes,
      backendBytes: backend.arena.used,
    };
  }

  lend(size: number, dtype: Dtype, call: string): Float32Array | Uint16Array {
    const old = this.#seat;
    this.#seat = lender(old, call, (backend) => this.#moved(old, backend, call));
    if (this.#seat !== old) this.#bound.length = 0;
    return this.#seat.lend(size, dtype, call);
  }

  /** The same convolution on another backend, spectra and all. */
  #moved(
    old: ConvolutionResidency,
    backend: OpenedCpu["backend"],
    call: string,
  ): ConvolutionResidency {
    const { transforms } = this.#code;
    const seat = new ConvolutionResidency(this.#choice, transforms, backend, old.threads);
    try {
      seat.takeKernels(old, call);
    } catch (error) {
      seat.leave();
      throw error;
    }
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
    return seat.backend.exclusive(async () => {
      const programs = await seat.forward(dtype, request.name);
      try {
        const made = this.#prepare(seat, seat.engine, programs, taps, channels, request);
        return made instanceof Promise ? await made : made;
      } catch (error) {
        if (error instanceof Moved) return this.prepare(taps, dtype, channels, request);
        throw error;
      }
    });
  }

  prepareNow(
    taps: SampleArray,
    dtype: Dtype,
    channels: number,
    request: Pick<Request, "name" | "alive">,
  ): PreparedKernel {
    const seat = this.#seat;
    return seat.backend.now(() => {
      const programs = seat.forwardNow(dtype, request.name);
      return this.#prepare(
        seat,
        seat.alone(boundCalls),
        programs,
        taps,
        channels,
        request,
      ) as PreparedKernel;
    }, request.name);
  }

  /** Make and keep spectra of taps. */
  #prepare(
    seat: ConvolutionResidency,
    engine: Engine,
    programs: readonly Program[],
    taps: SampleArray,
    channels: number,
    { name, alive }: Pick<Request, "name" | "alive">,
  ): PreparedKernel | Promise<PreparedKernel> {
    const block = engine.backend.allocate(channels * engine.spectrumBytes, name);
    const keep = (): PreparedKernel => {
      // Disposed, or moved to another place, while the spectra were made: begin again, or say so.
      alive();
      if (seat !== this.#seat) throw new Moved();
      const kernel = new PreparedKernel(channels, (k) => this.#freeKernel(k));
      seat.keep(kernel, block);
      return kernel;
    };
    const give = (error: unknown): never => {
      engine.backend.arena.free(block);
      throw error;
    };
    try {
      const making = makeSpectra(engine, programs, taps, [0, channels], block.address, name);
      return making ? making.then(keep).catch(give) : keep();
    } catch (error) {
      return give(error);
    }
  }

  async warmUp({ backward }: WarmUp, call: string): Promise<void> {
    // One program has all gates and skip terms.
    const seat = this.#seat;
    await seat.backend.exclusive(async () => {
      await (backward ? seat.backward("float32", call) : seat.forward("float32", call));
    });
  }

  #freeKernel(kernel: PreparedKernel): void {
    this.#bound.length = 0;
    this.#seat.drop(kernel);
  }

  holds(kernel: PreparedKernel): boolean {
    return this.#seat.holds(kernel);
  }

  #spectra(kernel: KernelArgument): { spectra: Spectra; dtype: Dtype } {
    if ("prepared" in kernel) {
      return { spectra: { kept: this.#seat.spectra(kernel.prepared) }, dtype: "float32" };
    }
    return { spectra: { kernel: kernel.taps as SampleArray }, dtype: kernel.dtype };
  }

  #call({ shape, rows, skip, name }: Request): RowCall {
    const weights = skip as Float32Array | undefined;
    return { shape, rows: rows as readonly RowTensor[], skip: weights, name };
  }

  forward(request: Request, keep?: (repeat: Repeat) => void): Running {
    const seat = this.#seat;
    const { spectra, dtype } = this.#spectra(request.kernel);
    if (keep && this.#isNext(seat, request)) return this.forwardNow(request, keep);
    const run = (programs: readonly Program[]): Running => {
      request.alive();
      return this.#forward(seat.engine, programs, spectra, request, (bound) => bound());
    };
    const running = seat.backend.exclusive(() => given(seat.forward(dtype, request.name), run));
    return after(running, () => this.#note(seat));
  }

  /** Whether a call with a prepared kernel may be done at once although it takes turns: it is its turn, and short. */
  #isNext(seat: ConvolutionResidency, { kernel, shape }: Request): boolean {
    return "prepared" in kernel && seat.backend.idle && isShort(seat.engine, shape);
  }

  forwardNow(request: Request, keep: (repeat: Repeat) => void): void {
    const seat = this.#seat;
    const { backend } = seat;
    const { spectra, dtype } = this.#spectra(request.kernel);
    // Each of the last calls has the jobs of an engine of its own.
    const place = this.#next;
    this.#next = (place + 1) % boundCalls;
    delete this.#bound[place];
    let last: BoundRows | undefined;
    backend.now(() => {
      const programs = seat.forwardNow(dtype, request.name);
      return this.#forward(seat.alone(place), programs, spectra, request, (bound) => {
        last = bound;
        return bound();
      });
    }, request.name);
    this.#note(seat);
    if (!last || !("kept" in spectra)) return;
    const bound = last;
    this.#bound[place] = bound;
    keep((takesTurns) => {
      if (this.#bound[place] !== bound || (takesTurns && !this.#isNext(seat, request)))
        return false;
      backend.now(bound, request.name);
      return true;
    });
  }

  #forward(
    engine: Engine,
    programs: readonly Program[],
    spectra: Spectra,
    request: Request,
    run: (bound: BoundRows) => Running,
  ): Running {
    const call = this.#call(request);
    return overChannels(engine, programs, spectra, call, (from, to, bases) =>
      run(this.#code.runs.forward(engine, programs, call, request.gates, [from, to], bases)),
    );
  }

  backward(request: Request, weights: WeightGradients): Running {
    const seat = this.#seat;
    const { spectra, dtype } = this.#spectra(request.kernel);
    const run = (programs: Programs): Running =>
      this.#backward(seat.engine, programs, spectra, request, weights);
    const running = seat.backend.exclusive(() => {
      request.alive();
      return seat.backward(dtype, request.name).then(run);
    });
    return after(running, () => this.#note(seat));
  }

  backwardNow(request: Request, weights: WeightGradients): void {
    const seat = this.#seat;
    const { spectra, dtype } = this.#spectra(request.kernel);
    seat.backend.now(() => {
      const programs = seat.backwardNow(dtype, request.name);
      return this.#backward(seat.alone(boundCalls), programs, spectra, request, weights);
    }, request.name);
    this.#note(seat);
  }

  #backward(
    engine: Engine,
    programs: Programs,
    spectra: Spectra,
    request: Request,
    weights: WeightGradients,
  ): Running {
    const { name, gates, shape } = request;
    const [dk, dskip] = [weights.dk, weights.dskip] as [Float32Array, Float32Array | undefined];
    const call = this.#call(request);
    const running = overChannels(engine, programs.forward, spectra, call, (from, to, bases) =>
      this.#code.runs.backward(engine, programs, call, gates, dk, [from, to], bases),
    );
    if (!dskip) return running;
    const { dtype, length } = engine.problem;
    const data = (field: string): SampleArray => call.rows.find((r) => r.field === field)!.data;
    // In the call's turn: after a dispose, lent arrays are another's.
    return after(running, () =>
      sumSkipGradient(data("dy"), data("u"), dtype, shape, length, dskip, name),
    );
  }

  #note(seat: ConvolutionResidency): void {
    seat.workspaceBytes = seat.backend.workspaceBytes;
  }

  leave(): void {
    this.#bound.length = 0;
    this.#seat.leave();
  }
}
