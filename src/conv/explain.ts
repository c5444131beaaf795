/** Choosing a plan and saying why. */
import type { Instructions } from "../backend/features.ts";
import { InvalidArgumentError, show } from "../errors.ts";
import type { Cost } from "../plan/cost.ts";
import { planCost } from "../plan/cost.ts";
import type { DeviceSpec } from "../plan/device.ts";
import { geometry } from "../plan/geometry.ts";
import { formatTransform, parseTransform } from "../plan/plan.ts";
import type { Candidate, Workload } from "../plan/planner.ts";
import { callSeconds, candidates } from "../plan/planner.ts";
import type { Problem } from "../plan/problem.ts";
import { deviceFor } from "./wisdom.ts";

/** A plan with its prediction. */
export interface PlanPrediction {
  /** The plan on one line; `FlashFFTConv.create({ plan })` takes it. */
  readonly plan: string;
  /** Milliseconds of a call with the hinted rows and threads. */
  readonly predictedMs: number;
  /** Milliseconds of one row on one thread: arithmetic, memory traffic, overhead. */
  readonly row: {
    readonly ms: number;
    readonly arithmeticMs: number;
    readonly memoryMs: number;
    readonly overheadMs: number;
  };
}

/** What `explain()` returns; printed, it is a table. */
export interface Explanation {
  readonly problem: Problem;
  readonly workload: Workload;
  /** The machine's description that prices come from. */
  readonly device: DeviceSpec;
  readonly instructions: Instructions;
  /** Real positions that the convolution needs: twice the least number of complex points. */
  readonly positions: number;
  readonly chosen: PlanPrediction;
  /** All plans considered, cheapest first. */
  readonly candidates: readonly PlanPrediction[];
  toString(): string;
}

function prediction(plan: string, cost: Cost, seconds: number): PlanPrediction {
  return {
    plan,
    predictedMs: seconds * 1e3,
    row: {
      ms: cost.seconds * 1e3,
      arithmeticMs: cost.arithmetic * 1e3,
      memoryMs: cost.memory * 1e3,
      overheadMs: cost.overhead * 1e3,
    },
  };
}

/** The planner's choice for a problem, or the plan that the user names. */
export function choosePlan(
  problem: Problem,
  instructions: Instructions,
  workload: Workload,
  named: string | undefined,
  call: string,
): {
  readonly explanation: Explanation;
  readonly device: DeviceSpec;
  readonly candidate: Candidate;
} {
  const device = deviceFor(instructions);
  const shape = geometry(problem);
  const all = candidates(shape, device, workload);
  const candidate =
    named === undefined ? all[0]! : namedPlan(named, shape.positions, device, workload, call);
  const listed = all.map((c) => prediction(c.text, c.cost, c.seconds));
  const chosen = prediction(candidate.text, candidate.cost, candidate.seconds);
  const explanation: Explanation = {
    ...{
      problem,
      workload,
      device,
      instructions,
      positions: shape.positions,
      chosen,
      candidates: listed,
    },
    toString: () => render(explanation),
  };
  return { explanation, device, candidate };
}

function namedPlan(
  text: string,
  positions: number,
  device: DeviceSpec,
  workload: Workload,
  call: string,
): Candidate {
  const plan = parseTransform(text);
  if (!plan || 2 * plan.points < positions || plan.points % 16 !== 0) {
    throw new InvalidArgumentError({
      call,
      requirement: `plan must be a plan as explain() prints it, of a multiple of 16 and at least ${show(Math.ceil(positions / 2))} points`,
      value: show(text),
      remedy: "Take one from explain().candidates, or leave plan out.",
    });
  }
  const cost = planCost(plan, device);
  return {
    plan,
    text: formatTransform(plan),
    cost,
    seconds: callSeconds(plan, cost, device, workload),
  };
}

/** Candidates shown in the printed table. */
const shown = 8;

const ms = (x: number): string =>
  x < 0.1 ? `${(x * 1e3).toFixed(2)} µs` : `${x.toPrecision(3)} ms`;

function render(e: Explanation): string {
  const { mode, length, kernelLength, dtype } = e.problem;
  const size = `L ${show(length)}, K ${show(kernelLength)}`;
  const points = Number(/^\d+/.exec(e.chosen.plan)![0]);
  const spare = 2 * points - e.positions;
  const best = e.chosen;
  const lines = [
    `${mode} convolution, ${size}, ${dtype}: negacyclic over ${show(2 * points)} real positions (${show(e.positions)} needed, ${show(spare)} spare)`,
    `as ${show(points)} complex points: real input at full density, zeros neither read nor multiplied`,
    `${e.instructions}, ${e.workload.threads} thread(s), ${show(e.workload.rows)} row(s); prices from ${e.device.name}`,
    "",
    `  ${"plan".padEnd(44)} ${"call".padStart(10)} ${"row".padStart(10)} ${"arithmetic".padStart(11)} ${"memory".padStart(10)} ${"overhead".padStart(10)}`,
  ];
  const rows = [best, ...e.candidates.filter((c) => c.plan !== best.plan).slice(0, shown)];
  for (const c of rows) {
    const { row } = c;
    const mark = c === best ? "▶" : " ";
    const cells = [c.predictedMs, row.ms].map((x) => ms(x).padStart(10));
    const parts = [
      ms(row.arithmeticMs).padStart(11),
      ms(row.memoryMs).padStart(10),
      ms(row.overheadMs).padStart(10),
    ];
    lines.push(`${mark} ${c.plan.padEnd(44)} ${[...cells, ...parts].join(" ")}`);
  }
  const hidden = e.candidates.length - rows.length;
  if (hidden > 0)
    lines.push(`  … and ${hidden} more, up to ${ms(e.candidates.at(-1)!.predictedMs)}`);
  return lines.join("\n");
}
