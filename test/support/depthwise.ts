/** Random short convolutions: inputs as stored and in float64, what they must give, and how large the terms of that are. */
import { type Dtype, decode, encode, type SampleArray } from "../../src/dtype.ts";
import {
  type DepthwiseGradients,
  FlashDepthwiseConv1d,
  FlashHyenaProjections,
  type Layout,
  type Padding,
} from "../../src/index.ts";
import {
  activationOf,
  createDepthwiseProblem,
  type DepthwiseProblem,
  type Form,
  outputLengthOf,
} from "../../src/plan/depthwise.ts";
import type { BackendConfiguration } from "./backends.ts";
import { once } from "./cases.ts";
import { expectClose } from "./close.ts";
import {
  type DepthwiseOracleGradients,
  type DepthwiseOracleInputs,
  type DepthwiseShape,
  depthwiseOracleBackward,
  depthwiseOracleForward,
} from "./depthwise-oracle.ts";
import { normal } from "./signals.ts";

/** A random call. */
export interface DepthwiseCase {
  readonly form: Form;
  readonly layout: Layout;
  readonly dtype: Dtype;
  /** Taps and biases in the data's dtype rather than float32. */
  readonly storedTaps: boolean;
  readonly batch: number;
  readonly channels: number;
  readonly length: number;
  readonly kernelLength: number;
  readonly padding: Padding;
  readonly bias: boolean;
  readonly state: boolean;
  /** Whether the loss depends on the state that the call leaves behind; causal padding only. */
  readonly dstateOut?: boolean;
  readonly pregate: "first" | "second";
}

/** Either class behind one interface: outputs as a list. */
export interface OpenConv extends Disposable {
  readonly problem: DepthwiseProblem;
  allocateInput(batch: number, length: number): SampleArray;
  allocateOutput(batch: number, length: number): SampleArray;
  forward(inputs: DepthwiseInputs, out?: readonly SampleArray[]): Promise<SampleArray[]>;
  backward(inputs: DepthwiseInputs): Promise<DepthwiseGradients<SampleArray>>;
}

/** Create the object of a case on a configuration. */
export async function openCase(
  c: DepthwiseCase,
  options: BackendConfiguration["options"],
): Promise<OpenConv> {
  const { form, layout, dtype, batch, channels, kernelLength, padding } = c;
  const settings = { layout, dtype, batch, channels, kernelLength, padding, ...options };
  if (form === "projections") {
    const conv = await FlashHyenaProjections.create({ ...settings, pregate: c.pregate });
    return {
      ...wrap(conv),
      async forward({ x, weight, options }, out) {
        const results = out && { gated: out[0]!, postgate: out[1]! };
        const { gated, postgate } = await conv.forward(x, weight, { ...options, out: results });
        return [gated, postgate];
      },
      backward: ({ dy, x, weight, options, behind }) =>
        conv.backward({ dgated: dy[0]!, dpostgate: dy[1]! }, x, weight, { ...options, ...behind }),
    };
  }
  const activation = activationOf(form) ?? "none";
  const conv = await FlashDepthwiseConv1d.create({ ...settings, activation });
  return {
    ...wrap(conv),
    forward: async ({ x, weight, options }, out) => [
      await conv.forward(x, weight, { ...options, out: out?.[0] }),
    ],
    backward: ({ dy, x, weight, options, behind }) =>
      conv.backward(dy[0]!, x, weight, { ...options, ...behind }),
  };
}

function wrap(conv: FlashDepthwiseConv1d<Dtype> | FlashHyenaProjections<Dtype>) {
  return {
    problem: conv.problem,
    allocateInput: (batch: number, length: number) => conv.allocateInput(batch, length),
    allocateOutput: (batch: number, length: number) => conv.allocateOutput(batch, length),
    [Symbol.dispose]: () => conv.dispose(),
  };
}

/** What a call is given and, the same numbers, what the oracle is. */
interface DrawnCase {
  readonly problem: DepthwiseProblem;
  readonly x: SampleArray;
  readonly weight: SampleArray;
  readonly dy: readonly SampleArray[];
  readonly options: { readonly bias?: SampleArray; readonly state?: SampleArray };
  /** What only a backward call is given. */
  readonly behind: { readonly dstateOut?: SampleArray };
  readonly exact: DepthwiseOracleInputs;
  readonly exactDy: readonly Float64Array[];
  readonly exactBehind: Float64Array | undefined;
}

/** A case with what must come of it; computed once. */
export interface DepthwiseInputs extends DrawnCase {
  readonly expectedOutputs: () => Expectation<Float64Array[]>;
  readonly expectedGradients: () => Expectation<DepthwiseOracleGradients>;
}

const drawn = new Map<string, DepthwiseInputs>();

