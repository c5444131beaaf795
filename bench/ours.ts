/** FlashFFTConv as a contender. */
import { FlashFFTConv, type Frequencies } from "../src/index.ts";
import type { Contender, Workload } from "./workload.ts";

export interface OursOptions {
  readonly threads: number;
  /** `resident` by default. */
  readonly data?: Contender["data"];
  /** `forward` by default. */
  readonly pass?: Contender["pass"];
  /** One of the planner's candidates instead of the plan it chooses. */
  readonly plan?: string;
  /** Keep only these. */
  readonly frequencies?: Frequencies;
}

/** The spectrum of the kernel kept; `resident`: inputs, gates and output in the backend's memory, nothing copied. */
export async function openOurs(workload: Workload, options: OursOptions): Promise<Contender> {
  const { mode, batch, channels, length, kernelLength, rows, u, k, gate } = workload;
  const { threads, data = "resident", pass = "forward", plan, frequencies } = options;
  const conv = await FlashFFTConv.create({
    ...{ mode, length, kernelLength, threads, batch, channels },
    ...(plan !== undefined && { plan }),
    ...(frequencies && { frequencies }),
  });
  const kernel = await conv.prepareKernel(k);
  const place = (values: Float32Array): Float32Array => {
    if (data === "arrays") return values;
    const resident = conv.allocateInput(batch, channels);
    resident.set(values);
    return resident;
  };
  const input = place(u);
  const gates = pass === "forward" ? undefined : place(gate);
  const { outputLength } = conv.problem;
  const width = pass === "backward" ? length : outputLength;
  const allocate = pass === "backward" ? conv.allocateInput : conv.allocateOutput;
  const answer =
    data === "resident"
      ? (allocate.call(conv, batch, channels) as Float32Array)
      : new Float32Array(rows * width);
  const dk = new Float32Array(pass === "backward" ? k.length : 0);
  const gradients = { out: { du: answer, dk } };
  const forwardOptions = {
    out: answer,
    ...(pass === "gated" && gates && { pregate: gates, postgate: gates }),
  };
  const { chosen } = conv.explain();
  return {
    name: "ours",
    threads: conv.threads,
    data,
    rows,
    pass,
    // Time for the threads of the pool to fall asleep.
    settleMs: threads > 1 ? 2 : 0,
    plan: plan ?? chosen.plan,
    predictedMs: chosen.predictedMs,
    workspaceBytes: () => conv.memory().workspaceBytes,
    run: () =>
      pass === "backward"
        ? conv.backward(gates!, input, kernel, gradients)
        : conv.forward(input, kernel, forwardOptions),
    answer: (row) => answer.subarray(row * width, (row + 1) * width),
    ...(pass === "backward" && {
      kernelGradient: (channel: number) =>
        dk.subarray(channel * kernelLength, (channel + 1) * kernelLength),
    }),
    dispose: () => conv.dispose(),
  };
}

/** The planner's candidates for a workload, cheapest predicted first. */
export async function candidatePlans(
  workload: Workload,
  threads: number,
): Promise<{ chosen: string; candidates: readonly { plan: string; predictedMs: number }[] }> {
  const { mode, batch, channels, length, kernelLength } = workload;
  const conv = await FlashFFTConv.create({ mode, length, kernelLength, threads, batch, channels });
  const { chosen, candidates } = conv.explain();
  conv.dispose();
  return { chosen: chosen.plan, candidates };
}

/** Which instructions the runtime gives us: `relaxed-simd`, `simd` or `javascript`. */
export async function instructionsInUse(): Promise<string> {
  const conv = await FlashFFTConv.create({ length: 16, threads: 1 });
  const { instructions } = conv;
  conv.dispose();
  return instructions;
}
