/**
 * What `tune` makes of the times that convolutions took on a GPU. The model's factors are those of the default GPU, and so are
 * its errors: times count by what they are against the ones that the same rows took there. What is found is how much longer each
 * resource takes, by least squares of the logarithms of all times at once, from "all take as much longer as each other" on,
 * which stands wherever times say nothing else.
 */
import type { Dtype } from "../dtype.ts";
import { createProblem } from "../plan/create-problem.ts";
import type { DeviceSpec } from "../plan/device.ts";
import { scaledDirect } from "../plan/device.ts";
import type { WorkgroupLimits } from "../plan/gpu/candidates.ts";
import type { PassPlan } from "../plan/gpu/passes.ts";
import type { GpuWorkload, PassCandidate } from "../plan/gpu/planner.ts";
import { namedPasses, passCandidates } from "../plan/gpu/planner.ts";
import type { Problem } from "../plan/problem.ts";
import type { Fit } from "./fit-cpu.ts";

/** Rows to time: gated causal convolutions forward with the spectrum of k, which is what the model prices. */
export interface TimedGpuRow {
  readonly what: string;
  readonly problem: Problem;
  readonly plan: string;
  readonly workload: GpuWorkload;
  /** What such a call took on the default GPU, over what the model says of it. */
  readonly usual: number;
}

/** A size and a type that is timed, and how its prediction was off on an H200 in calls as short as these. */
interface Sample {
  readonly length: number;
  readonly dtype: Dtype;
  readonly usual: number;
  /**
   * Other plans of it that are timed too, by how many exchanges more they have, and how their prediction was off: they tell
   * workgroup memory from arithmetic.
   */
  readonly others?: Readonly<Record<number, number>>;
}

const samples: readonly Sample[] = [
  { length: 128, dtype: "float16", usual: 0.81, others: { 1: 1.03 } },
  { length: 512, dtype: "float16", usual: 0.91, others: { [-1]: 0.87, 1: 1.05 } },
  { length: 2048, dtype: "float16", usual: 1.14, others: { 1: 1.25, 2: 1.27 } },
  { length: 4096, dtype: "float16", usual: 1.12, others: { 1: 1.26 } },
  { length: 32_768, dtype: "float16", usual: 0.99, others: { 1: 0.95 } },
  { length: 65_536, dtype: "float16", usual: 0.95 },
  { length: 128, dtype: "float32", usual: 0.86 },
  { length: 512, dtype: "float32", usual: 0.89, others: { [-1]: 0.82, 1: 0.98 } },
  { length: 2048, dtype: "float32", usual: 1 },
  { length: 32_768, dtype: "float32", usual: 0.87 },
  { length: 65_536, dtype: "float32", usual: 0.9 },
];

/** Rows of a batch: the spectrum of k, whose share of the time is the model's guess, is made once for so many. */
const mostBatch = 32;

/** Single rows, which leave a GPU idle: of next to no work, and of some. */
const idle = { launch: 64, few: 2048 } as const;
type Idle = keyof typeof idle;

const exchangesOf = ({ passes }: PassPlan): number =>
  passes.reduce((sum, { radices }) => sum + radices.length - 1, 0);

/** The cheapest of as many passes as the cheapest of all, with so many exchanges more; undefined where there is none. */
function planWith(candidates: readonly PassCandidate[], more: number): PassCandidate | undefined {
  const { plan: best } = candidates[0]!;
  return candidates.find(
    ({ plan }) =>
      plan.passes.length === best.passes.length && exchangesOf(plan) === exchangesOf(best) + more,
  );
}

/** Rows that tell of a GPU of such limits, each of about so many samples; the plans are the default GPU's choice. */
export function gpuRows(
  reference: DeviceSpec,
  limits: WorkgroupLimits,
  count: number,
): TimedGpuRow[] {
  const full = samples.flatMap(({ length, dtype, usual, others = {} }) => {
    const problem = createProblem({ length, dtype }, "tune");
    const rows = Math.max(1, Math.floor(count / length));
    const batch = Math.min(mostBatch, rows);
    const workload = { batch, channels: Math.floor(rows / batch) };
    const candidates = passCandidates({ problem, device: reference, limits, workload });
    const plans = [[0, usual] as const, ...Object.entries(others)];
    return plans.flatMap(([more, share]): TimedGpuRow[] => {
      const plan = planWith(candidates, Number(more))?.text;
      const what = `${length} samples, ${dtype}, ${plan}`;
      return plan ? [{ what, problem, plan, workload, usual: share }] : [];
    });
  });
  const waiting = Object.entries(idle).map(([what, length]): TimedGpuRow => {
    const problem = createProblem({ length, dtype: "float16" }, "tune");
    const workload = { batch: 1, channels: 1 };
    const { text } = passCandidates({ problem, device: reference, limits, workload })[0]!;
    return { what, problem, plan: text, workload, usual: 1 };
  });
  return [...full, ...waiting];
}

