/** Checking what a short convolution is made from, and opening its backend. */
import { loadGpu } from "../calls/load-gpu.ts";
import { checkNames, checkRuntime } from "../calls/runtime.ts";
import { integer } from "../checks.ts";
import type { DepthwiseProblem } from "../plan/depthwise.ts";
import { DepthwiseCpuRunner } from "./cpu.ts";
import type { DepthwiseOptions } from "./options.ts";
import type { DepthwiseRunner } from "./runner.ts";

/** Options that objects of both classes are made from, besides those of every class. */
const optionNames = ["channels", "kernelLength", "padding", "layout", "dtype", "batch"] as const;

/** Check that options have no unknown names; `option` is the one that no other class has. */
export function checkShortNames(options: object, option: string, call: string): void {
  checkNames(options, [...optionNames, option], call, "Pass { channels: H, kernelLength: K }.");
}

/** A short convolution that is open: what its object is made of. */
export interface OpenedShort {
  readonly problem: DepthwiseProblem;
  readonly batch: number;
  readonly runner: DepthwiseRunner;
}

/** Compile, start threads or open the GPU; `order` as in DepthwiseEngine. */
export async function openShort(
  problem: DepthwiseProblem,
  options: DepthwiseOptions,
  order: readonly number[],
  call: string,
): Promise<OpenedShort> {
  const { batch = 1, device } = options;
  integer(call, "batch", batch, 1, 2 ** 31);
  const { gpu, workspaceBytes } = checkRuntime(options, call);
  if (!gpu)
    return { problem, batch, runner: await DepthwiseCpuRunner.open(problem, options, order, call) };
  const { DepthwiseGpuRunner } = await loadGpu(device, call, () => import("./gpu.ts"));
  const settings = { device, workspaceBytes };
  return { problem, batch, runner: await DepthwiseGpuRunner.open(problem, settings, order, call) };
}
