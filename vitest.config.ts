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

/**
 * Files that share a process with others, one after the other: a process of its own costs each 0.85 s of CPU, four fifths of what
 * files of pure functions take. They change nothing that outlives them. What is about processes, memory, threads, globals or the
 * environment has a process to itself, and so has all on a GPU that is played, whose memory grows.
 */
const together =
  process.env.TEST_BACKENDS === "webgpu"
    ? []
    : [
        "test/{kernels,math,plan,reference,schedule,support}/**/*.test.ts",
        "test/cli/{conv,conv-wav,files,headers,npy,wav}.test.ts",
        "test/conv/{blocks,calls,direct*,frequencies,gpu*,gradient-plans,invalid,magnitudes,plans}.test.ts",
        "test/conv/{point-formats,properties,real-columns,rows,slices,sparsify,spectra}.test.ts",
        "test/depthwise/{calls,depthwise,gpu,gradients-out,sync}.test.ts",
        "test/stream/{stream,sync}.test.ts",
        "test/{docstrings,dtype,errors,layers,webgpu-documents}.test.ts",
      ];

/** A group of files. */
const project = (name: string, isolate: boolean, include: string[], exclude: string[]) => ({
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
    name,
    isolate,
    include,
    exclude,
    // Built files are run by Node itself, untouched.
    server: { deps: { external: [/\/dist\//] } },
    // Processes, not threads: the library starts worker threads of its own and its memory is measured per process.
    pool: "forks" as const,
    // No folder: what the user has tuned changes no plan of a test, nor what a test tunes one of the user's. Child processes
    // inherit it.
    env: {
      FLASHFFTCONV_CACHE: join(tmpdir(), `flashfftconv-tests-${process.pid}`),
      TMPDIR: scratch(),
    },
    execArgv: ["--expose-gc", ...relaxedSimd],
    // A processor that plays a GPU compiles a kernel for seconds: 181 s for 16 problems on lavapipe, two files at a time.
    testTimeout: process.env.TEST_BACKENDS === "webgpu" ? 480_000 : 120_000,
    hookTimeout: 120_000,
  },
});

export default defineConfig({
  test: {
    globalSetup: ["test/support/build.ts"],
    // One more than there are cores, since some wait for a browser, a process, the end of a thread; a GPU that is played uses all.
    maxWorkers: availableParallelism() + (process.env.TEST_BACKENDS === "webgpu" ? 0 : 1),
    sequence: { sequencer: LongestFirst },
    // A GPU that is played takes its time to end.
    teardownTimeout: 60_000,
    projects: [
      ...(together.length > 0 ? [project("together", false, together, [])] : []),
      project("alone", true, ["test/**/*.test.ts"], together),
    ],
  },
});
