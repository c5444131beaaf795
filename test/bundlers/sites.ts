/**
 * The packed package in pages, as its users put it there: built by each bundler as that bundler's documentation says, or
 * raw, through an import map.
 */
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { nodeResolve } from "@rollup/plugin-node-resolve";
import { build as buildByEsbuild } from "esbuild";
import { rollup } from "rollup";
import { build as buildByVite, createLogger } from "vite";
import webpack from "webpack";

const root = fileURLToPath(new URL("../../", import.meta.url));

/** A page with what its head says of its program. */
export const pageOf = (head: string): string =>
  `<!doctype html>\n<title>flashfftconv</title>\n<link rel="icon" href="data:,">\n${head}\n`;

const moduleScript = (path: string): string => `<script type="module" src="${path}"></script>`;

/** The file that pages name in `workerUrl`. */
export const workerFile = "flashfftconv-worker.js";

/** Put page.js, and the package as npm would install it, in a folder. */
export function installPackage(folder: string): void {
  const packed = execFileSync(
    "npm",
    ["pack", "--ignore-scripts", "--silent", "--pack-destination", folder],
    { cwd: root, encoding: "utf8" },
  );
  const target = join(folder, "node_modules", "flashfftconv");
  mkdirSync(target, { recursive: true });
  const archive = join(folder, packed.trim().split("\n").at(-1)!);
  execFileSync("tar", ["-xzf", archive, "-C", target, "--strip-components=1"]);
  cpSync(fileURLToPath(new URL("page.js", import.meta.url)), join(folder, "page.js"));
  writeFileSync(join(folder, "index.html"), pageOf(moduleScript("/page.js")));
  writeFileSync(join(folder, "package.json"), '{ "type": "module" }\n');
}

/** Where a page's sources are, and where it goes. */
interface Folders {
  readonly app: string;
  readonly out: string;
}

/** Builds a page; resolves with what the bundler warned of. */
type Build = (folders: Folders) => Promise<readonly string[]>;

async function byVite({ app, out }: Folders): Promise<readonly string[]> {
  const warnings: string[] = [];
  const customLogger = createLogger("warn");
  customLogger.warn = (message) => void warnings.push(message);
  await buildByVite({
    root: app,
    configFile: false,
    customLogger,
    build: { outDir: out, emptyOutDir: true },
  });
  return warnings;
}

async function byWebpack({ app, out }: Folders): Promise<readonly string[]> {
  const compiler = webpack({
    mode: "production",
    context: app,
    entry: "./page.js",
    output: { path: out },
  })!;
  const stats = await new Promise<webpack.Stats | undefined>((resolve, reject) =>
    compiler.run((error, result) => (error ? reject(error) : resolve(result))),
  );
  await new Promise((resolve) => compiler.close(resolve));
  const { warnings = [], errors = [] } = stats!.toJson({
    all: false,
    warnings: true,
    errors: true,
  });
  writeFileSync(join(out, "index.html"), pageOf('<script defer src="/main.js"></script>'));
  return [...errors, ...warnings].map(({ message }) => message);
}

async function byRollup({ app, out }: Folders): Promise<readonly string[]> {
  const warnings: string[] = [];
  const bundle = await rollup({
    input: join(app, "page.js"),
    plugins: [nodeResolve()],
    onwarn: ({ message }) => void warnings.push(message),
  });
  await bundle.write({ dir: out, format: "es" });
  await bundle.close();
  writeFileSync(join(out, "index.html"), pageOf(moduleScript("/page.js")));
  return warnings;
}

async function byEsbuild({ app, out }: Folders): Promise<readonly string[]> {
  const { warnings } = await buildByEsbuild({
    entryPoints: [join(app, "page.js")],
    bundle: true,
    minify: true,
    format: "esm",
    splitting: true,
    outdir: out,
    logLevel: "silent",
  });
  writeFileSync(join(out, "index.html"), pageOf(moduleScript("/page.js")));
  return warnings.map(({ text }) => text);
}

/** No bundler: the browser resolves the package's name and loads its modules one by one. */
async function byImportMap({ app, out }: Folders): Promise<readonly string[]> {
  cpSync(app, out, { recursive: true });
  const imports = { flashfftconv: "/node_modules/flashfftconv/dist/index.js" };
  const map = `<script type="importmap">${JSON.stringify({ imports })}</script>`;
  writeFileSync(join(out, "index.html"), pageOf(`${map}\n${moduleScript("/page.js")}`));
  return [];
}

/** A way to put the package in a page. */
export interface Way {
  readonly name: string;
  readonly build: Build;
  /** Whether it follows the library to its worker. Where not, a page names a copy of `flashfftconv/worker`. */
  readonly followsWorker: boolean;
}

export const ways: readonly Way[] = [
  { name: "Vite", build: byVite, followsWorker: true },
  { name: "webpack", build: byWebpack, followsWorker: true },
  { name: "Rollup", build: byRollup, followsWorker: false },
  { name: "esbuild", build: byEsbuild, followsWorker: false },
  { name: "an import map", build: byImportMap, followsWorker: true },
];

/** Build a page one way; where the way does not follow the worker, copy it beside the page. */
export async function buildPage(way: Way, folders: Folders): Promise<readonly string[]> {
  mkdirSync(folders.out, { recursive: true });
  const warnings = await way.build(folders);
  const worker = join(folders.app, "node_modules/flashfftconv/dist/worker.js");
  if (!way.followsWorker) cpSync(worker, join(folders.out, workerFile));
  return warnings;
}
