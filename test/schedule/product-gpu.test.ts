/** Matrix products on the driver's GPU against float64: forms, edges, epilogues, batches, split sums; by threads, and by subgroups where they multiply. */
import { afterAll, describe, expect, test } from "vitest";
import { WebGpuBackend } from "../../src/backend/webgpu/device.ts";
import { decode } from "../../src/dtype.ts";
import { productPlans } from "../../src/plan/gpu/product.ts";
import { relativeError } from "../../src/reference/convolution.ts";
import { plannedProduct } from "../../src/schedule/product.ts";
import { onGpu } from "../support/backends.ts";
import {
  drawProduct,
  exactProduct,
  halves,
  type ProductCase,
  productError,
  productOf,
} from "../support/products.ts";

/** Each names a kernel that the others do not have; sides reach over tiles of every device. */
const cases: readonly (ProductCase & { readonly splits?: number })[] = [
  { m: 64, n: 64, k: 32 },
  { form: "NT", m: 37, n: 41, k: 23, dtypes: halves, pad: 1 },
  { form: "TN", m: 70, n: 33, k: 65, epilogue: { bias: "rows", residual: true } },
  { form: "TT", m: 40, n: 72, k: 200, dtypes: ["float16", "float16", "float32"], splits: 3 },
  {
    ...{ form: "NN", m: 40, n: 72, k: 48, batch: 3, shared: ["a"], pad: 8, dtypes: halves },
    epilogue: { bias: "columns", activation: "silu", keeps: true, residual: true },
  },
  {
    ...{ form: "TN", m: 72, n: 40, k: 72, batch: 3, sumsBatch: true, splits: 4, dtypes: halves },
    epilogue: { slope: "silu", accumulate: true },
  },
  { form: "NT", m: 1, n: 130, k: 7, batch: 2, dtypes: ["float32", "float16", "float16"] },
];

describe.skipIf(!onGpu)("matrix products", async () => {
  const backend = onGpu ? await WebGpuBackend.open(undefined, "test") : undefined;
  const limits = backend?.limits(2 ** 26);
  afterAll(() => backend?.device.destroy());

  test.each(cases)("%o", async ({ splits = 1, ...given }) => {
    const problem = productOf(given);
    const plan = productPlans(problem, limits!).find((p) => p.splits === splits)!;
    const schedule = plannedProduct(problem, plan, limits!);
    expect(schedule.steps.length).toBe(splits > 1 ? 2 : 1);
    const { error, results } = await productError(backend!, problem, schedule, limits!);
    // What rounding C itself costs is 2.1e-4.
    expect(error).toBeLessThan(problem.c.dtype === "float32" ? 1e-6 : 4e-4);
    const again = await productError(backend!, problem, schedule, limits!);
    expect(again.results).toEqual(results);
  });

  test.runIf(process.env.REQUIRE_SUBGROUP_MATRICES === "1")("subgroups multiply", () => {
    const [plan] = productPlans(productOf({ m: 64, n: 64, k: 64, dtypes: halves }), limits!);
    expect(plan!.tile.shape).toBeDefined();
  });
});

test("the check sees zeros, a shift and a lost tail", () => {
  const problem = productOf({ m: 17, n: 23, k: 31, dtypes: halves });
  const operands = drawProduct(problem, 1);
  const exact = exactProduct(problem, operands).c;
  const error = (values: ArrayLike<number>) => relativeError(values, exact);
  expect(error(exact)).toBe(0);
  expect(error(new Float64Array(exact.length))).toBe(1);
  expect(error([0, ...exact.subarray(0, -1)])).toBeGreaterThan(0.5);
  expect(error(exact.map((x, i) => (i < exact.length - 1 ? x : 0)))).toBeGreaterThan(1e-3);
  // What was there before is none of the product.
  expect(error(decode(operands.c, "float16"))).toBeGreaterThan(0.5);
});
