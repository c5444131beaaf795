/** The architecture, enforced: which room may import which, that no file imports itself in a circle, one name for one thing, and how long a file may be. */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));

/** Rooms of src/ from the ground up: a room imports itself and those before it; rooms of one floor do not import each other. */
const floors = [
  ["math"],
  ["plan", "tensors"],
  ["kernels", "reference"],
  ["schedule"],
  ["backend"],
  ["calls"],
  ["conv"],
  ["depthwise", "stream"],
  ["tune"],
  ["files"],
  ["formats", "data"],
  ["nn"],
  ["train"],
  ["models"],
  ["cli"],
];
const rooms = floors.flat();
/** Files of src/ itself that every room may import. */
const foundation = ["checks.ts", "show.ts", "errors.ts", "dtype.ts", "gpu.ts", "node.ts"];
const maxLines = 500;

/** One import or re-export: from which file, to which module. */
interface Arrow {
  readonly from: string;
  readonly to: string;
}

/** Imports of a file's text, types too. Written for formatted sources: one statement starts at the start of its line. */
function arrowsOf(path: string, text: string): Arrow[] {
  const statements = /^(?:import|export)\s(?:[^;"']*?\sfrom\s)?["']([^"']+)["']/gm;
  const dynamic = /\bimport\(\s*["']([^"']+)["']\s*\)/g;
  return [...text.matchAll(statements), ...text.matchAll(dynamic)].map(([, to]) => ({
    from: path,
    to: to!,
  }));
}

const floorOf = (room: string): number => floors.findIndex((floor) => floor.includes(room));

/** Why an arrow is not allowed, or undefined. */
function refusal({ from, to }: Arrow): string | undefined {
  const [room = "", file] = from.split("/");
  if (!to.startsWith(".")) {
    // Packages that users may have: Dawn, by the name that is nothing elsewhere, and tokenizers.
    const optional = ["#webgpu", "@huggingface/tokenizers"];
    if (to.startsWith("node:") || optional.includes(to)) return undefined;
    return `${from} imports the package ${to}: the library has no dependencies`;
  }
  if (!to.endsWith(".ts")) return `${from} imports ${to} without its ending`;
  const [targetRoom = "", targetFile] = join(dirname(from), to).split("/");
  if (targetFile === undefined && foundation.includes(targetRoom)) return undefined;
  // The public names, and the files everyone stands on.
  if (file === undefined) {
    if (from === "index.ts") return undefined;
    return `${from} imports ${to}: files beside the rooms import only each other`;
  }
  if (targetFile === undefined) return `${from} imports ${to}: only outsiders use the index`;
  if (targetRoom === room || floorOf(targetRoom) < floorOf(room)) return undefined;
  return floorOf(targetRoom) === floorOf(room)
    ? `${from} imports ${to}: ${room} and ${targetRoom} stand beside each other`
    : `${from} imports ${to}: ${room} comes before ${targetRoom}`;
}

/** A circle of files that import each other, as the path that closes it, or undefined. */
function circle(files: readonly { path: string; text: string }[]): string[] | undefined {
  const next = new Map(
    files.map(({ path, text }) => [
      path,
      arrowsOf(path, text)
        .filter(({ to }) => to.startsWith("."))
        .map(({ to }) => join(dirname(path), to)),
    ]),
  );
  const done = new Set<string>();
  const visit = (path: string, trail: readonly string[]): string[] | undefined => {
    const at = trail.indexOf(path);
    if (at >= 0) return [...trail.slice(at), path];
    if (done.has(path)) return undefined;
    for (const to of next.get(path) ?? []) {
      const found = visit(to, [...trail, path]);
      if (found) return found;
    }
    done.add(path);
    return undefined;
  };
  for (const { path } of files) {
    const found = visit(path, []);
    if (found) return found;
  }
  return undefined;
}

/** Names that a file exports by a declaration of its own. */
function exportedNames(text: string): string[] {
  const declarations =
    /^export (?:declare )?(?:abstract )?(?:async )?(?:interface|type|class|function\*?|const|let|enum) (\w+)/gm;
  return [...new Set([...text.matchAll(declarations)].map(([, name]) => name!))];
}

/** Names that more than one file exports, and from where. */
function exportedTwice(files: readonly { path: string; text: string }[]): string[] {
  const homes = new Map<string, string[]>();
  for (const { path, text } of files) {
    for (const name of exportedNames(text)) homes.set(name, [...(homes.get(name) ?? []), path]);
  }
  return [...homes]
    .filter(([, paths]) => paths.length > 1)
    .map(([name, paths]) => `${name}: ${paths.join(", ")}`);
}

function filesUnder(folder: string): { path: string; text: string }[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((path) => path.endsWith(".ts"))
    .sort()
    .map((path) => ({ path, text: readFileSync(join(root, folder, path), "utf8") }));
}

const sources = filesUnder("src");

describe("the import arrows", () => {
  test("every folder of src is a room, and every room is there", () => {
    const folders = new Set(
      sources.filter(({ path }) => path.includes("/")).map(({ path }) => path.split("/")[0]),
    );
    expect([...folders].sort()).toEqual([...rooms].sort());
  });

  test(`no room imports upward: ${floors.map((floor) => floor.join(", ")).join(" ← ")}`, () => {
    const refused = sources
      .flatMap(({ path, text }) => arrowsOf(path, text))
      .map(refusal)
      .filter((reason) => reason !== undefined);
    expect(refused).toEqual([]);
  });

  test("no file imports itself by way of others, not even for a type", () => {
    expect(circle(sources)).toBe(undefined);
  });

  test("planning, kernels and schedules start nothing: they do without Node and without waiting", () => {
    const pure = sources.filter(({ path }) => /^(math|plan|kernels|schedule)\//.test(path));
    const offenders = pure.filter(
      ({ path, text }) =>
        arrowsOf(path, text).some(({ to }) => to.startsWith("node:")) || /\bawait\b/.test(text),
    );
    expect(offenders.map(({ path }) => path)).toEqual([]);
  });

  test("outside the command line, Node's modules are only reached where there is a Node", () => {
    const offenders = sources
      .filter(({ path }) => !path.startsWith("cli/"))
      .filter(({ text }) => /^import\s(?!type\s)[^;]*["']node:/m.test(text));
    expect(offenders.map(({ path }) => path)).toEqual([]);
  });

  test("the check itself sees arrows and refuses the wrong ones", () => {
    const text = [
      'import { a } from "../errors.ts";',
      'import type { P } from "../plan/problem.ts";',
      "import {",
      "  b,",
      '} from "../math/expr.ts";',
      'export { c } from "../conv/conv.ts";',
      'import "koffi";',
      'const d = await import("../cli/main.ts");',
      'import { e } from "./near.ts";',
      'import { f } from "./near";',
    ].join("\n");
    const arrows = arrowsOf("tensors/example.ts", text);
    expect(arrows.map(({ to }) => to).sort()).toEqual(
      [
        "../errors.ts",
        "../plan/problem.ts",
        "../math/expr.ts",
        "../conv/conv.ts",
        "koffi",
        "./near.ts",
        "./near",
        "../cli/main.ts",
      ].sort(),
    );
    expect(arrows.map(refusal).filter(Boolean)).toEqual([
      "tensors/example.ts imports ../plan/problem.ts: tensors and plan stand beside each other",
      "tensors/example.ts imports ../conv/conv.ts: tensors comes before conv",
      "tensors/example.ts imports the package koffi: the library has no dependencies",
      "tensors/example.ts imports ./near without its ending",
      "tensors/example.ts imports ../cli/main.ts: tensors comes before cli",
    ]);
    expect(refusal({ from: "cli/main.ts", to: "../conv/conv.ts" })).toBe(undefined);
  });

  test("the check itself sees circles", () => {
    const files = [
      { path: "a/x.ts", text: 'import { y } from "./y.ts";' },
      { path: "a/y.ts", text: 'import type { Z } from "../b/z.ts";' },
      { path: "b/z.ts", text: 'import { x } from "../a/x.ts";' },
    ];
    expect(circle(files)).toEqual(["a/x.ts", "a/y.ts", "b/z.ts", "a/x.ts"]);
    expect(circle(files.slice(0, 2))).toBe(undefined);
  });
});

describe("names", () => {
  test("no name is exported by two files", () => {
    expect(exportedTwice(sources)).toEqual([]);
  });

  test("the check itself sees them", () => {
    const files = [
      { path: "a.ts", text: "export interface Rows {}\nexport const one = 1;" },
      { path: "b.ts", text: "export class Rows {}\nexport async function two() {}" },
      { path: "c.ts", text: "export { one } from './a.ts';\nconst two = 2;" },
    ];
    expect(exportedTwice(files)).toEqual(["Rows: a.ts, b.ts"]);
  });
});

describe("size", () => {
  test(`no file is longer than ${maxLines} lines`, () => {
    const files = [
      ...sources.map(({ path, text }) => ({ path: `src/${path}`, text })),
      ...filesUnder("test").map(({ path, text }) => ({ path: `test/${path}`, text })),
    ];
    const long = files
      .map(({ path, text }) => ({ path, lines: text.trimEnd().split("\n").length }))
      .filter(({ lines }) => lines > maxLines);
    expect(long).toEqual([]);
  });
});
