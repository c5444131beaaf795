/** plan, bench, verify, tune and info: what they print, as text and as JSON, and when they fail. */
import { readFileSync } from "node:fs";
import { afterEach, describe, expect, test, vi } from "vitest";
import { tuneHint } from "../../src/cli/commands/bench.ts";
import { tableOfNumbers } from "../../src/cli/commands/tune.ts";
import { duration } from "../../src/cli/report.ts";
import { FlashFFTConv } from "../../src/conv/conv.ts";
import type { Explanation } from "../../src/conv/explain.ts";
import { encode } from "../../src/dtype.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { type DeviceSpec, defaultCpu } from "../../src/plan/device.ts";
import {
  compare,
  float32Bound,
  planBound,
  planOf,
  termNorms,
} from "../../src/reference/accuracy.ts";
import { normal } from "../support/signals.ts";
import { Folder, run, runJson, succeed } from "./support.ts";

afterEach(() => void vi.restoreAllMocks());

describe("plan", () => {
  test("says what was chosen and what was not", async () => {
    const { code, stdout, stderr } = await run(["plan", "--length", "64K", "--channels", "16"]);
    expect([code, stderr]).toEqual([0, ""]);
    const [record] = await succeed(["plan", "--length", "64K", "--channels", "16"]);
    expect(record).toMatchObject({
      ...{
        command: "plan",
        mode: "causal",
        length: 65_536,
        kernelLength: 65_536,
        dtype: "float32",
      },
      ...{ batch: 1, channels: 16, outputLength: 65_536, backend: "cpu" },
      chosen: { plan: expect.any(String), predictedMs: expect.any(Number) },
    });
    const { chosen, candidates } = record as unknown as Explanation;
    const [first, ...lines] = stdout.split("\n");
    expect(first).toBe(
      `predicted ${duration(chosen.predictedMs)} for a forward call of 16 rows, with plan ${chosen.plan}`,
    );
    const legend = lines.slice(lines.findIndex((line) => line.startsWith("▶ is the plan in use.")));
    expect(legend.length).toBeGreaterThan(5);
    for (const line of legend) expect(line.length).toBeLessThanOrEqual(80);
    expect(candidates.length).toBeGreaterThan(0);
  });

  test.each(["auto", "cpu"])("--backend %s is the CPU", async (backend) => {
    const [record] = await succeed(["plan", "--length", "1K", "--backend", backend]);
    expect(record).toMatchObject({
      backend: "cpu",
      instructions: expect.stringMatching(/simd|java/),
    });
  });
});

