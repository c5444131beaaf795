/** Chooses among pass plans, as planner.ts does among the CPU's. */
import type { Cost } from "./cost.ts";
import type { DeviceSpec } from "./device.ts";
import type { Part } from "./geometry.ts";
import { onePart } from "./geometry.ts";
import type { WorkgroupLimits } from "./pass-candidates.ts";
import { passPlans, passSizes } from "./pass-candidates.ts";
import { passPlanCost } from "./pass-cost.ts";
import type { PassPlan } from "./passes.ts";
import { formatPasses, parsePasses, passLayouts } from "./passes.ts";
import type { Problem } from "./problem.ts";

/** A priced pass plan. */
export interface PassCandidate {
  readonly part: Part;
  readonly plan: PassPlan;
  /** The plan on one line. */
  readonly text: string;
  /** One row. */
  readonly cost: Cost;
  /** Seconds of the whole call. */
  readonly seconds: number;
}

function priced(
  problem: Problem,
  part: Part,
  plan: PassPlan,
  device: DeviceSpec,
  rows: number,
): PassCandidate {
  const cost = passPlanCost(plan, problem, device);
  const seconds = rows * cost.seconds + (2 * plan.passes.length - 1) * device.dispatchSeconds;
  return { part, plan, text: formatPasses(plan), cost, seconds };
}

/** All candidates for a problem, cheapest first; of equals the first made. */
export function passCandidates(
  problem: Problem,
  device: DeviceSpec,
  limits: WorkgroupLimits,
  rows: number,
): PassCandidate[] {
  const part = onePart(problem)[0]!;
  const seen = new Map<string, PassCandidate>();
  for (const points of passSizes(part, "halves")) {
    for (const plan of passPlans(points, "halves", limits)) {
      const candidate = priced(problem, part, plan, device, rows);
      if (!seen.has(candidate.text)) seen.set(candidate.text, candidate);
    }
  }
  return [...seen.values()].sort((a, b) => a.seconds - b.seconds);
}

/** The plan that a text names, if it fits the problem and the device. */
export function namedPasses(
  text: string,
  problem: Problem,
  device: DeviceSpec,
  limits: WorkgroupLimits,
  rows: number,
): PassCandidate | undefined {
  const plan = parsePasses(text);
  const part = onePart(problem)[0]!;
  if (plan?.packing !== "halves" || 2 * plan.points < part.positions) return undefined;
  const fits = passLayouts(plan).every((p) => {
    const exchanged = p.radices.length > 1 ? p.tilePoints * p.tiles : 0;
    const bytes = exchanged * (p.exchange === "whole" ? 8 : 4);
    return p.threads * p.tiles <= limits.threads && bytes <= limits.sharedBytes;
  });
  return fits ? priced(problem, part, plan, device, rows) : undefined;
}
