/**
 * Kernels of matrix products as text: for the limits of three kinds of device, every kernel keeps within them and compiles, and the
 * text changes only when somebody means it to.
 */
import { describe, expect, test } from "vitest";
import { plansOfTile, productTiles } from "../../../src/plan/gpu/product.ts";
import { plannedProduct } from "../../../src/schedule/product.ts";
import type { GpuLimits } from "../../../src/schedule/schedule.ts";
import {
  defaultLimits,
  deviceProfiles,
  expectBound,
  expectCompiled,
  hashOf,
  kernelsOf,
} from "../../support/kernels.ts";
import { halves, type ProductCase, productOf } from "../../support/products.ts";

/** What subgroups of such devices multiply. */
const subgroups: Readonly<Record<string, Partial<GpuLimits>>> = {
  "Apple-like": { halves: true, lanes: 32, matrices: [{ m: 8, n: 8, k: 8 }] },
  NVIDIA: {
    halves: true,
    matrices: [
      { m: 16, n: 8, k: 16 },
      { m: 16, n: 16, k: 16 },
      { m: 16, n: 8, k: 8 },
    ],
  },
};

const large = { m: 512, n: 384, k: 1024 };
const odd = { m: 77, n: 33, k: 45 };
const cases: readonly ProductCase[] = [
  ...(["NN", "NT", "TN", "TT"] as const).flatMap((form): ProductCase[] => [
    { ...large, form },
    { ...large, form, dtypes: halves },
    { ...odd, form, dtypes: halves },
  ]),
  {
    ...odd,
    dtypes: ["float32", "float16", "float16"],
    epilogue: { bias: "rows", accumulate: true },
  },
  {
    ...large,
    dtypes: halves,
    epilogue: { bias: "columns", activation: "silu", keeps: true, residual: true },
  },
  {
    ...large,
    dtypes: ["float16", "float16", "float32"],
    batch: 8,
    sumsBatch: true,
    epilogue: { slope: "silu", accumulate: true },
  },
];

describe.each(Object.entries(deviceProfiles))("%s", (name, profile) => {
  const limits = { ...profile, ...subgroups[name] };

  test.each(cases)("%o", async (given) => {
    const problem = productOf(given);
    const schedules = productTiles(problem, limits).flatMap((tile) => {
      const plans = plansOfTile(problem, tile, limits);
      return [plans[0]!, plans.at(-1)!].map((plan) => plannedProduct(problem, plan, limits));
    });
    const kernels = kernelsOf(schedules);
    await expectCompiled(kernels, limits, name === defaultLimits);
    expectBound(schedules, kernels, limits);
    const halfFactors = given.dtypes?.[0] === "float16" && given.dtypes[1] === "float16";
    const multiplies = kernels.some(({ code }) => code.includes("subgroupMatrixMultiply"));
    expect(multiplies).toBe(halfFactors && name !== defaultLimits);
    expect(hashOf(kernels)).toMatchSnapshot(name);
  });
});

test("sizes are parameters: products of whole tiles share one text", () => {
  const limits = { ...deviceProfiles.NVIDIA!, ...subgroups.NVIDIA };
  const [one, other] = [large, { m: 1024, n: 2048, k: 64 }].map((sides) => {
    const problem = productOf({ ...sides, dtypes: halves });
    const [tile] = productTiles(problem, limits);
    return plannedProduct(problem, plansOfTile(problem, tile!, limits)[0]!, limits);
  });
  expect(one!.steps[0]!.kernel.code).toBe(other!.steps[0]!.kernel.code);
});
