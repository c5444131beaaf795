/** Random inputs of a problem, as stored and in float64, and the comparison of a call's results with the oracle. */
import {
  type Dtype,
  decode,
  encode,
  type NewArray,
  type SampleArray,
  type StoredArray,
} from "../../src/dtype.ts";
import type { FlashFFTConv, Gradients } from "../../src/index.ts";
import { barFormat, parsePasses } from "../../src/plan/gpu/passes.ts";
import type { Problem } from "../../src/plan/problem.ts";
import {
  type OracleGradients,
  type OracleInputs,
  oracleBoth,
} from "../../src/reference/convolution.ts";
import { expectClose, norm } from "./close.ts";
import { sparseBoth } from "./frequencies.ts";
import { normal } from "./signals.ts";

/** The shapes and options of a call that a problem leaves open. */
export interface CallShape {
  readonly batch?: number;
  readonly channels?: number;
  readonly pregate?: boolean;
  readonly postgate?: boolean;
  readonly skip?: boolean;
  /** Sizes of u and of k, where they are not 1. */
  readonly sizes?: { readonly u: number; readonly k: number };
}

/** Inputs of forward and backward: what the library is given and, exactly the same numbers, what the oracle is. */
export interface Inputs<D extends Dtype = Dtype> {
  readonly problem: Problem<D>;
  readonly u: NewArray<StoredArray<D>>;
  readonly k: Float32Array;
  readonly dy: NewArray<StoredArray<D>>;
  readonly options: {
    readonly pregate?: NewArray<StoredArray<D>>;
    readonly postgate?: NewArray<StoredArray<D>>;
    readonly skip?: Float32Array;
  };
  readonly exact: OracleInputs & { readonly dy: Float64Array };
  /** What forward must return; computed once, however many backends ask. */
  readonly y: () => Float64Array;
  /** What backward must return; computed once. */
  readonly gradients: () => OracleGradients;
  /** How large the terms are that each result sums; computed once. */
  readonly sizes: () => Sizes;
}

type Sizes = Readonly<Record<"y" | keyof Gradients, Float64Array>>;

/** Every combination of gates and skip that a problem allows. */
export function gateCombinations(problem: Pick<Problem, "mode">): CallShape[] {
  const both = [false, true];
  const skips = problem.mode === "full" ? [false] : both;
  return both.flatMap((pregate) =>
    both.flatMap((postgate) => skips.map((skip) => ({ pregate, postgate, skip }))),
  );
}

/** Unit-scale random inputs, rounded to the problem's storage. */
export function drawInputs<D extends Dtype>(
  problem: Problem<D>,
  shape: CallShape,
  seed: number,
): Inputs<D> {
  const { batch = 1, channels = 1 } = shape;
  const { length, kernelLength, outputLength, dtype } = problem;
  const rows = batch * channels;
  const draw = <S extends Dtype>(count: number, part: number, storage: S, size = 1) => {
    const values = normal(count, seed * 8 + part);
    return encode(size === 1 ? values : values.map((x) => size * x), storage);
  };
  const u = draw(rows * length, 0, dtype, shape.sizes?.u);
  const k = draw(channels * kernelLength, 1, "float32", shape.sizes?.k);
  const dy = draw(rows * outputLength, 2, dtype);
  const pregate = shape.pregate ? draw(rows * length, 3, dtype) : undefined;
  const postgate = shape.postgate ? draw(rows * outputLength, 4, dtype) : undefined;
  const skip = shape.skip ? draw(channels, 5, "float32") : undefined;
  const exact = {
    batch,
    channels,
    u: decode(u, dtype),
    k: decode(k, "float32"),
    dy: decode(dy, dtype),
    ...(pregate && { pregate: decode(pregate, dtype) }),
    ...(postgate && { postgate: decode(postgate, dtype) }),
    ...(skip && { skip: decode(skip, "float32") }),
  };
  const oracle = once(() => (problem.frequencies ? sparseBoth : oracleBoth)(problem, exact));
  return {
    problem,
    u,
    k,
    dy,
    options: { ...(pregate && { pregate }), ...(postgate && { postgate }), ...(skip && { skip }) },
    exact,
    y: once(() => oracle().forward()),
    gradients: once(() => oracle().backward()),
    sizes: once(() => sizesOf(problem, exact)),
  };
}

/** A function that computes at its first call and remembers. */
export function once<T>(compute: () => T): () => T {
  let value: T | undefined;
  return () => {
    value ??= compute();
    return value;
  };
}

/** The bar for y at unit scale in float32. */
export function forwardBar({ length }: Problem): number {
  return length <= 4096 ? 3e-7 : 6e-7;
}

/** The bar for gradients. */
export const gradientBar = 1e-6;

/**
 * The law by which dk may grow: it sums B rows in float32, in order, and so adds up B roundings of a partial sum. Those
 * come to about √B/3 · 2^−24 of dk (6e-7 at B = 1024), which stays within the bar up to B = 256 and is granted room
 * to grow as √B beyond.
 */
export function dkBar(batch: number): number {
  return gradientBar * Math.max(1, Math.sqrt(batch / 256));
}

/** The bars for float16 by how points lie in a GPU's memory; bfloat16 has one for all. */
const pointBars = { float32: 0, word: 5e-4, pair: 3.5e-4 } as const;
const bfloat16Bar = 2e-3;
/** Gradients go there more often. */
const pointGradients = 1.5;

