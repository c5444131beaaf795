/** Activations over the expression graph: the one list that options, kernels and error texts follow. */
import type { Graph, Node } from "./expr.ts";
import { cos, erf, exp, sigmoid, sin } from "./functions.ts";

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

/** −2·√(2/π)·(z + 0.044715·z³): GELU by tanh is z·σ of minus this, since ½·(1 + tanh u) = σ(2u). */
const geluScale = -2 * Math.sqrt(2 / Math.PI);
const geluCube = 0.044715;

function geluExponent(g: Graph, z: Node, square: Node): Node {
  const inner = g.fma(square, g.constant(geluScale * geluCube), g.constant(geluScale));
  return g.mul(inner, z);
}

function gelu(g: Graph, z: Node): Node {
  return g.div(z, g.add(g.constant(1), exp(g, geluExponent(g, z, g.mul(z, z)))));
}

/** σ·(1 + z·(1 − σ)·v′) with v the argument of σ and v′ = 2·√(2/π)·(1 + 3·0.044715·z²). */
function geluSlope(g: Graph, z: Node): Node {
  const one = g.constant(1);
  const square = g.mul(z, z);
  const e = exp(g, geluExponent(g, z, square));
  const sigma = g.div(one, g.add(one, e));
  const inner = g.fma(square, g.constant(-3 * geluScale * geluCube), g.constant(-geluScale));
  return g.mul(sigma, g.fma(g.mul(z, inner), g.mul(e, sigma), one));
}

/** Φ(z), the normal distribution's: ½·(1 + erf(z/√2)). */
function normal(g: Graph, z: Node): Node {
  const half = g.constant(0.5);
  return g.fma(erf(g, g.mul(z, g.constant(Math.SQRT1_2))), half, half);
}

/** Φ(z) + z·φ(z), with the density φ(z) = e^(−z²/2)/√(2π). */
function geluExactSlope(g: Graph, z: Node): Node {
  const density = exp(g, g.mul(g.mul(z, z), g.constant(-0.5)));
  return g.fma(g.mul(z, g.constant(1 / Math.sqrt(2 * Math.PI))), density, normal(g, z));
}

/** A function that cells go through one by one. */
export interface Activation {
  readonly value: (g: Graph, z: Node) => Node;
  /** Its derivative. */
  readonly slope: (g: Graph, z: Node) => Node;
}

/**
 * An activation's name, as options have it: `silu` is z/(1 + e^−z), `relu` is max(0, z), `gelu` is z·Φ(z) by way of tanh,
 * ½·z·(1 + tanh(√(2/π)·(z + 0.044715·z³))), `gelu-exact` is z·Φ(z) by way of the error function, `sin` is sin(z), for |z| ≤ 10,000,
 * `sigmoid` is 1/(1 + e^−z).
 */
export type ActivationName = "silu" | "relu" | "gelu" | "gelu-exact" | "sin" | "sigmoid";

/**
 * All of them. To add one, name it above and write it here; `test/support/activations64.ts` says what it is in float64. Options, error
 * texts and the kernels of every backend follow.
 */
export const activations: Readonly<Record<ActivationName, Activation>> = {
  silu: { value: silu, slope: siluSlope },
  relu: {
    value: (g, z) => g.max(z, g.constant(0)),
    slope: (g, z) => g.select(z, g.constant(1), g.constant(0)),
  },
  gelu: { value: gelu, slope: geluSlope },
  "gelu-exact": { value: (g, z) => g.mul(z, normal(g, z)), slope: geluExactSlope },
  sin: { value: sin, slope: cos },
  sigmoid: {
    value: sigmoid,
    slope: (g, z) => g.mul(sigmoid(g, z), sigmoid(g, g.neg(z))),
  },
};
