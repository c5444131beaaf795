/** Spectra in float16, which long single passes of a GPU keep: their error, kernels of any magnitude, frequencies that a kernel stops. */
import { describe, expect, test } from "vitest";
import { decode, encode } from "../../src/dtype.ts";
import { FlashFFTConv } from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { parsePasses, spectrumFormat } from "../../src/plan/gpu/passes.ts";
import type { ProblemOptions } from "../../src/plan/problem.ts";
import { oracleForward } from "../../src/reference/convolution.ts";
import { onGpu } from "../support/backends.ts";
import { checkBackward, checkForward, drawInputs } from "../support/cases.ts";
import { distance, norm } from "../support/close.ts";

/** Plans of 8,192 points for 256 threads and 32 KiB; rows packed one by one and in pairs, whole and in blocks. */
const plans: readonly (readonly [ProblemOptions, string])[] = [
  [{ length: 8100 }, "halves 8192: 16·16·32 ×256 quarter"],
  [{ length: 8000, mode: "circular", period: 8192 }, "rows 8192: 16·16·32 ×256 quarter"],
  [{ length: 9000, kernelLength: 900 }, "halves 8192: 4·8·16·16 ×256 quarter, hop 7200"],
];
const shape = { batch: 2, channels: 2, pregate: true, postgate: true, skip: true };

describe.skipIf(!onGpu)("spectra in float16", () => {
  test.each(plans)("%o, %s", async (options, plan) => {
    expect(spectrumFormat(parsePasses(plan)!, "float16")).toBe("float16");
    const problem = createProblem({ ...options, dtype: "float16" }, "test");
    const drawn = drawInputs(problem, shape, 21);
    const hints = { batch: 2, channels: 2, backend: "webgpu", dtype: "float16" } as const;
    using conv = await FlashFFTConv.create({ ...options, ...hints, plan });
    const y = await checkForward(conv, drawn, "rows");
    // The rounding of the result, and what the spectrum adds.
    const exact = drawn.y();
    const error = distance(decode(y, "float16"), exact) / norm(exact);
    expect(error).toBeLessThan(3.05e-4);
    const { dk } = await checkBackward(conv, drawn, "rows");
    // The gradient of the taps meets no spectrum of theirs.
    const sums = drawn.gradients().dk;
    expect(distance(Float64Array.from(dk), sums) / norm(sums)).toBeLessThan(1e-6);
    // Kept, spectra are the same, and take half the memory.
    using kernel = await conv.prepareKernel(drawn.k);
    expect(await conv.forward(drawn.u, kernel, drawn.options)).toEqual(y);
    expect(conv.memory().spectrumBytes).toBeLessThan(1.02 * conv.memory().transformBytes);
  });

  test("kernels of any magnitude, one channel beside the other", async () => {
    const [options, plan] = plans[0]!;
    const dtype = "bfloat16";
    const problem = createProblem({ ...options, dtype }, "test");
    const one = { batch: 1, channels: 6, pregate: false, postgate: false, skip: false };
    const drawn = drawInputs(problem, one, 22);
    const K = problem.kernelLength;
    const scales = [2 ** -100, 2 ** -20, 1, 2 ** 100, 0, Number.NaN];
    const k = Float32Array.from(
      decode(drawn.k, drawn.k instanceof Float32Array ? "float32" : dtype),
    );
    for (let i = 0; i < k.length; i++) k[i]! *= scales[Math.floor(i / K)]!;
    using conv = await FlashFFTConv.create({ ...options, backend: "webgpu", dtype, plan });
    const y = decode(await conv.forward(drawn.u, k), dtype);
    const exact = drawn.y();
    const L = problem.length;
    for (const [h, scale] of scales.entries()) {
      const row = y.subarray(h * L, (h + 1) * L);
      const wanted = exact.subarray(h * L, (h + 1) * L).map((x) => x * scale);
      if (Number.isNaN(scale)) expect(row.every(Number.isNaN)).toBe(true);
      else expect(distance(row, wanted)).toBeLessThanOrEqual(2e-3 * norm(wanted));
    }
  });

  test("a frequency that a kernel stops, among those that it lets pass", async () => {
    const [options, plan] = plans[0]!;
    const dtype = "float16";
    const problem = createProblem({ ...options, dtype }, "test");
    const { length } = problem;
    const wave = Float32Array.from({ length }, (_, n) => Math.sin(2 * Math.PI * 0.4995 * n));
    const u = encode(wave, dtype);
    const k = Float32Array.from({ length }, (_, n) => Math.exp(-n / 500));
    const exact = oracleForward(problem, {
      ...{ batch: 1, channels: 1, u: decode(u, dtype), k: Float64Array.from(k) },
    });
    using conv = await FlashFFTConv.create({ ...options, backend: "webgpu", dtype, plan });
    const y = decode(await conv.forward(u, k), dtype);
    // With one exponent for two frequencies it would be 2.4e-2.
    expect(distance(y, exact) / norm(exact)).toBeLessThan(1e-3);
  });
});