/** What the model says that a row takes on a device. */
export function gpuRowSeconds(
  { problem, plan, workload, usual }: TimedGpuRow,
  device: DeviceSpec,
  limits: WorkgroupLimits,
): number {
  return usual * namedPasses(plan, { problem, device, limits, workload })!.seconds;
}

/** A device whose arithmetic, and each of whose memories, take exp(z) times as long. */
function slowed(device: DeviceSpec, z: readonly number[]): DeviceSpec {
  const factor = Math.exp(z[0]!);
  const pointSeconds = device.pointSeconds * factor;
  return {
    ...device,
    generalFlops: device.generalFlops / factor,
    pointSeconds,
    directSeconds: scaledDirect(device, pointSeconds),
    memory: device.memory.map((m, i) => ({ ...m, bandwidth: m.bandwidth / Math.exp(z[i + 1]!) })),
  };
}

/**
 * What a rate's distance from the mean of all weighs against times: they are off by a sixteenth, rates by a factor of e, more
 * likely than not.
 */
const stiffness = 0.004;
/** Times that are further off than this count less and less. */
const usualError = 0.15;
/** Those that are off by such a factor are measured again; where most are, they tell of something else than the device. */
const mostError = Math.log(1.8);
/** A rate is at most so many times better or worse than the common factor. */
const rateRange = Math.log(12);
/** How much longer all may take than on the default GPU: from one eight times as fast to a processor that plays one. */
const speedRange = [Math.log(1 / 8), Math.log(1e7)] as const;
/** What a launch may take, in seconds, and how many threads keep a device busy. */
const launchRange = [1e-7, 1e-2] as const;
const threadsRange = [16, 2e6] as const;

/** x of A·x = b, for a symmetric positive A, by elimination. */
function solve(matrix: readonly (readonly number[])[], values: readonly number[]): number[] {
  const rows = matrix.map((row, i) => [...row, values[i]!]);
  rows.forEach((pivot, i) => {
    rows.forEach((row, k) => {
      if (k === i) return;
      const share = row[i]! / pivot[i]!;
      for (let j = i; j < row.length; j++) row[j] = row[j]! - share * pivot[j]!;
    });
  });
  return rows.map((row, i) => row.at(-1)! / row[i]!);
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1]!;
}

/** Rates that were fitted to times. */
interface Rates {
  /** Logarithms of how much longer each resource takes: arithmetic, then the memories. */
  readonly z: readonly number[];
  /** Their mean. */
  readonly common: number;
  /** How the logarithm of each time is off. */
  readonly errors: readonly number[];
  /** What times say of each rate, against the stiffness. */
  readonly precision: readonly number[];
}

/** Logarithms of times over predictions on the default GPU as slow as z says, one for each time. */
type Errors = (z: readonly number[]) => number[];

/** Gauss-Newton steps: more than are needed. */
const steps = 20;
const nudge = 1e-4;
/** A rate is known where times say of it at least this share of what the stiffness does. */
const leastSaid = 0.5;

/** The rates nearest to all times; those of `held` are the mean of the others. */
function nearestRates(errors: Errors, count: number, held: ReadonlySet<number>): Rates {
  // Launches take a share of times that does not follow the factor: on slow devices next to none.
  let common = 0;
  for (let step = 0; step < steps; step++)
    common += median(errors(new Array<number>(count).fill(common)));
  const z = new Array<number>(count).fill(common);
  const free = [...z.keys()].filter((j) => !held.has(j));
  let precision: number[] = [];
  for (let step = 0; step < steps; step++) {
    const now = errors(z);
    const weights = now.map((e) => 1 / (1 + (e / usualError) ** 2));
    // What the prediction's logarithm gains by each rate.
    const gains = free.map((j) => {
      const next = errors(z.map((value, i) => (i === j ? value + nudge : value)));
      return now.map((e, i) => (e - next[i]!) / nudge);
    });
    const sum = (a: readonly number[], b: readonly number[]): number =>
      a.reduce((total, x, i) => total + weights[i]! * x * b[i]!, 0);
    const normal = gains.map((a, i) => gains.map((b, j) => sum(a, b) + (i === j ? stiffness : 0)));
    const pull = gains.map((a, i) => sum(a, now) - stiffness * (z[free[i]!]! - common));
    solve(normal, pull).forEach((change, i) => {
      z[free[i]!]! += Math.max(-1, Math.min(1, change));
    });
    if (free.length > 0) common = free.reduce((total, j) => total + z[j]!, 0) / free.length;
    for (const j of held) z[j] = common;
    precision = free.map((_, i) => {
      const unit = free.map((_, k) => Number(k === i));
      return 1 / solve(normal, unit)[i]! / stiffness - 1;
    });
  }
  const said = new Array<number>(count).fill(0);
  free.forEach((j, i) => {
    said[j] = precision[i]!;
  });
  return { z, common, errors: errors(z), precision: said };
}

