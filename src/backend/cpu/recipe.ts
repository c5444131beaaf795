/** What a kind of job does with one unit of its work: the part of the executor that each operation brings. */
import type { Job } from "./job.ts";

/** Compiled kernels by name; all arguments are byte addresses or counts. */
export type Kernels = Readonly<Record<string, (...args: number[]) => void>>;

/** Clears bytes [from, to) of the memory. */
export type Clear = (from: number, to: number) => void;

/** Where a thread works: its job, its work memory, how to clear memory. */
export interface RecipeContext {
  readonly job: Job;
  work: number;
  readonly clear: Clear;
}

/** A step of the work on one unit, cut into parts that may run at the same time: its tiles, its body units, or one. */
export interface RecipeStep {
  readonly over: "tiles" | "bodies" | "once";
  readonly run: (c: RecipeContext, unit: number, batch: number, from: number, to: number) => void;
}

/** The steps of a unit: for each of the batch rows of the job (forward: once), then once after the last of the batch. */
export interface Recipe {
  readonly row: readonly RecipeStep[];
  readonly after: readonly RecipeStep[];
  /** All steps of a unit in one, where a thread has it to itself. */
  readonly unit?: (c: RecipeContext, unit: number) => void;
}

/** Recipes depend on a job's kind and flags only. */
export type MakeRecipe = (kernels: Kernels, flags: Job) => Recipe;
/** Part of storing channel h's kernel gradient from the transform at `z`: tiles [from, to). */
type TapTail = (c: RecipeContext, h: number, z: number, from: number, to: number) => void;

/** All parts of it, in their order. Taps that no sink covers have no effect and no gradient; a second sink adds. */
export function tapTails(e: Kernels, flags: Job): TapTail[] {
  const dk = (job: Job, h: number): number => job.dk + (h - job.first) * job.dkBytes;
  const clearTaps: TapTail = ({ job, clear }, h) => clear(dk(job, h), dk(job, h) + job.dkBytes);
  const sinks = Array.from({ length: flags.dkSinks }, (_, i): TapTail => {
    const tail = e[`tail_dk${i}`]!;
    return ({ job }, h, z, from, to) => tail(z, dk(job, h), 0, 0, 0, 0, 0, job.table, from, to);
  });
  return flags.clearTaps ? [clearTaps, ...sinks] : sinks;
}
