/** Row programs as a recipe: a unit is a chunk of rows, cut where the rows of a tensor repeat. */
import type { RowFunctions } from "../../kernels/cpu/function-names.ts";
import type { Jobs } from "./job.ts";
import { jobKinds } from "./job.ts";
import type { MakeRecipe, Recipe } from "./recipe.ts";
import { wholeUnits } from "./recipe.ts";

type RowsJob = Jobs["rows"];

function rowProgramRecipe(e: RowFunctions, { tensors }: RowsJob): Recipe<RowsJob> {
  const fields = Array.from({ length: tensors }, (_, i) => {
    return { p: `p${i}`, s: `s${i}`, m: `m${i}` } as const;
  });
  // Of this thread only, so that nothing is made on the way.
  const given = new Array<number>(2 * tensors + 6).fill(0);
  return wholeUnits((context, unit) => {
    const { job } = context;
    const end = Math.min(job.rows, (unit + 1) * job.chunk);
    const sums = job.partials + unit * job.partialBytes;
    if (job.partialBytes > 0) e.zero(sums, job.partialBytes);
    for (let row = unit * job.chunk; row < end; ) {
      let to = end;
      for (let i = 0; i < tensors; i++) {
        const { p, s, m } = fields[i]!;
        const period = job[m]!;
        const at = period > 0 ? row % period : row;
        if (period > 0) to = Math.min(to, row - at + period);
        given[i] = job[p]! + at * job[s]!;
        given[tensors + i] = job[s]!;
      }
      const columns = row === job.rows - 1 ? job.lastColumns : job.columns;
      given[2 * tensors] = sums;
      given[2 * tensors + 1] = job.sumBytes;
      given[2 * tensors + 2] = to - row;
      given[2 * tensors + 3] = columns;
      given[2 * tensors + 4] = row;
      given[2 * tensors + 5] = row * job.columns;
      e.rows(...given);
      row = to;
    }
  });
}

export const rowProgramRecipes: Readonly<Record<number, MakeRecipe>> = {
  [jobKinds.rows]: rowProgramRecipe,
};
