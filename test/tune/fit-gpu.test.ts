/** What `tune` makes of times of a GPU: of one that the model describes, itself; of a busy one, defaults and a word of it. */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { DeviceSpec } from "../../src/plan/device.ts";
import { defaultGpu, scaledDirect } from "../../src/plan/device.ts";
import { fitGpu, gpuRowSeconds, gpuRows, type TimedGpuRow } from "../../src/tune/fit-gpu.ts";

const profiles = {
  "an NVIDIA": { sharedBytes: 49_152, threads: 1024, values: 32 },
  "any browser's limits": { sharedBytes: 16_384, threads: 256, values: 32 },
};
type Limits = (typeof profiles)["an NVIDIA"];

/** How much longer than the default GPU each resource takes. */
interface Slower {
  readonly arithmetic: number;
  readonly workgroup: number;
  readonly cache: number;
  readonly memory: number;
}

function gpuOf(slower: Slower, more: Partial<DeviceSpec> = {}): DeviceSpec {
  const memories = [slower.workgroup, slower.cache, slower.memory];
  return {
    ...defaultGpu,
    generalFlops: defaultGpu.generalFlops / slower.arithmetic,
    pointSeconds: defaultGpu.pointSeconds * slower.arithmetic,
    memory: defaultGpu.memory.map((m, i) => ({ ...m, bandwidth: m.bandwidth / memories[i]! })),
    ...more,
  };
}

/** How much longer a description takes. */
function slowerOf({ pointSeconds, memory }: DeviceSpec): Slower {
  const [workgroup, cache, rest] = memory.map(
    (m, i) => defaultGpu.memory[i]!.bandwidth / m.bandwidth,
  );
  const arithmetic = pointSeconds / defaultGpu.pointSeconds;
  return { arithmetic, workgroup: workgroup!, cache: cache!, memory: rest! };
}

/** What the fit makes of the model's own times on a machine, each times a factor of its own. */
function fitOf(
  machine: DeviceSpec,
  limits: Limits,
  factor: (row: TimedGpuRow) => number = () => 1,
) {
  const rows = gpuRows(defaultGpu, limits, 2 ** 24);
  const times = new Map(
    rows.map((row) => [row.what, gpuRowSeconds(row, machine, limits) * factor(row)]),
  );
  return fitGpu(rows, (what) => times.get(what)!, defaultGpu, limits);
}

function expectNear(found: Slower, wanted: Slower, share: number): void {
  for (const name of ["arithmetic", "workgroup", "cache", "memory"] as const)
    expect(Math.abs(Math.log(found[name] / wanted[name])), name).toBeLessThan(share);
}

const same = { arithmetic: 1, workgroup: 1, cache: 1, memory: 1 };

describe.each(Object.entries(profiles))("on %s", (_, limits) => {
  test("rows differ, fit the limits, and tell of launches", () => {
    const rows = gpuRows(defaultGpu, limits, 2 ** 24);
    expect(new Set(rows.map(({ what }) => what)).size).toBe(rows.length);
    expect(rows.length).toBeGreaterThanOrEqual(18);
    expect(rows.map(({ what }) => what)).toEqual(expect.arrayContaining(["launch", "few"]));
    for (const row of rows) expect(gpuRowSeconds(row, defaultGpu, limits)).toBeGreaterThan(0);
  });

  test("the default GPU's times give the default GPU", () => {
    const { device, ...rest } = fitOf(defaultGpu, limits);
    expect(rest).toEqual({ defaults: [], doubtful: [], useless: false });
    expectNear(slowerOf(device), same, 0.01);
    expect(device.dispatchSeconds).toBeCloseTo(defaultGpu.dispatchSeconds, 7);
    expect(device.busyThreads! / defaultGpu.busyThreads!).toBeCloseTo(1, 1);
  });

  test.each<Slower>([
    { arithmetic: 20, workgroup: 20, cache: 20, memory: 20 },
    { arithmetic: 3, workgroup: 1, cache: 1, memory: 1 },
    { arithmetic: 1, workgroup: 3, cache: 1, memory: 1 },
    { arithmetic: 1, workgroup: 1, cache: 3, memory: 1 },
    { arithmetic: 1, workgroup: 1, cache: 1, memory: 3 },
    // A laptop's: little arithmetic, and less memory.
    { arithmetic: 25, workgroup: 15, cache: 30, memory: 70 },
  ])("one that is slower by %j gives itself", (slower) => {
    const { device, defaults, useless } = fitOf(gpuOf(slower), limits);
    expect([defaults, useless]).toEqual([[], false]);
    expectNear(slowerOf(device), slower, 0.1);
    // What is not measured follows: products in the time domain are arithmetic.
    expect(device.directSeconds).toEqual(scaledDirect(defaultGpu, device.pointSeconds));
  });

  test("so does a processor that plays one", () => {
    const slower = { arithmetic: 1e5, workgroup: 1e5, cache: 1e5, memory: 1e5 };
    const few = { dispatchSeconds: 1e-4, busyThreads: 300 };
    const { device, defaults, useless } = fitOf(gpuOf(slower, few), limits);
    expect([defaults, useless]).toEqual([[], false]);
    expectNear(slowerOf(device), slower, 0.1);
  });

  test("a call of one row takes what it took, whatever of that is the launch", () => {
    const machine = gpuOf(same, { dispatchSeconds: 20e-6, busyThreads: 10_000 });
    const { device } = fitOf(machine, limits);
    for (const row of gpuRows(defaultGpu, limits, 2 ** 24).slice(-2)) {
      const [found, wanted] = [device, machine].map((d) => gpuRowSeconds(row, d, limits));
      expect(Math.abs(found! / wanted! - 1)).toBeLessThan(0.1);
    }
  });
});

