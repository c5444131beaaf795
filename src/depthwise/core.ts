/** What the short convolutions have in common: the choice of a backend, the checks of what they are given, the calls. */

import { loadGpu } from "../calls/load-gpu.ts";
import type { GpuRecorder } from "../calls/recorder.ts";
import { refuseRecorder } from "../calls/recorder.ts";
import { checkEncoder, wantsGpu, workspaceOf } from "../calls/runtime.ts";
import { checkFlags, checkOptions, integer, known } from "../checks.ts";
import type { Dtype, SampleArray } from "../dtype.ts";
import { decode } from "../dtype.ts";
import { InvalidArgumentError } from "../errors.ts";
import type { GpuCommandEncoder } from "../gpu.ts";
import { product } from "../plan/cpu/plan.ts";
import type { DepthwiseProblem } from "../plan/depthwise.ts";
import { outputLengthOf, streams, widths } from "../plan/depthwise.ts";
import { show } from "../show.ts";
import type { Expected, Named } from "../tensors/check.ts";
import { apart, checkSizes, emptyOf, exactly, samplesOf } from "../tensors/check.ts";
import { newArray, orDestroyed, settled, zeros } from "../tensors/results.ts";
import type { GpuTensor, Tensor, TensorData } from "../tensors/tensor.ts";
import { GpuSamples, handed, isGpuTensor } from "../tensors/tensor.ts";
import { DepthwiseCpuRunner } from "./cpu.ts";
import type {
  DepthwiseBackwardOptions,
  DepthwiseForwardOptions,
  DepthwiseGradients,
  DepthwiseOptions,
  DepthwiseRecorderOptions,
  DepthwiseWarmUp,
  RecordedDepthwiseCall,
} from "./options.ts";
import type { DepthwiseRequest, DepthwiseRunner } from "./runner.ts";

/** A class as its messages name it, and the option that no other class has. */
interface Names {
  readonly type: string;
  readonly object: string;
  readonly option: string;
}

/** Options that objects of all classes are made from. */
const optionNames = [
  ...["channels", "kernelLength", "padding", "layout", "dtype", "batch"],
  ...["backend", "device", "workspaceBytes", "threads", "workerUrl", "instructions"],
] as const;

/**
 * Check that options are an object without unknown names, before any of them is read: a misspelt one leaves another missing.
 * @returns The call, for further messages.
 */
export function checkNames(options: object, { type, option }: Names): string {
  const call = `${type}.create`;
  checkOptions(options, call, "options", "Pass { channels: H, kernelLength: K }.");
  known(options, [...optionNames, option], call);
  return call;
}

/** What `warmUp` is told of calls besides their rows. */
const warmUpFlags = ["backward", "bias", "state"] as const;

/** Optional operands of calls. A state that a forward call leaves behind is none of backward's, its gradient none of forward's. */
const operandNames = {
  forward: ["bias", "state", "stateOut", "out", "encoder"],
  backward: ["bias", "state", "dstateOut", "out", "encoder"],
} as const;

/** A call's operands, checked. */
interface Operands {
  readonly x: TensorData;
  readonly batch: number;
  readonly length: number;
  readonly outputLength: number;
  readonly weight: TensorData;
  readonly bias: TensorData | undefined;
  readonly state: TensorData | undefined;
  /** Everything given, by name. */
  readonly given: readonly Named[];
}

/** @internal A short convolution of any form. */
export class DepthwiseCore {
  readonly problem: DepthwiseProblem;
  readonly batch: number;
  readonly runner: DepthwiseRunner;
  readonly #names: Names;
  #disposed = false;

  private constructor(
    problem: DepthwiseProblem,
    names: Names,
    batch: number,
    runner: DepthwiseRunner,
  ) {
    this.problem = problem;
    this.#names = names;
    this.batch = batch;
    this.runner = runner;
  }

  /** Compile, start threads or open the GPU; `order` as in DepthwiseEngine. */
  static async create(
    problem: DepthwiseProblem,
    options: DepthwiseOptions,
    names: Names,
    order: readonly number[],
  ): Promise<DepthwiseCore> {
    const call = `${names.type}.create`;
    const { batch = 1, device } = options;
    integer(call, "batch", batch, 1, 2 ** 31);
    const workspaceBytes = workspaceOf(options, call);
    const runner = wantsGpu(options, call)
      ? await openGpu(problem, { device, workspaceBytes }, order, call)
      : await DepthwiseCpuRunner.open(problem, options, order, call);
    return new DepthwiseCore(problem, names, batch, runner);
  }

