/** Opening the CPU's backend as options ask for it, or the next best: what an object on the CPU begins with. */
import type { CpuBackend } from "../backend/cpu/backend.ts";
import { mostThreads, openCpu } from "../backend/cpu/backend.ts";
import type { Instructions } from "../backend/cpu/features.ts";
import { features } from "../backend/cpu/features.ts";
import { UnsupportedError } from "../errors.ts";
import type { RuntimeOptions } from "./runtime.ts";
import { allInstructions } from "./runtime.ts";

/** A backend, and what is not as asked for. */
export interface OpenedCpu {
  readonly backend: CpuBackend;
  /** Threads to use, the caller's included. */
  readonly threads: number;
  /** Sentences on what differs from the options or from the runtime's best. */
  readonly notes: readonly string[];
}

/**
 * The backend that checked options ask for. Where `auto` finds no memory for WebAssembly it takes plain JavaScript.
 * @throws UnsupportedError.
 */
export function openCpuFor(options: RuntimeOptions, call: string): OpenedCpu {
  const { instructions: wanted = "auto" } = options;
  const workerUrl = options.workerUrl && String(options.workerUrl);
  const instructions = pickInstructions(wanted, call);
  const { threads, notes } = pickThreads(options.threads, instructions, call);
  try {
    const settings = { instructions, shared: threads > 1, workerUrl };
    return { backend: openCpu(settings, call), threads, notes };
  } catch (error) {
    if (wanted !== "auto" || !(error instanceof UnsupportedError)) throw error;
    const backend = openCpu({ instructions: "javascript", shared: false }, call);
    const { requirement, value } = error.parts;
    const note = `plain JavaScript, 12 times slower: WebAssembly needs ${requirement}; this is ${value}`;
    return { backend, threads: 1, notes: [note] };
  }
}

/** The backend that lends arrays to objects on `backend`: one whose memory is shared, where the runtime has one. */
export function lendingBackend(backend: CpuBackend, call: string): CpuBackend {
  const { settings } = backend;
  const cannot = settings.instructions === "javascript" || !features().sharedMemory;
  if (settings.shared || cannot) return backend;
  try {
    return openCpu({ ...settings, shared: true }, call);
  } catch (error) {
    // No address space for a second memory: ordinary arrays, which calls copy, do as well.
    if (error instanceof UnsupportedError) return backend;
    throw error;
  }
}

/** The instruction set asked for, or the best there is. */
function pickInstructions(wanted: "auto" | Instructions, call: string): Instructions {
  const { simd, relaxedSimd } = features();
  const offers: Record<Instructions, boolean> = {
    "relaxed-simd": relaxedSimd,
    simd,
    javascript: true,
  };
  if (wanted === "auto") return allInstructions.find((i) => offers[i])!;
  if (offers[wanted]) return wanted;
  throw new UnsupportedError({
    call,
    requirement: `a runtime with WebAssembly ${wanted}`,
    value: `one that offers ${allInstructions.filter((i) => offers[i]).join(", ")}`,
    remedy: "Use instructions: 'auto', or a newer runtime.",
  });
}

/** Gigabytes of address space that V8 sets aside for all but workers, and for a worker (Node 20 and 24: 0.6 to 0.8). */
const [ownSpace, workerSpace] = [12, 1];

/** As many threads of those asked for as the machine has room for: where workers find none, V8 ends the process. */
function granted(asked: number): Pick<OpenedCpu, "threads" | "notes"> {
  const space = features().addressSpace / 1e9;
  const room = Math.max(1, Math.floor((space - ownSpace) / workerSpace));
  const threads = Math.min(asked, mostThreads, room);
  if (threads === asked) return { threads, notes: [] };
  const reason =
    threads === room
      ? `the system grants ${space.toPrecision(3)} GB of address space`
      : "four a core are the most";
  return { threads, notes: [`${threads} of the ${asked} threads asked for: ${reason}`] };
}

function pickThreads(
  wanted: number | undefined,
  instructions: Instructions,
  call: string,
): Pick<OpenedCpu, "threads" | "notes"> {
  const { sharedMemory, cores } = features();
  const possible = sharedMemory && instructions !== "javascript";
  if (wanted === undefined) return granted(possible ? cores : 1);
  if (wanted === 1 || possible) return granted(wanted);
  if (instructions === "javascript") {
    throw new UnsupportedError({
      call,
      requirement: "threads need kernels in WebAssembly",
      value: `threads ${wanted} with instructions 'javascript'`,
      remedy: "Set threads: 1, or leave instructions at 'auto'.",
    });
  }
  throw new UnsupportedError({
    call,
    requirement: "threads need memory that they can share (in pages: cross-origin isolation)",
    value: `threads ${wanted}`,
    remedy: "Serve the page with COOP: same-origin and COEP: require-corp, or set threads: 1.",
  });
}
