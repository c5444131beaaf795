/** Choosing a backend and opening it. */

import { openCpuFor } from "../calls/cpu-open.ts";
import { loadGpu } from "../calls/load-gpu.ts";
import { checkRuntime, usualRows } from "../calls/runtime.ts";
import { integer } from "../checks.ts";
import type { Problem } from "../plan/problem.ts";
import { CpuRunner } from "./cpu.ts";
import { choosePlan } from "./explain.ts";
import type { ConvolutionWorker, FlashFFTConvOptions } from "./options.ts";
import type { FirstError } from "./remote.ts";
import type { Runner } from "./runner.ts";

/** What a worker's first error says: a script that is not there may tell of it while the code that talks to it is loaded. */
function firstError(worker: ConvolutionWorker): FirstError {
  let stop = (): void => {};
  const message = new Promise<string>((resolve) => {
    if (typeof worker?.addEventListener !== "function") return;
    const listen = (event: { readonly message?: string }): void =>
      resolve(event.message || "its script could not be loaded");
    worker.addEventListener("error", listen);
    stop = () => worker.removeEventListener?.("error", listen);
  });
  return { message, stop };
}

/** The runner of a problem on the backend that the options ask for. */
export async function openRunner(
  problem: Problem,
  options: FlashFFTConvOptions,
  call: string,
): Promise<Runner> {
  if (options.worker !== undefined) {
    const error = firstError(options.worker);
    return (await import("./remote.ts")).RemoteRunner.open(options, error, call);
  }
  const { gpu, workspaceBytes } = checkRuntime(options, call);
  const usual = gpu ? usualRows.gpu : usualRows.cpu;
  const { batch = usual.batch, channels = usual.channels } = options;
  integer(call, "batch", batch, 1, 2 ** 31);
  integer(call, "channels", channels, 1, 2 ** 31);
  if (gpu) {
    const { openGpuRunner } = await loadGpu(options.device, call, () => import("./gpu.ts"));
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
