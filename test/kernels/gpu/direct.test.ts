/**
 * Kernels of the time domain as text: for the limits of three kinds of device, every kernel of every schedule keeps within
 * them and compiles, and the text changes only when somebody means it to. Beside them the launches that a call takes.
 */
import { describe, expect, test } from "vitest";
import { dtypes } from "../../../src/dtype.ts";
import { createProblem } from "../../../src/plan/create-problem.ts";
import { modes, type ProblemOptions } from "../../../src/plan/problem.ts";
import type {
  CallScheduler,
  GpuCall,
  GpuLimits,
  Schedule,
} from "../../../src/schedule/schedule.ts";
import {
  defaultLimits,
  deviceProfiles,
  expectBound,
  expectCompiled,
  hashOf,
  kernelsOf,
} from "../../support/kernels.ts";
import { namedScheduler } from "../../support/plans.ts";

/** Few taps and many, even rows and odd ones, in every mode and storage type; rows that go on periodically, with and without a gap. */
const problems: readonly ProblemOptions[] = [
  ...dtypes.flatMap((dtype) => [4096, 1023].map((length) => ({ dtype, length, kernelLength: 8 }))),
  ...modes.map((mode) => ({ mode, length: 700, kernelLength: 6 })),
  { length: 1, kernelLength: 1 },
  { length: 10, kernelLength: 1000 },
  { length: 65_536, kernelLength: 16 },
  { length: 65_536, kernelLength: 17, dtype: "float16" },
  { length: 3000, kernelLength: 64, mode: "same" },
  { length: 64, kernelLength: 64, mode: "circular" },
  { length: 64, kernelLength: 9, mode: "circular", period: 75, dtype: "bfloat16" },
];

const none = { pregate: false, postgate: false, skip: false };
const offsets = { u: 16, dy: 264, dk: 4, k: 8 };

function schedulerFor(options: ProblemOptions, limits: GpuLimits): CallScheduler {
  const problem = createProblem(options, "test");
  const text = `direct ${problem.kernelLength}`;
  return namedScheduler(text, problem, limits, { batch: 2, channels: 3 });
}

/** Everything that an object of these options may run on such a device. */
function schedulesOf(options: ProblemOptions, limits: GpuLimits): Schedule[] {
  const scheduler = schedulerFor(options, limits);
  const { length, outputLength, dtype } = createProblem(options, "test");
  const all = { pregate: true, postgate: true, skip: length === outputLength };
  const calls: GpuCall[] = [
    { ...{ batch: 2, channels: 3, taps: undefined, offsets: {} }, ...none },
    { ...{ batch: 2, channels: 3, taps: "float32", offsets: {} }, ...all },
    { ...{ batch: 2, channels: 3, taps: "float16", offsets }, ...all, postgate: false },
  ];
  return [
    scheduler.spectra(3, dtype, 0),
    ...calls.flatMap((call) => [scheduler.forward(call), scheduler.backward(call)]),
  ];
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
  const gated: GpuCall = {
    ...{ batch: 8, channels: 384, pregate: true, postgate: true, skip: true },
    ...{ taps: undefined, offsets: {} },
  };

  test.each(dtypes)("%s: one kernel forward, two backward, and accesses of 16 bytes", (dtype) => {
    const scheduler = schedulerFor(
      { length: 65_536, kernelLength: 8, dtype },
      deviceProfiles.NVIDIA!,
    );
    const [forward, backward] = [scheduler.forward(gated), scheduler.backward(gated)];
    expect(forward.steps.length).toBe(1);
    expect(backward.steps.length).toBe(2);
    for (const { kernel } of [forward.steps[0]!, backward.steps[0]!]) {
      const samples = kernel.bindings.filter((b) => !["taps", "skip", "sums"].includes(b.name));
      expect(samples.length).toBe(kernel === forward.steps[0]!.kernel ? 4 : 7);
      for (const { element } of samples)
        expect(element).toBe(dtype === "float32" ? "vec4f" : "vec4u");
    }
    // Sums that wait for the second kernel are a small part of what the first one reads and writes.
    const bytes = 7 * 8 * 384 * 65_536 * (dtype === "float32" ? 4 : 2);
    expect(backward.bytes.sums! / bytes).toBeLessThan(0.01);
  });

  test("the default limits have eight storage buffers for a kernel, and few taps few launches", () => {
    const launches = (kernelLength: number, call: GpuCall): number[] => {
      const scheduler = schedulerFor(
        { length: 4096, kernelLength },
        deviceProfiles[defaultLimits]!,
      );
      const { steps } = scheduler.backward(call);
      for (const { kernel } of steps) expect(kernel.bindings.length).toBeLessThanOrEqual(8);
      return steps.map(({ kernel }) => kernel.bindings.length);
    };
    // One piece of the batch, so that steps are kinds of kernels.
    const small = { ...gated, batch: 2, channels: 4 };
    expect(launches(8, { ...small, ...none })).toEqual([5, 2]);
    expect(launches(8, { ...small, postgate: false, skip: false })).toEqual([7, 2]);
    expect(launches(8, { ...small, skip: false })).toEqual([5, 8, 2]);
    expect(launches(8, small)).toEqual([5, 8, 5, 3]);
    expect(launches(17, { ...small, ...none })).toEqual([3, 3, 2]);
  });
});

describe("calls in pieces", () => {
  const call: GpuCall = {
    ...{ batch: 4, channels: 300, pregate: true, postgate: true, skip: true },
    ...{ taps: "float32", offsets: {} },
  };
  const small: GpuLimits = {
    ...deviceProfiles[defaultLimits]!,
    bindingBytes: 2 ** 17,
    workspaceBytes: 2 ** 16,
  };

  test("what a call binds and what it holds stay within their limits", () => {
    const scheduler = schedulerFor({ length: 1000, kernelLength: 64 }, small);
    for (const { steps, bytes } of [scheduler.forward(call), scheduler.backward(call)]) {
      for (const { ranges } of steps)
        for (const { size } of Object.values(ranges))
          expect(size).toBeLessThanOrEqual(small.bindingBytes);
      const held = Object.values(bytes).reduce((a, b) => a + b, 0);
      expect(held).toBeLessThanOrEqual(small.workspaceBytes);
    }
  });

  test("every channel's gradients begin with the first piece that has them, and taps are laid out once a piece", () => {
    const scheduler = schedulerFor({ length: 1000, kernelLength: 64 }, small);
    const { steps } = scheduler.backward(call);
    const totals = steps.filter(({ ranges }) => "dk" in ranges);
    const begun = totals.filter(({ parameters }) => (parameters as { clear: number }).clear === 1);
    const channels = begun.reduce((n, s) => n + (s.parameters as { span: number }).span, 0);
    expect(channels).toBe(300);
    expect(begun.length).toBeLessThan(totals.length);
    const adding = scheduler.backward({ ...call, add: true }).steps;
    expect(adding.map(({ kernel }) => kernel)).toEqual(steps.map(({ kernel }) => kernel));
    expect(adding.some(({ parameters: p }) => (p as { clear?: number }).clear === 1)).toBe(false);
  });
});
