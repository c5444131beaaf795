/** A check that cannot fail is no check: these are the wrong answers that ours refuses. */
import { describe, expect, test } from "vitest";
import { type Dtype, dtypes, encode } from "../../src/dtype.ts";
import { expectClose, expectSameBits } from "./close.ts";
import { impulse, normal, uniform } from "./signals.ts";

const rowLength = 1000;
const exact = normal(3 * rowLength, 1);

/** `change` applied to one row, the others exact. */
function withRow(row: number, change: (values: Float64Array) => Float64Array): Float64Array {
  const values = exact.slice();
  values.set(change(values.slice(row * rowLength, (row + 1) * rowLength)), row * rowLength);
  return values;
}

const wrong: Record<string, (row: Float64Array) => Float64Array> = {
  zeros: (row) => row.map(() => 0),
  "a shift by one": (row) => Float64Array.from(row, (_, n) => row[n - 1] ?? 0),
  "a rotation by one": (row) => Float64Array.from(row, (_, n) => row.at(n - 1)!),
  "a lost last sample": (row) => Float64Array.from(row, (v, n) => (n === row.length - 1 ? 0 : v)),
  "a lost tail": (row) => Float64Array.from(row, (v, n) => (n >= row.length / 2 ? 0 : v)),
  "a flipped sign": (row) => row.map((value) => -value),
  "a reversed row": (row) => row.slice().reverse(),
  "a scale of 1.01": (row) => row.map((value) => 1.01 * value),
  "one NaN": (row) => Float64Array.from(row, (v, n) => (n === 500 ? Number.NaN : v)),
  "one infinity": (row) =>
    Float64Array.from(row, (v, n) => (n === 7 ? Number.POSITIVE_INFINITY : v)),
  "another row": () => normal(rowLength, 99),
};

describe.each(dtypes)("expectClose in %s", (dtype: Dtype) => {
  const rule = { rowLength, bound: 6e-7, dtype };

  test("accepts the exact values rounded once", () => {
    expectClose(encode(exact, dtype), exact, rule);
  });

  test.each(Object.keys(wrong))("rejects %s, in any row", (name) => {
    for (const row of [0, 1, 2]) {
      const values = encode(withRow(row, wrong[name]!), dtype);
      expect(() => expectClose(values, exact, rule)).toThrow(`row ${row} `);
    }
  });

  test("a row a million times larger hides no other", () => {
    const large = withRow(0, (row) =>
      row.map((value) => value * (dtype === "float16" ? 1e3 : 1e6)),
    );
    const bad = large.slice();
    bad.fill(0, 2 * rowLength);
    expectClose(encode(large, dtype), large, rule);
    expect(() => expectClose(encode(bad, dtype), large, rule)).toThrow("row 2 ");
  });

  test("rejects NaN and infinity even where they were expected, and other lengths", () => {
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const values = withRow(1, (row) => row.fill(value));
      expect(() => expectClose(encode(values, dtype), values, rule)).toThrow("row 1 ");
    }
    expect(() => expectClose(encode(exact.slice(1), dtype), exact, rule)).toThrow("2999");
    expect(() =>
      expectClose(encode(new Float64Array(0), dtype), new Float64Array(0), rule),
    ).toThrow();
  });
});

test("half precision: roundings to nearest pass, truncation and a second rounding do not", () => {
  const rule = { rowLength, bound: 6e-7, dtype: "bfloat16" as const };
  const nearest = encode(exact, "bfloat16") as Uint16Array;
  const truncated = Uint16Array.from(
    new Uint32Array(Float32Array.from(exact).buffer),
    (bits) => bits >>> 16,
  );
  const oneOff = nearest.map((bits, n) => (n % 3 === 0 ? bits + 1 : bits));
  expectClose(nearest, exact, rule);
  expect(() => expectClose(truncated, exact, rule)).toThrow();
  expect(() => expectClose(oneOff, exact, rule)).toThrow();
});

test("a scale stands in for the norm of a row whose terms cancel", () => {
  const want = impulse(4, 0, 1e-3);
  const got = Float32Array.of(1e-3 + 2e-7, 0, 0, 0);
  expect(() => expectClose(got, want, { rowLength: 4, bound: 1e-6 })).toThrow();
  expectClose(got, want, { rowLength: 4, bound: 1e-6, scale: Float64Array.of(1) });
});

test("signals are of unit scale, and repeat", () => {
  const samples = normal(100_000, 5);
  const mean = samples.reduce((sum, value) => sum + value, 0) / samples.length;
  const power = samples.reduce((sum, value) => sum + value * value, 0) / samples.length;
  expect(Math.abs(mean)).toBeLessThan(0.02);
  expect(Math.abs(power - 1)).toBeLessThan(0.02);
  expect(normal(100, 5)).toEqual(samples.slice(0, 100));
  expect(normal(100, 6)).not.toEqual(samples.slice(0, 100));
  const draw = uniform(1);
  for (let n = 0; n < 1000; n++) {
    const value = draw();
    if (!(value > 0 && value < 1)) expect.fail(`${value}`);
  }
});

test("expectSameBits tells bits, types, lengths and names apart", () => {
  const a = Float32Array.of(1, 2, Number.NaN);
  expectSameBits(a, a.slice());
  expectSameBits({ du: a, dk: a }, { dk: a.slice(), du: a.slice() });
  expectSameBits(Float32Array.of(0, 1, 2, 3).subarray(1, 3), Float32Array.of(1, 2));
  expect(() => expectSameBits(a, Float32Array.of(1, 2, 3))).toThrow("byte 10");
  expect(() => expectSameBits(Float32Array.of(0), Float32Array.of(-0))).toThrow("byte 3");
  expect(() => expectSameBits(a, a.subarray(1))).toThrow("8");
  expect(() => expectSameBits(a, new Uint8Array(a.buffer))).toThrow("Float32Array");
  expect(() => expectSameBits({ du: a }, { du: a, dk: a })).toThrow("dk");
  expect(() => expectSameBits({ du: a }, { du: a.map((v) => v + 1) })).toThrow("values.du");
  expect(() => expectSameBits({}, {})).toThrow();
  expect(() => expectSameBits(new Float32Array(0), new Float32Array(0))).toThrow();
});
