/** `flashfftconv verify`: results on this machine against the float64 oracle. */

import { type Dtype, decode, dtypes, encode } from "../../dtype.ts";
import { maxLength, modes, type Problem } from "../../plan/problem.ts";
import {
  type Comparison,
  compare,
  planBound,
  planOf,
  type Quantity,
  termNorms,
} from "../../reference/accuracy.ts";
import { oracleBackward, oracleForward } from "../../reference/convolution.ts";
import { normalSamples, normalSource } from "../../reference/random.ts";
import { backendOf, type ComputeChoice, openConv, problemOf } from "../open-conv.ts";
import {
  type Command,
  type CommandContext,
  exitCodes,
  shared,
  sharedChoices,
  type Values,
} from "../options.ts";
import { jsonLine, table } from "../report.ts";

const defaultLengths = "1,1000,4K,64K";

export const verifyCommand: Command = {
  name: "verify",
  summary: "compare results with the float64 oracle, at any size",
  options: [
    {
      name: "length",
      value: "L,…",
      help: `lengths, with commas between (default: ${defaultLengths})`,
    },
    shared.kernelLength,
    { name: "mode", value: "MODE,…", help: `all, or some of ${modes.join(", ")} (default: all)` },
    {
      name: "period",
      value: "N",
      help: "period of the circular mode (default: the larger of L and K)",
    },
    {
      name: "dtype",
      value: "TYPE,…",
      help: `all, or some of ${dtypes.join(", ")} (default: float32)`,
    },
    { ...shared.batch, help: "sequences that share the kernels (default: 2)" },
    { ...shared.channels, help: "kernels, one a channel (default: 3)" },
    { name: "backward", help: "compare every gradient too" },
    { name: "gates", help: "with a pregate and a postgate" },
    { name: "skip", help: "with the term D ⊙ u, in the modes whose output is as long as u" },
    { name: "seed", value: "N", help: "seed of the random samples (default: 1)" },
    shared.backend,
    shared.threads,
    shared.instructions,
  ],
  notes: `
Samples are random, normal, of unit scale. The error is ‖y - exact‖ / ‖exact‖ of the row that is nearest to its bound; where the
terms of a row cancel, it is relative to what they come to with signs at random, ‖u‖·‖k‖ for a whole convolution.
Bounds: float32 5e-7 below 256 samples, 3e-7 to 4K, 6e-7 to 4M; gradients 1e-6; float16 and bfloat16 1.1 × the error of rounding the exact
result once. A GPU that takes a transform in several passes, or the longest in one, may err by 5e-4 in float16 and 2e-3 in bfloat16, in gradients by
half as much again.
One error above its bound makes the exit code 1.

examples:
  flashfftconv verify
  flashfftconv verify --length 1M --mode causal --batch 1 --channels 1 --backward --gates --dtype all`,
  run: async (values, context) => {
    const cases = readCases(values);
    const results: (Case & Result)[] = [];
    for (const [i, one] of cases.entries()) {
      const { mode, length, dtype } = one.problem;
      context.progress.update(`${mode} ${length} ${dtype}`, i / cases.length);
      // Lets the progress line be drawn and an interruption be seen between two computations.
      await new Promise((resolve) => setImmediate(resolve));
      for (const result of await verify(one)) {
        results.push({ ...one, ...result });
        if (context.json) context.stdout.write(jsonLine(record(one, result)));
      }
    }
    context.progress.clear();
    const failed = results.filter(({ passed }) => !passed).length;
    if (!context.json) print(results, failed, context);
    return failed === 0 ? exitCodes.done : exitCodes.failed;
  },
};

/** One problem to be verified. */
interface Case {
  /** How errors name the command. */
  readonly call: string;
  readonly problem: Problem;
  readonly batch: number;
  readonly channels: number;
  readonly backward: boolean;
  readonly gates: boolean;
  readonly skip: boolean;
  readonly seed: number;
  readonly how: ComputeChoice;
}

function readCases(values: Values): Case[] {
  const chosenModes = values.choices("mode", modes) ?? modes;
  const { period, ...how } = sharedChoices(values, chosenModes);
  const lengths = values.integers("length", 1, maxLength, defaultLengths);
  const chosenDtypes = values.choices("dtype", dtypes) ?? ["float32"];
  const kernelLength = values.integer("kernel-length", 1, 2 * maxLength);
  const common = {
    call: values.call,
    batch: values.integer("batch", 1, 2 ** 24) ?? 2,
    channels: values.integer("channels", 1, 2 ** 24) ?? 3,
    backward: values.has("backward"),
    gates: values.has("gates"),
    seed: values.integer("seed", 0, 2 ** 32 - 1) ?? 1,
    how,
  };
  return chosenDtypes.flatMap((dtype) =>
    chosenModes.flatMap((mode) =>
      lengths.map((length) => ({
        ...common,
        problem: problemOf(
          { mode, length, kernelLength, dtype, period: mode === "circular" ? period : undefined },
          values.call,
        ),
        skip: values.has("skip") && mode !== "full",
      })),
    ),
  );
}

