/** What `tune` keeps is read back; a file that is anything else never stands in the way. */
import { execFile } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import {
  deviceFor,
  gpuDeviceFor,
  keepDevice,
  keepPlan,
  keptPlan,
  plannedOn,
  wisdomPath,
} from "../../src/calls/measured.ts";
import { FileError } from "../../src/errors.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { defaultCpu, defaultGpu } from "../../src/plan/device.ts";

/** As the library gets them, so that they can be replaced. */
const node = {
  os: process.getBuiltinModule("node:os"),
  path: process.getBuiltinModule("node:path"),
};

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "flashfftconv-wisdom-"));
  vi.stubEnv("FLASHFFTCONV_CACHE", join(folder, "cache"));
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

const measured = { ...defaultCpu, name: "measured", rowSeconds: 1e-7 };

test("a description is kept and read back, for its instruction set alone", () => {
  expect(keepDevice("simd", measured)).toBe(join(folder, "cache", "device.json"));
  expect(deviceFor("simd")).toEqual(measured);
  expect(deviceFor("relaxed-simd")).toBe(defaultCpu);
  expect(readdirSync(join(folder, "cache"))).toEqual(["device.json"]);
});

test("a description from before there were prices in the time domain gets them, scaled", () => {
  const usual = deviceFor("simd");
  const { directSeconds, ...old } = measured;
  keepDevice("simd", { ...old, pointSeconds: 2 * usual.pointSeconds });
  const scaled = Object.entries(usual.directSeconds!).map(([name, s]) => [name, 2 * s]);
  expect(deviceFor("simd").directSeconds).toEqual(Object.fromEntries(scaled));
  expect(directSeconds).toBeDefined();
});

const { pointSeconds: _, ...incomplete } = measured;
test.each([
  "",
  "{",
  "null",
  "[]",
  "5",
  '{"simd": null}',
  '{"simd": "fast"}',
  JSON.stringify({ simd: incomplete }),
  JSON.stringify({ simd: { ...measured, rowSeconds: -1 } }),
  JSON.stringify({ simd: { ...measured, loopSeconds: Number.NaN } }),
  JSON.stringify({ simd: { ...measured, butterflySeconds: undefined } }),
  JSON.stringify({ simd: { ...measured, butterflySeconds: { 4: "fast" } } }),
  JSON.stringify({ simd: { ...measured, directSeconds: { block: 1e-6 } } }),
  JSON.stringify({ simd: { ...measured, memory: [] } }),
  JSON.stringify({ simd: { ...measured, memory: [null] } }),
  JSON.stringify({ simd: { ...measured, memory: [{ name: "L1", bytes: 1, bandwidth: 0 }] } }),
  JSON.stringify({ simd: { ...measured, memory: [{ name: "L1", bandwidth: 1e-300 }] } }),
  JSON.stringify({ simd: { ...measured, memory: [{ name: "L1", bandwidth: 1e300 }] } }),
  JSON.stringify({ simd: { ...measured, memory: [...measured.memory].reverse() } }),
  JSON.stringify({ simd: { ...measured, pointSeconds: 0 } }),
  JSON.stringify({ simd: { ...measured, generalFlops: 1e-9 } }),
  JSON.stringify({ simd: { ...measured, rowSeconds: 1e9 } }),
  JSON.stringify({ simd: { ...measured, butterflySeconds: { 4: 1e300 } } }),
])("a file that holds %j leaves the defaults", (content) => {
  const fallback = deviceFor("simd");
  const name = join(folder, "device.json");
  vi.stubEnv("FLASHFFTCONV_CACHE", folder);
  writeFileSync(name, content);
  expect(deviceFor("simd")).toBe(fallback);
});

test("a folder that cannot be written to is a FileError that says how to name another", () => {
  const blocked = join(folder, "file");
  writeFileSync(blocked, "");
  vi.stubEnv("FLASHFFTCONV_CACHE", blocked);
  expect(() => keepDevice("simd", measured)).toThrow(FileError);
  expect(() => keepDevice("simd", measured)).toThrow(/FLASHFFTCONV_CACHE/);
});

