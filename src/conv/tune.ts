/**
 * Measures the numbers of the cost model on this machine and keeps them in the user's cache folder. Every number comes
 * from whole rows under plans that differ in one thing: a radix more, a larger working set, more rows (`fit.ts`).
 */

import type { Instructions } from "../backend/features.ts";
import { features } from "../backend/features.ts";
import { UnsupportedError } from "../errors.ts";
import type { DeviceSpec } from "../plan/device.ts";
import { checkOptions } from "./arguments.ts";
import { FlashFFTConv } from "./conv.ts";
import { type Fit, fitDevice, timedRows } from "./fit.ts";
import { defaultDevice, keepDevice, scaledDirect } from "./wisdom.ts";

/** What tuning may be told and may tell. */
export interface TuneOptions {
  /** Called with the part done, 0 … 1, and what is measured next. */
  readonly onProgress?: (fraction: number, what: string) => void;
  /** Stops between measurements; nothing is kept then. */
  readonly signal?: AbortSignal;
}

/** What tuning found, and the file that keeps it. */
export interface Tuned {
  /** The measured description of this machine. */
  readonly device: DeviceSpec;
  /** The file that keeps it. */
  readonly path: string;
  /**
   * Numbers that could not be measured, because the machine was busy, and are the default machine's, arithmetic at this one's speed:
   * `"radix 3"`, a stage of that radix; `"points"`, all else for a point; `"rows"`, starting a row; `"L2"`, `"L3"` and `"DRAM"`.
   */
  readonly keptDefaults: readonly string[];
}

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

interface NodeFiles {
  readonly readFileSync: (path: string, encoding: "utf8") => string;
}

/** Cache sizes as Linux tells them; the defaults elsewhere. */
function cacheBytes(): Record<string, number> {
  const fs = (globalThis as { process?: NodeJS.Process }).process?.getBuiltinModule?.("node:fs") as
    | NodeFiles
    | undefined;
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

/** How often numbers that are not plausible are measured again. */
const repeats = 3;

/**
 * Time rows and make a description of the times; of several times of a row the least counts, to which whatever else ran
 * added least.
 * @throws UnsupportedError where most numbers cannot be measured.
 */
export async function measureDevice(
  rowSeconds: (plan: string, what: string) => Promise<number>,
  reference: DeviceSpec,
  bytes: Readonly<Record<string, number>>,
): Promise<Fit> {
  const times = new Map<string, number>();
  const time = async (plans: readonly string[]): Promise<Fit> => {
    for (const { plan, what } of timedRows.filter((row) => plans.includes(row.plan))) {
      const seconds = await rowSeconds(plan, what);
      times.set(plan, Math.min(seconds, times.get(plan) ?? seconds));
    }
    return fitDevice((plan) => times.get(plan)!, reference, bytes);
  };
  let fit = await time(timedRows.map((row) => row.plan));
  for (let n = 0; n < repeats && fit.doubtful.length > 0; n++) fit = await time(fit.doubtful);
  if (!fit.useless) return fit;
  throw new UnsupportedError({
    call: "tune",
    requirement: "a machine that is not busy",
    value: `times that make no sense of ${fit.defaults.join(", ")}, ${repeats + 1} times over`,
    remedy: "Run tune again when nothing else runs; until then plans rest on the numbers they had.",
  });
}

/**
 * Measure this machine with the best instruction set it has; takes about ten seconds, and longer where it is busy and
 * numbers have to be measured again.
 * @throws UnsupportedError where there is no file system to keep the result in, or where the machine is too busy to measure
 * most numbers; FileError where the file cannot be written; the signal's reason when stopped. Nothing is kept then.
 */
export async function tune(options: TuneOptions = {}): Promise<Tuned> {
  checkOptions(options, "tune");
  const { onProgress, signal } = options;
  const offers = features();
  const instructions: Instructions = offers.relaxedSimd
    ? "relaxed-simd"
    : offers.simd
      ? "simd"
      : "javascript";
  let done = 0;
  const measure = async (plan: string, what: string): Promise<number> => {
    signal?.throwIfAborted();
    // Rows that are measured again leave the fraction where it is.
    onProgress?.(Math.min(done++ / timedRows.length, 0.99), what);
    return rowSeconds(plan, instructions);
  };
  const reference = defaultDevice(instructions);
  const { device: found, defaults } = await measureDevice(measure, reference, cacheBytes());
  const device: DeviceSpec = {
    ...found,
    name: `this machine, ${instructions}`,
    directSeconds: scaledDirect(instructions, found.pointSeconds),
    source: `measured by tune, ${new Date().toISOString().slice(0, 10)}`,
  };
  signal?.throwIfAborted();
  const path = keepDevice(instructions, device);
  onProgress?.(1, "done");
  if (path !== undefined) return { device, path, keptDefaults: defaults };
  throw new UnsupportedError({
    call: "tune",
    requirement: "a file system to keep the measured numbers in",
    value: "a runtime without one",
    remedy: "Run tune in Node.",
  });
}
