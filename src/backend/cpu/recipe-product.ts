/** The recipe of a product: a unit is a rectangle of C, whose panels a thread packs and multiplies in its work memory. */
import type { ProductFunctions } from "../../kernels/cpu/product/program.ts";
import type { Jobs } from "./job.ts";
import { jobKinds } from "./job.ts";
import type { MakeRecipe, Recipe } from "./recipe.ts";
import { wholeUnits } from "./recipe.ts";

/** Which function multiplies panel p of `all`. */
function multiplier(e: ProductFunctions, thin: number, p: number, all: number) {
  if (thin) return e.multiplyThin;
  if (all === 1) return e.multiplyOnly;
  if (p === 0) return e.multiplyFirst;
  return p < all - 1 ? e.multiplyInner : e.multiplyLast;
}

function productRecipe(e: ProductFunctions): Recipe<Jobs["product"]> {
  return wholeUnits(({ job, work }, unit) => {
    const { across, blockRows, aTransposed, bTransposed, aStride, bStride, cStride, thin } = job;
    const packA = aTransposed ? e.packRowsBeside : e.packRowsAcross;
    const packB = bTransposed ? e.packColumnsAcross : e.packColumnsBeside;
    // Bytes from row to row of A and from column to column of B.
    const aNext = aTransposed ? 4 : aStride;
    const bNext = bTransposed ? bStride : 4;
    const item = Math.floor(unit / (job.down * across));
    const left = (unit % across) * job.columns;
    const top = (Math.floor(unit / across) % job.down) * job.rows;
    const bottom = Math.min(top + job.rows, job.m);
    const columns = Math.min(job.columns, job.n - left);
    const depth = thin ? job.k : job.depth;
    const panels = thin ? 1 : job.panels;
    const all = job.summed * panels;
    for (let p = 0; p < all; p++) {
      const from = (p % panels) * depth;
      const steps = Math.min(depth, job.k - from);
      const each = item + Math.floor(p / panels);
      const multiply = multiplier(e, thin, p, all);
      const b = job.b + each * job.bBatch + from * (bTransposed ? 4 : bStride) + left * bNext;
      const bLast = b + (columns - 1) * bNext;
      if (!thin) packB(b, bStride, bLast, work, columns, steps);
      for (let row = top; row < bottom; row += blockRows) {
        const rows = Math.min(blockRows, bottom - row);
        const a = job.a + each * job.aBatch + from * (aTransposed ? aStride : 4) + row * aNext;
        const packed = work + job.aOffset;
        if (!thin) packA(a, aStride, a + (rows - 1) * aNext, packed, rows, steps);
        const t =
          work + job.sumOffset + (all > 1 ? ((row - top) / blockRows) * job.blockSumBytes : 0);
        const at = item * job.cBatch + row * cStride + 4 * left;
        const [c, residual, z, sum] = [job.c + at, job.residual + at, job.z + at, job.sum + at];
        const bias = job.bias + 4 * (job.rowBias ? row : left);
        if (thin)
          multiply(
            a,
            b,
            t,
            steps,
            rows,
            columns,
            cStride,
            c,
            residual,
            z,
            sum,
            bias,
            aStride,
            bStride,
            bLast,
          );
        else multiply(packed, work, t, steps, rows, columns, cStride, c, residual, z, sum, bias);
      }
    }
  });
}

export const productRecipes: Readonly<Record<number, MakeRecipe>> = {
  [jobKinds.product]: productRecipe,
};
