/** Matrix products in the CPU backend's memory: compiled once, run any number of times on operands that lie there. */
import type { CpuBackend, Program } from "../backend/cpu/backend.ts";
import { addRecipes } from "../backend/cpu/executor.ts";
import type { Jobs } from "../backend/cpu/job.ts";
import { jobKinds, productJob } from "../backend/cpu/job.ts";
import { aligned, WorkLayout } from "../backend/cpu/memory.ts";
import { productRecipes } from "../backend/cpu/recipe-product.ts";
import { productSource } from "../kernels/cpu/product/program.ts";
import type { CpuProductPlan } from "../plan/cpu/product.ts";
import { planProduct } from "../plan/cpu/product.ts";
import type { ProductBuffer, ProductProblem } from "../plan/product.ts";
import type { Running } from "./cpu-threads.ts";
import { blockingSeconds } from "./cpu-threads.ts";

/** Byte addresses of a product's operands in the backend's memory. Those that its epilogue does not name may be absent. */
export type ProductAddresses = Readonly<Record<"a" | "b" | "c", number>> &
  Readonly<Partial<Record<Exclude<ProductBuffer, "a" | "b" | "c" | "scratch">, number>>>;

/** A product that is ready to run. */
export interface CpuProduct {
  readonly program: Program;
  readonly plan: CpuProductPlan;
  readonly layout: WorkLayout;
  readonly job: Jobs["product"];
}

/** Plan and compile a product for so many threads. Call it, and `runProduct`, in the backend's turn (`exclusive`). */
export async function compileProduct(
  backend: CpuBackend,
  problem: ProductProblem,
  threads: number,
  call: string,
): Promise<CpuProduct> {
  addRecipes(productRecipes);
  const program = await backend.program(productSource(problem), call);
  const plan = planProduct(problem, backend.lanes, threads);
  const { m, n, k, a, b, c, batch, sumsBatch, epilogue } = problem;
  const threadBytes = aligned(plan.bBytes) + aligned(plan.aBytes) + aligned(plan.sumBytes);
  const units = plan.items * plan.down * plan.across;
  const crew = plan.seconds < soloSeconds ? 1 : Math.min(threads, units);
  const { rows, columns, down, across, depth, panels, blockRows } = plan;
  const job: Jobs["product"] = {
    ...{ ...productJob, kind: jobKinds.product, program: program.id },
    ...{ units, threads: crew, threadBytes },
    ...{ m, n, k, rows, columns, down, across, depth, panels, blockRows },
    summed: sumsBatch ? batch : 1,
    blockSumBytes: plan.blockSumBytes,
    aOffset: aligned(plan.bBytes),
    sumOffset: aligned(plan.bBytes) + aligned(plan.aBytes),
    aTransposed: a.transposed ? 1 : 0,
    bTransposed: b.transposed ? 1 : 0,
    hasRowBias: epilogue.bias === "rows" ? 1 : 0,
    ...{ aStride: 4 * a.stride, bStride: 4 * b.stride, cStride: 4 * c.stride },
    ...{ aBatch: 4 * a.batchStride, bBatch: 4 * b.batchStride, cBatch: 4 * c.batchStride },
  };
  const layout = new WorkLayout();
  layout.take(crew * threadBytes);
  return { program, plan, layout, job };
}

/** Products predicted to take less run on the calling thread: others would hear of them too late. */
const soloSeconds = 20e-6;

/** Run a product; a promise where other threads, or a pause for other tasks, make it last. */
export function runProduct(
  backend: CpuBackend,
  { program, plan, layout, job }: CpuProduct,
  at: ProductAddresses,
  call: string,
): Running {
  job.workspace = backend.workspace(layout, call);
  job.a = at.a;
  job.b = at.b;
  job.c = at.c;
  job.bias = at.bias ?? 0;
  job.residual = at.residual ?? 0;
  job.z = at.z ?? 0;
  job.sum = at.sum ?? 0;
  const blocking = plan.seconds / job.threads < blockingSeconds;
  return backend.run(program, job, job.threads, blocking);
}
