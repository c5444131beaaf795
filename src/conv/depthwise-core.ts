/** What the short convolutions have in common: their seat on a backend, the checks of what they are given, the calls. */
import type { CpuBackend, CpuSettings, Program } from "../backend/cpu.ts";
import { openCpu } from "../backend/cpu.ts";
import { features } from "../backend/features.ts";
import type { Job } from "../backend/job.ts";
import type { Block } from "../backend/memory.ts";
import type { Dtype, SampleArray } from "../dtype.ts";
import { bytesPerSample, decode } from "../dtype.ts";
import { InvalidArgumentError, show } from "../errors.ts";
import { depthwiseSource } from "../kernels/depthwise/program.ts";
import type { DepthwiseProblem } from "../plan/depthwise.ts";
import { outputLengthOf, streams, widths } from "../plan/depthwise.ts";
import { integer, oneOf } from "../plan/problem.ts";
import type { Expected, Named, Tensor } from "./arguments.ts";
import { apart, checkOptions, exactly, intact, newArray, samplesOf } from "./arguments.ts";
import type {
  DepthwiseBackwardOptions,
  DepthwiseForwardOptions,
  DepthwiseGradients,
  DepthwiseOptions,
} from "./depthwise-options.ts";
import type { DepthwiseCall, DepthwiseEngine, LineTensor, StateTensor } from "./depthwise-run.ts";
import { runDepthwiseBackward, runDepthwiseForward } from "./depthwise-run.ts";
import { addToTail, carryState } from "./depthwise-state.ts";
import { pickInstructions, pickThreads } from "./options.ts";
import { deviceFor } from "./wisdom.ts";

type Kind = "forward" | "backward";

const inputFields = ["x0", "x1", "x2"] as const;
const gradientFields = ["dx0", "dx1", "dx2"] as const;
const stateFields = ["state0", "state1", "state2"] as const;
const stateGradientFields = ["dstate0", "dstate1", "dstate2"] as const;
const outputFields = ["y0", "y1"] as const;
const upstreamFields = ["dy0", "dy1"] as const;

/** An object on one backend. */
interface Seat {
  readonly backend: CpuBackend;
  readonly engine: DepthwiseEngine;
  readonly programs: Map<Kind, Program>;
  readonly lent: Block[];
}

function takeSeat(
  problem: DepthwiseProblem,
  order: readonly number[],
  settings: CpuSettings,
): Seat {
  const backend = openCpu(settings);
  backend.retain();
  const device = deviceFor(settings.instructions);
  const engine = { problem, backend, device, order, jobs: new Map() };
  return { backend, engine, programs: new Map(), lent: [] };
}

/** Give everything back once the calls before have ended. */
function leaveSeat({ backend, programs, lent }: Seat): void {
  void backend.exclusive(() => {
    for (const block of lent) backend.arena.free(block);
    for (const p of programs.values()) backend.releaseProgram(p);
    backend.release();
  });
}

/** Call inside the backend's exclusive section. */
async function programOf(
  seat: Seat,
  kind: Kind,
  problem: DepthwiseProblem,
  call: string,
): Promise<Program> {
  const program = await seat.backend.program(depthwiseSource({ kind, problem }), call);
  seat.programs.set(kind, program);
  return program;
}

/** A call's operands, checked. */
interface Operands {
  readonly x: SampleArray;
  readonly batch: number;
  readonly length: number;
  readonly outputLength: number;
  readonly weight: Float32Array;
  readonly bias: Float32Array | undefined;
  readonly state: SampleArray | undefined;
  /** Everything given, by name. */
  readonly given: readonly Named[];
}

/** @internal A short convolution of any form. */
export class DepthwiseCore {
  readonly problem: DepthwiseProblem;
  readonly batch: number;
  /** Name of the class and of its objects in messages. */
  readonly #names: { readonly type: string; readonly object: string };
  readonly #order: readonly number[];
  #seat: Seat;
  #disposed = false;

  private constructor(
    problem: DepthwiseProblem,
    names: { readonly type: string; readonly object: string },
    order: readonly number[],
    batch: number,
    seat: Seat,
  ) {
    this.problem = problem;
    this.batch = batch;
    this.#names = names;
    this.#order = order;
    this.#seat = seat;
  }

