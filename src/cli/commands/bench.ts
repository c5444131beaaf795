/**
 * `flashfftconv bench`: how fast this machine convolves, at a few shapes, answers checked first. Comparisons with other
 * libraries are the repository's `npm run bench`, where those are installed.
 */

import type { PreparedKernel } from "../../calls/prepared.ts";
import type { FlashFFTConv } from "../../conv/conv.ts";
import { type Dtype, decode, dtypes, encode } from "../../dtype.ts";
import { maxLength, type Problem } from "../../plan/problem.ts";
import { compare, planBound } from "../../reference/accuracy.ts";
import { oracleForward } from "../../reference/convolution.ts";
import { normalSamples, normalSource } from "../../reference/random.ts";
import type { GpuTensor } from "../../tensors/tensor.ts";
import { medianMs } from "../../tune/call-timing.ts";
import { GpuTiming } from "../../tune/gpu-timing.ts";
import { backendOf, type ComputeChoice, openConv, problemOf } from "../open-conv.ts";
import { type Command, exitCodes, shared, sharedChoices, type Values } from "../options.ts";
import { duration, jsonLine, table, threeDigits } from "../report.ts";

const defaultLengths = "1K,4K,16K,64K,512K";

export const benchCommand: Command = {
  name: "bench",
  summary: "time convolutions on this machine",
  options: [
    {
      name: "length",
      value: "L,…",
      help: `lengths, with commas between (default: ${defaultLengths})`,
    },
    shared.kernelLength,
    { ...shared.mode, help: `${shared.mode.help} (default: causal)` },
    shared.period,
    { name: "dtype", value: "TYPE", help: `${dtypes.join(", ")} (default: float32)` },
    shared.batch,
    { ...shared.channels, help: "kernels, one a channel (default: 64)" },
    { name: "gates", help: "with a pregate and a postgate" },
    { name: "backward", help: "time the gradients too" },
    { name: "seconds", value: "S", help: "time to spend on each number, such as 0.5 (default: 1)" },
    shared.backend,
    shared.threads,
    shared.instructions,
  ],
  notes: `
Times are medians of repeated calls with the kernel's spectrum kept; on a GPU, of the device, with all tensors in its
memory, where predictions are of calls that transform the kernel too. The first and the last row of each answer are
compared with the float64 oracle before anything is timed; an error above its bound makes the exit code 1.

examples:
  flashfftconv bench
  flashfftconv bench --length 1M --channels 1 --threads 1
  flashfftconv bench --backend webgpu --dtype float16 --batch 8 --channels 768`,
  run: async (values, context) => {
    const settings = readSettings(values);
    const measurements: Measurement[] = [];
    for (const [i, problem] of settings.problems.entries()) {
      context.signal.throwIfAborted();
      const length = problem.length.toLocaleString("en-US");
      const measured = await measure(problem, settings, (what) =>
        context.progress.update(`L = ${length}: ${what}`, i / settings.problems.length),
      );
      measurements.push(measured);
      if (context.json) context.stdout.write(jsonLine(measured));
    }
    context.progress.clear();
    const wrong = measurements.filter(({ passed }) => !passed);
    if (!context.json) {
      context.stdout.write(tableOf(measurements));
      const hint = tuneHint(measurements);
      if (hint) context.stdout.write(`${hint}\n`);
      for (const { L } of wrong) {
        context.stdout.write(
          `L = ${L}: the error is above its bound; see flashfftconv verify --length ${L}\n`,
        );
      }
    }
    return wrong.length === 0 ? exitCodes.done : exitCodes.failed;
  },
};

interface Settings {
  /** How errors name the command. */
  readonly call: string;
  readonly problems: readonly Problem[];
  readonly batch: number;
  readonly channels: number;
  readonly gates: boolean;
  readonly backward: boolean;
  /** Milliseconds for each number. */
  readonly budget: number;
  readonly how: ComputeChoice;
}

/** One line of the table and of --json. */
interface Measurement {
  readonly command: "bench";
  readonly mode: string;
  readonly B: number;
  readonly H: number;
  readonly L: number;
  readonly K: number;
  readonly dtype: string;
  readonly gates: boolean;
  readonly backend: "cpu" | "webgpu";
  readonly threads: number;
  readonly instructions: string;
  readonly ours_ms: number;
  readonly backward_ms?: number;
  readonly rel_error: number;
  readonly passed: boolean;
  readonly plan: string;
  readonly predicted_ms: number;
}

