/** Elementary functions over the expression graph, the same operations on every target: what errors they make is tested there. */
import type { Graph, Node } from "./expr.ts";

/** A polynomial by Horner's rule, the coefficient of the highest power first. */
function polynomial(g: Graph, x: Node, coefficients: readonly number[]): Node {
  const [first, ...rest] = coefficients;
  return rest.reduce((sum, c) => g.fma(sum, x, g.constant(c)), g.constant(first!));
}

/** |x| */
export const absolute = (g: Graph, x: Node): Node => g.max(x, g.neg(x));

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

/** (log(1 + f) − f + f²/2)/f³ for √½ − 1 ≤ f ≤ √2 − 1 (Cephes, logf). */
const logTail = [
  ...[7.0376836292e-2, -1.151461031e-1, 1.167699874e-1, -1.2420140846e-1, 1.4249322787e-1],
  ...[-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1],
];

/**
 * ln x with a relative error below 2e-7. Infinity comes to itself, zero and what is below to float32's lowest number (WGSL has no
 * infinity), and subnormal numbers to about −88, or as zero does where they are flushed.
 */
export function log(g: Graph, x: Node): Node {
  const fraction = g.fraction(x);
  const above = g.sub(fraction, g.constant(Math.SQRT2));
  const m = g.select(above, g.mul(fraction, g.constant(0.5)), fraction);
  const e = g.add(g.exponent(x), g.select(above, g.constant(1), g.constant(0)));
  const f = g.sub(m, g.constant(1));
  const square = g.mul(f, f);
  const tail = g.fma(e, g.constant(ln2Low), g.mul(g.mul(polynomial(g, f, logTail), f), square));
  const near = g.add(f, g.fnma(g.constant(0.5), square, tail));
  const finite = g.fma(e, g.constant(ln2High), near);
  const beyond = g.sub(x, g.constant(3.4028234663852886e38));
  return g.select(beyond, x, g.select(x, finite, beyond));
}

/** 1/(1 + e^−x) */
export function sigmoid(g: Graph, x: Node): Node {
  return g.div(g.constant(1), g.add(g.constant(1), exp(g, g.neg(x))));
}

/** (tanh x − x)/x³ by x², for |x| ≤ 0.625 (Cephes, tanhf). */
const tanhTail = [
  ...[-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1],
  -3.33332819422e-1,
];

/** tanh x: near 0 a polynomial, elsewhere 1 − 2/(e^2|x| + 1) with the sign of x. */
export function tanh(g: Graph, x: Node): Node {
  const size = absolute(g, x);
  const square = g.mul(x, x);
  const near = g.fma(g.mul(polynomial(g, square, tanhTail), square), x, x);
  const e = exp(g, g.add(size, size));
  const far = g.sub(g.constant(1), g.div(g.constant(2), g.add(e, g.constant(1))));
  const signed = g.select(x, far, g.neg(far));
  return g.select(g.sub(size, g.constant(0.625)), signed, near);
}

/** π in three parts: products of the first two with halves of integers below 2^13 are exact in float32. */
const piParts = [201 / 64, 1979 / 2 ** 21] as const;
const piRest = Math.PI - piParts[0] - piParts[1];

/** (sin r − r)/r³ by r², the series: for |r| ≤ π/2 the rest is below 1e-9. */
const sinTail = [13, 11, 9, 7, 5, 3].map((n) => (n % 4 === 1 ? 1 : -1) / factorial(n));

/** sin(x + quarters·π/2): x = (n − quarters/2)·π + r, and the result is sin r with the sign of (−1)^n. */
function sine(g: Graph, x: Node, quarters: 0 | 1): Node {
  const half = g.constant(quarters / 2);
  const n = g.nearest(g.fma(x, g.constant(1 / Math.PI), half));
  const turns = g.sub(n, half);
  const near = g.fnma(turns, g.constant(piParts[1]), g.fnma(turns, g.constant(piParts[0]), x));
  const r = g.fnma(turns, g.constant(piRest), near);
  const square = g.mul(r, r);
  const value = g.fma(g.mul(polynomial(g, square, sinTail), square), r, r);
  // n less an even number: 0 or ±1.
  const odd = g.fnma(g.nearest(g.mul(n, g.constant(0.5))), g.constant(2), n);
  return g.mul(value, g.fnma(g.mul(odd, odd), g.constant(2), g.constant(1)));
}

/** sin x with an absolute error below 2e-7 for |x| ≤ 10,000. */
export const sin = (g: Graph, x: Node): Node => sine(g, x, 0);

/** cos x likewise. */
export const cos = (g: Graph, x: Node): Node => sine(g, x, 1);

/** erf x / x by x², for |x| ≤ 1 (Cephes, erff). */
const erfNear = [
  ...[7.853861353153693e-5, -8.010193625184903e-4, 5.188327685732524e-3, -2.685381193529856e-2],
  ...[1.128358514861418e-1, -3.7612625824233e-1, 1.12837916716671],
];

/** ln(erfc x / t) + x² by t = 1/(1 + x/2) (Press et al., Numerical Recipes, erfcc). */
const erfcTail = [
  ...[0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418],
  ...[0.37409196, 1.00002368, -1.26551223],
];

/** The error function: near 0 a polynomial, elsewhere 1 − erfc |x| with the sign of x. */
export function erf(g: Graph, x: Node): Node {
  const size = absolute(g, x);
  const t = g.div(g.constant(1), g.fma(size, g.constant(0.5), g.constant(1)));
  const far = g.fnma(t, exp(g, g.fnma(size, size, polynomial(g, t, erfcTail))), g.constant(1));
  const near = g.mul(polynomial(g, g.mul(x, x), erfNear), x);
  return g.select(g.sub(size, g.constant(1)), g.select(x, far, g.neg(far)), near);
}
