/** What `import { convolve }` loads, bundled by esbuild. Needs `npm run build`. */
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build, type Metafile } from "esbuild";
import { expect, test } from "vitest";

const root = fileURLToPath(new URL("../../", import.meta.url));

/** The files that a page loads at once, as they travel; what they are made of; and the bytes of all of them, compressed. */
async function loadedAtOnce(name: string): Promise<{ modules: string[]; bytes: number }> {
  const contents = `import { ${name} } from "flashfftconv"; globalThis.${name} = ${name};`;
  const { outputFiles, metafile } = await build({
    absWorkingDir: root,
    stdin: { contents, resolveDir: root },
    bundle: true,
    minify: true,
    format: "esm",
    splitting: true,
    outdir: "out",
    write: false,
    metafile: true,
  });
  const output = (path: string): Metafile["outputs"][string] => metafile.outputs[path]!;
  const files = new Set<string>();
  const visit = (path: string): void => {
    if (files.has(path)) return;
    files.add(path);
    for (const { kind, path: next } of output(path).imports)
      if (kind === "import-statement") visit(next);
  };
  visit("out/stdin.js");
  const sizes = outputFiles
    .filter(({ path }) => [...files].some((file) => path.endsWith(`/${file}`)))
    .map(({ contents }) => gzipSync(contents, { level: 9 }).length);
  expect(sizes.length).toBe(files.size);
  return {
    modules: [...files].flatMap((path) => Object.keys(output(path).inputs)),
    bytes: sizes.reduce((sum, size) => sum + size),
  };
}

test("convolve is 52 kB at most, without code for GPUs, streams, tuning, threads, masked frequencies and short convolutions", async () => {
  const { modules, bytes } = await loadedAtOnce("convolve");
  expect(bytes).toBeLessThan(52_000);
  expect(modules).toContain("dist/conv/convolve.js");
  const others =
    /dist\/(?:kernels\/gpu|plan\/gpu|schedule|depthwise|stream|tune|kernels\/cpu\/depthwise|kernels\/cpu\/print\/javascript|backend\/cpu\/(?:recipe-(?:depthwise|stream)|pool|worker|control)|plan\/cpu\/(?:sparse|cyclic)|backend\/webgpu\/)|\/gpu/;
  expect(modules.filter((path) => others.test(path))).toEqual([]);
});

test("an error class is no more than itself", async () => {
  const { modules } = await loadedAtOnce("InvalidArgumentError");
  expect(modules.filter((path) => path.startsWith("dist/"))).toEqual([
    "dist/show.js",
    "dist/errors.js",
  ]);
});
