/** The recipe of one level of a stream: a unit is a row, and a job some of the work on its newest block. */
import type { StreamFunctions } from "../../kernels/cpu/function-names.ts";
import type { Jobs } from "./job.ts";
import { jobKinds } from "./job.ts";
import type { MakeRecipe, Recipe } from "./recipe.ts";
import { wholeUnits } from "./recipe.ts";

function streamRecipe(e: StreamFunctions): Recipe<Jobs["stream"]> {
  const products = (job: Jobs["stream"], sum: number, ring: number, spectra: number): void => {
    const { partitions, slot, transformBytes, table, bodies } = job;
    for (let q = job.termFrom; q < job.termTo; q++) {
      const age = (slot - q + partitions) % partitions;
      const one = q === 0 ? e.body_product : e.body_accumulate;
      const x = ring + age * transformBytes;
      one(sum, x, spectra + q * transformBytes, table, 0, bodies);
    }
  };
  return wholeUnits(({ job }, row) => {
    const { transformBytes, table, tiles, bodies } = job;
    const ring = job.ring + row * job.partitions * transformBytes;
    const sum = job.sums + row * transformBytes;
    if (job.analyse) {
      const z = ring + job.slot * transformBytes;
      e.head_u(job.u + row * job.inputBytes, 0, z, table, 0, tiles);
      e.body_spectrum(z, table, 0, bodies);
    }
    products(job, sum, ring, job.spectra + (row % job.channels) * job.spectrumBytes);
    if (!job.synthesise) return;
    e.body_back(sum, table, 0, bodies);
    e.tail_y(sum, job.y + row * job.outputBytes, 0, 0, 0, 0, 0, table, 0, tiles);
  });
}

export const streamRecipes: Readonly<Record<number, MakeRecipe>> = {
  [jobKinds.stream]: streamRecipe,
};
