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

/** How a candidate's parts run. What only some plans need is loaded with the first of them: a tenth of the code that runs on a CPU. */
export async function transformsOf({ plan, geometry }: Candidate): Promise<Transforms> {
  if (plan.length === 0) return (await import("./cpu-other.ts")).inTime;
  if (geometry[0]!.ring) return (await import("./cpu-other.ts")).together;
  return separately;
}
