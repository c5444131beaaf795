/** The architecture, enforced: which folder may import which, and how long a file may be. */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));

/** In the order in which a call travels; a layer imports itself and those before it. */
const layers = ["math", "plan", "kernels", "backend", "conv", "cli"];
/** Files of src/ itself that every layer may import. */
const foundation = ["show.ts", "errors.ts", "dtype.ts", "gpu.ts"];
const maxLines = 600;

/** One import or re-export: from which file, to which module, and whether only types cross. */
interface Arrow {
  readonly from: string;
  readonly to: string;
  readonly typesOnly: boolean;
}

/** Imports of a file's text. Written for formatted sources: one statement starts at the start of its line. */
function arrowsOf(path: string, text: string): Arrow[] {
  const statements = /^(?:import|export)\s(type\s)?(?:[^;"']*?\sfrom\s)?["']([^"']+)["']/gm;
  const dynamic = /\bimport\(\s*["']([^"']+)["']\s*\)/g;
  return [
    ...[...text.matchAll(statements)].map(([, type, to]) => ({
      from: path,
      to: to!,
      typesOnly: type !== undefined,
    })),
    ...[...text.matchAll(dynamic)].map(([, to]) => ({ from: path, to: to!, typesOnly: false })),
  ];
}

/** Why an arrow is not allowed, or undefined. */
function refusal({ from, to, typesOnly }: Arrow): string | undefined {
  const [layer = "", file] = from.split("/");
  if (!to.startsWith(".")) {
    // The package that Node may have, by the name that is nothing elsewhere.
    if (to.startsWith("node:") || to === "#webgpu") return undefined;
    return `${from} imports the package ${to}: the library has no dependencies`;
  }
  if (!to.endsWith(".ts")) return `${from} imports ${to} without its ending`;
  const target = join(dirname(from), to);
  const [targetLayer = "", targetFile] = target.split("/");
  if (targetFile === undefined && foundation.includes(targetLayer)) return undefined;
  // The public names, and the files everyone stands on.
  if (file === undefined) {
    if (from === "index.ts") return undefined;
    return `${from} imports ${to}: files beside the layers import only each other`;
  }
  if (targetFile === undefined) return `${from} imports ${to}: only outsiders use the index`;
  // What a problem is, as a type, is known everywhere: the oracle needs no more to compute one.
  if (typesOnly && target === "plan/problem.ts") return undefined;
  if (layers.indexOf(targetLayer) <= layers.indexOf(layer)) return undefined;
  return `${from} imports ${to}: ${layer} comes before ${targetLayer}`;
}

function filesUnder(folder: string, ending: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((path) => path.endsWith(ending))
    .sort();
}

const sources = filesUnder("src", ".ts").map((path) => ({
  path,
  text: readFileSync(join(root, "src", path), "utf8"),
}));

describe("the import arrows", () => {
  test("every folder of src is a layer, and every layer is there", () => {
    const folders = new Set(
      sources.filter(({ path }) => path.includes("/")).map(({ path }) => path.split("/")[0]),
    );
    expect([...folders].sort()).toEqual([...layers].sort());
  });

  test("math ← plan ← kernels ← backend ← conv ← cli", () => {
    const refused = sources
      .flatMap(({ path, text }) => arrowsOf(path, text))
      .map(refusal)
      .filter((reason) => reason !== undefined);
    expect(refused).toEqual([]);
  });

  test("the planner starts nothing: math, plan and kernels do without Node and without waiting", () => {
    const pure = sources.filter(({ path }) => /^(math|plan|kernels)\//.test(path));
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
      '} from "../plan/plan.ts";',
      'export { c } from "../conv/conv.ts";',
      'import "koffi";',
      'const d = await import("../cli/main.ts");',
      'import { e } from "./near.ts";',
      'import { f } from "./near";',
    ].join("\n");
    const arrows = arrowsOf("math/example.ts", text);
    expect(arrows.map(({ to }) => to).sort()).toEqual(
      [
        "../errors.ts",
        "../plan/problem.ts",
        "../plan/plan.ts",
        "../conv/conv.ts",
        "koffi",
        "./near.ts",
        "./near",
        "../cli/main.ts",
      ].sort(),
    );
    expect(arrows.map(refusal).filter(Boolean)).toEqual([
      "math/example.ts imports ../plan/plan.ts: math comes before plan",
      "math/example.ts imports ../conv/conv.ts: math comes before conv",
      "math/example.ts imports the package koffi: the library has no dependencies",
      "math/example.ts imports ./near without its ending",
      "math/example.ts imports ../cli/main.ts: math comes before cli",
    ]);
    expect(refusal({ from: "cli/main.ts", to: "../conv/conv.ts", typesOnly: false })).toBe(
      undefined,
    );
  });
});

describe("size", () => {
  test(`no file is longer than ${maxLines} lines`, () => {
    const files = [
      ...sources,
      ...filesUnder("test", ".ts").map((path) => ({
        path: join("test", path),
        text: readFileSync(join(root, "test", path), "utf8"),
      })),
    ];
    const long = files
      .map(({ path, text }) => ({
        path: relative(root, join(root, path)),
        lines: text.split("\n").length,
      }))
      .filter(({ lines }) => lines > maxLines);
    expect(long).toEqual([]);
  });
});
