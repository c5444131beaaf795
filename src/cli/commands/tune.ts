/** `flashfftconv tune`: measure what the planner needs to know of this machine, or the plans of a shape, and keep it. */

import { dtypes } from "../../dtype.ts";
import { InvalidArgumentError } from "../../errors.ts";
import type { DeviceSpec } from "../../plan/device.ts";
import { maxLength } from "../../plan/problem.ts";
import { escaped, printable } from "../../show.ts";
import type { TunedPlan, TuneProblem } from "../../tune/plans.ts";
import { type Tuned, tune } from "../../tune/tune.ts";
import {
  type Command,
  defined,
  exitCodes,
  shared,
  sharedChoices,
  type Values,
} from "../options.ts";
import { bytes, duration, jsonLine, table, threeDigits } from "../report.ts";

export const tuneCommand: Command = {
  name: "tune",
  summary: "measure this machine and keep the numbers for the planner",
  options: [
    shared.backend,
    {
      name: "length",
      value: "L,…",
      help: "time the best plans for rows of so many samples, instead of the machine's numbers",
    },
    shared.kernelLength,
    { ...shared.mode, help: `${shared.mode.help} (default: causal)` },
    shared.period,
    { name: "dtype", value: "TYPE", help: `${dtypes.join(", ")} (default: float32)` },
    { ...shared.batch, help: "sequences that share the kernels (default: 1, on a GPU 8)" },
    { ...shared.channels, help: "kernels, one a channel (default: 16, on a GPU 1,024)" },
    { name: "gates", help: "time calls with a pregate and a postgate" },
    shared.threads,
  ],
  notes: `
The numbers go to a file in the user's cache folder, whose path is printed; later plans rest on them. Those of a GPU are kept
under its name. Run it while nothing else is busy, and again after a change of processor or of Node.

With --length, the plans that should be the best for that shape are timed one beside the other, answers checked first. The fastest
is kept in the same file, and taken wherever FlashFFTConv.create is asked for the same shape, type, rows and threads. All rows of
a call must fit memory: long ones on a GPU need --batch and --channels.

examples:
  flashfftconv tune
  flashfftconv tune --backend webgpu
  flashfftconv tune --backend webgpu --length 4K,64K --batch 8 --channels 768`,
  run: async (values, context) => {
    const { backend } = sharedChoices(values);
    const problems = problemsOf(values);
    context.progress.update("measuring");
    const tuned = await tune({
      ...defined({ backend, problems }),
      onProgress: (fraction, what) => context.progress.update(what, fraction),
      signal: context.signal,
    });
    context.progress.clear();
    const { device, path, keptDefaults, plans } = tuned;
    if (keptDefaults.length > 0) {
      context.progress.say(
        `flashfftconv tune: kept the default for ${keptDefaults.join(", ")}: the machine was busy. Run it again when nothing else runs.`,
      );
    }
    if (context.json) {
      const record = problems
        ? { command: "tune", path, plans }
        : { command: "tune", path, device, kept_defaults: keptDefaults };
      context.stdout.write(jsonLine(record));
      return exitCodes.done;
    }
    const text = problems ? plans.map(tableOfPlans).join("\n") : tableOfNumbers(tuned);
    context.stdout.write(`${text}\nkept in ${escaped(path)}\n`);
    return exitCodes.done;
  },
};

/** Options that say nothing without a length. */
const ofLength = [
  ...["kernel-length", "mode", "period", "dtype", "batch", "channels", "gates", "threads"],
];

