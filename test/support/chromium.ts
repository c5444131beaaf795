/** A real browser, Chromium without a window, and convolutions in its pages that are held to the bars of Node. */
import { existsSync } from "node:fs";
import { type Browser, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, describe, test } from "vitest";
import type { FlashFFTConvOptions } from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import type { ProblemOptions } from "../../src/plan/problem.ts";
import type { SiteServer } from "../browser/server.ts";
import { drawInputs, forwardBar, gradientBar, type Inputs } from "./cases.ts";
import { expectClose } from "./close.ts";

const executable = [
  process.env.CHROMIUM_PATH,
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
].find((path) => path !== undefined && existsSync(path));
/** Whether browser tests are skipped: where there is no Chromium, but not in continuous integration. */
const chromiumIsAbsent = executable === undefined && process.env.CI !== "true";
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

/** A page, and what its console has said. */
export interface OpenPage {
  readonly page: Page;
  readonly errors: string[];
  readonly warnings: string[];
}

/** A browser, and what is opened in it, until the tests of a group are over. */
export class Chromium {
  readonly #servers: SiteServer[] = [];
  readonly #pages: OpenPage[] = [];
  #browser: Browser | undefined;

  async launch(): Promise<void> {
    if (executable === undefined)
      throw new Error("CI=true requires the browser tests: install Chromium or set CHROMIUM_PATH");
    this.#browser = await chromium.launch({ executablePath: executable, args: flags });
  }

  async close(): Promise<void> {
    await this.#browser?.close();
    for (const server of this.#servers) await server.close();
  }

  /** A server that ends with the browser. */
  async serve(site: Promise<SiteServer>): Promise<SiteServer> {
    const server = await site;
    this.#servers.push(server);
    return server;
  }

  /** Open a page, in which `before` runs first. */
  async open(address: string, before: () => void = () => {}): Promise<OpenPage> {
    const page = await this.#browser!.newPage();
    const opened: OpenPage = { page, errors: [], warnings: [] };
    page.on("pageerror", (error) => opened.errors.push(String(error)));
    page.on("console", (message) => {
      if (message.type() === "error") opened.errors.push(message.text());
      if (message.type() === "warning") opened.warnings.push(message.text());
    });
    await page.addInitScript(before);
    await page.goto(address);
    this.#pages.push(opened);
    return opened;
  }

  /** Open a page that puts the library in its global scope. */
  async openLibrary(address: string, before?: () => void): Promise<OpenPage> {
    const opened = await this.open(address, before);
    await opened.page.waitForFunction(() => "library" in globalThis);
    return opened;
  }

  /** What no server had. */
  get missing(): string[] {
    return this.#servers.flatMap((server) => server.missing);
  }

  /** What any page has said. */
  get complaints(): string[] {
    return this.#pages.flatMap(({ errors, warnings }) => [...errors, ...warnings]);
  }
}

/** Tests in a browser that they share. Where there is none, a skipped test says so. */
export function describeInChromium(title: string, define: (chromium: Chromium) => void): void {
  if (chromiumIsAbsent) {
    const remedy = "install Chromium (apt-get install chromium), or set CHROMIUM_PATH";
    console.warn(`The browser tests are skipped: ${remedy}.`);
    test("Chromium is on this machine", (context) => context.skip(remedy));
  }
  describe.skipIf(chromiumIsAbsent)(title, () => {
    const browser = new Chromium();
    beforeAll(() => browser.launch());
    afterAll(() => browser.close());
    define(browser);
  });
}

/** The page's global scope. */
export interface LibraryPage {
  readonly library: typeof import("../../src/index.ts");
}

/** What a page hands back: arrays as base64, since numbers one by one would take longer than all else. */
export interface PageAnswer {
  readonly isolated: boolean;
  readonly threads: number;
  readonly instructions: string;
  readonly explanation: string;
  readonly y: string;
  readonly du: string;
  readonly dk: string;
}

const base64 = ({ buffer, byteOffset, byteLength }: ArrayBufferView): string =>
  Buffer.from(buffer, byteOffset, byteLength).toString("base64");

/** Samples that a page hands back. */
export function samplesIn(text: string): Float32Array {
  return new Float32Array(Uint8Array.from(Buffer.from(text, "base64")).buffer);
}

/** Run forward and backward in the page, from data given as base64. */
async function runInPage(
  page: Page,
  options: FlashFFTConvOptions,
  inputs: Inputs,
): Promise<PageAnswer> {
  return await page.evaluate(
    async ({ options, u, k, dy, pregate }) => {
      const { library } = globalThis as unknown as LibraryPage;
      const conv = await library.FlashFFTConv.create(options);
      const samples = (text: string) =>
        new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
      const base64 = (samples: Float32Array) => {
        let text = "";
        const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
        for (const byte of bytes) text += String.fromCharCode(byte);
        return btoa(text);
      };
      const gates = { pregate: samples(pregate) };
      const arrays = { u: samples(u), k: samples(k), dy: samples(dy) };
      const kernel = await conv.prepareKernel(arrays.k);
      const y = await conv.forward(arrays.u, kernel, gates);
      const { du, dk } = await conv.backward(arrays.dy, arrays.u, kernel, gates);
      const answer = {
        isolated: self.crossOriginIsolated,
        threads: conv.threads,
        instructions: conv.instructions,
        explanation: String(conv.explain()),
        y: base64(y),
        du: base64(du),
        dk: base64(dk),
      };
      await conv.dispose();
      return answer;
    },
    {
      options,
      u: base64(inputs.u),
      k: base64(inputs.k),
      dy: base64(inputs.dy),
      pregate: base64(inputs.options.pregate!),
    },
  );
}

/** Inputs of pages by problem: what they must give is computed once, however many pages are asked. */
const drawn = new Map<string, Inputs>();

function inputsOf(options: ProblemOptions): Inputs {
  const key = JSON.stringify(options);
  const problem = createProblem(options, "browser test");
  const inputs = drawn.get(key) ?? drawInputs(problem, { batch: 2, channels: 3, pregate: true }, 1);
  drawn.set(key, inputs);
  return inputs;
}

/** Draw inputs, run them in the page, and hold every result to the bars of Node. */
export async function checkInPage(page: Page, options: FlashFFTConvOptions): Promise<PageAnswer> {
  const { instructions: _, threads: __, backend: ___, workerUrl: ____, ...shape } = options;
  const inputs = inputsOf(shape as ProblemOptions);
  const { problem } = inputs;
  const answer = await runInPage(page, options, inputs);
  const exact = inputs.gradients();
  const check = (name: "y" | "du" | "dk", want: Float64Array, rowLength: number, bound: number) =>
    expectClose(samplesIn(answer[name]), want, { name, rowLength, bound });
  check("y", inputs.y(), problem.outputLength, forwardBar(problem));
  check("du", exact.du, problem.length, gradientBar);
  check("dk", exact.dk, problem.kernelLength, gradientBar);
  return answer;
}
