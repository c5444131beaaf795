/** Everything about a convolution that is fixed when it is made: its parts, their programs, and the jobs that run them. */
import type { CpuBackend } from "../backend/cpu/backend.ts";
import type { ConvolutionJob as Job } from "../backend/cpu/job.ts";
import { convolutionJob, jobKinds } from "../backend/cpu/job.ts";
import type { Dtype } from "../dtype.ts";
import type { ProgramSource } from "../kernels/cpu/program-source.ts";
import type { Candidate } from "../plan/cpu/planner.ts";
import type { DeviceSpec } from "../plan/device.ts";
import type { Part } from "../plan/geometry.ts";
import { apartBySample, covered, gradientPart } from "../plan/geometry.ts";
import type { Problem } from "../plan/problem.ts";
import type { Choice } from "./explain.ts";

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

/** How a candidate's parts run. */
export type Transforms = (
  problem: Problem,
  candidate: Candidate,
  backend: CpuBackend,
  threads: number,
  device: DeviceSpec,
) => PartTransform[];

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
      ...convolutionJob,
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
