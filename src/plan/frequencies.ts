/**
 * Frequency-sparse convolutions: which bins of the real transform a kernel keeps. The result is exactly
 * irfft(mask · rfft(k) · rfft(u)) over N samples, where the mask is a rule on bins 0 … N/2, so that every pattern is
 * symmetric: a bin and its mirror N − f are kept together.
 */

import { known } from "../checks.ts";
import { InvalidArgumentError } from "../errors.ts";
import { primeFactors } from "../math/factor.ts";
import { show } from "../show.ts";
import type { Intervals } from "./intervals.ts";
import { append, flagsOf } from "./intervals.ts";

/** Keep a band of frequencies. */
export interface FrequencyBand {
  /**
   * [f0, f1) in cycles per sample, 0 ≤ f0 < f1 ≤ 1: bin f of N is kept where f0·N ≤ f < f1·N. The highest frequency is 0.5
   * and is kept where f1 is greater.
   */
  readonly band: readonly [from: number, to: number];
  /**
   * N, the samples of the transform: a multiple of 16 of the form 2^a 3^b 5^c 7^d in which nothing wraps around onto an
   * output; by default the period of the circular mode, and the least power of two that suffices elsewhere (2L in the
   * causal mode where L is a power of two).
   */
  readonly period?: number;
}

/**
 * Keep blocks over the digits of a bin's number, as Fu et al. 2023 (appendix A.4) do over the dimensions of a Monarch
 * decomposition: f = f₁ + n₁·(f₂ + n₂·(f₃ + …)). Of the nᵢ values of digit i, `dropped[i]` are dropped. What remains is
 * contiguous around 0, so that the pattern is its own mirror image: with Dᵢ = n₁⋯nᵢ, a bin is kept where for every digit
 * that drops any its distance to the nearest multiple of Dᵢ is less than Dᵢ₋₁·(nᵢ − droppedᵢ)/2. Dropping in the first
 * digit leaves a comb of teeth n₁ apart; dropping in the last one a low-pass band.
 */
export interface FrequencyBlocks {
  /** n₁, n₂, …, whose product is N; in the circular mode that is the period. */
  readonly digits: readonly number[];
  /** Values dropped of each digit, 0 … nᵢ − 1. */
  readonly dropped: readonly number[];
}

/** Frequencies that the kernel keeps; all others count as zero. */
export type Frequencies = FrequencyBand | FrequencyBlocks;

/** A checked pattern with the N that it is taken over. */
export type KeptFrequencies = Frequencies & {
  /** N. */
  readonly period: number;
};

/** What a pattern's N must suit. */
interface FrequencyNeeds {
  /** N of the circular mode; 0 elsewhere. */
  readonly period: number;
  /** Positions in which nothing wraps around onto an output. */
  readonly positions: number;
}

/** Complex points that a transform comes in: one group of the middle. */
const group = 16;

function refuse(call: string, requirement: string, value: unknown, remedy: string): never {
  throw new InvalidArgumentError({ call, requirement, value: show(value), remedy });
}

const isCount = (x: unknown, low: number, high: number): x is number =>
  typeof x === "number" && Number.isInteger(x) && x >= low && x <= high;

/** Largest N: that of the longest kernel. */
const longest = 33_554_432;

function checkBand(
  frequencies: FrequencyBand,
  needs: FrequencyNeeds,
  call: string,
): KeptFrequencies {
  known(frequencies, ["band", "period"], call, "frequencies with a band");
  const power = 2 ** Math.ceil(Math.log2(Math.max(group, needs.positions)));
  const { band, period = needs.period || power } = frequencies;
  const edges =
    Array.isArray(band) && band.length === 2 && band.every((f) => typeof f === "number");
  const [from, to] = edges ? band : [Number.NaN, Number.NaN];
  if (!(from >= 0 && from < to && to <= 1)) {
    refuse(
      call,
      "frequencies.band must be [f0, f1] in cycles per sample, 0 ≤ f0 < f1 ≤ 1",
      band,
      "Divide frequencies in Hz by the sample rate; [0, 0.125] keeps the lowest quarter.",
    );
  }
  return { band: Object.freeze([from, to] as const), period };
}

