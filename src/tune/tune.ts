/** Measures what plans rest on, numbers of the cost model or the plans themselves, and keeps it in the user's cache folder. */
import type { WebGpuBackend } from "../backend/webgpu/device.ts";
import { loadGpu } from "../calls/load-gpu.ts";
import {
  deviceFor,
  gpuDeviceFor,
  keepDevice,
  keepPlan,
  makeFolder,
  plannedOn,
  wisdomPath,
} from "../calls/measured.ts";
import { checkRuntime, type RuntimeOptions, usualRows, usualWorkspace } from "../calls/runtime.ts";
import { checkFlags, checkOptions, integer, known } from "../checks.ts";
import { InvalidArgumentError, UnsupportedError } from "../errors.ts";
import type { GpuDevice } from "../gpu.ts";
import { createProblem } from "../plan/create-problem.ts";
import type { DeviceSpec } from "../plan/device.ts";
import { problemNames } from "../plan/problem.ts";
import { show } from "../show.ts";
import { bestInstructions, cpuMeasurements, measureCpu } from "./cpu.ts";
import { type Task, type TunedPlan, type TuneProblem, timePlans } from "./plans.ts";

/** What tuning may be told and may tell. */
export interface TuneOptions extends Pick<RuntimeOptions, "backend" | "device"> {
  /**
   * Problems whose best plans are timed one beside the other, at least one: `create` takes the fastest wherever it is asked for the
   * same problem, rows and threads. Without, the numbers that all plans are priced with are measured.
   */
  readonly problems?: readonly TuneProblem[];
  /** Called with the part done, 0 … 1, and what is measured next. */
  readonly onProgress?: (fraction: number, what: string) => void;
  /** Stops between measurements; nothing is kept of what was not finished. */
  readonly signal?: AbortSignal;
}

/** What tuning found, and the file that keeps it. */
export interface Tuned {
  /** The description of this machine that plans rest on: as measured, or, where problems were, as it stood. */
  readonly device: DeviceSpec;
  /** The file that keeps it. */
  readonly path: string;
  /**
   * Numbers that could not be measured, because the machine was busy, and are the default machine's at this one's speed. On the CPU
   * `"radix 3"`, a stage of that radix; `"points"`, all else for a point; `"rows"`, starting a row; `"L2"`, `"L3"` and `"DRAM"`.
   * On a GPU `"arithmetic"`, `"workgroup"`, `"cache"` and `"memory"`; `"launches"` and `"threads"`.
   */
  readonly keptDefaults: readonly string[];
  /** For each of the problems the plans that were timed. */
  readonly plans: readonly TunedPlan[];
}

const optionNames = ["backend", "device", "problems", "onProgress", "signal"] as const;
/** Options of a problem. */
const taskNames = [...problemNames, "batch", "channels", "threads", "gates"] as const;

const call = "tune";

/** When something was measured. */
const measuredNow = (): string => `measured by tune, ${new Date().toISOString().slice(0, 10)}`;

/**
 * Measure this machine: the CPU with the best instruction set it has, or a GPU. The numbers of the cost model take about ten
 * seconds, on a GPU up to half a minute, and longer where the machine is busy and numbers have to be measured again; plans of a
 * problem take some seconds.
 * @throws InvalidArgumentError for options out of range; UnsupportedError where there is no file system to keep the result in,
 * no GPU, or where the machine is too busy to measure most numbers; FileError where the file cannot be written; BackendError
 * where no plan of a problem works; the signal's reason when stopped.
 */
export async function tune(options: TuneOptions = {}): Promise<Tuned> {
  checkOptions(options, call);
  known(options, optionNames, call);
  const { device, problems, signal } = options;
  const { gpu: onGpu } = checkRuntime(options, call);
  checkWatchers(options);
  const tasks =
    problems === undefined ? undefined : tasksOf(problems, onGpu ? "webgpu" : "cpu", device);
  const path = wisdomPath();
  if (path === undefined) {
    throw new UnsupportedError({
      call,
      requirement: "a folder to keep what is measured in",
      value: "a runtime without files, or a user without a home folder",
      remedy: "Run tune in Node, and name a folder in the environment variable FLASHFFTCONV_CACHE.",
    });
  }
  signal?.throwIfAborted();
  makeFolder(path);
  const tuned = await (tasks ? tunePlans(tasks, options) : tuneNumbers(onGpu, options));
  options.onProgress?.(1, "done");
  return { ...tuned, path };
}

