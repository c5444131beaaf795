/**
 * Measures the numbers of the CPU's cost model. Every number comes from whole rows under plans that differ in one thing: a
 * radix more, a larger working set, more rows (`fit-cpu.ts`).
 */
import type { Instructions } from "../backend/cpu/features.ts";
import { openCpuFor } from "../calls/cpu-open.ts";
import { defaultDevice } from "../calls/measured.ts";
import { FlashFFTConv } from "../conv/conv.ts";
import { nodeModule } from "../node.ts";
import type { DeviceSpec } from "../plan/device.ts";
import { scaledDirect } from "../plan/device.ts";
import { type Fit, fitDevice, timedRows } from "./fit-cpu.ts";
import { measured } from "./repeat.ts";

const warmUp = 60;
const rounds = 15;

/** Least seconds of one row under a plan, one thread, spectrum kept, arrays in the backend's memory. */
async function rowSeconds(plan: string, instructions: Instructions): Promise<number> {
  const points = Number(plan.split(":")[0]);
  const rows = Math.max(1, Math.min(64, Math.floor(65_536 / points)));
  const conv = await FlashFFTConv.create({ length: points, threads: 1, instructions, plan });
  try {
    const u = conv.allocateInput(1, rows);
    const out = conv.allocateOutput(1, rows);
    const k = new Float32Array(rows * points);
    for (let i = 0; i < u.length; i++) u[i] = k[i] = Math.sin(i * i);
    const kernel = await conv.prepareKernel(k);
    const start = performance.now();
    for (let n = 0; n < 3 || performance.now() - start < warmUp; n++)
      await conv.forward(u, kernel, { out });
    const calls = Math.max(1, Math.floor(2 / ((performance.now() - start) / 30 + 0.01)));
    const times: number[] = [];
    for (let r = 0; r < rounds; r++) {
      const t = performance.now();
      for (let c = 0; c < calls; c++) await conv.forward(u, kernel, { out });
      times.push((performance.now() - t) / calls / rows / 1e3);
    }
    // The least: whatever else runs on the machine only ever adds.
    return Math.min(...times);
  } finally {
    conv.dispose();
  }
}

/** Cache sizes as Linux tells them; the defaults elsewhere. */
function cacheBytes(): Record<string, number> {
  const fs = nodeModule("node:fs");
  const out: Record<string, number> = {};
  for (let i = 0; i < 5; i++) {
    const folder = `/sys/devices/system/cpu/cpu0/cache/index${i}`;
    try {
      const level = fs!.readFileSync(`${folder}/level`, "utf8").trim();
      const kind = fs!.readFileSync(`${folder}/type`, "utf8").trim();
      const size = Number.parseInt(fs!.readFileSync(`${folder}/size`, "utf8"), 10);
      if (kind !== "Instruction") out[`L${level}`] = size * 1024;
    } catch {
      // Not Linux, or fewer caches.
      break;
    }
  }
  return out;
}

/**
 * Time rows and make a description of the times.
 * @throws UnsupportedError where most numbers cannot be measured.
 */
export function measureDevice(
  rowSeconds: (plan: string, what: string) => Promise<number>,
  reference: DeviceSpec,
  bytes: Readonly<Record<string, number>>,
): Promise<Fit> {
  const words = new Map(timedRows.map(({ plan, what }) => [plan, what]));
  return measured(
    [...words.keys()],
    (plan) => rowSeconds(plan, words.get(plan)!),
    (seconds) => fitDevice(seconds, reference, bytes),
  );
}

/** The instruction set that `auto` takes, which is the one that is measured: plain JavaScript where WebAssembly finds no memory. */
export function bestInstructions(): Instructions {
  return openCpuFor({}, "tune").backend.settings.instructions;
}

/** Rows that are timed, if none has to be again. */
export const cpuMeasurements: number = timedRows.length;

/** Measure an instruction set of this machine, one thread; `onRow` hears of each row. */
export async function measureCpu(
  instructions: Instructions,
  onRow: (what: string) => void,
): Promise<{ readonly device: DeviceSpec; readonly defaults: readonly string[] }> {
  const { device, defaults } = await measureDevice(
    (plan, what) => {
      onRow(what);
      return rowSeconds(plan, instructions);
    },
    defaultDevice(instructions),
    cacheBytes(),
  );
  const directSeconds = scaledDirect(defaultDevice(instructions), device.pointSeconds);
  return { device: { ...device, name: `this machine, ${instructions}`, directSeconds }, defaults };
}
