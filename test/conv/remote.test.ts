/** FlashFFTConv with a worker: the calls of an object here, their work on another thread, with the same bits. */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import {
  BackendError,
  FlashFFTConv,
  type FlashFFTConvOptions,
  InvalidArgumentError,
  PreparedKernel,
  serveConvolutions,
  UnsupportedError,
} from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { drawInputs, type Inputs } from "../support/cases.ts";
import { expectSameBits } from "../support/close.ts";

const library = new URL("../../dist/index.js", import.meta.url).href;
const script = `import(${JSON.stringify(library)}).then((library) => library.serveConvolutions());`;
const start = (code = script): Worker => new Worker(code, { eval: true });

describe("an object with a worker", () => {
  let worker: Worker;

  beforeAll(() => {
    worker = start();
  });

  afterAll(async () => {
    await worker.terminate();
  });

  const cases: readonly FlashFFTConvOptions[] = [
    { length: 1000, threads: 1 },
    { length: 700, mode: "bidirectional", threads: 2 },
    { length: 300, dtype: "float16", threads: 1 },
    { length: 5, kernelLength: 3, mode: "same", threads: 1 },
  ];
  test.each(cases)("gives the bits of one without: %o", async (options) => {
    const { threads: _, ...shape } = options;
    const problem = createProblem(shape, "test");
    const operands = { batch: 2, channels: 3, pregate: true, postgate: true, skip: true };
    const inputs: Inputs = drawInputs(problem, operands, 1);
    const { u, k, dy, options: gates } = inputs;
    using here = await FlashFFTConv.create(options);
    using there = await FlashFFTConv.create({ ...options, worker });
    expect(there.threads).toBe(here.threads);
    expect(there.instructions).toBe(here.instructions);
    expect(String(there.explain())).toBe(String(here.explain()));
    const kernel = await there.prepareKernel(k);
    expect(kernel).toBeInstanceOf(PreparedKernel);
    expect(there.memory().spectrumBytes).toBeGreaterThan(0);
    const y = await here.forward(u, k, gates);
    expectSameBits(await there.forward(u, kernel, gates), y);
    const out = there.allocateOutput(2, 3);
    expect(await there.forward(u, k, { ...gates, out })).toBe(out);
    expectSameBits(out, y);
    const want = await here.backward(dy, u, k, gates);
    const got = await there.backward(dy, u, kernel, gates);
    for (const name of ["du", "dk", "dpregate", "dpostgate", "dskip"] as const)
      expectSameBits(got[name]!, want[name]!);
    kernel.dispose();
    await expect(there.forward(u, kernel, gates)).rejects.toThrow(/prepared kernel must be alive/);
  });

  test("calls keep their order, and end although the object is disposed of meanwhile", async () => {
    const there = await FlashFFTConv.create({ length: 64, kernelLength: 1, worker });
    const u = new Float32Array(64).fill(1);
    const calls = [1, 2, 3].map((tap) => {
      const y = there.forward(u, Float32Array.of(tap));
      u.fill(tap + 1); // The arrays have been copied.
      return y;
    });
    there.dispose();
    const firsts = (await Promise.all(calls)).map((y) => Math.round(y[0] as number));
    expect(firsts).toEqual([1, 4, 9]);
    await expect(there.forward(u, Float32Array.of(1))).rejects.toThrow(/disposed/);
  });

  test("errors arrive as what they are", async () => {
    const bad = FlashFFTConv.create({ length: 64, plan: "nonsense", worker });
    await expect(bad).rejects.toBeInstanceOf(InvalidArgumentError);
    const kinds: readonly [
      object,
      typeof InvalidArgumentError | typeof UnsupportedError,
      RegExp,
    ][] = [
      [{ threads: 2, instructions: "javascript" }, UnsupportedError, /threads need kernels/],
      [{ batch: () => 1 }, InvalidArgumentError, /copied to a worker/],
      [{ device: {} }, InvalidArgumentError, /stays on the thread/],
      [{ worker: "script.js" }, InvalidArgumentError, /worker must be a Worker.*serveConv/],
    ];
    for (const [more, kind, message] of kinds) {
      const made = FlashFFTConv.create({ length: 64, worker, ...more } as FlashFFTConvOptions);
      await expect(made).rejects.toBeInstanceOf(kind);
      await expect(made).rejects.toThrow(message);
    }
  });
});

test("a worker that ends fails the calls that wait, and those to come", async () => {
  const worker = start();
  const conv = await FlashFFTConv.create({ length: 1 << 20, worker });
  const u = new Float32Array(1 << 20);
  const refused = async (call: Promise<unknown>): Promise<void> => {
    const error: unknown = await call.catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(BackendError);
    expect(String(error)).toMatch(/a worker that lives.*Start a new worker/);
  };
  const under = refused(conv.forward(u, u));
  await worker.terminate();
  await under;
  await refused(conv.forward(u, u));
  conv.dispose();
});

test("a worker whose script ends at once", async () => {
  const made = FlashFFTConv.create({ length: 8, worker: start("") });
  await expect(made).rejects.toThrow(/calls serveConvolutions/);
});

test("a worker whose script serves nothing", async () => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  onTestFinished(() => void vi.useRealTimers());
  const worker = start("setInterval(() => {}, 1000);");
  const made = FlashFFTConv.create({ length: 8, worker }).catch((error: unknown) => error);
  await vi.waitFor(() => expect(vi.getTimerCount()).toBe(1));
  vi.advanceTimersByTime(30_000);
  expect(String(await made)).toMatch(/calls serveConvolutions.*says nothing for 30 s/);
  await worker.terminate();
});

test("a process ends although its object was not disposed of", () => {
  const code = `
    import { Worker } from "node:worker_threads";
    import { FlashFFTConv } from ${JSON.stringify(library)};
    const worker = new Worker(${JSON.stringify(script)}, { eval: true });
    worker.unref();
    const conv = await FlashFFTConv.create({ length: 8, worker });
    console.log((await conv.forward(new Float32Array(8).fill(1), new Float32Array(8).fill(1)))[0]);`;
  const { status, stdout } = spawnSync(process.execPath, ["--input-type=module", "-e", code], {
    ...{ encoding: "utf8", timeout: 60_000, cwd: fileURLToPath(new URL("../..", import.meta.url)) },
  });
  expect(status).toBe(0);
  expect(Number(stdout)).toBeCloseTo(1, 5);
});

test("serveConvolutions outside a worker is refused", () => {
  for (const globals of [{}, { document: {}, addEventListener: () => {} }]) {
    for (const [name, value] of Object.entries(globals)) vi.stubGlobal(name, value);
    expect(serveConvolutions).toThrow(UnsupportedError);
    expect(serveConvolutions).toThrow(/^serveConvolutions: it runs in the script of a worker; got/);
  }
  vi.unstubAllGlobals();
});
