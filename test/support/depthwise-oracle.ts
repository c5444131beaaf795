/** Short depthwise convolutions in float64, by their definition: the reference that tests and benchmarks compare with. */

import type { ActivationName } from "../../src/math/activation.ts";
import { activations64 } from "./activations64.ts";

/** What a short convolution is; plan/depthwise.ts makes it from options. */
export interface DepthwiseShape {
  readonly channels: number;
  readonly kernelLength: number;
  readonly left: number;
  readonly right: number;
  readonly layout: "BHL" | "BLH";
  readonly form: "linear" | "projections" | ActivationName;
}

/** What goes into a call, as float64; x, dy and the state in the shape's layout. */
export interface DepthwiseOracleInputs {
  readonly batch: number;
  readonly length: number;
  readonly x: Float64Array;
  /** (C, K) with C = H, or 3H of the projections. */
  readonly weight: Float64Array;
  /** (C). */
  readonly bias?: Float64Array;
  /** The K − 1 samples before the first of each row. */
  readonly state?: Float64Array;
  /** Which thirds of the channels are multiplied with v, the last: 0 or 1. Projections only; 1 by default. */
  readonly pregate?: 0 | 1;
}

/** Gradients of Σ dy·y. */
export interface DepthwiseOracleGradients {
  readonly dx: Float64Array;
  readonly dweight: Float64Array;
  readonly dbias: Float64Array;
  readonly dstate: Float64Array;
}

/** Index of position n of channel c in a tensor of `channels` channels and `length` positions. */
function indexer(layout: DepthwiseShape["layout"], channels: number, length: number) {
  return layout === "BHL"
    ? (b: number, c: number, n: number) => (b * channels + c) * length + n
    : (b: number, c: number, n: number) => (b * length + n) * channels + c;
}

/** Rows of x with what comes before them and after, and the filters' outputs z, channel by channel. */
class DepthwiseRows {
  readonly channels: number;
  readonly outputLength: number;
  readonly #shape: DepthwiseShape;
  readonly #inputs: DepthwiseOracleInputs;
  readonly #at: (b: number, c: number, n: number) => number;
  readonly #stateAt: (b: number, c: number, n: number) => number;

  constructor(shape: DepthwiseShape, inputs: DepthwiseOracleInputs) {
    this.#shape = shape;
    this.#inputs = inputs;
    this.channels = shape.channels * (shape.form === "projections" ? 3 : 1);
    this.outputLength = inputs.length + shape.left + shape.right - shape.kernelLength + 1;
    this.#at = indexer(shape.layout, this.channels, inputs.length);
    this.#stateAt = indexer(shape.layout, this.channels, shape.kernelLength - 1);
  }

  /** Sample `position` of a row, wherever it comes from, and where: index in x, or −1 − index in the state. */
  source(b: number, c: number, position: number): { value: number; place: number | undefined } {
    const { x, state, length } = this.#inputs;
    if (position >= 0 && position < length) {
      const place = this.#at(b, c, position);
      return { value: x[place]!, place };
    }
    const before = position + this.#shape.kernelLength - 1;
    if (!state || position >= 0 || before < 0) return { value: 0, place: undefined };
    const place = this.#stateAt(b, c, before);
    return { value: state[place]!, place: -1 - place };
  }

  z(b: number, c: number, n: number): number {
    const { kernelLength, left } = this.#shape;
    const { weight, bias } = this.#inputs;
    let sum = bias?.[c] ?? 0;
    for (let j = 0; j < kernelLength; j++) {
      sum += weight[c * kernelLength + j]! * this.source(b, c, n + j - left).value;
    }
    return sum;
  }
}

/** The outputs: y, or gated and postgate. */
export function depthwiseOracleForward(
  shape: DepthwiseShape,
  inputs: DepthwiseOracleInputs,
): Float64Array[] {
  const rows = new DepthwiseRows(shape, inputs);
  const { channels, form, layout } = shape;
  const size = inputs.batch * channels * rows.outputLength;
  const at = indexer(layout, channels, rows.outputLength);
  const outputs = [new Float64Array(size)];
  if (form === "projections") outputs.push(new Float64Array(size));
  const pre = inputs.pregate ?? 1;
  for (let b = 0; b < inputs.batch; b++) {
    for (let h = 0; h < channels; h++) {
      for (let n = 0; n < rows.outputLength; n++) {
        const z = (third: number): number => rows.z(b, third * channels + h, n);
        const place = at(b, h, n);
        if (form === "projections") {
          outputs[0]![place] = z(pre) * z(2);
          outputs[1]![place] = z(1 - pre);
        } else outputs[0]![place] = form === "linear" ? z(0) : activations64[form].value(z(0));
      }
    }
  }
  return outputs;
}

/** Gradients, given those of the outputs. */
export function depthwiseOracleBackward(
  shape: DepthwiseShape,
  inputs: DepthwiseOracleInputs,
  dy: readonly Float64Array[],
): DepthwiseOracleGradients {
  const rows = new DepthwiseRows(shape, inputs);
  const { channels, kernelLength, left, form, layout } = shape;
  const at = indexer(layout, channels, rows.outputLength);
  const dx = new Float64Array(inputs.x.length);
  const dweight = new Float64Array(inputs.weight.length);
  const dbias = new Float64Array(rows.channels);
  const dstate = new Float64Array(inputs.batch * rows.channels * (kernelLength - 1));
  const pre = inputs.pregate ?? 1;
  const spread = (b: number, c: number, n: number, dz: number): void => {
    dbias[c] = dbias[c]! + dz;
    for (let j = 0; j < kernelLength; j++) {
      const { value, place } = rows.source(b, c, n + j - left);
      const tap = c * kernelLength + j;
      dweight[tap] = dweight[tap]! + dz * value;
      if (place === undefined) continue;
      const [target, index] = place < 0 ? [dstate, -1 - place] : [dx, place];
      target[index] = target[index]! + dz * inputs.weight[tap]!;
    }
  };
  for (let b = 0; b < inputs.batch; b++) {
    for (let h = 0; h < channels; h++) {
      for (let n = 0; n < rows.outputLength; n++) {
        const d = dy.map((row) => row[at(b, h, n)]!);
        if (form === "projections") {
          const [g, v] = [pre * channels + h, 2 * channels + h];
          spread(b, g, n, d[0]! * rows.z(b, v, n));
          spread(b, v, n, d[0]! * rows.z(b, g, n));
          spread(b, (1 - pre) * channels + h, n, d[1]!);
          continue;
        }
        const slope = form === "linear" ? 1 : activations64[form].slope(rows.z(b, h, n));
        spread(b, h, n, d[0]! * slope);
      }
    }
  }
  return { dx, dweight, dbias, dstate };
}
