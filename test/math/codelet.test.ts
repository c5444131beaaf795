/** Butterflies against the definition of the DFT, and what the graph simplifies away. */
import { describe, expect, test } from "vitest";
import { dft } from "../../src/math/codelet.ts";
import type { Complex, Node } from "../../src/math/expr.ts";
import { countOps, Graph } from "../../src/math/expr.ts";
import { root } from "../../src/math/roots.ts";

/** Evaluate a graph in float64 with given loads. */
function evaluate(n: Node, load: (offset: number) => number): number {
  const value = (m: Node): number => evaluate(m, load);
  switch (n.op) {
    case "const":
      return n.value;
    case "load":
      return load(n.at.offset);
    case "add":
      return value(n.a) + value(n.b);
    case "sub":
      return value(n.a) - value(n.b);
    case "mul":
      return value(n.a) * value(n.b);
    case "neg":
      return -value(n.a);
    case "fma":
      return value(n.a) * value(n.b) + value(n.c);
    case "fnma":
      return value(n.c) - value(n.a) * value(n.b);
    default:
      throw new Error(`no scalar meaning: ${n.op}`);
  }
}

function inputs(g: Graph, r: number): Complex[] {
  return Array.from({ length: r }, (_, j) => ({
    re: g.load({ pointer: "x", offset: 2 * j }, "float32"),
    im: g.load({ pointer: "x", offset: 2 * j + 1 }, "float32"),
  }));
}

describe("dft codelets", () => {
  const radices = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 20, 32];
  test.each(radices.flatMap((r) => [[r, 1] as const, [r, -1] as const]))(
    "radix %i, sign %i",
    (r, sign) => {
      const g = new Graph();
      const x = Float64Array.from({ length: 2 * r }, (_, i) => Math.sin(3 * i + 1));
      const out = dft(g, inputs(g, r), sign);
      out.forEach((v, k) => {
        let re = 0;
        let im = 0;
        for (let j = 0; j < r; j++) {
          const w = root(sign * j * k, r);
          re += x[2 * j]! * w.re - x[2 * j + 1]! * w.im;
          im += x[2 * j]! * w.im + x[2 * j + 1]! * w.re;
        }
        expect(evaluate(v.re, (o) => x[o]!)).toBeCloseTo(re, 12);
        expect(evaluate(v.im, (o) => x[o]!)).toBeCloseTo(im, 12);
      });
    },
  );

  test("cost what the literature says", () => {
    const count = (r: number): number => {
      const g = new Graph();
      const ops = countOps(dft(g, inputs(g, r), 1).flatMap((v) => [v.re, v.im]));
      expect(ops.neg).toBe(0);
      return ops.add + ops.sub + ops.mul + 2 * (ops.fma + ops.fnma);
    };
    expect([2, 4, 8].map(count)).toEqual([4, 16, 56]);
  });

  test("zero inputs prune the butterfly: half of radix 4 costs half", () => {
    const g = new Graph();
    const zero = { re: g.constant(0), im: g.constant(0) };
    const [a, b] = inputs(g, 4);
    const ops = countOps(dft(g, [a!, b!, zero, zero], 1).flatMap((v) => [v.re, v.im]));
    expect(ops.add + ops.sub + ops.neg + ops.mul).toBe(8);
  });

  test("equal values are one node", () => {
    const g = new Graph();
    const [a, b] = inputs(g, 2);
    expect(g.add(a!.re, b!.re)).toBe(g.add(b!.re, a!.re));
    expect(g.sub(a!.re, g.neg(b!.re))).toBe(g.add(a!.re, b!.re));
    expect(g.mul(g.constant(1), a!.re)).toBe(a!.re);
  });
});

describe("roots of unity", () => {
  test("are exact at eighths of a turn and accurate to float64 elsewhere", () => {
    expect(root(1, 4)).toEqual({ re: 0, im: 1 });
    expect(root(-3, 4)).toEqual(root(1, 4));
    expect(root(1, 2).re).toBe(-1);
    for (const d of [7, 360, 2 ** 26, 3 ** 12]) {
      for (const n of [1, 2, 5, d - 1, Math.floor(d / 3), Math.floor(d / 8)]) {
        const w = root(n, d);
        expect(Math.abs(Math.hypot(w.re, w.im) - 1)).toBeLessThan(3e-16);
        const [half, other] = [root(n, 2 * d), root(-n, d)];
        expect(half.re * half.re - half.im * half.im).toBeCloseTo(w.re, 15);
        expect(other.re).toBeCloseTo(w.re, 15);
        expect(other.im).toBeCloseTo(-w.im, 15);
      }
    }
  });
});
