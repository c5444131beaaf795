/** First passes whose points hold neighbours of one row: every way in which frequencies meet their mirrors. */
import { describe, expect, test } from "vitest";
import { FlashFFTConv, InvalidArgumentError } from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import type { ProblemOptions } from "../../src/plan/problem.ts";
import { onGpu } from "../support/backends.ts";
import { checkBackward, checkForward, drawInputs } from "../support/cases.ts";

const cases: readonly (readonly [ProblemOptions, string])[] = [
  // One stage: a thread has whole columns.
  [{ length: 512, mode: "circular" }, "neighbours 512: 8 /16 ×16 | 8·8 ×8"],
  [{ length: 512, mode: "circular", dtype: "float16" }, "neighbours 512: 8 /16 ×16 | 8·8 ×8"],
  [{ length: 512, mode: "circular", dtype: "bfloat16" }, "neighbours 512: 4 /16 ×16 | 8·16 ×8"],
  // An odd factor, rows of odd length, taps that begin anywhere.
  [
    { length: 701, kernelLength: 99, mode: "circular", period: 768, dtype: "float16" },
    "neighbours 768: 12 /16 ×16 | 8·8 ×8",
  ],
  [{ length: 960, mode: "circular" }, "neighbours 960: 20 /8 ×8 | 6·8 ×2"],
  // Two stages: a thread has blocks and their mirrors; alone with a column, or one of several.
  [{ length: 1024, mode: "circular" }, "neighbours 1024: 4·2 /16 ×16 | 8·16 ×8"],
  [{ length: 1024, mode: "circular" }, "neighbours 1024: 4·4 /16 ×32 | 8·8 ×8 split"],
  [
    { length: 1023, kernelLength: 600, mode: "circular", period: 1024, dtype: "bfloat16" },
    "neighbours 1024: 8·4 /16 ×64 split | 8·4 ×4",
  ],
  [{ length: 2048, mode: "circular", dtype: "float16" }, "neighbours 2048: 8·4 /16 ×32 | 8·8 ×8"],
  // Three stages, and three passes.
  [{ length: 4096, mode: "circular" }, "neighbours 4096: 4·4·4 /16 ×128 | 8·8 ×8"],
  [{ length: 4096, mode: "circular" }, "neighbours 4096: 8 /16 ×16·4 | 8 /16 ×16 | 8·8 ×8"],
  [
    { length: 8192, mode: "circular", dtype: "float16" },
    "neighbours 8192: 8 /16 ×16 | 4 /16 ×8 | 16·16 ×8",
  ],
  // Masked: blocks that keep nothing are neither stored nor read; rows followed by zeros.
  [
    {
      length: 2048,
      mode: "circular",
      frequencies: { digits: [8, 16, 16], dropped: [4, 8, 0] },
      dtype: "float16",
    },
    "neighbours 2048: 8·4 /16 ×32 | 8·8 ×8",
  ],
  [
    { length: 1000, kernelLength: 700, frequencies: { band: [0.02, 0.2] } },
    "neighbours 2048: 16 /16 ×16 | 8·16 ×8",
  ],
  [
    { length: 1001, kernelLength: 1001, frequencies: { digits: [16, 128], dropped: [9, 0] } },
    "neighbours 2048: 4·4 /16 ×32 | 8 /16 ×16 | 4·4 ×4",
  ],
];

describe.skipIf(!onGpu)("neighbours of a row", () => {
  test.each(cases)("%o, %s", async (options, plan) => {
    const hints = { batch: 3, channels: 2, backend: "webgpu" } as const;
    const problem = createProblem(options, "test");
    const shape = { batch: 3, channels: 2, pregate: true, postgate: true, skip: true };
    const drawn = drawInputs(problem, shape, 7);
    using conv = await FlashFFTConv.create({ ...options, ...hints, plan });
    expect(conv.explain()).toMatchObject({ chosen: { plan } });
    await checkForward(conv, drawn, "rows");
    await checkBackward(conv, drawn, "rows");
  });

  test("gradients may have another plan, with as many blocks", async () => {
    const options = { length: 1024, mode: "circular", backend: "webgpu" } as const;
    const own = "neighbours 1024: 8 /16 ×16 | 8·16 ×8";
    const gradients = "neighbours 1024: 4·2 /16 ×16 | 8 /16 ×8 | 16 ×1";
    const problem = createProblem({ length: 1024, mode: "circular" }, "test");
    const drawn = drawInputs(problem, { batch: 3, channels: 2, skip: true }, 5);
    using conv = await FlashFFTConv.create({ ...options, plan: `${own}; gradients ${gradients}` });
    await checkBackward(conv, drawn, "rows");
  });

  test.each([
    "neighbours 1024: 8·8·16 ×64",
    "neighbours 1024: 8·8 /16 ×128 | 16 ×1",
    "neighbours 1024: 8 /16 ×16 | 8·16 ×8; gradients neighbours 1024: 16 /16 ×16 | 8·8 ×8",
  ])("no such plan: %s", async (plan) => {
    const creating = FlashFFTConv.create({
      ...{ length: 1024, mode: "circular", backend: "webgpu", plan },
    });
    await expect(creating).rejects.toThrow(InvalidArgumentError);
  });
});
