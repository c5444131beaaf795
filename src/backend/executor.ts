/**
 * Runs jobs on compiled programs: the same code on the calling thread and in every worker. Item t of a job belongs to
 * a phase; a thread that draws an item of a later phase waits until all items before it are done.
 */

import { batchPlaces } from "../kernels/middle.ts";
import { suffix } from "../kernels/suffix.ts";
import type { Job } from "./job.ts";
import { jobKinds } from "./job.ts";

/** Compiled kernels by name; all arguments are byte addresses or counts. */
export type Kernels = Readonly<Record<string, (...args: number[]) => void>>;

/** Items [0, count) that may run at the same time. */
interface Phase {
  readonly count: number;
  readonly run: (item: number) => void;
}

/** Draws items and tells when others are done. */
export interface Tickets {
  /** Next item, counted over all phases. */
  next(): number;
  finish(): void;
  /** Wait until `count` items are done; false when the job was given up. */
  wait(count: number): boolean;
}

/** Tickets for a thread that works alone. */
export function soloTickets(): Tickets {
  let item = 0;
  return { next: () => item++, finish: () => {}, wait: () => true };
}

/** Clears bytes [from, to) of the memory. */
export type Clear = (from: number, to: number) => void;

/** A step of the work on one unit, cut into `length` parts that may run at the same time. */
interface Step {
  readonly length: number;
  readonly run: (unit: number, batch: number, from: number, to: number) => void;
}

/** The steps of a unit: once before, for each of a range of batch rows, once after. */
interface Recipe {
  readonly before: readonly Step[];
  readonly row: readonly Step[];
  readonly after: readonly Step[];
  readonly batchFrom: number;
  readonly batchTo: number;
}

/** Run a job's items on this thread until none is left. */
export function execute(
  kernels: Kernels,
  job: Job,
  thread: number,
  tickets: Tickets,
  clear: Clear,
): void {
  const work = job.workspace + (job.together ? 0 : thread * job.threadBytes);
  const recipe = recipes[job.kind]!(kernels, job, work, clear);
  if (job.together) return runTogether(recipe, job, tickets);
  for (let item = tickets.next(); item < job.units; item = tickets.next()) {
    const unit = job.first + item;
    for (const s of recipe.before) s.run(unit, 0, 0, s.length);
    for (let b = recipe.batchFrom; b < recipe.batchTo; b++) {
      for (const s of recipe.row) s.run(unit, b, 0, s.length);
    }
    for (const s of recipe.after) s.run(unit, 0, 0, s.length);
    tickets.finish();
  }
}

