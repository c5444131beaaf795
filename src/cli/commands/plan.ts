/** `flashfftconv plan`: which plan is chosen for a shape, what it should cost, and why the others lost. */

import type { Explanation } from "../../conv/explain.ts";
import { dtypes } from "../../dtype.ts";
import { maxLength } from "../../plan/problem.ts";
import { backendOf, openConv, problemOf } from "../open-conv.ts";
import { type Command, exitCodes, shared, sharedChoices } from "../options.ts";
import { duration, jsonLine } from "../report.ts";

/** What the columns of the table are, and how a plan reads. */
const legends: Readonly<Record<Explanation["backend"], string>> = {
  cpu: `
▶ is the plan in use. call: one forward call, on all threads, of all rows, with
the kernel's spectrum kept. row: one row on one thread, which is arithmetic with
data at hand, traffic through memory, and overhead of calls and loops.
A plan: complex points of the transform, then the radices of its stages, 4·4·4;
after | those of a level that works in a nearer cache, /N in tiles of N points,
+N with N bytes of padding. & joins transforms that each do a part (cyclic: the
factors of a circular convolution), @N cuts rows into blocks of N outputs,
direct K sums K taps without a transform.`,
  webgpu: `
▶ is the plan in use. call: one forward call of all rows, the kernel transformed
too. row: one row's share, which is arithmetic, traffic through memory, overhead.
A plan: how real samples become complex points (halves, rows or neighbours), how
many those are, and, with | between, the passes through memory: radices of their
stages, 8·8·8, /N columns side by side, ×T threads of a workgroup and ·N tiles,
split or quarter where threads exchange points in parts. hop N cuts rows into
blocks of N outputs, direct K sums K taps without a transform.`,
};

/** What a call should take: the first thing to know of a plan. */
function headline({ chosen, measured, workload }: Explanation): string {
  const rows = workload.rows === 1 ? "1 row" : `${workload.rows.toLocaleString("en-US")} rows`;
  const predicted = `predicted ${duration(chosen.predictedMs)}`;
  const time = measured ? `measured ${duration(measured.ms)}, ${predicted}` : predicted;
  return `${time} for a forward call of ${rows}, with plan ${chosen.plan}`;
}

export const planCommand: Command = {
  name: "plan",
  summary: "show a shape's plan, its predicted time, and why others lost",
  options: [
    {
      name: "length",
      value: "L",
      required: true,
      help: "samples of one input row, such as 65536 or 64K",
    },
    shared.kernelLength,
    { ...shared.mode, help: `${shared.mode.help} (default: causal)` },
    shared.period,
    { name: "dtype", value: "TYPE", help: `${dtypes.join(", ")} (default: float32)` },
    shared.batch,
    shared.channels,
    shared.backend,
    shared.threads,
    shared.instructions,
  ],
  notes: `
Predictions rest on numbers of this machine once 'flashfftconv tune' (for a GPU 'flashfftconv tune --backend webgpu') has
measured them; before, on defaults: those of an AMD EPYC, and of an NVIDIA H200.

example:
  flashfftconv plan --length 64K --channels 64`,
  run: async (values, context) => {
    const { mode, dtype, period, ...how } = sharedChoices(values);
    const length = values.integer("length", 1, maxLength)!;
    const kernelLength = values.integer("kernel-length", 1, 2 * maxLength);
    const problem = problemOf({ mode, length, kernelLength, dtype, period }, values.call);
    const batch = values.integer("batch", 1, 2 ** 24) ?? 1;
    const channels = values.integer("channels", 1, 2 ** 24) ?? 1;
    using conv = await openConv(problem, batch, channels, how, values.call);
    const explanation = conv.explain();
    if (context.json) {
      const { threads, instructions } = conv;
      const engine = { backend: backendOf(conv), threads, instructions };
      const record = { command: "plan", ...problem, batch, channels, ...engine };
      context.stdout.write(jsonLine({ ...record, ...explanation }));
    } else {
      const text = String(explanation).trimEnd();
      const legend = legends[explanation.backend].trim();
      context.stdout.write(`${headline(explanation)}\n${text}\n\n${legend}\n`);
    }
    return exitCodes.done;
  },
};