describe("verify", () => {
  test("every mode and dtype, gradients, gates and D", async () => {
    const argv = [
      "verify",
      "--length",
      "1,30,500",
      "--dtype",
      "all",
      "--backward",
      "--gates",
      "--skip",
    ];
    const records = await succeed(argv);
    // 3 lengths × 3 dtypes × (4 modes with 6 quantities each + full, which has no D, with 5).
    expect(records.length).toBe(9 * (4 * 6 + 5));
    for (const record of records) {
      expect(record).toMatchObject({ command: "verify", passed: true, batch: 2, channels: 3 });
      expect(record.rel_error).toBeLessThanOrEqual(record.bound as number);
      expect(typeof record.plan).toBe("string");
    }
    const of = (quantity: string) =>
      records.filter((record) => record.quantity === quantity).length;
    expect(["y", "du", "dk", "dpregate", "dpostgate", "dskip"].map(of)).toEqual([
      45, 45, 45, 45, 45, 36,
    ]);
    expect(new Set(records.map(({ mode }) => mode)).size).toBe(5);
  });

  test("a period, other kernels, another seed", async () => {
    const shape = [
      "--length",
      "300",
      "--kernel-length",
      "200",
      "--mode",
      "circular",
      "--period",
      "420",
    ];
    const [first] = await succeed(["verify", ...shape]);
    const [second] = await succeed(["verify", ...shape, "--seed", "2"]);
    expect(first).toMatchObject({ mode: "circular", length: 300, kernelLength: 200, period: 420 });
    expect(second!.rel_error).not.toBe(first!.rel_error);
  });

  test.each([8, 9, 11, 22])("one tap and one row, whose sums cancel with seed %i", async (seed) => {
    const one = ["--batch", "1", "--channels", "1", "--kernel-length", "1"];
    const all = ["--mode", "causal", "--backward", "--gates", "--skip"];
    const argv = ["verify", "--length", "1,1000", ...one, ...all, "--seed", String(seed)];
    for (const record of await succeed(argv)) expect(record).toMatchObject({ passed: true });
  });

  test("a thousand short rows, whose sums cancel as chance has it", async () => {
    const rows = ["--mode", "all", "--batch", "10", "--channels", "100", "--backward"];
    const records = await succeed(["verify", "--length", "2,4,16", ...rows]);
    for (const record of records) expect(record).toMatchObject({ passed: true });
  });

  test("one tap of a thousand rows, beside a skip weight that cancels it as chance has it", async () => {
    const rows = ["--batch", "2", "--channels", "500", "--backward", "--skip"];
    const one = ["--length", "64,300", "--kernel-length", "1", "--mode", "causal,same,circular"];
    for (const record of await succeed(["verify", ...one, ...rows]))
      expect(record).toMatchObject({ passed: true });
  });

  test("as text", async () => {
    const { code, stdout } = await run(["verify", "--length", "100", "--mode", "causal,full"]);
    expect(code).toBe(0);
    const lines = stdout.trimEnd().split("\n");
    expect(lines[0]).toMatch(/^mode +L +K +B +H +dtype +of +error +bound$/);
    expect(lines[1]).toMatch(/^causal +100 +100 +2 +3 +float32 +y +\d\.\d\de-\d +5\.00e-7 +ok$/);
    expect(lines.at(-1)).toBe("2 comparisons, all within their bounds");
  });

  test.each([
    ["zeros", (y: Float32Array) => y.fill(0)],
    ["one sample that is off", (y: Float32Array) => y.fill(1, 23, 24)],
    ["a NaN", (y: Float32Array) => y.fill(Number.NaN, 599, 600)],
    ["a shift", (y: Float32Array) => y.copyWithin(1, 0)],
  ])("fails for %s", async (_, spoil) => {
    const forward = FlashFFTConv.prototype.forward;
    vi.spyOn(FlashFFTConv.prototype, "forward").mockImplementation(async function (
      this: FlashFFTConv,
      ...inputs: Parameters<typeof forward>
    ) {
      const y = await forward.apply(this, inputs);
      spoil(y as Float32Array);
      return y;
    });
    const argv = ["verify", "--length", "100", "--mode", "causal"];
    const text = await run(argv);
    expect(text.code).toBe(1);
    expect(text.stdout).toContain("ABOVE");
    expect(text.stdout).toContain("1 of 1 comparison above their bounds");
    const { code, records } = await runJson(argv);
    expect([code, records[0]!.passed]).toEqual([1, false]);
    const bench = await run(["bench", "--length", "100", "--channels", "6", "--seconds", "0.1"]);
    expect(bench.code).toBe(1);
    expect(bench.stdout).toContain("above its bound");
  });

  test("the comparison itself: exact values pass, doubly rounded ones do not", () => {
    const exact = normal(3 * 1000, 1);
    const problem = createProblem({ length: 1000 }, "test");
    const bound = float32Bound("y", problem, 1);
    const common = { quantity: "y", exact, rowLength: 1000, bound } as const;
    for (const dtype of ["float32", "float16", "bfloat16"] as const) {
      const actual = encode(exact, dtype);
      expect(compare({ ...common, actual, dtype }).passed).toBe(true);
      const wrong = encode(
        exact.map((value, i) => (i === 2500 ? value * 1.1 : value)),
        dtype,
      );
      expect(compare({ ...common, actual: wrong, dtype }).passed).toBe(false);
    }
    const zeros = new Float32Array(3000);
    expect(compare({ ...common, actual: zeros, dtype: "float32" })).toMatchObject({
      error: 1,
      passed: false,
    });
    expect(bound).toBe(3e-7);
    expect(float32Bound("y", createProblem({ length: 255 }, "test"), 1)).toBe(5e-7);
    expect(float32Bound("y", createProblem({ length: 2 ** 22 }, "test"), 1)).toBe(6e-7);
    expect(float32Bound("dk", problem, 1024)).toBe(2e-6);
    const half = { ...problem, dtype: "float16" } as const;
    const two = "halves 65536: 4·16 /16 ×64 split | 8·8·16 ×64 split";
    const three = "halves 16777216: 8·8 /16 ×64 | 8·16 /16 ×128 | 8·16·16 ×128";
    expect(planBound("y", half, 1, two)).toBe(5e-4);
    expect(planBound("dk", half, 1, two)).toBeCloseTo(7.5e-4, 12);
    expect(planBound("y", half, 1, three)).toBe(3e-7);
    expect(planBound("y", half, 1, three.replace("8·16 ", "4·4·8 "))).toBe(3.5e-4);
    expect(planBound("y", half, 1, two.replace("4·16", "8·8"))).toBe(3.5e-4);
    expect(planBound("y", problem, 1, two)).toBe(3e-7);
    expect(planBound("y", half, 1, "1024: 4·4·4·4·4")).toBe(3e-7);
  });

  test("is relative to what the terms of a row come to, where they cancel", () => {
    const problem = createProblem({ length: 2 }, "test");
    const row = (...x: number[]) => Float64Array.from(x);
    const inputs = {
      batch: 1,
      channels: 1,
      u: row(1, 1),
      k: row(1, -1),
      skip: row(0.5),
      dy: row(2, 0),
    };
    const scales = termNorms(problem, inputs);
    // Three of four products; a skip weight for each sample; one output of dk, three products of four again.
    expect(scales.y[0]).toBeCloseTo(Math.sqrt((3 / 4) * 2 * 2 + 0.25 * 2), 12);
    expect(scales.du[0]).toBeCloseTo(Math.sqrt((3 / 4) * 4 * 2 + 0.25 * 4), 12);
    expect(scales.dk[0]).toBeCloseTo(Math.sqrt((3 / 4) * 4 * 2), 12);
    expect(scales.dskip[0]).toBeCloseTo(Math.sqrt((2 * 4) / 2), 12);
    const circular = termNorms(createProblem({ length: 2, mode: "circular" }, "test"), inputs);
    expect(circular.y[0]).toBeCloseTo(Math.sqrt(2 * 2 + 0.25 * 2), 12);
    const gates = { pregate: row(2, 3), postgate: row(5, 1) };
    const gated = termNorms(problem, { ...inputs, ...gates, skip: row(0) });
    expect(gated.y[0]).toBeCloseTo(Math.sqrt(13 * (3 / 4) * 13 * 2), 12);
    expect(gated.dpregate[0]).toBeCloseTo(Math.sqrt(1 * (3 / 4) * 100 * 2), 12);
    expect(gated.dpostgate[0]).toBeCloseTo(Math.sqrt(2 * (3 / 4) * 13 * 2), 12);
    const exact = row(1e-3, 0);
    const actual = Float32Array.of(1e-3, 1e-7);
    const common = {
      quantity: "y",
      actual,
      exact,
      rowLength: 2,
      dtype: "float32",
      bound: 3e-7,
    } as const;
    expect(compare({ ...common, scale: row(1) })).toMatchObject({ passed: true });
    expect(compare(common)).toMatchObject({ passed: false });
  });

  test("that of the plan that a quantity comes from", () => {
    const chosen = { plan: "halves 16384: 16·32·32 ×512 quarter @4" };
    expect(planOf("du", { chosen })).toBe(chosen.plan);
    const gradientPlan = "halves 16384: 8 /64 ×32·2 | 8·16·16 ×128 split";
    expect(planOf("y", { chosen, gradientPlan })).toBe(chosen.plan);
    expect(planOf("dk", { chosen, gradientPlan })).toBe(gradientPlan);
  });
});