test("what predictions are off by is near what the record of the default GPU says, of longer calls", () => {
  const path = new URL("../../bench/results/h200.jsonl", import.meta.url);
  const records = readFileSync(path, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  const limits = profiles["an NVIDIA"];
  let seen = 0;
  for (const row of gpuRows(defaultGpu, limits, 2 ** 24)) {
    const { length, dtype } = row.problem;
    const record = records.find(
      (r) =>
        r.case === `causal forward N=${2 * length} ${dtype} gated` &&
        [row.plan, r.L].join() === [r.plan, length].join(),
    );
    if (!record) continue;
    seen++;
    const workload = { batch: record.B, channels: record.H };
    const predicted = gpuRowSeconds({ ...row, workload }, defaultGpu, limits);
    expect(Math.abs(record.ours_ms / 1e3 / predicted - 1), row.what).toBeLessThan(0.3);
  }
  expect(seen).toBeGreaterThanOrEqual(10);
});

describe("on a busy machine", () => {
  const limits = profiles["an NVIDIA"];

  test("times that are off by a tenth leave every rate near the default's", () => {
    let n = 0;
    const { device, defaults } = fitOf(defaultGpu, limits, () => Math.exp(0.1 * Math.sin(++n * n)));
    expect(defaults).toEqual([]);
    expectNear(slowerOf(device), same, 0.5);
  });

  test("a few that took ten times as long are measured again, and do not count", () => {
    let n = 0;
    const off: string[] = [];
    const { device, doubtful, useless } = fitOf(defaultGpu, limits, ({ what }) => {
      if (++n % 6 !== 0) return 1;
      off.push(what);
      return 10;
    });
    expect([doubtful, useless]).toEqual([off, false]);
    expectNear(slowerOf(device), same, 0.1);
  });

  test("a launch that nothing took, or that took seconds, is the default's, by name", () => {
    for (const factor of [1e-4, 1e6]) {
      const fit = fitOf(defaultGpu, limits, ({ what }) => (what === "launch" ? factor : 1));
      expect(fit.defaults).toContain("launches");
      expect(fit.doubtful).toEqual(expect.arrayContaining(["launch", "few"]));
      expect(fit.device.dispatchSeconds).toBe(defaultGpu.dispatchSeconds);
    }
  });

  test("one row that took less than its launch leaves the default's threads", () => {
    const { defaults, device } = fitOf(defaultGpu, limits, ({ what }) =>
      what === "few" ? 0.01 : 1,
    );
    expect(defaults).toEqual(["threads"]);
    expect(device.busyThreads).toBe(defaultGpu.busyThreads);
  });

  test("where most times make no sense, so does nothing", () => {
    let n = 0;
    const wild = fitOf(defaultGpu, limits, () => 30 ** Math.sin(++n * n * 7));
    expect(wild.useless).toBe(true);
    expect(fitOf(defaultGpu, limits, () => 1e-3).useless).toBe(true);
  });
});
