/** The package as npm would publish it: what is in it, and that what it promises is there. Needs `npm run build`. */
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, posix } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { publint } from "publint";
import { formatMessage } from "publint/utils";
import { beforeAll, describe, expect, onTestFinished, test } from "vitest";
import type { StreamOptions } from "../src/index.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

interface PackedFile {
  readonly path: string;
  readonly size: number;
}

interface Manifest {
  readonly exports: Readonly<Record<string, string | Readonly<Record<string, string>>>>;
  readonly bin: Readonly<Record<string, string>>;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly devDependencies: Readonly<Record<string, string>>;
  readonly peerDependencies: Readonly<Record<string, string>>;
  readonly peerDependenciesMeta: Readonly<Record<string, { readonly optional?: boolean }>>;
}

const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as Manifest;

/** The files of a dry run of `npm pack`. */
function pack(): PackedFile[] {
  const output = execFileSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], {
    cwd: root,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
  });
  // npm prints a list of packages, from npm 12 on a record of them.
  const [packed] = Object.values(JSON.parse(output) as Record<string, { files: PackedFile[] }>);
  return packed!.files;
}

describe("the package", () => {
  let files: PackedFile[];
  let paths: Set<string>;

  beforeAll(() => {
    if (!existsSync(join(root, "dist/index.js"))) {
      throw new Error("dist/ is missing: run `npm run build` first");
    }
    files = pack();
    paths = new Set(files.map(({ path }) => path));
  });

  test("holds the built library, its documents and its licence, and nothing else", () => {
    const allowed =
      /^(?:dist\/.+\.(?:js|d\.ts|d\.ts\.map)|src\/.+\.ts|docs\/.+\.(?:md|svg)|package\.json|examples\/(?:webgpu|demo\/random)\.js|(?:README|CHANGELOG)\.md|LICENSE)$/;
    expect([...paths].filter((path) => !allowed.test(path))).toEqual([]);
    for (const path of [
      "README.md",
      "CHANGELOG.md",
      "LICENSE",
      "docs/architecture.md",
      "examples/webgpu.js",
    ]) {
      expect(paths).toContain(path);
    }
  });

  test("has every file that its example imports", () => {
    const text = readFileSync(join(root, "examples/webgpu.js"), "utf8");
    const imports = [...text.matchAll(/ from "(\.[^"]+)"/g)].map(([, file]) => file!);
    expect(imports.length).toBeGreaterThan(0);
    for (const file of imports) expect(paths).toContain(join("examples", file));
  });

  test("leads from each declaration to its source", () => {
    const declarations = [...paths].filter((path) => path.endsWith(".d.ts"));
    expect(declarations).toContain("dist/index.d.ts");
    for (const path of declarations) {
      expect(paths).toContain(`${path}.map`);
      const map = JSON.parse(readFileSync(join(root, `${path}.map`), "utf8"));
      const [source] = map.sources as string[];
      expect(paths).toContain(posix.join(posix.dirname(path), map.sourceRoot, source!));
      expect(readFileSync(join(root, path), "utf8")).toMatch(/\n\/\/# sourceMappingURL=\S+\.map$/);
    }
  });

  test("is small: three megabytes at most, and as much again of sources for whoever reads them", () => {
    const bytes = (of: readonly PackedFile[]) => of.reduce((sum, { size }) => sum + size, 0);
    const sources = files.filter(({ path }) => path.startsWith("src/") || path.endsWith(".map"));
    expect(bytes(sources)).toBeLessThan(3 * 2 ** 20);
    expect(bytes(files) - bytes(sources)).toBeLessThan(3 * 2 ** 20);
  });

  test("has every file that its exports and its command name", () => {
    const targets = Object.values(manifest.exports).flatMap((target) =>
      typeof target === "string" ? [target] : Object.values(target),
    );
    for (const target of [...targets, ...Object.values(manifest.bin)]) {
      expect(paths).toContain(target.replace(/^\.\//, ""));
    }
  });

  const entries = Object.keys(manifest.exports).filter((entry) => entry !== "./worker");
  test.each(entries)("resolves and loads %s", (entry) => {
    const name = entry === "." ? "flashfftconv" : `flashfftconv/${entry.slice(2)}`;
    const options = entry.endsWith(".json") ? ', { with: { type: "json" } }' : "";
    const script = `console.log(Object.keys(await import(${JSON.stringify(name)}${options})).length)`;
    // The package may name itself: this is how its users will find it.
    const output = execFileSync(
      process.execPath,
      ["--no-warnings", "--input-type=module", "-e", script],
      {
        cwd: root,
        encoding: "utf8",
      },
    );
    expect(Number(output)).toBeGreaterThan(0);
  });

  test("exports what it documents, and no helper", async () => {
    const names = Object.keys(await import("../src/index.ts")).sort();
    expect(names).toEqual([
      ...["BackendError", "FileError", "FlashDepthwiseConv1d", "FlashFFTConv", "FlashFFTConvError"],
      ...["FlashFFTConvStream", "FlashHyenaProjections", "InvalidArgumentError", "PreparedKernel"],
      ...[
        "UnsupportedError",
        "convolve",
        "convolveSync",
        "serveConvolutions",
        "sparsifyKernel",
        "tune",
      ],
    ]);
  });

  test("has streams for AudioWorklets in one file, without code for GPUs", async () => {
    const folder = mkdtempSync(join(tmpdir(), "flashfftconv-"));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const alone = join(folder, "audio-worklet.mjs");
    copyFileSync(join(root, "dist/audio-worklet.js"), alone);
    const { href } = pathToFileURL(alone);
    const one = (await import(href)) as typeof import("../src/stream/audio-worklet.ts");
    using stream = await one.FlashFFTConvStream.create(Float32Array.of(2, 1), {
      ...{ kernelLength: 2, blockLength: 16 },
    });
    const row = new Float32Array(16).fill(1);
    stream.render([row], [row]);
    expect(row[0]).toBeCloseTo(2);
    expect(row[15]).toBeCloseTo(3);
    const device = {
      createBuffer() {},
      queue: {},
      features: {},
    } as unknown as StreamOptions["device"] & object;
    const onGpu = one.FlashFFTConvStream.create(row, { kernelLength: 16, device });
    await expect(onGpu).rejects.toBeInstanceOf(one.UnsupportedError);
    await expect(onGpu).rejects.toThrow(/Import flashfftconv, not flashfftconv\/audio-worklet/);
    // And whoever bundles it again finds nothing missing.
    const again = await build({ entryPoints: [alone], bundle: true, format: "esm", write: false });
    expect(again.warnings).toEqual([]);
    const text = readFileSync(alone, "utf8");
    expect(text.includes("@compute")).toBe(false);
    expect(gzipSync(text).length).toBeLessThan(45_000);
  });

  test("has a program for worker threads in one file", async () => {
    const worker = new Worker(new URL(import.meta.resolve("flashfftconv/worker")));
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
    const control = new SharedArrayBuffer(1024);
    worker.postMessage({ type: "start", index: 1, control, job: control, memory });
    const [answer] = await once(worker, "message");
    expect(answer).toEqual({ type: "ready" });
    await worker.terminate();
    const text = readFileSync(join(root, "dist/worker.js"), "utf8");
    expect(text).not.toMatch(/\bimport\b|\bfrom"/);
  });

  test("has a command that starts, and says which version it is", () => {
    const [command] = Object.values(manifest.bin);
    const file = join(root, command!);
    expect(readFileSync(file, "utf8")).toMatch(/^#!\/usr\/bin\/env node\n/);
    const output = execFileSync(process.execPath, [file, "--version"], { encoding: "utf8" });
    expect(output).toContain((manifest as unknown as { version: string }).version);
  });

  test("needs no other package, and takes three where they are there", () => {
    expect(manifest.dependencies ?? {}).toEqual({});
    const { devDependencies, peerDependencies, peerDependenciesMeta } = manifest;
    const names = ["@alexanderolsen/libsamplerate-js", "@huggingface/tokenizers", "webgpu"];
    expect(Object.keys(peerDependencies)).toEqual(names);
    for (const name of names) {
      expect(peerDependenciesMeta[name]).toEqual({ optional: true });
      // The least that users may have is what the tests ran with.
      const least = /^>=(\S+)/.exec(peerDependencies[name]!)![1];
      expect(devDependencies[name]).toBe(`^${least}`);
    }
  });

  test("passes publint", async () => {
    const { messages, pkg } = await publint({ pkgDir: root, pack: false, strict: true });
    expect(messages.map((message) => formatMessage(message, pkg, { color: false }))).toEqual([]);
  });
});