/** A comparison, and what computed it. */
interface Result extends Comparison {
  readonly backend: "cpu" | "webgpu";
  readonly plan: string;
}

async function verify(one: Case): Promise<Result[]> {
  const { problem, batch, channels } = one;
  const { dtype, length, kernelLength, outputLength } = problem;
  const rows = batch * channels;
  const source = normalSource(one.seed);
  const draw = (count: number, storage: Dtype) => encode(normalSamples(source, count), storage);
  const u = draw(rows * length, dtype);
  const k = draw(channels * kernelLength, "float32") as Float32Array;
  const dy = draw(rows * outputLength, dtype);
  const gates = one.gates && {
    pregate: draw(rows * length, dtype),
    postgate: draw(rows * outputLength, dtype),
  };
  const skip = one.skip && { skip: draw(channels, "float32") as Float32Array };
  using conv = await openConv(problem, batch, channels, one.how, one.call);
  const inputs = {
    ...{ batch, channels, u: decode(u, dtype), k: Float64Array.from(k) },
    ...(gates && {
      pregate: decode(gates.pregate, dtype),
      postgate: decode(gates.postgate, dtype),
    }),
    ...(skip && { skip: Float64Array.from(skip.skip) }),
  };
  const results: Result[] = [];
  const engineOf = (quantity: Quantity) => ({
    backend: backendOf(conv),
    plan: planOf(quantity, conv.explain()),
  });
  const given = { ...inputs, dy: decode(dy, dtype) };
  const scales = termNorms(problem, given);
  const check = (
    quantity: Quantity,
    actual: Parameters<typeof decode>[0],
    exact: Float64Array,
  ): void => {
    const summed = quantity === "dk" || quantity === "dskip";
    const engine = engineOf(quantity);
    const bound = planBound(quantity, problem, batch, engine.plan);
    const rowLength = rowLengthOf(quantity, problem);
    const compared = { quantity, actual, exact, rowLength, bound, scale: scales[quantity] };
    results.push({ ...compare({ ...compared, dtype: summed ? "float32" : dtype }), ...engine });
  };
  const y = await conv.forward(u, k, { ...gates, ...skip });
  check("y", y, oracleForward(problem, inputs));
  if (!one.backward) return results;
  const actual = await conv.backward(dy, u, k, { ...gates, ...skip });
  const exact = oracleBackward(problem, given);
  for (const quantity of gradients.filter((name) => exact[name])) {
    const got = actual[quantity];
    if (got) check(quantity, got, exact[quantity]!);
    else {
      const engine = engineOf(quantity);
      results.push({ quantity, error: Number.NaN, bound: 0, passed: false, ...engine });
    }
  }
  return results;
}

const gradients = ["du", "dk", "dpregate", "dpostgate", "dskip"] as const;

function rowLengthOf(quantity: Quantity, problem: Problem): number {
  if (quantity === "dskip") return 1;
  if (quantity === "dk") return problem.kernelLength;
  return quantity === "y" || quantity === "dpostgate" ? problem.outputLength : problem.length;
}

function record(one: Case, { quantity, error, bound, passed, backend, plan }: Result): object {
  const { mode, length, kernelLength, period, dtype } = one.problem;
  const { batch, channels, gates, skip } = one;
  return {
    ...{ command: "verify", mode, length, kernelLength, ...(mode === "circular" && { period }) },
    ...{ dtype, batch, channels, gates, skip, backend, quantity },
    ...{ rel_error: error, bound, passed, plan },
  };
}

function print(
  results: readonly (Case & Comparison)[],
  failed: number,
  { stdout }: CommandContext,
): void {
  const rows = results.map(({ problem, batch, channels, quantity, error, bound, passed }) => [
    problem.mode,
    ...[problem.length, problem.kernelLength, batch, channels].map((n) =>
      n.toLocaleString("en-US"),
    ),
    problem.dtype,
    quantity,
    error.toExponential(2),
    bound.toExponential(2),
    passed ? "ok" : "ABOVE",
  ]);
  const headings = ["mode", "L", "K", "B", "H", "dtype", "of", "error", "bound", ""];
  stdout.write(table(headings, rows));
  const count = `${results.length} ${results.length === 1 ? "comparison" : "comparisons"}`;
  stdout.write(
    failed === 0
      ? `\n${count}, all within their bounds\n`
      : `\n${failed} of ${count} above their bounds\n`,
  );
}
