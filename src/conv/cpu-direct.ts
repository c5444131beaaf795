/** How blocks run in the time domain. */
import { jobKinds } from "../backend/cpu/job.ts";
import { directBytes, directSource } from "../kernels/cpu/direct-program.ts";
import type { Candidate } from "../plan/cpu/planner.ts";
import type { Problem } from "../plan/problem.ts";
import type { PartTransform } from "./cpu-parts.ts";

/** Blocks in the time domain: to jobs, a transform that leaves samples as they are, whose spectra are the taps. */
export function inTime({ dtype }: Problem, { geometry, cost, blocks }: Candidate): PartTransform[] {
  const part = geometry[0]!;
  const { work, taps } = directBytes(part);
  return [
    {
      ...{ transformBytes: work, spectrumBytes: taps, spectraKind: jobKinds.spectra },
      ...{ tiles: 1, bodies: 1, shareable: false, inPlace: false },
      rowSeconds: cost.seconds / blocks,
      source: (kind, kernelDtype) => directSource({ kind, part, dtype, kernelDtype }),
    },
  ];
}
