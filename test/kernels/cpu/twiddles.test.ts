/** Twiddle tables: every number is the nearest float32 to what the phases of the rings say, or its neighbour. */
import { describe, expect, test } from "vitest";
import { quarterOf, stageTwiddles, writeTwiddles } from "../../../src/kernels/cpu/twiddles.ts";
import { parseTransform, type TransformPlan } from "../../../src/plan/cpu/plan.ts";
import { cyclicFactors, sparsePlan } from "../../../src/plan/cpu/sparse.ts";
import { createProblem } from "../../../src/plan/create-problem.ts";

/** Of each stage, the phase of every block that it splits, in turns. */
function phasesOf(plan: TransformPlan): number[][] {
  let phases = [quarterOf(plan) / 4];
  return stageTwiddles(plan).stages.map(({ radix, kept }) => {
    const own = phases;
    phases = phases.flatMap((phase) => kept.map((j) => (phase + j) / radix));
    return own;
  });
}

function sparse(text: string): TransformPlan {
  const frequencies = { digits: [16, 256], dropped: [8, 16] };
  const [longest] = cyclicFactors(createProblem({ length: 2048, frequencies }, "test"));
  return sparsePlan(longest!, parseTransform(text)!);
}

describe("twiddles", () => {
  test.each([
    ["one stage and the middle", parseTransform("16: 4")!],
    ["odd radices", parseTransform("5040: 7·5·3·3·4")!],
    ["two levels", parseTransform("65536: 4·4·4 /64 +64 | 4·4·2·2·4")!],
    ["a pattern", sparse("1024: 4·4·4·4")],
  ])("%s", (_, plan) => {
    const { stages, bytes } = stageTwiddles(plan);
    const phases = phasesOf(plan);
    for (const lanes of [1, 4] as const) {
      const table = new Float32Array(bytes / 4).fill(Number.NaN);
      writeTwiddles(table, plan, lanes);
      let worst = 0;
      stages.forEach(({ radix, offset, last }, s) => {
        const width = last ? lanes : 1;
        phases[s]!.forEach((phase, b) => {
          const at = offset / 4 + Math.floor(b / width) * 2 * (radix - 1) * width + (b % width);
          for (let j = 1; j < radix; j++) {
            const angle = (2 * Math.PI * phase * j) / radix;
            const re = table[at + 2 * (j - 1) * width]! - Math.cos(angle);
            const im = table[at + (2 * j - 1) * width]! - Math.sin(angle);
            worst = Math.max(worst, Math.abs(re), Math.abs(im));
          }
        });
      });
      // Half a unit in the last place of numbers up to 1, and of none a NaN.
      expect(worst).toBeLessThan(2 ** -25 + 1e-14);
      expect(table.every(Number.isFinite)).toBe(true);
    }
  });
});
