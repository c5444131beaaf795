/** Activations and what they are made of in float64: the reference of tests. */
import type { ActivationName } from "../../src/math/activation.ts";

const logistic = (z: number): number => 1 / (1 + Math.exp(-z));

/** The error function by its series of positive terms, 2/√π · e^(−x²) · Σ 2^n·x^(2n+1)/(2n+1)!!. */
export function erf64(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x;
  let sum = x;
  for (let n = 1; n < 200; n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

const normal64 = (z: number): number => 0.5 * (1 + erf64(z * Math.SQRT1_2));
const tanhOf = (z: number): number => Math.tanh(Math.sqrt(2 / Math.PI) * (z + 0.044715 * z ** 3));

/** Functions of a filter's output, and their derivatives. */
export const activations64: Readonly<
  Record<
    ActivationName,
    { readonly value: (z: number) => number; readonly slope: (z: number) => number }
  >
> = {
  silu: {
    value: (z) => z * logistic(z),
    slope: (z) => logistic(z) * (1 + z * (1 - logistic(z))),
  },
  relu: { value: (z) => Math.max(0, z), slope: (z) => (z > 0 ? 1 : 0) },
  gelu: {
    value: (z) => 0.5 * z * (1 + tanhOf(z)),
    slope: (z) => {
      const t = tanhOf(z);
      const inner = Math.sqrt(2 / Math.PI) * (1 + 3 * 0.044715 * z * z);
      return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * inner;
    },
  },
  "gelu-exact": {
    value: (z) => z * normal64(z),
    slope: (z) => normal64(z) + (z * Math.exp((-z * z) / 2)) / Math.sqrt(2 * Math.PI),
  },
  sin: { value: Math.sin, slope: Math.cos },
  sigmoid: { value: logistic, slope: (z) => logistic(z) * logistic(-z) },
};
