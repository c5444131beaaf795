/** How a GPU computes: by transforms or in the time domain, and which of the two a text names. */
import { describe, expect, test } from "vitest";
import { createProblem } from "../../../src/plan/create-problem.ts";
import { defaultGpu } from "../../../src/plan/device.ts";
import { bestPlans, gpuCandidates, namedGpuPlans } from "../../../src/plan/gpu/choose.ts";
import { gradientPlan, passCandidates } from "../../../src/plan/gpu/planner.ts";
import { modes, type ProblemOptions } from "../../../src/plan/problem.ts";

const limits = { sharedBytes: 49_152, threads: 1024, values: 32 };
const workload = { batch: 8, channels: 384 };

const planned = (options: ProblemOptions) => {
  const problem = createProblem(options, "test");
  const candidates = gpuCandidates({ problem, device: defaultGpu, limits, workload });
  return { problem, candidates };
};

const named = (text: string, options: ProblemOptions) =>
  namedGpuPlans(text, {
    problem: createProblem(options, "test"),
    device: defaultGpu,
    limits,
    workload,
  });

describe("the time domain", () => {
  test.each(modes)("is chosen for few taps, and gradients go with it: %s", (mode) => {
    for (const dtype of ["float32", "float16"] as const) {
      const { problem, candidates } = planned({ length: 65_536, kernelLength: 8, mode, dtype });
      const plans = bestPlans(candidates[0]!, candidates, {
        problem,
        device: defaultGpu,
        limits,
        workload,
      });
      expect(plans.chosen.text).toBe("direct 8");
      expect(plans.chosen.plan).toBeUndefined();
      expect(plans.gradients).toBeUndefined();
    }
  });

  test("is a candidate up to 64 lags, and not with frequencies", () => {
    const has = (options: ProblemOptions): boolean =>
      planned(options).candidates.some((c) => c.text.startsWith("direct"));
    expect(has({ length: 4096, kernelLength: 64 })).toBe(true);
    expect(has({ length: 4096, kernelLength: 65 })).toBe(false);
    // Taps beyond the row do not act.
    expect(has({ length: 64, kernelLength: 1000 })).toBe(true);
    const frequencies = { band: [0, 0.25] } as const;
    expect(has({ length: 4096, kernelLength: 8, frequencies })).toBe(false);
  });

  test("is all that there is for one tap that acts, whatever the length", () => {
    for (const length of [1, 16, 65_536])
      for (const mode of modes) {
        const kernelLength = mode === "bidirectional" ? 2 : 1;
        const options = { length, kernelLength, mode };
        const texts = [`direct ${kernelLength}`];
        expect(planned(options).candidates.map((c) => c.text)).toEqual(texts);
      }
    // A masked kernel is as long as its period.
    const frequencies = { band: [0, 0.25] } as const;
    const [masked] = planned({ length: 4096, kernelLength: 1, frequencies }).candidates;
    expect(masked!.text).not.toMatch(/^direct/);
  });

  test("costs its bytes and its products", () => {
    const [one, two] = [1, 2].map(
      (kernelLength) =>
        planned({ length: 65_536, kernelLength }).candidates.find((c) => !c.plan)!.cost,
    );
    const { tap } = defaultGpu.directSeconds!;
    expect(two!.arithmetic - one!.arithmetic).toBeCloseTo(65_536 * tap, 12);
    expect(one!.memory).toBeCloseTo((8 * 65_536) / defaultGpu.memory.at(-1)!.bandwidth, 12);
    expect(one!.seconds).toBeCloseTo(one!.arithmetic + one!.memory, 15);
    expect(two!.flops).toBe(4 * 65_536);
  });

  test("leaves longer kernels to transforms, with their plan for gradients", () => {
    const { problem, candidates } = planned({ length: 65_536, kernelLength: 1024 });
    const plans = bestPlans(candidates[0]!, candidates, {
      problem,
      device: defaultGpu,
      limits,
      workload,
    });
    const passes = passCandidates({ problem, device: defaultGpu, limits, workload });
    expect(candidates).toEqual(passes);
    expect(plans.gradients).toEqual(
      gradientPlan(passes[0]!, passes, { problem, device: defaultGpu, limits, workload }),
    );
  });

  test("is named by its taps alone", () => {
    const options = { length: 1000, kernelLength: 16, mode: "same" as const };
    const { chosen } = named("direct 16", options)!;
    expect(chosen).toMatchObject({ text: "direct 16", part: { positions: 1015 } });
    for (const wrong of [
      "direct 15",
      "direct 16 @1000",
      "direct 16; gradients direct 16",
      "direct",
    ])
      expect(named(wrong, options)).toBeUndefined();
    expect(named("direct 65", { length: 1000, kernelLength: 65 })).toBeUndefined();
    const passes = "halves 2048: 8·16·16 ×128 split";
    expect(named(passes, { length: 2048 })?.chosen.text).toBe(passes);
  });
});