  /** Channels of x: H, or 3H where three branches are packed. */
  get inputChannels(): number {
    return this.problem.channels * widths(this.problem.form).branches;
  }

  /** How messages name the channels of x, weight, bias and state. */
  get #packed(): "H" | "3H" {
    return widths(this.problem.form).branches === 3 ? "3H" : "H";
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
    const size =
      integer(call, "batch", batch, 1, 2 ** 31) *
      integer(call, "length", positions, 1, 2 ** 31) *
      channels;
    return this.runner.lend(size, call);
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
    return { call, name, dtype, dimensions, device: this.runner.device };
  }

  /** A tensor of B items of `channels` channels, and how many positions it has. */
  #lines(
    tensor: Tensor | GpuTensor,
    expected: Expected,
    channels: number,
  ): { data: TensorData; batch: number; positions: number } {
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

  /** Parameters come as float32 or in the data's dtype; a buffer does not say what it holds: there they are float32. */
  #parameters(
    tensor: Tensor | GpuTensor,
    name: string,
    shaped: readonly (readonly [dimension: string, size: number])[],
    call: string,
  ): TensorData {
    const dtype = isGpuTensor(tensor) ? "float32" : this.problem.dtype;
    const { device } = this.runner;
    const dimensions = shaped.map(([dimension]) => dimension);
    const sizes = shaped.map(([, size]) => size);
    const expected = { call, name, dtype, dimensions, orFloat32: true, device };
    const { data, shape } = samplesOf(tensor, expected);
    const all = sizes.reduce((a, b) => a * b);
    exactly(data, all, expected);
    checkSizes(shape, sizes, expected);
    if (data instanceof GpuSamples || data instanceof Float32Array) return data;
    return Float32Array.from(decode(data, dtype));
  }

  #state(
    tensor: Tensor | GpuTensor | undefined,
    name: string,
    batch: number,
    call: string,
    given: Named[],
  ): TensorData | undefined {
    if (tensor === undefined) return undefined;
    this.#streaming(call);
    const history = this.problem.kernelLength - 1;
    // A filter of one tap looks at no earlier sample: its state is empty.
    if (history === 0 && emptyOf(tensor, this.problem.dtype)) return undefined;
    const expected = this.#expected(call, name, this.#packed, "K − 1");
    const { data, shape } = samplesOf(tensor, expected);
    exactly(data, batch * this.inputChannels * history, expected);
    checkSizes(shape, this.#shape(batch, this.inputChannels, history), expected);
    given.push({ name, data });
    return data;
  }

  #operands(
    x: Tensor | GpuTensor,
    weight: Tensor | GpuTensor,
    options: Pick<DepthwiseForwardOptions<Dtype>, "bias" | "state" | "encoder">,
    method: "forward" | "backward",
    call: string,
  ): Operands {
    this.alive(call);
    checkOptions(options, call);
    known(options, operandNames[method], call);
    checkEncoder(options.encoder, this.runner.device, call);
    const channels = this.inputChannels;
    const { kernelLength } = this.problem;
    const { data, batch, positions } = this.#lines(
      x,
      this.#expected(call, "x", this.#packed, "L"),
      channels,
    );
    const outputLength = this.outputLength(positions, call);
    const given: Named[] = [{ name: "x", data }];
    const { dims, shape = dims } = Object(weight) as { shape?: unknown; dims?: unknown };
    // As torch.nn.Conv1d has them, with the one input channel of each group.
    const grouped = Array.isArray(shape) && shape.length === 3;
    const lines = [this.#packed, channels] as const;
    const filters = [lines, ...(grouped ? [["1", 1] as const] : []), ["K", kernelLength] as const];
    const taps = this.#parameters(weight, "weight", filters, call);
    const bias =
      options.bias === undefined
        ? undefined
        : this.#parameters(options.bias, "bias", [lines], call);
    given.push({ name: "weight", data: taps }, ...(bias ? [{ name: "bias", data: bias }] : []));
    const state = this.#state(options.state, "state", batch, call, given);
    return { x: data, batch, length: positions, outputLength, weight: taps, bias, state, given };
  }

  /** What the caller gave for a result of a shape, checked. */
  #given(
    given: Tensor | GpuTensor | undefined,
    expected: Expected,
    shape: readonly number[],
    inputs: readonly Named[],
  ): TensorData | undefined {
    if (given === undefined) return undefined;
    const { data, shape: own } = samplesOf(given, expected);
    exactly(data, product(shape), expected);
    checkSizes(own, shape, expected);
    apart({ name: expected.name, data }, inputs, expected.call);
    return data;
  }

  /** An array of x's kind for a result, or a new buffer where x is in one: when nothing is left that could be refused. */
  #fresh(like: TensorData, size: number, call: string): TensorData | Promise<TensorData> {
    if (like instanceof GpuSamples) return this.runner.allocate(size, this.problem.dtype, call);
    return newArray(like.constructor as new (n: number) => SampleArray, size, call);
  }

  #request(
    operands: Operands,
    encoder: GpuCommandEncoder | undefined,
    name: string,
  ): DepthwiseRequest {
    return { ...operands, name, encoder, alive: () => this.alive(name) };
  }

  /** (B, H, positions) in the object's layout. */
  #shape(batch: number, channels: number, positions: number): number[] {
    return this.problem.layout === "BHL"
      ? [batch, channels, positions]
      : [batch, positions, channels];
  }

  /** Outputs of a forward call, named `names` in messages. */
  async forward(
    x: Tensor | GpuTensor,
    weight: Tensor | GpuTensor,
    options: Omit<DepthwiseForwardOptions<Dtype>, "out">,
    out: readonly {
      readonly name: string;
      readonly array: Tensor | GpuTensor | undefined;
    }[],
  ): Promise<(SampleArray | GpuTensor)[]> {
    const call = this.#name("forward");
    const operands = this.#operands(x, weight, options, "forward", call);
    const { batch, outputLength, state } = operands;
    const { channels } = this.problem;
    const inputs = [...operands.given];
    const size = batch * channels * outputLength;
    const shape = this.#shape(batch, channels, outputLength);
    const given = out.map(({ name, array }) => {
      const data = this.#given(array, this.#expected(call, name, "H", "Lout"), shape, inputs);
      if (data) inputs.push({ name, data, isOutput: true });
      return data;
    });
    const taken: Named[] = [];
    const stateOut = this.#state(options.stateOut, "stateOut", batch, call, taken);
    if (stateOut) {
      const others = inputs.filter(
        ({ data }) => !state || data !== state || !same(state, stateOut),
      );
      apart(taken[0]!, others, call);
    }
    const request = this.#request(operands, options.encoder, call);
    const results = out.map(
      ({ name }, o) => [name, given[o] ?? this.#fresh(operands.x, size, call)] as const,
    );
    const wanted = Object.fromEntries(results);
    const made = atOnce(wanted) ? wanted : await settled(wanted);
    const outputs = Object.entries(made).map(([name, data]): Named => ({ name, data }));
    const running = this.runner.forward({ ...request, outputs, stateOut });
    const own = outputs.filter((_, o) => !given[o]).map(({ data }) => data);
    if (running) await orDestroyed(running, own);
    return outputs.map(({ data }) => handed(data, shape));
  }

  /** Gradients of a forward call with the same operands. */
  async backward(
    dy: readonly { readonly name: string; readonly tensor: Tensor | GpuTensor }[],
    x: Tensor | GpuTensor,
    weight: Tensor | GpuTensor,
    options: DepthwiseBackwardOptions<Dtype>,
  ): Promise<DepthwiseGradients<unknown, unknown>> {
    const call = this.#name("backward");
    const operands = this.#operands(x, weight, options, "backward", call);
    const { batch, length, outputLength, state } = operands;
    const { channels, kernelLength } = this.problem;
    const packed = this.inputChannels;
    const inputs: Named[] = [...operands.given];
    const upstream = dy.map(({ name, tensor }): Named => {
      const expected = this.#expected(call, name, "H", "Lout");
      const { data, shape } = samplesOf(tensor, expected);
      exactly(data, batch * channels * outputLength, expected);
      checkSizes(shape, this.#shape(batch, channels, outputLength), expected);
      inputs.push({ name, data });
      return { name, data };
    });
    const dstateOut = this.#state(options.dstateOut, "dstateOut", batch, call, inputs);
    const shape = this.#shape(batch, packed, length);
    const given = this.#given(
      options.out,
      this.#expected(call, "dx", this.#packed, "L"),
      shape,
      inputs,
    );
    const request = this.#request(operands, options.encoder, call);
    const wanted = {
      dx: given ?? this.#fresh(operands.x, operands.x.length, call),
      ...(state && { dstate: this.#fresh(operands.x, state.length, call) }),
    };
    const made = atOnce(wanted) ? wanted : await settled(wanted);
    const { dx, dstate } = made as { dx: TensorData; dstate?: TensorData };
    const sums = await orDestroyed(
      this.runner.backward({ ...request, dx, dstate, dy: upstream, dstateOut }),
      [...(given ? [] : [dx]), ...(dstate ? [dstate] : [])],
    );
    return {
      dx: handed(dx, shape),
      dweight: handed(sums.dweight, [packed, kernelLength]),
      ...(sums.dbias && { dbias: handed(sums.dbias, [packed]) }),
      ...(dstate && {
        dstate: handed(dstate, this.#shape(batch, packed, kernelLength - 1)),
      }),
    };
  }

  async warmUp(calls: DepthwiseWarmUp): Promise<void> {
    const call = this.#name("warmUp");
    this.alive(call);
    checkOptions(calls, call);
    known(calls, ["length", "batch", ...warmUpFlags], call);
    this.outputLength(calls.length, call);
    const batch = integer(call, "batch", calls.batch ?? this.batch, 1, 2 ** 31);
    checkFlags(calls, warmUpFlags, call);
    if (calls.state) this.#streaming(call);
    await this.runner.warmUp({ ...calls, batch }, call);
  }

  async recorder(
    recorded: RecordedDepthwiseCall,
    options: DepthwiseRecorderOptions,
  ): Promise<GpuRecorder> {
    const call = this.#name("recorder");
    this.alive(call);
    checkOptions(options, call, "options", "Pass { batch: B, length: L }.");
    const { state, stateOut, dstateOut } = options;
    if (state || dstateOut || (stateOut ?? "none") !== "none") this.#streaming(call);
    this.outputLength(options.length, call);
    const recorder = this.runner.recorder?.(recorded, options, call, (c) => this.alive(c));
    return recorder ?? refuseRecorder(call);
  }

  async submitted(): Promise<void> {
    this.alive(this.#name("submitted"));
    await this.runner.submitted?.();
  }

  alive(call: string): void {
    if (!this.#disposed) return;
    throw new InvalidArgumentError({
      call,
      requirement: `it needs a ${this.#names.type} object that has not been disposed`,
      value: "a disposed one",
      remedy: "Create a new object, or dispose later.",
    });
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.runner.leave();
  }
}

/** A runner on a GPU, whose code is loaded now. */
async function openGpu(
  problem: DepthwiseProblem,
  options: {
    readonly device: DepthwiseOptions["device"] | undefined;
    readonly workspaceBytes: number;
  },
  order: readonly number[],
  call: string,
): Promise<DepthwiseRunner> {
  const { DepthwiseGpuRunner } = await loadGpu(options.device, call, () => import("./gpu.ts"));
  return DepthwiseGpuRunner.open(problem, options, order, call);
}

/** Whether nothing must be waited for: calls on arrays take their turns in the order in which they were made. */
function atOnce(
  results: Readonly<Record<string, TensorData | Promise<TensorData>>>,
): results is Readonly<Record<string, TensorData>> {
  return Object.values(results).every((r) => !(r instanceof Promise));
}

/** Whether two operands are the same samples: one array, or one place in a buffer. */
function same(a: TensorData, b: TensorData): boolean {
  return (
    a === b || (a instanceof GpuSamples && a.buffer === b.buffer && a.byteOffset === b.byteOffset)
  );
}
