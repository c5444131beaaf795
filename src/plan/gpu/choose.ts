/** Chooses how a GPU computes a convolution: by a transform in passes (planner.ts), or in the time domain. */
import { bytesPerSample } from "../../dtype.ts";
import { mostDirectTaps } from "../cpu/candidates.ts";
import { directCost } from "../cpu/cost.ts";
import { formatDirect, parsePlan } from "../cpu/plan.ts";
import { blockOverlap, blockPart, isProduct } from "../geometry.ts";
import type { PassPlan } from "./passes.ts";
import type { GpuPlanning, PassCandidate } from "./planner.ts";
import { gradientPlan, namedPlans, passCandidates } from "./planner.ts";

/** A priced plan of the time domain: its part is a row as one block. */
type DirectCandidate = Omit<PassCandidate, "plan"> & { readonly plan?: never };

/** A priced plan of either kind; `plan` is that of its transform. */
export type GpuCandidate = PassCandidate | DirectCandidate;

/** The plan of an object, and the transform of its gradients, where it has one. */
export interface GpuPlans {
  readonly chosen: GpuCandidate;
  readonly gradients: PassPlan | undefined;
}

/** Outputs of a thread in the time domain. */
const outputsEach = 16;

/** The time domain, priced; none where taps are too many or frequencies are masked. */
function directCandidates({ problem, device, workload }: GpuPlanning): DirectCandidate[] {
  const { length, outputLength, kernelLength, frequencies, dtype } = problem;
  const overlap = blockOverlap(problem);
  if (frequencies || overlap >= mostDirectTaps) return [];
  const one = directCost(outputLength, overlap + 1, device);
  const bytes = (length + outputLength) * bytesPerSample(dtype);
  const traffic = bytes / device.memory.at(-1)!.bandwidth;
  const cost = { ...one, memory: one.memory + traffic, seconds: one.seconds + traffic };
  const rows = workload.batch * workload.channels;
  const waiting = Math.max(1, (device.busyThreads ?? 0) / ((rows * outputLength) / outputsEach));
  return [
    {
      part: blockPart(problem, outputLength + overlap, outputLength),
      text: formatDirect(kernelLength),
      cost,
      seconds: rows * waiting * cost.seconds + device.dispatchSeconds,
    },
  ];
}

/** All candidates for a problem, cheapest first. */
export function gpuCandidates(planning: GpuPlanning): GpuCandidate[] {
  const direct = directCandidates(planning);
  if (isProduct(planning.problem)) return direct;
  return [...passCandidates(planning), ...direct].sort((a, b) => a.seconds - b.seconds);
}

/** A chosen plan, and the one out of the candidates that gradients take beside it. */
export function bestPlans(
  chosen: GpuCandidate,
  candidates: readonly GpuCandidate[],
  planning: GpuPlanning,
): GpuPlans {
  if (!chosen.plan) return { chosen, gradients: undefined };
  const passes = candidates.filter((c) => c.plan !== undefined);
  return { chosen, gradients: gradientPlan(chosen, passes, planning) };
}

/** The plans that a text names (see namedPlans), or the time domain, if they fit the problem and the device. */
export function namedGpuPlans(text: string, planning: GpuPlanning): GpuPlans | undefined {
  const parsed = parsePlan(text);
  if (parsed?.taps === undefined) return namedPlans(text, planning);
  // A GPU's threads have no blocks that a text could name.
  if (parsed.hop > 0 || parsed.taps !== planning.problem.kernelLength) return undefined;
  const [chosen] = directCandidates(planning);
  return chosen && { chosen, gradients: undefined };
}
