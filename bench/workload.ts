/**
 * What is measured: one problem with its data, and the contenders that solve it. The data are random, of unit scale and
 * the same in every run; a few rows of the exact answer are computed in float64, because every contender is checked
 * before its time counts.
 */

import { createProblem } from "../src/plan/create-problem.ts";
import type { Mode, Problem } from "../src/plan/problem.ts";
import { oracleBackward, oracleForward } from "../src/reference/convolution.ts";

/** Shapes of a workload. */
export interface Shape {
  readonly mode: Mode;
  /** B */
  readonly batch: number;
  /** H */
  readonly channels: number;
  /** L */
  readonly length: number;
  /** K */
  readonly kernelLength: number;
}

/** A problem with its data, float32. */
export interface Workload extends Shape {
  readonly problem: Problem;
  /** B·H */
  readonly rows: number;
  /** (B, H, L) */
  readonly u: Float32Array;
  /** (H, K) */
  readonly k: Float32Array;
  /** (B, H, L), both gates */
  readonly gate: Float32Array;
}

/** One way of solving a workload. */
export interface Contender {
  /** Whose code: `ours`, `pffft-wasm`, … */
  readonly name: string;
  readonly threads: number;
  /** Where the data lie: in the contender's own memory, or in arrays of the caller. */
  readonly data: "resident" | "arrays";
  /** How many of the workload's rows it works through; a slow one takes fewer and its time is scaled. */
  readonly rows: number;
  /** Which row of the workload is its `index`-th, where that is not the `index`-th. */
  rowIndex?(index: number): number;
  /** What it computes. */
  readonly pass: "forward" | "gated" | "backward";
  /** One call. */
  run(): unknown;
  /** Milliseconds that `calls` calls took, by the contender's own clock: for one in another process. */
  time?(calls: number): Promise<number>;
  /** Row `row` of the last answer: of y, or of du. */
  answer(row: number): Float32Array | Promise<Float32Array>;
  /** Row `channel` of dk, where the pass is `backward`. */
  kernelGradient?(channel: number): Float32Array;
  /** What is right for this contender, where it is not what is for all. */
  readonly answers?: Answers;
  /** Largest relative error of a row that counts as right, where it is not float32's. */
  readonly largestError?: number;
  /** Milliseconds after a round until its threads sleep and disturb nobody. */
  readonly settleMs: number;
  /** What the record says of our plan. */
  readonly plan?: string;
  readonly predictedMs?: number;
  /** Work memory of the last call. */
  workspaceBytes?(): number;
  dispose(): unknown;
}

/** Uniform in ±√3, so of unit variance: xorshift32, the same numbers for the same seed. */
export function random(length: number, seed: number): Float32Array {
  const values = new Float32Array(length);
  let state = (seed * 2654435761) >>> 0 || 1;
  for (let n = 0; n < length; n++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    values[n] = (state >>> 0) * (Math.sqrt(12) / 2 ** 32) - Math.sqrt(3);
  }
  return values;
}

/** The data of a shape; gates only where they are asked for. */
export function createWorkload(shape: Shape, gated: boolean): Workload {
  const { mode, batch, channels, length, kernelLength } = shape;
  const rows = batch * channels;
  return {
    ...shape,
    rows,
    problem: createProblem({ mode, length, kernelLength }, "bench"),
    u: random(rows * length, 1),
    k: random(channels * kernelLength, 2),
    gate: gated ? random(rows * length, 3) : new Float32Array(0),
  };
}

/** Row `row` of an array of rows, as float64. */
function row64(data: Float32Array, row: number, length: number): Float64Array {
  return Float64Array.from(data.subarray(row * length, (row + 1) * length));
}

/** Exact answers in float64. */
export interface Answers {
  row(pass: Contender["pass"], row: number): Float64Array;
  kernelGradient(channel: number): Float64Array;
}

/** The exact answer of some rows, computed once and kept. */
export class Oracle implements Answers {
  readonly #workload: Workload;
  readonly #rows = new Map<string, Float64Array>();

  constructor(workload: Workload) {
    this.#workload = workload;
  }

  /** Row `row` of y (of du for `backward`, where dy = gate). */
  row(pass: Contender["pass"], row: number): Float64Array {
    const key = `${pass} ${row}`;
    const known = this.#rows.get(key);
    if (known) return known;
    const { problem, channels, length, kernelLength, u, k, gate } = this.#workload;
    const inputs = {
      batch: 1,
      channels: 1,
      u: row64(u, row, length),
      k: row64(k, row % channels, kernelLength),
    };
    const factor = pass === "forward" ? undefined : row64(gate, row, length);
    const exact =
      pass === "backward"
        ? oracleBackward(problem, { ...inputs, dy: factor! }).du
        : oracleForward(problem, {
            ...inputs,
            ...(factor && { pregate: factor, postgate: factor }),
          });
    this.#rows.set(key, exact);
    return exact;
  }

  /** Row `channel` of dk: the sum over the batch. */
  kernelGradient(channel: number): Float64Array {
    const key = `dk ${channel}`;
    const known = this.#rows.get(key);
    if (known) return known;
    const { problem, batch, channels, length, kernelLength, u, k, gate } = this.#workload;
    const sum = new Float64Array(kernelLength);
    for (let b = 0; b < batch; b++) {
      const row = b * channels + channel;
      const { dk } = oracleBackward(problem, {
        batch: 1,
        channels: 1,
        u: row64(u, row, length),
        k: row64(k, channel, kernelLength),
        dy: row64(gate, row, length),
      });
      for (let j = 0; j < kernelLength; j++) sum[j] = sum[j]! + dk[j]!;
    }
    this.#rows.set(key, sum);
    return sum;
  }
}
