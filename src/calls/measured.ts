/**
 * What `tune` has measured on this machine and kept in the user's cache: the numbers that plans are priced with, where there
 * are none the defaults; and plans that won when all were timed.
 */
import type { Instructions } from "../backend/cpu/features.ts";
import { FileError } from "../errors.ts";
import type { DeviceSpec, DirectSeconds } from "../plan/device.ts";
import { defaultCpu, defaultGpu, scaledDirect } from "../plan/device.ts";
import type { WorkgroupLimits } from "../plan/gpu/candidates.ts";
import type { GpuWorkload } from "../plan/gpu/planner.ts";
import type { Problem } from "../plan/problem.ts";
import { printable, show } from "../show.ts";

/** Default specifications: what each instruction set makes of the machine in defaultCpu. */
const defaults: Readonly<Record<Instructions, DeviceSpec>> = {
  "relaxed-simd": defaultCpu,
  // Products in the time domain are faster apart: fused ones wait for each other (V8 11.3).
  simd: slower(1.13, "default CPU, SIMD without fused multiply-add", { tap: 0.095e-9 }),
  javascript: slower(12, "default CPU, plain JavaScript", {
    ...{ block: 600e-9, output: 1.3e-9, tap: 0.47e-9, loadedTap: 0.6e-9 },
  }),
};

/** The default machine where transforms take `factor` times as long, and convolutions in the time domain what is said. */
function slower(factor: number, name: string, direct: Partial<DirectSeconds>): DeviceSpec {
  const stages = Object.entries(defaultCpu.butterflySeconds).map(([radix, s]) => [
    radix,
    factor * s,
  ]);
  return {
    ...defaultCpu,
    name,
    generalFlops: defaultCpu.generalFlops / factor,
    butterflySeconds: Object.fromEntries(stages) as Record<number, number>,
    pointSeconds: factor * defaultCpu.pointSeconds,
    directSeconds: { ...defaultCpu.directSeconds!, ...direct },
  };
}

/** The description that plans of an instruction set rest on where nothing was measured. */
export function defaultDevice(instructions: Instructions): DeviceSpec {
  return defaults[instructions];
}

/**
 * The file's form: one description per instruction set and per adapter of a GPU, in JSON, which has no infinity; and `plans`,
 * by the same names and by problem.
 */
type Wisdom = Readonly<Record<string, unknown>>;
const plansField = "plans";

/**
 * Numbers of a description that prices are made of, from the least that a machine may have to the most. A damaged file may
 * be well-formed: a bandwidth of 1e-300 made prices infinite.
 */
export const deviceRanges = {
  prices: {
    generalFlops: [1e6, 1e15],
    pointSeconds: [1e-13, 1e-5],
    bytesPerPoint: [1, 64],
    rowSeconds: [0, 1e-2],
    loopSeconds: [0, 1e-4],
    dispatchSeconds: [0, 1],
  },
  threads: [1, 1e8],
  butterfly: [1e-13, 1e-5],
  direct: [0, 1e-2],
  bandwidth: [1e6, 1e16],
  bytes: [1024, 1e15],
} as const;

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null;

const lies = (value: unknown, [low, high]: readonly [number, number]): boolean =>
  typeof value === "number" && value >= low && value <= high;

/** Prices in the time domain: absent from files of before there were any. */
const isDirectSeconds = (value: unknown): boolean =>
  value === undefined ||
  (isObject(value) &&
    ["block", "output", "tap", "loadedTap"].every((f) => lies(value[f], deviceRanges.direct)));

/** A memory. The last one holds everything: JSON has no infinity, so that no bytes stand there. */
const isLevel = (level: unknown, i: number, all: readonly unknown[]): boolean =>
  isObject(level) &&
  (i === all.length - 1 || lies(level.bytes, deviceRanges.bytes)) &&
  lies(level.bandwidth, deviceRanges.bandwidth);

/** Whether plans can be priced with what a file held: it may have been written by another version, cut short or damaged. */
function isDevice(value: unknown): value is DeviceSpec {
  if (!isObject(value)) return false;
  const { butterflySeconds, memory, name, busyThreads } = value;
  return (
    typeof name === "string" &&
    (busyThreads === undefined || lies(busyThreads, deviceRanges.threads)) &&
    Object.entries(deviceRanges.prices).every(([field, range]) => lies(value[field], range)) &&
    isObject(butterflySeconds) &&
    Object.values(butterflySeconds).every((seconds) => lies(seconds, deviceRanges.butterfly)) &&
    isDirectSeconds(value.directSeconds) &&
    Array.isArray(memory) &&
    memory.length > 0 &&
    memory.every(isLevel)
  );
}

