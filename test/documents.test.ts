/** README and the guides: what they show runs as written, in the packed package; and what they name is there. */
import {
  copyFileSync,
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { npy, pcm, wav } from "./cli/support.ts";
import {
  documents,
  expectAsPromised,
  keeps,
  programsIn,
  promised,
  runPrograms,
  runShell,
  snippetsIn,
  userFolder,
} from "./support/guides.ts";
import { normal } from "./support/signals.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const read = (path: string): string => readFileSync(join(root, path), "utf8");

describe("what documents show happens", () => {
  let folder: string;
  beforeAll(() => {
    folder = userFolder();
    const worker = join(folder, "node_modules/flashfftconv/dist/worker.js");
    copyFileSync(worker, join(folder, "flashfftconv-worker.js"));
    const sound = (samples: number) =>
      pcm(
        [...normal(samples, 1)].map((x) => Math.round(x * 500)),
        16,
      );
    writeFileSync(join(folder, "voice.wav"), wav({ channels: 1, bits: 16, data: sound(4000) }));
    writeFileSync(join(folder, "hall.wav"), wav({ channels: 2, bits: 16, data: sound(600) }));
    writeFileSync(
      join(folder, "u.npy"),
      npy("<f4", [2, 3, 500], Float32Array.from(normal(3000, 2))),
    );
    writeFileSync(join(folder, "k.npy"), npy("<f4", [3, 500], Float32Array.from(normal(1500, 3))));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test.each(documents.filter((document) => programsIn(document, false).length > 0))(
    "programs of %s",
    (document) => {
      const programs = programsIn(document, false);
      expectAsPromised(programs, runPrograms(folder, programs, false));
    },
  );

  const shell = documents.flatMap((document) =>
    snippetsIn(document)
      .filter(({ language }) => language === "sh")
      .map(({ code, output }) => ({ document, code, output })),
  );
  test.each(shell.filter(({ code }) => code.includes("npx flashfftconv")))(
    "commands of $document: $code",
    ({ code, output }) => {
      const printed = runShell(folder, code);
      if (output !== undefined && !keeps(output, printed)) expect(printed).toBe(output);
    },
  );

  test("scripts that they name are there", () => {
    const { scripts } = JSON.parse(read("package.json")) as { scripts: Record<string, string> };
    const named = documents.flatMap((document) =>
      [...read(document).matchAll(/npm (?:run (\w+)|(start|test)\b)/g)].map(([, a, b]) => a ?? b!),
    );
    expect(new Set(named).size).toBeGreaterThan(3);
    expect(named.filter((name) => !(name in scripts))).toEqual([]);
  });

  test("every program prints what is compared, or names the test that runs it", () => {
    const all = documents.flatMap((document) => snippetsIn(document));
    const programs = all.filter(({ language }) => language !== "sh");
    expect(programs.length).toBeGreaterThan(15);
    const silent = programs.filter(({ code, elsewhere }) => !elsewhere && promised(code) === "");
    expect(silent.map(({ code }) => code)).toEqual([]);
    const elsewhere = programs.flatMap((snippet) => snippet.elsewhere?.test ?? []);
    expect(elsewhere.filter((path) => !existsSync(join(root, path)))).toEqual([]);
  });

  test("the check itself sees what differs", () => {
    expect(
      promised("console.log(f(2)); // 4 … 8\nconst a = 1; // no\nconsole.log(g()); // ok"),
    ).toBe("4 … 8\nok");
    expect(keeps("4 … 8\nok", "4\n6\n8\nok\n")).toBe(true);
    expect(keeps("[ 1 ]", "[ 1 ]")).toBe(true);
    for (const printed of ["4 6 8", "5 6 8\nok", "4 6 8\nok\nmore", ""])
      expect(keeps("4 … 8\nok", printed)).toBe(false);
  });
});

describe("what documents name is there", () => {
  test("README has 180 lines at most", () => {
    expect(read("README.md").trimEnd().split("\n").length).toBeLessThanOrEqual(180);
  });

  const texts = [...documents, "CHANGELOG.md", "examples/data/README.md"];
  test.each(texts)("links of %s", (document) => {
    const links = [...read(document).matchAll(/\]\(([^)\s]+)\)/g)].map(([, target]) => target!);
    const broken = links.filter(
      (target) => !/^https?:/.test(target) && !resolves(target, document),
    );
    expect(broken).toEqual([]);
  });

  /** Whether a link leads to a file, and its fragment to a heading. */
  function resolves(target: string, document: string): boolean {
    const [path, fragment] = target.split("#");
    const file = path ? join(dirname(document), path) : document;
    if (!existsSync(join(root, file))) return false;
    if (fragment === undefined) return true;
    const headings = [...read(file).matchAll(/^#+ (.*)$/gm)].map(([, text]) => text!);
    // As GitHub and TypeDoc name them.
    const anchors = headings.map((text) =>
      text
        .toLowerCase()
        .replace(/[^\p{L}\p{N} _-]/gu, "")
        .replaceAll(" ", "-"),
    );
    return anchors.includes(fragment);
  }

  const folders = ["src", "test", "bench", "examples", "scripts", "docs"];
  const files = folders.flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: "utf8" }).map((path) =>
      join(folder, path),
    ),
  );
  const names = new Set(files.map((path) => basename(path)));
  const tops = [...folders, ...readdirSync(join(root, "src"))];
  test.each(texts)("files that %s names", (document) => {
    // A path from the root or from src, or a file's name where the text has said its folder.
    const paths = [...read(document).matchAll(/`([\w.-]+(?:\/[\w.*-]+)*\/?)`/g)].map(
      ([, path]) => path!,
    );
    const missing = paths.filter((path) =>
      path.includes("/")
        ? tops.includes(path.split("/")[0]!) &&
          !["", "src"].some((from) => existsSync(join(root, from, path)))
        : path.endsWith(".ts") && !names.has(path),
    );
    expect(missing).toEqual([]);
  });
});