describe("bench", () => {
  test("one record a shape, with the names of the repository's bench", async () => {
    const shape = [
      "--length",
      "256,1K",
      "--channels",
      "4",
      "--gates",
      "--backward",
      "--threads",
      "1",
      "--seconds",
      "0.3",
    ];
    const records = await succeed(["bench", ...shape]);
    expect(records.length).toBe(2);
    for (const [i, record] of records.entries()) {
      expect(record).toMatchObject({
        ...{ command: "bench", mode: "causal", B: 1, H: 4, L: [256, 1024][i], K: [256, 1024][i] },
        ...{ dtype: "float32", gates: true, threads: 1, passed: true },
        ...{ plan: expect.any(String), predicted_ms: expect.any(Number) },
      });
      for (const name of ["ours_ms", "backward_ms", "rel_error"])
        expect(record[name]).toBeGreaterThan(0);
    }
  });

  test.each(["float16", "bfloat16"])("%s, as text", async (dtype) => {
    const shape = ["--length", "1K", "--channels", "2", "--seconds", "0.3"];
    const { code, stdout } = await run(["bench", ...shape, "--dtype", dtype]);
    expect(code).toBe(0);
    // A heading and a row; on a busy machine a hint, which has tests of its own.
    const lines = stdout.split("\n").filter((line) => !line.startsWith("predictions are off"));
    expect(lines.length).toBe(3);
    expect(stdout).toContain(dtype);
  });
});

