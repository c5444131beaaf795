/** What a kind of job does with one unit of its work: the part of the executor that each operation brings. */
import type { Job } from "./job.ts";

/** Compiled kernels by name; all arguments are byte addresses or counts. */
export type Kernels = Readonly<Record<string, (...args: number[]) => void>>;

/** Clears bytes [from, to) of the memory. */
export type Clear = (from: number, to: number) => void;

/** Where a thread works: its job, its work memory, how to clear memory. */
export interface Context {
  readonly job: Job;
  work: number;
  readonly clear: Clear;
}

/** A step of the work on one unit, cut into parts that may run at the same time: its tiles, its body units, or one. */
export interface Step {
  readonly over: "tiles" | "bodies" | "once";
  readonly run: (c: Context, unit: number, batch: number, from: number, to: number) => void;
}

/** The steps of a unit: for each of the batch rows of the job (forward: once), then once after the last of the batch. */
export interface Recipe {
  readonly row: readonly Step[];
  readonly after: readonly Step[];
  /** All steps of a unit in one, where a thread has it to itself. */
  readonly unit?: (c: Context, unit: number) => void;
}

/** Recipes depend on a job's kind and flags only. */
export type MakeRecipe = (kernels: Kernels, flags: Job) => Recipe;
