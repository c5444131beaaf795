/** Calls of short convolutions on the CPU. */
import type { CpuBackend, Program } from "../backend/cpu/backend.ts";
import { addRecipes } from "../backend/cpu/executor.ts";
import type { Instructions } from "../backend/cpu/features.ts";
import type { DepthwiseJob as Job } from "../backend/cpu/job.ts";
import { branchFields, depthwiseRecipes } from "../backend/cpu/recipe-depthwise.ts";
import { openCpuFor } from "../calls/cpu-open.ts";
import { CpuResidency, lender } from "../calls/cpu-residency.ts";
import type { Running } from "../calls/cpu-threads.ts";
import { after, given } from "../calls/cpu-threads.ts";
import { deviceFor } from "../calls/measured.ts";
import type { RuntimeOptions } from "../calls/runtime.ts";
import type { Dtype, SampleArray } from "../dtype.ts";
import { depthwiseSource } from "../kernels/cpu/depthwise/program.ts";
import type { ProgramSource } from "../kernels/cpu/program-source.ts";
import type { DepthwiseProblem } from "../plan/depthwise.ts";
import { intact, refuseBuffer } from "../tensors/check.ts";
import type { GpuSamples, TensorData } from "../tensors/tensor.ts";
import type { DepthwiseCall, DepthwiseEngine, LineTensor, StateTensor } from "./cpu-run.ts";
import { runDepthwiseBackward, runDepthwiseForward } from "./cpu-run.ts";
import { carryState } from "./cpu-state.ts";
import type {
  DepthwiseBackward,
  DepthwiseForward,
  DepthwiseRequest,
  DepthwiseRunner,
  DepthwiseRunnerNow,
  DepthwiseWarmUpFor,
} from "./runner.ts";

type Kind = "forward" | "backward";

/** A short convolution on one backend: its engine, for calls that take turns and for those that do not. */
class DepthwiseResidency extends CpuResidency {
  readonly engine: DepthwiseEngine;
  readonly alone: DepthwiseEngine;

  constructor(
    problem: DepthwiseProblem,
    order: readonly number[],
    backend: CpuBackend,
    threads: number,
  ) {
    super(backend, threads);
    const device = deviceFor(backend.settings.instructions);
    this.engine = { problem, backend, threads, device, order, jobs: new Map() };
    this.alone = { ...this.engine, threads: 1, jobs: new Map() };
  }

