/** Measures the numbers of a GPU's cost model: whole convolutions on the device, under plans that differ (`fit-gpu.ts`). */
import type { WebGpuBackend } from "../backend/webgpu/device.ts";
import { usualWorkspace } from "../calls/runtime.ts";
import { FlashFFTConv } from "../conv/conv.ts";
import type { GpuDevice } from "../gpu.ts";
import type { DeviceSpec } from "../plan/device.ts";
import { defaultGpu } from "../plan/device.ts";
import { CallTiming } from "./call-timing.ts";
import { fitGpu, gpuRows, type TimedGpuRow } from "./fit-gpu.ts";
import { measured } from "./repeat.ts";

/** Milliseconds of a call that tell of a device: launches are little of it, and there is time for twenty rows of some calls. */
const wantedMs = 8;
/** Samples of a call, at least a row of them: to what no cache holds. */
const [fewestSamples, mostSamples] = [2 ** 14, 2 ** 24];
/** Milliseconds for each timing. */
const eachMs = 200;
/** Less than any call takes: what a difference of two times may come to where something else disturbs them. */
const leastSeconds = 1e-7;

/** How many times the samples of a call are taken at once, at most: its time says little of much longer ones. */
const mostGrowth = 16;

const powerBelow = (x: number): number => 2 ** Math.floor(Math.log2(x));

/** Seconds of a call. */
async function rowSeconds(
  { problem, plan, workload }: TimedGpuRow,
  device: GpuDevice | undefined,
): Promise<number> {
  const { length, dtype } = problem;
  const own = device === undefined ? {} : { device };
  const options = { ...workload, ...own, length, dtype, plan, backend: "webgpu" } as const;
  const timing = new CallTiming(problem, { ...workload, gates: true });
  const conv = await FlashFFTConv.createFor(options, "tune");
  try {
    return Math.max(leastSeconds, (await timing.ms(conv, eachMs)) / 1e3);
  } finally {
    conv.dispose();
    timing.free();
  }
}

/** Measure the GPU of a backend; `onRow` hears of each row, and of which part of all it begins. */
export async function measureGpu(
  backend: WebGpuBackend,
  device: GpuDevice | undefined,
  onRow: (what: string, fraction: number) => void,
): Promise<{ readonly device: DeviceSpec; readonly defaults: readonly string[] }> {
  const limits = backend.limits(usualWorkspace);
  const room = Math.min(mostSamples, powerBelow(limits.bindingBytes / 4));
  let count = fewestSamples;
  for (;;) {
    const first = gpuRows(defaultGpu, limits, count).find((r) => r.problem.length === 2048)!;
    onRow("how many rows to take", 0);
    const ms = 1e3 * (await rowSeconds(first, device));
    // A short call takes longer than its samples, so that many more of them may be taken than it says.
    const wanted = powerBelow((count * wantedMs) / ms);
    if (count === room || wanted <= count) break;
    count = Math.min(room, wanted, mostGrowth * count);
  }
  const rows = gpuRows(defaultGpu, limits, count);
  let done = 1;
  const { device: found, defaults } = await measured(
    rows.map(({ what }) => what),
    (what) => {
      onRow(what, done++ / (rows.length + 1));
      return rowSeconds(rows.find((row) => row.what === what)!, device);
    },
    (seconds) => fitGpu(rows, seconds, defaultGpu, limits),
  );
  return { device: { ...found, name: `this machine, ${backend.name}` }, defaults };
}
