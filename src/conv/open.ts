/** Choosing a backend and opening it. */
import type { Problem } from "../plan/problem.ts";
import { integer } from "../plan/problem.ts";
import { openCpuFor } from "./cpu-open.ts";
import { CpuRunner } from "./cpu-runner.ts";
import { choosePlan } from "./explain.ts";
import { openGpuRunner } from "./gpu-runner.ts";
import type { FlashFFTConvOptions } from "./options.ts";
import type { Runner } from "./runner.ts";
import { wantsGpu, workspaceOf } from "./runtime.ts";

/** Rows that plans are made for where nobody says how many: on a GPU so many that all of it is busy, in pairs. */
export const usualRows = {
  cpu: { batch: 1, channels: 16 },
  gpu: { batch: 8, channels: 1024 },
} as const;

/** The runner of a problem on the backend that the options ask for. */
export async function openRunner(
  problem: Problem,
  options: FlashFFTConvOptions,
  call: string,
): Promise<Runner> {
  const gpu = wantsGpu(options, call);
  const usual = gpu ? usualRows.gpu : usualRows.cpu;
  const { batch = usual.batch, channels = usual.channels } = options;
  integer(call, "batch", batch, 1, 2 ** 31);
  integer(call, "channels", channels, 1, 2 ** 31);
  const workspaceBytes = workspaceOf(options, call);
  if (gpu) return openGpuRunner(problem, { ...options, batch, channels, workspaceBytes }, call);
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
