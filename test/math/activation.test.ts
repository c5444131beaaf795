/** The activations' arithmetic, evaluated with float32 rounding after every operation, against float64. */
import { describe, expect, test } from "vitest";
import { activations, exp } from "../../src/math/activation.ts";
import { Graph, type Node } from "../../src/math/expr.ts";

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

const { silu, relu } = activations;
const sigmoid = (z: number): number => 1 / (1 + Math.exp(-z));

/** Points from −range to range, 0 and both ends among them, as float32. */
const points = (range: number): number[] =>
  Array.from({ length: 20_001 }, (_, i) => Math.fround((range * (i - 10_000)) / 10_000));

function largestError(
  build: (g: Graph, x: Node) => Node,
  exact: (x: number) => number,
  range: number,
  floor = 0,
): number {
  const g = new Graph();
  const root = build(g, g.load({ pointer: "x", offset: 0 }, "float32"));
  return points(range).reduce((worst, x) => {
    const want = exact(x);
    const size = Math.max(Math.abs(want), floor);
    return Math.max(worst, Math.abs(evaluate(root, x) - want) / (size || 1));
  }, 0);
}

describe("in float32", () => {
  test("exp", () => {
    expect(largestError(exp, Math.exp, 87)).toBeLessThan(1.5e-7);
  });

  test("silu", () => {
    expect(largestError(silu.value, (z) => z * sigmoid(z), 80)).toBeLessThan(3e-7);
  });

  test("its derivative, relative to no less than a hundredth", () => {
    const slope = (z: number): number => sigmoid(z) * (1 + z * (1 - sigmoid(z)));
    expect(largestError(silu.slope, slope, 80, 0.01)).toBeLessThan(1e-5);
    expect(largestError(silu.slope, slope, 80, 1)).toBeLessThan(3e-7);
  });

  test("relu and its derivative, 0 where z is", () => {
    expect(largestError(relu.value, (z) => Math.max(0, z), 80)).toBe(0);
    expect(largestError(relu.slope, (z) => (z > 0 ? 1 : 0), 80)).toBe(0);
  });

  test("large arguments saturate, and NaN stays NaN", () => {
    const g = new Graph();
    const x = g.load({ pointer: "x", offset: 0 }, "float32");
    expect(evaluate(silu.value(g, x), 1e30)).toBe(Math.fround(1e30));
    expect(evaluate(silu.value(g, x), Number.POSITIVE_INFINITY)).toBe(Number.POSITIVE_INFINITY);
    expect(Math.abs(evaluate(silu.value(g, x), -200))).toBeLessThan(1e-35);
    expect(evaluate(silu.value(g, x), Number.NaN)).toBeNaN();
    expect(evaluate(silu.slope(g, x), 500)).toBe(1);
    expect(evaluate(relu.value(g, x), Number.POSITIVE_INFINITY)).toBe(Number.POSITIVE_INFINITY);
    expect(evaluate(relu.value(g, x), Number.NaN)).toBeNaN();
  });
});
