/** Chooses among pass plans, as plan/cpu/planner.ts does among the CPU's. */
import type { Dtype } from "../../dtype.ts";
import type { Cost } from "../cpu/cost.ts";
import { product } from "../cpu/plan.ts";
import type { DeviceSpec } from "../device.ts";
import type { Part } from "../geometry.ts";
import { blockMargins, blockPart, cyclicPart, onePart } from "../geometry.ts";
import type { Problem } from "../problem.ts";
import type { WorkgroupLimits } from "./candidates.ts";
import { leastPassPoints, passPlans, passSizes } from "./candidates.ts";
import { cheapestPasses, passPlanCost } from "./cost.ts";
import type { Packing, PassPlan } from "./passes.ts";
import {
  exchangeBytes,
  formatPasses,
  isPower,
  parsePasses,
  passLayouts,
  pointFormat,
  workPoints,
} from "./passes.ts";

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

/** What plans are made for: a problem, on a device, in calls of so many rows. */
export interface GpuPlanning {
  readonly problem: Problem;
  readonly device: DeviceSpec;
  readonly limits: WorkgroupLimits;
  readonly workload: GpuWorkload;
}

/** A part that a problem can be computed as: whole rows by their packing, or blocks of rows. */
interface Way {
  readonly packing: Packing;
  readonly part: Part;
  readonly hop?: number;
}

function partsOf(problem: Problem): Way[] {
  // A pattern's bins are those of x^N − 1.
  const cyclic = (["rows", "neighbours"] as const).map((packing) => ({
    ...{ packing, part: cyclicPart(problem) },
  }));
  if (problem.frequencies) return cyclic;
  const part = onePart(problem)[0]!;
  if (problem.mode === "circular") return [{ packing: "halves", part }, ...cyclic];
  const ways: Way[] = [{ packing: "halves", part }];
  for (let positions = 2 * leastPassPoints; positions < part.positions; positions *= 2) {
    const most = mostOutputs(problem, positions);
    // Fewer would never pay.
    if (4 * most >= positions) ways.push(blockWay(problem, positions, most));
  }
  return ways;
}

/** Most outputs of a block in so many positions. */
function mostOutputs(problem: Problem, positions: number): number {
  const { behind, ahead } = blockMargins(blockPart(problem, positions, 1));
  return positions - behind - ahead;
}

function blockWay(problem: Problem, positions: number, hop: number): Way {
  return { packing: "halves", part: blockPart(problem, positions, hop), hop };
}

/** Blocks that somebody names: of an even number of outputs, for which there is room. */
function namedBlocks(problem: Problem, positions: number, hop: number): Way | undefined {
  if (problem.mode === "circular" || problem.frequencies || hop % 2 !== 0) return undefined;
  return hop <= mostOutputs(problem, positions) ? blockWay(problem, positions, hop) : undefined;
}

/** Blocks of a row. */
export function blocksOf({ outputLength }: Problem, { hop }: PassPlan): number {
  return hop ? Math.ceil(outputLength / hop) : 1;
}

/** Threads of the pass that has the fewest, of so many transforms. */
function threadsOf(plan: PassPlan, units: number): number {
  const each = passLayouts(plan).map(
    (p) => (units * p.blocks * p.tilesPerBlock * p.threads) / (p.turns ?? 1),
  );
  return Math.min(...each);
}

/** What the spectrum of a channel's taps costs, in transforms there and back: measured on an H200. */
const spectrumShare = 0.6;

function priced(
  { problem, device, workload }: GpuPlanning,
  part: Part,
  plan: PassPlan,
  gradientThreads?: number,
): PassCandidate {
  const { batch, channels } = workload;
  const blocks = blocksOf(problem, plan);
  const { dtype } = problem;
  // All positions of a block hold samples.
  const row = plan.hop ? { length: 2 * plan.points, outputLength: plan.hop, dtype } : problem;
  const cost = passPlanCost(plan, { ...row, gradientThreads }, device);
  const units = channels * blocks * Math.ceil(batch / (plan.packing === "rows" ? 2 : 1));
  const waiting = Math.max(1, (device.busyThreads ?? 0) / threadsOf(plan, units));
  const seconds =
    (units * waiting + spectrumShare * channels) * cost.seconds +
    (2 * plan.passes.length - 1) * device.dispatchSeconds;
  return { part, plan, text: formatPasses(plan), cost, seconds };
}

/** Plans of several passes, by the rows that each pass takes apart, and by how points wait between passes. */
function byRows(plans: readonly PassPlan[], dtype: Dtype): PassPlan[][] {
  const groups = new Map<string, PassPlan[]>();
  for (const plan of plans.filter((p) => p.passes.length > 1)) {
    const rows = plan.passes.map((p) => product(p.radices)).join("|");
    const key = `${rows} ${pointFormat(plan, dtype)}`;
    groups.set(key, [...(groups.get(key) ?? []), plan]);
  }
  return [...groups.values()];
}

