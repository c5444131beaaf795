/** Schedules of named plans, as the library makes them for a device of some limits. */
import { schedulerFor } from "../../src/conv/gpu-encode.ts";
import { defaultGpu } from "../../src/plan/device.ts";
import { namedGpuPlans } from "../../src/plan/gpu/choose.ts";
import type { Problem } from "../../src/plan/problem.ts";
import type { CallScheduler, GpuLimits } from "../../src/schedule/schedule.ts";

/** The scheduler of a plan's gradients, which are the plan's own where it names no others. */
export function namedScheduler(
  text: string,
  problem: Problem,
  limits: GpuLimits,
  rows: { readonly batch: number; readonly channels: number },
): CallScheduler {
  const { chosen, gradients } = namedGpuPlans(text, {
    problem,
    device: defaultGpu,
    limits,
    workload: rows,
  })!;
  return schedulerFor(problem, chosen, gradients, limits);
}
