/** Gradients by a plan of their own: with kernels given as taps, and with spectra that forward's plan has made. */
import { describe, expect, test } from "vitest";
import { FlashFFTConv, InvalidArgumentError } from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import type { ProblemOptions } from "../../src/plan/problem.ts";
import { onGpu } from "../support/backends.ts";
import { checkBackward, checkForward, drawInputs, gradientBar } from "../support/cases.ts";
import { expectClose } from "../support/close.ts";

/** Other radices, threads, passes; odd factors, pairs of rows, masked frequencies, blocks; a thread that is alone. */
const cases: readonly (readonly [ProblemOptions, string, string])[] = [
  [{ length: 32 }, "halves 32: 4·8 ×1·4", "halves 32: 8·4 ×4"],
  [{ length: 256 }, "halves 256: 4·8·8 ×32·2 split", "halves 256: 4 /16 ×16 | 8·8 ×8"],
  [
    { length: 700, dtype: "float16" },
    "halves 768: 12 /16 ×16 | 8·8 ×8",
    "halves 768: 6·8·16 ×16·4",
  ],
  // Points in words, and in pairs.
  [
    { length: 1000, dtype: "float16" },
    "halves 1024: 16 /16 ×16 | 8·8 ×8",
    "halves 1024: 4 /16 ×8·8 | 4 /16 ×8·8 | 8·8 ×4·8",
  ],
  [
    { length: 1024, mode: "circular" },
    "rows 1024: 4·4·8·8 ×128 split",
    "rows 1024: 16 /16 ×16 | 8·8 ×8",
  ],
  [
    {
      length: 1000,
      kernelLength: 700,
      frequencies: { digits: [8, 8, 8, 4], dropped: [4, 4, 4, 1] },
    },
    "rows 2048: 16 /16 ×16 | 8·16 ×8",
    "rows 2048: 8 /16 ×16 | 4 /16 ×8 | 8·8 ×8",
  ],
  [
    { length: 3000, kernelLength: 100 },
    "halves 256: 4 /16 ×16 | 8·8 ×8, hop 20",
    "halves 256: 8·32 ×8·8, hop 20",
  ],
];

describe.skipIf(!onGpu)("a plan of their own", () => {
  test.each(cases)("%o, %s, gradients %s", async (options, own, gradients) => {
    const hints = { batch: 3, channels: 2, backend: "webgpu" } as const;
    const problem = createProblem(options, "test");
    const shape = { batch: 3, channels: 2, pregate: true, postgate: true, skip: true };
    const drawn = drawInputs(problem, shape, 11);
    const plan = `${own}; gradients ${gradients}`;
    using conv = await FlashFFTConv.create({ ...options, ...hints, plan });
    expect(conv.explain()).toMatchObject({ chosen: { plan: own }, gradientPlan: gradients });
    expect(String(conv.explain())).toContain(`gradients: ${gradients}`);
    await checkForward(conv, drawn, "rows");
    const plain = await checkBackward(conv, drawn, "rows");
    using kernel = await conv.prepareKernel(drawn.k as Float32Array);
    const kept = await conv.backward(drawn.dy, drawn.u, kernel, drawn.options);
    // The kernel's gradient has nothing to do with its spectrum, the input's everything.
    expect(kept.dk).toEqual(plain.dk);
    const { dtype, length } = problem;
    if (dtype !== "float32") return;
    expectClose(kept.du, Float64Array.from(plain.du as Float32Array), {
      ...{ name: "du", rowLength: length, bound: gradientBar, dtype },
    });
  });

  test("an odd number of columns, one of which has no neighbour", async () => {
    const options = { length: 640, backend: "webgpu" } as const;
    const plan = "halves 640: 8·2 /5 ×5 | 10·4 ×2";
    const problem = createProblem({ length: 640 }, "test");
    const drawn = drawInputs(problem, { batch: 3, channels: 2, pregate: true, skip: true }, 3);
    using conv = await FlashFFTConv.create({ ...options, batch: 3, channels: 2, plan });
    await checkForward(conv, drawn, "rows");
    await checkBackward(conv, drawn, "rows");
  });

  test("has the same points", async () => {
    const plan = "halves 256: 4·8·8 ×32·2 split; gradients halves 512: 8·8·8 ×64";
    const creating = FlashFFTConv.create({ length: 256, backend: "webgpu", plan });
    await expect(creating).rejects.toThrow(InvalidArgumentError);
  });
});