/** Unit-scale inputs of a case, rounded to their storage; kept, so that the oracle works once for all backends. */
export function drawCase(c: DepthwiseCase, seed: number): DepthwiseInputs {
  const key = JSON.stringify([c, seed]);
  const known = drawn.get(key) ?? draw(c, seed);
  drawn.set(key, known);
  return known;
}

function draw(c: DepthwiseCase, seed: number): DepthwiseInputs {
  const problem = createDepthwiseProblem(c, c.form, "test");
  const packed = c.channels * (c.form === "projections" ? 3 : 1);
  const taps = c.storedTaps ? c.dtype : "float32";
  const random = (count: number, part: number, dtype: Dtype): SampleArray =>
    encode(normal(count, seed * 16 + part), dtype);
  const x = random(c.batch * packed * c.length, 0, c.dtype);
  const weight = random(packed * c.kernelLength, 1, taps);
  const bias = c.bias ? random(packed, 2, taps) : undefined;
  const history = c.kernelLength - 1;
  const state = c.state ? random(c.batch * packed * history, 3, c.dtype) : undefined;
  const dstateOut =
    c.dstateOut && history > 0 ? random(c.batch * packed * history, 6, c.dtype) : undefined;
  const size = c.batch * c.channels * outputLengthOf(problem, c.length);
  const dy = Array.from({ length: c.form === "projections" ? 2 : 1 }, (_, o) =>
    random(size, 4 + o, c.dtype),
  );
  const exact = {
    batch: c.batch,
    length: c.length,
    x: decode(x, c.dtype),
    weight: decode(weight, taps),
    ...(bias && { bias: decode(bias, taps) }),
    ...(state && { state: decode(state, c.dtype) }),
    pregate: c.pregate === "first" ? 0 : 1,
  } as const;
  const options = { ...(bias && { bias }), ...(state && { state }) };
  const exactDy = dy.map((d) => decode(d, c.dtype));
  const behind = dstateOut ? { dstateOut } : {};
  const exactBehind = dstateOut && decode(dstateOut, c.dtype);
  const inputs = { problem, x, weight, dy, options, behind, exact, exactDy, exactBehind };
  return {
    ...inputs,
    expectedOutputs: once(() => expectOutputs(inputs)),
    expectedGradients: once(() => expectGradients(inputs)),
  };
}

/** What is right, and how large the terms are that it sums, tensor by tensor. */
interface Expectation<Values> {
  readonly exact: Values;
  readonly sizes: Readonly<Record<string, number>>;
}

function expectOutputs(inputs: DrawnCase): Expectation<Float64Array[]> {
  const sizes = Object.fromEntries(outputScales(inputs).map((scale, o) => [o, norm(scale)]));
  return { exact: depthwiseOracleForward(inputs.problem, inputs.exact), sizes };
}

function expectGradients(inputs: DrawnCase): Expectation<DepthwiseOracleGradients> {
  const { problem, exact, exactDy } = inputs;
  const squares = depthwiseOracleBackward(plain(problem), squared(exact), [
    square(upstreamScale(inputs)),
  ]);
  const sizes = Object.entries(squares).map(([name, s]) => [name, norm(s.map(Math.sqrt))]);
  const gradients = depthwiseOracleBackward(problem, exact, exactDy);
  addBehind(inputs, gradients);
  return { exact: gradients, sizes: Object.fromEntries(sizes) };
}

/** The state left behind is the last K − 1 samples of state and x: its gradient is added to theirs. */
function addBehind(inputs: DrawnCase, { dx, dstate }: DepthwiseOracleGradients): void {
  const { problem, exact, exactBehind } = inputs;
  if (!exactBehind) return;
  const history = problem.kernelLength - 1;
  const { batch, length } = exact;
  const packed = dx.length / (batch * length);
  const at = (positions: number, b: number, c: number, n: number): number =>
    problem.layout === "BHL" ? (b * packed + c) * positions + n : (b * positions + n) * packed + c;
  for (let b = 0; b < batch; b++) {
    for (let c = 0; c < packed; c++) {
      for (let j = 0; j < history; j++) {
        const n = length - history + j;
        const [to, i] =
          n >= 0 ? [dx, at(length, b, c, n)] : [dstate, at(history, b, c, n + history)];
        to[i] = to[i]! + exactBehind[at(history, b, c, j)]!;
      }
    }
  }
}

const square = (values: Float64Array): Float64Array => values.map((v) => v * v);
const norm = (values: Float64Array): number => Math.sqrt(values.reduce((s, v) => s + v * v, 0));

/** The same problem with all channels by themselves and nothing behind the filters. */
function plain(problem: DepthwiseShape): DepthwiseShape {
  const channels = problem.channels * (problem.form === "projections" ? 3 : 1);
  return { ...problem, channels, form: "linear" };
}

