/** The numbers that plans are priced with: measured on this machine by `tune` and kept in the user's cache, or defaults. */
import type { Instructions } from "../backend/features.ts";
import type { DeviceSpec } from "../plan/device.ts";
import { defaultCpu } from "../plan/device.ts";

/** Default specifications: what each instruction set makes of the machine in defaultCpu. */
const defaults: Readonly<Record<Instructions, DeviceSpec>> = {
  "relaxed-simd": defaultCpu,
  simd: slower(1.13, "default CPU, SIMD without fused multiply-add"),
  javascript: slower(12, "default CPU, plain JavaScript"),
};

/** The default machine where arithmetic takes `factor` times as long. */
function slower(factor: number, name: string): DeviceSpec {
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
  };
}

/** The file's form: one description per instruction set. */
type Wisdom = Partial<Record<Instructions, DeviceSpec>>;

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
      found = JSON.parse(node()!.fs.readFileSync(path, "utf8")) as Wisdom;
    } catch {
      // No file yet, or not one of ours: the defaults are always right, only less exact.
      found = {};
    }
  }
  read = { path, wisdom: found };
  return found;
}

/** The description that plans of an instruction set are priced with. */
export function deviceFor(instructions: Instructions): DeviceSpec {
  const tuned = wisdom()[instructions];
  if (!tuned || !Array.isArray(tuned.memory)) return defaults[instructions];
  // JSON has no infinity: the last level holds everything.
  const memory = tuned.memory.map((m, i, all) =>
    i === all.length - 1 ? { ...m, bytes: Number.POSITIVE_INFINITY } : m,
  );
  return { ...tuned, memory };
}

/** Keep a measured description; returns the file. */
export function keepDevice(instructions: Instructions, device: DeviceSpec): string | undefined {
  const path = wisdomPath();
  if (!path) return undefined;
  const { fs, path: paths } = node()!;
  const all = { ...wisdom(), [instructions]: device };
  fs.mkdirSync(paths.dirname(path), { recursive: true });
  const temporary = `${path}.${process.pid}`;
  fs.writeFileSync(temporary, `${JSON.stringify(all, null, 2)}\n`);
  fs.renameSync(temporary, path);
  read = undefined;
  return path;
}
