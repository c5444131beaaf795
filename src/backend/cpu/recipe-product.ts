/** The recipe of a product: a unit is a rectangle of C, whose panels a thread packs and multiplies in its work memory. */
import type { ProductFunctions } from "../../kernels/cpu/product/program.ts";
import type { Jobs } from "./job.ts";
import { jobKinds } from "./job.ts";
import type { MakeRecipe, Recipe } from "./recipe.ts";
import { wholeUnits } from "./recipe.ts";

type Job = Jobs["product"];

/** Which of the functions multiplies panel p of `all`. */
function multiplier(e: ProductFunctions, p: number, all: number): ProductFunctions["multiplyOnly"] {
  if (all === 1) return e.multiplyOnly;
  if (p === 0) return e.multiplyFirst;
  return p < all - 1 ? e.multiplyInner : e.multiplyLast;
}

function productRecipe(e: ProductFunctions): Recipe<Job> {
  return wholeUnits(({ job, work }, unit) => {
    const { depth, panels, blockRows, cStride, hasRowBias } = job;
    const packA = job.aTransposed ? e.packRowsBeside : e.packRowsAcross;
    const packB = job.bTransposed ? e.packColumnsAcross : e.packColumnsBeside;
    // Bytes from step to step of k, and from row to row of A or column to column of B.
    const aStep = job.aTransposed ? job.aStride : 4;
    const aNext = job.aTransposed ? 4 : job.aStride;
    const bStep = job.bTransposed ? 4 : job.bStride;
    const bNext = job.bTransposed ? job.bStride : 4;
    const rectangle = unit % (job.down * job.across);
    const item = (unit - rectangle) / (job.down * job.across);
    const left = (rectangle % job.across) * job.columns;
    const top = Math.floor(rectangle / job.across) * job.rows;
    const bottom = Math.min(top + job.rows, job.m);
    const columns = Math.min(job.columns, job.n - left);
    const all = job.summed * panels;
    for (let p = 0; p < all; p++) {
      const from = (p % panels) * depth;
      const steps = Math.min(depth, job.k - from);
      const each = item + Math.floor(p / panels);
      const b = job.b + each * job.bBatch + from * bStep + left * bNext;
      packB(b, job.bStride, b + (columns - 1) * bNext, work, columns, steps);
      const multiply = multiplier(e, p, all);
      for (let row = top; row < bottom; row += blockRows) {
        const rows = Math.min(blockRows, bottom - row);
        const a = job.a + each * job.aBatch + from * aStep + row * aNext;
        packA(a, job.aStride, a + (rows - 1) * aNext, work + job.aOffset, rows, steps);
        const sums = all === 1 ? 0 : ((row - top) / blockRows) * job.blockSumBytes;
        const at = item * job.cBatch + row * cStride + 4 * left;
        multiply(
          work + job.aOffset,
          work,
          work + job.sumOffset + sums,
          steps,
          rows,
          columns,
          cStride,
          job.c + at,
          job.residual + at,
          job.z + at,
          job.sum + at,
          job.bias + 4 * (hasRowBias ? row : left),
        );
      }
    }
  });
}

export const productRecipes: Readonly<Record<number, MakeRecipe>> = {
  [jobKinds.product]: productRecipe,
};
