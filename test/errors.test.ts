/** Values in messages: what was given, short enough to read. */
import { describe, expect, test } from "vitest";
import { show } from "../src/errors.ts";
import { createProblem } from "../src/plan/problem.ts";

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
    [Object.create(null), "an object"],
    [cycle, "{ n: 1, self: [Object] }"],
  ])("%o", (value, text) => {
    expect(show(value)).toBe(text);
  });

  test("frequencies are named by what they are", () => {
    const refused = (frequencies: unknown) => () =>
      createProblem({ length: 64, frequencies: frequencies as never }, "test");
    expect(refused({ bands: [0, 1] })).toThrow("got { bands: [0, 1] }");
    expect(refused({ band: [0.001, 0.002] })).toThrow("got { band: [0.001, 0.002] }");
  });
});
