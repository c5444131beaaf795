import { existsSync, statfsSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

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

/** Files that take longest, longest first: begun last, one of them would keep a worker busy when all others are done. */
const longest = [
  ...["bundlers/bundlers", "conv/accuracy", "cli/address-space", "kernels/gpu/transform"],
  ...["conv/frequencies", "depthwise/depthwise", "conv/same-bits", "cli/commands", "calls/memory"],
  ...["conv/plans", "cli/process", "cli/headers", "calls/workers", "browser/browser", "tune/tune"],
];

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification): number => {
      const found = longest.findIndex((name) => moduleId.endsWith(`/test/${name}.test.ts`));
      return found < 0 ? longest.length : found;
    };
    return (await super.sort(files)).toSorted((a, b) => place(a) - place(b));
  }
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
    // One more than there are cores, since some wait for a browser, a process, the end of a thread; a GPU that is played uses all.
    maxWorkers: availableParallelism() + (process.env.TEST_BACKENDS === "webgpu" ? 0 : 1),
    sequence: { sequencer: LongestFirst },
    execArgv: ["--expose-gc", ...relaxedSimd],
    // A processor that plays a GPU compiles a kernel for seconds: 181 s for 16 problems on lavapipe, two files at a time.
    testTimeout: process.env.TEST_BACKENDS === "webgpu" ? 480_000 : 120_000,
    hookTimeout: 120_000,
    // And takes its time to end.
    teardownTimeout: 60_000,
  },
});
