/** Calls of short convolutions on the CPU: a seat on a backend, its programs, and the arrays that it lends. */
import type { CpuBackend, CpuUser, Program } from "../backend/cpu/backend.ts";
import { addRecipes } from "../backend/cpu/executor.ts";
import type { Instructions } from "../backend/cpu/features.ts";
import type { Job } from "../backend/cpu/job.ts";
import type { Block } from "../backend/cpu/memory.ts";
import { depthwiseRecipes } from "../backend/cpu/recipe-depthwise.ts";
import { lendingBackend, openCpuFor } from "../calls/cpu-open.ts";
import { deviceFor } from "../calls/measured.ts";
import type { RuntimeOptions } from "../calls/runtime.ts";
import type { Dtype, SampleArray } from "../dtype.ts";
import { bytesPerSample } from "../dtype.ts";
import { depthwiseSource } from "../kernels/cpu/depthwise/program.ts";
import type { DepthwiseProblem } from "../plan/depthwise.ts";
import { intact, refuseBuffer } from "../tensors/check.ts";
import { zeros } from "../tensors/results.ts";
import type { GpuSamples, TensorData } from "../tensors/tensor.ts";
import type { DepthwiseCall, DepthwiseEngine, LineTensor, StateTensor } from "./cpu-run.ts";
import { runDepthwiseBackward, runDepthwiseForward } from "./cpu-run.ts";
import { carryState } from "./cpu-state.ts";
import type {
  DepthwiseBackward,
  DepthwiseForward,
  DepthwiseRequest,
  DepthwiseRunner,
  DepthwiseWarmUpFor,
} from "./runner.ts";

type Kind = "forward" | "backward";

const inputFields = ["x0", "x1", "x2"] as const;
const gradientFields = ["dx0", "dx1", "dx2"] as const;
const stateFields = ["state0", "state1", "state2"] as const;
const stateGradientFields = ["dstate0", "dstate1", "dstate2"] as const;
const behindFields = ["dstateOut0", "dstateOut1", "dstateOut2"] as const;
const outputFields = ["y0", "y1"] as const;
const upstreamFields = ["dy0", "dy1"] as const;

/** An object on one backend. */
interface DepthwiseResidency extends CpuUser {
  readonly backend: CpuBackend;
  readonly engine: DepthwiseEngine;
  readonly programs: Map<Kind, Program>;
  readonly lent: Block[];
  workspaceBytes: number;
}

function takeSeat(
  problem: DepthwiseProblem,
  order: readonly number[],
  backend: CpuBackend,
  threads: number,
): DepthwiseResidency {
  const device = deviceFor(backend.settings.instructions);
  const engine = { problem, backend, threads, device, order, jobs: new Map() };
  const seat = { backend, engine, threads, programs: new Map(), lent: [], workspaceBytes: 0 };
  backend.retain(seat);
  return seat;
}

/** Give everything back once the calls before have ended. */
function leaveSeat(seat: DepthwiseResidency): void {
  const { backend, programs, lent } = seat;
  void backend.exclusive(() => {
    for (const block of lent) backend.arena.free(block);
    for (const p of programs.values()) backend.releaseProgram(p);
    backend.release(seat);
  });
}

/** Call inside the backend's exclusive section. */
async function programOf(
  seat: DepthwiseResidency,
  kind: Kind,
  problem: DepthwiseProblem,
  call: string,
): Promise<Program> {
  const program = await seat.backend.program(depthwiseSource({ kind, problem }), call);
  seat.programs.set(kind, program);
  return program;
}

/** One short convolution on the CPU. */
export class DepthwiseCpuRunner implements DepthwiseRunner {
  readonly device = undefined;
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
    const seat = takeSeat(problem, order, backend, threads);
    const runner = new DepthwiseCpuRunner(problem, order, seat);
    try {
      await seat.backend.exclusive(() => programOf(seat, "forward", problem, call));
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
    const { backend, lent } = this.#lender(call);
    if (!backend.settings.shared) return zeros(dtype, size, call);
    const block = backend.lend(size * bytesPerSample(dtype), call);
    lent.push(block);
    const { buffer } = backend.arena.memory;
    const array =
      dtype === "float32"
        ? new Float32Array(buffer, block.address, size)
        : new Uint16Array(buffer, block.address, size);
    return array.fill(0);
  }