interface NodeParts {
  readonly fs: typeof import("node:fs");
  readonly os: typeof import("node:os");
  readonly path: typeof import("node:path");
  readonly env: Readonly<Record<string, string | undefined>>;
}

function node(): NodeParts | undefined {
  const process = (globalThis as { process?: NodeJS.Process }).process;
  const get = process?.getBuiltinModule;
  if (!get) return undefined;
  return { fs: get("node:fs"), os: get("node:os"), path: get("node:path"), env: process.env };
}

/**
 * Where `tune` keeps its numbers: FLASHFFTCONV_CACHE, or the user's cache folder. Undefined where there is neither: a user may have
 * no home, as in a container, and Deno refuses to say where it is, or what a variable holds, unless it was allowed to.
 */
export function wisdomPath(): string | undefined {
  const parts = node();
  try {
    return parts?.path.join(cacheFolder(parts), "device.json");
  } catch {
    return undefined;
  }
}

/** A variable that is set to nothing names no folder. */
function cacheFolder({ env, os, path }: NodeParts): string {
  const usual = (): string =>
    path.join(env.XDG_CACHE_HOME || path.join(os.homedir(), ".cache"), "flashfftconv");
  return env.FLASHFFTCONV_CACHE || usual();
}

let read: { readonly path: string | undefined; readonly wisdom: Wisdom } | undefined;

function wisdom(): Wisdom {
  const path = wisdomPath();
  if (read && read.path === path) return read.wisdom;
  let found: Wisdom = {};
  if (path) {
    try {
      const content: unknown = JSON.parse(node()!.fs.readFileSync(path, "utf8"));
      if (isObject(content)) found = content;
    } catch {
      // No file yet, or not one of ours: the defaults are always right, only less exact.
      found = {};
    }
  }
  read = { path, wisdom: found };
  return found;
}

/** What was measured of an instruction set or an adapter, if it was. */
function measuredDevice(machine: string): DeviceSpec | undefined {
  const tuned = wisdom()[machine];
  if (!isDevice(tuned)) return undefined;
  // The last level holds everything.
  const memory = tuned.memory.map((m, i, all) =>
    i === all.length - 1 ? { ...m, bytes: Number.POSITIVE_INFINITY } : m,
  );
  return { ...tuned, memory };
}

/** The description that plans of an instruction set are priced with. */
export function deviceFor(instructions: Instructions): DeviceSpec {
  const usual = defaults[instructions];
  return withDirect(measuredDevice(instructions), usual) ?? usual;
}

/** A description with prices in the time domain, which files of before there were any lack. */
function withDirect(tuned: DeviceSpec | undefined, usual: DeviceSpec): DeviceSpec | undefined {
  return tuned && { directSeconds: scaledDirect(usual, tuned.pointSeconds), ...tuned };
}

/** An adapter: what its numbers are kept under, and what people call it. */
export interface Adapter {
  readonly key: string;
  readonly name: string;
}

/** The description that plans on an adapter are priced with. */
export function gpuDeviceFor({ key, name }: Adapter): DeviceSpec {
  const tuned = withDirect(measuredDevice(key), defaultGpu);
  // Passes are priced with three memories.
  if (tuned?.memory.length === defaultGpu.memory.length) return tuned;
  return { ...defaultGpu, name: `${defaultGpu.name}, on ${name}` };
}

/** A plan that was the fastest of those timed for a problem. */
export interface KeptPlan {
  readonly plan: string;
  /** Milliseconds of a call with it. */
  readonly ms: number;
  /** When it was measured. */
  readonly source: string;
}

/** Rows, threads and, on a GPU, limits that a plan is for: a plan is taken again where all of them are the same. */
export type PlannedFor = Readonly<
  | Record<"batch" | "channels" | "threads" | "sharedBytes", number>
  | Record<"rows" | "threads", number>
>;

