/** Before all tests: build, so that they never run against files older than the sources. */
import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";

/** The compiler's exit codes with files written; 2 means that types are wrong, which `npm run check` reports. */
const written = [0, 2];

export default function setup(): void {
  const compiler = createRequire(import.meta.url).resolve("typescript/bin/tsc");
  const { status, stdout } = spawnSync(process.execPath, [compiler, "-p", "tsconfig.build.json"], {
    encoding: "utf8",
  });
  if (!written.includes(status ?? 1)) throw new Error(`the build failed:\n${stdout}`);
}
