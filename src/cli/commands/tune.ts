/** `flashfftconv tune`: measure what the cost model needs to know of this machine, and keep it. */
import { tune } from "../../conv/tune.ts";
import { type Command, exitCodes } from "../options.ts";
import { table, threeDigits } from "../report.ts";

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
    const rows = Object.entries(device).map(([name, value]) => [
      name,
      typeof value === "number" ? number(value) : String(value),
    ]);
    context.stdout.write(`${table(["number", "value"], rows)}\nkept in ${path}\n`);
    return exitCodes.done;
  },
};

function number(value: number): string {
  const magnitude = Math.abs(value);
  if (Number.isInteger(value) && magnitude < 1e9) return value.toLocaleString("en-US");
  return magnitude >= 1e-3 && magnitude < 1e6 ? threeDigits(value) : value.toExponential(2);
}
