/**
 * Runs jobs on compiled programs: the same code on the calling thread and in every worker. Item t of a job belongs to
 * a phase; a thread that draws an item of a later phase waits until all items before it are done.
 */

import type { ConvolutionJob, Job, Jobs } from "./job.ts";
import { jobKinds } from "./job.ts";
import type { Clear, Kernels, MakeRecipe, Recipe, RecipeContext, RecipeStep } from "./recipe.ts";
import { rowRecipes } from "./recipe-rows.ts";

/** Items [0, count) that may run at the same time. */
interface Phase {
  readonly count: number;
  readonly run: (item: number) => void;
}

/** How threads share a job's work. */
export interface Tickets {
  /** Next unit for a thread: of its own share, then of the others'; −1 when all are drawn. */
  draw(thread: number, job: Job): number;
  /** Next item of a job that all threads work on together, counted over all phases. */
  next(): number;
  /** An item of such a job is done. */
  finish(): void;
  /** Wait until `count` items are done; false when the job was given up. */
  wait(count: number): boolean;
}

/** Tickets for a thread that works alone, the same for all its jobs. */
export class SoloTickets implements Tickets {
  #item = 0;

  /** Before a job. */
  restart(): this {
    this.#item = 0;
    return this;
  }

  draw(_: number, { units }: Job): number {
    return this.#item < units ? this.#item++ : -1;
  }

  next(): number {
    return this.#item++;
  }

  finish(): void {}

  wait(): boolean {
    return true;
  }
}

/** Where this thread is at work. Jobs that run to their end do not nest, so that none needs a context of its own. */
const here = {} as { -readonly [Field in keyof RecipeContext]: RecipeContext[Field] };

/** A job on one thread, item after item: whoever runs it may stop between two of them and go on later. */
export function* soloItems(kernels: Kernels, job: Job, clear: Clear): Generator<void, void> {
  const recipe = recipeFor(kernels, job);
  const context: RecipeContext = { job, work: job.workspace, clear };
  // Units of some kinds are whole: they have no steps.
  if (!job.together || recipe.row.length === 0) {
    for (let item = 0; item < job.units; item++) {
      if (job.slotted) context.work = job.workspace + item * job.threadBytes;
      runUnit(recipe, context, job.first + item);
      yield;
    }
    return;
  }
  for (const { count, run } of phasesOf(recipe, context)) {
    for (let item = 0; item < count; item++) {
      run(item);
      yield;
    }
  }
}

/** Parts of a step. */
function lengthOf(step: RecipeStep, job: Job): number {
  return step.over === "once" ? 1 : (job as Jobs["forward"])[step.over];
}

/** Batch rows that a unit's steps run for: forward units are rows already. */
function batchRange(job: Job): readonly [from: number, to: number, finish: boolean] {
  if (job.kind !== jobKinds.backward) return [0, 1, false];
  const { batchFrom, batchTo, batch } = job as Jobs["backward"];
  return [batchFrom, batchTo, batchTo === batch];
}

/** Run a job's items on this thread until none is left. */
export function execute(
  kernels: Kernels,
  job: Job,
  thread: number,
  tickets: Tickets,
  clear: Clear,
): void {
  const recipe = recipeFor(kernels, job);
  here.work = job.workspace + (job.together ? 0 : thread * job.threadBytes);
  here.job = job;
  here.clear = clear;
  if (job.together) return runTogether(recipe, here, tickets);
  for (let item = tickets.draw(thread, job); item >= 0; item = tickets.draw(thread, job)) {
    if (job.slotted) here.work = job.workspace + item * job.threadBytes;
    runUnit(recipe, here, job.first + item);
  }
}

function runUnit({ row, after, unit: whole }: Recipe, context: RecipeContext, unit: number): void {
  if (whole) return whole(context, unit);
  const { job } = context;
  const [from, to, finish] = batchRange(job);
  for (let b = from; b < to; b++) {
    for (const s of row) s.run(context, unit, b, 0, lengthOf(s, job));
  }
  if (finish) for (const s of after) s.run(context, unit, 0, 0, lengthOf(s, job));
}

function runTogether(recipe: Recipe, context: RecipeContext, tickets: Tickets): void {
  const phases = phasesOf(recipe, context);
  let start = 0;
  let index = 0;
  for (let ticket = tickets.next(); ; ticket = tickets.next()) {
    while (index < phases.length && ticket >= start + phases[index]!.count) {
      start += phases[index]!.count;
      index++;
      if (index < phases.length && !tickets.wait(start)) return;
    }
    const phase = phases[index];
    if (!phase) return;
    phase.run(ticket - start);
    tickets.finish();
  }
}

function phasesOf({ row, after }: Recipe, context: RecipeContext): Phase[] {
  const { job } = context;
  const [from, to, finish] = batchRange(job);
  const phases: Phase[] = [];
  for (let unit = job.first; unit < job.first + job.units; unit++) {
    const slot = job.workspace + (unit - job.first) * job.threadBytes;
    const own = job.slotted ? { ...context, work: slot } : context;
    const add = (steps: readonly RecipeStep[], b: number): void => {
      for (const s of steps) {
        const run = (item: number): void => s.run(own, unit, b, item, item + 1);
        phases.push({ count: lengthOf(s, job), run });
      }
    };
    for (let b = from; b < to; b++) add(row, b);
    if (finish) add(after, 0);
  }
  return phases;
}

const makers: Record<number, MakeRecipe> = { ...rowRecipes };

/** Add the recipes of other kinds of jobs: programs that run none of them need not load their code. */
export function addRecipes(more: Readonly<Record<number, MakeRecipe>>): void {
  Object.assign(makers, more);
}

/** Recipes made so far, by kernels and by what a job fuses. */
const recipes = new WeakMap<Kernels, Map<number, Recipe>>();

function recipeFor(kernels: Kernels, job: Job): Recipe {
  let known = recipes.get(kernels);
  if (!known) {
    known = new Map();
    recipes.set(kernels, known);
  }
  // Taps without effect are cleared or not under one program. Jobs of other kinds have no such flags.
  const all = job as Partial<ConvolutionJob>;
  const { clearTaps = 0, hasPregate = 0, hasPostgate = 0, hasSkip = 0 } = all;
  const key = 16 * job.kind + 8 * clearTaps + 4 * hasPregate + 2 * hasPostgate + hasSkip;
  let recipe = known.get(key);
  if (!recipe) {
    recipe = makers[job.kind]!(kernels as never, job as never) as Recipe;
    known.set(key, recipe);
  }
  return recipe;
}
