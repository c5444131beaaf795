/**
 * What a user's TypeScript makes of the package: every snippet of README and the guides, and .ci/types.ts, under `strict`, with
 * and without exact optional properties, as every module resolution finds them. Needs `npm run build`.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { afterAll, beforeAll, expect, test } from "vitest";
import { documents, snippetsIn } from "./support/guides.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

/** What is there before a snippet: arrays of the reader's on docs/workers.md's page, names of a browser that TypeScript lacks. */
const left = "declare const u: Float32Array, k: Float32Array;";
const gpuNames =
  "declare const GPUBufferUsage: Record<string, number>, GPUMapMode: { READ: number };";

/** The files of a user's project, by name. */
function sources(): Map<string, string> {
  const files = new Map([["types.ts", readFileSync(join(root, ".ci/types.ts"), "utf8")]]);
  // What docs/audio.md shows are JavaScript files of a page and of a worklet, whose globals TypeScript does not know; nor has a
  // user whose types are a browser's those of the package webgpu.
  for (const document of documents.filter((path) => path !== "docs/audio.md")) {
    const programs = snippetsIn(document).filter(({ language }) => language !== "sh");
    for (const [i, { code, elsewhere }] of programs.entries()) {
      if (/from "webgpu"/.test(code)) continue;
      const before = elsewhere?.mark === "page" ? left : /\bGPU/.test(code) ? gpuNames : "";
      files.set(`${basename(document, ".md")}-${i + 1}.ts`, `${before}\n${code}\nexport {};\n`);
    }
  }
  return files;
}

/** A project in a folder of its own, in whose node_modules the package is. */
let folder: string;
let files: string[];
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "flashfftconv-types-"));
  mkdirSync(join(folder, "node_modules"));
  symlinkSync(root, join(folder, "node_modules/flashfftconv"), "dir");
  writeFileSync(join(folder, "package.json"), '{ "type": "module" }');
  const all = sources();
  expect(all.size).toBeGreaterThan(15);
  for (const [name, text] of all) writeFileSync(join(folder, name), text);
  files = [...all.keys()].map((name) => join(folder, name));
});
afterAll(() => rmSync(folder, { recursive: true }));

/** Declarations of TypeScript's own libraries, parsed once. */
const libraries = new Map<string, ts.SourceFile | undefined>();

/** What the compiler says of programs: nothing, where all is well. */
function complaints(programs: readonly string[], options: ts.CompilerOptions): string[] {
  const host = ts.createCompilerHost(options);
  const { getSourceFile } = host;
  host.getSourceFile = (name, ...rest) => {
    if (!/typescript\/lib\/lib\./.test(name)) return getSourceFile(name, ...rest);
    const known = libraries.get(name) ?? getSourceFile(name, ...rest);
    libraries.set(name, known);
    return known;
  };
  const compiled = ts.createProgram(programs, options, host);
  return ts.getPreEmitDiagnostics(compiled).map((d) => {
    const { line } = d.file ? d.file.getLineAndCharacterOfPosition(d.start!) : { line: 0 };
    const message = ts.flattenDiagnosticMessageText(d.messageText, "\n");
    return `${d.file ? basename(d.file.fileName) : ""}:${line + 1}: ${message}`;
  });
}

const { ModuleKind, ModuleResolutionKind: Resolution, ScriptTarget } = ts;
const nodeNext = { module: ModuleKind.NodeNext, moduleResolution: Resolution.NodeNext };
const exact = { exactOptionalPropertyTypes: true };
const projects: readonly [string, ts.CompilerOptions][] = [
  ["bundler", { module: ModuleKind.ESNext, moduleResolution: Resolution.Bundler, ...exact }],
  ["node16", { module: ModuleKind.Node16, moduleResolution: Resolution.Node16, ...exact }],
  ["nodenext", { ...nodeNext, ...exact }],
  ["nodenext, optional properties may be undefined", nodeNext],
  // TypeScript 6 has it still, with a warning.
  [
    "node10",
    {
      ...{ module: ModuleKind.ESNext, moduleResolution: Resolution.Node10 },
      ...{ ignoreDeprecations: "6.0", ...exact },
    },
  ],
];
/** Our declarations are checked too, TypeScript's own are not; a project that has no types of Node's. */
const strict: ts.CompilerOptions = {
  ...{ strict: true, target: ScriptTarget.ES2022, noEmit: true, types: [] },
  ...{ skipLibCheck: false, skipDefaultLibCheck: true },
};
const browser = ["lib.dom.d.ts", "lib.dom.asynciterable.d.ts"];

test.each(projects)("snippets and uses compile: %s", (_, project) => {
  const options = { ...project, ...strict, lib: ["lib.es2022.d.ts", ...browser] };
  expect(complaints(files, options)).toEqual([]);
});

test("a Float16Array goes in and comes out where TypeScript knows it", () => {
  const file = join(folder, "float16.ts");
  writeFileSync(
    file,
    `import { FlashFFTConv } from "flashfftconv";
     const conv = await FlashFFTConv.create({ length: 4, dtype: "float16" });
     const y = await conv.forward(new Float16Array(4), new Float32Array(4));
     export const fresh: Float16Array<ArrayBuffer> = y;
     export const bits: Uint16Array<ArrayBuffer> = await conv.forward(new Uint16Array(4), y);`,
  );
  const options = { ...nodeNext, ...strict, lib: ["lib.es2025.d.ts", ...browser] };
  expect(complaints([...files, file], options)).toEqual([]);
});

test("a program for Node needs no types of a browser", () => {
  const file = join(folder, "node.ts");
  writeFileSync(
    file,
    `import { Worker } from "node:worker_threads";
     import { convolve, FlashFFTConv } from "flashfftconv";
     const y: Float32Array = await convolve([1, 2, 3], [1, 1]);
     const worker = new Worker(new URL("./convolutions.js", import.meta.url));
     export const conv = await FlashFFTConv.create({ length: y.length, worker });`,
  );
  const typeRoots = [join(root, "node_modules/@types")];
  const options = { ...nodeNext, ...strict, lib: ["lib.es2022.d.ts"], types: ["node"], typeRoots };
  expect(complaints([file], options)).toEqual([]);
});
