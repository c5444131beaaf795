/** The recipe of one level of a stream: a unit is a row, and a job some of the work on its newest block. */
import type { Job } from "./job.ts";
import { jobKinds } from "./job.ts";
import type { Kernels, MakeRecipe, Recipe, RecipeContext } from "./recipe.ts";

function streamRecipe(e: Kernels): Recipe {
  const [head, tail] = [e.head_u!, e.tail_y!];
  const [analyse, back] = [e.body_spectrum!, e.body_back!];
  const [product, accumulate] = [e.body_product!, e.body_accumulate!];
  const products = (job: Job, sum: number, ring: number, spectra: number): void => {
    const { partitions, slot, transformBytes, table, bodies } = job;
    for (let q = job.termFrom; q < job.termTo; q++) {
      const age = (slot - q + partitions) % partitions;
      const one = q === 0 ? product : accumulate;
      const x = ring + age * transformBytes;
      one(sum, x, spectra + q * transformBytes, table, 0, bodies);
    }
  };
  const unit = ({ job }: RecipeContext, row: number): void => {
    const { transformBytes, table, tiles, bodies } = job;
    const ring = job.ring + row * job.partitions * transformBytes;
    const sum = job.sums + row * transformBytes;
    if (job.analyse) {
      const z = ring + job.slot * transformBytes;
      head(job.u + row * job.inputBytes, 0, z, table, 0, tiles);
      analyse(z, table, 0, bodies);
    }
    products(job, sum, ring, job.spectra + (row % job.channels) * job.spectrumBytes);
    if (!job.synthesise) return;
    back(sum, table, 0, bodies);
    tail(sum, job.y + row * job.outputBytes, 0, 0, 0, 0, 0, table, 0, tiles);
  };
  return { row: [], after: [], unit };
}

export const streamRecipes: Readonly<Record<number, MakeRecipe>> = {
  [jobKinds.stream]: streamRecipe,
};
