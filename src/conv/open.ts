/** Choosing a backend and opening it. */
import { InvalidArgumentError } from "../errors.ts";
import type { Problem } from "../plan/problem.ts";
import { integer, oneOf } from "../plan/problem.ts";
import { openCpuFor } from "./cpu-open.ts";
import { CpuRunner } from "./cpu-runner.ts";
import { choosePlan } from "./explain.ts";
import { loadGpu } from "./load-gpu.ts";
import type { FlashFFTConvOptions } from "./options.ts";
import type { Runner } from "./runner.ts";
import { usualRows, usualWorkspace } from "./usual.ts";

/** The least: a few rows of the shortest transforms. */
const leastWorkspace = 2 ** 20;

/** Whether options ask for a GPU: by its name, or by a device. */
export function wantsGpu(
  { backend = "auto", device }: Pick<FlashFFTConvOptions, "backend" | "device">,
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

/** The runner of a problem on the backend that the options ask for. */
export async function openRunner(
  problem: Problem,
  options: FlashFFTConvOptions,
  call: string,
): Promise<Runner> {
  const gpu = wantsGpu(options, call);
  const usual = gpu ? usualRows.gpu : usualRows.cpu;
  const batch = integer(call, "batch", options.batch ?? usual.batch, 1, 2 ** 31);
  const channels = integer(call, "channels", options.channels ?? usual.channels, 1, 2 ** 31);
  const given = options.workspaceBytes ?? usualWorkspace;
  const workspaceBytes = integer(call, "workspaceBytes", given, leastWorkspace, 2 ** 40);
  if (gpu) {
    const { openGpuRunner } = await loadGpu(options.device, call);
    return openGpuRunner(problem, { ...options, batch, channels, workspaceBytes }, call);
  }
  const opened = openCpuFor(options, call);
  const { instructions } = opened.backend.settings;
  const workload = { rows: batch * channels, threads: opened.threads };
  const reason =
    options.backend === "cpu"
      ? "it was asked for"
      : "auto takes a GPU only where its device is given";
  const choice = choosePlan(problem, instructions, workload, { plan: options.plan, reason }, call);
  return CpuRunner.open(opened, choice, call);
}
