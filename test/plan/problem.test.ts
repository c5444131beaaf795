import { describe, expect, test } from "vitest";
import { InvalidArgumentError } from "../../src/errors.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { maxLength, modes, type ProblemOptions } from "../../src/plan/problem.ts";

const problem = (options: ProblemOptions) => createProblem(options, "test.create");

describe("what is filled in", () => {
  test("causal float32, K = L", () => {
    expect(problem({ length: 1000 })).toEqual({
      mode: "causal",
      length: 1000,
      kernelLength: 1000,
      period: 0,
      dtype: "float32",
      outputLength: 1000,
    });
  });
  test.each([
    ["causal", undefined, 10, 10],
    ["causal", 25, 25, 10],
    ["full", 4, 4, 13],
    ["full", 1, 1, 10],
    ["same", 25, 25, 10],
    ["bidirectional", undefined, 20, 10],
    ["bidirectional", 20, 20, 10],
    ["bidirectional", 6, 6, 10],
  ] as const)("%s with kernelLength %s", (mode, kernelLength, taps, outputLength) => {
    const options = kernelLength === undefined ? { mode } : { mode, kernelLength };
    expect(problem({ length: 10, ...options })).toMatchObject({
      kernelLength: taps,
      outputLength,
      period: 0,
    });
  });
  test("circular: the period is the longer of L and K unless given", () => {
    const circular = (more: Partial<ProblemOptions>) =>
      problem({ mode: "circular", length: 10, ...more }).period;
    expect(circular({})).toBe(10);
    expect(circular({ kernelLength: 12 })).toBe(12);
    expect(circular({ kernelLength: 3 })).toBe(10);
    expect(circular({ period: 17 })).toBe(17);
  });
  test("the extremes of every range", () => {
    for (const mode of modes) {
      expect(problem({ mode, length: 1 }).length).toBe(1);
      expect(problem({ mode, length: maxLength }).length).toBe(maxLength);
    }
    expect(problem({ length: 1, kernelLength: 2 * maxLength }).kernelLength).toBe(2 * maxLength);
    expect(problem({ mode: "circular", length: 1, period: 2 * maxLength }).period).toBe(
      2 * maxLength,
    );
  });
});

describe("what is refused, naming the call, the requirement, the value and the remedy", () => {
  const numbers = [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  const bad: [string, unknown, RegExp][] = [
    ...numbers.map((length): [string, unknown, RegExp] => [
      `length ${length}`,
      { length },
      /length/,
    ]),
    ["length 2^24 + 1", { length: maxLength + 1 }, /16,777,217/],
    ["length as text", { length: "16" }, /length .*"16"/],
    ["length as a bigint", { length: 16n }, /length/],
    ["no length", {}, /length/],
    ["no options", undefined, /options/],
    ["null", null, /options/],
    ["a number for options", 16, /options/],
    ...numbers.map((kernelLength): [string, unknown, RegExp] => [
      `kernelLength ${kernelLength}`,
      { length: 8, kernelLength },
      /kernelLength/,
    ]),
    ["kernelLength 2^25 + 1", { length: 8, kernelLength: 2 * maxLength + 1 }, /33,554,433/],
    ...numbers.map((period): [string, unknown, RegExp] => [
      `period ${period}`,
      { mode: "circular", length: 8, period },
      /period/,
    ]),
    ["period below L", { mode: "circular", length: 8, kernelLength: 4, period: 7 }, /period.* 7/],
    ["period below K", { mode: "circular", length: 4, kernelLength: 8, period: 7 }, /period.* 7/],
    ["a period without circular", { length: 8, period: 8 }, /period.*circular/],
    ["bidirectional, K odd", { mode: "bidirectional", length: 8, kernelLength: 7 }, /even.* 7/],
    ["bidirectional, K > 2L", { mode: "bidirectional", length: 8, kernelLength: 18 }, /16.* 18/],
    ["unknown mode", { length: 8, mode: "valid" }, /mode.*causal.*"valid"/],
    ["unknown dtype", { length: 8, dtype: "float64" }, /dtype.*float32.*"float64"/],
  ];
  test.each(bad)("%s", (_, options, message) => {
    let thrown: unknown;
    try {
      createProblem(options as ProblemOptions, "test.create");
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(InvalidArgumentError);
    const error = thrown as InvalidArgumentError;
    expect(error.message).toMatch(message);
    expect(error.name).toBe("InvalidArgumentError");
    expect(error.parts.call).toBe("test.create");
    for (const part of Object.values(error.parts)) {
      expect(part).not.toBe("");
      expect(error.message).toContain(part);
    }
  });
});
