/** Examples in docstrings: they run as written, in the built package, and print what they say. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import * as flashfftconv from "../src/index.ts";
import * as models from "../src/models.ts";
import * as nn from "../src/nn.ts";
import { expectAsPromised, promised, runPrograms } from "./support/guides.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

/** Programs of examples that print, by file: what stands behind `@example` to the next tag or the end of the comment. */
const examples = readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" })
  .filter((path) => path.endsWith(".ts"))
  .flatMap((path) => {
    const text = readFileSync(join(root, "src", path), "utf8");
    return [...text.matchAll(/^ +\* @example\n((?: +\* [^@/].*\n)+)/gm)].map(([, code]) =>
      code!.replace(/^ +\* /gm, ""),
    );
  })
  // Those that record print nothing: they need a GPU.
  .filter((code) => promised(code) !== "");

/** An example with what it needs of the package. */
function program(code: string): string {
  const from = (path: string, exported: object): string => {
    const names = Object.keys(exported).filter(
      (name) =>
        new RegExp(`\\b${name}\\b`).test(code) &&
        !new RegExp(`(?:const|let) [^=]*\\b${name}\\b`).test(code),
    );
    return names.length > 0 ? `import { ${names.join(", ")} } from "${path}";\n` : "";
  };
  const imports = [
    from("flashfftconv", flashfftconv),
    from("flashfftconv/nn", nn),
    from("flashfftconv/models", models),
  ];
  return imports.join("") + code;
}

test("examples of docstrings print what they say", () => {
  expect(examples.length).toBeGreaterThan(9);
  const folder = mkdtempSync(join(tmpdir(), "flashfftconv-docstrings-"));
  mkdirSync(join(folder, "node_modules"));
  symlinkSync(root, join(folder, "node_modules/flashfftconv"), "dir");
  const programs = examples.map(program);
  expectAsPromised(programs, runPrograms(folder, programs, false));
  rmSync(folder, { recursive: true });
});
