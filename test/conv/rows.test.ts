/** Rows are independent: nothing in one row reaches another, whatever is packed or vectorised together. */
import { describe, expect, test } from "vitest";
import {
  type Dtype,
  decode,
  encode,
  type NewArray,
  type SampleArray,
  type StoredArray,
} from "../../src/dtype.ts";
import type { FlashFFTConv } from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import type { Problem } from "../../src/plan/problem.ts";
import { oracleBackward, oracleForward } from "../../src/reference/convolution.ts";
import { describeBackends, whereThingsGo } from "../support/backends.ts";
import { drawInputs, forwardBar, gradientBar, type Inputs, once } from "../support/cases.ts";
import { expectClose, expectSameBits } from "../support/close.ts";

const batch = 3;
const channels = 3;
const rows = batch * channels;
const lengths = [5, 64, 1000, 4096, 20_000];

/** The rows spoilt in turn: first, last, and one with neighbours in batch and channel. */
const victims = [0, 4, rows - 1];

const rowOf = <T extends { subarray(a: number, b: number): T }>(
  a: T,
  row: number,
  length: number,
): T => a.subarray(row * length, (row + 1) * length);

/** `stored` with one row's values changed. */
function spoil(
  stored: SampleArray,
  dtype: Dtype,
  row: number,
  change: (value: number, n: number) => number,
): { stored: NewArray<StoredArray>; exact: Float64Array } {
  const values = decode(stored, dtype);
  const length = values.length / rows;
  rowOf(values, row, length).set(rowOf(values, row, length).map(change));
  const changed = encode(values, dtype);
  return { stored: changed, exact: decode(changed, dtype) };
}

/** Compare all rows but those that `spoilt` names; each with its own norm. */
function expectOtherRows(
  actual: SampleArray,
  exact: Float64Array,
  { count, dtype, bound }: { count: number; dtype: Dtype; bound: number },
  spoilt: (row: number) => boolean,
): void {
  const rowLength = exact.length / count;
  for (let row = 0; row < count; row++) {
    const got = (actual as Float32Array).subarray(row * rowLength, (row + 1) * rowLength);
    if (spoilt(row)) {
      expect(decode(got, dtype).some((value) => !Number.isFinite(value))).toBe(true);
    } else {
      expectClose(got, rowOf(exact, row, rowLength), {
        rowLength,
        bound,
        dtype,
        name: `row ${row}`,
      });
    }
  }
}

/** Replace non-finite values, so that the oracle's other rows stay what they are. */
const finite = (values: Float64Array) => values.map((v) => (Number.isFinite(v) ? v : 0));

/** Inputs with one row of u changed, and what every other row must still give. */
interface SpoiltCase extends Inputs {
  readonly row: number;
  readonly poisoned: boolean;
}

function spoilInput(
  inputs: Inputs,
  row: number,
  change: (value: number, n: number) => number,
): SpoiltCase {
  const { problem, exact } = inputs;
  const u = spoil(inputs.u, problem.dtype, row, change);
  const clean = { ...exact, u: finite(u.exact) };
  return {
    ...inputs,
    u: u.stored,
    row,
    poisoned: u.exact.some((value) => !Number.isFinite(value)),
    y: once(() => oracleForward(problem, clean)),
    gradients: once(() => oracleBackward(problem, clean)),
  };
}

async function checkRows(conv: FlashFFTConv<Dtype>, spoilt: SpoiltCase): Promise<void> {
  const { problem, u, k, dy, options, row, poisoned } = spoilt;
  const { dtype } = problem;
  const rule = { count: rows, dtype, bound: forwardBar(problem) };
  const y = await conv.forward(u, k, options);
  expectOtherRows(y, spoilt.y(), rule, (r) => poisoned && r === row);
  const { du, dk } = await conv.backward(dy, u, k, options);
  const expected = spoilt.gradients();
  const gradient = { ...rule, bound: gradientBar };
  // du does not know u, but for the gates; dk sums over the batch and so takes a poisoned row's whole channel.
  expectOtherRows(du, expected.du, gradient, () => false);
  expectOtherRows(
    dk,
    expected.dk,
    { ...gradient, count: channels, dtype: "float32" },
    (channel) => poisoned && channel === row % channels,
  );
}

const problemOf = (length: number, dtype: Dtype, mode: Problem["mode"] = "causal") =>
  createProblem({ length, dtype, mode }, "test");

const spoilers: Record<string, (value: number, n: number) => number> = {
  "a NaN": (value, n) => (n === 2 ? Number.NaN : value),
  "an infinity": (value, n) => (n === 0 ? Number.POSITIVE_INFINITY : value),
  "a million times the scale": (value) => 1e6 * value,
  "a millionth of the scale": (value) => 1e-6 * value,
  zeros: () => 0,
};

const plain = lengths.map((length) =>
  drawInputs(problemOf(length, "float32"), { batch, channels }, length),
);
const victimsOf = ({ problem }: Inputs) => (problem.length > 5000 ? [4] : victims);

const table = Object.entries(spoilers).map(
  ([name, change]) =>
    [
      name,
      plain.flatMap((inputs) => victimsOf(inputs).map((row) => spoilInput(inputs, row, change))),
    ] as const,
);

