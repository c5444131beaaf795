/**
 * The built package in a real browser, Chromium without a window: on a cross-origin isolated page with threads, on any
 * other page with one, and on WebGPU, which a software adapter plays. Skipped where there is no Chromium, but not in continuous integration (CI=true).
 */
import type { Page } from "playwright-core";
import { expect, test } from "vitest";
import { createProblem } from "../../src/plan/create-problem.ts";
import { drawInputs, forwardBar } from "../support/cases.ts";
import { checkInPage, describeInChromium, type LibraryPage } from "../support/chromium.ts";
import { expectClose } from "../support/close.ts";
import { servePackage } from "./server.ts";

describeInChromium("in Chromium", (chromium) => {
  async function open(isolated: boolean): Promise<Page> {
    const { address } = await chromium.serve(servePackage(isolated));
    return (await chromium.openLibrary(address)).page;
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
    expect([chromium.missing, chromium.complaints]).toEqual([[], []]);
  });
});
