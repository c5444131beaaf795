/** `tune` on the backend of the process: plans of problems are timed, kept, and taken by `create`. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import type { Dtype } from "../../src/dtype.ts";
import {
  BackendError,
  FileError,
  FlashFFTConv,
  InvalidArgumentError,
  tune,
} from "../../src/index.ts";
import type { ProblemOptions } from "../../src/plan/problem.ts";
import { onGpu } from "../support/backends.ts";
import { openDevice } from "../support/gpu.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "flashfftconv-tune-"));
  vi.stubEnv("FLASHFFTCONV_CACHE", folder);
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

const backend = onGpu ? "webgpu" : "cpu";
const rows = { batch: 2, channels: 3 };

describe(`plans of problems on ${backend}`, () => {
  test("the fastest of the best is kept, and create takes it where all is the same", async () => {
    const small = { length: 200, ...rows };
    const halves = { ...small, mode: "circular", dtype: "float16" } as const;
    const seen: number[] = [];
    const { plans, path, keptDefaults, device } = await tune({
      ...{ backend, problems: [small, { ...halves, gates: true }] },
      onProgress: (fraction) => seen.push(fraction),
    });
    expect([plans.length, keptDefaults, readdirSync(folder)]).toEqual([2, [], ["device.json"]]);
    expect(path).toBe(join(folder, "device.json"));
    expect(device.source).toContain("measured on");
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
    expect(seen.at(-1)).toBe(1);
    for (const [i, options] of [small, halves].entries()) {
      const { plan, ms, candidates, problem, ...shape } = plans[i]!;
      expect(shape).toEqual(rows);
      expect(problem).toMatchObject({ length: 200, kernelLength: 200 });
      expect(candidates.length).toBeGreaterThan(2);
      for (const c of candidates) expect(c).toMatchObject({ ms: expect.any(Number) });
      expect(candidates.map((c) => c.plan)).toContain(plan);
      expect(ms).toBeGreaterThan(0);
      using conv = await FlashFFTConv.create({ ...options, backend });
      const explanation = conv.explain();
      expect(explanation.chosen.plan).toBe(plan);
      expect(explanation.measured).toEqual({ ms, source: expect.stringMatching(/by tune, 20/) });
      expect(String(explanation)).toMatch(/plan measured on this machine: .* a call/);
      using other = await FlashFFTConv.create({ ...options, backend, channels: 4 });
      expect(other.explain().measured).toBeUndefined();
      expect(String(other.explain())).not.toContain("plan measured");
      const u = new Float32Array(1200).fill(1);
      if (i === 0) {
        const y = await (conv as FlashFFTConv<Dtype>).forward(u, u.subarray(0, 600));
        expect(y[199]).toBeCloseTo(200, 2);
      }
    }
  });

  test.each<[string, ProblemOptions]>([
    ["a band", { length: 300, mode: "full", kernelLength: 50, frequencies: { band: [0, 0.1] } }],
    [
      "blocks",
      {
        ...{ length: 250, mode: "circular", period: 256, dtype: "float16" },
        frequencies: { digits: [16, 16], dropped: [4, 8] },
      },
    ],
  ])("plans of masked kernels answer as masked kernels do: %s", async (_, problem) => {
    const { plans } = await tune({ backend, problems: [{ ...problem, ...rows }] });
    for (const c of plans[0]!.candidates) expect(c).toMatchObject({ ms: expect.any(Number) });
    using conv = await FlashFFTConv.create({ ...problem, ...rows, backend });
    expect(conv.explain()).toMatchObject({ chosen: { plan: plans[0]!.plan }, measured: {} });
  });

  test("another plan than the planner's is taken, one that does not fit is not", async () => {
    const problem = { length: 300, ...rows };
    const { path } = await tune({ backend, problems: [problem] });
    const content = JSON.parse(readFileSync(path, "utf8"));
    const [machine] = Object.keys(content.plans);
    const [key] = Object.keys(content.plans[machine!]);
    const with_ = async (plan: string) => {
      content.plans[machine!][key!].plan = plan;
      writeFileSync(path, JSON.stringify(content));
      // What was read is remembered by path.
      vi.stubEnv("FLASHFFTCONV_CACHE", join(folder, "elsewhere"));
      (await FlashFFTConv.create({ ...problem, backend })).dispose();
      vi.stubEnv("FLASHFFTCONV_CACHE", folder);
      using conv = await FlashFFTConv.create({ ...problem, backend });
      return conv.explain();
    };
    const { candidates } = await with_("");
    const [first, second] = candidates;
    expect(await with_(second!.plan)).toMatchObject({
      chosen: { plan: second!.plan },
      measured: { ms: expect.any(Number) },
    });
    for (const wrong of ["", "fast", "64: 4·4", "halves 64: 8·8 ×8·8"]) {
      const { chosen, measured } = await with_(wrong);
      expect([chosen.plan, measured]).toEqual([first!.plan, undefined]);
    }
  });

  test("calls that there is no room for are refused before a plan is tried", async () => {
    const seen: string[] = [];
    const problems = [{ length: 2 ** 20, batch: 2 ** 12, channels: 2 ** 12 }];
    const onProgress = (_: number, what: string) => seen.push(what);
    const refused = tune({ backend, problems, onProgress });
    await expect(refused).rejects.toThrow(BackendError);
    await expect(refused).rejects.toThrow(/bytes.* fewer/);
    expect([seen, readdirSync(folder)]).toEqual([[], []]);
  });

  test("a folder that cannot be written to is refused before a plan is tried", async () => {
    const blocked = join(folder, "file");
    writeFileSync(blocked, "");
    vi.stubEnv("FLASHFFTCONV_CACHE", blocked);
    const seen: string[] = [];
    const onProgress = (_: number, what: string) => seen.push(what);
    const refused = tune({ backend, problems: [{ length: 100, ...rows }], onProgress });
    await expect(refused).rejects.toThrow(FileError);
    expect(seen).toEqual([]);
  });

  test("stopped, nothing is kept", async () => {
    const stop = new AbortController();
    const problems = [{ length: 100, ...rows }];
    const onProgress = () => stop.abort(new Error("enough"));
    await expect(tune({ backend, problems, onProgress, signal: stop.signal })).rejects.toThrow(
      "enough",
    );
    await expect(tune({ backend, signal: stop.signal })).rejects.toThrow("enough");
    expect(readdirSync(folder)).toEqual([]);
  });
});

describe.skipIf(onGpu)("options", () => {
  test.each<[string, unknown]>([
    ["backend", { backend: "cuda" }],
    ["device", { backend: "cpu", device: {} }],
    ["GPUDevice", { device: {} }],
    ["options may have", { problem: [] }],
    ["problems", { problems: [] }],
    ["problems", { problems: { length: 5 } }],
    ["length", { problems: [{}] }],
    ["a problem may have", { problems: [{ length: 5, plan: "16: 4" }] }],
    ["batch", { problems: [{ length: 5, batch: 0 }] }],
    ["threads", { backend: "webgpu", problems: [{ length: 5, threads: 2 }] }],
  ])("that break a rule about %s are refused: %j", async (what, options) => {
    const refused = tune(options as Parameters<typeof tune>[0]);
    await expect(refused).rejects.toThrow(InvalidArgumentError);
    await expect(refused).rejects.toThrow(what);
    expect(readdirSync(folder)).toEqual([]);
  });
});

describe.skipIf(!onGpu)("the numbers of a GPU", () => {
  test("are measured on the user's device, kept under its adapter, and planned with", async () => {
    const device = await openDevice();
    const tuned = await tune({ device }).catch((error: unknown) => {
      // A processor that runs other tests beside this one may be too busy to play a GPU.
      expect(error).toMatchObject({ message: expect.stringContaining("that is not busy") });
      expect(readdirSync(folder)).toEqual([]);
    });
    if (!tuned) return;
    const { device: found, plans } = tuned;
    expect(plans).toEqual([]);
    expect(found.name).toMatch(/^this machine, /);
    expect(found.busyThreads).toBeGreaterThan(0);
    const [key] = Object.keys(JSON.parse(readFileSync(join(folder, "device.json"), "utf8")));
    expect(key).toMatch(/^webgpu \S+/);
    using conv = await FlashFFTConv.create({ length: 3000, device });
    expect(conv.explain().device.pointSeconds).toBe(found.pointSeconds);
    expect(String(conv.explain())).toContain(`prices from ${found.name}`);
    device.destroy();
  });
});