const halves = (
  [
    ["float16", 1000],
    ["bfloat16", 1e6],
  ] as const
).map(([dtype, factor]) => {
  const inputs = drawInputs(problemOf(300, dtype), { batch, channels }, 7);
  const cases = victims.flatMap((row) =>
    [(value: number) => factor * value, () => Number.NaN].map((change) =>
      spoilInput(inputs, row, change),
    ),
  );
  return [dtype, factor, cases] as const;
});

/** GPUs pack rows of circular convolutions in pairs where the period is a length of transforms. */
const otherModes = (
  [
    ["circular", 777],
    ["circular", 1024],
    ["circular", 4096],
    ["bidirectional", 777],
    ["full", 777],
    ["same", 777],
  ] as const
).map(([mode, length]) => {
  const inputs = drawInputs(problemOf(length, "float32", mode), { batch, channels }, 8);
  const cases = victims.flatMap((row) =>
    [spoilers["a million times the scale"]!, spoilers["a NaN"]!].map((change) =>
      spoilInput(inputs, row, change),
    ),
  );
  return [mode, length, cases] as const;
});

describe("one row of u", () => {
  describeBackends(
    "spoilt",
    (open) => {
      test.each(table)("%s changes no other row", async (_name, cases) => {
        for (const spoilt of cases) {
          using conv = await open({ length: spoilt.problem.length });
          await checkRows(conv, spoilt);
        }
      });

      test("a value near float32's largest, which overflows, changes no other row", async () => {
        for (const inputs of plain) {
          const { length } = inputs.problem;
          using conv = await open({ length });
          for (const row of victimsOf(inputs)) {
            const u = spoil(inputs.u, "float32", row, (value, n) => (n === 1 ? 3e38 : value));
            const y = (await conv.forward(u.stored, inputs.k)) as Float32Array;
            for (let other = 0; other < rows; other++) {
              if (other === row) continue;
              expectClose(rowOf(y, other, length), rowOf(inputs.y(), other, length), {
                rowLength: length,
                bound: forwardBar(inputs.problem),
                name: `row ${other} beside row ${row} of ${length}`,
              });
            }
          }
        }
      });

      test.each(halves)("%s, %i times the scale or NaN", async (dtype, _factor, cases) => {
        using conv = await open({ length: 300, dtype });
        for (const spoilt of cases) await checkRows(conv, spoilt);
      });

      test.each(otherModes)("%s, %i samples, too", async (mode, length, cases) => {
        using conv = await open({ length, mode, batch, channels });
        for (const spoilt of cases) await checkRows(conv, spoilt);
      });
    },
    whereThingsGo,
  );
});

describe("one row of something else", () => {
  const length = 1000;
  const inputs = drawInputs(
    problemOf(length, "float32"),
    { batch, channels, pregate: true, postgate: true, skip: true },
    9,
  );
  const { problem, exact, u, k, dy, options } = inputs;
  const rule = { dtype: "float32" as const, bound: gradientBar };

  describeBackends(
    "NaN",
    (open) => {
      test.each(["pregate", "postgate"] as const)("in %s stays in its row", async (gate) => {
        using conv = await open({ length });
        for (const row of victims) {
          const spoilt = spoil(options[gate]!, "float32", row, () => Number.NaN);
          const y = await conv.forward(u, k, { ...options, [gate]: spoilt.stored });
          expectOtherRows(y, inputs.y(), { ...rule, count: rows, bound: 3e-7 }, (r) => r === row);
        }
      });

      test("in dy stays in its row of du and its channel of dk and dskip", async () => {
        using conv = await open({ length });
        for (const row of victims) {
          const spoilt = spoil(dy, "float32", row, (value, n) => (n === 3 ? Number.NaN : value));
          const actual = await conv.backward(spoilt.stored, u, k, options);
          const expected = oracleBackward(problem, { ...exact, dy: finite(spoilt.exact) });
          expectOtherRows(actual.du, expected.du, { ...rule, count: rows }, (r) => r === row);
          const channel = (h: number) => h === row % channels;
          expectOtherRows(actual.dk, expected.dk, { ...rule, count: channels }, channel);
          for (let h = 0; h < channels; h++) {
            expect(Number.isNaN(actual.dskip![h]!)).toBe(channel(h));
          }
        }
      });

      test("in a kernel stays in its channel, also where the spectrum is kept", async () => {
        using conv = await open({ length });
        const taps = k.slice();
        taps[length + 5] = Number.NaN;
        const kernel = await conv.prepareKernel(taps);
        const y = await conv.forward(u, kernel, options);
        expectOtherRows(
          y,
          inputs.y(),
          { ...rule, count: rows, bound: 3e-7 },
          (r) => r % channels === 1,
        );
        kernel.dispose();
      });

      test("leaves nothing behind: the next call is clean, whatever was in memory before", async () => {
        using conv = await open({ length });
        const before = await conv.forward(u, k, options);
        const nan = new Float32Array(u.length).fill(Number.NaN);
        await conv.forward(nan, k, options);
        await conv.backward(nan, nan, new Float32Array(k.length).fill(Number.NaN), options);
        expectSameBits(await conv.forward(u, k, options), before);
      });
    },
    whereThingsGo,
  );
});
