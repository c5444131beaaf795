/** How the parts of a convolution run: each by dense transforms of its own, or as plans of other kinds do. */
import type { CpuBackend } from "../backend/cpu/backend.ts";
import { jobKinds } from "../backend/cpu/job.ts";
import { programSource } from "../kernels/cpu/dense-program.ts";
import { bodyCount, tileCount } from "../kernels/cpu/stages.ts";
import { planCost } from "../plan/cpu/cost.ts";
import { transformBytes } from "../plan/cpu/plan.ts";
import type { Candidate } from "../plan/cpu/planner.ts";
import { canShareRow } from "../plan/cpu/planner.ts";
import type { DeviceSpec } from "../plan/device.ts";
import type { Problem } from "../plan/problem.ts";
import type { PartTransform, Transforms } from "./cpu-parts.ts";
import type { RowRuns } from "./cpu-rows.ts";
import { wholeRuns } from "./cpu-rows.ts";

/** Transforms of fewer points than this are not worth sharing a row for. */
const shareablePoints = 65_536;

/** Each part of a convolution by its own programs, one after the other. */
function separately(
  problem: Problem,
  { geometry, plan: plans }: Candidate,
  backend: CpuBackend,
  threads: number,
  device: DeviceSpec,
): PartTransform[] {
  return geometry.map((part, i) => {
    const plan = plans[i]!;
    const spec = { part, adds: i > 0, plan, dtype: problem.dtype };
    const bytes = transformBytes(plan);
    return {
      ...{ transformBytes: bytes, spectrumBytes: bytes, spectraKind: jobKinds.spectra },
      tiles: tileCount(plan),
      ...{ bodies: bodyCount(plan, backend.lanes), rowSeconds: planCost(plan, device).seconds },
      inPlace: true,
      shareable: !part.blocks && plan.points >= shareablePoints && canShareRow(plan, threads),
      source: (kind, kernelDtype) => programSource({ ...spec, kind, kernelDtype }),
    };
  });
}

/** How a plan's transforms and rows run. */
export interface PlanCode {
  readonly transforms: Transforms;
  readonly runs: RowRuns;
}

/** What only some plans need. */
export type OtherPlans = typeof import("./cpu-other.ts");

const isOther = ({ plan, geometry: [first] }: Candidate): boolean =>
  plan.length === 0 || Boolean(first!.ring ?? first!.blocks);

/** How a candidate runs, with the code that it may need besides. */
export function planCodeOf(
  { plan, geometry: [first] }: Candidate,
  other: OtherPlans | undefined,
): PlanCode {
  if (!other) return { transforms: separately, runs: wholeRuns };
  const whole = first!.ring ? other.together : separately;
  return {
    transforms: plan.length === 0 ? other.inTime : whole,
    runs: first!.blocks ? other.blockRuns() : wholeRuns,
  };
}

/** The same; what only some plans need, a tenth of the code that runs on a CPU, is loaded with the first of them. */
export async function planCode(candidate: Candidate): Promise<PlanCode> {
  const other = isOther(candidate) ? await import("./cpu-other.ts") : undefined;
  return planCodeOf(candidate, other);
}
