/** Linear layers and the two-layer perceptron: y = x·Wᵀ + b, in any order of length and channels. */
import type { ActivationName } from "../../math/activation.ts";
import type { TapeTensor } from "../tape.ts";
import type { TensorShape } from "../tensor.ts";
import { checkShape, checkWidth, misshapen } from "../tensor.ts";
import type { MatrixView } from "./multiply.ts";
import { multiply, transpose } from "./multiply.ts";
import { sumDown } from "./sums.ts";

/** Weights of a linear layer. */
export interface LinearParameters {
  /** (N, K) */
  readonly weight: TapeTensor;
  /** (N) */
  readonly bias?: TapeTensor | undefined;
}

/** How tensors of a sequence lie: (B, L, D), or (B, D, L). */
export type SequenceLayout = "rows" | "channels";

/** Where a linear layer reads and writes, and what it adds. */
export interface LinearOptions {
  /** Layout of x; `rows` by default, for tensors of any number of dimensions. */
  readonly from?: SequenceLayout;
  /** Layout of the result; `rows` by default. */
  readonly to?: SequenceLayout;
  /** Added to the result: a tensor of its shape. */
  readonly residual?: TapeTensor | undefined;
}

/** A sequence as matrices of L rows; one matrix of all rows where `whole`. */
function sequence(tensor: TapeTensor, layout: SequenceLayout, whole: boolean): MatrixView {
  if (whole) {
    return { tensor, rows: tensor.rows, columns: tensor.width, transposed: false, batch: 1 };
  }
  const [batch, length, width] = dimensions(tensor, layout);
  return { tensor, rows: length, columns: width, transposed: layout === "channels", batch };
}

function dimensions(
  { shape, label }: TapeTensor,
  layout: SequenceLayout,
): [number, number, number] {
  if (shape.length !== 3) throw misshapen(label, "a tensor of three dimensions", shape);
  const [batch, first, second] = shape as [number, number, number];
  return layout === "rows" ? [batch, first, second] : [batch, second, first];
}

/** What a linear layer reads and writes, as matrices. */
function frame(
  x: TapeTensor,
  { weight }: LinearParameters,
  { from = "rows", to = "rows" }: LinearOptions,
) {
  const [outputs = 0, inputs = 0] = weight.shape;
  const whole = from === "rows" && to === "rows";
  const shape = (): TensorShape => {
    if (whole) return [...x.shape.slice(0, -1), outputs];
    const [batch, length] = dimensions(x, from);
    return to === "rows" ? [batch, length, outputs] : [batch, outputs, length];
  };
  const stored = x.storage === "float16" ? x.tape.stored(weight) : weight;
  return {
    inputs,
    shape,
    x: (tensor: TapeTensor): MatrixView => sequence(tensor, from, whole),
    y: (tensor: TapeTensor): MatrixView => sequence(tensor, to, whole),
    weight: (tensor: TapeTensor): MatrixView => ({
      ...{ tensor, rows: outputs, columns: inputs, transposed: false, batch: 1 },
    }),
    stored,
  };
}

/** Refuse shapes that do not belong together. */
function check(x: TapeTensor, { weight, bias }: LinearParameters, from: SequenceLayout): void {
  const { place } = x.tape;
  const [outputs = 0, inputs = 0] = weight.shape;
  checkShape(weight.label, weight, [-1, -1]);
  if (bias) checkShape(bias.label, bias, [outputs]);
  if (from === "rows") checkWidth(place || weight.label, x, inputs);
  else checkShape(place || weight.label, x, [-1, inputs, -1]);
}

/** dW and db from dy, into their sinks. */
function weightGradients(
  dy: TapeTensor,
  x: TapeTensor,
  p: LinearParameters,
  options: LinearOptions,
): (TapeTensor | undefined)[] {
  const { tape } = x;
  const f = frame(x, p, options);
  const { tensor, accumulate, result } = tape.sink(p.weight, "float32");
  multiply(transpose(f.y(dy)), f.x(x), f.weight(tensor), { sumsBatch: true, accumulate });
  if (!p.bias) return [result];
  return [result, sumDown(dy, p.bias, options.to ?? "rows")];
}

