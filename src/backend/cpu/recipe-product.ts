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
    const { across, down, depth, panels, blockRows, thin, rowBias } = job;
    const { aTransposed, bTransposed, aStride, bStride, cStride } = job;
    const packA = aTransposed ? e.packRowsBeside : e.packRowsAcross;
    const packB = bTransposed ? e.packColumnsAcross : e.packColumnsBeside;
    // Bytes from row to row of A, from column to column of B, and from step to step of k.
    const aNext = aTransposed ? 4 : aStride;
    const bNext = bTransposed ? bStride : 4;
    const aStep = aTransposed ? aStride : 4;
    const bStep = bTransposed ? 4 : bStride;
    const item = Math.floor(unit / (down * across));
    const left = (unit % across) * job.columns;
    const top = (Math.floor(unit / across) % down) * job.rows;
    const bottom = Math.min(top + job.rows, job.m);
    const columns = Math.min(job.columns, job.n - left);
    const all = job.summed * panels;
    for (let p = 0; p < all; p++) {
      const multiply = multiplier(e, thin, p, all);
      const from = (p % panels) * depth;
      const steps = Math.min(depth, job.k - from);
      const each = item + Math.floor(p / panels);
      let b = job.b + each * job.bBatch + from * bStep + left * bNext;
      const bLast = b + (columns - 1) * bNext;
      if (!thin) packB(b, bStride, bLast, work, columns, steps);
      if (!thin) b = work;
      let t = work + job.sumOffset;
      for (let row = top; row < bottom; row += blockRows) {
        const rows = Math.min(blockRows, bottom - row);
        const packed = work + job.aOffset;
        let a = job.a + each * job.aBatch + from * aStep + row * aNext;
        if (!thin) packA(a, aStride, a + (rows - 1) * aNext, packed, rows, steps);
        if (!thin) a = packed;
        const at = item * job.cBatch + row * cStride + 4 * left;
        const c = job.c + at;
        const residual = job.residual + at;
        const z = job.z + at;
        const sum = job.sum + at;
        const bias = job.bias + 4 * (rowBias ? row : left);
        // biome-ignore format: one call
        multiply(a, b, t, steps, rows, columns, cStride, bStride, bLast, c, residual, z, sum, bias);
        t += job.blockSumBytes;
      }
    }
  });
}

export const productRecipes: Readonly<Record<number, MakeRecipe>> = {
  [jobKinds.product]: productRecipe,
};