describe("a bench whose predictions are off", () => {
  const of = (backend: "cpu" | "webgpu", ours: number, predicted: number) => ({
    ...{ backend, ours_ms: ours, predicted_ms: predicted },
  });

  test("by more than a half suggests tune", () => {
    expect(tuneHint([of("cpu", 1.4, 1), of("cpu", 1, 1.4)])).toBe(undefined);
    expect(tuneHint([of("cpu", 1, 1), of("cpu", 1, 2.5)])).toMatch(
      /^predictions are off by a factor of up to 2\.50: run 'flashfftconv tune' while/,
    );
    expect(tuneHint([of("webgpu", 3, 1)])).toContain("'flashfftconv tune --backend webgpu'");
    // A GPU's predictions are of calls that do more.
    expect(tuneHint([of("webgpu", 1, 3)])).toBe(undefined);
  });

  test("says so after its table", async () => {
    const explain = FlashFFTConv.prototype.explain;
    vi.spyOn(FlashFFTConv.prototype, "explain").mockImplementation(function (this: FlashFFTConv) {
      const explanation = explain.call(this);
      return { ...explanation, chosen: { ...explanation.chosen, predictedMs: 1e-6 } };
    });
    const argv = ["bench", "--length", "100", "--channels", "2", "--seconds", "0.05"];
    expect((await run(argv)).stdout).toMatch(/\npredictions are off by .* machine's numbers\n$/);
  });
});

describe("tune", () => {
  test("measures, and keeps the numbers where plans find them; or refuses, and keeps none", async () => {
    const folder = new Folder();
    vi.stubEnv("FLASHFFTCONV_CACHE", folder.path);
    try {
      const { code, records, stderr: said } = await runJson(["tune"]);
      if (code !== 0) {
        // A machine that runs other tests beside this one may be too busy.
        expect([code, said]).toEqual([1, expect.stringContaining("a machine that is not busy")]);
        expect(folder.list()).toEqual([]);
        return;
      }
      const [record] = records;
      const { path, device, ...rest } = record as { path: string; device: DeviceSpec };
      const { kept_defaults: kept } = rest as unknown as { kept_defaults: readonly string[] };
      expect(said.includes("the machine was busy")).toBe(kept.length > 0);
      for (const name of kept) expect(said).toContain(name);
      expect(path.startsWith(folder.path)).toBe(true);
      expect(folder.list().length).toBe(1);
      expect(device.pointSeconds).not.toBe(defaultCpu.pointSeconds);
      for (const { bandwidth } of device.memory) expect(bandwidth).toBeGreaterThan(1e6);
      const [plan] = await succeed(["plan", "--length", "4K"]);
      expect((plan!.device as DeviceSpec).pointSeconds).toBe(device.pointSeconds);
      const table = tableOfNumbers({ device, keptDefaults: kept });
      expect(table).toMatch(/radix 4, for a point .* (measured|default: the machine was busy)\n/);
      expect(table).toMatch(/calling the other threads .* default$/m);
    } finally {
      vi.unstubAllEnvs();
    }
  });
});

describe("tune --length", () => {
  test("times the plans of a shape, and plan takes the fastest", async () => {
    const folder = new Folder();
    vi.stubEnv("FLASHFFTCONV_CACHE", folder.path);
    try {
      const shape = ["--length", "500", "--channels", "8", "--threads", "1", "--mode", "same"];
      const { code, stdout } = await run(["tune", "--batch", "1", "--gates", ...shape]);
      expect(code).toBe(0);
      const kept = /^▶ +(\S.*?) {2,}[\d.]+ [mµ]s +[\d.]+ [mµ]s$/m.exec(stdout)![1]!;
      expect(stdout).toContain("same convolution, L 500, K 500, float32, B 1, H 8\n");
      expect(stdout.endsWith(`\nkept in ${folder.file("device.json")}\n`)).toBe(true);
      const [planned] = await succeed(["plan", "--batch", "1", ...shape]);
      expect(planned).toMatchObject({
        chosen: { plan: kept },
        measured: { ms: expect.any(Number) },
      });
    } finally {
      vi.unstubAllEnvs();
    }
  });

  test.each(["--mode", "--dtype", "--gates", "--channels"])("%s alone is refused", async (name) => {
    const value = { "--mode": ["same"], "--dtype": ["float16"], "--channels": ["2"] }[name] ?? [];
    const { code, stderr: said } = await run(["tune", name, ...value]);
    expect([code, said]).toEqual([2, expect.stringContaining(`${name} belongs to --length`)]);
  });
});

describe("info", () => {
  test.each([
    ["cpu", ["cpu"]],
    ["webgpu", ["webgpu"]],
    ["auto", ["cpu", "webgpu", "cuda"]],
  ])("--backend %s tells of that alone", async (backend, names) => {
    const [record] = await succeed(["info", "--backend", backend]);
    const { backends } = record as { backends: { name: string }[] };
    expect(backends.map(({ name }) => name)).toEqual(names);
    expect("instructions" in record!).toBe(backend !== "webgpu");
    const { stdout } = await run(["info", "--backend", backend]);
    for (const name of ["cpu", "webgpu"])
      expect(new RegExp(`^ {2}${name} +(yes|no): `, "m").test(stdout)).toBe(names.includes(name));
  });

  test("names every backend and why it is missing", async () => {
    const [record] = await succeed(["info"]);
    const { version } = JSON.parse(
      readFileSync(new URL("../../package.json", import.meta.url), "utf8"),
    );
    expect(record).toMatchObject({
      ...{ command: "info", version, cores: expect.any(Number), memory_bytes: expect.any(Number) },
      backends: [
        { name: "cpu", available: true },
        { name: "webgpu", available: expect.any(Boolean), detail: expect.any(String) },
        { name: "cuda", available: false, detail: expect.stringContaining("not in version") },
      ],
      instructions: [
        { name: "relaxed-simd" },
        { name: "simd" },
        { name: "javascript", available: true },
      ],
    });
    const { code, stdout } = await run(["info"]);
    expect(code).toBe(0);
    for (const word of ["relaxed-simd", "webgpu", "cuda", "memory", version])
      expect(stdout).toContain(word);
  });
});
