/** Choosing a plan and saying why. */
import type { Instructions } from "../backend/cpu/features.ts";
import type { KeptPlan } from "../calls/measured.ts";
import { deviceFor, keptPlan } from "../calls/measured.ts";
import { InvalidArgumentError } from "../errors.ts";
import type { Candidate, Planner, Workload } from "../plan/cpu/planner.ts";
import { workOf } from "../plan/cpu/planner.ts";
import type { DeviceSpec } from "../plan/device.ts";
import type { KeptFrequencies } from "../plan/frequencies.ts";
import { keptRuns } from "../plan/frequencies.ts";
import { countOf } from "../plan/intervals.ts";
import type { Problem } from "../plan/problem.ts";
import { printable, show } from "../show.ts";

/** A plan with its prediction. */
export interface PlanPrediction {
  /** The plan on one line; `FlashFFTConv.create({ plan })` takes it. */
  readonly plan: string;
  /** Milliseconds of a call with the hinted rows and threads. */
  readonly predictedMs: number;
  /** Real positions that the convolution needs. */
  readonly positions: number;
  /**
   * Complex points of its transforms: half the positions, or, where neighbours of real rows are packed, a little more; 0 in
   * the time domain.
   */
  readonly points: number;
  /** Blocks that a row is cut into, each with transforms of that many points; 1 where a row is transformed whole. */
  readonly blocks: number;
  /** Milliseconds of one row on one thread: arithmetic, memory traffic, overhead. */
  readonly row: {
    /** All of it. */
    readonly ms: number;
    /** Butterflies and products, data at hand. */
    readonly arithmeticMs: number;
    /** Traffic through the memory levels. */
    readonly memoryMs: number;
    /** Calls and loop entries. */
    readonly overheadMs: number;
  };
}

/** A count and how much of it is left out. */
export interface Saved {
  /** With all frequencies. */
  readonly all: number;
  /** Of those, what is not there or not done. */
  readonly leftOut: number;
}

/** What frequencies that are not kept save: of one row, forward, against the same transforms with all of them. */
export interface LeftOut {
  /** Bins 0 … N/2 of the real transform, and how many of them are masked. */
  readonly bins: Saved;
  /** Floating-point operations of the transforms. */
  readonly flops: Saved;
  /** Bytes that the transforms read and write. */
  readonly bytes: Saved;
}

/** What `explain()` returns; printed, it is a table. */
export interface Explanation {
  /** What is computed. */
  readonly problem: Problem;
  /** The rows and threads that the plan was chosen for. */
  readonly workload: Workload;
  /** The machine's description that prices come from. */
  readonly device: DeviceSpec;
  /** The instruction set in use. */
  readonly instructions: Instructions | "wgsl";
  /** The backend in use. */
  readonly backend: "cpu" | "webgpu";
  /** Why that one. */
  readonly reason: string;
  /** The plan in use. */
  readonly chosen: PlanPrediction;
  /**
   * The plan of gradients on WebGPU, where it is another one. A plan that `create` is given serves all calls;
   * `"plan; gradients plan"` names both.
   */
  readonly gradientPlan?: string;
  /** How the chosen plan was found to be the fastest of those that `tune` timed for this problem, where it was. */
  readonly measured?: {
    /** Milliseconds of a call with it, then. */
    readonly ms: number;
    /** When that was. */
    readonly source: string;
  };
  /** All plans considered, cheapest first. */
  readonly candidates: readonly PlanPrediction[];
  /** What the frequencies that are not kept save, where the problem has a pattern. */
  readonly leftOut?: LeftOut;
  /** Sentences on what is not as asked for, or not the best that such machines have: threads that do not start, no WebAssembly. */
  readonly notes?: readonly string[];
  /** A table of the chosen plan and the next best. */
  toString(): string;
}

/** What an explanation says of a plan. */
export function prediction({
  text,
  cost,
  seconds,
  geometry,
  plan,
  blocks,
}: Candidate): PlanPrediction {
  return {
    plan: text,
    predictedMs: seconds * 1e3,
    positions: geometry.reduce((sum, part) => sum + part.positions, 0),
    points: plan.reduce((sum, p) => sum + p.points, 0),
    blocks,
    row: {
      ms: cost.seconds * 1e3,
      arithmeticMs: cost.arithmetic * 1e3,
      memoryMs: cost.memory * 1e3,
      overheadMs: cost.overhead * 1e3,
    },
  };
}

/** Operations of a row's transforms, and bytes that they read and write. */
export interface RowTotals {
  readonly flops: number;
  readonly bytes: number;
}

/** What is left out of a row, of its bins and by the transforms. */
export function leftOutOf(frequencies: KeptFrequencies, all: RowTotals, left: RowTotals): LeftOut {
  const compared = (whole: number, done: number): Saved => ({
    ...{ all: whole, leftOut: whole - done },
  });
  return {
    bins: compared(frequencies.period / 2 + 1, countOf(keptRuns(frequencies))),
    flops: compared(all.flops, left.flops),
    bytes: compared(all.bytes, left.bytes),
  };
}

/** A chosen plan, the numbers it was priced with, and the reasons. */
export interface Choice {
  readonly explanation: Explanation;
  readonly device: DeviceSpec;
  readonly candidate: Candidate;
}

/** What an explanation says of a plan that was measured. */
export function measuredOf(kept: KeptPlan | undefined): Pick<Explanation, "measured"> {
  return kept ? { measured: { ms: kept.ms, source: kept.source } } : {};
}

