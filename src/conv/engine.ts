/** Everything about a convolution that is fixed when it is made: its parts, their programs, and the jobs that run them. */
import type { CpuBackend } from "../backend/cpu.ts";
import type { Job } from "../backend/job.ts";
import { emptyJob, jobKinds } from "../backend/job.ts";
import type { Dtype } from "../dtype.ts";
import { programSource } from "../kernels/program.ts";
import type { ProgramSource } from "../kernels/source.ts";
import { bodyCount, tileCount } from "../kernels/transform.ts";
import { planCost } from "../plan/cost.ts";
import type { DeviceSpec } from "../plan/device.ts";
import type { Part } from "../plan/geometry.ts";
import { apartBySample, covered, gradientPart } from "../plan/geometry.ts";
import { transformBytes } from "../plan/plan.ts";
import type { Candidate } from "../plan/planner.ts";
import { canShareRow } from "../plan/planner.ts";
import type { Problem } from "../plan/problem.ts";
import type { Choice } from "./explain.ts";

/** Transforms of fewer points than this are not worth sharing a row for. */
const shareablePoints = 65_536;

/** Programs of a part, by kind and by storage of the kernel. */
type PartPrograms = (kind: "forward" | "backward", kernelDtype: Dtype) => ProgramSource;

/** One part of the convolution. */
export interface EnginePart {
  readonly part: Part;
  readonly source: PartPrograms;
  /** Jobs by kind, with all that does not change from call to call; each call fills in the rest. */
  readonly jobs: readonly Job[];
  /** Bytes of one transform. */
  readonly transformBytes: number;
  /** Bytes of one channel's spectrum, and the kind of the jobs that make spectra. */
  readonly spectrumBytes: number;
  readonly spectraKind: number;
  /** Whether all threads can work on one row. */
  readonly shareable: boolean;
  /** Whether y may take the place of u: everything is read before anything is stored. */
  readonly inPlace: boolean;
  /** Predicted seconds of one row, forward. */
  readonly rowSeconds: number;
  /** Bytes of the spectra of earlier parts, per channel. */
  readonly spectrumOffset: number;
}

/** A problem with everything that is fixed when the object is made. */
export interface Engine {
  readonly problem: Problem;
  readonly backend: CpuBackend;
  /** Threads that calls may use, the caller's included. */
  readonly threads: number;
  readonly device: DeviceSpec;
  readonly parts: readonly EnginePart[];
  /** Bytes of one channel's spectra, all parts. */
  readonly spectrumBytes: number;
}

const denseKinds = [
  jobKinds.spectra,
  jobKinds.forward,
  jobKinds.backward,
  jobKinds.blockForward,
  jobKinds.blockBackward,
  jobKinds.blockTaps,
  jobKinds.stream,
  jobKinds.compactSpectra,
];

/** What a part's transform is to jobs: how large, in how many units, and made by which programs. */
export interface PartTransform {
  readonly transformBytes: number;
  readonly spectrumBytes: number;
  readonly spectraKind: number;
  readonly tiles: number;
  readonly bodies: number;
  readonly shareable: boolean;
  readonly inPlace: boolean;
  readonly rowSeconds: number;
  readonly source: PartPrograms;
}

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

/** How a candidate's parts run. */
export type Transforms = (
  problem: Problem,
  candidate: Candidate,
  backend: CpuBackend,
  threads: number,
  device: DeviceSpec,
) => PartTransform[];

/** That of a candidate. What only some plans need is loaded with the first of them: a tenth of the code that runs on a CPU. */
export async function transformsOf({ plan, geometry }: Candidate): Promise<Transforms> {
  if (plan.length === 0) return (await import("./engine-other.ts")).inTime;
  if (geometry[0]!.ring) return (await import("./engine-other.ts")).together;
  return separately;
}

/** Put together what calls need. */
export function createEngine(
  { explanation: { problem }, candidate, device }: Choice,
  make: Transforms,
  backend: CpuBackend,
  threads: number,
): Engine {
  const bytes = problem.dtype === "float32" ? 4 : 2;
  const transforms = make(problem, candidate, backend, threads, device);
  let spectrumBytes = 0;
  const parts = transforms.map((own, i): EnginePart => {
    const part = candidate.geometry[i]!;
    const { transformBytes: transform, tiles, bodies, ...rest } = own;
    const sinks = apartBySample(part.taps).length;
    const gaps = covered(part.taps, problem.kernelLength) < problem.kernelLength;
    const template: Job = {
      ...emptyJob(),
      ...{ length: problem.length, outputLength: problem.outputLength, sampleBytes: bytes },
      ...{ inputBytes: problem.length * bytes, outputBytes: problem.outputLength * bytes },
      ...{ spectrumBytes: own.spectrumBytes, transformBytes: transform },
      dkBytes: problem.kernelLength * 4,
      ...{ tiles, bodies, dkSinks: sinks, clearTaps: Number(i === 0 && (sinks > 1 || gaps)) },
    };
    const spectrumOffset = spectrumBytes;
    spectrumBytes += own.spectrumBytes;
    return {
      ...{ ...rest, part, spectrumOffset, transformBytes: transform },
      jobs: denseKinds.map((kind) => ({
        ...template,
        ...blockFieldsOf(kind, part, problem),
        kind,
      })),
    };
  });
  return { problem, backend, threads, device, parts, spectrumBytes };
}

/** What a job says of the blocks that it cuts rows of `length` samples into. */
function blockFields({ blocks, positions }: Part, length: number): Partial<Job> {
  if (!blocks) return {};
  const { hop, behind, period } = blocks;
  return { blocks: Math.ceil(length / hop), hop, lead: behind, span: positions, period };
}

/** Blocks go by outputs in forward jobs, by inputs in backward ones. */
function blockFieldsOf(kind: number, part: Part, problem: Problem): Partial<Job> {
  return kind === jobKinds.blockForward
    ? blockFields(part, problem.outputLength)
    : blockFields(gradientPart(part), problem.length);
}