function squared(exact: DepthwiseOracleInputs): DepthwiseOracleInputs {
  return {
    ...exact,
    x: square(exact.x),
    weight: square(exact.weight),
    ...(exact.bias && { bias: square(exact.bias) }),
    ...(exact.state && { state: square(exact.state) }),
  };
}

/** A tensor of packed channels as its thirds, or a lone one. */
function thirds(values: Float64Array, { problem, exact }: DrawnCase): Float64Array[] {
  if (problem.form !== "projections") return [values];
  const { channels, layout } = problem;
  const positions = values.length / (3 * channels * exact.batch);
  return [0, 1, 2].map((third) =>
    Float64Array.from({ length: values.length / 3 }, (_, i) => {
      if (layout === "BLH")
        return values[Math.floor(i / channels) * 3 * channels + third * channels + (i % channels)]!;
      const item = channels * positions;
      return values[Math.floor(i / item) * 3 * item + third * item + (i % item)]!;
    }),
  );
}

/** The inverse of `thirds`. */
function packed(parts: readonly Float64Array[], { problem, exact }: DrawnCase): Float64Array {
  if (parts.length === 1) return parts[0]!;
  const { channels, layout } = problem;
  const run = layout === "BLH" ? channels : parts[0]!.length / exact.batch;
  const result = new Float64Array(3 * parts[0]!.length);
  parts.forEach((part, third) => {
    part.forEach((v, i) => {
      result[Math.floor(i / run) * 3 * run + third * run + (i % run)] = v;
    });
  });
  return result;
}

/** Filters' outputs and, in the sense of root mean squares, the size of the terms that they sum; by third. */
function filtered(inputs: DrawnCase): { z: Float64Array[]; terms: Float64Array[] } {
  const { problem, exact } = inputs;
  const [z] = depthwiseOracleForward(plain(problem), exact);
  const [sizes] = depthwiseOracleForward(plain(problem), squared(exact));
  return { z: thirds(z!, inputs), terms: thirds(sizes!.map(Math.sqrt), inputs) };
}

/** What rounding errors of the outputs are relative to, element by element. */
function outputScales(inputs: DrawnCase): Float64Array[] {
  const { z, terms } = filtered(inputs);
  if (inputs.problem.form !== "projections") return terms;
  const pre = inputs.exact.pregate!;
  const product = z[2]!.map((v, i) => Math.hypot(v * terms[pre]![i]!, z[pre]![i]! * terms[2]![i]!));
  return [product, terms[1 - pre]!];
}

/** The same for dz, packed: squares of it are what the gradients' terms are made of. */
function upstreamScale(inputs: DrawnCase): Float64Array {
  const { problem, exact, exactDy } = inputs;
  const [d, e] = exactDy;
  if (problem.form === "linear") return d!;
  const { z, terms } = filtered(inputs);
  const gated = (i: number): Float64Array =>
    d!.map((v, n) => v * Math.hypot(z[i]![n]!, terms[i]![n]!));
  if (problem.form !== "projections") return d!.map((v, n) => v * Math.hypot(1, terms[0]![n]!));
  const pre = exact.pregate!;
  const parts = pre === 0 ? [gated(2), e!, gated(0)] : [e!, gated(2), gated(1)];
  return packed(parts, inputs);
}

/** The bar, forward and backward, for float32. */
const bar = 3e-7;

/** Hold outputs to the bar; each tensor is one row, relative to its norm or that of its terms. */
export function checkOutputs(inputs: DepthwiseInputs, outputs: readonly SampleArray[]): void {
  const { exact, sizes } = inputs.expectedOutputs();
  if (exact.length !== outputs.length) throw new Error(`${outputs.length} outputs`);
  exact.forEach((want, o) => {
    expectClose(outputs[o]!, want, {
      ...{ name: `output ${o}`, rowLength: want.length, bound: bar, dtype: inputs.problem.dtype },
      scale: Float64Array.of(sizes[o]!),
    });
  });
}

/** Hold gradients to the bar, and to being there exactly where their operand was. */
export function checkGradients(
  inputs: DepthwiseInputs,
  actual: Awaited<ReturnType<OpenConv["backward"]>>,
): void {
  const { problem, options } = inputs;
  const { exact, sizes } = inputs.expectedGradients();
  const names = ["dx", "dweight"] as (keyof DepthwiseOracleGradients)[];
  if (options.bias) names.push("dbias");
  if (options.state && problem.kernelLength > 1) names.push("dstate");
  if (Object.keys(actual).sort().join() !== [...names].sort().join())
    throw new Error(`gradients ${Object.keys(actual)} for ${names}`);
  for (const name of names) {
    const stored = name === "dx" || name === "dstate";
    expectClose(actual[name]!, exact[name], {
      ...{ name, rowLength: exact[name].length, bound: bar },
      dtype: stored ? problem.dtype : "float32",
      scale: Float64Array.of(sizes[name]!),
    });
  }
}
