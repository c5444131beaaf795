/** Times the planner's best plans for a problem, whatever the backend, and finds the fastest. */

import { FlashFFTConv } from "../conv/conv.ts";
import type { PlanPrediction } from "../conv/explain.ts";
import { sparsifyKernel } from "../conv/sparsify.ts";
import { type Dtype, decode, encode } from "../dtype.ts";
import { BackendError } from "../errors.ts";
import type { GpuDevice } from "../gpu.ts";
import { createProblem } from "../plan/create-problem.ts";
import type { Problem, ProblemOptions } from "../plan/problem.ts";
import { compare, planBound } from "../reference/accuracy.ts";
import { oracleForward } from "../reference/convolution.ts";
import { normalSamples, normalSource } from "../reference/random.ts";
import { CallTiming } from "./call-timing.ts";

/** A problem whose plans are timed: as `FlashFFTConv.create` will be asked for it. */
export interface TuneProblem extends ProblemOptions {
  /** B of the calls to come, as in `create`. */
  readonly batch?: number;
  /** H of the calls to come, as in `create`. */
  readonly channels?: number;
  /** Threads of the CPU, as in `create`. */
  readonly threads?: number;
  /** Whether calls have a pregate and a postgate; false by default. The plan that wins serves calls of either kind. */
  readonly gates?: boolean;
}

/** A plan that was timed. */
export interface TimedPlan {
  /** The plan on one line. */
  readonly plan: string;
  /** Milliseconds of a call, as the cost model has it. */
  readonly predictedMs: number;
  /** Milliseconds of a call; undefined where the plan failed or its answer was wrong. */
  readonly ms: number | undefined;
  /** Why it was not timed. */
  readonly failure?: string;
}

/** What was found for a problem. */
export interface TunedPlan {
  /** The problem. */
  readonly problem: Problem;
  /** B of the calls. */
  readonly batch: number;
  /** H of the calls. */
  readonly channels: number;
  /** The fastest plan, which later calls of `create` take. */
  readonly plan: string;
  /** Milliseconds of a call with it. */
  readonly ms: number;
  /**
   * All that were tried: those that were timed in turn, fastest first, then the others, each timed by itself. The planner's own
   * choice is the one with the least prediction.
   */
  readonly candidates: readonly TimedPlan[];
}

/** Plans that are tried: those that the model takes for the cheapest. */
const mostPlans = 8;
/** Plans that are timed again, in turn. */
const finalists = 3;
const rounds = 5;
/** Milliseconds for a plan's first time, and for each later one. */
const [firstMs, roundMs] = [150, 60];
/** A plan that is not this much faster than the planner's own choice is as fast. */
const leastGain = 0.01;

/** A problem with all that `create` needs to know. */
export interface Task {
  readonly problem: Problem;
  readonly options: ProblemOptions & {
    readonly batch: number;
    readonly channels: number;
    readonly backend: "cpu" | "webgpu";
    readonly threads?: number;
    readonly device?: GpuDevice;
  };
  readonly gates: boolean;
}

/** Rows whose answers are checked: a pair that shares a kernel. */
const checkedRows = 2;

/** What rows u convolved with k must come to; with `frequencies`, with the masked kernel over its period. */
function answerOf(
  problem: Problem,
  frequencies: ProblemOptions["frequencies"],
  u: Float64Array,
  k: Float32Array,
): Float64Array {
  const rows = { batch: checkedRows, channels: 1 };
  if (!frequencies) return oracleForward(problem, { ...rows, u, k: Float64Array.from(k) });
  const { mode, length, kernelLength, outputLength } = problem;
  const period = mode === "circular" ? { period: problem.period } : {};
  const sparse = sparsifyKernel(k, { mode, length, kernelLength, frequencies, ...period });
  const options = { length: outputLength, kernelLength: sparse.period, period: sparse.period };
  const whole = new Float64Array(checkedRows * outputLength);
  for (let row = 0; row < checkedRows; row++)
    whole.set(u.subarray(row * length, (row + 1) * length), row * outputLength);
  return oracleForward(createProblem({ mode: "circular", ...options }, "tune"), {
    ...{ ...rows, u: whole, k: Float64Array.from(sparse.taps) },
  });
}

/** Inputs, and what a plan must answer: made once for all plans. */
function checkOf(problem: Problem, { frequencies }: ProblemOptions) {
  const { length, kernelLength, outputLength, dtype } = problem;
  const source = normalSource(1);
  const u = encode(normalSamples(source, checkedRows * length), dtype);
  const k = Float32Array.from(normalSamples(source, kernelLength));
  const exact = answerOf(problem, frequencies, decode(u, dtype), k);
  return async (conv: FlashFFTConv<Dtype>, plan: string): Promise<string | undefined> => {
    const actual = await conv.forward(u, k);
    const bound = planBound("y", problem, checkedRows, plan);
    const rowLength = outputLength;
    const { error, passed } = compare({ quantity: "y", actual, exact, rowLength, dtype, bound });
    return passed ? undefined : `its answer is off by ${error.toExponential(1)}`;
  };
}

