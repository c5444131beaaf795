/** Before all tests: build, so that they never run against files older than the sources. */
import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";

/** The compiler's exit codes with files written; 2 means that types are wrong, which `npm run check` reports. */
const written = [0, 2];

/** Run a script by Node. */
function run(args: readonly string[], accepted: readonly number[]): void {
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" });
  if (!accepted.includes(status ?? 1)) throw new Error(`the build failed:\n${stdout}${stderr}`);
}

export default function setup(): void {
  const compiler = createRequire(import.meta.url).resolve("typescript/bin/tsc");
  run([compiler, "-p", "tsconfig.build.json"], written);
  run(["scripts/bundle.js"], [0]);
}
