/** Matrix products on a GPU as steps: one kernel, or two where several workgroups share the k of a tile. */
import { UnsupportedError } from "../errors.ts";
import type { Kernel } from "../kernels/gpu/kernel.ts";
import type { ProductKernel, ProductOperand } from "../kernels/gpu/product/spec.ts";
import { joinKernel, productKernel } from "../kernels/gpu/product/write-kernel.ts";
import type { GpuProductPlan } from "../plan/gpu/product.ts";
import { gridOf, itemsOf, partialBytes, productPlans, stepsOf } from "../plan/gpu/product.ts";
import type { Matrix, ProductBuffer, ProductProblem } from "../plan/product.ts";
import type { BufferRange, GpuLimits, Schedule, ScheduleStep } from "./schedule.ts";

const sizes = { float32: 4, float16: 2 } as const;

/** The largest of some powers of two that divides all numbers. */
function widthFor(widths: readonly number[], numbers: readonly number[]): number {
  return widths.find((w) => numbers.every((n) => n % w === 0))!;
}

/** Rows and columns of a matrix as stored. */
function storedSides(problem: ProductProblem, name: "a" | "b" | "c") {
  const { m, n, k } = problem;
  const [rows, columns] = { a: [m, k], b: [k, n], c: [m, n] }[name] as [number, number];
  return problem[name].transposed ? ([columns, rows] as const) : ([rows, columns] as const);
}

/** How a kernel reads an operand: in the widest accesses that rows allow and that a slice has enough of for all threads. */
function operandOf(
  problem: ProductProblem,
  name: "a" | "b",
  { tile }: GpuProductPlan,
): ProductOperand {
  const { dtype, stride, batchStride, transposed } = problem[name];
  const [, columns] = storedSides(problem, name);
  const each = ((name === "a" ? tile.m : tile.n) * tile.k) / tile.threads;
  const widths = [8, 4, 2, 1].filter((w) => w * sizes[dtype] <= 16 && each % w === 0);
  const width = widthFor(widths, [columns, stride, batchStride]);
  return { name, dtype, alongK: transposed === (name === "b"), width };
}

/** The range of a matrix, whole words. */
function rangeOf(
  problem: ProductProblem,
  name: "a" | "b" | "c",
  buffer: ProductBuffer,
  limits: GpuLimits,
): BufferRange<ProductBuffer> {
  const { stride, batchStride, dtype }: Matrix = problem[name];
  const [rows, columns] = storedSides(problem, name);
  const items = name === "c" ? itemsOf(problem) : problem.batch;
  const elements = (items - 1) * batchStride + (rows - 1) * stride + columns;
  const size = Math.ceil((elements * sizes[dtype]) / 4) * 4;
  if (size <= limits.bindingBytes) return { buffer, offset: 0, size };
  throw new UnsupportedError({
    call: "a matrix product",
    requirement: `matrices of at most ${limits.bindingBytes} bytes, which is what this device binds`,
    value: `${buffer} of ${size} bytes`,
    remedy: "Take fewer rows at a time, or a device with a larger maxStorageBufferBindingSize.",
  });
}

/** The kernel's view of a product under a plan. */
export function productSpec(
  problem: ProductProblem,
  plan: GpuProductPlan,
  { packs = false, slowFma = false }: GpuLimits,
): ProductKernel {
  const { m, n, k, c } = problem;
  const { tile, splits } = plan;
  const widths = [4, ...(c.dtype === "float16" ? [2] : []), 1];
  return {
    tile,
    a: operandOf(problem, "a", plan),
    b: operandOf(problem, "b", plan),
    c: { dtype: c.dtype, width: widthFor(widths, [n, c.stride, c.batchStride]) },
    edges: { cells: m % tile.m > 0 || n % tile.n > 0, k: k % tile.k > 0 },
    sumsBatch: problem.sumsBatch && problem.batch > 1,
    splits: splits > 1,
    epilogue: problem.epilogue,
    machine: { packs, slowFma },
  };
}

/** The steps of a product under a plan. */
export function plannedProduct(
  problem: ProductProblem,
  plan: GpuProductPlan,
  limits: GpuLimits,
): Schedule<ProductBuffer> {
  const { tile, splits, band } = plan;
  const spec = productSpec(problem, plan, limits);
  const { rows, columns } = gridOf(problem, tile);
  const items = itemsOf(problem);
  const total = stepsOf(problem, tile);
  const { a, b, c, m, n, k } = problem;
  const like = (buffer: ProductBuffer) => rangeOf(problem, "c", buffer, limits);
  const scratch = partialBytes(problem, tile, splits);
  const ranges: Record<string, BufferRange<ProductBuffer>> = {
    ...{ a: rangeOf(problem, "a", "a", limits), b: rangeOf(problem, "b", "b", limits) },
    ...{ c: like("c"), z: like("z"), residual: like("residual"), sum: like("sum") },
    bias: { buffer: "bias", offset: 0, size: 4 * (problem.epilogue.bias === "rows" ? m : n) },
    scratch: { buffer: "scratch", offset: 0, size: scratch },
  };
  const parameters = {
    ...{ each: rows * columns, rows, columns, band, items, m, n, k, splits },
    ...{ steps: Math.ceil(k / tile.k), total, share: Math.ceil(total / splits) },
    ...{ a_stride: a.stride / spec.a.width, a_batch: a.batchStride / spec.a.width },
    ...{ b_stride: b.stride / spec.b.width, b_batch: b.batchStride / spec.b.width },
    ...{ c_stride: c.stride / spec.c.width, c_batch: c.batchStride / spec.c.width },
  };
  const step = (kernel: Kernel, tiles: number): ScheduleStep<ProductBuffer> => ({
    ...{ kernel, tiles, parameters: { ...parameters, tiles } },
    ranges: Object.fromEntries(kernel.bindings.map(({ name }) => [name, ranges[name]!])),
  });
  const product = step(productKernel(spec), rows * columns * items * splits);
  if (splits === 1) return { steps: [product], bytes: {} };
  const join = step(joinKernel(spec), (items * m * n) / spec.c.width);
  return { steps: [product, join], bytes: { scratch } };
}

/** The steps of a product as the planner would have it. */
export function productSchedule(
  problem: ProductProblem,
  limits: GpuLimits,
): Schedule<ProductBuffer> {
  return plannedProduct(problem, productPlans(problem, limits)[0]!, limits);
}