/** What a GPU's plan is for. A device of the user's may have lower limits than its adapter, and other plans are the best there. */
export function plannedOn(
  { threads, sharedBytes }: WorkgroupLimits,
  { batch, channels }: GpuWorkload,
): PlannedFor {
  return { batch, channels, threads, sharedBytes };
}

/** What a plan is kept under. */
function planKey(problem: Problem, rows: PlannedFor): string {
  return Object.entries({ ...problem, ...rows })
    .map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`)
    .join(", ");
}

const isKeptPlan = (value: unknown): value is KeptPlan =>
  isObject(value) &&
  typeof value.plan === "string" &&
  typeof value.source === "string" &&
  lies(value.ms, [0, 1e9]);

/** The plan that was measured to be the fastest for a problem, by an instruction set or on an adapter. */
export function keptPlan(
  machine: string,
  problem: Problem,
  rows: PlannedFor,
): KeptPlan | undefined {
  const plans = wisdom()[plansField];
  const own = isObject(plans) ? plans[machine] : undefined;
  const kept = isObject(own) ? own[planKey(problem, rows)] : undefined;
  return isKeptPlan(kept) ? kept : undefined;
}

/**
 * Keep a measured plan; returns the file.
 * @throws FileError where the cache folder cannot be written to.
 */
export function keepPlan(
  machine: string,
  problem: Problem,
  rows: PlannedFor,
  kept: KeptPlan,
): string | undefined {
  return keep((found) => {
    const plans = isObject(found[plansField]) ? found[plansField] : {};
    const own = isObject(plans[machine]) ? plans[machine] : {};
    return { [plansField]: { ...plans, [machine]: { ...own, [planKey(problem, rows)]: kept } } };
  });
}

/**
 * Keep a measured description under the name of an instruction set or the key of an adapter; returns the file.
 * @throws FileError where the cache folder cannot be written to.
 */
export function keepDevice(machine: string, device: DeviceSpec): string | undefined {
  return keep(() => ({ [machine]: device }));
}

function refuseFolder(path: string, cause: unknown): never {
  const parts = {
    call: "tune",
    requirement: "a cache folder that can be written to",
    value: `${show(path)} (${printable((cause as Error).message)})`,
    remedy: "Name another folder in the environment variable FLASHFFTCONV_CACHE.",
  };
  throw new FileError(parts, cause);
}

/**
 * Make the folder of the file, before anything is measured for it.
 * @throws FileError where it cannot be written to.
 */
export function makeFolder(file: string): void {
  const { fs, path } = node()!;
  const folder = path.dirname(file);
  try {
    fs.mkdirSync(folder, { recursive: true });
    fs.accessSync(folder, fs.constants.W_OK);
  } catch (cause) {
    refuseFolder(file, cause);
  }
}

/** How often, and after how many milliseconds, another process's lock is looked at again; then it was left behind. */
const [lockTries, lockMs] = [200, 5];

/** Hold the lock of a file while `work` reads and writes it, so that no process undoes what another one keeps. */
function locked<T>(fs: NodeParts["fs"], path: string, work: () => T): T {
  const lock = `${path}.lock`;
  const pause = new Int32Array(new SharedArrayBuffer(4));
  for (let tries = 0; tries < lockTries; tries++) {
    try {
      fs.closeSync(fs.openSync(lock, "wx"));
      break;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      Atomics.wait(pause, 0, 0, lockMs);
    }
  }
  try {
    return work();
  } finally {
    fs.rmSync(lock, { force: true });
  }
}

/** Put something in place of what the file has there; returns the file. */
function keep(change: (found: Wisdom) => Wisdom): string | undefined {
  const path = wisdomPath();
  if (!path) return undefined;
  const { fs, path: paths } = node()!;
  const temporary = `${path}.${process.pid}`;
  try {
    fs.mkdirSync(paths.dirname(path), { recursive: true });
    locked(fs, path, () => {
      // Another process may have kept something since.
      read = undefined;
      const found = wisdom();
      fs.writeFileSync(temporary, `${JSON.stringify({ ...found, ...change(found) }, null, 2)}\n`);
      fs.renameSync(temporary, path);
    });
  } catch (cause) {
    if (fs.existsSync(temporary)) fs.rmSync(temporary);
    refuseFolder(path, cause);
  }
  read = undefined;
  return path;
}
