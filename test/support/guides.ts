/** README and the guides of docs/: their code, and how tests run it as a user would, with the package as npm would install it. */
import { execFileSync, spawnSync } from "node:child_process";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** Everything that users read, from the root. */
export const documents: readonly string[] = [
  "README.md",
  ...readdirSync(join(root, "docs"))
    .filter((name) => name.endsWith(".md"))
    .map((name) => `docs/${name}`),
];

/** A block of code in a document. */
export interface Snippet {
  readonly language: string;
  readonly code: string;
  /** The test of another file that runs it, by the comment above it: `<!-- page: test/… runs it -->`. */
  readonly elsewhere?: { readonly mark: string; readonly test: string };
  /** What stands in a block of text right below it: what it prints. */
  readonly output?: string;
}

const fence =
  /(?:<!-- ([\w-]+): (\S+) runs it -->\n\n)?^```(\w+)\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?/gms;

/** The blocks of code of a document that a program or a shell can run. */
export function snippetsIn(document: string): Snippet[] {
  const text = readFileSync(join(root, document), "utf8");
  return [...text.matchAll(fence)]
    .map(([, mark, test, language, code, output]) => ({
      ...{ language: language!, code: code! },
      ...(mark && { elsewhere: { mark, test: test! } }),
      ...(output !== undefined && { output }),
    }))
    .filter(({ language }) => ["js", "ts", "sh"].includes(language));
}

/** The snippet of docs/`file` below the comment `<!-- mark: … runs it -->`. */
export function snippetOf(file: string, mark: string): string {
  const found = snippetsIn(`docs/${file}`).find(({ elsewhere }) => elsewhere?.mark === mark);
  if (!found) throw new Error(`docs/${file} has no snippet "${mark}"`);
  return found.code;
}

/** A program of a document, which needs a GPU or not. */
export function programsIn(document: string, gpu: boolean): string[] {
  return snippetsIn(document)
    .filter(({ language, elsewhere }) => /^[jt]s$/.test(language) && !elsewhere)
    .map(({ code }) => code)
    .filter((code) => /webgpu|GPU/.test(code) === gpu);
}

/** What a program promises to print, by the comments behind its calls of console.log. */
export function promised(code: string): string {
  return [...code.matchAll(/\bconsole\.log\(.*\); \/\/ (.*)/g)].map(([, text]) => text).join("\n");
}

/** Whether a text is as promised, where "…" stands for anything. */
export function keeps(promise: string, printed: string): boolean {
  const parts = promise
    .trim()
    .split(/\s*…\s*/)
    .map((part) => part.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"));
  return new RegExp(`^${parts.join(".*")}$`, "s").test(printed.trim());
}

/** Compare what programs print with what they promise. */
export function expectAsPromised(programs: readonly string[], printed: readonly string[]): void {
  expect(printed.length).toBe(programs.length);
  for (const [i, code] of programs.entries()) {
    const promise = promised(code);
    if (!keeps(promise, printed[i]!)) expect(printed[i]).toBe(promise);
  }
}

/** A user's folder, into whose node_modules the packed package is unpacked, and `others` of ours are linked. */
export function userFolder(others: readonly string[] = []): string {
  const folder = mkdtempSync(join(tmpdir(), "flashfftconv-user-"));
  const modules = join(folder, "node_modules");
  mkdirSync(join(modules, ".bin"), { recursive: true });
  const pack = ["pack", "--ignore-scripts", "--silent", "--pack-destination", folder];
  const [tarball] = execFileSync("npm", pack, { cwd: root, encoding: "utf8" }).trim().split("\n");
  execFileSync("tar", ["-xzf", tarball!], { cwd: folder });
  symlinkSync("../package", join(modules, "flashfftconv"));
  symlinkSync("../flashfftconv/dist/cli/bin.js", join(modules, ".bin/flashfftconv"));
  chmodSync(join(folder, "package/dist/cli/bin.js"), 0o755);
  for (const name of others) symlinkSync(join(root, "node_modules", name), join(modules, name));
  return folder;
}

/** Run programs in a folder, one after the other in one process of Node; what each prints. */
export function runPrograms(folder: string, programs: readonly string[], gpu: boolean): string[] {
  const end = "\n--- end of a program ---\n";
  const files = programs.map((code, i) => {
    const file = `program-${i + 1}.mjs`;
    // The address of the page is that of the program.
    writeFileSync(join(folder, file), code.replaceAll("document.baseURI", "import.meta.url"));
    return file;
  });
  const imports = files.map(
    (file) => `await import("./${file}"); console.log(${JSON.stringify(end)});`,
  );
  // What docs/gpu.md puts before programs for browsers.
  const before = gpu ? snippetOf("gpu.md", "node") : "";
  writeFileSync(join(folder, "all.mjs"), `${before}\n${imports.join("\n")}\n`);
  const { status, stdout, stderr } = spawnSync(process.execPath, ["--no-warnings", "all.mjs"], {
    ...{ cwd: folder, encoding: "utf8", timeout: 300_000 },
  });
  if (status !== 0) throw new Error(`exit code ${status}: ${stdout}\n${stderr}`);
  return stdout.split(end).slice(0, -1);
}

/** Run a script of the shell in a folder, where `npx` finds the package; what it prints. */
export function runShell(folder: string, script: string): string {
  const path = [join(folder, "node_modules/.bin"), process.env.PATH].join(delimiter);
  const { status, stdout, stderr } = spawnSync("sh", ["-ec", `npx() { "$@"; }\n${script}`], {
    ...{ cwd: folder, encoding: "utf8", timeout: 100_000, env: { ...process.env, PATH: path } },
  });
  if (status !== 0) throw new Error(`exit code ${status}: ${stdout}\n${stderr}`);
  return stdout;
}
