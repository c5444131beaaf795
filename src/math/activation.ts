/** Activations behind short filters, over the expression graph: the one list that options, kernels and error texts follow. */
import type { Graph, Node } from "./expr.ts";

/** ln 2 in two parts: the first has nine bits, so that its products with |n| < 128 are exact in float32. */
const ln2High = 355 / 512;
const ln2Low = Math.LN2 - ln2High;

/** Terms of e^r's series: for |r| ≤ ln 2 / 2 the rest is below 6e-9 of the value. */
const terms = 7;

/**
 * e^x for x clamped to [−87, 88], where float32 has normal values: x = n·ln 2 + r, e^x = 2^n·e^r. In float32 without fused
 * multiply-add the relative error stays below 1.5e-7.
 */
export function exp(g: Graph, x: Node): Node {
  const clamped = g.min(g.max(x, g.constant(-87)), g.constant(88));
  const n = g.nearest(g.mul(clamped, g.constant(Math.LOG2E)));
  const r = g.fnma(n, g.constant(ln2Low), g.fnma(n, g.constant(ln2High), clamped));
  let sum = g.constant(1 / factorial(terms));
  for (let i = terms - 1; i >= 0; i--) sum = g.fma(sum, r, g.constant(1 / factorial(i)));
  return g.mul(sum, g.pow2(n));
}

function factorial(n: number): number {
  return n < 2 ? 1 : n * factorial(n - 1);
}

/** z·σ(z) with σ(z) = 1/(1 + e^−z). */
function silu(g: Graph, z: Node): Node {
  return g.div(z, g.add(g.constant(1), exp(g, g.neg(z))));
}

/** d(z·σ(z))/dz = σ(z)·(1 + z·(1 − σ(z))), where 1 − σ = e^−z·σ without cancellation. */
function siluSlope(g: Graph, z: Node): Node {
  const one = g.constant(1);
  const e = exp(g, g.neg(z));
  const sigma = g.div(one, g.add(one, e));
  return g.mul(sigma, g.fma(z, g.mul(e, sigma), one));
}

/** A function that every output of a filter goes through. */
export interface Activation {
  readonly value: (g: Graph, z: Node) => Node;
  /** Its derivative. */
  readonly slope: (g: Graph, z: Node) => Node;
}

/** An activation's name, as options have it: `silu` is z/(1 + e^−z), `relu` is max(0, z). */
export type ActivationName = "silu" | "relu";

/**
 * All of them. To add one, name it above and write it here; `reference/depthwise.ts` says what it is in float64. Options, error
 * texts and the kernels of every backend follow.
 */
export const activations: Readonly<Record<ActivationName, Activation>> = {
  silu: { value: silu, slope: siluSlope },
  relu: {
    value: (g, z) => g.max(z, g.constant(0)),
    slope: (g, z) => g.select(z, g.constant(1), g.constant(0)),
  },
};
