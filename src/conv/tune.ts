/**
 * Measures the numbers of the cost model on this machine and keeps them in the user's cache folder. Every number comes
 * from whole rows under plans that differ in one thing: a radix more, a larger working set, more rows.
 */

import type { Instructions } from "../backend/features.ts";
import { features } from "../backend/features.ts";
import { UnsupportedError } from "../errors.ts";
import type { DeviceSpec, MemoryLevel } from "../plan/device.ts";
import { defaultCpu } from "../plan/device.ts";
import { checkOptions } from "./arguments.ts";
import { FlashFFTConv } from "./conv.ts";
import { keepDevice, scaledDirect } from "./wisdom.ts";

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
}

/** Points of the transforms that arithmetic is measured on: their data stay in the first-level cache. */
const probes = {
  base: "256: 4·4·4",
  4: "1024: 4·4·4·4",
  2: "512: 2·4·4·4",
  3: "768: 3·4·4·4",
  5: "1280: 5·4·4·4",
  7: "1792: 7·4·4·4",
} as const;

/** Transforms whose one-level plans sweep one memory level each. */
const sweeps = { L2: 14, L3: 18, DRAM: 23 } as const;

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

/** One-level plan of 2^bits points. */
function sweepPlan(bits: number): string {
  const stages = bits - 2;
  const radices = [...(stages % 2 ? [2] : []), ...new Array<number>(stages >> 1).fill(4)];
  return `${2 ** bits}: ${radices.join("·")}`;
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

/**
 * Measure this machine with the best instruction set it has; takes about ten seconds.
 * @throws UnsupportedError where there is no file system to keep the result in, FileError where it cannot be written;
 * the signal's reason when stopped.
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
  const steps = Object.keys(probes).length + Object.keys(sweeps).length + 1;
  let done = 0;
  const measure = async (plan: string, what: string): Promise<number> => {
    signal?.throwIfAborted();
    onProgress?.(done++ / steps, what);
    return rowSeconds(plan, instructions);
  };
  const overhead = await measure("16: 4", "the cost of a row");
  const small = await measure(probes.base, "a row of 256 points");
  const four = await measure(probes[4], "radix 4");
  const fixed = Math.max(0, overhead - 16 * defaultCpu.pointSeconds);
  // row = fixed + points·(pointSeconds + Σ stages): two sizes that differ by one radix-4 stage give both.
  const at256 = (small - fixed) / 256;
  const stage4 = Math.max(0.05e-9, (four - fixed) / 1024 - at256);
  const pointSeconds = Math.max(0.1e-9, at256 - 3 * stage4);
  const butterflySeconds: Record<number, number> = { 4: stage4 };
  for (const radix of [2, 3, 5, 7] as const) {
    const seconds = await measure(probes[radix], `radix ${radix}`);
    butterflySeconds[radix] = Math.max(0.05e-9, (seconds - fixed) / (256 * radix) - at256);
  }
  const known = cacheBytes();
  const memory: MemoryLevel[] = [
    { ...defaultCpu.memory[0]!, bytes: known.L1 ?? defaultCpu.memory[0]!.bytes },
  ];
  for (const level of defaultCpu.memory.slice(1)) {
    const bits = sweeps[level.name as keyof typeof sweeps];
    const points = 2 ** bits;
    const seconds = await measure(sweepPlan(bits), `sweeps through ${level.name}`);
    const stages = (bits - 2) >> 1;
    const odd = (bits - 2) % 2;
    const arithmetic = points * (pointSeconds + stages * stage4 + odd * butterflySeconds[2]!);
    const bytes = (stages + odd + 1) * 4 * points * defaultCpu.bytesPerPoint;
    const lost = Math.max(0.02 * arithmetic, seconds - fixed - arithmetic);
    memory.push({ ...level, bytes: known[level.name] ?? level.bytes, bandwidth: bytes / lost });
  }
  const device: DeviceSpec = {
    ...defaultCpu,
    ...{
      name: `this machine, ${instructions}`,
      butterflySeconds,
      pointSeconds,
      directSeconds: scaledDirect(instructions, pointSeconds),
      memory,
      rowSeconds: fixed,
    },
    source: `measured by tune, ${new Date().toISOString().slice(0, 10)}`,
  };
  signal?.throwIfAborted();
  const path = keepDevice(instructions, device);
  onProgress?.(1, "done");
  if (path !== undefined) return { device, path };
  throw new UnsupportedError({
    call: "tune",
    requirement: "a file system to keep the measured numbers in",
    value: "a runtime without one",
    remedy: "Run tune in Node.",
  });
}
