/**
 * The built package in a real browser, Chromium without a window: on a cross-origin isolated page with threads, on any
 * other page with one, and on WebGPU, which a software adapter plays. Skipped where there is no Chromium, but not in continuous integration (CI=true).
 */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type Browser, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { FlashFFTConvOptions } from "../../src/index.ts";
import { createProblem, type ProblemOptions } from "../../src/plan/problem.ts";
import { drawInputs, forwardBar, gradientBar, type Inputs } from "../support/cases.ts";
import { expectClose } from "../support/close.ts";
import { type PackageServer, servePackage } from "./server.ts";

const executable = [
  process.env.CHROMIUM_PATH,
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
].find((path) => path !== undefined && existsSync(path));
const absent = executable === undefined && process.env.CI !== "true";
const built = fileURLToPath(new URL("../../dist/index.js", import.meta.url));
const flags = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
];

/** The page's global scope. */
interface LibraryPage {
  readonly library: typeof import("../../src/index.ts");
}

/** What a page hands back: arrays as lists of numbers. */
interface PageAnswer {
  readonly isolated: boolean;
  readonly threads: number;
  readonly instructions: string;
  readonly y: number[];
  readonly du: number[];
  readonly dk: number[];
}

/** Run forward and backward in the page, from data given as lists. */
async function runInPage(
  page: Page,
  options: FlashFFTConvOptions,
  inputs: Inputs,
): Promise<PageAnswer> {
  const list = (values: ArrayLike<number>): number[] => Array.from(values);
  return await page.evaluate(
    async ({ options, u, k, dy, pregate }) => {
      const { library } = globalThis as unknown as LibraryPage;
      const conv = await library.FlashFFTConv.create(options);
      const gates = { pregate: Float32Array.from(pregate) };
      const arrays = {
        u: Float32Array.from(u),
        k: Float32Array.from(k),
        dy: Float32Array.from(dy),
      };
      const kernel = await conv.prepareKernel(arrays.k);
      const y = await conv.forward(arrays.u, kernel, gates);
      const { du, dk } = await conv.backward(arrays.dy, arrays.u, kernel, gates);
      const answer = {
        isolated: self.crossOriginIsolated,
        threads: conv.threads,
        instructions: conv.instructions,
        y: Array.from(y),
        du: Array.from(du),
        dk: Array.from(dk),
      };
      await conv.dispose();
      return answer;
    },
    {
      options,
      u: list(inputs.u),
      k: list(inputs.k),
      dy: list(inputs.dy),
      pregate: list(inputs.options.pregate ?? []),
    },
  );
}

/** Draw inputs, run them in the page, and hold every result to the bars of Node. */
async function checkInPage(page: Page, options: FlashFFTConvOptions): Promise<PageAnswer> {
  const { instructions: _, threads: __, backend: ___, ...shape } = options;
  const problem = createProblem(shape as ProblemOptions, "browser test");
  const inputs = drawInputs(problem, { batch: 2, channels: 3, pregate: true }, 1);
  const answer = await runInPage(page, options, inputs);
  const exact = inputs.gradients();
  const check = (name: "y" | "du" | "dk", want: Float64Array, rowLength: number, bound: number) =>
    expectClose(Float32Array.from(answer[name]), want, { name, rowLength, bound });
  check("y", inputs.y(), problem.outputLength, forwardBar(problem));
  check("du", exact.du, problem.length, gradientBar);
  check("dk", exact.dk, problem.kernelLength, gradientBar);
  return answer;
}

if (absent) {
  const remedy = "install Chromium (apt-get install chromium), or set CHROMIUM_PATH";
  console.warn(`The browser tests are skipped: ${remedy}.`);
  test("Chromium is on this machine", (context) => context.skip(remedy));
}

