/** Values in messages: what was given, short enough to read. */
import { describe, expect, test } from "vitest";
import { FileError } from "../src/errors.ts";
import { createProblem } from "../src/plan/create-problem.ts";
import { show } from "../src/show.ts";

describe("a value in a message", () => {
  const cycle: { n: number; self?: unknown } = { n: 1 };
  cycle.self = [cycle];

  test.each([
    [1e6, "1,000,000"],
    ["a", '"a"'],
    [new Float32Array(1500), "Float32Array(1,500)"],
    [[1, [2]], "[1, [2]]"],
    [{}, "{}"],
    [{ band: [0, 0.1] }, "{ band: [0, 0.1] }"],
    [{ data: new Float32Array(4), shape: [2, 2] }, "{ data: Float32Array(4), shape: [2, 2] }"],
    [{ a: 1, b: 2, c: 3, d: 4, e: 5 }, "{ a: 1, b: 2, c: 3, d: 4, … }"],
    [new Map(), "Map"],
    [function named() {}, "function named"],
    [() => "the source", "a function"],
    [class Model {}, "function Model"],
    [Object.create(null), "an object"],
    [cycle, "{ n: 1, self: [Object] }"],
    [
      "\x1b[2J\x07\x9b\x7f\u202e\u2066\u2028",
      '"\\u001b[2J\\u0007\\u009b\\u007f\\u202e\\u2066\\u2028"',
    ],
    [{ "\x1b": ["\x9b"] }, '{ \\u001b: ["\\u009b"] }'],
  ])("%o", (value, text) => {
    expect(show(value)).toBe(text);
  });

  test.each([
    ["x".repeat(60_000)],
    ["\x1b".repeat(200)],
    [Array.from({ length: 60_000 }, (_, i) => i)],
    [{ ["k".repeat(300)]: "v".repeat(300) }],
  ])("is cut at 200 characters: case %#", (value) => {
    const text = show(value);
    expect(text.length).toBeGreaterThan(150);
    expect(text.length).toBeLessThanOrEqual(200);
    expect(text).toContain("…");
  });

  test("control characters reach no part of an error, whoever writes it", () => {
    const parts = { call: "a\x1b", requirement: "b\x9b", value: "c\x07\nd", remedy: "e\u202e" };
    const { message, parts: kept } = new FileError(parts);
    expect(message).toBe("a\\u001b: b\\u009b; got c\\u0007\nd. e\\u202e");
    expect(kept.remedy).toBe("e\\u202e");
  });

  test("frequencies are named by what they are", () => {
    const refused = (frequencies: unknown) => () =>
      createProblem({ length: 64, frequencies: frequencies as never }, "test");
    expect(refused({ bands: [0, 1] })).toThrow("got { bands: [0, 1] }");
    expect(refused({ band: [0.001, 0.002] })).toThrow("got { band: [0.001, 0.002] }");
  });
});
