/**
 * Kernels of short convolutions as text: for the limits of three kinds of device, every kernel of every schedule keeps within
 * them and compiles, and the text changes only when somebody means it to. Beside them the traffic that a schedule asks for.
 */
import { describe, expect, test } from "vitest";
import { dtypes } from "../../../src/dtype.ts";
import type { ActivationName } from "../../../src/math/activation.ts";
import {
  createDepthwiseProblem,
  type DepthwiseProblemOptions,
  layouts,
} from "../../../src/plan/depthwise.ts";
import { DepthwiseScheduler } from "../../../src/schedule/depthwise.ts";
import type { DepthwiseGpuCall } from "../../../src/schedule/pieces.ts";
import type { GpuLimits, Schedule } from "../../../src/schedule/schedule.ts";
import {
  defaultLimits,
  deviceProfiles,
  expectBound,
  expectCompiled,
  hashOf,
  kernelsOf,
} from "../../support/kernels.ts";

/** Few taps and many, odd rows, one row and many, in either layout and every storage type. */
const problems: readonly (DepthwiseProblemOptions & {
  readonly activation?: ActivationName;
  readonly form?: "projections";
  readonly length: number;
  readonly batch: number;
})[] = layouts.flatMap((layout) => [
  ...dtypes.map((dtype) => ({
    ...{ layout, dtype, channels: 768, kernelLength: 3, length: 4096, batch: 16 },
  })),
  { layout, channels: 768, kernelLength: 5, length: 1024, batch: 16, activation: "silu" },
  { layout, channels: 768, kernelLength: 5, length: 1024, batch: 16, activation: "relu" },
  { layout, channels: 8192, kernelLength: 5, length: 8192, batch: 16, dtype: "float16" },
  { layout, channels: 5, kernelLength: 4, length: 37, batch: 3, dtype: "bfloat16" },
  { layout, channels: 6, kernelLength: 1, length: 1, batch: 1 },
  { layout, channels: 4, kernelLength: 256, length: 300, batch: 2, activation: "silu" },
  { layout, channels: 12, kernelLength: 7, length: 50, batch: 2, padding: "same" },
  { layout, channels: 3, kernelLength: 20, length: 50, batch: 2, padding: [40, 0] },
  ...dtypes.map((dtype) => ({
    ...{ layout, dtype, channels: 768, kernelLength: 3, length: 4096, batch: 16 },
    form: "projections" as const,
  })),
  // Gradients of all three filters by themselves; taps in blocks; thirds that cannot be bound at once.
  { layout, channels: 5, kernelLength: 7, length: 37, batch: 3, form: "projections" },
  { layout, channels: 4, kernelLength: 20, length: 50, batch: 2, form: "projections" },
  { layout, channels: 1024, kernelLength: 3, length: 16_384, batch: 2, form: "projections" },
]);

/** Everything that an object of these options may run on such a device. */
function schedulesOf(options: (typeof problems)[number], limits: GpuLimits): Schedule[] {
  const { batch, length, activation, form = activation ?? "linear", ...rest } = options;
  const problem = createDepthwiseProblem(rest, form, "test");
  const order = form === "projections" ? [1, 0, 2] : [0];
  const scheduler = new DepthwiseScheduler(problem, limits, order);
  const plain: DepthwiseGpuCall = {
    ...{ name: "test", batch, length, bias: false, state: false, stateOut: "none" },
    ...{ dstateOut: false, offsets: {} },
  };
  const streams = (rest.padding ?? "causal") === "causal" && rest.kernelLength > 1;
  const full: DepthwiseGpuCall = {
    ...{ ...plain, bias: true, state: streams, stateOut: streams ? "same" : "none" },
    ...{ dstateOut: streams, offsets: { weight: 8, x: 8, dx: 264 } },
  };
  return [plain, full].flatMap((call) => [scheduler.forward(call), scheduler.backward(call)]);
}

describe.each(Object.entries(deviceProfiles))("%s", (name, limits) => {
  test.each(problems)("%o", async (options) => {
    const all = schedulesOf(options, limits);
    const kernels = kernelsOf(all);
    await expectCompiled(kernels, limits, name === defaultLimits);
    expectBound(all, kernels, limits);
    expect(hashOf(kernels)).toMatchSnapshot(name);
  });
});

describe("what models ask for", () => {
  const model = { channels: 768, kernelLength: 5, length: 4096, batch: 16 };

  test.each(layouts.flatMap((layout) => dtypes.map((dtype) => [layout, dtype] as const)))(
    "%s, %s: one kernel forward, two backward, and accesses of 8 or 16 bytes",
    (layout, dtype) => {
      const [forward, backward] = schedulesOf({ ...model, layout, dtype }, deviceProfiles.NVIDIA!);
      expect(forward!.steps.length).toBe(1);
      expect(backward!.steps.length).toBe(2);
      for (const { kernel } of [forward!.steps[0]!, backward!.steps[0]!]) {
        const samples = kernel.bindings.filter((b) => ["x", "y", "dy"].includes(b.name));
        const wide = layout === "BLH" && dtype !== "float32" ? "vec2u" : "vec4u";
        for (const { element } of samples)
          expect(element).toBe(dtype === "float32" ? "vec4f" : wide);
      }
      // Sums that wait for the second kernel are a small part of what the first one reads and writes.
      const samples = model.batch * model.channels * model.length;
      const bytes = 3 * samples * (dtype === "float32" ? 4 : 2);
      expect(backward!.bytes.sums! / bytes).toBeLessThan(0.06);
    },
  );

  test.each(layouts)("%s: the projections, one kernel forward, three backward", (layout) => {
    const options = { ...model, kernelLength: 3, layout, form: "projections" as const };
    const [forward, backward, , streamed] = schedulesOf(options, deviceProfiles.NVIDIA!);
    expect(forward!.steps.length).toBe(1);
    expect(backward!.steps.length).toBe(3);
    // The default limits have eight storage buffers for a kernel.
    const counts = streamed!.steps.map(({ kernel }) => kernel.bindings.length);
    expect(Math.max(...counts)).toBe(8);
  });
});
