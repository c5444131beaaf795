/** Checks of what calls of a FlashFFTConv are given. */
import type { RowField } from "../calls/cpu-staging.ts";
import { PreparedKernel } from "../calls/prepared.ts";
import { checkEncoder } from "../calls/runtime.ts";
import { checkOptions, known } from "../checks.ts";
import type { Dtype } from "../dtype.ts";
import { InvalidArgumentError } from "../errors.ts";
import type { Problem } from "../plan/problem.ts";
import { show } from "../show.ts";
import type { Expected, Named } from "../tensors/check.ts";
import { rowsOf, samplesOf, sized } from "../tensors/check.ts";
import type { WantedResult } from "../tensors/results.ts";
import { checkGradientOf } from "../tensors/results.ts";
import type { GpuTensor, Tensor, TensorData } from "../tensors/tensor.ts";
import { GpuSamples, isGpuTensor } from "../tensors/tensor.ts";
import type { Gates, Shape } from "./cpu-rows.ts";
import type { BackwardOptions, ForwardOptions, GradientArrays } from "./options.ts";
import type { KernelArgument, OperandRows, Runner } from "./runner.ts";

/** Options of forward and backward calls, and of a backward call's `out`. */
const operandNames = ["pregate", "postgate", "skip", "out", "encoder"] as const;
const gradientNames = ["du", "dk", "dpregate", "dpostgate", "dskip"] as const;

/** Row tensors that are as wide as an output. */
const outputFields: ReadonlySet<string> = new Set(["y", "out", "dy", "postgate", "dpostgate"]);

/** Taps (H, K) and their storage type. */
interface Taps {
  readonly data: TensorData;
  readonly dtype: Dtype;
  readonly channels: number;
}

/** What forward and backward calls have in common, checked. */
export interface Operands {
  readonly kernel: KernelArgument;
  readonly shape: Shape;
  readonly u: TensorData;
  /** u and the gates. */
  readonly rows: readonly OperandRows[];
  readonly gates: Gates;
  /** (H) float32. */
  readonly skip: TensorData | undefined;
  /** Everything that the call reads. */
  readonly inputs: readonly Named[];
}

/** Refuse a skip term where outputs are not as long as inputs. */
export function checkSkip(problem: Problem, call: string, remedy: string): void {
  const { length, outputLength, mode } = problem;
  if (length === outputLength) return;
  throw new InvalidArgumentError({
    call,
    requirement: "skip needs outputs as long as the inputs",
    value: `mode ${show(mode)} with ${show(outputLength)} outputs for ${show(length)} inputs`,
    remedy,
  });
}

/** Checks of the operands of one call. */
export class OperandChecks {
  readonly #problem: Problem;
  readonly #runner: Pick<Runner, "device" | "holds">;
  readonly #call: string;

  constructor(problem: Problem, runner: Pick<Runner, "device" | "holds">, call: string) {
    this.#problem = problem;
    this.#runner = runner;
    this.#call = call;
  }

  #expected(name: string, dimensions: readonly string[]): Expected {
    const { dtype } = this.#problem;
    return { call: this.#call, name, dtype, dimensions, device: this.#runner.device };
  }