test("variables that are set to nothing name no folder, and a user may have no home", () => {
  const { path } = node;
  vi.stubEnv("FLASHFFTCONV_CACHE", "");
  vi.stubEnv("XDG_CACHE_HOME", folder);
  expect(wisdomPath()).toBe(path.join(folder, "flashfftconv", "device.json"));
  vi.stubEnv("XDG_CACHE_HOME", "");
  expect(wisdomPath()).toBe(path.join(node.os.homedir(), ".cache", "flashfftconv", "device.json"));
  vi.spyOn(node.os, "homedir").mockImplementation(() => {
    throw new Error("ENOENT");
  });
  expect(wisdomPath()).toBeUndefined();
  expect(deviceFor("relaxed-simd")).toBe(defaultCpu);
  vi.restoreAllMocks();
});

test.each(["env", "homedir", "files"])("a runtime that refuses %s has no cache", (refused) => {
  const refuse = (): never => {
    throw new Error(`NotCapable: Requires ${refused} access`);
  };
  const env = refused === "env" ? new Proxy({}, { get: refuse, has: refuse }) : {};
  const home = vi.spyOn(node.os, "homedir").mockImplementation(() => folder);
  const read = vi.spyOn(process.getBuiltinModule("node:fs"), "readFileSync");
  if (refused === "homedir") home.mockImplementation(refuse);
  if (refused === "files") read.mockImplementation(refuse);
  const { getBuiltinModule } = process;
  vi.stubGlobal("process", { getBuiltinModule, env, pid: process.pid });
  try {
    expect(wisdomPath()).toBe(
      refused === "files"
        ? node.path.join(folder, ".cache", "flashfftconv", "device.json")
        : undefined,
    );
    expect(deviceFor("relaxed-simd")).toBe(defaultCpu);
  } finally {
    vi.unstubAllGlobals();
    vi.restoreAllMocks();
  }
});

const adapter = { key: "webgpu maker chip", name: "chip (driver 1.2)" };
const measuredGpu = { ...defaultGpu, name: "this machine, chip", busyThreads: 5000 };

test("a GPU's description is kept for its adapter alone, beside those of the CPU", () => {
  keepDevice("simd", measured);
  keepDevice(adapter.key, measuredGpu);
  expect(gpuDeviceFor(adapter)).toEqual(measuredGpu);
  expect(deviceFor("simd")).toEqual(measured);
  const { directSeconds: usual, ...old } = measuredGpu;
  keepDevice(adapter.key, { ...old, pointSeconds: 2 * old.pointSeconds });
  expect(gpuDeviceFor(adapter).directSeconds!.tap).toBe(2 * usual!.tap);
  const other = { key: "webgpu maker other", name: "other" };
  expect(gpuDeviceFor(other)).toEqual({ ...defaultGpu, name: "default GPU, on other" });
});

test.each([
  { ...measuredGpu, busyThreads: 0 },
  { ...measuredGpu, busyThreads: "many" },
  { ...measuredGpu, memory: measuredGpu.memory.slice(1) },
  { ...measuredGpu, memory: measuredGpu.memory.map((m) => ({ ...m, bandwidth: 0 })) },
])("a GPU's description that holds %j leaves the defaults", (damaged) => {
  keepDevice(adapter.key, damaged as typeof measuredGpu);
  expect(gpuDeviceFor(adapter).pointSeconds).toBe(defaultGpu.pointSeconds);
  expect(gpuDeviceFor(adapter).name).toBe("default GPU, on chip (driver 1.2)");
});

const problem = createProblem({ length: 4096, dtype: "float16" }, "test");
const limits = { threads: 256, sharedBytes: 32_768, values: 8 };
const workload = { batch: 8, channels: 64 };
const rows = plannedOn(limits, workload);
const won = { plan: "halves 4096: 8·16·32 ×128 split", ms: 0.25, source: "measured by tune" };