/** Time the best plans of a problem: each by itself, then the fastest few in turn. `onPlan` hears of each. */
export async function timePlans(
  { problem, options, gates }: Task,
  onPlan: (plan: string, fraction: number) => void,
): Promise<TunedPlan & { readonly rows: number; readonly threads: number }> {
  const { batch, channels } = options;
  const open = (plan?: string): Promise<FlashFFTConv<Dtype>> =>
    FlashFFTConv.createFor({ ...options, ...(plan === undefined ? {} : { plan }) }, "tune");
  // The planner's own object lends the arrays of all calls.
  const planned = await open();
  const { workload, candidates } = planned.explain();
  const tried = candidates.slice(0, mostPlans);
  const timing = new CallTiming(problem, { batch, channels, gates });
  const all = tried.length + finalists * rounds;
  let done = 0;
  try {
    // Calls that there is no room for are no plan's fault.
    await timing.open(planned);
    const check = checkOf(problem, options);
    const timed: TimedPlan[] = [];
    for (const candidate of tried) {
      onPlan(candidate.plan, done++ / all);
      timed.push(await timedAlone(candidate, open, check, timing));
    }
    const right = inOrder(timed).filter(({ ms }) => ms !== undefined);
    if (right.length === 0) refuse(timed);
    // The planner's own choice takes part: others must be faster than it is beside them.
    const own = timed[0]!.ms === undefined ? [] : [timed[0]!];
    const last = [...own, ...right.filter((t) => t !== own[0])].slice(0, finalists);
    const convs = await openAll(last, open);
    try {
      const times = last.map((): number[] => []);
      for (let round = 0; round < rounds; round++) {
        for (const [i, conv] of convs.entries()) {
          onPlan(last[i]!.plan, Math.min(done++ / all, 0.99));
          times[i]!.push(await timing.ms(conv, roundMs));
        }
      }
      const again = last.map((t, i) => ({
        ...t,
        ms: times[i]!.sort((a, b) => a - b)[rounds >> 1]!,
      }));
      const fastest = again.reduce((a, b) => (b.ms < a.ms ? b : a));
      const first = again[0]!;
      const kept = own.length > 0 && first.ms * (1 - leastGain) <= fastest.ms ? first : fastest;
      const others = timed.filter((t) => !last.includes(t));
      return {
        ...{ problem, batch, channels, plan: kept.plan, ms: kept.ms, ...workload },
        candidates: [...inOrder(again), ...inOrder(others)],
      };
    } finally {
      for (const conv of convs) conv.dispose();
    }
  } finally {
    timing.free();
    planned.dispose();
  }
}

/** A plan's answer checked and its call timed, while no other plan's object is there. */
async function timedAlone(
  { plan, predictedMs }: PlanPrediction,
  open: (plan: string) => Promise<FlashFFTConv<Dtype>>,
  check: (conv: FlashFFTConv<Dtype>, plan: string) => Promise<string | undefined>,
  timing: CallTiming,
): Promise<TimedPlan> {
  let conv: FlashFFTConv<Dtype> | undefined;
  try {
    conv = await open(plan);
    const failure = await check(conv, plan);
    if (failure) return { plan, predictedMs, ms: undefined, failure };
    return { plan, predictedMs, ms: await timing.ms(conv, firstMs) };
  } catch (error) {
    // A compiler that refuses one plan's kernels may take another's.
    if (!(error instanceof BackendError)) throw error;
    return { plan, predictedMs, ms: undefined, failure: error.message };
  } finally {
    conv?.dispose();
  }
}

/** Objects of all plans, or of none. */
async function openAll(
  plans: readonly TimedPlan[],
  open: (plan: string) => Promise<FlashFFTConv<Dtype>>,
): Promise<FlashFFTConv<Dtype>[]> {
  const convs: FlashFFTConv<Dtype>[] = [];
  try {
    for (const { plan } of plans) convs.push(await open(plan));
    return convs;
  } catch (error) {
    for (const conv of convs) conv.dispose();
    throw error;
  }
}

/** Fastest first; those that were not timed at last. */
function inOrder(plans: readonly TimedPlan[]): TimedPlan[] {
  const order = ({ ms }: TimedPlan): number => ms ?? Number.POSITIVE_INFINITY;
  return [...plans].sort((a, b) => (order(a) === order(b) ? 0 : order(a) - order(b)));
}

/** No plan of a problem works: the backend is at fault. */
function refuse(plans: readonly TimedPlan[]): never {
  throw new BackendError({
    call: "tune",
    requirement: "a backend that computes a plan of the problem",
    value: `for each of ${plans.length} plans: ${plans[0]!.failure!.replace(/\.$/, "")}`,
    remedy: "Run flashfftconv verify for these lengths, and please report what it prints.",
  });
}