/** The planner's choice for a problem, the plan that was measured to be the fastest, or the one that the user names. */
export function choosePlan(
  problem: Problem,
  planner: Planner,
  instructions: Instructions,
  workload: Workload,
  options: { readonly plan?: string | undefined; readonly reason: string },
  call: string,
): Choice {
  const { plan, reason } = options;
  const device = deviceFor(instructions);
  const what = { problem, device, workload };
  const all = planner.candidates(what);
  const { rows, threads } = workload;
  const kept = plan === undefined ? keptPlan(instructions, problem, { rows, threads }) : undefined;
  // One that does not fit is another version's.
  const measured = kept && planner.named(kept.plan, what);
  const candidate =
    measured ??
    (plan === undefined
      ? all[0]!
      : (typeof plan === "string" && planner.named(plan, what)) || refusePlan(plan, call));
  const predictions = all.map(prediction);
  const explanation: Explanation = {
    ...{ problem, workload, device, instructions, backend: "cpu", reason },
    chosen: prediction(candidate),
    ...measuredOf(measured && kept),
    candidates: predictions,
    ...(problem.frequencies && {
      leftOut: leftOutOf(problem.frequencies, planner.wholeWork!(what), workOf(candidate, device)),
    }),
    toString: () => render(explanation),
  };
  return { explanation, device, candidate };
}

/** An explanation with sentences on what is not as asked for. */
export function withNotes(explanation: Explanation, notes: readonly string[]): Explanation {
  if (notes.length === 0) return explanation;
  const noted: Explanation = { ...explanation, notes, toString: () => render(noted) };
  return noted;
}

function refusePlan(text: string, call: string): never {
  throw new InvalidArgumentError({
    call,
    requirement: "plan must be one that explain() prints for these lengths, or like it",
    value: show(text),
    remedy: "Take one from explain().candidates, or leave plan out.",
  });
}

/** Candidates shown in the printed table. */
const shown = 8;

/** Milliseconds as they are read: a GPU's share of a short row is nanoseconds. */
function ms(x: number): string {
  if (x > 0 && x < 1e-4) return `${(x * 1e6).toPrecision(3)} ns`;
  return x < 0.1 ? `${(x * 1e3).toFixed(2)} µs` : `${x.toPrecision(3)} ms`;
}

function leftOutLine({ bins, flops, bytes }: LeftOut): string {
  const share = ({ all, leftOut }: Saved): string => `${((100 * leftOut) / all).toFixed(1)} %`;
  const millions = (n: number): string => (n / 1e6).toPrecision(3);
  return [
    `left out of a row: ${share(bins)} of ${show(bins.all)} frequencies`,
    `${millions(flops.leftOut)} of ${millions(flops.all)} million operations (${share(flops)})`,
    `${millions(bytes.leftOut)} of ${millions(bytes.all)} MB through its stages (${share(bytes)})`,
  ].join(", ");
}

/** An explanation as a table. */
export function render(e: Explanation): string {
  const { mode, length, kernelLength, dtype } = e.problem;
  const size = `L ${show(length)}, K ${show(kernelLength)}`;
  const best = e.chosen;
  const blocks = best.blocks > 1 ? `, ${show(best.blocks)} blocks a row` : "";
  const where = best.points > 0 ? `${show(best.points)} complex points` : "the time domain";
  const rows = [best, ...e.candidates.filter((c) => c.plan !== best.plan).slice(0, shown)];
  const width = Math.max(44, ...rows.map((c) => c.plan.length));
  const saved = e.leftOut && [leftOutLine(e.leftOut)];
  const lines = [
    `${mode} convolution, ${size}, ${dtype}: ${show(best.positions)} real positions in ${where}${blocks}`,
    `${e.instructions}, ${e.workload.threads} thread(s), ${show(e.workload.rows)} row(s); prices from ${printable(e.device.name)}`,
    `backend ${e.backend}: ${e.reason}`,
    ...(e.notes ?? []).map((note) => `note: ${note}`),
    ...(e.measured
      ? [
          `plan measured on this machine: ${ms(e.measured.ms)} a call (${printable(e.measured.source)})`,
        ]
      : []),
    ...(saved ?? []),
    ...(e.gradientPlan ? [`gradients: ${e.gradientPlan}`] : []),
    "",
    `  ${"plan".padEnd(width)} ${"call".padStart(10)} ${"row".padStart(10)} ${"arithmetic".padStart(11)} ${"memory".padStart(10)} ${"overhead".padStart(10)}`,
  ];
  for (const c of rows) {
    const { row } = c;
    const mark = c === best ? "▶" : " ";
    const cells = [c.predictedMs, row.ms].map((x) => ms(x).padStart(10));
    const parts = [
      ms(row.arithmeticMs).padStart(11),
      ms(row.memoryMs).padStart(10),
      ms(row.overheadMs).padStart(10),
    ];
    lines.push(`${mark} ${c.plan.padEnd(width)} ${[...cells, ...parts].join(" ")}`);
  }
  const hidden = e.candidates.length - rows.length;
  if (hidden > 0)
    lines.push(`  … and ${hidden} more, up to ${ms(e.candidates.at(-1)!.predictedMs)}`);
  return lines.join("\n");
}

/** A value that can't be written to, nor anything in it. What is frozen already is so all the way down. */
export function frozen<T>(value: T): T {
  if (typeof value !== "object" || value === null || Object.isFrozen(value)) return value;
  for (const part of Object.values(value)) frozen(part);
  return Object.freeze(value);
}