/** The backend of a GPU, whose code is loaded now. */
async function openGpu(device: GpuDevice | undefined): Promise<WebGpuBackend> {
  const { backendFor } = await loadGpu(device, call, () => import("../calls/gpu-open.ts"));
  return backendFor(device, call);
}

/** Refuse a signal, or what is to be told of the progress, that would fail in the middle of the measurements. */
function checkWatchers({ signal, onProgress }: TuneOptions): void {
  const { throwIfAborted } = Object(signal) as Partial<AbortSignal>;
  if (signal !== undefined && typeof throwIfAborted !== "function") {
    throw new InvalidArgumentError({
      call,
      requirement: "signal must be an AbortSignal",
      value: show(signal),
      remedy: "Pass the signal of an AbortController, or leave signal out.",
    });
  }
  if (onProgress === undefined || typeof onProgress === "function") return;
  throw new InvalidArgumentError({
    call,
    requirement: "onProgress must be a function",
    value: show(onProgress),
    remedy: "Pass (fraction, what) => …, or leave onProgress out.",
  });
}

/** Measure the numbers, and keep them. */
async function tuneNumbers(
  onGpu: boolean,
  { device: given, onProgress, signal }: TuneOptions,
): Promise<Omit<Tuned, "path">> {
  const report = (what: string, fraction: number): void => {
    signal?.throwIfAborted();
    // Rows that are measured again leave the fraction where it is.
    onProgress?.(Math.min(fraction, 0.99), what);
  };
  let done = 0;
  const gpu = onGpu ? await openGpu(given) : undefined;
  const instructions = bestInstructions();
  const { device: found, defaults } = await (gpu
    ? (await import("./gpu.ts")).measureGpu(gpu, given, report)
    : measureCpu(instructions, (what) => report(what, done++ / cpuMeasurements)));
  signal?.throwIfAborted();
  const device = { ...found, source: measuredNow() };
  keepDevice(gpu?.key ?? instructions, device);
  return { device, keptDefaults: defaults, plans: [] };
}

/** Time the plans of each problem, and keep the fastest. */
async function tunePlans(
  tasks: readonly Task[],
  { onProgress, signal }: TuneOptions,
): Promise<Omit<Tuned, "path">> {
  const { backend, device: given } = tasks[0]!.options;
  const gpu = backend === "webgpu" ? await openGpu(given) : undefined;
  const machine = gpu?.key ?? bestInstructions();
  const plans: TunedPlan[] = [];
  for (const [i, task] of tasks.entries()) {
    const { rows, threads, ...tuned } = await timePlans(task, (plan, fraction) => {
      signal?.throwIfAborted();
      onProgress?.((i + fraction) / tasks.length, `${show(task.problem.length)} samples: ${plan}`);
    });
    const { problem, plan, ms } = tuned;
    const plannedFor = gpu ? plannedOn(gpu.limits(usualWorkspace), tuned) : { rows, threads };
    keepPlan(machine, problem, plannedFor, { plan, ms, source: measuredNow() });
    plans.push(tuned);
  }
  const device = gpu ? gpuDeviceFor(gpu) : deviceFor(bestInstructions());
  return { device, keptDefaults: [], plans };
}

/** Problems, checked. */
function tasksOf(
  problems: readonly TuneProblem[],
  backend: "cpu" | "webgpu",
  device: GpuDevice | undefined,
): Task[] {
  if (!Array.isArray(problems) || problems.length === 0) {
    throw new InvalidArgumentError({
      call,
      requirement: "problems must be an array of at least one",
      value: show(problems),
      remedy: "Pass [{ length: L, … }], or leave problems out to measure the machine's numbers.",
    });
  }
  return problems.map((given: TuneProblem): Task => {
    const problem = createProblem(given, call);
    known(given, taskNames, call, "a problem");
    const usual = usualRows[backend === "cpu" ? "cpu" : "gpu"];
    const { gates = false, ...own } = given;
    checkFlags(given, ["gates"], call);
    if (backend === "webgpu" && own.threads !== undefined) {
      throw new InvalidArgumentError({
        call,
        requirement: "threads belongs to backend 'cpu'",
        value: `threads ${show(own.threads)} with backend 'webgpu'`,
        remedy: "Leave one of the two out.",
      });
    }
    const { batch = usual.batch, channels = usual.channels } = own;
    integer(call, "batch", batch, 1, 2 ** 31);
    integer(call, "channels", channels, 1, 2 ** 31);
    const options = { ...own, batch, channels, backend, ...(device && { device }) };
    return { problem, options, gates };
  });
}
