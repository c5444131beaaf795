/** `flashfftconv plan`: which plan is chosen for a shape, what it should cost, and why the others lost. */
import { dtypes } from "../../dtype.ts";
import { FlashFFTConv } from "../../index.ts";
import { createProblem, maxLength } from "../../plan/problem.ts";
import { type Command, exitCodes, shared, sharedChoices, type Values } from "../options.ts";

export const planCommand: Command = {
  name: "plan",
  summary: "show the plan for a shape, its predicted time, and why the others lost",
  options: [
    { name: "length", value: "L", required: true, help: "samples of one input row, such as 65536 or 64K" },
    { name: "kernel-length", value: "K", help: "taps of one kernel row (default: L; 2L for bidirectional)" },
    { ...shared.mode, help: `${shared.mode.help} (default: causal)` },
    shared.period,
    { name: "dtype", value: "TYPE", help: `${dtypes.join(", ")} (default: float32)` },
    shared.batch,
    shared.channels,
    shared.threads,
    shared.instructions,
  ],
  notes: `
Predictions rest on numbers of this machine once 'flashfftconv tune' has measured them, on defaults before.

example:
  flashfftconv plan --length 64K --channels 64`,
  run: async (values, context) => {
    const options = shapeOptions(values);
    using conv = await FlashFFTConv.create(options);
    const explanation = conv.explain();
    if (context.json) {
      const { threads, instructions, problem } = conv;
      const { batch, channels } = options;
      const record = { command: "plan", ...problem, batch, channels, threads, instructions, ...explanation };
      context.stdout.write(`${JSON.stringify(record)}\n`);
    } else {
      context.stdout.write(`${String(explanation).trimEnd()}\n`);
    }
    return exitCodes.done;
  },
};

function shapeOptions(values: Values): Parameters<typeof FlashFFTConv.create>[0] & { batch: number; channels: number } {
  const { mode, dtype, period, threads, instructions } = sharedChoices(values);
  const kernelLength = values.integer("kernel-length", 1, 2 * maxLength);
  const shape = {
    length: values.integer("length", 1, maxLength)!,
    ...(kernelLength !== undefined && { kernelLength }),
    ...(mode !== undefined && { mode }),
    ...(dtype !== undefined && { dtype }),
    ...(period !== undefined && { period }),
  };
  createProblem(shape, values.call);
  return {
    ...shape,
    batch: values.integer("batch", 1, 2 ** 24) ?? 1,
    channels: values.integer("channels", 1, 2 ** 24) ?? 1,
    ...(threads !== undefined && { threads }),
    ...(instructions !== undefined && { instructions }),
  };
}
