/** What README shows of the CPU, run as written, with two batch items. Needs `npm run build`. */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));
const readme = readFileSync(`${root}/README.md`, "utf8");
const snippets = [...readme.matchAll(/```js\n(.*?)```/gs)].map(([, code]) => code!);

/** The snippet that holds a text, between what README leaves to the reader and what is to be found: what it prints. */
function run(holds: string, before: string, after: string): string {
  const snippet = snippets.find((code) => code.includes(holds));
  const numbers = "(n) => Float32Array.from({ length: n }, (_, i) => Math.sin(i * i) / 2)";
  const script = `const [B, H] = [2, 3]; const numbers = ${numbers};\n${before}\n${snippet}\n${after}`;
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ["--no-warnings", "--input-type=module", "-e", script],
    { cwd: root, encoding: "utf8", timeout: 100_000 },
  );
  if (status !== 0) throw new Error(`exit code ${status}: ${stderr}`);
  return stdout.trim();
}

describe("README", { timeout: 120_000 }, () => {
  test("use", () => {
    const before = `
      const [signal, taps, k] = [numbers(100), numbers(9), numbers(H * 4096)];
      const [u, dy, pregate, postgate] = [1, 2, 3, 4].map(() => numbers(B * H * 4096));
      const skip = numbers(H);`;
    const after = "console.log(filtered.length, y.length, gradients.dk.length, input.length);";
    expect(run("convolve(signal, taps)", before, after)).toMatch(/108 24576 12288 24576$/);
  });

  test("streams", () => {
    const before = `
      const k = numbers(2 * 661_500);
      const pieces = [numbers(2 * 30_000), numbers(0), numbers(2 * 7)];
      const block = numbers(2 * 128);
      let played = 0;
      const play = (y) => { played += y.length; };`;
    const after = "console.log(played, wet.length); stream.dispose(); live.dispose();";
    expect(run("stream.convolve(pieces)", before, after)).toBe("60014 256");
  });

  test("short filters", () => {
    const before = `
      import { FlashFFTConv } from "flashfftconv";
      const L = 50;
      const [x, dy] = [numbers(B * H * L), numbers(B * H * L).reverse()];
      const [weight, bias, weights] = [numbers(H * 4), numbers(H), numbers(3 * H * 3)];
      const blocks = [7, 43].map((n) => numbers(B * H * n));
      const packed = numbers(B * 3 * H * L);
      const conv = await FlashFFTConv.create({ length: L });
      const kernel = await conv.prepareKernel(numbers(H * L));`;
    // The same with the shape of every tensor: nothing may depend on how it was told.
    const after = `
      const shape = [B, H, L];
      const given = { data: x, shape };
      const want = await short.forward(given, weight, { bias });
      const grads = await short.backward({ data: dy, shape }, given, weight, { bias });
      const whole = { data: packed, shape: [B, 3 * H, L] };
      const parts = await projections.forward(whole, weights);
      const pairs = [[y, want], [dx, grads.dx], [dweight, grads.dweight], [dbias, grads.dbias],
        [gated, parts.gated], [postgate, parts.postgate]];
      const same = pairs.map(([a, b]) => a.length === b.length && a.every((v, i) => v === b[i]));
      console.log(same.join(), out.length, state.length);`;
    const printed = "true,true,true,true,true,true 300 18";
    expect(run("FlashHyenaProjections.create", before, after)).toBe(printed);
  });

  test("fewer frequencies", () => {
    const before = "const k = numbers(524_288);";
    const after = `
      const u = numbers(B * 524_288);
      console.log((await sparse.forward(u, k)).length, dropped.length, dropped[0] > 0.1);`;
    expect(run("sparsifyKernel(k", before, after)).toMatch(/1048576 1 true$/);
  });
});
