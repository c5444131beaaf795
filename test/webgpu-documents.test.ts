/** What README and the examples show of WebGPU, run as a user would run it. */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { onGpu } from "./support/backends.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

/** Run Node in the package's folder. */
function node(...argv: readonly string[]): { status: number | null; stdout: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, ["--no-warnings", ...argv], {
    cwd: root,
    encoding: "utf8",
    timeout: 150_000,
  });
  if (status !== 0) throw new Error(`exit code ${status}: ${stderr}`);
  return { status, stdout };
}

/** What README leaves to the reader, for both snippets. */
const before = `
  import { create, globals } from "webgpu";
  Object.assign(globalThis, globals);
  const navigator = { gpu: create([]) };
  const [B, H] = [2, 3];
  const numbers = (n) => Float32Array.from({ length: n }, (_, i) => Math.sin(i * i));
  const halves = (n) => Uint16Array.from({ length: n }, (_, i) => 0x3000 + (i * 37) % 1024);
  const k = numbers(H * 4096);
  const [u, pregate, postgate] = [1, 2, 3].map(() => halves(B * H * 4096));`;

describe.skipIf(!onGpu)("documents on WebGPU", { timeout: 200_000 }, () => {
  const readme = readFileSync(`${root}/README.md`, "utf8");
  const section = readme.slice(readme.indexOf("### On the GPU"));
  const snippets = [...section.matchAll(/```js\n(.*?)```/gs)].map(([, code]) => code!);

  test("README: arrays there and back", () => {
    const after = "console.log(y.constructor.name, y.length, y.some((h) => h !== 0));";
    const script = `${before}\n${snippets[0]}\n${after}`;
    expect(node("--input-type=module", "-e", script).stdout).toBe("Uint16Array 24576 true\n");
  });

  test("README: buffers, and commands in an encoder", () => {
    // The buffer that the reader has is on the reader's device.
    const filled = `
      const buffer = device.createBuffer({ size: B * H * 4096 * 4, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST });
      device.queue.writeBuffer(buffer, 0, numbers(B * H * 4096));
      const x = {`;
    const after = `
      const staging = device.createBuffer({ size: z.data.size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
      const copy = device.createCommandEncoder();
      copy.copyBufferToBuffer(z.data, 0, staging, 0, z.data.size);
      device.queue.submit([copy.finish()]);
      await staging.mapAsync(GPUMapMode.READ);
      const values = new Float32Array(staging.getMappedRange());
      console.log(z.shape.join(), values.every(Number.isFinite), values.some((v) => v !== 0));`;
    const script = `${before}\n${snippets[1]!.replace("const x = {", filled)}\n${after}`;
    expect(node("--input-type=module", "-e", script).stdout).toBe("2,3,4096 true true\n");
  });

  test("examples/webgpu.js: the right answer", () => {
    const { stdout } = node("examples/webgpu.js");
    expect(Number(/relative error of the result: (\S+)/.exec(stdout)![1])).toBeLessThan(1e-6);
  });
});
