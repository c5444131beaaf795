/** Where address space is limited, as in containers and batch systems, commands run in plain JavaScript or say what is missing. */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { normal } from "../support/signals.ts";
import { Folder, npy } from "./support.ts";

const program = fileURLToPath(new URL("../../dist/cli/bin.js", import.meta.url));

/** Run a command with so many KiB of address space. */
function limited(
  kilobytes: number,
  argv: readonly string[],
): Promise<{ code: number; text: string }> {
  const line = `ulimit -v ${kilobytes}; exec "$@"`;
  const child = spawn("bash", ["-c", line, "bash", process.execPath, program, ...argv]);
  let text = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => (text += data));
  return new Promise((resolve) => child.on("close", (code) => resolve({ code: code ?? -1, text })));
}

// Only Linux limits address space by ulimit -v.
describe.skipIf(process.platform !== "linux")("with limited address space", () => {
  test.each([1.5, 2, 4, 8])("of %d GB", async (gigabytes) => {
    const folder = new Folder();
    const samples = Float32Array.from(normal(3000, 1));
    const input = folder.write("u.npy", npy("<f4", [2, 1500], new Uint8Array(samples.buffer)));
    const files = ["--input", input, "--kernel", input, "--output", folder.file("y.npy")];
    const most = [
      ["info"],
      ["verify", "--length", "256", "--mode", "causal"],
      ["bench", "--length", "256", "--seconds", "0.1"],
    ];
    const commands = [
      // Between the least and the most they meet nothing else.
      ...(gigabytes === 1.5 || gigabytes === 8 ? most : []),
      ["plan", "--length", "4096"],
      ["conv", ...files],
      ["conv", ...files, "--instructions", "simd"],
    ];
    for (const argv of commands) {
      const { code, text } = await limited(gigabytes * 1e6, argv);
      expect(text).not.toContain("an error in flashfftconv itself");
      expect(text).not.toMatch(/^ +at .*\.js/m);
      // Later versions of V8 find room for a small memory, on one thread.
      if (argv.includes("simd") && code === 1) {
        expect(text).toContain("address space");
        expect(text).toContain("ulimit -v");
      } else expect([code, text]).toEqual([0, expect.any(String)]);
      if (argv[0] === "plan")
        expect(text).toMatch(/note: plain JavaScript|note: 1 of the \d+ threads.*address space/);
    }
  });
});
