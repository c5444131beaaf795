/** Saying why a GPU's plans were chosen. */

import type { KeptPlan } from "../calls/measured.ts";
import type { DeviceSpec } from "../plan/device.ts";
import type { GpuCandidate, GpuPlans } from "../plan/gpu/choose.ts";
import type { RowWork } from "../plan/gpu/cost.ts";
import { passPlanCost } from "../plan/gpu/cost.ts";
import type { PassPlan } from "../plan/gpu/passes.ts";
import { formatPasses, workPoints } from "../plan/gpu/passes.ts";
import { blocksOf } from "../plan/gpu/planner.ts";
import type { Problem } from "../plan/problem.ts";
import type { Explanation, PlanPrediction, RowTotals } from "./explain.ts";
import { leftOutOf, measuredOf, prediction, render } from "./explain.ts";

/** A row's part of a transform that a GPU may share among two. */
function rowTotals(plan: PassPlan, work: RowWork, device: DeviceSpec): RowTotals {
  const { flops, bytes } = passPlanCost(plan, work, device);
  const rows = plan.packing === "rows" ? 2 : 1;
  return { flops: flops / rows, bytes: bytes / rows };
}

/** Why a GPU's plans were chosen. */
interface GpuReasons {
  readonly rows: number;
  /** The numbers that they were priced with. */
  readonly device: DeviceSpec;
  /** Why they run on a GPU. */
  readonly reason: string;
  /** What was measured, where that decided. */
  readonly kept: KeptPlan | undefined;
}

/** The explanation of a choice among a GPU's plans, and for gradients. */
export function explainGpu(
  problem: Problem,
  { rows, device, reason, kept }: GpuReasons,
  { chosen, gradients }: GpuPlans,
  all: readonly GpuCandidate[],
): Explanation {
  const predicted = ({ text, cost, seconds, plan, part }: GpuCandidate): PlanPrediction =>
    prediction({
      ...{ text, cost, seconds, geometry: [part] },
      plan: plan ? [{ points: workPoints(plan), levels: [] }] : [],
      blocks: plan ? blocksOf(problem, plan) : 1,
    });
  const explanation: Explanation = {
    ...{ problem, workload: { rows, threads: 1 }, instructions: "wgsl" },
    ...{ backend: "webgpu", reason, device },
    chosen: predicted(chosen),
    ...measuredOf(kept),
    ...(gradients && gradients !== chosen.plan && { gradientPlan: formatPasses(gradients) }),
    candidates: all.map(predicted),
    ...(problem.frequencies &&
      chosen.plan && {
        leftOut: leftOutOf(
          problem.frequencies,
          rowTotals(chosen.plan, { ...problem, frequencies: undefined }, device),
          rowTotals(chosen.plan, problem, device),
        ),
      }),
    toString: () => render(explanation),
  };
  return explanation;
}
