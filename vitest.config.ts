import { existsSync, statfsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

// Node 20 and 21 have relaxed SIMD behind this flag, later versions without one and refuse it. With it, the tests
// cover every instruction set on every version.
const major = Number(process.versions.node.split(".")[0]);
const relaxedSimd = major < 22 ? ["--experimental-wasm-relaxed-simd"] : [];

/** Where tests write: in memory where there is plenty, since some write thousands of files, and disks may take a millisecond each. */
function scratch(): string {
  const memory = "/dev/shm";
  if (!existsSync(memory)) return tmpdir();
  const { type, bavail, bsize } = statfsSync(memory);
  const isMemory = type === 0x1021994;
  return isMemory && bavail * bsize >= 2 ** 32 ? memory : tmpdir();
}

export default defineConfig({
  resolve: {
    // Tests name the sources and run what is shipped: worker threads can only be started from built files.
    alias: [
      {
        find: /^(?:\.\.\/)+src\/(.*)\.ts$/,
        replacement: `${fileURLToPath(new URL("dist", import.meta.url))}/$1.js`,
      },
    ],
  },
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: ["test/support/build.ts"],
    // Built files are run by Node itself, untouched.
    server: { deps: { external: [/\/dist\//] } },
    // Processes, not threads: the library starts worker threads of its own and its memory is measured per process.
    pool: "forks",
    // No folder: what the user has tuned changes no plan of a test, nor what a test tunes one of the user's. Child processes
    // inherit it.
    env: {
      FLASHFFTCONV_CACHE: join(tmpdir(), `flashfftconv-tests-${process.pid}`),
      TMPDIR: scratch(),
    },
    // All cores: by default one is left for a user who waits for nothing else here.
    maxWorkers: "100%",
    execArgv: ["--expose-gc", ...relaxedSimd],
    // A processor that plays a GPU compiles a kernel for seconds: 181 s for 16 problems on lavapipe, two files at a time.
    testTimeout: process.env.TEST_BACKENDS === "webgpu" ? 480_000 : 120_000,
    hookTimeout: 120_000,
    // And takes its time to end.
    teardownTimeout: 60_000,
  },
});
