/** Schedules: channels go in groups that make few launches, and no buffer outgrows the work memory. */
import { describe, expect, test } from "vitest";
import { createProblem } from "../../src/plan/create-problem.ts";
import { defaultGpu } from "../../src/plan/device.ts";
import { gradientPlan, passCandidates } from "../../src/plan/gpu/planner.ts";
import type { GpuCall } from "../../src/schedule/schedule.ts";
import { Scheduler } from "../../src/schedule/transform.ts";

const megabyte = 2 ** 20;
const workspaceBytes = 256 * megabyte;
const common = { values: 32, alignment: 256, workspaceBytes };
const limits = {
  large: {
    ...{ ...common, sharedBytes: 49_152, threads: 1024, bindingBytes: 2 ** 31 - 4, bindings: 16 },
    ...{ packs: true, shuffles: true, lanes: 32 },
  },
  browser: {
    ...{ ...common, sharedBytes: 16_384, threads: 256, bindingBytes: 2 ** 27, bindings: 8 },
    ...{ packs: true, shuffles: false },
  },
} as const;

/** Schedules of forward and backward calls with both gates and taps that are not prepared. */
function schedules(
  where: keyof typeof limits,
  length: number,
  dtype: "float16" | "float32",
  batch: number,
  channels: number,
) {
  const problem = createProblem({ length, dtype }, "test");
  const own = limits[where];
  const candidates = passCandidates({
    problem,
    device: defaultGpu,
    limits: own,
    workload: { batch, channels },
  });
  const chosen = candidates[0]!;
  const workload = { batch, channels };
  const other = gradientPlan(chosen, candidates, {
    problem,
    device: defaultGpu,
    limits: own,
    workload,
  });
  const call: GpuCall = {
    ...{ batch, channels, pregate: true, postgate: true, skip: false },
    ...{ taps: "float32", offsets: {} },
  };
  const make = (plan: typeof other) =>
    new Scheduler({ problem, part: chosen.part, plan, keeper: chosen.plan, limits: own });
  return { forward: make(chosen.plan).forward(call), backward: make(other).backward(call) };
}

describe("launches, spectra included: no more than the best count of channels makes", () => {
  // The best of forced counts, when this was written; a plan of fewer passes may need fewer.
  test.each([
    // Spectra that fill the work memory are made at once where one pass needs none of it: they went one by one.
    ["large", 16_384, "float16", 8, 2048, 2, 100],
    ["large", 8192, "float16", 8, 4096, 2, 16],
    ["large", 4096, "float16", 8, 8192, 2, 16],
    ["large", 131_072, "float16", 64, 768, 400, 1435],
    ["large", 1_048_576, "float16", 8, 1025, 1372, 8851],
    // Slices are as wide as what can be bound, whatever the group.
    ["browser", 4096, "float32", 8, 8192, 18, 115],
    ["browser", 32_768, "float32", 8, 1024, 52, 404],
    ["browser", 131_072, "float16", 16, 768, 300, 2020],
  ] as const)("%s, %i samples, %s, B %i, H %i", (where, length, dtype, b, h, forward, backward) => {
    const made = schedules(where, length, dtype, b, h);
    expect(made.forward.steps.length).toBeLessThanOrEqual(forward);
    expect(made.backward.steps.length).toBeLessThanOrEqual(backward);
    for (const { bytes } of [made.forward, made.backward]) {
      const own = Object.values(bytes).reduce((a, n) => a + n, 0);
      expect(own).toBeLessThanOrEqual(workspaceBytes);
    }
  });
});