/** Fewest points of a last pass's blocks after others: short ones leave more out where frequencies are masked. */
const finestDense = 512;
const finestSparse = 256;

/** All candidates for a problem, cheapest first; of equals the first made. */
export function passCandidates(planning: GpuPlanning): PassCandidate[] {
  const { problem, device, limits } = planning;
  const seen = new Map<string, PassCandidate>();
  for (const { packing, part, hop } of partsOf(problem)) {
    for (const points of hop ? [part.positions / 2] : passSizes(part, packing)) {
      const finest = problem.frequencies ? finestSparse : finestDense;
      const pairs = problem.dtype !== "float32";
      const plans = passPlans(points, packing, limits, { finest, pairs }).map((plan) =>
        hop ? { ...plan, hop } : plan,
      );
      for (const alike of byRows(plans, problem.dtype))
        plans.push(cheapestPasses(alike, problem, device));
      for (const plan of plans) {
        const candidate = priced(planning, part, plan);
        if (!seen.has(candidate.text)) seen.set(candidate.text, candidate);
      }
    }
  }
  return [...seen.values()].sort((a, b) => a.seconds - b.seconds);
}

/** Whether two plans have transforms of the same points: of neighbours, those that first passes of as many rows keep. */
function compatible(a: PassPlan, b: PassPlan): boolean {
  const alike = a.points === b.points && a.packing === b.packing && a.hop === b.hop;
  return alike && workPoints(a) === workPoints(b);
}

/**
 * How little of the chosen plan's price another plan must have, for gradients to have kernels of their own: prices of one pass
 * are the rougher ones.
 */
const gradientShare = { single: 0.9, several: 0.99 };

/**
 * The plan for gradients of a chosen plan, out of the candidates: gradient kernels hold three times the values of others, so
 * that fewer to a thread may win. It has the same points in the same packing, whose spectra both plans share.
 */
export function gradientPlan(
  { plan: chosen, part }: PassCandidate,
  candidates: readonly PassCandidate[],
  planning: GpuPlanning,
): PassPlan {
  const { problem, device, limits } = planning;
  const plans = candidates.map((c) => c.plan).filter((plan) => compatible(plan, chosen));
  const work = { ...problem, gradientThreads: limits.threads };
  for (const alike of byRows(plans, problem.dtype)) plans.push(cheapestPasses(alike, work, device));
  const price = (plan: PassPlan): number => priced(planning, part, plan, limits.threads).seconds;
  let best = chosen;
  let least = gradientShare[chosen.passes.length === 1 ? "single" : "several"] * price(chosen);
  for (const plan of plans) {
    const seconds = price(plan);
    if (seconds < least) [best, least] = [plan, seconds];
  }
  return best;
}

/** Between the plan of a text and the one that it names for gradients. */
const gradientsAfter = "; gradients ";

/** Whether plans find the points of spectra at the same places: an odd factor belongs to the first radix of all. */
function shareSpectra(a: PassPlan, b: PassPlan): boolean {
  const inOrder = ({ passes }: PassPlan): boolean =>
    passes
      .flatMap((p) => p.radices)
      .slice(1)
      .every(isPower);
  return compatible(a, b) && inOrder(a) && inOrder(b);
}

/** The plans that a text names, "plan" for all calls or "plan; gradients plan", if they fit the problem and the device. */
export function namedPlans(
  text: string,
  planning: GpuPlanning,
): { readonly chosen: PassCandidate; readonly gradients: PassPlan } | undefined {
  const [own = "", ...others] = text.split(gradientsAfter);
  const chosen = namedPasses(own, planning);
  if (!chosen || others.length === 0) return chosen && { chosen, gradients: chosen.plan };
  const gradients = namedPasses(others.join(gradientsAfter), planning);
  if (!gradients || !shareSpectra(chosen.plan, gradients.plan)) return undefined;
  return { chosen, gradients: gradients.text === chosen.text ? chosen.plan : gradients.plan };
}

/** The plan that a text names, if it fits the problem and the device. */
export function namedPasses(text: string, planning: GpuPlanning): PassCandidate | undefined {
  const { problem, limits } = planning;
  const plan = parsePasses(text);
  if (!plan) return undefined;
  const way = plan.hop
    ? namedBlocks(problem, 2 * plan.points, plan.hop)
    : partsOf(problem).find((p) => p.packing === plan.packing);
  if (way?.packing !== plan.packing) return undefined;
  const { part } = way;
  const { exact, positions } = part;
  const needed = plan.packing === "halves" ? positions / 2 : positions;
  if (exact ? plan.points !== needed : plan.points < needed) return undefined;
  const fits = passLayouts(plan).every((p) => {
    const exchanged = p.radices.length > 1 ? p.tilePoints * p.tiles : 0;
    const bytes = exchanged * exchangeBytes[p.exchange];
    return p.threads * p.tiles <= limits.threads && bytes <= limits.sharedBytes;
  });
  return fits ? priced(planning, part, plan) : undefined;
}
