/**
 * Frequency-sparse convolutions against the dense operation: the same transform length N, the same rows, the answers of
 * each checked against float64, rounds taking turns. Causal rows have N/2 samples, circular ones N.
 */
import { sparsifyKernel } from "../src/index.ts";
import { createProblem } from "../src/plan/create-problem.ts";
import { type Frequencies, keptBins } from "../src/plan/frequencies.ts";
import { type Effort, measure } from "./harness.ts";
import { type OursOptions, openOurs } from "./ours.ts";
import { type BenchRecord, createRecord, type Machine, type Measured } from "./records.ts";
import {
  type Answers,
  type Contender,
  createWorkload,
  Oracle,
  type Shape,
  type Workload,
} from "./workload.ts";

/** Patterns on one shape. */
export interface SparseGroup {
  readonly name: string;
  readonly shape: Shape;
  readonly period: number;
  readonly patterns: readonly Frequencies[];
  readonly ours: readonly OursOptions[];
}

const K = 1024;

/** What is kept of N = 64K and 1M: combs with and without a low pass, as in the paper, and low passes alone. */
const patternsOf: Readonly<Record<number, readonly Frequencies[]>> = {
  [64 * K]: [
    { digits: [16, 16, 16, 16], dropped: [7, 9, 0, 0] },
    { digits: [16, 16, 16, 16], dropped: [8, 8, 0, 0] },
    { digits: [16, 16, 16, 16], dropped: [7, 8, 8, 6] },
    { digits: [16, 16, 16, 16], dropped: [8, 8, 8, 4] },
    { band: [0, 0.125], period: 64 * K },
    { band: [0, 0.045], period: 64 * K },
  ],
  [K * K]: [
    { digits: [32, 32, 32, 32], dropped: [15, 17, 0, 0] },
    { digits: [32, 32, 32, 32], dropped: [16, 16, 0, 0] },
    { digits: [32, 32, 32, 32], dropped: [15, 16, 16, 10] },
    { digits: [32, 32, 32, 32], dropped: [16, 16, 16, 8] },
    { band: [0, 0.125], period: K * K },
    { band: [0, 0.045], period: K * K },
  ],
};

/** Both modes at both sizes, forward; causal backward too. */
export function sparseGroups(threads: readonly number[], quick: boolean): SparseGroup[] {
  const group = (mode: "causal" | "circular", period: number, channels: number): SparseGroup => {
    const length = mode === "causal" ? period / 2 : period;
    const passes = mode === "causal" && !quick ? (["forward", "backward"] as const) : [undefined];
    return {
      name: `sparse ${mode} N=${period} B=1 H=${channels}`,
      shape: { mode, batch: 1, channels, length, kernelLength: length },
      period,
      patterns: patternsOf[period]!,
      ours: threads.flatMap((n) => passes.map((pass) => ({ threads: n, ...(pass && { pass }) }))),
    };
  };
  return [
    group("causal", 64 * K, 16),
    group("causal", K * K, 4),
    group("circular", 64 * K, 16),
    group("circular", K * K, 4),
  ];
}

/** Exact answers of a pattern: those of the dense circular convolution by the masked taps. */
class SparseAnswers implements Answers {
  readonly #workload: Workload;
  readonly #frequencies: Frequencies;
  readonly #masked: Oracle;
  readonly #options;

  constructor(workload: Workload, frequencies: Frequencies) {
    const { mode, length, kernelLength } = workload;
    this.#options = {
      ...{ mode, length, kernelLength, frequencies },
      ...(mode === "circular" && { period: length }),
    };
    const { taps, period } = sparsifyKernel(workload.k, this.#options);
    const circular = { mode: "circular", length, kernelLength: period } as const;
    this.#workload = workload;
    this.#frequencies = frequencies;
    this.#masked = new Oracle({
      ...{ ...workload, ...circular, k: taps },
      problem: createProblem({ ...circular, period }, "bench"),
    });
  }

  row(pass: Contender["pass"], row: number): Float64Array {
    return this.#masked.row(pass, row);
  }

  /** The mask is its own transpose: dk is masked like k. Causal and circular taps lie at their own lags. */
  kernelGradient(channel: number): Float64Array {
    const { kernelLength } = this.#workload;
    const whole = this.#masked.kernelGradient(channel);
    const period = whole.length;
    const { taps } = sparsifyKernel(Float32Array.from(whole), {
      ...{ mode: "circular", length: period, period, frequencies: this.#frequencies },
    });
    return Float64Array.from(taps.subarray(0, kernelLength));
  }
}

/** Share of the bins 0 … N/2 that a pattern masks. */
function zeroed(frequencies: Frequencies, period: number): number {
  const bins = keptBins({ ...frequencies, period });
  return 1 - bins.reduce((a, b) => a + b, 0) / bins.length;
}

/** Measure a group: every pattern beside the dense operation, which keeps everything. */
export async function runSparse(
  { shape, period, patterns, ours }: SparseGroup,
  effort: Effort,
  machine: Machine,
): Promise<BenchRecord[]> {
  const workload = createWorkload(
    shape,
    ours.some(({ pass }) => pass === "backward"),
  );
  const opened: Contender[] = [];
  const open = async (options: OursOptions, answers?: Answers): Promise<Contender> => {
    const contender = await openOurs(workload, options);
    const checked = answers ? { ...contender, answers } : contender;
    opened.push(checked);
    return checked;
  };
  try {
    const answers = patterns.map((frequencies) => new SparseAnswers(workload, frequencies));
    const trials = [];
    for (const options of ours) {
      const dense = await open(options);
      for (const [i, frequencies] of patterns.entries()) {
        const contender = await open({ ...options, frequencies }, answers[i]!);
        trials.push({ contender, frequencies, dense });
      }
    }
    const timings = await measure(opened, new Oracle(workload), workload, effort);
    const find = (contender: Contender): Measured => ({
      contender,
      timing: timings.get(contender)!,
    });
    return trials.map(({ contender, frequencies, dense }) => {
      const compared = { name: "ours, dense", timing: find(dense).timing };
      const name = contender.pass === "forward" ? "sparse" : `sparse ${contender.pass}`;
      return {
        ...createRecord(name, workload, find(contender), compared, machine),
        frequencies: { ...frequencies, period },
        zeroed: Number(zeroed(frequencies, period).toPrecision(4)),
      };
    });
  } finally {
    for (const contender of opened) await contender.dispose();
  }
}
