/** What objects of every class are told about where they compute, checked in one way for all. */

import type { Instructions } from "../backend/cpu/features.ts";
import { checkOptions, integer, known, oneOf } from "../checks.ts";
import { InvalidArgumentError, UnsupportedError } from "../errors.ts";
import type { GpuDevice } from "../gpu.ts";
import { show } from "../show.ts";

/** Where and how an object computes. Every class takes these options. */
export interface RuntimeOptions {
  /** Where to compute: `auto` (default) takes WebGPU where you pass a `device` and the CPU elsewhere. */
  readonly backend?: "auto" | "cpu" | "webgpu";
  /** A WebGPU device of yours, for tensors in its buffers; by default the library opens one. */
  readonly device?: GpuDevice;
  /**
   * Bytes of GPU memory that a call may take above its tensors and kept spectra; 256 MiB by default, 1 MiB at least. A call
   * computes one row at a time where the transforms of a row take more than that. The CPU ignores it.
   */
  readonly workspaceBytes?: number;
  /**
   * Threads of the CPU, the caller's included: all cores by default, one where memory cannot be shared or workers do not start,
   * four a core at most. WebGPU ignores them.
   */
  readonly threads?: number;
  /**
   * Where worker threads start from: the address of a copy of `flashfftconv/worker`. For pages that import the library from
   * another origin, and for bundlers that do not follow `new Worker(new URL(…))` (docs/browser.md).
   */
  readonly workerUrl?: string | URL;
  /** Instruction set of the CPU's kernels; by default the best that the runtime has. WebGPU ignores it. */
  readonly instructions?: "auto" | Instructions;
}

/** Names of the options that every class takes. */
export const runtimeNames: readonly (keyof RuntimeOptions)[] = [
  ...(["backend", "device", "workspaceBytes", "threads", "workerUrl", "instructions"] as const),
];

/** Instruction sets, the best first. */
export const allInstructions: readonly Instructions[] = ["relaxed-simd", "simd", "javascript"];

/** Rows that plans are made for where nobody says how many: on a GPU so many that all of it is busy, in pairs. */
export const usualRows = {
  cpu: { batch: 1, channels: 16 },
  gpu: { batch: 8, channels: 1024 },
} as const;

/** Work memory of a call on a GPU by default. */
export const usualWorkspace: number = 256 * 2 ** 20;
/** The least: a few rows of the shortest transforms. */
const leastWorkspace = 2 ** 20;

/**
 * Check what an object is made from before any of it is read: an object, without unknown names. A misspelt name may leave
 * another option missing. Only a FlashFFTConv sends its work to a `worker` of the caller's.
 */
export function checkNames(
  options: object,
  own: readonly string[],
  call: string,
  remedy: string,
): void {
  checkOptions(options, call, "options", remedy);
  const names = [...own, ...runtimeNames];
  const { worker } = options as { readonly worker?: unknown };
  if (worker !== undefined && !names.includes("worker")) {
    throw new UnsupportedError({
      call,
      requirement: "worker is an option of FlashFFTConv alone",
      value: show(worker),
      remedy: "Create the object inside your worker, or leave worker out.",
    });
  }
  known(options, names, call);
}

/** Where to compute, checked. */
interface CheckedRuntime {
  /** Whether the options ask for a GPU: by its name, or by a device. */
  readonly gpu: boolean;
  readonly workspaceBytes: number;
}

/** Check the options of where and how to compute, those too that the backend in question ignores. */
export function checkRuntime(options: RuntimeOptions, call: string): CheckedRuntime {
  const { backend = "auto", device, threads = 1, instructions = "auto", workerUrl } = options;
  oneOf(call, "backend", backend, ["auto", "cpu", "webgpu"]);
  const refuse = (requirement: string, value: string, remedy: string): never => {
    throw new InvalidArgumentError({ call, requirement, value, remedy });
  };
  if (device !== undefined && backend === "cpu")
    refuse("device belongs to a GPU", "one with backend 'cpu'", "Leave device out, or backend.");
  if (device !== undefined && !isDevice(device))
    refuse(
      "device must be a GPUDevice",
      show(device),
      "Pass what adapter.requestDevice() resolves to, or leave device out.",
    );
  integer(call, "threads", threads, 1, 1024);
  oneOf(call, "instructions", instructions, ["auto", ...allInstructions]);
  if (workerUrl !== undefined && typeof workerUrl !== "string" && !(workerUrl instanceof URL))
    refuse(
      "workerUrl must be the address of a copy of flashfftconv/worker",
      show(workerUrl),
      "Pass a string or a URL, or leave workerUrl out.",
    );
  const { workspaceBytes = usualWorkspace } = options;
  integer(call, "workspaceBytes", workspaceBytes, leastWorkspace, 2 ** 40);
  return { gpu: backend === "webgpu" || device !== undefined, workspaceBytes };
}

/** Whether it is a device: the first use of anything else would fail far from the call that was given it. */
function isDevice(device: unknown): boolean {
  const { createBuffer, queue, features } = Object(device) as Partial<GPUDevice>;
  return typeof createBuffer === "function" && Boolean(queue) && Boolean(features);
}

/** Refuse an encoder where there is no GPU, and what is none; only undefined stands for none. */
export function checkEncoder(encoder: unknown, device: GpuDevice | undefined, call: string): void {
  if (encoder === undefined) return;
  if (!device) {
    throw new InvalidArgumentError({
      call,
      requirement: "an encoder needs backend 'webgpu'",
      value: `${show(encoder)} on the CPU`,
      remedy: "Leave encoder out, or create the object with backend: 'webgpu'.",
    });
  }
  const { beginComputePass, copyBufferToBuffer, finish } = Object(encoder);
  if ([beginComputePass, copyBufferToBuffer, finish].every((f) => typeof f === "function")) return;
  throw new InvalidArgumentError({
    call,
    requirement: "encoder must be a GPUCommandEncoder",
    value: show(encoder),
    remedy: "Pass what device.createCommandEncoder() returns, or nothing.",
  });
}

/** Refuse `new` of a class whose objects `create` makes: they need a backend, which opens asynchronously. */
export function madeByCreate(
  isMade: boolean,
  type: string,
  remedy = `await ${type}.create(…)`,
): void {
  if (isMade) return;
  throw new InvalidArgumentError({
    call: `new ${type}`,
    requirement: `a ${type} must be made by the library: it has to open a backend first`,
    value: "new",
    remedy: `Use ${remedy}.`,
  });
}
