/**
 * The same test bodies on every backend configuration. One that this runtime cannot open is reported as skipped, or
 * fails where the environment variable REQUIRE_BACKENDS names it: `REQUIRE_BACKENDS=cpu:simd,cpu:javascript`. The bodies
 * run on the CPU's configurations; with `TEST_BACKENDS=webgpu`, in a process with a Vulkan driver to itself, on WebGPU's; with
 * `TEST_BACKENDS=cpu:relaxed-simd`, all of them on that instruction set.
 */
import { describe, test } from "vitest";
import type { Dtype } from "../../src/dtype.ts";
import { FlashFFTConv, type FlashFFTConvOptions, UnsupportedError } from "../../src/index.ts";

/** One way to run the library. */
export interface BackendConfiguration {
  /** As REQUIRE_BACKENDS spells it; configurations that differ in threads share it. */
  readonly requirement: string;
  /** Shown in test names. */
  readonly name: string;
  /** Options that select it. */
  readonly options: CpuOptions | GpuOptions;
}

/** Options that select instructions and threads of the CPU. */
export interface CpuOptions {
  readonly backend: "cpu";
  readonly instructions: "relaxed-simd" | "simd" | "javascript";
  readonly threads: number;
}

interface GpuOptions {
  readonly backend: "webgpu";
  readonly instructions: "auto";
  readonly threads: 1;
}

/** The options of a configuration in tests about threads and memory of the CPU. */
export function onCpu({ name, options }: BackendConfiguration): CpuOptions {
  if (options.backend === "cpu") return options;
  throw new Error(`a test of the CPU on ${name}`);
}

/** Whether this process tests WebGPU instead of the CPU. */
export const onGpu: boolean = process.env.TEST_BACKENDS === "webgpu";

/** The one instruction set that this process tests; undefined for each in its turn. */
const alone = /^cpu:(.+)$/.exec(process.env.TEST_BACKENDS ?? "")?.[1];

/**
 * Some of the cases where all would take too long: a driver that emulates a GPU compiles for seconds what a GPU's does in
 * milliseconds. `every` n-th case, the last one always.
 */
export function share<T>(cases: readonly T[], every = 4): readonly T[] {
  return onGpu ? cases.filter((_, i) => (cases.length - 1 - i) % every === 0) : cases;
}

/** The CPU's, fastest first. Plain JavaScript has one thread: its memory cannot be shared. */
export const cpuConfigurations: readonly (BackendConfiguration & {
  readonly options: CpuOptions;
})[] = (
  [
    ["relaxed-simd", 1],
    ["relaxed-simd", 2],
    ["simd", 1],
    ["simd", 2],
    ["javascript", 1],
  ] as const
).map(([instructions, threads]) => ({
  requirement: `cpu:${instructions}`,
  name: `cpu:${instructions} × ${threads}`,
  options: { backend: "cpu", instructions, threads },
}));

/** All that the adapter offers; the default limits and features of any browser have tests of their own. */
const gpuConfiguration: BackendConfiguration = {
  requirement: "webgpu",
  name: "webgpu",
  options: { backend: "webgpu", instructions: "auto", threads: 1 },
};

/** What this process tests. */
export const configurations: readonly BackendConfiguration[] = onGpu
  ? [gpuConfiguration]
  : cpuConfigurations;

/** What a configuration's test body gets: `FlashFFTConv.create` with the configuration filled in. */
export type Open = (options: FlashFFTConvOptions<Dtype>) => Promise<FlashFFTConv<Dtype>>;

/**
 * Which configurations a group of bodies runs on. Without `threads`, every instruction set once, one of them on two threads:
 * how exact results are depends on the instructions, and that threads change no bit has tests of its own.
 */
export interface Selection {
  readonly threads?: number | "any";
  readonly instructions?: readonly string[];
}

/**
 * For bodies about what goes where, and not about how exact it is: WebAssembly and JavaScript. With relaxed SIMD products are
 * added otherwise; all else is the same. Where it is tested alone, these bodies run on it too.
 */
export const whereThingsGo: Selection = { instructions: ["simd", "javascript"] };

const spreadNames = ["cpu:relaxed-simd × 1", "cpu:simd × 2", "cpu:javascript × 1"];

/** Whether a group of bodies runs on a configuration of the CPU. */
function selects(
  { threads, instructions = [] }: Selection,
  { name, options }: BackendConfiguration,
): boolean {
  if (threads !== undefined && threads !== "any" && threads !== options.threads) return false;
  if (alone)
    return options.instructions === alone && (threads !== undefined || options.threads === 2);
  return (
    (threads !== undefined || spreadNames.includes(name)) &&
    (instructions.length === 0 || instructions.includes(options.instructions))
  );
}

/** Random cases that a group tries on a configuration: on each instruction set others. */
export function randomCases(
  { options }: BackendConfiguration,
  numRuns: number,
  seed: number,
): { readonly numRuns: number; readonly seed: number } {
  const turn = ["relaxed-simd", "simd", "javascript"].indexOf(options.instructions);
  return { numRuns, seed: seed + Math.max(0, turn) };
}

/** The names that REQUIRE_BACKENDS lists. */
export function requirementsIn(variable: string | undefined): string[] {
  return (variable ?? "").split(",").filter((name) => name !== "");
}

/** What becomes of a configuration's tests: they run, or one test fails or is skipped in their place. */
export function verdict(
  requirement: string,
  refusal: string | undefined,
  required: readonly string[],
): "run" | "fail" | "skip" {
  if (refusal === undefined) return "run";
  return required.includes(requirement) ? "fail" : "skip";
}

const required = requirementsIn(process.env.REQUIRE_BACKENDS);

/** Why each configuration cannot be opened here; undefined for those that can. Other errors than refusals are thrown on. */
const refusals = new Map<string, string | undefined>();
for (const { name, options } of configurations) {
  try {
    const conv = await FlashFFTConv.create({ length: 16, ...options });
    conv.dispose();
    refusals.set(name, undefined);
  } catch (error) {
    if (!(error instanceof UnsupportedError)) throw error;
    refusals.set(name, error.message);
  }
}

/** `define` the same tests for each configuration of the selection. */
export function describeBackends(
  title: string,
  define: (open: Open, configuration: BackendConfiguration) => void,
  selection: Selection = {},
): void {
  const chosen = configurations.filter((each) => onGpu || selects(selection, each));
  if (chosen.length === 0) throw new Error(`${title}: no configuration fits the selection`);
  for (const configuration of chosen) {
    const { name, requirement, options: selected } = configuration;
    describe(`${title} on ${name}`, () => {
      const refusal = refusals.get(name);
      switch (verdict(requirement, refusal, required)) {
        case "run":
          return define(
            (options) => FlashFFTConv.create({ ...options, ...selected }),
            configuration,
          );
        case "fail":
          return void test("opens, as REQUIRE_BACKENDS asks", () => {
            throw new Error(refusal);
          });
        case "skip":
          return void test.skip(`not here: ${refusal}`, () => {});
      }
    });
  }
}
