/**
 * What the user asks for, checked and put in numbers. A problem is plain data; everything later (plans, kernels, the
 * oracle) is computed from it.
 */

import type { Dtype } from "../dtype.ts";
import type { Frequencies, KeptFrequencies } from "./frequencies.ts";

/**
 * Which convolution.
 * - `causal`: linear, the first L outputs: y[n] = Σ u[m] k[n−m], m ≤ n. Taps from L on never matter.
 * - `circular`: period N: y[n] = Σ u[m] k[(n−m) mod N], the first L outputs.
 * - `bidirectional`: K = 2R taps laid out circularly, R ≤ L: tap j < R reaches j samples back, tap 2R−j reaches j samples
 *   ahead (tap R is never used). With R = L, the first L outputs of the circular convolution with period 2L.
 * - `full`: all L+K−1 outputs of the linear convolution.
 * - `same`: the L outputs of `full` from (K−1) div 2 on, as scipy.signal.fftconvolve centres them.
 */
export type Mode = "causal" | "circular" | "bidirectional" | "full" | "same";

/** All modes. */
export const modes: readonly Mode[] = ["causal", "circular", "bidirectional", "full", "same"];

/** Largest input length: 2^24 samples. */
export const maxLength = 16_777_216;

/** A checked problem: shapes without the batch. */
export interface Problem<D extends Dtype = Dtype> {
  /** Which convolution. */
  readonly mode: Mode;
  /** L: samples of one input row. */
  readonly length: number;
  /** K: taps of one kernel row. */
  readonly kernelLength: number;
  /** N of the circular mode; for the others the length is implied and this is 0. */
  readonly period: number;
  /** Storage of u, y and the gates. */
  readonly dtype: D;
  /** Samples of one output row. */
  readonly outputLength: number;
  /** What the kernel keeps of its spectrum; all of it where absent. */
  readonly frequencies?: KeptFrequencies;
  /**
   * Of the causal mode, samples at the beginning of an input row that come before its first output: the past of a stream's
   * block. None where absent.
   */
  readonly past?: number;
}

/** What a problem is made from. */
export interface ProblemOptions<D extends Dtype = Dtype> {
  /** Which convolution; `causal` by default. */
  readonly mode?: Mode;
  /** L: samples of one input row, 1 … 16,777,216. */
  readonly length: number;
  /** K: taps of one kernel row, 1 … 33,554,432; by default L, or 2L in the bidirectional mode, where it is even. */
  readonly kernelLength?: number;
  /** N of the circular mode, at least L and K; max(L, K) by default. */
  readonly period?: number;
  /** Storage of u, y and the gates; `float32` by default. */
  readonly dtype?: D;
  /**
   * Frequencies that the kernel keeps; by default all. The result is irfft(mask · rfft(k) · rfft(u)) over N samples, with
   * u followed by zeros and every tap that the mode uses at its lag modulo N. What feeds masked bins alone is left out:
   * much of the work for blocks, little for a band.
   */
  readonly frequencies?: Frequencies;
}

/** Options of a problem. */
export const problemNames: readonly string[] = [
  ...["mode", "length", "kernelLength", "period", "dtype", "frequencies"],
];
