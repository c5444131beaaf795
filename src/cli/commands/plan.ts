/** `flashfftconv plan`: which plan is chosen for a shape, what it should cost, and why the others lost. */

import { dtypes } from "../../dtype.ts";
import { maxLength } from "../../plan/problem.ts";
import { type Command, exitCodes, shared, sharedChoices } from "../options.ts";
import { backendOf, openConv, problemOf } from "../request.ts";

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
      context.stdout.write(`${JSON.stringify({ ...record, ...explanation })}\n`);
    } else {
      context.stdout.write(`${String(explanation).trimEnd()}\n`);
    }
    return exitCodes.done;
  },
};