  /** Compile and start threads; `order` as in DepthwiseEngine. */
  static async create(
    problem: DepthwiseProblem,
    options: DepthwiseOptions,
    names: { readonly type: string; readonly object: string },
    order: readonly number[],
  ): Promise<DepthwiseCore> {
    const call = `${names.type}.create`;
    oneOf(call, "backend", options.backend ?? "auto", ["auto", "cpu"]);
    const instructions = pickInstructions(options.instructions ?? "auto", call);
    const threads = pickThreads(options.threads, instructions, call);
    const batch = integer(call, "batch", options.batch ?? 1, 1, 2 ** 31);
    const settings = { threads, instructions, shared: threads > 1 };
    const seat = takeSeat(problem, order, settings);
    const core = new DepthwiseCore(problem, names, order, batch, seat);
    try {
      await seat.backend.exclusive(() => programOf(seat, "forward", problem, call));
    } catch (error) {
      core.dispose();
      throw error;
    }
    return core;
  }

  get backend(): CpuBackend {
    return this.#seat.backend;
  }

  /** Channels of x: H, or 3H where three branches are packed. */
  get inputChannels(): number {
    return this.problem.channels * widths(this.problem.form).branches;
  }

  #name(method: string): string {
    return `${this.#names.object}.${method}`;
  }

  /** @throws InvalidArgumentError where the filter does not fit. */
  outputLength(length: number, call: string = this.#name("outputLength")): number {
    integer(call, "length", length, 1, 2 ** 31);
    const result = outputLengthOf(this.problem, length);
    if (result >= 1) return result;
    const { kernelLength, left, right } = this.problem;
    throw new InvalidArgumentError({
      call,
      requirement: `a row with its padding must be at least ${show(kernelLength)} samples long`,
      value: `${show(length)} samples with ${show(left)} zeros before and ${show(right)} after them`,
      remedy: "Pass longer rows, or pad them more.",
    });
  }

  /** A zeroed array in the backend's memory, where that can be shared. */
  lend(channels: number, batch: number, positions: number, method: string): SampleArray {
    const call = this.#name(method);
    this.alive(call);
    const { dtype } = this.problem;
    const size =
      integer(call, "batch", batch, 1, 2 ** 31) *
      integer(call, "length", positions, 1, 2 ** 31) *
      channels;
    const { backend, lent } = this.#lender();
    if (!backend.settings.shared) return zeros(dtype, size, call);
    const block = backend.arena.allocate(size * bytesPerSample(dtype), call);
    lent.push(block);
    const { buffer } = backend.arena.memory;
    const array =
      dtype === "float32"
        ? new Float32Array(buffer, block.address, size)
        : new Uint16Array(buffer, block.address, size);
    return array.fill(0);
  }

  /** A seat whose backend can lend arrays, where the runtime has one: the object moves there. */
  #lender(): Seat {
    const old = this.#seat;
    const { settings } = old.backend;
    if (settings.shared || settings.instructions === "javascript" || !features().sharedMemory)
      return old;
    this.#seat = takeSeat(this.problem, this.#order, { ...settings, shared: true });
    leaveSeat(old);
    return this.#seat;
  }

  /** A zeroed state of `batch` items. */
  createState(batch: number): SampleArray {
    const call = this.#name("createState");
    this.alive(call);
    integer(call, "batch", batch, 1, 2 ** 31);
    this.#streaming(call);
    const size = batch * this.inputChannels * (this.problem.kernelLength - 1);
    return zeros(this.problem.dtype, size, call);
  }

  #streaming(call: string): void {
    if (streams(this.problem)) return;
    const { left, right } = this.problem;
    throw new InvalidArgumentError({
      call,
      requirement: "carried state needs padding 'causal'",
      value: `padding [${left}, ${right}]`,
      remedy: "Create the object with padding: 'causal', or leave the state out.",
    });
  }

  #expected(call: string, name: string, channels: string, positions: string): Expected {
    const { dtype, layout } = this.problem;
    const dimensions = layout === "BHL" ? ["B", channels, positions] : ["B", positions, channels];
    return { call, name, dtype, dimensions };
  }

  /** A tensor of B items of `channels` channels, and how many positions it has. */
  #lines(
    tensor: Tensor,
    expected: Expected,
    channels: number,
  ): { data: SampleArray; batch: number; positions: number } {
    const { data, shape } = samplesOf(tensor, expected);
    const across = this.problem.layout === "BHL" ? 1 : 2;
    const batch = shape ? shape[0]! : this.batch;
    const positions = data.length / (batch * channels);
    if (Number.isInteger(positions) && (!shape || shape[across] === channels))
      return { data, batch, positions };
    throw new InvalidArgumentError({
      call: expected.call,
      requirement: `${expected.name} must have ${show(channels)} channels in each of ${show(batch)} batch items`,
      value: shape ? show(shape) : show(data),
      remedy: `Pass shape (${expected.dimensions.join(", ")}), or set channels and batch when creating the object.`,
    });
  }

  /** Parameters come as float32 or in the data's dtype. */
  #parameters(
    tensor: Tensor,
    name: string,
    dimensions: readonly string[],
    size: number,
    call: string,
  ): Float32Array {
    const { dtype } = this.problem;
    const expected = { call, name, dtype, dimensions, orFloat32: true };
    const { data } = samplesOf(tensor, expected);
    exactly(data, size, expected);
    return data instanceof Float32Array ? data : Float32Array.from(decode(data, dtype));
  }

  #state(
    array: SampleArray | undefined,
    name: string,
    batch: number,
    call: string,
    given: Named[],
  ): SampleArray | undefined {
    if (array === undefined) return undefined;
    this.#streaming(call);
    const history = this.problem.kernelLength - 1;
    // A filter of one tap looks at no earlier sample: its state is empty.
    if (history === 0 && array.length === 0) return undefined;
    const expected = this.#expected(call, name, "H", "K − 1");
    exactly(samplesOf(array, expected).data, batch * this.inputChannels * history, expected);
    given.push({ name, data: array });
    return array;
  }

  #operands(
    x: Tensor,
    weight: Tensor,
    options: Pick<DepthwiseForwardOptions, "bias" | "state">,
    call: string,
  ): Operands {
    this.alive(call);
    checkOptions(options, call);
    const channels = this.inputChannels;
    const { kernelLength } = this.problem;
    const { data, batch, positions } = this.#lines(
      x,
      this.#expected(call, "x", "H", "L"),
      channels,
    );
    const outputLength = this.outputLength(positions, call);
    const given: Named[] = [{ name: "x", data }];
    const taps = this.#parameters(weight, "weight", ["H", "K"], channels * kernelLength, call);
    const bias = options.bias && this.#parameters(options.bias, "bias", ["H"], channels, call);
    given.push({ name: "weight", data: taps }, ...(bias ? [{ name: "bias", data: bias }] : []));
    const state = this.#state(options.state, "state", batch, call, given);
    return { x: data, batch, length: positions, outputLength, weight: taps, bias, state, given };
  }

  /** An array for a result: the one given, checked, or a new one. */
  #result(
    array: SampleArray | undefined,
    name: string,
    size: number,
    inputs: readonly Named[],
    like: SampleArray,
    call: string,
  ): SampleArray {
    if (array === undefined) return arrayLike(like, size, call);
    const expected = { call, name, dtype: this.problem.dtype, dimensions: ["samples"] };
    exactly(samplesOf(array, expected).data, size, expected);
    apart({ name, data: array }, inputs, call);
    return array;
  }

  #fields<F extends keyof Job>(fields: readonly F[]): readonly F[] {
    return fields.slice(0, this.#order.length);
  }

  /** Outputs of a forward call, named `names` in messages. */
  async forward(
    x: Tensor,
    weight: Tensor,
    options: Omit<DepthwiseForwardOptions, "out">,
    out: readonly { readonly name: string; readonly array: SampleArray | undefined }[],
  ): Promise<SampleArray[]> {
    const call = this.#name("forward");
    const operands = this.#operands(x, weight, options, call);
    const { batch, length, outputLength, state } = operands;
    const inputs = [...operands.given];
    const size = batch * this.problem.channels * outputLength;
    const results = out.map(({ name, array }) => {
      const data = this.#result(array, name, size, inputs, operands.x, call);
      if (array) inputs.push({ name, data });
      return data;
    });
    const taken: Named[] = [];
    const stateOut = this.#state(options.stateOut, "stateOut", batch, call, taken);
    if (stateOut)
      apart(
        taken[0]!,
        inputs.filter(({ data }) => data !== state),
        call,
      );
    const lines: LineTensor[] = [
      { name: "x", kind: "x", data: operands.x, fields: this.#fields(inputFields) },
      ...results.map(
        (data, o): LineTensor => ({
          ...{ name: out[o]!.name, kind: "y", data, fields: [outputFields[o]!] },
        }),
      ),
    ];
    const states: StateTensor[] = state
      ? [{ name: "state", direction: "in", data: state, fields: this.#fields(stateFields) }]
      : [];
    const seat = this.#seat;
    const { weight: taps, bias } = operands;
    const request: DepthwiseCall = { name: call, batch, length, lines, states, weight: taps, bias };
    const run = (program: Program): void | Promise<void> => {
      this.alive(call);
      const running = runDepthwiseForward(seat.engine, program, request);
      const carry = (): void => {
        if (!stateOut) return;
        intact("x", operands.x, batch * this.inputChannels * length, call);
        const size = batch * this.inputChannels * (this.problem.kernelLength - 1);
        if (state) intact("state", state, size, call);
        intact("stateOut", stateOut, size, call);
        carryState(this.problem, operands.x, state, stateOut, batch, length);
      };
      return running ? running.then(carry) : carry();
    };
    const running = seat.backend.exclusive(() => {
      const program = seat.programs.get("forward");
      return program ? run(program) : programOf(seat, "forward", this.problem, call).then(run);
    });
    if (running) await running;
    return results;
  }

  /** Gradients of a forward call with the same operands. */
  async backward(
    dy: readonly { readonly name: string; readonly tensor: Tensor }[],
    x: Tensor,
    weight: Tensor,
    options: DepthwiseBackwardOptions,
  ): Promise<DepthwiseGradients> {
    const call = this.#name("backward");
    const operands = this.#operands(x, weight, options, call);
    const { batch, length, outputLength, state, bias } = operands;
    const { channels, dtype } = this.problem;
    const inputs: Named[] = [...operands.given];
    const upstream = dy.map(({ name, tensor }, o): LineTensor => {
      const expected = this.#expected(call, name, "H", "Lout");
      const { data } = samplesOf(tensor, expected);
      exactly(data, batch * channels * outputLength, expected);
      inputs.push({ name, data });
      return { name, kind: "dy", data, fields: [upstreamFields[o]!] };
    });
    const dstateOut = this.#state(options.dstateOut, "dstateOut", batch, call, inputs);
    const dx = this.#result(options.out, "dx", operands.x.length, inputs, operands.x, call);
    const dstate = state && arrayLike(operands.x, state.length, call);
    const lines: LineTensor[] = [
      { name: "x", kind: "x", data: operands.x, fields: this.#fields(inputFields) },
      { name: "dx", kind: "dx", data: dx, fields: this.#fields(gradientFields) },
      ...upstream,
    ];
    const states: StateTensor[] =
      state && dstate
        ? [
            { name: "state", direction: "in", data: state, fields: this.#fields(stateFields) },
            {
              name: "dstate",
              direction: "out",
              data: dstate,
              fields: this.#fields(stateGradientFields),
            },
          ]
        : [];
    const { weight: taps } = operands;
    const request: DepthwiseCall = { name: call, batch, length, lines, states, weight: taps, bias };
    const seat = this.#seat;
    const sums = await seat.backend.exclusive(async () => {
      this.alive(call);
      const program =
        seat.programs.get("backward") ?? (await programOf(seat, "backward", this.problem, call));
      return runDepthwiseBackward(seat.engine, program, request);
    });
    if (dstateOut) addToTail(this.problem, dstateOut, dx, dstate, batch, length, dtype);
    return {
      dx,
      dweight: Float32Array.from(sums.weight),
      ...(bias && { dbias: Float32Array.from(sums.bias) }),
      ...(dstate && { dstate }),
    };
  }

  alive(call: string): void {
    if (!this.#disposed) return;
    throw new InvalidArgumentError({
      call,
      requirement: `a ${this.#names.type} object that has not been disposed`,
      value: "a disposed one",
      remedy: "Create a new object, or dispose later.",
    });
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    leaveSeat(this.#seat);
  }
}

function zeros(dtype: Dtype, size: number, call: string): Float32Array | Uint16Array {
  const Kind = dtype === "float32" ? Float32Array : Uint16Array;
  return newArray<Float32Array | Uint16Array>(Kind, size, call);
}

function arrayLike(like: SampleArray, size: number, call: string): SampleArray {
  return newArray(like.constructor as new (n: number) => SampleArray, size, call);
}
