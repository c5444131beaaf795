/**
 * What a frequency-sparse convolution must come to, from its definition: the taps at their lags among N, their spectrum
 * masked, convolved circularly with period N in float64. Shares no code with the library but the dense oracle.
 */

import { createProblem } from "../../src/plan/create-problem.ts";
import type { KeptFrequencies } from "../../src/plan/frequencies.ts";
import type { Problem } from "../../src/plan/problem.ts";
import {
  type OracleGradients,
  type OracleInputs,
  oracleBoth,
  oracleForward,
} from "../../src/reference/convolution.ts";

/** Whether bin f of the real transform is kept, as the options say it. */
export function keepsBin(kept: KeptFrequencies, bin: number): boolean {
  if ("band" in kept) {
    return bin >= kept.band[0] * kept.period && bin < kept.band[1] * kept.period;
  }
  let below = 1;
  for (const [i, n] of kept.digits.entries()) {
    const span = below * n;
    const nearest = Math.round(bin / span) * span;
    const dropped = kept.dropped[i]!;
    if (dropped > 0 && Math.abs(bin - nearest) >= (below * (n - dropped)) / 2) return false;
    below = span;
  }
  return true;
}

const responses = new Map<string, Float64Array>();

/** The impulse response of a mask, N samples: what an impulse at 0 becomes. */
function response(kept: KeptFrequencies): Float64Array {
  const key = JSON.stringify(kept);
  const known = responses.get(key);
  if (known) return known;
  const { period } = kept;
  const cosines = Float64Array.from({ length: period }, (_, n) =>
    Math.cos((2 * Math.PI * n) / period),
  );
  const values = new Float64Array(period);
  for (let f = 0; f <= period / 2; f++) {
    if (!keepsBin(kept, f)) continue;
    const weight = (f === 0 || 2 * f === period ? 1 : 2) / period;
    for (let n = 0, at = 0; n < period; n++, at = (at + f) % period)
      values[n] = values[n]! + weight * cosines[at]!;
  }
  responses.set(key, values);
  return values;
}

/** The lag of each tap, undefined for those that the mode does not use. */
export function lagsOf({ mode, length, kernelLength }: Problem): (number | undefined)[] {
  const half = kernelLength / 2;
  const centre = (kernelLength - 1) >> 1;
  return Array.from({ length: kernelLength }, (_, j) => {
    if (mode === "circular" || mode === "full") return j;
    if (mode === "causal") return j < length ? j : undefined;
    if (mode === "same") return Math.abs(j - centre) < length ? j - centre : undefined;
    return j === half ? undefined : j < half ? j : j - kernelLength;
  });
}

/** Rows of `from` samples as rows of `to`, cut short or followed by zeros. */
function resized(values: Float64Array, from: number, to: number): Float64Array {
  const rows = values.length / from;
  const out = new Float64Array(rows * to);
  for (let r = 0; r < rows; r++)
    out.set(values.subarray(r * from, r * from + Math.min(from, to)), r * to);
  return out;
}

/** Rows of N samples, masked: each convolved with the mask's response. */
function masked(rows: Float64Array, kept: KeptFrequencies): Float64Array {
  const { period } = kept;
  const problem = createProblem({ mode: "circular", length: period }, "reference");
  const channels = rows.length / period;
  const same = { batch: channels, channels: 1, k: response(kept) };
  return oracleForward(problem, { ...same, u: rows });
}

/** The dense circular problem that the sparse one is on the masked kernel, and its inputs. */
function dense<T extends OracleInputs & { readonly dy?: Float64Array }>(
  problem: Problem,
  inputs: T,
): { dense: Problem; inputs: T } {
  const kept = problem.frequencies!;
  const { length, outputLength, kernelLength } = problem;
  const { period } = kept;
  const lags = lagsOf(problem);
  const taps = new Float64Array(inputs.channels * period);
  for (let h = 0; h < inputs.channels; h++) {
    lags.forEach((lag, j) => {
      if (lag !== undefined)
        taps[h * period + ((lag + period) % period)] = inputs.k[h * kernelLength + j]!;
    });
  }
  const wide = (values: Float64Array): Float64Array => resized(values, length, outputLength);
  return {
    dense: createProblem(
      { mode: "circular", length: outputLength, kernelLength: period, period },
      "reference",
    ),
    inputs: {
      ...inputs,
      u: wide(inputs.u),
      ...(inputs.pregate && { pregate: wide(inputs.pregate) }),
      k: masked(taps, kept),
    },
  };
}

/** What forward and backward must return, each when it is asked for. */
export function sparseBoth(
  problem: Problem,
  inputs: OracleInputs & { readonly dy: Float64Array },
): ReturnType<typeof oracleBoth> {
  const whole = dense(problem, inputs);
  const { forward, backward } = oracleBoth(whole.dense, whole.inputs);
  return { forward, backward: () => sparseGradients(problem, inputs, backward()) };
}

/** Gradients of the inputs and taps that there are, from those of the dense problem. */
function sparseGradients(
  problem: Problem,
  inputs: OracleInputs,
  all: OracleGradients,
): OracleGradients {
  const { length, outputLength, kernelLength } = problem;
  const kept = problem.frequencies!;
  const narrow = (values: Float64Array): Float64Array => resized(values, outputLength, length);
  // The mask is its own transpose.
  const projected = masked(all.dk, kept);
  const lags = lagsOf(problem);
  const dk = new Float64Array(inputs.channels * kernelLength);
  for (let h = 0; h < inputs.channels; h++) {
    lags.forEach((lag, j) => {
      if (lag === undefined) return;
      const at = (lag + kept.period) % kept.period;
      dk[h * kernelLength + j] = projected[h * kept.period + at]!;
    });
  }
  return {
    ...all,
    du: narrow(all.du),
    dk,
    ...(all.dpregate && { dpregate: narrow(all.dpregate) }),
  };
}