  /** A seat whose backend can lend arrays, where the runtime has one: the object moves there. */
  #lender(call: string): DepthwiseResidency {
    const old = this.#seat;
    const backend = lendingBackend(old.backend, call);
    if (backend === old.backend) return old;
    this.#seat = takeSeat(this.#problem, this.#order, backend, old.threads);
    leaveSeat(old);
    return this.#seat;
  }

  allocate(size: number, _dtype: Dtype, call: string): Promise<GpuSamples> {
    return refuseBuffer(size, call);
  }

  #fields<F extends keyof Job>(fields: readonly F[]): readonly F[] {
    return fields.slice(0, this.#order.length);
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
      if (backward && !seat.programs.has("backward"))
        await programOf(seat, "backward", this.#problem, call);
    });
  }

  forward(request: DepthwiseForward): void | Promise<void> {
    const { name: call, batch, length, alive } = request;
    const problem = this.#problem;
    // Without a device, all that was checked are arrays.
    const [x, state, stateOut] = [request.x, request.state, request.stateOut] as [
      SampleArray,
      SampleArray | undefined,
      SampleArray | undefined,
    ];
    const lines: LineTensor[] = [
      { name: "x", kind: "x", data: x, fields: this.#fields(inputFields) },
      ...request.outputs.map(
        ({ name, data }, o): LineTensor => ({
          ...{ name, kind: "y", data: data as SampleArray, fields: [outputFields[o]!] },
        }),
      ),
    ];
    const states: StateTensor[] = state
      ? [{ name: "state", direction: "in", data: state, fields: this.#fields(stateFields) }]
      : [];
    const samples = x.length;
    const stateSamples = this.#stateSize(x, length);
    const work = this.#call(request, lines, states);
    const seat = this.#seat;
    const run = (program: Program): void | Promise<void> => {
      alive();
      const running = runDepthwiseForward(seat.engine, program, work);
      const carry = (): void => {
        seat.workspaceBytes = seat.backend.workspaceBytes;
        if (!stateOut) return;
        intact("x", x, samples, call);
        if (state) intact("state", state, stateSamples, call);
        intact("stateOut", stateOut, stateSamples, call);
        carryState(problem, x, state, stateOut, batch, length);
      };
      return running ? running.then(carry) : carry();
    };
    return seat.backend.exclusive(() => {
      const program = seat.programs.get("forward");
      return program ? run(program) : programOf(seat, "forward", problem, call).then(run);
    });
  }

  async backward(request: DepthwiseBackward): Promise<void> {
    const { name: call, alive, dweight, dbias } = request;
    const problem = this.#problem;
    const [x, dx] = [request.x, request.dx] as [SampleArray, SampleArray];
    const [state, dstate, dstateOut] = [request.state, request.dstate, request.dstateOut] as [
      SampleArray | undefined,
      SampleArray | undefined,
      SampleArray | undefined,
    ];
    const lines: LineTensor[] = [
      { name: "x", kind: "x", data: x, fields: this.#fields(inputFields) },
      { name: "dx", kind: "dx", data: dx, fields: this.#fields(gradientFields) },
      ...request.dy.map(
        ({ name, data }, o): LineTensor => ({
          ...{ name, kind: "dy", data: data as SampleArray, fields: [upstreamFields[o]!] },
        }),
      ),
    ];
    const states: StateTensor[] = [
      [state, { name: "state", direction: "in", fields: this.#fields(stateFields) }] as const,
      [
        dstate,
        { name: "dstate", direction: "out", fields: this.#fields(stateGradientFields) },
      ] as const,
      [
        dstateOut,
        { name: "dstateOut", direction: "in", fields: this.#fields(behindFields) },
      ] as const,
    ].flatMap(([data, tensor]) => (data ? [{ ...tensor, data }] : []));
    const work = this.#call(request, lines, states);
    const seat = this.#seat;
    await seat.backend.exclusive(async () => {
      alive();
      const program =
        seat.programs.get("backward") ?? (await programOf(seat, "backward", problem, call));
      const sums = await runDepthwiseBackward(seat.engine, program, work);
      seat.workspaceBytes = seat.backend.workspaceBytes;
      setSums("dweight", dweight, sums.weight, call);
      if (dbias) setSums("dbias", dbias, sums.bias, call);
    });
  }

  leave(): void {
    leaveSeat(this.#seat);
  }
}

/** Sums of a weight's gradient, in float64, to where they go. */
function setSums(name: string, to: TensorData, sums: Float64Array, call: string): void {
  const array = to as Float32Array;
  intact(name, array, sums.length, call);
  array.set(sums);
}
