/** The command line on a GPU: every command that takes --backend, answers checked, and a process that ends. */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test, vi } from "vitest";
import { SignalFile } from "../../src/cli/signal.ts";
import { encode } from "../../src/dtype.ts";
import type { TunedPlan } from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { oracleForward } from "../../src/reference/convolution.ts";
import { onGpu } from "../support/backends.ts";
import { expectClose } from "../support/close.ts";
import { normal } from "../support/signals.ts";
import { Folder, npy, readNpy, run, succeed, wav } from "./support.ts";

const program = fileURLToPath(new URL("../../dist/cli/bin.js", import.meta.url));
const onWebGpu = ["--backend", "webgpu"];

describe.skipIf(!onGpu)("--backend webgpu", () => {
  test("conv, in a process of its own, which ends", () => {
    expect(existsSync(program)).toBe(true);
    const folder = new Folder();
    const [u, k] = [encode(normal(6 * 500, 1), "float32"), encode(normal(3 * 70, 2), "float32")];
    const input = folder.write("u.npy", npy("<f4", [2, 3, 500], u));
    const kernel = folder.write("k.npy", npy("<f4", [3, 70], k));
    const files = ["--input", input, "--kernel", kernel, "--output", folder.file("y.npy")];
    const { status, stdout } = spawnSync(
      process.execPath,
      [program, "conv", ...files, ...onWebGpu],
      {
        encoding: "utf8",
        timeout: 50_000,
      },
    );
    expect(stdout).toContain("(on WebGPU)");
    expect(status).toBe(0);
    const problem = createProblem({ mode: "full", length: 500, kernelLength: 70 }, "test");
    const exact = oracleForward(problem, {
      ...{ batch: 2, channels: 3, u: Float64Array.from(u), k: Float64Array.from(k) },
    });
    const y = new Float32Array(readNpy(folder.read("y.npy")).data);
    expectClose(y, exact, { rowLength: 569, bound: 6e-7 });
  });

  test("conv of sound in pieces: what the CPU gives", async () => {
    const folder = new Folder();
    const noise = (count: number, seed: number) =>
      new Uint8Array(Int16Array.from(normal(count, seed), (value) => value * 1000).buffer);
    const shape = { rate: 8000, bits: 16 } as const;
    folder.write("u.wav", wav({ ...shape, channels: 2, data: noise(2 * 70_000, 1) }));
    folder.write("k.wav", wav({ ...shape, channels: 1, data: noise(900, 2) }));
    const files = ["--input", folder.file("u.wav"), "--kernel", folder.file("k.wav"), "--stream"];
    const results: Float32Array[] = [];
    for (const [name, more] of [
      ["cpu", []],
      ["webgpu", onWebGpu],
    ] as const) {
      const path = folder.file(`${name}.wav`);
      const [record] = await succeed(["conv", ...files, "--output", path, ...more]);
      expect(record).toMatchObject({ backend: name, streamed: true, shape: [2, 70_899] });
      const file = await SignalFile.open(path, "test", undefined);
      const samples = new Float32Array(file.count);
      await file.read(samples, "float32");
      await file.close();
      results.push(samples);
    }
    const [want, got] = results;
    expectClose(got!, Float64Array.from(want!), { rowLength: 70_899, bound: 1e-6 });
  });

  test("verify: gradients, gates and D in every dtype", async () => {
    const all = ["--dtype", "all", "--backward", "--gates", "--skip"];
    // In one pass and, under the limits of SwiftShader, in two.
    const argv = ["verify", "--length", "300,4K", "--mode", "causal", ...all, ...onWebGpu];
    const records = await succeed(argv);
    expect(records.length).toBe(2 * 3 * 6);
    for (const record of records)
      expect(record).toMatchObject({
        backend: "webgpu",
        passed: true,
        plan: expect.stringMatching(/^halves /),
      });
  }, 200_000);

  test("bench: the device's time", async () => {
    const shape = ["--length", "256", "--channels", "4", "--gates", "--backward"];
    const [record] = await succeed(["bench", ...shape, ...onWebGpu]);
    expect(record).toMatchObject({ backend: "webgpu", instructions: "wgsl", passed: true });
    for (const name of ["ours_ms", "backward_ms"]) expect(record![name]).toBeGreaterThan(0);
  });

  test("plan: passes, on the adapter by name", async () => {
    const argv = ["plan", "--length", "64K", "--channels", "64", ...onWebGpu];
    const [record] = await succeed(argv);
    const { chosen } = record as { chosen: { plan: string } };
    expect(record).toMatchObject({ backend: "webgpu", instructions: "wgsl" });
    expect(chosen.plan).toMatch(/^halves \d+: .* \| /);
    const { stdout } = await run(argv);
    const lines = stdout.trimEnd().split("\n");
    const columns = lines.filter((line) => / (µs|ms)$/.test(line) && !line.includes("more"));
    expect(new Set(columns.map((line) => line.length)).size).toBe(1);
  });

  test("tune: the adapter's numbers, then plans of a shape, which plan takes", async () => {
    const folder = new Folder();
    vi.stubEnv("FLASHFFTCONV_CACHE", folder.path);
    try {
      const { code, stdout, stderr: said } = await run(["tune", ...onWebGpu]);
      if (code !== 0) {
        // A machine that runs other tests beside this one may be too busy.
        expect([code, said]).toEqual([1, expect.stringContaining("a machine that is not busy")]);
      } else {
        for (const name of ["butterflies", "workgroup memory", "cache", "memory", "a launch"])
          expect(stdout).toMatch(
            new RegExp(`^${name} +\\S.* (measured|default: the machine was busy)$`, "m"),
          );
        expect(stdout).toContain(`kept in ${folder.file("device.json")}`);
      }
      const shape = ["--length", "200,300", "--batch", "2", "--channels", "4"];
      const [record] = await succeed(["tune", ...onWebGpu, ...shape, "--dtype", "float16"]);
      const { plans } = record as unknown as { plans: TunedPlan[] };
      expect(plans.map((p) => [p.problem.length, p.batch, p.channels])).toEqual([
        [200, 2, 4],
        [300, 2, 4],
      ]);
      const again = ["--length", "300", "--batch", "2", "--channels", "4", "--dtype", "float16"];
      const [planned] = await succeed(["plan", ...onWebGpu, ...again]);
      const { plan, ms } = plans[1]!;
      expect(planned).toMatchObject({ chosen: { plan }, measured: { ms } });
      if (code === 0)
        expect(planned).toMatchObject({ device: { source: expect.stringContaining("by tune") } });
    } finally {
      vi.unstubAllEnvs();
    }
  });

  test("info: the adapter, its features and its limits", async () => {
    const [record] = await succeed(["info"]);
    const [, webgpu] = record!.backends as Record<string, unknown>[];
    expect(webgpu).toMatchObject({
      ...{
        name: "webgpu",
        available: true,
        software: true,
        adapter: expect.stringMatching(/swiftshader|llvmpipe/i),
      },
      features: { "shader-f16": expect.any(Boolean), subgroups: true },
      ...{ workgroupBytes: expect.any(Number), invocations: expect.any(Number) },
      ...{ bindingBytes: expect.any(Number), subgroupMatrices: expect.any(Array) },
    });
    const { stdout } = await run(["info", "--backend", "webgpu"]);
    expect(stdout).toMatch(/webgpu +yes: a software adapter/);
    // Mesa's driver has them, where the adapter is asked that the library opens.
    if (process.env.REQUIRE_SUBGROUP_MATRICES === "1")
      expect(stdout).toMatch(/subgroup matrices +yes: .*8×8×8 f16→f(16|32)/);
    expect(stdout).toMatch(/adapter +\S+/);
    expect(stdout).toMatch(/subgroups +yes: \d+ lanes/);
    expect(stdout).toMatch(/workgroup +\d+\.\d KiB, [\d,]+ invocations/);
  });
});