function readSettings(values: Values): Settings {
  const { mode, dtype, period, ...how } = sharedChoices(values);
  const kernelLength = values.integer("kernel-length", 1, 2 * maxLength);
  const lengths = values.integers("length", 1, maxLength, defaultLengths);
  const problems = lengths.map((length) =>
    problemOf({ mode, length, kernelLength, dtype, period }, values.call),
  );
  return {
    call: values.call,
    problems,
    batch: values.integer("batch", 1, 2 ** 24) ?? 1,
    channels: values.integer("channels", 1, 2 ** 24) ?? 64,
    gates: values.has("gates"),
    backward: values.has("backward"),
    budget: 1000 * (values.number("seconds", 0.01, 3600) ?? 1),
    how,
  };
}

async function measure(
  problem: Problem,
  settings: Settings,
  onStep: (what: string) => void,
): Promise<Measurement> {
  const { batch, channels } = settings;
  const { mode, dtype, length, kernelLength, outputLength } = problem;
  using conv = await openConv(problem, batch, channels, settings.how, settings.call);
  onStep("drawing random samples");
  const source = normalSource(1);
  const fill = (target: ReturnType<typeof conv.allocateInput>) => {
    // Half-precision arrays may take bits or numbers; a block is encoded once and laid out again and again.
    const block = encode(normalSamples(source, Math.min(target.length, 65_537)), dtype);
    const view =
      dtype === "float32"
        ? (target as Float32Array)
        : new Uint16Array(target.buffer, target.byteOffset, target.length);
    for (let i = 0; i < view.length; i += block.length)
      view.set(block.subarray(0, view.length - i), i);
    return target;
  };
  const u = fill(conv.allocateInput(batch, channels));
  const k = Float32Array.from(normalSamples(source, channels * kernelLength));
  const gates = settings.gates && {
    pregate: fill(conv.allocateInput(batch, channels)),
    postgate: fill(conv.allocateOutput(batch, channels)),
  };
  const out = conv.allocateOutput(batch, channels);
  const kernel = await conv.prepareKernel(k);
  onStep("checking the answer");
  await conv.forward(u, kernel, { out, ...gates });
  const rows = batch * channels;
  const checked = [0, rows - 1].map((row) => {
    const part = (values: typeof u, size: number) => values.subarray(row * size, (row + 1) * size);
    const channel = row % channels;
    const exact = oracleForward(problem, {
      ...{ batch: 1, channels: 1, u: decode(part(u, length), dtype) },
      k: Float64Array.from(k.subarray(channel * kernelLength, (channel + 1) * kernelLength)),
      ...(gates && {
        pregate: decode(part(gates.pregate, length), dtype),
        postgate: decode(part(gates.postgate, outputLength), dtype),
      }),
    });
    const bound = planBound("y", problem, batch, conv.explain().chosen.plan);
    const actual = part(out, outputLength);
    return compare({ quantity: "y", actual, exact, rowLength: outputLength, dtype, bound });
  });
  const worst = checked.reduce((a, b) => (a.error / a.bound >= b.error / b.bound ? a : b));
  const dy = settings.backward ? fill(conv.allocateOutput(batch, channels)) : undefined;
  const operands = { u, kernel, out, gates: gates || {}, dy };
  const time = conv.device ? timeOnGpu : timeOnCpu;
  const [forward, backward] = await time(conv, operands, settings, onStep);
  const { plan, predictedMs } = conv.explain().chosen;
  return {
    ...{ command: "bench", mode, B: batch, H: channels, L: length, K: kernelLength, dtype },
    ...{ gates: settings.gates, backend: backendOf(conv) },
    ...{ threads: conv.threads, instructions: conv.instructions },
    ...{ ours_ms: forward, ...(backward !== undefined && { backward_ms: backward }) },
    ...{ rel_error: worst.error, passed: checked.every(({ passed }) => passed) },
    ...{ plan, predicted_ms: predictedMs },
  };
}

/** What is timed: forward, and backward where there is a dy. */
interface BenchOperands {
  readonly u: BenchSamples;
  readonly kernel: PreparedKernel;
  readonly out: BenchSamples;
  readonly gates: { readonly pregate?: BenchSamples; readonly postgate?: BenchSamples };
  readonly dy: BenchSamples | undefined;
}
type BenchSamples = Float32Array | Uint16Array;

/** Milliseconds of forward and of backward. */
type BenchTimes = readonly [forward: number, backward: number | undefined];

