/**
 * Kernels as text: for the limits of three kinds of device, every kernel of every schedule keeps within them and compiles
 * (Dawn's null backend checks WGSL and layouts without any driver), and the text changes only when somebody means it to.
 */
import { describe, expect, test } from "vitest";
import { dtypes } from "../../../src/dtype.ts";
import { createProblem } from "../../../src/plan/create-problem.ts";
import { defaultGpu } from "../../../src/plan/device.ts";
import { formatPasses } from "../../../src/plan/gpu/passes.ts";
import { gradientPlan, passCandidates } from "../../../src/plan/gpu/planner.ts";
import { mostWindowTaps, windowProblem } from "../../../src/plan/gpu/stream-window.ts";
import { modes, type Problem, type ProblemOptions } from "../../../src/plan/problem.ts";
import type { GpuLimits, Schedule } from "../../../src/schedule/schedule.ts";
import { Scheduler } from "../../../src/schedule/transform.ts";
import {
  defaultLimits,
  deviceProfiles,
  expectCompiled,
  hashOf,
  kernelsOf,
} from "../../support/kernels.ts";

/** Lengths of one pass, of two and of three; odd ones; every mode and storage type somewhere among them. */
const problems: readonly ProblemOptions[] = [
  ...[33, 3000, 8192, 65_536].map((length) => ({ length })),
  ...modes.map((mode) => ({ mode, length: 700 })),
  // Pairs of rows, which share a subgroup or do not; in one pass and in two.
  ...[256, 4096, 32_768].map((length) => ({ length, mode: "circular" as const })),
  ...dtypes.flatMap((dtype) => [1024, 1023].map((length) => ({ dtype, length }))),
  ...[1_048_576, 4_194_304].map((length) => ({ length, dtype: "float16" as const })),
  // Spectra in float16, where one pass has so many points.
  { length: 16_384, dtype: "bfloat16" },
  { length: 16_777_216 },
  { length: 65_536, kernelLength: 1000, dtype: "float16" },
  { length: 1_048_576, kernelLength: 65_537, mode: "full" },
  { length: 32_768, frequencies: { digits: [16, 16, 16, 16], dropped: [8, 8, 0, 0] } },
  {
    ...{ length: 1_048_576, mode: "circular", dtype: "float16" },
    frequencies: { digits: [32, 32, 32, 32], dropped: [16, 16, 16, 8] },
  },
];

/** Windows of streams, taps and samples of a block: in blocks of a window, in one, and the longest. */
const windows = [
  [100, 1_048_476],
  [661_500, 1_435_652],
  [mostWindowTaps, 2 ** 24],
] as const;

const gates = { pregate: true, postgate: true };

/** Everything that an object of such a problem, or a stream of such windows, may run on such a device. */
function schedulesOf(problem: Problem, limits: GpuLimits): { text: string; all: Schedule[] } {
  const workload = { batch: 2, channels: 32 };
  const candidates = passCandidates({ problem, device: defaultGpu, limits, workload });
  const [best] = candidates;
  const { part, plan } = best!;
  const scheduler = new Scheduler({ problem, part, plan, keeper: plan, limits });
  const other = gradientPlan(best!, candidates, { problem, device: defaultGpu, limits, workload });
  const gradients = new Scheduler({ problem, part, plan: other, keeper: plan, limits });
  const skip = problem.length === problem.outputLength;
  const calls = [
    { pregate: false, postgate: false, skip: false, taps: undefined },
    { ...gates, skip, taps: "float32" as const },
  ].map((call) => ({ batch: 2, channels: 3, ...call, offsets: {} }));
  const spectra = scheduler.spectra(3, problem.dtype, 0);
  if (problem.past) {
    return { text: formatPasses(plan), all: [spectra, scheduler.forward(calls[0]!)] };
  }
  const all = [
    spectra,
    ...calls.flatMap((call) => [scheduler.forward(call), gradients.backward(call)]),
  ];
  const text = [plan, ...(other === plan ? [] : [other])].map(formatPasses).join(" and ");
  return { text, all };
}

describe.each(Object.entries(deviceProfiles))("%s", (name, limits) => {
  const check = async (problem: Problem): Promise<void> => {
    const { text, all } = schedulesOf(problem, limits);
    const kernels = kernelsOf(all);
    expect(kernels.flatMap(({ code }) => unportable(code))).toEqual([]);
    await expectCompiled(kernels, limits, name === defaultLimits);
    for (const { steps, bytes } of all) {
      for (const { ranges } of steps) {
        for (const range of Object.values(ranges)) {
          expect(range.size).toBeLessThanOrEqual(limits.bindingBytes);
          expect(range.offset % limits.alignment).toBe(0);
        }
      }
      const held = Object.values(bytes).reduce((a, b) => a + b, 0);
      expect(held).toBeLessThanOrEqual(Math.max(limits.workspaceBytes, 5 * transformBytes(text)));
    }
    expect(`${text} ${hashOf(kernels)}`).toMatchSnapshot(name);
  };
  test.each(problems)("%o", (options) => check(createProblem(options, "test")));
  test.each(windows)("a window of %i taps before %i samples", (taps, hop) =>
    check(windowProblem(taps, hop)),
  );
});

/** What a second language would not take of a text: names that hide outer ones, and lines of several statements. */
function unportable(code: string): string[] {
  const found: string[] = [];
  const scopes = [new Set<string>()];
  for (const line of code.split("\n")) {
    if ((line.replace(/for \(.*?\) \{/, "{").match(/;/g) ?? []).length > 1) found.push(line);
    for (const [token, name] of line.matchAll(/\b(?:let|var) (\w+)|[{}]/g)) {
      if (token === "{") scopes.push(new Set());
      else if (token === "}") scopes.pop();
      else if (scopes.some((names) => names.has(name!))) found.push(line);
      else scopes.at(-1)!.add(name!);
    }
  }
  return found;
}

test("the check itself sees hidden names and several statements in a line", () => {
  const hidden = "let live = live && n < 4u;";
  const two = "if (live) { let x = 1u; y[0] = x; }";
  const text = ["let live = true;", "if (live) {", hidden, "}", two, "let x = 2u;"];
  expect(unportable(text.join("\n"))).toEqual([hidden, two]);
});

/** Bytes of one transform in work memory: a call needs a few of them, however small its workspace. */
function transformBytes(plan: string): number {
  return 8 * Number(/ (\d+):/.exec(plan)![1]);
}