/** Rates of which some are held at the mean of the others. */
type Plausible = Rates & { readonly held: ReadonlySet<number> };

/** Rates, with those at the mean of the others that times say next to nothing of, or that are not plausible. */
function plausibleRates(errors: Errors, count: number): Plausible {
  const held = new Set<number>();
  for (;;) {
    const rates = nearestRates(errors, count, held);
    const off = (j: number): number => Math.abs(rates.z[j]! - rates.common);
    const bad = [...rates.z.keys()].filter(
      (j) => !held.has(j) && (rates.precision[j]! < leastSaid || off(j) > rateRange),
    );
    if (bad.length === 0) return { ...rates, held };
    // The others may be right once the worst of them is out.
    held.add(bad.reduce((a, b) => (off(a) > off(b) ? a : b)));
  }
}

/** What calls that leave a device idle say of it. */
interface Idling {
  readonly dispatchSeconds: number;
  readonly busyThreads: number;
  /** Numbers that are the default GPU's. */
  readonly defaults: readonly string[];
}

const within = (value: number, [low, high]: readonly [number, number]): boolean =>
  value >= low && value <= high;

/**
 * What a launch takes, and how many threads keep a device of such rates busy. A call of next to no work waits for both, and
 * nothing tells them apart: of its time launches have the share that they have on the default GPU.
 */
function idling(
  rows: readonly TimedGpuRow[],
  seconds: (what: string) => number,
  device: DeviceSpec,
  reference: DeviceSpec,
  limits: WorkgroupLimits,
): Idling {
  const row = (what: Idle): TimedGpuRow => rows.find((r) => r.what === what)!;
  const defaults: string[] = [];
  const settle = (name: string, value: number, plausible: boolean, usual: number): number => {
    if (!plausible) defaults.push(name);
    return plausible ? value : usual;
  };
  const share = reference.dispatchSeconds / gpuRowSeconds(row("launch"), reference, limits);
  const own = share * seconds("launch");
  const plausible = within(own, launchRange);
  const dispatchSeconds = settle("launches", own, plausible, reference.dispatchSeconds);
  // More threads than the call has.
  const [from, to] = [1e7, 2e7];
  const taken = (busyThreads: number): number =>
    gpuRowSeconds(row("few"), { ...device, busyThreads, dispatchSeconds: 0 }, limits);
  const each = (taken(to) - taken(from)) / (to - from);
  const threads = Math.round((seconds("few") - dispatchSeconds) / each);
  const known = within(threads, threadsRange);
  return {
    dispatchSeconds,
    busyThreads: settle("threads", threads, known, reference.busyThreads!),
    defaults,
  };
}

/** Launches are a share of all times, and what a launch takes is told by rates: each is found by the other so often. */
const turns = 4;

/**
 * The description of a GPU on which rows take `seconds`.
 * @param reference the default GPU, whose numbers stand, as much slower as all else, where times give none.
 */
export function fitGpu(
  rows: readonly TimedGpuRow[],
  seconds: (what: string) => number,
  reference: DeviceSpec,
  limits: WorkgroupLimits,
): Fit {
  const count = 1 + reference.memory.length;
  const names = ["arithmetic", ...reference.memory.map(({ name }) => name)];
  const all = rows.filter(({ what }) => !(what in idle));
  // A call of nothing is a launch and a little more.
  let idles: Idling = { dispatchSeconds: seconds("launch"), busyThreads: 1, defaults: [] };
  let rates: Plausible | undefined;
  for (let turn = 0; turn < turns; turn++) {
    const { dispatchSeconds, busyThreads } = idles;
    const base = { ...reference, dispatchSeconds, busyThreads };
    rates = plausibleRates((z) => {
      const device = slowed(base, z);
      return all.map((row) => Math.log(seconds(row.what) / gpuRowSeconds(row, device, limits)));
    }, count);
    idles = idling(rows, seconds, slowed(reference, rates.z), reference, limits);
  }
  const { z, common, held, errors } = rates!;
  const { dispatchSeconds, busyThreads } = idles;
  const wrong = all.filter((_, i) => Math.abs(errors[i]!) > mostError).map(({ what }) => what);
  return {
    device: { ...slowed(reference, z), busyThreads, dispatchSeconds },
    defaults: [...names.filter((_, j) => held.has(j)), ...idles.defaults],
    doubtful: [...wrong, ...(idles.defaults.length > 0 ? Object.keys(idle) : [])],
    useless: 2 * wrong.length > all.length || !within(common, speedRange),
  };
}
