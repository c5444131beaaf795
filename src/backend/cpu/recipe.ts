/** What a kind of job does with one unit of its work: the part of the executor that each operation brings. */
import type { Tail } from "../../kernels/cpu/function-names.ts";
import type { Job, Jobs } from "./job.ts";

/** A compiled program's functions. Recipes know which of the types in function-names.ts they are. */
export type Kernels = Readonly<Record<string, (...args: number[]) => void>>;

/** Clears bytes [from, to) of the memory. */
export type Clear = (from: number, to: number) => void;

/** Where a thread works: its job, its work memory, how to clear memory. */
export interface RecipeContext<J extends Job = Job> {
  readonly job: J;
  work: number;
  readonly clear: Clear;
}

/** A step of the work on one unit, cut into parts that may run at the same time: its tiles, its body units, or one. */
export interface RecipeStep<J extends Job = Job> {
  readonly over: "tiles" | "bodies" | "once";
  readonly run: (
    c: RecipeContext<J>,
    unit: number,
    batch: number,
    from: number,
    to: number,
  ) => void;
}

/** The steps of a unit, for threads that share it, or all of them in one. */
export interface Recipe<J extends Job = Job> {
  /** For each batch row [batchFrom, batchTo) of a backward job; once of any other. */
  readonly row: readonly RecipeStep<J>[];
  /** Once, after the last row of the batch. */
  readonly after: readonly RecipeStep<J>[];
  /** All steps of a unit in one, where a thread has it to itself. */
  readonly unit?: (c: RecipeContext<J>, unit: number) => void;
}

/** A recipe of one step that a thread does by itself. */
export function wholeUnits<J extends Job>(unit: Recipe<J>["unit"] & {}): Recipe<J> {
  return { row: [], after: [], unit };
}

/** Recipes depend on a program's functions and on a job's kind and flags only; each knows which functions and which job. */
export type MakeRecipe = (functions: never, flags: never) => Recipe<never>;

/** What is fused into the ends of a job's rows. */
export function fusedInto(job: Pick<Jobs["forward"], "hasPregate" | "hasPostgate" | "hasSkip">): {
  readonly pre: boolean;
  readonly post: boolean;
  readonly skip: boolean;
} {
  return { pre: job.hasPregate !== 0, post: job.hasPostgate !== 0, skip: job.hasSkip !== 0 };
}

type TapJob = Jobs["backward"] | Jobs["blockTaps"];
/** Part of storing channel h's kernel gradient from the transform at `z`: tiles [from, to). */
type TapTail = (c: RecipeContext<TapJob>, h: number, z: number, from: number, to: number) => void;

/** All parts of it, in their order. Taps that no sink covers have no effect and no gradient; a second sink adds. */
export function tapTails(e: Readonly<Record<`tail_dk${number}`, Tail>>, flags: TapJob): TapTail[] {
  const dk = (job: TapJob, h: number): number => job.dk + (h - job.first) * job.dkBytes;
  const clearTaps: TapTail = ({ job, clear }, h) => clear(dk(job, h), dk(job, h) + job.dkBytes);
  const sinks = Array.from({ length: flags.dkSinks }, (_, i): TapTail => {
    const tail = e[`tail_dk${i}`]!;
    return ({ job }, h, z, from, to) => tail(z, dk(job, h), 0, 0, 0, 0, 0, job.table, from, to);
  });
  return flags.clearTaps ? [clearTaps, ...sinks] : sinks;
}