  #sources(kind: Kind): () => ProgramSource[] {
    return () => [depthwiseSource({ kind, problem: this.engine.problem })];
  }

  /** Call inside the backend's exclusive section. */
  programs(kind: Kind, call: string): readonly Program[] | Promise<readonly Program[]> {
    return this.compile(kind, this.#sources(kind), call);
  }

  programNow(kind: Kind, call: string): Program {
    return this.compileNow(kind, this.#sources(kind), call)[0]!;
  }
}

/** One short convolution on the CPU. */
export class DepthwiseCpuRunner implements DepthwiseRunner, DepthwiseRunnerNow {
  readonly device = undefined;
  readonly now: DepthwiseRunnerNow = this;
  readonly #problem: DepthwiseProblem;
  readonly #order: readonly number[];
  #seat: DepthwiseResidency;

  private constructor(
    problem: DepthwiseProblem,
    order: readonly number[],
    seat: DepthwiseResidency,
  ) {
    this.#problem = problem;
    this.#order = order;
    this.#seat = seat;
  }

  /** Compile; `order` as in DepthwiseEngine. */
  static async open(
    problem: DepthwiseProblem,
    options: RuntimeOptions,
    order: readonly number[],
    call: string,
  ): Promise<DepthwiseCpuRunner> {
    addRecipes(depthwiseRecipes);
    const { backend, threads } = openCpuFor(options, call);
    const seat = new DepthwiseResidency(problem, order, backend, threads);
    const runner = new DepthwiseCpuRunner(problem, order, seat);
    try {
      await backend.exclusive(() => seat.programs("forward", call));
    } catch (error) {
      runner.leave();
      throw error;
    }
    return runner;
  }

  get backend(): CpuBackend {
    return this.#seat.backend;
  }

  get threads(): number {
    return this.backend.threadsFor(this.#seat.threads);
  }

  get instructions(): Instructions {
    return this.backend.settings.instructions;
  }

  lend(size: number, dtype: Dtype, call: string): Float32Array | Uint16Array {
    const { threads } = this.#seat;
    this.#seat = lender(
      this.#seat,
      call,
      (backend) => new DepthwiseResidency(this.#problem, this.#order, backend, threads),
    );
    return this.#seat.lend(size, dtype, call);
  }

  allocate(size: number, _dtype: Dtype, call: string): Promise<GpuSamples> {
    return refuseBuffer(size, call);
  }

  /** Fields of a tensor that all branches have a part of. */
  #fields(name: keyof typeof branchFields): readonly (keyof Job)[] {
    return branchFields[name].slice(0, this.#order.length);
  }

  #call(
    { name, batch, length, weight, bias }: DepthwiseRequest,
    lines: readonly LineTensor[],
    states: readonly StateTensor[],
  ): DepthwiseCall {
    const [taps, biases] = [weight, bias] as [Float32Array, Float32Array | undefined];
    return { name, batch, length, lines, states, weight: taps, bias: biases };
  }

  /** Samples of the states of a call. */
  #stateSize(x: SampleArray, length: number): number {
    return (x.length / length) * (this.#problem.kernelLength - 1);
  }

  async warmUp({ backward }: DepthwiseWarmUpFor, call: string): Promise<void> {
    const seat = this.#seat;
    await seat.backend.exclusive(async () => {
      if (backward) await seat.programs("backward", call);
    });
  }

  forward(request: DepthwiseForward): Running {
    const seat = this.#seat;
    return seat.backend.exclusive(() =>
      given(seat.programs("forward", request.name), ([program]) => {
        request.alive();
        return this.#forward(seat, seat.engine, program!, request);
      }),
    );
  }

  forwardNow(request: DepthwiseForward): void {
    const seat = this.#seat;
    const { name } = request;
    seat.backend.now(
      () => this.#forward(seat, seat.alone, seat.programNow("forward", name), request),
      name,
    );
  }

  #forward(
    seat: DepthwiseResidency,
    engine: DepthwiseEngine,
    program: Program,
    request: DepthwiseForward,
  ): Running {
    const { name: call, batch, length } = request;
    // Without a device, all that was checked are arrays.
    const [x, state, stateOut] = [request.x, request.state, request.stateOut] as [
      SampleArray,
      SampleArray | undefined,
      SampleArray | undefined,
    ];
    const lines: LineTensor[] = [{ name: "x", kind: "x", data: x, fields: this.#fields("x") }];
    request.outputs.forEach(({ name, data }, o) => {
      lines.push({ name, kind: "y", data: data as SampleArray, fields: [branchFields.y[o]!] });
    });
    const states: StateTensor[] = state
      ? [{ name: "state", direction: "in", data: state, fields: this.#fields("state") }]
      : [];
    const samples = x.length;
    const stateSamples = this.#stateSize(x, length);
    const running = runDepthwiseForward(engine, program, this.#call(request, lines, states));
    return after(running, () => {
      seat.workspaceBytes = seat.backend.workspaceBytes;
      if (!stateOut) return;
      intact("x", x, samples, call);
      if (state) intact("state", state, stateSamples, call);
      intact("stateOut", stateOut, stateSamples, call);
      carryState(this.#problem, x, state, stateOut, batch, length);
    });
  }

  async backward(request: DepthwiseBackward): Promise<void> {
    const seat = this.#seat;
    await seat.backend.exclusive(async () => {
      request.alive();
      const [program] = await seat.programs("backward", request.name);
      await this.#backward(seat, seat.engine, program!, request);
    });
  }

  backwardNow(request: DepthwiseBackward): void {
    const seat = this.#seat;
    const { name } = request;
    seat.backend.now(
      () => this.#backward(seat, seat.alone, seat.programNow("backward", name), request),
      name,
    );
  }

  #backward(
    seat: DepthwiseResidency,
    engine: DepthwiseEngine,
    program: Program,
    request: DepthwiseBackward,
  ): Running {
    const { name: call, dweight, dbias } = request;
    const [x, dx] = [request.x, request.dx] as [SampleArray, SampleArray];
    const lines: LineTensor[] = [
      { name: "x", kind: "x", data: x, fields: this.#fields("x") },
      { name: "dx", kind: "dx", data: dx, fields: this.#fields("dx") },
      ...request.dy.map(
        ({ name, data }, o): LineTensor => ({
          ...{ name, kind: "dy", data: data as SampleArray, fields: [branchFields.dy[o]!] },
        }),
      ),
    ];
    const stateOf = (
      name: "state" | "dstate" | "dstateOut",
      direction: StateTensor["direction"],
    ): StateTensor[] => {
      const data = request[name] as SampleArray | undefined;
      return data ? [{ name, direction, data, fields: this.#fields(name) }] : [];
    };
    const states = [
      ...stateOf("state", "in"),
      ...stateOf("dstate", "out"),
      ...stateOf("dstateOut", "in"),
    ];
    return runDepthwiseBackward(engine, program, this.#call(request, lines, states), (sums) => {
      seat.workspaceBytes = seat.backend.workspaceBytes;
      setSums("dweight", dweight, sums.weight, call);
      if (dbias) setSums("dbias", dbias, sums.bias, call);
    });
  }

  leave(): void {
    this.#seat.leave();
  }
}

/** Sums of a weight's gradient, in float64, to where they go. */
function setSums(name: string, to: TensorData, sums: Float64Array, call: string): void {
  const array = to as Float32Array;
  intact(name, array, sums.length, call);
  array.set(sums);
}
