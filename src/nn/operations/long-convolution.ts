/** Long and short convolutions as operations: calls of FlashFFTConv and its short filters, with their gradients. */
import type { Frequencies } from "../../plan/frequencies.ts";
import type { ConvolutionStep, FilterStep } from "../step.ts";
import type { TapeTensor } from "../tape.ts";
import { checkShape, misshapen } from "../tensor.ts";

/** Storage of what convolutions read. */
function samples(tensor: TapeTensor): "float32" | "float16" {
  if (tensor.storage === "uint32") throw misshapen(tensor.label, "samples", "tokens");
  return tensor.storage;
}

/** What is fused into a long convolution. */
export interface LongConvOptions {
  /** (B, D, L), multiplied in before the convolution. */
  readonly pregate?: TapeTensor | undefined;
  /** (B, D, L), multiplied in behind it. */
  readonly postgate?: TapeTensor | undefined;
  /** `causal` by default; `bidirectional` takes a kernel of 2L taps: those of lags −L … −1 behind those of 0 … L − 1. */
  readonly mode?: ConvolutionStep["mode"];
  /** Frequencies that the kernel keeps, as FlashFFTConv's option; all by default. */
  readonly frequencies?: Frequencies | undefined;
}

/**
 * y = postgate ⊙ ((pregate ⊙ u) ∗ k), exact. A skip D ⊙ u is a tap more at lag 0: `hyenaFilter` and `skipTap` add it to k.
 * @param u (B, D, L)
 * @param k (D, K) in float32; K ≤ L where causal.
 * @returns (B, D, L)
 */
export function longConv(u: TapeTensor, k: TapeTensor, options: LongConvOptions = {}): TapeTensor {
  const { tape, shape } = u;
  const { pregate, postgate, mode = "causal", frequencies } = options;
  const place = tape.place || "longConv";
  const [batch = 0, channels = 0, length = 0] = shape;
  checkShape(place, u, [-1, -1, -1]);
  checkShape(place, k, [channels, -1]);
  for (const gate of [pregate, postgate]) if (gate) checkShape(place, gate, shape);
  const kernelLength = k.width;
  const work = (way: ConvolutionStep["way"]): ConvolutionStep => ({
    ...{ kind: "convolution", way, batch, channels, length, kernelLength, mode },
    ...{ dtype: samples(u), pregate: pregate !== undefined, postgate: postgate !== undefined },
    ...(frequencies && { frequencies }),
  });
  const gates = { ...(pregate && { pregate }), ...(postgate && { postgate }) };
  const y = tape.tensor(shape, u.storage);
  tape.step(work("forward"), { u, k, ...gates }, { y });
  tape.operation({
    inputs: [u, k, ...Object.values(gates)],
    outputs: [y],
    gradient: ([dy]) => {
      const du = tape.tensor(shape, u.storage);
      const dk = tape.tensor(k.shape, "float32");
      const dgates = Object.keys(gates).map((name) => ({ name, d: tape.tensor(shape, u.storage) }));
      const writes = Object.fromEntries(dgates.map(({ name, d }) => [`d${name}`, d]));
      tape.step(work("backward"), { dy: dy!, u, k, ...gates }, { du, dk, ...writes });
      return [du, dk, ...dgates.map(({ d }) => d)];
    },
  });
  return y;
}

/** Weights of short depthwise filters. */
export interface ShortFilterParameters {
  /** (C, K) */
  readonly weight: TapeTensor;
  /** (C) */
  readonly bias?: TapeTensor | undefined;
}

/** What the fused projections of a Hyena operator give. */
export interface ProjectedSequences {
  /** (B, D, L): the value times one gate, both filtered. */
  readonly gated: TapeTensor;
  /** (B, D, L): the other gate, filtered. */
  readonly postgate: TapeTensor;
}

/** A step of short filters and its gradient: `outputs` are the names of what it makes, of `width` channels each. */
function filtered(
  x: TapeTensor,
  { weight, bias }: ShortFilterParameters,
  work: Pick<FilterStep, "kind" | "channels" | "pregate">,
  outputs: readonly string[],
): TapeTensor[] {
  const { tape } = x;
  const [batch = 0, , length = 0] = x.shape;
  const { channels } = work;
  const kernelLength = weight.width;
  const step = (way: FilterStep["way"]): FilterStep => ({
    ...{ ...work, way, batch, length, kernelLength, dtype: samples(x), bias: bias !== undefined },
  });
  const made = outputs.map(() => tape.tensor([batch, channels, length], x.storage));
  const named = (prefix: string, tensors: readonly (TapeTensor | undefined)[]) =>
    Object.fromEntries(outputs.map((name, i) => [`${prefix}${name}`, tensors[i]!]));
  const weights = { weight, ...(bias && { bias }) };
  tape.step(step("forward"), { x, ...weights }, named("", made));
  tape.operation({
    inputs: [x, weight, ...(bias ? [bias] : [])],
    outputs: made,
    gradient: (upstream) => {
      const dx = tape.tensor(x.shape, x.storage);
      // Where the backend adds to gradients, those of parameters are added up where they lie.
      const sink = (of: TapeTensor) =>
        tape.options.filtersAdd
          ? tape.sink(of, "float32")
          : { tensor: tape.tensor(of.shape, "float32"), accumulate: false, result: undefined };
      const dweight = sink(weight);
      const dbias = bias && sink(bias);
      const adds = dweight.accumulate;
      const writes = { dx, dweight: dweight.tensor, ...(dbias && { dbias: dbias.tensor }) };
      const sums = adds ? { dweight: dweight.tensor, ...(dbias && { dbias: dbias.tensor }) } : {};
      tape.step(step("backward"), { x, ...weights, ...named("d", upstream), ...sums }, writes);
      return [
        dx,
        adds ? undefined : dweight.tensor,
        ...(dbias ? [adds ? undefined : dbias.tensor] : []),
      ];
    },
  });
  return made;
}

/**
 * The short filters of a Hyena operator's three projections (gate behind, gate before, value) and the product of the value with its
 * gate, in one pass.
 * @param x (B, 3D, L)
 */
export function projections(
  x: TapeTensor,
  p: ShortFilterParameters,
  pregate: "first" | "second" = "second",
): ProjectedSequences {
  const [, wide = 0] = x.shape;
  const place = x.tape.place || p.weight.label;
  checkShape(place, x, [-1, -1, -1]);
  if (wide % 3 !== 0) throw misshapen(place, "3D channels", wide);
  checkFilter(place, p, wide);
  const work = { kind: "projections", channels: wide / 3, pregate } as const;
  const [gated, postgate] = filtered(x, p, work, ["gated", "postgate"]);
  return { gated: gated!, postgate: postgate! };
}

/**
 * A causal depthwise filter: y[n] = bias + Σ_j weight[j]·x[n + j − (K − 1)].
 * @param x (B, C, L)
 */
export function shortConv(x: TapeTensor, p: ShortFilterParameters): TapeTensor {
  const place = x.tape.place || p.weight.label;
  checkShape(place, x, [-1, -1, -1]);
  checkFilter(place, p, x.shape[1]!);
  const [y] = filtered(x, p, { kind: "filter", channels: x.shape[1]! }, ["y"]);
  return y!;
}

function checkFilter(place: string, { weight, bias }: ShortFilterParameters, channels: number) {
  checkShape(place, weight, [channels, -1]);
  if (bias) checkShape(place, bias, [channels]);
}
