/** `flashfftconv tune`: measure what the cost model needs to know of this machine, and keep it. */
import { tune } from "../../conv/tune.ts";
import type { DeviceSpec } from "../../plan/device.ts";
import { type Command, exitCodes } from "../options.ts";
import { bytes, duration, table, threeDigits } from "../report.ts";

export const tuneCommand: Command = {
  name: "tune",
  summary: "measure this machine and keep the numbers for the planner",
  options: [],
  notes: `
The numbers go to a file in the user's cache folder, whose path is printed; later plans rest on them. Run it while
nothing else is busy, and again after a change of processor or of Node.`,
  run: async (_values, context) => {
    context.progress.update("measuring");
    const { device, path, keptDefaults } = await tune({
      onProgress: (fraction, what) => context.progress.update(what, fraction),
      signal: context.signal,
    });
    context.progress.clear();
    if (keptDefaults.length > 0) {
      context.progress.say(
        `flashfftconv tune: kept the default for ${keptDefaults.join(", ")}: the machine was busy. Run it again when nothing else runs.`,
      );
    }
    if (context.json) {
      const record = { command: "tune", path, device, kept_defaults: keptDefaults };
      context.stdout.write(`${JSON.stringify(record)}\n`);
      return exitCodes.done;
    }
    context.stdout.write(
      `${table(["number", "value", "from"], rowsOf(device, keptDefaults))}\nkept in ${path}\n`,
    );
    return exitCodes.done;
  },
};

/** Every number that tuning measures, with where it comes from, then those that it takes from the default machine. */
function rowsOf(device: DeviceSpec, keptDefaults: readonly string[]): string[][] {
  const from = (name: string): string =>
    keptDefaults.includes(name) ? "default: the machine was busy" : "measured";
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
