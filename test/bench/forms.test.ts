/** Stages as dense DFTs on subgroup matrices, beside butterflies, on an adapter that multiplies matrices: `bench -- forms`. */
import { describe, expect, test } from "vitest";
import { runForms } from "../../bench/forms.ts";
import { describeWebGpu } from "../../src/backend/webgpu/info.ts";
import { onGpu } from "../support/backends.ts";

const required = process.env.REQUIRE_SUBGROUP_MATRICES === "1";
const products = onGpu || required ? (await describeWebGpu("test")).subgroupMatrices : [];

describe.skipIf(!required && products.length === 0)("stages of radix 8", () => {
  test("every form answers as float64 does", async () => {
    const records = await runForms(/^radix 8 of 2048$/, true, undefined);
    const bars = { butterflies: 1e-6, "dense f32": 1e-3, "dense f16": 2e-3, mix: 1e-3 } as const;
    for (const [form, bar] of Object.entries(bars)) {
      const ran = records.filter((r) => r.form === form && r.reason === null);
      expect(ran.length, form).toBeGreaterThan(0);
      for (const { rel_error_stage } of ran) {
        expect(rel_error_stage, form).toBeLessThan(bar);
        expect(rel_error_stage, form).toBeGreaterThan(0);
      }
    }
  });
});