  /** Samples of a row of a tensor, and the tensor's dimensions. */
  #row(field: string): { width: number; dimensions: readonly string[] } {
    const { length, outputLength } = this.#problem;
    return outputFields.has(field)
      ? { width: outputLength, dimensions: ["B", "H", "Lout"] }
      : { width: length, dimensions: ["B", "H", "L"] };
  }

  #width(shape: readonly number[] | undefined, width: number, { call, name }: Expected): void {
    if (!shape || shape.at(-1) === width) return;
    throw new InvalidArgumentError({
      call,
      requirement: `the last dimension of ${name} must be ${show(width)}`,
      value: show(shape),
      remedy: "Create the FlashFFTConv object with that length.",
    });
  }

  /** Taps k (H, K). */
  taps(k: Tensor | GpuTensor): Taps {
    const stored = { ...this.#expected("k", ["H", "K"]), orFloat32: true };
    // A buffer does not say what it holds: taps on the GPU are float32.
    const expected = isGpuTensor(k) ? { ...stored, dtype: "float32" as const } : stored;
    const { data, shape } = samplesOf(k, expected);
    const { kernelLength, dtype } = this.#problem;
    this.#width(shape, kernelLength, expected);
    const channels = rowsOf(data, kernelLength, expected);
    const wide = data instanceof Float32Array || data instanceof GpuSamples;
    return { data, dtype: wide ? "float32" : dtype, channels };
  }

  /** A kernel argument: one that the object has prepared, or taps. */
  #kernel(k: Tensor | GpuTensor | PreparedKernel): {
    kernel: KernelArgument;
    channels: number;
    taps: Named[];
  } {
    if (!(k instanceof PreparedKernel)) {
      const { data, dtype, channels } = this.taps(k);
      return { kernel: { taps: data, dtype }, channels, taps: [{ name: "k", data }] };
    }
    if (this.#runner.holds(k)) return { kernel: { prepared: k }, channels: k.channels, taps: [] };
    throw new InvalidArgumentError({
      call: this.#call,
      requirement: "a prepared kernel must be alive and of the same FlashFFTConv object",
      value: "one that is disposed or of another object",
      remedy: "Call prepareKernel on this object.",
    });
  }

  /** The samples of u, and how many batch rows they are for a number of kernel rows. */
  #input(u: Tensor | GpuTensor, channels: number): { data: TensorData; shape: Shape } {
    const { width, dimensions } = this.#row("u");
    const expected = this.#expected("u", dimensions);
    const { data, shape } = samplesOf(u, expected);
    this.#width(shape, width, expected);
    const rows = rowsOf(data, width, expected);
    const batch = rows / channels;
    if (Number.isInteger(batch) && (!shape || shape[1] === channels))
      return { data, shape: { batch, channels } };
    throw new InvalidArgumentError({
      call: this.#call,
      requirement: `u must have as many channels as k has rows (${show(channels)}), for each of B batch rows`,
      value: shape ? show(shape) : `${show(rows)} rows`,
      remedy: "Pass k of shape (H, K) for u of shape (B, H, L).",
    });
  }

  /** A row tensor with exactly the rows of the call. */
  rows(tensor: Tensor | GpuTensor, field: RowField, { batch, channels }: Shape): OperandRows {
    const { width, dimensions } = this.#row(field);
    const data = sized(tensor, [batch, channels, width], this.#expected(field, dimensions));
    return { field, data, width, direction: "in" };
  }

  #skip(skip: Tensor | GpuTensor | undefined, channels: number): TensorData | undefined {
    if (skip === undefined) return undefined;
    checkSkip(this.#problem, this.#call, "Use another mode, or add skip ⊙ u yourself.");
    return sized(skip, [channels], { ...this.#expected("skip", ["H"]), dtype: "float32" });
  }

  /** u, kernel, gates and skip of a call. */
  operands(
    u: Tensor | GpuTensor,
    k: Tensor | GpuTensor | PreparedKernel,
    options: ForwardOptions<Dtype> | BackwardOptions<Dtype>,
  ): Operands {
    checkOptions(options, this.#call);
    known(options, operandNames, this.#call);
    checkEncoder(options.encoder, this.#runner.device, this.#call);
    const { kernel, channels, taps } = this.#kernel(k);
    const { data, shape } = this.#input(u, channels);
    const { width } = this.#row("u");
    const rows: OperandRows[] = [{ field: "u", data, width, direction: "in" }];
    for (const gate of ["pregate", "postgate"] as const) {
      const tensor = options[gate];
      if (tensor !== undefined) rows.push(this.rows(tensor, gate, shape));
    }
    const skip = this.#skip(options.skip, channels);
    const inputs = [...rows.map(named), ...taps];
    if (skip) inputs.push({ name: "skip", data: skip });
    const gates = {
      pregate: options.pregate !== undefined,
      postgate: options.postgate !== undefined,
    };
    return { kernel, shape, u: data, rows, gates, skip, inputs };
  }

  /** A row tensor of a call's results. */
  wantedRows(given: Tensor | GpuTensor | undefined, field: string, shape: Shape): WantedResult {
    const { width, dimensions } = this.#row(field);
    const { dtype } = this.#problem;
    return { given, shape: [shape.batch, shape.channels, width], dimensions, dtype };
  }

  /** Gradients of a call: those of operands that it has. */
  gradients(
    { shape, gates, skip }: Operands,
    options: BackwardOptions<Dtype>,
  ): Readonly<Record<string, WantedResult>> {
    const out: GradientArrays<Dtype> = options.out === undefined ? {} : options.out;
    checkOptions(out, this.#call, "out");
    known(out, gradientNames, this.#call, "out");
    for (const operand of ["pregate", "postgate", "skip"] as const)
      checkGradientOf(operand, options[operand], out[`d${operand}`], this.#call);
    const weights = (given: Tensor | GpuTensor | undefined, sizes: Record<string, number>) => ({
      ...{ given, shape: Object.values(sizes), dimensions: Object.keys(sizes) },
      dtype: "float32" as const,
    });
    const { channels } = shape;
    return {
      du: this.wantedRows(out.du, "du", shape),
      dk: weights(out.dk, { H: channels, K: this.#problem.kernelLength }),
      ...(gates.pregate && { dpregate: this.wantedRows(out.dpregate, "dpregate", shape) }),
      ...(gates.postgate && { dpostgate: this.wantedRows(out.dpostgate, "dpostgate", shape) }),
      ...(skip && { dskip: weights(out.dskip, { H: channels }) }),
    };
  }

  /** A row tensor that takes a result. */
  output(field: RowField, data: TensorData): OperandRows {
    return { field, data, width: this.#row(field).width, direction: "out" };
  }
}

/** A row tensor as errors name it. */
export function named({ field, data }: OperandRows): Named {
  return { name: field, data };
}
