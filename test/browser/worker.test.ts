/** A page that is not isolated, with the worker and the page of docs/workers.md, in Chromium. */
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { createProblem } from "../../src/plan/create-problem.ts";
import { drawInputs, forwardBar } from "../support/cases.ts";
import { describeInChromium } from "../support/chromium.ts";
import { expectClose } from "../support/close.ts";
import { snippetOf } from "../support/guides.ts";
import { serveSite } from "./server.ts";

const [length, kernelLength] = [20_000, 3_000];
const inputs = drawInputs(createProblem({ length, kernelLength }, "test"), {}, 1);

/** The guide's modules, for one problem; what the page finds stays in `answer`. */
function pages(options: string): Record<string, string> {
  const here = (code: string): string => code.replace('"flashfftconv"', '"./index.js"');
  const page = here(snippetOf("workers.md", "page")).replace(
    /length: .*worker/,
    `length: ${length}, kernelLength: ${kernelLength}, ${options}worker`,
  );
  const list = (values: ArrayLike<number>): string => JSON.stringify(Array.from(values));
  return {
    "/index.html": `<!doctype html><title>worker</title><link rel="icon" href="data:,">
      <script type="module" src="page.js"></script>`,
    "/convolutions.js": here(snippetOf("workers.md", "worker")),
    "/page.js": `
      const [u, k] = [Float32Array.from(${list(inputs.u)}), Float32Array.from(${list(inputs.k)})];
      ${page}
      globalThis.answer = { y: Array.from(y), instructions: conv.instructions };`,
  };
}

const folder = fileURLToPath(new URL("../../dist", import.meta.url));

describeInChromium("a worker of the page's computes", (chromium) => {
  const serve = (pages: Record<string, string>) =>
    chromium.serve(serveSite({ folder, pages, headers: () => ({}) }));

  test.each([
    ["on the CPU", "", "relaxed-simd"],
    ["on WebGPU", 'backend: "webgpu", ', "wgsl"],
  ])("%s", async (_, options, instructions) => {
    const server = await serve(pages(options));
    const { page, errors } = await chromium.open(server.address);
    await page.waitForFunction(() => "answer" in globalThis, undefined, { timeout: 60_000 });
    const answer = await page.evaluate(
      () => (globalThis as unknown as { answer: { y: number[]; instructions: string } }).answer,
    );
    const bound = forwardBar(inputs.problem);
    expectClose(Float32Array.from(answer.y), inputs.y(), { name: "y", rowLength: length, bound });
    expect(answer.instructions).toBe(instructions);
    expect([server.missing, errors]).toEqual([[], []]);
  });

  test("or create says that its script could not be loaded", async () => {
    const { "/convolutions.js": _, ...others } = pages("");
    const { errors } = await chromium.open((await serve(others)).address);
    await expect
      .poll(() => errors.join("\n"), { timeout: 30_000 })
      .toMatch(/BackendError.*a worker with an error: its script could/);
  });
});
