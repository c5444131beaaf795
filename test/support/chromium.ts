/** A real browser, Chromium without a window, and convolutions in its pages that are held to the bars of Node. */
import { existsSync } from "node:fs";
import { type Browser, chromium, type Page } from "playwright-core";
import { test } from "vitest";
import type { FlashFFTConvOptions } from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import type { ProblemOptions } from "../../src/plan/problem.ts";
import { drawInputs, forwardBar, gradientBar, type Inputs } from "./cases.ts";
import { expectClose } from "./close.ts";

const executable = [
  process.env.CHROMIUM_PATH,
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
].find((path) => path !== undefined && existsSync(path));
/** Whether browser tests are skipped: where there is no Chromium, but not in continuous integration. */
export const chromiumIsAbsent: boolean = executable === undefined && process.env.CI !== "true";
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

/** Start the browser. */
export async function launchChromium(): Promise<Browser> {
  if (executable === undefined)
    throw new Error("CI=true requires the browser tests: install Chromium or set CHROMIUM_PATH");
  return chromium.launch({ executablePath: executable, args: flags });
}

/** Where there is no browser, a skipped test that says so. */
export function tellIfAbsent(): void {
  if (!chromiumIsAbsent) return;
  const remedy = "install Chromium (apt-get install chromium), or set CHROMIUM_PATH";
  console.warn(`The browser tests are skipped: ${remedy}.`);
  test("Chromium is on this machine", (context) => context.skip(remedy));
}

/** The page's global scope. */
export interface LibraryPage {
  readonly library: typeof import("../../src/index.ts");
}

/** What a page hands back: arrays as lists of numbers. */
export interface PageAnswer {
  readonly isolated: boolean;
  readonly threads: number;
  readonly instructions: string;
  readonly explanation: string;
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
        explanation: String(conv.explain()),
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
    expectClose(Float32Array.from(answer[name]), want, { name, rowLength, bound });
  check("y", inputs.y(), problem.outputLength, forwardBar(problem));
  check("du", exact.du, problem.length, gradientBar);
  check("dk", exact.dk, problem.kernelLength, gradientBar);
  return answer;
}
