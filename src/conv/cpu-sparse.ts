/** How the factors of a frequency-sparse convolution run. */
import { jobKinds } from "../backend/cpu/job.ts";
import { cyclicBytes, cyclicSource } from "../kernels/cpu/sparse-program.ts";
import type { Candidate } from "../plan/cpu/planner.ts";
import type { Problem } from "../plan/problem.ts";
import type { PartTransform } from "./cpu-parts.ts";

/** All factors of a cyclic convolution in one program: to jobs, a single part. */
export function together(
  problem: Problem,
  { geometry: parts, plan: plans, cost }: Candidate,
): PartTransform[] {
  const { bytes, spectrumBytes } = cyclicBytes({ parts, plans });
  return [
    {
      ...{ transformBytes: bytes, spectrumBytes, spectraKind: jobKinds.compactSpectra },
      ...{ tiles: 1, bodies: 1, shareable: false, inPlace: true },
      rowSeconds: cost.seconds,
      source: (kind, kernelDtype) => cyclicSource({ kind, problem, parts, plans, kernelDtype }),
    },
  ];
}
