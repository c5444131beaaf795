/**
 * Runs jobs on compiled programs: the same code on the calling thread and in every worker. Item t of a job belongs to
 * a phase; a thread that draws an item of a later phase waits until all items before it are done.
 */

import { rowName, suffix } from "../../kernels/cpu/function-names.ts";
import { batchPlaces } from "../../kernels/cpu/middle-stage.ts";
import type { Job } from "./job.ts";
import { jobKinds } from "./job.ts";
import type { Clear, Kernels, MakeRecipe, Recipe, RecipeContext, RecipeStep } from "./recipe.ts";
import { tapTails } from "./recipe.ts";

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

function lengthOf(step: RecipeStep, job: Job): number {
  return step.over === "once" ? 1 : job[step.over];
}

/** Batch rows that a unit's steps run for: forward units are rows already. */
function batchRange(job: Job): readonly [from: number, to: number, finish: boolean] {
  if (job.kind !== jobKinds.backward) return [0, 1, false];
  return [job.batchFrom, job.batchTo, job.batchTo === job.batch];
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

function spectraRecipe(e: Kernels): Recipe {
  const head = e.head_k!;
  const body = e.body_spectrum!;
  const at = (job: Job, unit: number): number =>
    job.spectra + (unit - job.first) * job.spectrumBytes;
  const row: RecipeStep[] = [
    {
      over: "tiles",
      run: ({ job }, unit, _b, from, to) => {
        const k = job.k + (unit - job.first) * job.kernelBytes;
        head(k, 0, at(job, unit), job.table, from, to);
      },
    },
    {
      over: "bodies",
      run: ({ job }, unit, _b, from, to) => body(at(job, unit), job.table, from, to),
    },
  ];
  return { row, after: [] };
}

/** Spectra of which only some points are kept: made in work memory. */
function compactSpectraRecipe(e: Kernels): Recipe {
  const [head, body] = [e.head_k!, e.body_compact!];
  const unit = ({ job, work }: RecipeContext, unit: number): void => {
    const row = unit - job.first;
    head(job.k + row * job.kernelBytes, 0, work, job.table, 0, job.tiles);
    body(work, job.spectra + row * job.spectrumBytes, job.table, 0, job.bodies);
  };
  return { row: [], after: [], unit };
}

function forwardRecipe(e: Kernels, flags: Job): Recipe {
  const head = e[`head_u${suffix(flags.hasPregate !== 0)}`]!;
  const body = e.body_multiply!;
  const tail = e[`tail_y${suffix(flags.hasPostgate !== 0, flags.hasSkip !== 0)}`]!;
  const whole = e[rowName(flags.hasPregate !== 0, flags.hasPostgate !== 0, flags.hasSkip !== 0)]!;
  const channelOf = (job: Job, unit: number): number =>
    job.batch === 1 ? unit : Math.floor(unit / job.batch);
  const rowOf = (job: Job, unit: number): number =>
    job.packed ? unit - job.first : (unit % job.batch) * job.channels + channelOf(job, unit);
  const row: RecipeStep[] = [
    {
      over: "tiles",
      run: ({ job, work }, unit, _b, from, to) => {
        const at = rowOf(job, unit) * job.inputBytes;
        head(job.u + at, job.pregate + at, work, job.table, from, to);
      },
    },
    {
      over: "bodies",
      run: ({ job, work }, unit, _b, from, to) => {
        body(work, job.spectra + channelOf(job, unit) * job.spectrumBytes, job.table, from, to);
      },
    },
    {
      over: "tiles",
      run: ({ job, work }, unit, _b, from, to) => {
        const at = rowOf(job, unit);
        const y = at * job.outputBytes;
        const u = job.u + at * job.inputBytes;
        const skip = job.skip + 4 * channelOf(job, unit);
        tail(work, job.y + y, job.postgate + y, u, skip, 0, 0, job.table, from, to);
      },
    },
  ];
  const unit = ({ job, work }: RecipeContext, unit: number): void => {
    const channel = channelOf(job, unit);
    const at = rowOf(job, unit);
    const [u, y] = [at * job.inputBytes, at * job.outputBytes];
    const k = job.spectra + channel * job.spectrumBytes;
    const skip = job.skip + 4 * channel;
    whole(job.u + u, job.pregate + u, work, k, job.y + y, job.postgate + y, skip, job.table);
  };
  return { row, after: [], unit };
}

function backwardRecipe(e: Kernels, flags: Job): Recipe {
  const pre = flags.hasPregate !== 0;
  const post = flags.hasPostgate !== 0;
  const headU = e[`head_u${suffix(pre)}`]!;
  const headDy = e[`head_dy${suffix(post)}`]!;
  const tailDu = e[`tail_du${suffix(pre, flags.hasSkip !== 0)}`]!;
  const [first, inner, last, only] = batchPlaces.map(
    (place) => e[`body_gradients_${place}${post ? "_gated" : ""}`]!,
  );
  const bodyAt = (job: Job, b: number): NonNullable<typeof only> => {
    if (job.batch === 1) return only!;
    return b === 0 ? first! : b === job.batch - 1 ? last! : inner!;
  };
  const rowOf = (job: Job, channel: number, b: number): number =>
    job.packed
      ? (channel - job.first) * (job.batchTo - job.batchFrom) + (b - job.batchFrom)
      : b * job.channels + channel;
  // Work memory: the transform of dy, that of u, and the sum over the batch.
  const row: RecipeStep[] = [
    {
      over: "tiles",
      run: ({ job, work }, h, b, from, to) => {
        const at = rowOf(job, h, b) * job.outputBytes;
        headDy(job.dy + at, job.postgate + at, work, job.table, from, to);
      },
    },
    {
      over: "tiles",
      run: ({ job, work }, h, b, from, to) => {
        const at = rowOf(job, h, b) * job.inputBytes;
        headU(job.u + at, job.pregate + at, work + job.transformBytes, job.table, from, to);
      },
    },
    {
      over: "bodies",
      run: ({ job, work }, h, b, from, to) => {
        const w = work + job.transformBytes;
        const k = job.spectra + h * job.spectrumBytes;
        bodyAt(job, b)(work, w, k, w + job.transformBytes, job.table, from, to);
      },
    },
    {
      over: "tiles",
      run: ({ job, work }, h, b, from, to) => {
        const r = rowOf(job, h, b);
        const at = r * job.inputBytes;
        const dy = job.dy + r * job.outputBytes;
        const [gate, skip, second, u] = [
          job.pregate + at,
          job.skip + 4 * h,
          job.dpregate + at,
          job.u + at,
        ];
        tailDu(work, job.du + at, gate, dy, skip, second, u, job.table, from, to);
      },
    },
  ];
  if (post) {
    const tail = e.tail_dpostgate!;
    row.push({
      over: "tiles",
      run: ({ job, work }, h, b, from, to) => {
        const at = rowOf(job, h, b) * job.outputBytes;
        const w = work + job.transformBytes;
        tail(w, job.dpostgate + at, job.dy + at, 0, 0, 0, 0, job.table, from, to);
      },
    });
  }
  return { row, after: tapSteps(e, flags) };
}

/** Storing the kernel's gradient from the sum over the batch. */
function tapSteps(e: Kernels, flags: Job): RecipeStep[] {
  return tapTails(e, flags).map((tail, i): RecipeStep => {
    const clears = flags.clearTaps !== 0 && i === 0;
    return {
      over: clears ? "once" : "tiles",
      run: (c, h, _b, from, to) => tail(c, h, c.work + 2 * c.job.transformBytes, from, to),
    };
  });
}

const makers: Record<number, MakeRecipe> = {
  [jobKinds.spectra]: spectraRecipe,
  [jobKinds.compactSpectra]: compactSpectraRecipe,
  [jobKinds.forward]: forwardRecipe,
  [jobKinds.backward]: backwardRecipe,
};

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
  // Taps without effect are cleared or not under one program: it does not depend on how many of them there are.
  const flags = 8 * job.clearTaps + 4 * job.hasPregate + 2 * job.hasPostgate + job.hasSkip;
  const key = 16 * job.kind + flags;
  let recipe = known.get(key);
  if (!recipe) {
    recipe = makers[job.kind]!(kernels, job);
    known.set(key, recipe);
  }
  return recipe;
}
