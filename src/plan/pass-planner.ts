/** Chooses among pass plans, as planner.ts does among the CPU's. */
import type { Cost } from "./cost.ts";
import type { DeviceSpec } from "./device.ts";
import type { Part } from "./geometry.ts";
import { cyclicPart, onePart } from "./geometry.ts";
import type { WorkgroupLimits } from "./pass-candidates.ts";
import { passPlans, passSizes } from "./pass-candidates.ts";
import { cheapestPasses, passPlanCost } from "./pass-cost.ts";
import type { Packing, PassPlan } from "./passes.ts";
import { formatPasses, parsePasses, passLayouts } from "./passes.ts";
import { product } from "./plan.ts";
import type { Problem } from "./problem.ts";

/** A priced pass plan. */
export interface PassCandidate {
  readonly part: Part;
  readonly plan: PassPlan;
  /** The plan on one line. */
  readonly text: string;
  /** One row, or two that are packed together. */
  readonly cost: Cost;
  /** Seconds of the whole call. */
  readonly seconds: number;
}

/** Rows of a call. */
export interface GpuWorkload {
  readonly batch: number;
  readonly channels: number;
}

/** Parts that a problem can be computed as, by how complex points are packed. */
function partsOf(problem: Problem): { readonly packing: Packing; readonly part: Part }[] {
  const halves = { packing: "halves", part: onePart(problem)[0]! } as const;
  if (problem.mode !== "circular") return [halves];
  return [halves, { packing: "rows", part: cyclicPart(problem) }];
}

/** What the spectrum of a channel's taps costs, in transforms there and back: measured on an H200. */
const spectrumShare = 0.6;

function priced(
  problem: Problem,
  part: Part,
  plan: PassPlan,
  device: DeviceSpec,
  { batch, channels }: GpuWorkload,
): PassCandidate {
  const cost = passPlanCost(plan, problem, device);
  const units = channels * Math.ceil(batch / (plan.packing === "rows" ? 2 : 1));
  const seconds =
    (units + spectrumShare * channels) * cost.seconds +
    (2 * plan.passes.length - 1) * device.dispatchSeconds;
  return { part, plan, text: formatPasses(plan), cost, seconds };
}

/** Plans of several passes, by the rows that each pass takes apart. */
function byRows(plans: readonly PassPlan[]): PassPlan[][] {
  const groups = new Map<string, PassPlan[]>();
  for (const plan of plans.filter((p) => p.passes.length > 1)) {
    const key = plan.passes.map((p) => product(p.radices)).join("|");
    groups.set(key, [...(groups.get(key) ?? []), plan]);
  }
  return [...groups.values()];
}

/** All candidates for a problem, cheapest first; of equals the first made. */
export function passCandidates(
  problem: Problem,
  device: DeviceSpec,
  limits: WorkgroupLimits,
  workload: GpuWorkload,
): PassCandidate[] {
  const seen = new Map<string, PassCandidate>();
  for (const { packing, part } of partsOf(problem)) {
    for (const points of passSizes(part, packing)) {
      const plans = passPlans(points, packing, limits);
      for (const alike of byRows(plans)) plans.push(cheapestPasses(alike, problem, device));
      for (const plan of plans) {
        const candidate = priced(problem, part, plan, device, workload);
        if (!seen.has(candidate.text)) seen.set(candidate.text, candidate);
      }
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
  workload: GpuWorkload,
): PassCandidate | undefined {
  const plan = parsePasses(text);
  const part = partsOf(problem).find((p) => p.packing === plan?.packing)?.part;
  if (!plan || !part) return undefined;
  const { exact, positions } = part;
  if (exact ? plan.points !== positions : 2 * plan.points < positions) return undefined;
  const fits = passLayouts(plan).every((p) => {
    const exchanged = p.radices.length > 1 ? p.tilePoints * p.tiles : 0;
    const bytes = exchanged * (p.exchange === "whole" ? 8 : 4);
    return p.threads * p.tiles <= limits.threads && bytes <= limits.sharedBytes;
  });
  return fits ? priced(problem, part, plan, device, workload) : undefined;
}
