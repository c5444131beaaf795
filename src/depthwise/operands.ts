/** Checks of what calls of short convolutions are given. */
import { checkEncoder } from "../calls/runtime.ts";
import { checkOptions, integer, known } from "../checks.ts";
import type { Dtype } from "../dtype.ts";
import { decode } from "../dtype.ts";
import { InvalidArgumentError } from "../errors.ts";
import type { GpuDevice } from "../gpu.ts";
import type { DepthwiseProblem } from "../plan/depthwise.ts";
import { outputLengthOf, streams, widths } from "../plan/depthwise.ts";
import { show } from "../show.ts";
import type { Expected, Named } from "../tensors/check.ts";
import { apart, emptyOf, samplesOf, sized } from "../tensors/check.ts";
import type { WantedResult } from "../tensors/results.ts";
import { checkGradientOf } from "../tensors/results.ts";
import type { GpuTensor, Tensor, TensorData } from "../tensors/tensor.ts";
import { GpuSamples, isGpuTensor } from "../tensors/tensor.ts";
import type {
  DepthwiseBackwardOptions,
  DepthwiseForwardOptions,
  DepthwiseGradientArrays,
} from "./options.ts";

/** Optional operands of calls. A state that a forward call leaves behind is none of backward's, its gradient none of forward's. */
const operandNames = {
  forward: ["bias", "state", "stateOut", "out", "encoder"],
  backward: ["bias", "state", "dstateOut", "out", "encoder"],
} as const;
const gradientNames = ["dx", "dweight", "dbias", "dstate"] as const;

/** A call's operands, checked. */
export interface ShortOperands {
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

/** @throws InvalidArgumentError where the filter does not fit. */
export function checkedOutputLength(
  problem: DepthwiseProblem,
  length: number,
  call: string,
): number {
  integer(call, "length", length, 1, 2 ** 31);
  const result = outputLengthOf(problem, length);
  if (result >= 1) return result;
  const { kernelLength, left, right } = problem;
  throw new InvalidArgumentError({
    call,
    requirement: `a row with its padding must be at least ${show(kernelLength)} samples long`,
    value: `${show(length)} samples with ${show(left)} zeros before and ${show(right)} after them`,
    remedy: "Pass longer rows, or pad them more.",
  });
}

/** Refuse a state where outputs do not end with the inputs. */
export function checkStreams(problem: DepthwiseProblem, call: string): void {
  if (streams(problem)) return;
  throw new InvalidArgumentError({
    call,
    requirement: "carried state needs padding 'causal'",
    value: `padding [${problem.left}, ${problem.right}]`,
    remedy: "Create the object with padding: 'causal', or leave the state out.",
  });
}

/** Channels of x: H, or 3H where three branches are packed. */
export function inputChannels({ channels, form }: DepthwiseProblem): number {
  return channels * widths(form).branches;
}

/** Checks of the operands of one call. */
export class ShortOperandChecks {
  readonly #problem: DepthwiseProblem;
  /** B of tensors without a shape. */
  readonly #batch: number;
  readonly #device: GpuDevice | undefined;
  readonly #call: string;
  /** Channels of x, weight, bias and state, and how messages name them. */
  readonly #packed: readonly ["H" | "3H", number];

  constructor(
    problem: DepthwiseProblem,
    batch: number,
    device: GpuDevice | undefined,
    call: string,
  ) {
    this.#problem = problem;
    this.#batch = batch;
    this.#device = device;
    this.#call = call;
    this.#packed = [widths(problem.form).branches === 3 ? "3H" : "H", inputChannels(problem)];
  }

  /** Dimensions of `channels` rows of `positions` samples, or their sizes, in the object's layout. */
  #ordered<T>(batch: T, channels: T, positions: T): T[] {
    return this.#problem.layout === "BHL"
      ? [batch, channels, positions]
      : [batch, positions, channels];
  }

  #expected(name: string, dimensions: readonly string[], dtype = this.#problem.dtype): Expected {
    return { call: this.#call, name, dtype, dimensions, device: this.#device };
  }

