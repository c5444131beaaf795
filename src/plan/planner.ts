/** Chooses: every candidate is priced by the cost model, the cheapest wins, and the list says why the others lost. */
import { candidatePlans, candidateSizes } from "./candidates.ts";
import type { Cost } from "./cost.ts";
import { planCost } from "./cost.ts";
import type { DeviceSpec } from "./device.ts";
import type { Geometry } from "./geometry.ts";
import type { TransformPlan } from "./plan.ts";
import { formatTransform, layout } from "./plan.ts";

/** How much work the plan is for. */
export interface Workload {
  /** Rows of a call: batch × channels. */
  readonly rows: number;
  readonly threads: number;
}

/** A priced plan. */
export interface Candidate {
  readonly plan: TransformPlan;
  readonly text: string;
  readonly cost: Cost;
  /** Seconds of the whole call. */
  readonly seconds: number;
}

/** Threads rarely run one row quite as well as they run rows of their own. */
const togetherEfficiency = 0.85;

/** Whether all threads can share one row: its ends must be cut into tiles. */
export function canShareRow(plan: TransformPlan, threads: number): boolean {
  const top = layout(plan)[0]!;
  return plan.levels.length > 1 && top.tile > 0 && top.columns / top.tile >= 2 * threads;
}

/** Seconds of a call with `rows` rows on `threads` threads. */
export function callSeconds(
  plan: TransformPlan,
  cost: Cost,
  device: DeviceSpec,
  { rows, threads }: Workload,
): number {
  if (threads === 1) return rows * cost.seconds;
  const apart = Math.ceil(rows / threads) * cost.seconds + device.dispatchSeconds;
  if (!canShareRow(plan, threads)) return Math.min(apart, rows * cost.seconds);
  const together = (rows * cost.seconds) / (threads * togetherEfficiency) + device.dispatchSeconds;
  return Math.min(apart, together);
}

/** All candidates for a geometry, cheapest first. */
export function candidates(
  geometry: Geometry,
  device: DeviceSpec,
  workload: Workload,
): Candidate[] {
  return candidateSizes(geometry.positions)
    .flatMap((points) => candidatePlans(points))
    .map((plan) => {
      const cost = planCost(plan, device);
      return {
        plan,
        text: formatTransform(plan),
        cost,
        seconds: callSeconds(plan, cost, device, workload),
      };
    })
    .sort((a, b) => a.seconds - b.seconds);
}