function checkBlocks(frequencies: FrequencyBlocks, call: string): KeptFrequencies {
  known(frequencies, ["digits", "dropped", "period"], call, "frequencies with digits");
  const { digits, dropped }: FrequencyBlocks = frequencies;
  if (!Array.isArray(digits) || !digits.every((n) => isCount(n, 1, longest))) {
    refuse(
      call,
      "frequencies.digits must be a list of positive integers whose product is N",
      digits,
      "For N = 65,536 pass [16, 16, 16, 16], or any other factors.",
    );
  }
  const fits = Array.isArray(dropped) && dropped.length === digits.length;
  if (!fits || !dropped.every((x, i) => isCount(x, 0, digits[i]! - 1))) {
    refuse(
      call,
      "frequencies.dropped must have one integer from 0 to n − 1 for each digit n",
      dropped,
      `Pass ${digits.length} numbers, 0 where a digit drops nothing.`,
    );
  }
  const product = digits.reduce((a, b) => a * b, 1);
  // A checked pattern, as `problem.frequencies` is, has the period beside the digits.
  const { period = product } = frequencies as Partial<KeptFrequencies>;
  if (period !== product) {
    refuse(
      call,
      `frequencies.period must be the product of the digits, ${show(product)}`,
      period,
      "Leave period out.",
    );
  }
  return {
    digits: Object.freeze([...digits]),
    dropped: Object.freeze([...dropped]),
    period,
  };
}

/**
 * Check a pattern and fill in its N.
 * @throws InvalidArgumentError naming `call`.
 */
export function createFrequencies(
  frequencies: Frequencies,
  needs: FrequencyNeeds,
  call: string,
): KeptFrequencies {
  const given: Frequencies | Record<string, never> =
    typeof frequencies === "object" && frequencies !== null ? frequencies : {};
  if ("band" in given === "digits" in given) {
    refuse(
      call,
      "frequencies must be { band } or { digits, dropped }",
      frequencies,
      "Pass { band: [f0, f1] }, or leave frequencies out to keep all.",
    );
  }
  const kept =
    "band" in frequencies ? checkBand(frequencies, needs, call) : checkBlocks(frequencies, call);
  const { period } = kept;
  if (needs.period > 0 && period !== needs.period) {
    refuse(
      call,
      `frequencies are those of the circular mode's period ${show(needs.period)}`,
      `a pattern over ${show(period)} samples`,
      "Set period to the pattern's N.",
    );
  }
  if (!isCount(period, group, longest) || period % group || primeFactors(period).at(-1)! > 7) {
    refuse(
      call,
      `the samples N that frequencies are taken over must be a multiple of ${group} of the form 2^a 3^b 5^c 7^d, at most ${show(longest)}`,
      period,
      "Choose such an N, or apply sparsifyKernel and convolve without frequencies.",
    );
  }
  if (period < needs.positions && needs.period === 0) {
    refuse(
      call,
      `the samples N that frequencies are taken over must be at least ${show(needs.positions)}, so that nothing wraps around`,
      period,
      "Choose a larger N, or mode 'circular'.",
    );
  }
  if (keptRuns(kept).length === 0) {
    refuse(
      call,
      "frequencies must keep at least one bin",
      frequencies,
      "Widen the band: bins are 1/N apart.",
    );
  }
  return Object.freeze(kept);
}

/** Of some runs, what lies less than `reach`/2 from a multiple of `span`; `reach` is less than `span`. */
function teeth(runs: Intervals, span: number, reach: number): number[] {
  const aside = Math.ceil(reach / 2) - 1;
  const found: number[] = [];
  for (let i = 0; i < runs.length; i += 2) {
    const [from, to] = [runs[i]!, runs[i + 1]!];
    for (let at = Math.ceil((from - aside) / span) * span; at - aside < to; at += span)
      append(found, Math.max(from, at - aside), Math.min(to, at + aside + 1));
  }
  return found;
}

/** The bins 0 … N/2 of the real transform that are kept, in runs. */
export function keptRuns(kept: KeptFrequencies): Intervals {
  const count = kept.period / 2 + 1;
  if ("band" in kept) {
    const [from, to] = kept.band.map((f) => Math.min(count, Math.ceil(f * kept.period)));
    return from! < to! ? [from!, to!] : [];
  }
  let runs: Intervals = [0, count];
  let span = kept.period;
  // The widest teeth first: what lies in none of them is not looked at again.
  for (let i = kept.digits.length - 1; i >= 0; i--) {
    const [n, dropped] = [kept.digits[i]!, kept.dropped[i]!];
    if (dropped > 0) runs = teeth(runs, span, (span / n) * (n - dropped));
    span /= n;
  }
  return runs;
}

/** 1 for each bin 0 … N/2 of the real transform that is kept, 0 for the others. */
export function keptBins(kept: KeptFrequencies): Uint8Array {
  return flagsOf(keptRuns(kept), kept.period / 2 + 1);
}
