/** Elementary functions and activations, evaluated with float32 rounding after every operation, against float64. */
import { describe, expect, test } from "vitest";
import { type ActivationName, activations } from "../../src/math/activation.ts";
import { Graph, type Node } from "../../src/math/expr.ts";
import { cos, erf, exp, log, sigmoid, sin, tanh } from "../../src/math/functions.ts";
import { activations64, erf64 } from "../support/activations64.ts";

const real = new Float32Array(1);
const bits = new Uint32Array(real.buffer);

/** Value of a graph at `x` as WebAssembly without fused multiply-add computes it. */
function evaluate(root: Node, x: number): number {
  const known = new Map<Node, number>();
  const value = (n: Node): number => {
    const found = known.get(n);
    if (found !== undefined) return found;
    const result = Math.fround(compute(n));
    known.set(n, result);
    return result;
  };
  const bitsOf = (n: Node): number => {
    real[0] = value(n);
    return bits[0]!;
  };
  const compute = (n: Node): number => {
    switch (n.op) {
      case "const":
        return n.value;
      case "load":
        return x;
      case "neg":
        return -value(n.a);
      case "add":
        return value(n.a) + value(n.b);
      case "sub":
        return value(n.a) - value(n.b);
      case "mul":
        return value(n.a) * value(n.b);
      case "div":
        return value(n.a) / value(n.b);
      case "min":
        return Math.min(value(n.a), value(n.b));
      case "max":
        return Math.max(value(n.a), value(n.b));
      case "nearest":
        return Math.round(value(n.a));
      case "pow2":
        return 2 ** value(n.a);
      case "exponent":
        return ((bitsOf(n.a) >>> 23) & 255) - 127;
      case "fraction":
        bits[0] = (bitsOf(n.a) & 0x7fffff) | 0x3f800000;
        return real[0]!;
      case "select":
        return value(n.a) > 0 ? value(n.b) : value(n.c);
      case "fma":
        return Math.fround(value(n.a) * value(n.b)) + value(n.c);
      case "fnma":
        return value(n.c) - Math.fround(value(n.a) * value(n.b));
      default:
        throw new Error(`no scalar meaning: ${n.op}`);
    }
  };
  return value(root);
}

type Build = (g: Graph, x: Node) => Node;

/** A function of one number. */
function evaluator(build: Build): (x: number) => number {
  const g = new Graph();
  const root = build(g, g.load({ pointer: "x", offset: 0 }, "float32"));
  return (x) => evaluate(root, Math.fround(x));
}

/** Points from −range to range, 0 and both ends among them, as float32. */
const points = (range: number): number[] =>
  Array.from({ length: 20_001 }, (_, i) => Math.fround((range * (i - 10_000)) / 10_000));

/** The largest error relative to the value, or to `floor` where that is larger. */
function largestError(
  build: Build,
  exact: (x: number) => number,
  range: number | readonly number[],
  floor = 0,
): number {
  const value = evaluator(build);
  const xs = typeof range === "number" ? points(range) : range;
  return xs.reduce((worst, x) => {
    const want = exact(x);
    const size = Math.max(Math.abs(want), floor);
    return Math.max(worst, Math.abs(value(x) - want) / (size || 1));
  }, 0);
}

/** Positive numbers of all magnitudes, and many around 1. */
const magnitudes = [
  ...Array.from({ length: 20_001 }, (_, i) => Math.fround(2 ** (-126 + (253.9 * i) / 20_000))),
  ...Array.from({ length: 4001 }, (_, i) => Math.fround(0.5 + i / 2000)),
];

