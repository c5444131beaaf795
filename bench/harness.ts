/**
 * How times are taken: every contender is checked against float64, warmed up until V8 has its fast code, and then takes
 * part in rounds of a fixed number of calls that alternate with everybody else's, so that a slow minute of the machine
 * hits all alike.
 */
import { relativeError } from "../src/reference/convolution.ts";
import type { Answers, Contender } from "./workload.ts";

/** How long to measure. */
export interface Effort {
  readonly warmUpMs: number;
  readonly roundMs: number;
  readonly rounds: number;
  /** A contender whose rounds would take longer than this in all gets fewer, three at least. */
  readonly contenderMs: number;
}

/** Short rounds, many of them: one that another process interrupts is then one of many. */
export const fullEffort: Effort = { warmUpMs: 80, roundMs: 6, rounds: 41, contenderMs: 1500 };
export const quickEffort: Effort = { warmUpMs: 50, roundMs: 3, rounds: 9, contenderMs: 150 };

/** Milliseconds of one call over the whole workload. */
export interface Timing {
  readonly minMs: number;
  readonly medianMs: number;
  readonly rounds: number;
  /** Relative L2 error of the worst row that was checked. */
  readonly error: number;
}

/** Wrong answers have no speed. Every peer computes in float32 at least: its error is thousands of times smaller. */
const largestError = 1e-4;

/** Rows that are compared with the oracle: first, last and one between. */
function checkedRows(rows: number): number[] {
  return [...new Set([0, Math.floor(rows / 3), rows - 1])];
}

async function check(contender: Contender, all: Answers, channels: number): Promise<number> {
  const oracle = contender.answers ?? all;
  let worst = 0;
  const compare = (got: Float32Array, exact: Float64Array, what: string): void => {
    const error = relativeError(got, exact);
    if (!(error < (contender.largestError ?? largestError))) {
      throw new Error(`${describe(contender)}: ${what} is wrong, relative error ${error}`);
    }
    worst = Math.max(worst, error);
  };
  for (const index of checkedRows(contender.rows)) {
    // A contender with a share of the rows has the first batches and the first channels of each.
    const row = contender.rowIndex?.(index) ?? index;
    compare(await contender.answer(row), oracle.row(contender.pass, row), `row ${row}`);
  }
  if (contender.kernelGradient) {
    for (const channel of [0, channels - 1]) {
      compare(contender.kernelGradient(channel), oracle.kernelGradient(channel), `dk ${channel}`);
    }
  }
  return worst;
}

/** `ours, 2 threads, gated, arrays` */
export function describe({ name, threads, pass, data }: Contender): string {
  const parts = [name, `${threads} thread${threads > 1 ? "s" : ""}`, data];
  if (pass !== "forward") parts.push(pass);
  return parts.join(", ");
}

async function timeCalls(contender: Contender, calls: number): Promise<number> {
  if (contender.time) return contender.time(calls);
  const start = performance.now();
  for (let call = 0; call < calls; call++) {
    const result = contender.run();
    if (result instanceof Promise) await result;
  }
  return performance.now() - start;
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Warm up until V8 has its fast code: for the time given at least, then for as long as a stretch of calls is still
 * faster than the one before (ten times as long at most). Milliseconds of one call at the end of it.
 */
async function warmUp(contender: Contender, { warmUpMs }: Effort): Promise<number> {
  let total = 0;
  let calls = 1;
  let before = Number.POSITIVE_INFINITY;
  for (;;) {
    const ms = await timeCalls(contender, calls);
    const callMs = ms / calls;
    total += ms;
    const steady = callMs > 0.95 * before;
    if (total >= 10 * warmUpMs || (total >= warmUpMs && steady)) return Math.min(callMs, before);
    before = Math.min(callMs, before);
    calls = Math.max(1, Math.min(2 * calls, Math.ceil(warmUpMs / 3 / callMs)));
  }
}

/** Check, warm up and time the contenders, their rounds taking turns. */
export async function measure(
  contenders: readonly Contender[],
  oracle: Answers,
  workload: { readonly channels: number; readonly rows: number },
  effort: Effort,
): Promise<Map<Contender, Timing>> {
  const entries = [];
  for (const contender of contenders) {
    await contender.run();
    const error = await check(contender, oracle, workload.channels);
    const callMs = await warmUp(contender, effort);
    const calls = Math.max(1, Math.round(effort.roundMs / callMs));
    const affordable = Math.floor(effort.contenderMs / (calls * callMs));
    const rounds = Math.max(3, Math.min(effort.rounds, affordable));
    entries.push({ contender, calls, rounds, error, times: [] as number[] });
  }
  const most = Math.max(...entries.map(({ rounds }) => rounds));
  for (let round = 0; round < most; round++) {
    // Every other round runs backwards, so that nobody always follows the same neighbour.
    for (const entry of round % 2 === 0 ? entries : entries.toReversed()) {
      const { contender, calls, rounds, times } = entry;
      if (Math.floor(((round + 1) * rounds) / most) === Math.floor((round * rounds) / most))
        continue;
      times.push((await timeCalls(contender, calls)) / calls);
      if (contender.settleMs > 0) await pause(contender.settleMs);
    }
  }
  const timings = new Map<Contender, Timing>();
  for (const { contender, error, times } of entries) {
    const after = await check(contender, oracle, workload.channels);
    const scale = workload.rows / contender.rows;
    const sorted = times.map((ms) => ms * scale).sort((a, b) => a - b);
    const middle = sorted.length >> 1;
    const medianMs =
      sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
    timings.set(contender, {
      minMs: sorted[0]!,
      medianMs,
      rounds: sorted.length,
      error: Math.max(error, after),
    });
  }
  return timings;
}
