/** Named plans on a GPU: rows in pairs, exchanges in parts of the memory, blocks and masks in several passes, large batches. */
import { describe, expect, test } from "vitest";
import { FlashFFTConv, UnsupportedError } from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import type { ProblemOptions } from "../../src/plan/problem.ts";
import { onGpu } from "../support/backends.ts";
import { checkBackward, checkForward, drawInputs } from "../support/cases.ts";
import { expectSameBits } from "../support/close.ts";
import { openDevice } from "../support/gpu.ts";

/** Plans of one pass, two and three. */
const pairPlans = [
  ["rows 1024: 4·4·8·8 ×128 split", "float32"],
  ["rows 1024: 4·4·8·8 ×128 split", "float16"],
  ["rows 1024: 4·4·8·8 ×128 split", "bfloat16"],
  ["rows 1024: 16 /16 ×16 | 8·8 ×8", "float32"],
  ["rows 1024: 16 /16 ×16 | 8·8 ×8", "float16"],
  ["rows 1024: 4 /16 ×8 | 4 /16 ×16 | 8·8 ×8", "bfloat16"],
] as const;

describe.skipIf(!onGpu)("rows of a circular convolution in pairs", () => {
  test.each(pairPlans)("%s, %s", async (plan, dtype) => {
    // An odd batch leaves a row without a partner; the period is longer than the rows.
    const circular = { length: 1017, period: 1024, mode: "circular", dtype } as const;
    const hints = { batch: 3, channels: 2 };
    const gates = { pregate: true, postgate: true, skip: true };
    const drawn = drawInputs(createProblem(circular, "test"), { ...hints, ...gates }, 5);
    const device = await openDevice();
    using conv = await FlashFFTConv.create({
      ...circular,
      ...hints,
      device,
      ...(plan && { plan }),
    });
    expect(conv.explain().chosen.plan).toMatch(/^rows 1024/);
    await checkForward(conv, drawn, "rows");
    await checkBackward(conv, drawn, "rows");
  });
});

/** Points that go from stage to stage by halves of each part: one half's threads known, or not, on either side. */
const quarterCases: readonly (readonly [ProblemOptions, string])[] = [
  [{ length: 100 }, "halves 128: 4·4·8 ×16 quarter"],
  [{ length: 64, dtype: "bfloat16" }, "halves 64: 8·8 ×8·4 quarter"],
  [{ length: 511, dtype: "float16" }, "halves 512: 8·4·16 ×32 quarter @4"],
  [{ length: 256, mode: "circular" }, "rows 256: 4·8·8 ×32 quarter"],
  [{ length: 900, dtype: "float16" }, "halves 1024: 4·4 /16 ×32 quarter | 8·8 ×8·4 quarter"],
];

describe.skipIf(!onGpu)("exchanges in a quarter of the memory", () => {
  test.each(quarterCases)("%o, %s", async (options, plan) => {
    const hints = { batch: 3, channels: 2 };
    const gates = { pregate: true, postgate: true, skip: true };
    const drawn = drawInputs(createProblem(options, "test"), { ...hints, ...gates }, 6);
    const device = await openDevice();
    using conv = await FlashFFTConv.create({ ...options, ...hints, device, plan });
    expect(conv.explain().chosen.plan).toBe(plan);
    await checkForward(conv, drawn, "rows");
    await checkBackward(conv, drawn, "rows");
  });
});

/** Blocks of rows through several passes, in work memory for a few of them at a time. */
const blockCases: readonly (readonly [ProblemOptions, string])[] = [
  [{ length: 3000, kernelLength: 100 }, "halves 256: 4 /16 ×16 | 8·8 ×8, hop 20"],
  [{ length: 3001, kernelLength: 99, mode: "same" }, "halves 256: 4 /16 ×16 | 8·8 ×8, hop 22"],
  [
    { length: 2000, kernelLength: 300, mode: "full", dtype: "float16" },
    "halves 1024: 4 /16 ×8 | 4 /16 ×16 | 8·8 ×8, hop 40",
  ],
  [
    { length: 2048, kernelLength: 100, mode: "bidirectional", dtype: "bfloat16" },
    "halves 256: 4 /16 ×16 | 8·8 ×8, hop 10",
  ],
];

