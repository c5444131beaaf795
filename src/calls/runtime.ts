/** What objects of every class are told about where they compute, checked in one way for all. */

import { integer, oneOf } from "../checks.ts";
import { InvalidArgumentError } from "../errors.ts";
import type { GpuDevice } from "../gpu.ts";
import { show } from "../show.ts";

/** Where an object computes. */
export interface RuntimeOptions {
  readonly backend?: "auto" | "cpu" | "webgpu" | undefined;
  readonly device?: GpuDevice | undefined;
  readonly workspaceBytes?: number | undefined;
}

/** Rows that plans are made for where nobody says how many: on a GPU so many that all of it is busy, in pairs. */
export const usualRows = {
  cpu: { batch: 1, channels: 16 },
  gpu: { batch: 8, channels: 1024 },
} as const;

/** Work memory of a call on a GPU by default. */
export const usualWorkspace: number = 256 * 2 ** 20;
/** The least: a few rows of the shortest transforms. */
const leastWorkspace = 2 ** 20;

/** Whether options ask for a GPU: by its name, or by a device. */
export function wantsGpu(
  { backend = "auto", device }: Pick<RuntimeOptions, "backend" | "device">,
  call: string,
): boolean {
  oneOf(call, "backend", backend, ["auto", "cpu", "webgpu"]);
  if (backend !== "cpu") return backend === "webgpu" || device !== undefined;
  if (device === undefined) return false;
  throw new InvalidArgumentError({
    call,
    requirement: "device belongs to a GPU",
    value: "one with backend 'cpu'",
    remedy: "Leave device out, or backend.",
  });
}

/** Bytes of GPU memory that a call may take above its tensors and kept spectra. */
export function workspaceOf(
  { workspaceBytes = usualWorkspace }: Pick<RuntimeOptions, "workspaceBytes">,
  call: string,
): number {
  return integer(call, "workspaceBytes", workspaceBytes, leastWorkspace, 2 ** 40);
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
    remedy: "Pass what device.createCommandEncoder() returns, or leave encoder out.",
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