  /** x, and how many batch items and positions it has. */
  #input(x: Tensor | GpuTensor): { data: TensorData; batch: number; positions: number } {
    const [packed, channels] = this.#packed;
    const expected = this.#expected("x", this.#ordered("B", packed, "L"));
    const { data, shape } = samplesOf(x, expected);
    const across = this.#problem.layout === "BHL" ? 1 : 2;
    const batch = shape ? shape[0]! : this.#batch;
    const positions = data.length / (batch * channels);
    if (Number.isInteger(positions) && (!shape || shape[across] === channels))
      return { data, batch, positions };
    throw new InvalidArgumentError({
      call: this.#call,
      requirement: `x must have ${show(channels)} channels in each of ${show(batch)} batch items`,
      value: shape ? show(shape) : show(data),
      remedy: `Pass shape (${expected.dimensions.join(", ")}), or set channels and batch when creating the object.`,
    });
  }

  /** Weights come as float32 or in the data's dtype; a buffer does not say what it holds: there they are float32. */
  #weights(
    tensor: Tensor | GpuTensor,
    name: string,
    dimensions: readonly string[],
    shape: readonly number[],
  ): TensorData {
    const dtype = isGpuTensor(tensor) ? "float32" : this.#problem.dtype;
    const [call, device] = [this.#call, this.#device];
    const data = sized(tensor, shape, { call, name, dtype, dimensions, device, orFloat32: true });
    if (data instanceof GpuSamples || data instanceof Float32Array) return data;
    return Float32Array.from(decode(data, dtype));
  }

  /** A state of the call, or its gradient. */
  state(tensor: Tensor | GpuTensor | undefined, name: string, batch: number): Named[] {
    if (tensor === undefined) return [];
    checkStreams(this.#problem, this.#call);
    const { given, shape, dimensions, dtype } = this.#wantedState(tensor, batch);
    // A filter of one tap looks at no earlier sample: its state is empty.
    if (this.#problem.kernelLength === 1 && emptyOf(given, dtype)) return [];
    return [{ name, data: sized(tensor, shape, this.#expected(name, dimensions)) }];
  }

  #wantedState(given: Tensor | GpuTensor | undefined, batch: number): WantedResult {
    const { kernelLength, dtype } = this.#problem;
    const [packed, channels] = this.#packed;
    return {
      ...{ given, dtype, shape: this.#ordered(batch, channels, kernelLength - 1) },
      dimensions: this.#ordered("B", packed, "K − 1"),
    };
  }

  operands(
    x: Tensor | GpuTensor,
    weight: Tensor | GpuTensor,
    options: Pick<DepthwiseForwardOptions<Dtype>, "bias" | "state" | "encoder">,
    method: "forward" | "backward",
  ): ShortOperands {
    checkOptions(options, this.#call);
    known(options, operandNames[method], this.#call);
    checkEncoder(options.encoder, this.#device, this.#call);
    const { kernelLength } = this.#problem;
    const { data, batch, positions } = this.#input(x);
    const outputLength = checkedOutputLength(this.#problem, positions, this.#call);
    const { dims, shape = dims } = Object(weight) as { shape?: unknown; dims?: unknown };
    // As torch.nn.Conv1d has them, with the one input channel of each group.
    const grouped = Array.isArray(shape) && shape.length === 3;
    const [packed, channels] = this.#packed;
    const taps = grouped
      ? this.#weights(weight, "weight", [packed, "1", "K"], [channels, 1, kernelLength])
      : this.#weights(weight, "weight", [packed, "K"], [channels, kernelLength]);
    const given: Named[] = [
      { name: "x", data },
      { name: "weight", data: taps },
    ];
    const bias =
      options.bias === undefined
        ? undefined
        : this.#weights(options.bias, "bias", [packed], [channels]);
    if (bias) given.push({ name: "bias", data: bias });
    const state = this.state(options.state, "state", batch)[0];
    if (state) given.push(state);
    const length = positions;
    return { x: data, batch, length, outputLength, weight: taps, bias, state: state?.data, given };
  }

  /** Where a forward call leaves its state: apart from all that it reads, but for the state that it begins with. */
  stateOut(
    tensor: Tensor | GpuTensor | undefined,
    { batch, state, given }: ShortOperands,
  ): Named[] {
    return this.state(tensor, "stateOut", batch).map((taken) => {
      const others = given.filter(({ data }) => data !== state || !same(data, taken.data));
      apart(taken, others, this.#call);
      return { ...taken, isOutput: true };
    });
  }

  /** An output, or its gradient, of a call. */
  wantedOutput(
    given: Tensor | GpuTensor | undefined,
    { batch, outputLength }: ShortOperands,
  ): WantedResult {
    const { channels, dtype } = this.#problem;
    const shape = this.#ordered(batch, channels, outputLength);
    return { given, dtype, shape, dimensions: this.#ordered("B", "H", "Lout") };
  }

  /** The gradient of an output, as a call is given it. */
  upstream(name: string, tensor: Tensor | GpuTensor, operands: ShortOperands): Named {
    const { shape, dimensions } = this.wantedOutput(undefined, operands);
    return { name, data: sized(tensor, shape, this.#expected(name, dimensions)) };
  }

  /** Gradients of a call: those of operands that it has. */
  gradients(
    { batch, length, bias, state }: ShortOperands,
    options: DepthwiseBackwardOptions<Dtype>,
  ): Readonly<Record<string, WantedResult>> {
    const out: DepthwiseGradientArrays<Dtype> = options.out === undefined ? {} : options.out;
    checkOptions(out, this.#call, "out", "Pass { dx, dweight, dbias, dstate }, or leave it out.");
    known(out, gradientNames, this.#call, "out");
    for (const operand of ["bias", "state"] as const)
      checkGradientOf(operand, options[operand], out[`d${operand}`], this.#call);
    // Of one tap: the state is empty, and so must be its gradient.
    if (!state) this.state(out.dstate, "dstate", batch);
    const { kernelLength, dtype } = this.#problem;
    const [packed, channels] = this.#packed;
    const wide = "float32" as const;
    return {
      dx: {
        ...{ given: out.dx, dtype, shape: this.#ordered(batch, channels, length) },
        dimensions: this.#ordered("B", packed, "L"),
      },
      dweight: {
        ...{ given: out.dweight, dtype: wide, shape: [channels, kernelLength] },
        dimensions: [packed, "K"],
      },
      ...(bias && {
        dbias: { given: out.dbias, dtype: wide, shape: [channels], dimensions: [packed] },
      }),
      ...(state && { dstate: this.#wantedState(out.dstate, batch) }),
    };
  }
}

/** Whether two operands are the same samples: one array, or one place in a buffer. */
function same(a: TensorData, b: TensorData): boolean {
  return (
    a === b || (a instanceof GpuSamples && a.buffer === b.buffer && a.byteOffset === b.byteOffset)
  );
}