describe.skipIf(!onGpu)("blocks in several passes", () => {
  test.each(blockCases)("%o, %s", async (options, plan) => {
    const hints = { batch: 3, channels: 2 };
    const problem = createProblem(options, "test");
    const gates = { pregate: true, postgate: true, skip: options.mode !== "full" };
    const drawn = drawInputs(problem, { ...hints, ...gates }, 8);
    const workspaceBytes = 2 ** 20;
    using conv = await FlashFFTConv.create({
      ...options,
      ...hints,
      backend: "webgpu",
      plan,
      workspaceBytes,
    });
    expect(conv.explain().chosen.plan).toBe(plan);
    await checkForward(conv, drawn, "rows");
    await checkBackward(conv, drawn, "rows");
    expect(conv.memory().workspaceBytes).toBeLessThanOrEqual(workspaceBytes);
  });
});

/** Blocks of which some keep no frequency, in two passes and three; a batch of one, and odd ones. */
const combs = { digits: [8, 8, 8, 4], dropped: [4, 4, 4, 1] };
const sparseCases: readonly (readonly [ProblemOptions, number, string])[] = [
  [{ length: 1000, kernelLength: 700 }, 3, "rows 2048: 16 /16 ×16 | 8·16 ×8"],
  [{ length: 900, dtype: "float16" }, 1, "rows 2048: 8 /16 ×16 | 8·32 ×8"],
  [{ length: 701, mode: "same", dtype: "bfloat16" }, 4, "rows 2048: 4·8 /16 ×32 | 8·8 ×8"],
  [{ length: 2048, mode: "circular" }, 3, "rows 2048: 8 /16 ×16 | 4 /16 ×8 | 8·8 ×8"],
];

describe.skipIf(!onGpu)("masked frequencies in several passes", () => {
  test.each(sparseCases)("%o, batch %i, %s", async (options, batch, plan) => {
    const masked = { ...options, frequencies: combs };
    const problem = createProblem(masked, "test");
    const shape = { batch, channels: 2, pregate: true, postgate: true, skip: true };
    const drawn = drawInputs(problem, shape, 9);
    const device = await openDevice();
    using conv = await FlashFFTConv.create({ ...masked, device, plan, batch, channels: 2 });
    await checkForward(conv, drawn, "rows");
    await checkBackward(conv, drawn, "rows");
    const { flops, bytes } = conv.explain().leftOut!;
    expect(flops.leftOut / flops.all).toBeGreaterThan(0.3);
    expect(bytes.leftOut / bytes.all).toBeGreaterThan(0.3);
  });

  test("need transforms of their N", async () => {
    const creating = FlashFFTConv.create({
      ...{ length: 100, frequencies: { band: [0, 0.2], period: 1680 } },
      backend: "webgpu",
    });
    await expect(creating).rejects.toThrow(UnsupportedError);
    await expect(creating).rejects.toThrow("power of two from 32 on");
  });
});

/** Many rows a channel are summed in chunks, and with 32 values a thread the transforms of u wait in memory. */
const gradientCases = [
  [{ length: 100 }, undefined],
  [{ length: 64, mode: "circular" }, undefined],
  [{ length: 64 }, "halves 64: 32·2 ×2 split"],
  [{ length: 64, mode: "circular" }, "rows 64: 32·2 ×2 split"],
  [{ length: 1024, dtype: "float16" }, "halves 1024: 8 /64 ×16 | 8·16 ×4 split"],
] as const;

describe.skipIf(!onGpu)("gradients of a large batch", () => {
  test.each(gradientCases)("%o, %s", async (options, plan) => {
    const hints = { batch: 9, channels: 2 };
    const gates = { pregate: true, postgate: true, skip: true };
    const drawn = drawInputs(createProblem(options, "test"), { ...hints, ...gates }, 6);
    const device = await openDevice();
    using conv = await FlashFFTConv.create({ ...options, ...hints, device, ...(plan && { plan }) });
    await checkBackward(conv, drawn, "rows");
    const { dk } = await conv.backward(drawn.dy, drawn.u, drawn.k, drawn.options);
    const again = await conv.backward(drawn.dy, drawn.u, drawn.k, drawn.options);
    expectSameBits(again.dk as Float32Array, dk as Float32Array);
  });
});