/** The problems that the user asks for; undefined where the machine's numbers are to be measured. */
function problemsOf(values: Values): TuneProblem[] | undefined {
  const { mode, dtype, period, threads } = sharedChoices(values);
  if (!values.has("length")) {
    const alone = ofLength.find((name) => values.has(name));
    if (alone === undefined) return undefined;
    throw new InvalidArgumentError({
      call: values.call,
      requirement: `--${alone} belongs to --length`,
      value: `--${alone} alone`,
      remedy: `Add --length, or leave --${alone} out to measure the machine's numbers.`,
    });
  }
  const kernelLength = values.integer("kernel-length", 1, 2 * maxLength);
  const batch = values.integer("batch", 1, 2 ** 24);
  const channels = values.integer("channels", 1, 2 ** 24);
  const gates = values.has("gates");
  return values.integers("length", 1, maxLength, "").map((length) => ({
    ...{ length, gates },
    ...defined({ mode, dtype, period, kernelLength, batch, channels, threads }),
  }));
}

/** The plans that were timed for a problem, the one that is kept first. */
function tableOfPlans({ problem, batch, channels, plan, candidates }: TunedPlan): string {
  const { mode, length, kernelLength, dtype } = problem;
  const count = (n: number): string => n.toLocaleString("en-US");
  const shape = `L ${count(length)}, K ${count(kernelLength)}, ${dtype}, B ${count(batch)}, H ${count(channels)}`;
  const rows = candidates.map((c) => [
    c.plan === plan ? "▶" : "",
    c.plan,
    duration(c.predictedMs),
    c.ms === undefined ? `failed: ${printable(c.failure ?? "")}` : duration(c.ms),
  ]);
  return `${mode} convolution, ${shape}\n${table(["", "plan", "predicted", "measured"], rows)}`;
}

/** The numbers of a machine, each with where it comes from. */
export function tableOfNumbers({
  device,
  keptDefaults,
}: Pick<Tuned, "device" | "keptDefaults">): string {
  const rows = device.busyThreads === undefined ? cpuRows : gpuRows;
  return table(["number", "value", "from"], rows(device, keptDefaults));
}

/** Where a number comes from. */
const origin =
  (keptDefaults: readonly string[]) =>
  (name: string): string =>
    keptDefaults.includes(name) ? "default: the machine was busy" : "measured";

/** Every number that tuning measures, with where it comes from, then those that it takes from the default machine. */
function cpuRows(device: DeviceSpec, keptDefaults: readonly string[]): string[][] {
  const from = origin(keptDefaults);
  const [first, ...swept] = device.memory.map(({ name, bytes: size, bandwidth }) => [
    Number.isFinite(size) ? `${name}, to ${bytes(size)}` : name,
    `${threeDigits(bandwidth / 1e9)} GB/s`,
    from(name),
  ]);
  return [
    ...Object.entries(device.butterflySeconds).map(([radix, seconds]) => [
      `a stage of radix ${radix}, for a point`,
      duration(1000 * seconds),
      from(`radix ${radix}`),
    ]),
    ["all else, for a point", duration(1000 * device.pointSeconds), from("points")],
    ...swept,
    ["starting a row", duration(1000 * device.rowSeconds), from("rows")],
    [...first!.slice(0, 2), "default"],
    ["starting a loop", duration(1000 * device.loopSeconds), "default"],
    ["calling the other threads", duration(1000 * device.dispatchSeconds), "default"],
  ];
}

/** What plans lose to each resource of a GPU, all of it: not what the chip's data sheet says. */
function gpuRows(device: DeviceSpec, keptDefaults: readonly string[]): string[][] {
  const from = origin(keptDefaults);
  const giga = (rate: number): string => threeDigits(rate / 1e9);
  return [
    ["butterflies", `${giga(device.generalFlops)} GFLOP/s`, from("arithmetic")],
    ["all else, for a point", `${threeDigits(device.pointSeconds * 1e12)} ps`, from("arithmetic")],
    ...device.memory.map(({ name, bandwidth }) => [
      name === "workgroup" ? "workgroup memory" : name,
      `${giga(bandwidth)} GB/s`,
      from(name),
    ]),
    ["a launch", duration(1000 * device.dispatchSeconds), from("launches")],
    ["threads that keep it busy", device.busyThreads!.toLocaleString("en-US"), from("threads")],
  ];
}
