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
    const { device, path } = await tune({
      onProgress: (fraction, what) => context.progress.update(what, fraction),
      signal: context.signal,
    });
    context.progress.clear();
    if (context.json) {
      context.stdout.write(`${JSON.stringify({ command: "tune", path, device })}\n`);
      return exitCodes.done;
    }
    context.stdout.write(
      `${table(["number", "value", "from"], rowsOf(device))}\nkept in ${path}\n`,
    );
    return exitCodes.done;
  },
};

/** Every number that tuning measured, then those that it takes from the default machine. */
function rowsOf(device: DeviceSpec): string[][] {
  const [first, ...swept] = device.memory.map(({ name, bytes: size, bandwidth }) => [
    Number.isFinite(size) ? `${name}, to ${bytes(size)}` : name,
    `${threeDigits(bandwidth / 1e9)} GB/s`,
  ]);
  const measured = [
    ...Object.entries(device.butterflySeconds).map(([radix, seconds]) => [
      `a stage of radix ${radix}, for a point`,
      duration(1000 * seconds),
    ]),
    ["all else, for a point", duration(1000 * device.pointSeconds)],
    ...swept,
    ["starting a row", duration(1000 * device.rowSeconds)],
  ];
  const taken = [
    first!,
    ["starting a loop", duration(1000 * device.loopSeconds)],
    ["calling the other threads", duration(1000 * device.dispatchSeconds)],
  ];
  return [
    ...measured.map((row) => [...row, "measured"]),
    ...taken.map((row) => [...row, "default"]),
  ];
}