/**
 * y = x·Wᵀ + b, and the residual where there is one.
 * @param x (…, K); (B, K, L) where it comes `from: "channels"`.
 * @returns (…, N); (B, N, L) where it goes `to: "channels"`: transposing costs nothing.
 * @example
 * const y = linear(x, p.outProjection, { from: "channels", residual });
 */
export function linear(
  x: TapeTensor,
  p: LinearParameters,
  options: LinearOptions = {},
): TapeTensor {
  const { tape } = x;
  const { residual } = options;
  check(x, p, options.from ?? "rows");
  const f = frame(x, p, options);
  const y = tape.tensor(f.shape(), x.storage);
  if (residual) checkShape(tape.place, residual, y.shape);
  multiply(f.x(x), transpose(f.weight(f.stored)), f.y(y), { bias: p.bias, residual });
  tape.operation({
    inputs: [x, p.weight, ...(p.bias ? [p.bias] : []), ...(residual ? [residual] : [])],
    outputs: [y],
    gradient: ([dy]) => [
      dx(dy!, x, p, options),
      ...weightGradients(dy!, x, p, options),
      ...(residual ? [dy] : []),
    ],
  });
  return y;
}

function dx(
  dy: TapeTensor,
  x: TapeTensor,
  p: LinearParameters,
  options: LinearOptions,
): TapeTensor | undefined {
  if (!x.tape.differentiates(x)) return undefined;
  const f = frame(x, p, options);
  const { tensor, accumulate, result } = x.tape.sink(x, x.storage);
  multiply(f.y(dy), f.weight(f.stored), f.x(tensor), { accumulate });
  return result;
}

/** Weights of a perceptron of two layers. */
export interface MlpParameters {
  readonly first: LinearParameters;
  readonly second: LinearParameters;
}

/** What stands between the layers of a perceptron, and what is added behind them. */
export interface MlpOptions {
  /** `gelu` by default. */
  readonly activation?: ActivationName;
  readonly residual?: TapeTensor | undefined;
}

/**
 * second(activation(first(x))) + residual: the activation runs where the first product ends, its slope where the gradient's does.
 * @param x (…, D)
 * @returns (…, D)
 */
export function mlp(x: TapeTensor, p: MlpParameters, options: MlpOptions = {}): TapeTensor {
  const { tape } = x;
  const { activation = "gelu", residual } = options;
  check(x, p.first, "rows");
  const inner = frame(x, p.first, {});
  const h = tape.tensor(inner.shape(), x.storage);
  const z = tape.training ? tape.tensor(inner.shape(), x.storage) : undefined;
  const first = transpose(inner.weight(inner.stored));
  multiply(inner.x(x), first, inner.y(h), { bias: p.first.bias, activation, sum: z });
  check(h, p.second, "rows");
  const outer = frame(h, p.second, {});
  const y = tape.tensor(outer.shape(), x.storage);
  if (residual) checkShape(tape.place, residual, y.shape);
  multiply(outer.x(h), transpose(outer.weight(outer.stored)), outer.y(y), {
    ...{ bias: p.second.bias, residual },
  });
  const biases = (q: LinearParameters): TapeTensor[] => (q.bias ? [q.bias] : []);
  tape.operation({
    inputs: [
      ...[x, p.first.weight, ...biases(p.first), p.second.weight, ...biases(p.second)],
      ...(residual ? [residual] : []),
    ],
    outputs: [y],
    gradient: ([dy]) => {
      const dz = tape.tensor(h.shape, x.storage);
      multiply(outer.y(dy!), outer.weight(outer.stored), outer.x(dz), { slope: activation, z });
      return [
        dx(dz, x, p.first, {}),
        ...weightGradients(dz, x, p.first, {}),
        ...weightGradients(dy!, h, p.second, {}),
        ...(residual ? [dy] : []),
      ];
    },
  });
  return y;
}
