/** Transforms in pieces: tensors, spectra and work memory that no binding spans at once, and more workgroups than a row of them. */
import { describe, expect, test } from "vitest";
import { FlashFFTConv } from "../../src/index.ts";
import type { ProblemOptions } from "../../src/plan/problem.ts";
import type { GpuLimits } from "../../src/schedule/schedule.ts";
import { onGpu } from "../support/backends.ts";
import { checkUnder } from "../support/limits.ts";

/** Problems, their plans, rows, and limits that cut them. */
const cuts: readonly (readonly [
  ProblemOptions,
  string,
  { batch: number; channels: number },
  Partial<GpuLimits>,
])[] = [
  // By batch items and by channels, in one pass.
  [
    { length: 256 },
    "halves 256: 4·8·8 ×32 split",
    { batch: 4, channels: 3 },
    { bindingBytes: 8192 },
  ],
  [
    { length: 200, dtype: "float16" },
    "halves 256: 4·8·8 ×32 split",
    { batch: 3, channels: 5 },
    { bindingBytes: 4096 },
  ],
  // Pairs of rows, an odd one alone.
  [
    { length: 256, mode: "circular", dtype: "bfloat16" },
    "rows 256: 4·8·8 ×32 split",
    { batch: 5, channels: 3 },
    { bindingBytes: 4096 },
  ],
  // In two passes, through little work memory.
  [
    { length: 512 },
    "halves 512: 4·4 /32 ×64 split | 4·8 ×4·16 split",
    { batch: 3, channels: 4 },
    { bindingBytes: 16_384, workspaceBytes: 40_000 },
  ],
  [
    { length: 1024, mode: "circular" },
    "neighbours 1024: 4·4 /32 ×64 split | 8·8 ×8·8 split",
    { batch: 2, channels: 3 },
    { bindingBytes: 16_384, workspaceBytes: 60_000 },
  ],
];

describe.skipIf(!onGpu)("transforms in pieces", () => {
  test.each(cuts)("%o, %s, %o, %o", async (options, text, rows, limits) => {
    const whole = await checkUnder(options, text, rows, {});
    const cut = await checkUnder(options, text, rows, limits);
    expect(cut.forward).toBeGreaterThan(whole.forward);
    expect(cut.backward).toBeGreaterThan(whole.backward);
  });

  test("more than 65,535 workgroups", async () => {
    const [length, channels] = [32, 70_000];
    using conv = await FlashFFTConv.create({
      ...{ length, plan: "halves 32: 32 ×1", backend: "webgpu" },
    });
    // An impulse, and one sample later: each row comes back as it is, one sample late.
    const u = Float32Array.from({ length: length * channels }, (_, i) => i % 31);
    const k = Float32Array.from({ length: length * channels }, (_, i) =>
      i % length === 1 ? 1 : 0,
    );
    const y = (await conv.forward(u, k)) as Float32Array;
    const wrong = y.findIndex((v, i) => Math.abs(v - (i % length === 0 ? 0 : u[i - 1]!)) > 1e-4);
    expect(wrong).toBe(-1);
  });
});