function runTogether(recipe: Recipe, job: Job, tickets: Tickets): void {
  const phases = phasesOf(recipe, job);
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

function phasesOf(recipe: Recipe, job: Job): Phase[] {
  const phases: Phase[] = [];
  for (let unit = job.first; unit < job.first + job.units; unit++) {
    const add = (steps: readonly Step[], b: number): void => {
      for (const s of steps)
        phases.push({ count: s.length, run: (item) => s.run(unit, b, item, item + 1) });
    };
    add(recipe.before, 0);
    for (let b = recipe.batchFrom; b < recipe.batchTo; b++) add(recipe.row, b);
    add(recipe.after, 0);
  }
  return phases;
}

type MakeRecipe = (kernels: Kernels, job: Job, work: number, clear: Clear) => Recipe;

const spectraRecipe: MakeRecipe = (e, job) => {
  const { table } = job;
  const head = e.head_k!;
  const body = e.body_spectrum!;
  const at = (unit: number): number => job.spectra + (unit - job.first) * job.spectrumBytes;
  const k = (unit: number): number => job.k + (unit - job.first) * job.kernelBytes;
  return {
    before: [
      {
        length: job.tiles,
        run: (unit, _b, from, to) => head(k(unit), 0, at(unit), table, from, to),
      },
      { length: job.bodies, run: (unit, _b, from, to) => body(at(unit), table, from, to) },
    ],
    row: [],
    after: [],
    batchFrom: 0,
    batchTo: 0,
  };
};

const forwardRecipe: MakeRecipe = (e, job, z) => {
  const { batch, channels, table } = job;
  const head = e[`head_u${suffix(job.hasPregate !== 0)}`]!;
  const body = e.body_multiply!;
  const tail = e[`tail_y${suffix(job.hasPostgate !== 0, job.hasSkip !== 0)}`]!;
  const channelOf = (unit: number): number => Math.floor(unit / batch);
  const rowOf = (unit: number): number =>
    job.packed ? unit - job.first : (unit % batch) * channels + channelOf(unit);
  return {
    before: [
      {
        length: job.tiles,
        run: (unit, _b, from, to) => {
          const at = rowOf(unit) * job.inputBytes;
          head(job.u + at, job.pregate + at, z, table, from, to);
        },
      },
      {
        length: job.bodies,
        run: (unit, _b, from, to) => {
          body(z, job.spectra + channelOf(unit) * job.spectrumBytes, table, from, to);
        },
      },
      {
        length: job.tiles,
        run: (unit, _b, from, to) => {
          const row = rowOf(unit);
          const at = row * job.outputBytes;
          const skip = job.skip + 4 * channelOf(unit);
          tail(
            z,
            job.y + at,
            job.postgate + at,
            job.u + row * job.inputBytes,
            skip,
            0,
            0,
            table,
            from,
            to,
          );
        },
      },
    ],
    row: [],
    after: [],
    batchFrom: 0,
    batchTo: 0,
  };
};

const backwardRecipe: MakeRecipe = (e, job, z, clear) => {
  const { table, tiles, bodies } = job;
  const w = z + job.transformBytes;
  const sum = w + job.transformBytes;
  const rows = job.batchTo - job.batchFrom;
  const rowOf = (channel: number, b: number): number =>
    job.packed ? (channel - job.first) * rows + (b - job.batchFrom) : b * job.channels + channel;
  const input = (base: number, channel: number, b: number): number =>
    base + rowOf(channel, b) * job.inputBytes;
  const output = (base: number, channel: number, b: number): number =>
    base + rowOf(channel, b) * job.outputBytes;
  const post = job.hasPostgate !== 0;
  const headU = e[`head_u${suffix(job.hasPregate !== 0)}`]!;
  const headDy = e[`head_dy${suffix(post)}`]!;
  const tailDu = e[`tail_du${suffix(job.hasPregate !== 0, job.hasSkip !== 0)}`]!;
  const [first, inner, last, only] = batchPlaces.map(
    (place) => e[`body_gradients_${place}${post ? "_gated" : ""}`]!,
  );
  const bodyAt = (b: number): NonNullable<typeof only> => {
    if (job.batch === 1) return only!;
    return b === 0 ? first! : b === job.batch - 1 ? last! : inner!;
  };
  const row: Step[] = [
    {
      length: tiles,
      run: (h, b, from, to) =>
        headDy(output(job.dy, h, b), output(job.postgate, h, b), z, table, from, to),
    },
    {
      length: tiles,
      run: (h, b, from, to) =>
        headU(input(job.u, h, b), input(job.pregate, h, b), w, table, from, to),
    },
    {
      length: bodies,
      run: (h, b, from, to) =>
        bodyAt(b)(z, w, job.spectra + h * job.spectrumBytes, sum, table, from, to),
    },
    {
      length: tiles,
      run: (h, b, from, to) => {
        const du = input(job.du, h, b);
        const second = input(job.dpregate, h, b);
        const [gate, dy, u] = [input(job.pregate, h, b), output(job.dy, h, b), input(job.u, h, b)];
        tailDu(z, du, gate, dy, job.skip + 4 * h, second, u, table, from, to);
      },
    },
  ];
  if (post) {
    const tail = e.tail_dpostgate!;
    row.push({
      length: tiles,
      run: (h, b, from, to) =>
        tail(w, output(job.dpostgate, h, b), output(job.dy, h, b), 0, 0, 0, 0, table, from, to),
    });
  }
  const dk = (h: number): number => job.dk + (h - job.first) * job.dkBytes;
  // Taps that no sink covers have no effect and no gradient; a second sink adds to what is there.
  const clearTaps: Step = { length: 1, run: (h) => clear(dk(h), dk(h) + job.dkBytes) };
  const after: Step[] = [
    ...(job.clearTaps ? [clearTaps] : []),
    ...Array.from({ length: job.dkSinks }, (_, i): Step => {
      const tail = e[`tail_dk${i}`]!;
      return {
        length: tiles,
        run: (h, _b, from, to) => tail(sum, dk(h), 0, 0, 0, 0, 0, table, from, to),
      };
    }),
  ];
  const finish = job.batchTo === job.batch;
  return {
    before: [],
    row,
    after: finish ? after : [],
    batchFrom: job.batchFrom,
    batchTo: job.batchTo,
  };
};

const recipes: Readonly<Record<number, MakeRecipe>> = {
  [jobKinds.spectra]: spectraRecipe,
  [jobKinds.forward]: forwardRecipe,
  [jobKinds.backward]: backwardRecipe,
};