describe.skipIf(absent)("in Chromium", () => {
  let browser: Browser;
  const servers: PackageServer[] = [];
  const complaints: string[] = [];

  beforeAll(async () => {
    if (executable === undefined) {
      throw new Error("CI=true requires the browser test: install Chromium or set CHROMIUM_PATH");
    }
    if (!existsSync(built)) throw new Error("dist/ is missing: run `npm run build` first");
    browser = await chromium.launch({ executablePath: executable, args: flags });
  });

  afterAll(async () => {
    await browser?.close();
    for (const server of servers) await server.close();
  });

  async function open(isolated: boolean): Promise<Page> {
    const server = await servePackage(isolated);
    servers.push(server);
    const page = await browser.newPage();
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("console", (message) => {
      if (message.type() === "error" || message.type() === "warning")
        complaints.push(message.text());
    });
    await page.goto(server.address);
    await page.waitForFunction(() => "library" in globalThis);
    return page;
  }

  test("a cross-origin isolated page has threads and the right answers", async () => {
    const page = await open(true);
    const answer = await checkInPage(page, { length: 3000, threads: 2 });
    expect(answer).toMatchObject({ isolated: true, threads: 2, instructions: "relaxed-simd" });
    const byDefault = await checkInPage(page, { length: 1000, kernelLength: 700, mode: "same" });
    expect(byDefault.threads).toBe(await page.evaluate(() => navigator.hardwareConcurrency));
  });

  test("any other page has one thread and the right answers", async () => {
    const page = await open(false);
    const answer = await checkInPage(page, { length: 3000 });
    expect(answer).toMatchObject({ isolated: false, threads: 1, instructions: "relaxed-simd" });
  });

  test.each(["simd", "javascript"] as const)("%s gives the right answers", async (instructions) => {
    const page = await open(true);
    const answer = await checkInPage(page, { length: 777, mode: "circular", instructions });
    expect(answer.instructions).toBe(instructions);
  });

  test("WebGPU gives the right answers, arrays in and out", async () => {
    const page = await open(false);
    const answer = await checkInPage(page, { length: 1000, mode: "same", backend: "webgpu" });
    expect(answer).toMatchObject({ threads: 1, instructions: "wgsl" });
  });

  test("WebGPU on the page's own device: buffers, and commands in its encoder", async () => {
    const page = await open(false);
    const problem = createProblem({ length: 500 }, "browser test");
    const inputs = drawInputs(problem, { batch: 2, channels: 3 }, 1);
    const y = await page.evaluate(
      async ({ u, k }) => {
        const { library } = globalThis as unknown as LibraryPage;
        const device = await (await navigator.gpu.requestAdapter())!.requestDevice();
        const conv = await library.FlashFFTConv.create({ length: 500, device });
        const kernel = await conv.prepareKernel(Float32Array.from(k));
        const size = 4 * u.length;
        const data = device.createBuffer({
          size,
          usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST,
        });
        device.queue.writeBuffer(data, 0, Float32Array.from(u));
        const encoder = device.createCommandEncoder();
        const y = await conv.forward({ data, shape: [2, 3, 500] }, kernel, { encoder });
        const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
        const staging = device.createBuffer({ size, usage });
        encoder.copyBufferToBuffer(y.data, 0, staging, 0, size);
        device.queue.submit([encoder.finish()]);
        await staging.mapAsync(GPUMapMode.READ);
        conv.dispose();
        return Array.from(new Float32Array(staging.getMappedRange()));
      },
      { u: Array.from(inputs.u), k: Array.from(inputs.k) },
    );
    const bound = forwardBar(problem);
    expectClose(Float32Array.from(y), inputs.y(), { name: "y", rowLength: 500, bound });
  });

  test("a refusal is the typed error that Node throws", async () => {
    const page = await open(false);
    const refusal = await page.evaluate(async () => {
      const { library } = globalThis as unknown as LibraryPage;
      return await library.FlashFFTConv.create({ length: 0 }).then(
        () => "accepted",
        (error: unknown) =>
          error instanceof library.InvalidArgumentError ? error.parts.requirement : String(error),
      );
    });
    expect(refusal).toBe("length must be an integer from 1 to 16,777,216");
  });

  test("nothing was missing and nothing complained", () => {
    expect(servers.length).toBeGreaterThan(0);
    expect(servers.flatMap((server) => server.missing)).toEqual([]);
    expect(complaints).toEqual([]);
  });
});