test("a plan is kept for its machine, problem and rows alone, beside all else", () => {
  keepDevice("simd", measured);
  keepPlan(adapter.key, problem, rows, won);
  keepPlan(adapter.key, problem, { ...rows, batch: 9 }, { ...won, ms: 1 });
  keepPlan("simd", problem, { rows: 512, threads: 2 }, { ...won, plan: "4096: 4·4·4·4·4" });
  expect(keptPlan(adapter.key, problem, rows)).toEqual(won);
  expect(keptPlan("simd", problem, { rows: 512, threads: 2 })?.plan).toBe("4096: 4·4·4·4·4");
  expect(deviceFor("simd")).toEqual(measured);
  const others = [
    keptPlan("simd", problem, rows),
    keptPlan("webgpu", problem, rows),
    keptPlan(adapter.key, problem, { ...rows, channels: 65 }),
    keptPlan(adapter.key, problem, plannedOn({ ...limits, sharedBytes: 16_384 }, workload)),
    keptPlan(adapter.key, problem, plannedOn({ ...limits, threads: 1024 }, workload)),
    keptPlan("simd", problem, { rows: 512, threads: 1 }),
    keptPlan(adapter.key, { ...problem, dtype: "float32" }, rows),
    keptPlan(adapter.key, { ...problem, kernelLength: 4095 }, rows),
    keptPlan(
      adapter.key,
      createProblem({ length: 4096, mode: "same", dtype: "float16" }, ""),
      rows,
    ),
  ];
  expect(others).toEqual(others.map(() => undefined));
});

test("processes that keep plans at once keep them all", async () => {
  const keep = new URL("../../dist/calls/measured.js", import.meta.url).href;
  const script = `import { keepPlan } from ${JSON.stringify(keep)};
    const [, id] = process.argv;
    for (let length = 0; length < 20; length++)
      keepPlan(id, { length }, { rows: 1, threads: 1 }, { plan: "", ms: 1, source: "" });`;
  const run = promisify(execFile);
  const start = (id: string) =>
    run(process.execPath, ["--input-type=module", "-e", script, id], { env: { ...process.env } });
  await Promise.all(["a", "b", "c"].map(start));
  const cache = join(folder, "cache");
  const { plans } = JSON.parse(readFileSync(join(cache, "device.json"), "utf8"));
  const counts = ["a", "b", "c"].map((id) => Object.keys(plans[id]).length);
  expect([counts, readdirSync(cache)]).toEqual([[20, 20, 20], ["device.json"]]);
});

test("a lock that somebody left behind stands in nobody's way for long", () => {
  const path = keepPlan(adapter.key, problem, rows, won)!;
  writeFileSync(`${path}.lock`, "");
  keepPlan(adapter.key, problem, { ...rows, batch: 9 }, { ...won, ms: 1 });
  expect(keptPlan(adapter.key, problem, { ...rows, batch: 9 })?.ms).toBe(1);
  expect(readdirSync(join(folder, "cache"))).toEqual(["device.json"]);
});

test("frequencies are part of a problem", () => {
  const [low, high] = [0.1, 0.2].map((top) =>
    createProblem({ length: 4096, frequencies: { band: [0, top] } }, "test"),
  );
  keepPlan(adapter.key, low!, rows, won);
  expect(keptPlan(adapter.key, low!, rows)).toEqual(won);
  expect(keptPlan(adapter.key, high!, rows)).toBeUndefined();
});

test.each([
  (key: string) => ({ plans: null, key }),
  () => ({ plans: [] }),
  () => ({ plans: { "webgpu maker chip": "fast" } }),
  (key: string) => ({ plans: { "webgpu maker chip": { [key]: "fast" } } }),
  (key: string) => ({ plans: { "webgpu maker chip": { [key]: { ...won, plan: 5 } } } }),
  (key: string) => ({ plans: { "webgpu maker chip": { [key]: { ...won, ms: -1 } } } }),
  (key: string) => ({ plans: { "webgpu maker chip": { [key]: { plan: won.plan } } } }),
])("damaged plans count as none, and are replaced (%#)", (damage) => {
  const path = keepPlan(adapter.key, problem, rows, won)!;
  const { plans } = JSON.parse(readFileSync(path, "utf8"));
  const [key] = Object.keys(plans[adapter.key]);
  writeFileSync(path, JSON.stringify(damage(key!)));
  vi.stubEnv("FLASHFFTCONV_CACHE", join(folder, "elsewhere"));
  expect(keptPlan(adapter.key, problem, rows)).toBeUndefined();
  vi.stubEnv("FLASHFFTCONV_CACHE", join(folder, "cache"));
  expect(keptPlan(adapter.key, problem, rows)).toBeUndefined();
  keepPlan(adapter.key, problem, rows, won);
  expect(keptPlan(adapter.key, problem, rows)).toEqual(won);
});
