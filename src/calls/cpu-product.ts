/** Matrix products in the CPU backend's memory: compiled once, run any number of times on operands that lie there. */
import type { CpuBackend, Program } from "../backend/cpu/backend.ts";
import { addRecipes } from "../backend/cpu/executor.ts";
import type { Jobs } from "../backend/cpu/job.ts";
import { jobKinds, productJob } from "../backend/cpu/job.ts";
import { WorkLayout } from "../backend/cpu/memory.ts";
import { productRecipes } from "../backend/cpu/recipe-product.ts";
import { productSource } from "../kernels/cpu/product/program.ts";
import { planProduct, productSeconds, registerTiles, turned } from "../plan/cpu/product.ts";
import type { ProductBuffer, ProductProblem } from "../plan/product.ts";
import type { Running } from "./cpu-threads.ts";
import { blockingSeconds } from "./cpu-threads.ts";

/** Byte addresses of operands in the backend's memory. What the epilogue does not name may be absent. */
export type ProductAddresses = Readonly<Record<"a" | "b" | "c", number>> &
  Readonly<Partial<Record<Exclude<ProductBuffer, "a" | "b" | "c" | "scratch">, number>>>;

/** A product that is ready to run. */
export interface CpuProduct {
  /** To be released with the backend's `releaseProgram`. */
  readonly program: Program;
  readonly job: Jobs["product"];
  readonly layout: WorkLayout;
  /** Whether A and B have changed places. */
  readonly turned: boolean;
  /** Predicted seconds on its threads. */
  readonly seconds: number;
}

/** Products predicted to take one thread less stay on it: others would hear of them too late. */
const soloSeconds = 20e-6;

/** Plan and compile a product for so many threads; in the backend's turn (`exclusive`). */
export async function compileProduct(
  backend: CpuBackend,
  asked: ProductProblem,
  threads: number,
  call: string,
): Promise<CpuProduct> {
  addRecipes(productRecipes);
  const problem = turned(asked) ?? asked;
  const tile = registerTiles[backend.settings.instructions];
  const program = await backend.program(productSource(problem, tile), call);
  const numbers = planProduct(problem, tile, threads);
  const seconds = productSeconds(problem, tile);
  const crew = seconds < soloSeconds ? 1 : Math.min(threads, numbers.units);
  const job: Jobs["product"] = {
    ...{ ...productJob, ...numbers, kind: jobKinds.product },
    ...{ program: program.id, threads: crew },
  };
  const layout = new WorkLayout();
  layout.take(crew * job.threadBytes);
  return { program, job, layout, turned: problem !== asked, seconds: seconds / crew };
}

/** Run a product in the backend's turn: at once, or a promise where it takes long. */
export function runProduct(
  backend: CpuBackend,
  { program, job, layout, turned: isTurned, seconds }: CpuProduct,
  at: ProductAddresses,
  call: string,
): Running {
  job.workspace = backend.workspace(layout, call);
  job.a = isTurned ? at.b : at.a;
  job.b = isTurned ? at.a : at.b;
  job.c = at.c;
  job.bias = at.bias ?? 0;
  job.residual = at.residual ?? 0;
  job.z = at.z ?? 0;
  job.sum = at.sum ?? 0;
  return backend.run(program, job, job.threads, seconds < blockingSeconds);
}