/** The bar for y that points in fewer bits allow, or for gradients by a plan of their own; 0 where there are none. */
function pointBar(conv: FlashFFTConv<Dtype>, { dtype }: Problem, gradients = false): number {
  const { chosen, gradientPlan = chosen.plan } = conv.explain();
  const plan = parsePasses(gradients ? gradientPlan : chosen.plan);
  const format = plan ? barFormat(plan, dtype) : "float32";
  return format !== "float32" && dtype === "bfloat16" ? bfloat16Bar : pointBars[format];
}

/** What the bars are relative to. */
export type Reference =
  /** Each row's own norm, as the issue states the bars: for rows long enough that their terms do not cancel. */
  | "rows"
  /** The norm of all rows together: for rows so short that some cancel, with many of them. */
  | "all"
  /** Each row's norm or the size of what it sums, whichever is larger (see Closeness.scale): for any input. */
  | "terms";

/** Run forward and hold it to the bars. */
export async function checkForward(
  conv: FlashFFTConv<Dtype>,
  inputs: Inputs,
  reference: Reference = "terms",
): Promise<SampleArray> {
  const { problem } = inputs;
  const y = await conv.forward(inputs.u, inputs.k, inputs.options);
  expectClose(y, inputs.y(), {
    name: "y",
    rowLength: reference === "all" ? y.length : problem.outputLength,
    bound: Math.max(forwardBar(problem), pointBar(conv, problem)),
    dtype: problem.dtype,
    ...(reference === "terms" && { scale: inputs.sizes().y }),
  });
  return y;
}

/** Run backward and hold every gradient to the bars. */
export async function checkBackward(
  conv: FlashFFTConv<Dtype>,
  inputs: Inputs,
  reference: Reference = "terms",
): Promise<Gradients<SampleArray>> {
  const { problem, exact } = inputs;
  const actual = await conv.backward(inputs.dy, inputs.u, inputs.k, inputs.options);
  const expected = inputs.gradients();
  const scales = inputs.sizes();
  const least = pointGradients * pointBar(conv, problem, true);
  const stored = { dtype: problem.dtype, bound: Math.max(gradientBar, least) };
  const summed = { dtype: "float32" as const, bound: Math.max(dkBar(exact.batch), least) };
  const rules = {
    du: { ...stored, rowLength: problem.length },
    dk: { ...summed, rowLength: problem.kernelLength },
    dpregate: { ...stored, rowLength: problem.length },
    dpostgate: { ...stored, rowLength: problem.outputLength },
    dskip: { ...summed, rowLength: 1 },
  };
  for (const name of ["du", "dk", "dpregate", "dpostgate", "dskip"] as const) {
    const want = expected[name];
    const got = actual[name];
    if ((want === undefined) !== (got === undefined)) {
      throw new Error(`backward must return ${name} exactly when its gate or skip was given`);
    }
    if (!want || !got) continue;
    // dskip is one sum of B·L terms of either sign: only the size of its terms says how exact it can be.
    const byTerms = reference === "terms" || name === "dskip";
    const rowLength = reference === "all" && !byTerms ? want.length : rules[name].rowLength;
    expectClose(got, want, {
      ...rules[name],
      name,
      rowLength,
      ...(byTerms && { scale: scales[name] }),
    });
  }
  return actual;
}

/**
 * Upper limits, row by row, of what each result sums: by Cauchy and Schwarz, a convolution's values are at most
 * ‖x‖·‖k‖, and a transform's rounding errors are relative to that.
 */
function sizesOf(problem: Problem, exact: Inputs["exact"]): Sizes {
  const { length, kernelLength, outputLength } = problem;
  const { batch, channels, u, k, dy, pregate, postgate, skip } = exact;
  const rows = batch * channels;
  const result = {
    y: new Float64Array(rows),
    du: new Float64Array(rows),
    dpregate: new Float64Array(rows),
    dpostgate: new Float64Array(rows),
    dk: new Float64Array(channels),
    dskip: new Float64Array(channels),
  };
  const row = (values: Float64Array | undefined, index: number, size: number) =>
    values?.subarray(index * size, (index + 1) * size);
  for (let r = 0; r < rows; r++) {
    const h = r % channels;
    const input = row(u, r, length)!;
    const upstream = row(dy, r, outputLength)!;
    const before = row(pregate, r, length);
    const after = row(postgate, r, outputLength);
    const x = norm(gated(input, before));
    const dz = norm(gated(upstream, after));
    const taps = norm(row(k, h, kernelLength)!);
    const d = Math.abs(skip?.[h] ?? 0);
    result.y[r] = largest(after) * x * taps + d * norm(input);
    result.du[r] = largest(before) * dz * taps + d * norm(upstream);
    result.dpregate[r] = largest(input) * dz * taps;
    result.dpostgate[r] = largest(upstream) * x * taps;
    result.dk[h] = Math.hypot(result.dk[h]!, dz * x);
    result.dskip[h] = Math.hypot(result.dskip[h]!, norm(upstream) * norm(input));
  }
  return result;
}

function gated(values: Float64Array, gate: Float64Array | undefined): Float64Array {
  if (!gate) return values;
  const out = new Float64Array(values.length);
  for (let n = 0; n < out.length; n++) out[n] = values[n]! * gate[n]!;
  return out;
}

function largest(gate: Float64Array | undefined): number {
  if (!gate) return 1;
  let most = 0;
  for (let n = 0; n < gate.length; n++) most = Math.max(most, Math.abs(gate[n]!));
  return most;
}
