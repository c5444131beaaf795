/** The numbers that plans are priced with: measured on this machine by `tune` and kept in the user's cache, or defaults. */
import type { Instructions } from "../backend/features.ts";
import { FileError, show } from "../errors.ts";
import type { DeviceSpec, DirectSeconds } from "../plan/device.ts";
import { defaultCpu } from "../plan/device.ts";

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

/** The file's form: one description per instruction set, in JSON, which has no infinity. */
type Wisdom = Partial<Record<Instructions, unknown>>;

/**
 * Numbers of a description that prices are made of, from the least that a machine may have to the most. A damaged file may
 * be well-formed: a bandwidth of 1e-300 made prices infinite.
 */
const priceFields: Readonly<Record<string, readonly [number, number]>> = {
  generalFlops: [1e6, 1e15],
  pointSeconds: [1e-13, 1e-5],
  bytesPerPoint: [1, 64],
  rowSeconds: [0, 1e-2],
  loopSeconds: [0, 1e-4],
  dispatchSeconds: [0, 1],
};
const butterflyRange = [1e-13, 1e-5] as const;
const directRange = [0, 1e-2] as const;
const bandwidthRange = [1e6, 1e16] as const;
const bytesRange = [1024, 1e15] as const;

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null;

const lies = (value: unknown, [low, high]: readonly [number, number]): boolean =>
  typeof value === "number" && value >= low && value <= high;

/** Prices in the time domain: absent from files of before there were any. */
const isDirectSeconds = (value: unknown): boolean =>
  value === undefined ||
  (isObject(value) &&
    ["block", "output", "tap", "loadedTap"].every((f) => lies(value[f], directRange)));

/** A memory. The last one holds everything: JSON has no infinity, so that no bytes stand there. */
const isLevel = (level: unknown, i: number, all: readonly unknown[]): boolean =>
  isObject(level) &&
  (i === all.length - 1 || lies(level.bytes, bytesRange)) &&
  lies(level.bandwidth, bandwidthRange);

/** Whether plans can be priced with what a file held: it may have been written by another version, cut short or damaged. */
function isDevice(value: unknown): value is DeviceSpec {
  if (!isObject(value)) return false;
  const { butterflySeconds, memory, name } = value;
  return (
    typeof name === "string" &&
    Object.entries(priceFields).every(([field, range]) => lies(value[field], range)) &&
    isObject(butterflySeconds) &&
    Object.values(butterflySeconds).every((seconds) => lies(seconds, butterflyRange)) &&
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

/** Where `tune` keeps its numbers: FLASHFFTCONV_CACHE, or the user's cache folder. */
export function wisdomPath(): string | undefined {
  const parts = node();
  if (!parts) return undefined;
  const { env, os, path } = parts;
  const folder =
    env.FLASHFFTCONV_CACHE ??
    path.join(env.XDG_CACHE_HOME ?? path.join(os.homedir(), ".cache"), "flashfftconv");
  return path.join(folder, "device.json");
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

/**
 * Prices in the time domain, which `tune` does not measure: the defaults of an instruction set, scaled as the time that a
 * transform takes for a point.
 */
export function scaledDirect(instructions: Instructions, pointSeconds: number): DirectSeconds {
  const usual = defaults[instructions];
  const factor = pointSeconds / usual.pointSeconds;
  const { block, output, tap, loadedTap } = usual.directSeconds!;
  return {
    ...{ block: factor * block, output: factor * output },
    ...{ tap: factor * tap, loadedTap: factor * loadedTap },
  };
}

/** The description that plans of an instruction set are priced with. */
export function deviceFor(instructions: Instructions): DeviceSpec {
  const tuned = wisdom()[instructions];
  if (!isDevice(tuned)) return defaults[instructions];
  // The last level holds everything.
  const memory = tuned.memory.map((m, i, all) =>
    i === all.length - 1 ? { ...m, bytes: Number.POSITIVE_INFINITY } : m,
  );
  const directSeconds = tuned.directSeconds ?? scaledDirect(instructions, tuned.pointSeconds);
  return { ...tuned, memory, directSeconds };
}

/**
 * Keep a measured description; returns the file.
 * @throws FileError where the cache folder cannot be written to.
 */
export function keepDevice(instructions: Instructions, device: DeviceSpec): string | undefined {
  const path = wisdomPath();
  if (!path) return undefined;
  const { fs, path: paths } = node()!;
  const all = { ...wisdom(), [instructions]: device };
  const temporary = `${path}.${process.pid}`;
  try {
    fs.mkdirSync(paths.dirname(path), { recursive: true });
    fs.writeFileSync(temporary, `${JSON.stringify(all, null, 2)}\n`);
    fs.renameSync(temporary, path);
  } catch (cause) {
    if (fs.existsSync(temporary)) fs.rmSync(temporary);
    const parts = {
      call: "tune",
      requirement: "a cache folder that can be written to",
      value: `${show(path)} (${(cause as Error).message})`,
      remedy: "Name another folder in the environment variable FLASHFFTCONV_CACHE.",
    };
    throw new FileError(parts, cause);
  }
  read = undefined;
  return path;
}
