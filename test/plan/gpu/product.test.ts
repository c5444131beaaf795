/** Plans of matrix products: what is cheapest where, and what a device has room for. */
import { expect, test } from "vitest";
import { UnsupportedError } from "../../../src/errors.ts";
import {
  describeProductPlan,
  gridOf,
  partialBytes,
  productPlans,
  stepsOf,
} from "../../../src/plan/gpu/product.ts";
import { productSchedule } from "../../../src/schedule/product.ts";
import { deviceProfiles } from "../../support/kernels.ts";
import { halves, productOf } from "../../support/products.ts";

const nvidia = { ...deviceProfiles.NVIDIA!, halves: true, matrices: [{ m: 16, n: 16, k: 16 }] };

test("large products take the largest tiles, undivided; few tiles share their k", () => {
  const [square] = productPlans(productOf({ m: 4096, n: 4096, k: 4096, dtypes: halves }), nvidia);
  expect(square!.splits).toBe(1);
  expect(square!.tile.m * square!.tile.n).toBeGreaterThanOrEqual(128 * 128);
  const weights = productOf({ form: "TN", m: 768, n: 768, k: 65_536, dtypes: halves });
  const [split] = productPlans(weights, nvidia);
  const { rows, columns } = gridOf(weights, split!.tile);
  expect(split!.splits * rows * columns).toBeGreaterThan(120);
});

test("small products take small tiles", () => {
  const [plan] = productPlans(productOf({ m: 64, n: 64, k: 64, dtypes: halves }), nvidia);
  expect(plan!.tile.m * plan!.tile.n).toBeLessThan(128 * 128);
});

test("subgroups multiply float16 alone; a device without their matrices has threads", () => {
  const shapes = (given: Parameters<typeof productOf>[0], limits = nvidia) =>
    new Set(productPlans(productOf(given), limits).map(({ tile }) => tile.shape !== undefined));
  const sides = { m: 128, n: 128, k: 128 };
  expect(shapes({ ...sides, dtypes: halves })).toEqual(new Set([true]));
  expect(shapes({ ...sides, dtypes: ["float16", "float32", "float16"] })).toEqual(new Set([false]));
  expect(shapes({ ...sides, dtypes: halves }, { ...nvidia, matrices: [] })).toEqual(
    new Set([false]),
  );
});

test("no part of k is empty, and partial sums stay within the device's limits", () => {
  const limits = { ...nvidia, workspaceBytes: 2 ** 24 };
  for (const k of [1, 31, 33, 1000, 65_536])
    for (const batch of [1, 3]) {
      const problem = productOf({ m: 200, n: 130, k, batch, sumsBatch: true, dtypes: halves });
      for (const { tile, splits } of productPlans(problem, limits)) {
        const total = stepsOf(problem, tile);
        expect((splits - 1) * Math.ceil(total / splits)).toBeLessThan(total);
        expect(partialBytes(problem, tile, splits)).toBeLessThanOrEqual(limits.workspaceBytes);
      }
    }
});

test("a plan says what it does; a matrix that the device cannot bind is refused", () => {
  const problem = productOf({ m: 4096, n: 4096, k: 4096, dtypes: halves });
  const [plan] = productPlans(problem, nvidia);
  expect(describeProductPlan(plan!)).toMatch(/^tiles \d+×\d+×\d+.* subgroups of 16×16×16/);
  const small = { ...nvidia, bindingBytes: 2 ** 20 };
  expect(() => productSchedule(problem, small)).toThrow(UnsupportedError);
});
