import { describe, expect, test } from "vitest";
import {
  bytesPerSample,
  decode,
  dtypes,
  encode,
  fromBfloat16,
  fromFloat16,
  toBfloat16,
  toFloat16,
} from "../src/dtype.ts";

const formats = [
  { name: "float16", from: fromFloat16, to: toFloat16, infinity: 0x7c00, tiniest: 2 ** -24 },
  { name: "bfloat16", from: fromBfloat16, to: toBfloat16, infinity: 0x7f80, tiniest: 2 ** -133 },
] as const;

describe.each(formats)("$name", ({ from, to, infinity, tiniest }) => {
  test("every bit pattern survives decoding and encoding", () => {
    for (let bits = 0; bits < 65536; bits++) {
      const value = from(bits);
      const magnitude = bits & 0x7fff;
      if (magnitude > infinity) {
        expect(value).toBeNaN();
        expect(from(to(value))).toBeNaN();
      } else if (to(value) !== bits) {
        expect.fail(`${bits.toString(16)} decodes to ${value}, encodes to ${to(value)}`);
      }
    }
  });

  test("values ascend with their bits from zero through the subnormals to infinity", () => {
    expect(from(0)).toBe(0);
    expect(from(1)).toBe(tiniest);
    expect(from(infinity)).toBe(Number.POSITIVE_INFINITY);
    for (let bits = 0; bits < infinity; bits++) {
      if (!(from(bits) < from(bits + 1))) expect.fail(`at ${bits.toString(16)}`);
    }
  });

  test("between any two neighbours: nearest, ties to even", () => {
    for (let bits = 0; bits + 1 < infinity; bits++) {
      const low = from(bits);
      const high = from(bits + 1);
      // All exact in float64: a tie and its closest neighbours that are not.
      const tie = (low + high) / 2;
      const hair = (high - low) / 2 ** 30;
      const even = bits % 2 === 0 ? bits : bits + 1;
      for (const sign of [0, 0x8000]) {
        const signed = sign ? -1 : 1;
        const rounded = [to(signed * (tie - hair)), to(signed * tie), to(signed * (tie + hair))];
        const expected = [sign | bits, sign | even, sign | (bits + 1)];
        if (rounded.join() !== expected.join()) expect.fail(`at ${tie}: ${rounded}, ${expected}`);
      }
    }
  });

  test("past the largest number: infinity from half a step on", () => {
    const largest = from(infinity - 1);
    const step = largest - from(infinity - 2);
    expect(to(largest + step * 0.499)).toBe(infinity - 1);
    expect(to(largest + step / 2)).toBe(infinity);
    expect(to(-1e300)).toBe(0x8000 | infinity);
    expect(to(Number.POSITIVE_INFINITY)).toBe(infinity);
  });

  test("zeros and what rounds to them keep their sign", () => {
    expect(to(0)).toBe(0);
    expect(to(-0)).toBe(0x8000);
    expect(to(tiniest / 2)).toBe(0);
    expect(to(-tiniest / 2)).toBe(0x8000);
    expect(to(tiniest * 0.500001)).toBe(1);
    expect(Object.is(from(0x8000), -0)).toBe(true);
  });

  test("rounds once: what a detour over float32 would make a tie", () => {
    // 1 + ulp/2 + 2^-40 lies above a tie; rounded to float32 first it would lie on it and fall to even.
    const ulp = from(to(1) + 1) - 1;
    expect(from(to(1 + ulp / 2 + 2 ** -40))).toBe(1 + ulp);
    expect(from(to(1 + ulp / 2))).toBe(1);
  });
});

test("known numbers", () => {
  expect(fromFloat16(0x3c00)).toBe(1);
  expect(fromFloat16(0x3555)).toBe(0.333251953125);
  expect(fromFloat16(0x7bff)).toBe(65504);
  expect(fromFloat16(0x0400)).toBe(2 ** -14);
  expect(fromFloat16(0xc000)).toBe(-2);
  expect(fromBfloat16(0x3f80)).toBe(1);
  expect(fromBfloat16(0x4049)).toBe(3.140625);
  expect(fromBfloat16(0xc000)).toBe(-2);
});

describe("arrays", () => {
  test("bytes of a sample", () => {
    expect(dtypes.map(bytesPerSample)).toEqual([4, 2, 2]);
  });

  test.each(dtypes)("%s survives encode and decode", (dtype) => {
    const values = Float64Array.of(1, -2.5, 0, 0.15625, Number.POSITIVE_INFINITY, Number.NaN);
    const stored = encode(values, dtype);
    expect(stored).toBeInstanceOf(dtype === "float32" ? Float32Array : Uint16Array);
    expect(decode(stored, dtype)).toEqual(values);
  });

  test("a Float16Array holds numbers, not bits", () => {
    // Where the runtime lacks the class, a Float32Array of float16 numbers looks the same to decode.
    const Float16 = (globalThis as { Float16Array?: new (values: number[]) => Float32Array })
      .Float16Array;
    const samples = Float16 ? new Float16([1.5, -2]) : Float32Array.of(1.5, -2);
    expect(decode(samples, "float16")).toEqual(Float64Array.of(1.5, -2));
  });
});
