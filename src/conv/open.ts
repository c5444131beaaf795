/** Choosing a backend and opening it. */

import type { OpenedCpu } from "../calls/cpu-open.ts";
import { openCpuFor } from "../calls/cpu-open.ts";
import { loadGpu } from "../calls/load-gpu.ts";
import { refuseNow } from "../calls/operation.ts";
import { checkRuntime, usualRows } from "../calls/runtime.ts";
import { integer } from "../checks.ts";
import type { Planner } from "../plan/cpu/planner.ts";
import { densePlanner, isCyclic } from "../plan/cpu/planner.ts";
import type { Problem } from "../plan/problem.ts";
import { CpuRunner } from "./cpu.ts";
import type { OtherPlans } from "./cpu-transforms.ts";
import type { Choice } from "./explain.ts";
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
  const rows = checkedRows(options, gpu ? usualRows.gpu : usualRows.cpu, call);
  if (gpu) {
    const { openGpuRunner } = await loadGpu(options.device, call, () => import("./gpu.ts"));
    return openGpuRunner(problem, { ...options, ...rows, workspaceBytes }, call);
  }
  const isDense = !problem.frequencies && !isCyclic(problem.period);
  const planner = isDense ? densePlanner : (await import("./cpu-other.ts")).cyclicPlanner;
  const { opened, choice } = chooseOnCpu(problem, planner, options, rows, call);
  return CpuRunner.open(opened, choice, call);
}

/**
 * The same at once, on the CPU; `other` is code that only some plans need.
 * @throws UnsupportedError where the options ask for a GPU or a worker.
 */
export function openRunnerNow(
  problem: Problem,
  options: FlashFFTConvOptions,
  other: OtherPlans,
  call: string,
): Runner {
  const { gpu } = checkRuntime(options, call);
  if (gpu || options.worker !== undefined) {
    const value = gpu ? "options that ask for a GPU" : "a worker";
    refuseNow(call, value, "Leave backend, device and worker out, or await convolve.");
  }
  const rows = checkedRows(options, usualRows.cpu, call);
  const { opened, choice } = chooseOnCpu(problem, other.cyclicPlanner, options, rows, call);
  return CpuRunner.openNow(opened, choice, other, call);
}

/** Rows that an object is planned for. */
interface PlannedRows {
  readonly batch: number;
  readonly channels: number;
}

function checkedRows(options: FlashFFTConvOptions, usual: PlannedRows, call: string): PlannedRows {
  const { batch = usual.batch, channels = usual.channels } = options;
  return {
    batch: integer(call, "batch", batch, 1, 2 ** 31),
    channels: integer(call, "channels", channels, 1, 2 ** 31),
  };
}

/** The backend and the plan of a problem on the CPU. */
function chooseOnCpu(
  problem: Problem,
  planner: Planner,
  options: FlashFFTConvOptions,
  { batch, channels }: PlannedRows,
  call: string,
): { opened: OpenedCpu; choice: Choice } {
  const opened = openCpuFor(options, call);
  const { instructions } = opened.backend.settings;
  const workload = { rows: batch * channels, threads: opened.threads };
  const reason =
    options.backend === "cpu"
      ? "it was asked for"
      : "auto takes a GPU only where its device is given";
  const settings = { plan: options.plan, reason };
  return { opened, choice: choosePlan(problem, planner, instructions, workload, settings, call) };
}
