/** Pages that lack something: a policy that lets code compile, a secure origin, WebGPU. Each is told what it lacks. */
import type { Page } from "playwright-core";
import { expect, test } from "vitest";
import type { FlashFFTConvOptions } from "../../src/index.ts";
import { checkInPage, describeInChromium, type LibraryPage } from "../support/chromium.ts";
import { type SiteServer, servePackage } from "./server.ts";

describeInChromium("in Chromium", (chromium) => {
  /** Open a page; `before` runs in it first. */
  async function open(
    headers: Readonly<Record<string, string>>,
    before?: () => void,
    isolated = false,
  ): Promise<{ page: Page; server: SiteServer }> {
    const server = await chromium.serve(servePackage(isolated, headers));
    const { page } = await chromium.openLibrary(server.address, before);
    return { page, server };
  }

  /** The message of the UnsupportedError that creating an object throws. */
  function refusal(page: Page, options: FlashFFTConvOptions): Promise<string> {
    return page.evaluate(async (options) => {
      const { library } = globalThis as unknown as LibraryPage;
      return library.FlashFFTConv.create(options).then(
        () => "accepted",
        (error: Error) =>
          error instanceof library.UnsupportedError ? error.message : `untyped: ${error}`,
      );
    }, options);
  }

  const policyOf = (more: string): Record<string, string> => ({
    "Content-Security-Policy": `default-src 'self' data:; script-src 'self' 'unsafe-inline'${more}`,
  });

  test("a strict policy: an error that names 'wasm-unsafe-eval' and WebGPU, which works", async () => {
    const { page } = await open(policyOf(""));
    const message = await refusal(page, { length: 1000 });
    expect(message).toMatch(/^FlashFFTConv\.create: .*Content-Security-Policy/);
    expect(message).toContain("'wasm-unsafe-eval'");
    expect(message).toContain("backend: 'webgpu'");
    const javascript = await refusal(page, { length: 1000, instructions: "javascript" });
    expect(javascript).toContain("'unsafe-eval'");
    await checkInPage(page, { length: 200, backend: "webgpu" });
  });

  test("'wasm-unsafe-eval' is enough for WebAssembly and its threads", async () => {
    const { page } = await open(policyOf(" 'wasm-unsafe-eval'"), undefined, true);
    const answer = await checkInPage(page, { length: 12_000, threads: 2 });
    expect(answer).toMatchObject({ threads: 2, instructions: "relaxed-simd" });
    expect(page.workers().length).toBeGreaterThan(0);
  });

  /** A page in a browser without WebGPU. */
  function hideWebGpu(): void {
    Object.defineProperty(Navigator.prototype, "gpu", { get: () => undefined });
  }

  test("a browser without WebGPU says so, and loads no code for GPUs", async () => {
    const { page, server } = await open({}, hideWebGpu);
    const message = await refusal(page, { length: 1000, backend: "webgpu" });
    expect(message).toContain("a browser that has none");
    expect(message).not.toContain("npm install");
    await checkInPage(page, { length: 1000 });
    const forGpus =
      /\/(?:kernels\/gpu|schedule|backend\/webgpu\/(?!find-gpu))|\/gpu(?:-[a-z]+)?\.js|fit-gpu/;
    expect(server.asked).toContain("/dist/conv/cpu.js");
    expect(server.asked.filter((path) => forGpus.test(path))).toEqual([]);
  });

  test("a page that is neither from https nor from localhost is told to be", async () => {
    const { page } = await open({}, () => {
      Object.defineProperty(Navigator.prototype, "gpu", { get: () => undefined });
      Object.defineProperty(globalThis, "isSecureContext", { get: () => false });
    });
    const message = await refusal(page, { length: 1000, backend: "webgpu" });
    expect(message).toContain("Serve the page over https or from localhost");
  });
});
