/** Choosing a backend and opening it. */
import type { Problem } from "../plan/problem.ts";
import { integer, oneOf } from "../plan/problem.ts";
import { CpuRunner } from "./cpu-runner.ts";
import { choosePlan } from "./explain.ts";
import { openGpuRunner } from "./gpu-runner.ts";
import type { FlashFFTConvOptions } from "./options.ts";
import { pickInstructions, pickThreads } from "./options.ts";
import type { Runner } from "./runner.ts";

/** The runner of a problem on the backend that the options ask for. */
export async function openRunner(
  problem: Problem,
  options: FlashFFTConvOptions,
  call: string,
): Promise<Runner> {
  const wanted = options.backend ?? "auto";
  oneOf(call, "backend", wanted, ["auto", "cpu", "webgpu"]);
  const batch = integer(call, "batch", options.batch ?? 1, 1, 2 ** 31);
  const channels = integer(call, "channels", options.channels ?? 16, 1, 2 ** 31);
  if (wanted === "webgpu" || (wanted === "auto" && options.device)) {
    return openGpuRunner(problem, { ...options, batch, channels }, call);
  }
  const instructions = pickInstructions(options.instructions ?? "auto", call);
  const threads = pickThreads(options.threads, instructions, call);
  const workload = { rows: batch * channels, threads };
  const reason =
    wanted === "cpu" ? "it was asked for" : "auto takes a GPU only where its device is given";
  const choice = choosePlan(problem, instructions, workload, { plan: options.plan, reason }, call);
  return CpuRunner.open({ threads, instructions }, choice, call);
}