describe("functions in float32", () => {
  test("exp", () => {
    expect(largestError(exp, Math.exp, 87)).toBeLessThan(1.5e-7);
  });

  test("log of every magnitude, and beyond", () => {
    expect(largestError(log, Math.log, magnitudes)).toBeLessThan(2e-7);
    const value = evaluator(log);
    expect(value(1)).toBe(0);
    expect(value(0)).toBeLessThan(-3e38);
    expect(value(Number.POSITIVE_INFINITY)).toBe(Number.POSITIVE_INFINITY);
    expect(value(-1)).toBeLessThan(-3e38);
    expect(value(Number.NaN)).toBeNaN();
  });

  test("sigmoid", () => {
    const exact = (x: number) => 1 / (1 + Math.exp(-x));
    expect(largestError(sigmoid, exact, 80)).toBeLessThan(2e-7);
  });

  test("tanh, near 0 too", () => {
    for (const range of [80, 3, 1, 1e-3]) {
      expect(largestError(tanh, Math.tanh, range)).toBeLessThan(2e-7);
    }
    expect(evaluator(tanh)(1e30)).toBe(1);
    expect(evaluator(tanh)(Number.NaN)).toBeNaN();
  });

  test("sin and cos, absolutely", () => {
    for (const range of [1e4, 30, 2]) {
      expect(largestError(sin, Math.sin, range, 1)).toBeLessThan(2e-7);
      expect(largestError(cos, Math.cos, range, 1)).toBeLessThan(2e-7);
    }
    expect(largestError(sin, Math.sin, 0.5)).toBeLessThan(2e-7);
    expect(evaluator(sin)(Number.NaN)).toBeNaN();
  });

  test("erf", () => {
    for (const range of [8, 2, 0.1]) expect(largestError(erf, erf64, range)).toBeLessThan(2e-7);
    expect(evaluator(erf)(1e30)).toBe(1);
    expect(evaluator(erf)(Number.NaN)).toBeNaN();
  });
});

describe("activations in float32", () => {
  const names = Object.keys(activations) as ActivationName[];
  const slopeOf = (z: number, name: ActivationName): number =>
    (activations64[name].value(z + 1e-5) - activations64[name].value(z - 1e-5)) / 2e-5;

  test.each(names)("%s and its derivative, relative to no less than 1", (name) => {
    const { value, slope } = activations[name];
    const exact = activations64[name];
    for (const range of [80, 6, 1]) {
      expect(largestError(value, exact.value, range, 1)).toBeLessThan(3e-7);
      expect(largestError(slope, exact.slope, range, 1)).toBeLessThan(4e-7);
    }
    // The reference's derivative is its value's.
    for (const z of [-3.1, -0.7, 0.2, 1.9]) expect(exact.slope(z)).toBeCloseTo(slopeOf(z, name), 8);
  });

  test("silu and gelu where they are small, relative to themselves or a hundredth", () => {
    const { silu, gelu, relu } = activations;
    expect(largestError(silu.value, activations64.silu.value, 80)).toBeLessThan(3e-7);
    expect(largestError(silu.slope, activations64.silu.slope, 80, 0.01)).toBeLessThan(1e-5);
    expect(largestError(gelu.value, activations64.gelu.value, 3, 0.01)).toBeLessThan(2e-6);
    expect(largestError(relu.value, activations64.relu.value, 80)).toBe(0);
    expect(largestError(relu.slope, activations64.relu.slope, 80)).toBe(0);
  });

  test("large arguments saturate, and NaN stays NaN", () => {
    for (const name of ["silu", "gelu", "gelu-exact", "relu"] as const) {
      const value = evaluator(activations[name].value);
      const slope = evaluator(activations[name].slope);
      expect([value(1e30), slope(500)]).toEqual([Math.fround(1e30), 1]);
      expect(value(Number.POSITIVE_INFINITY)).toBe(Number.POSITIVE_INFINITY);
      expect(Math.abs(value(-200))).toBeLessThan(1e-5);
      expect(value(Number.NaN)).toBeNaN();
    }
    expect(Math.abs(evaluator(activations.silu.value)(-200))).toBeLessThan(1e-35);
    expect(evaluator(activations.silu.slope)(Number.NaN)).toBeNaN();
  });
});