async function timeOnCpu(
  conv: FlashFFTConv<Dtype>,
  { u, kernel, out, gates, dy }: BenchOperands,
  { budget }: Settings,
  onStep: (what: string) => void,
): Promise<BenchTimes> {
  onStep("timing forward");
  const forward = await medianMs(budget, () => conv.forward(u, kernel, { out, ...gates }));
  if (!dy) return [forward, undefined];
  onStep("timing backward");
  return [forward, await medianMs(budget, () => conv.backward(dy, u, kernel, { ...gates }))];
}

async function timeOnGpu(
  conv: FlashFFTConv<Dtype>,
  { u, kernel, out, gates, dy }: BenchOperands,
  { call, batch, channels, budget }: Settings,
  onStep: (what: string) => void,
): Promise<BenchTimes> {
  const { length, kernelLength, outputLength } = conv.problem;
  const gpu = new GpuTiming(conv.device!, call);
  const onGpu = (samples: BenchSamples, width: number): Promise<GpuTensor> =>
    gpu.upload(samples, [batch, channels, width]);
  try {
    const x = await onGpu(u, length);
    const y = await onGpu(out, outputLength);
    const both = {
      ...(gates.pregate && { pregate: await onGpu(gates.pregate, length) }),
      ...(gates.postgate && { postgate: await onGpu(gates.postgate, outputLength) }),
    };
    onStep("timing forward");
    const forward = await gpu.median(budget, (encoder) =>
      conv.forward(x, kernel, { ...both, out: y, encoder }),
    );
    if (!dy) return [forward, undefined];
    const upstream = await onGpu(dy, outputLength);
    const gradients = {
      du: await onGpu(u, length),
      dk: await gpu.upload(new Float32Array(channels * kernelLength), [channels, kernelLength]),
      ...(gates.pregate && { dpregate: await onGpu(u, length) }),
      ...(gates.postgate && { dpostgate: await onGpu(out, outputLength) }),
    };
    onStep("timing backward");
    const backward = await gpu.median(budget, (encoder) =>
      conv.backward(upstream, x, kernel, { ...both, out: gradients, encoder }),
    );
    return [forward, backward];
  } finally {
    gpu.free();
  }
}

/** By what factor predictions may err before plans that rest on them are in doubt. */
const largestMiss = 1.5;

/** What to do where predictions are far off. */
export function tuneHint(
  measurements: readonly Pick<Measurement, "backend" | "ours_ms" | "predicted_ms">[],
): string | undefined {
  const misses = measurements.map(({ backend, ours_ms: ours, predicted_ms: predicted }) =>
    // A GPU's prediction is of a call that transforms the kernel too: less than that is no miss.
    backend === "webgpu" ? ours / predicted : Math.max(ours / predicted, predicted / ours),
  );
  const worst = Math.max(...misses);
  if (worst <= largestMiss) return undefined;
  const where = measurements[0]!.backend === "webgpu" ? " --backend webgpu" : "";
  return `predictions are off by a factor of up to ${threeDigits(worst)}: run 'flashfftconv tune${where}' while nothing else is busy, and plans rest on this machine's numbers`;
}

function tableOf(measurements: readonly Measurement[]): string {
  const columns: readonly (readonly [string, (m: Measurement) => string])[] = [
    ["mode", (m) => m.mode],
    ["B", (m) => m.B.toLocaleString("en-US")],
    ["H", (m) => m.H.toLocaleString("en-US")],
    ["L", (m) => m.L.toLocaleString("en-US")],
    ["K", (m) => m.K.toLocaleString("en-US")],
    ["dtype", (m) => m.dtype],
    ["threads", (m) => (m.backend === "cpu" ? String(m.threads) : "GPU")],
    ["forward", (m) => duration(m.ours_ms)],
    ["ns/sample", (m) => threeDigits((1e6 * m.ours_ms) / (m.B * m.H * m.L))],
    ["predicted", (m) => duration(m.predicted_ms)],
    ["backward", (m) => (m.backward_ms === undefined ? "" : duration(m.backward_ms))],
    ["error", (m) => m.rel_error.toExponential(1)],
    ["plan", (m) => m.plan],
  ];
  const shown = columns.filter(([, cell]) => measurements.some((m) => cell(m) !== ""));
  return table(
    shown.map(([heading]) => heading),
    measurements.map((m) => shown.map(([, cell]) => cell(m))),
  );
}
