/** Half precision of any size that the type holds: whole calls whose samples are near its largest, or a thousandth of the usual. */
import { test } from "vitest";
import type { Dtype } from "../../src/dtype.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import type { Mode } from "../../src/plan/problem.ts";
import { describeBackends, onGpu } from "../support/backends.ts";
import { checkBackward, checkForward, drawInputs } from "../support/cases.ts";

/** Samples of up to five times the size, and taps that keep outputs in range. */
const sizes = [
  ["near float16's largest", { u: 12_000, k: 1e-3 }],
  ["a thousandth", { u: 1e-3, k: 0.1 }],
] as const;

/** Plans of a GPU, for calls in one pass, with points in pairs or in words between passes, and with rows in pairs. */
const plans: readonly (readonly [Mode, number, string])[] = [
  ["causal", 256, "halves 256: 4·8·8 ×32·2 split"],
  ["causal", 1024, "halves 1024: 4·4 /32 ×64 split | 8·8 ×8·8 split"],
  ["causal", 1000, "halves 1024: 16 /32 ×32·2 | 8·8 ×8·8 split"],
  ["circular", 1024, "rows 1024: 4·4 /32 ×64 split | 8·8 ×8·8 split"],
  ["circular", 256, "rows 256: 4·8·8 ×32·2 split"],
];

describeBackends("half precision", (open) => {
  for (const [name, size] of sizes) {
    test.each(plans)(`${name}: %s, %i samples, %s`, async (mode, length, plan) => {
      for (const dtype of ["float16", "bfloat16"] satisfies Dtype[]) {
        const problem = createProblem({ mode, length, dtype }, "test");
        const shape = { batch: 3, channels: 2, pregate: true, postgate: true, sizes: size };
        const inputs = drawInputs(problem, shape, 3);
        using conv = await open({ mode, length, dtype, ...(onGpu && { plan }) });
        await checkForward(conv, inputs);
        await checkBackward(conv, inputs);
      }
    });
  }
});
