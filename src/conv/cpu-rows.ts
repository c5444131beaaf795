/**
 * Runs calls on a backend: builds jobs from the plan, decides how many threads take part, and moves rows through
 * staging where the user's arrays lie elsewhere.
 */
import type { Program } from "../backend/cpu/backend.ts";
import type { ConvolutionJob as Job } from "../backend/cpu/job.ts";
import { jobKinds } from "../backend/cpu/job.ts";
import type { Block } from "../backend/cpu/memory.ts";
import { aligned, WorkLayout } from "../backend/cpu/memory.ts";
import type { RowTensor } from "../calls/cpu-staging.ts";
import { addressIn, StagedRows } from "../calls/cpu-staging.ts";
import type { Running } from "../calls/cpu-threads.ts";
import {
  after,
  blockingSeconds,
  ending,
  inSteps,
  sharedStaging,
  soloStaging,
} from "../calls/cpu-threads.ts";
import type { SampleArray } from "../dtype.ts";
import { intact } from "../tensors/check.ts";
import type { Engine, EnginePart } from "./cpu-parts.ts";

/** Shape of a call. */
export interface Shape {
  readonly batch: number;
  readonly channels: number;
}

/** Which gates a call has. */
export interface Gates {
  readonly pregate: boolean;
  readonly postgate: boolean;
}

export const noGates: Gates = { pregate: false, postgate: false };

/** Rows of a call, by field of the job, and what goes with them. */
export interface RowCall {
  readonly shape: Shape;
  readonly rows: readonly RowTensor[];
  readonly skip: Float32Array | undefined;
  readonly name: string;
}

/** Spectra that a call makes for itself are kept to this many bytes at a time. */
const spectraBudget = 512 * 1024 * 1024;

interface Team {
  readonly threads: number;
  readonly blocking: boolean;
  readonly together: boolean;
}

/** One thread, by how long its work is: by itself it stops between the pieces of a long row as those that share it do. */
const alone = {
  short: { threads: 1, blocking: true, together: false },
  many: { threads: 1, blocking: false, together: false },
  long: { threads: 1, blocking: false, together: true },
} as const satisfies Record<string, Team>;

/** How many threads a part's job of `units` units with `seconds` of work each deserves. */
function team(engine: Engine, part: EnginePart, units: number, seconds: number): Team {
  const threads = engine.backend.threadsFor(engine.threads);
  const total = units * seconds;
  const saved = total - total / threads;
  const together = part.shareable && (units < 4 * threads || units % threads !== 0);
  // Waking others must save a few times what it costs, and one row must be one that they can share.
  if (saved <= 3 * engine.device.dispatchSeconds || (units === 1 && !together)) {
    if (seconds > blockingSeconds) return alone.long;
    return total < blockingSeconds ? alone.short : alone.many;
  }
  return { threads, blocking: total / threads < blockingSeconds, together };
}

/** Whether a forward call's rows are so few that this thread does them by itself, with no pause. */
export function isShort(engine: Engine, { batch, channels }: Shape): boolean {
  return engine.parts.every((p) => {
    const { blocks } = p.jobs[jobKinds.blockForward]!;
    return team(engine, p, batch * channels * (blocks || 1), p.rowSeconds) === alone.short;
  });
}

/** Threads that any part's job of these units may use: decides how much is staged at a time. */
export function widestTeam(
  engine: Engine,
  units: number,
  factor: number,
): { threads: number; together: boolean } {
  const teams = engine.parts.map((p) => team(engine, p, units, factor * p.rowSeconds));
  return {
    threads: Math.max(...teams.map((t) => t.threads)),
    together: teams.every((t) => t.together),
  };
}

/** The job of a part, fresh for a call. Calls run one at a time, so there is one job of each kind. */
export function newJob(
  part: EnginePart,
  kind: number,
  program: Program,
  shape: Shape,
  gates: Gates,
): Job {
  const job = part.jobs[kind]!;
  job.program = program.id;
  job.table = program.table?.address ?? 0;
  job.batch = shape.batch;
  job.channels = shape.channels;
  job.hasPregate = Number(gates.pregate);
  job.hasPostgate = Number(gates.postgate);
  job.hasSkip = 0;
  job.packed = 0;
  job.first = 0;
  return job;
}

/** Transforms that a thread works on, by kind of job. */
const transformsPerThread: Readonly<Record<number, number>> = {
  [jobKinds.spectra]: 0,
  [jobKinds.compactSpectra]: 1,
  [jobKinds.forward]: 1,
  [jobKinds.backward]: 3,
  [jobKinds.blockForward]: 1,
  [jobKinds.blockBackward]: 2,
  [jobKinds.blockTaps]: 0,
};

/** Scratch areas of a thread, by kind of job: blocks that reach over their row pass through them. */
const scratchPerThread: Readonly<Record<number, number>> = {
  [jobKinds.blockForward]: 2,
  [jobKinds.blockBackward]: 3,
};

/** Work memory of a call for the jobs of its parts, laid out once and placed whenever they run. */
export class CallMemory {
  readonly #engine: Engine;
  readonly #jobs: readonly Job[];
  readonly #call: RowCall;
  readonly #layout = new WorkLayout();
  readonly #transforms: number;
  readonly #skip: number;
  readonly #regions: readonly number[];
  #base = 0;

  /** `areas` for transforms, one a thread or, of jobs that are `slotted`, one a unit; the skip weights; and `regions` of so many bytes. */
  constructor(
    engine: Engine,
    jobs: readonly Job[],
    areas: number,
    call: RowCall,
    ...regions: readonly number[]
  ) {
    this.#engine = engine;
    this.#jobs = jobs;
    this.#call = call;
    for (const job of jobs) {
      const scratch = job.packed ? 0 : (scratchPerThread[job.kind] ?? 0) * job.scratchBytes;
      job.threadBytes = aligned(transformsPerThread[job.kind]! * job.transformBytes + scratch);
    }
    this.#transforms = this.#layout.take(areas * Math.max(...jobs.map((j) => j.threadBytes)));
    this.#skip = this.#layout.take(call.skip?.byteLength ?? 0);
    this.#regions = regions.map((bytes) => this.#layout.take(bytes));
  }

  /** Take the memory for a run: jobs point at it, and the skip weights lie in it. */
  place(): void {
    const { backend } = this.#engine;
    const { skip, shape, name } = this.#call;
    if (skip) intact("skip", skip, shape.channels, name);
    this.#base = backend.workspace(this.#layout, name);
    for (const job of this.#jobs) job.workspace = this.#base + this.#transforms;
    if (!skip) return;
    const at = this.#base + this.#skip;
    backend.arena.view(skip).set(skip, at / 4);
    // The first part adds skip ⊙ u, the others add to its result.
    this.#jobs[0]!.skip = at;
    this.#jobs[0]!.hasSkip = 1;
  }

  /** Where a region lies, in the run under way. */
  at(region: number): number {
    return this.#base + this.#regions[region]!;
  }
}

/**
 * Bytes of staging that a call of a kind may take: with its twiddles and the transforms that its threads work on no
 * more than four transforms a thread. Short rows get what they need to be quick.
 */
export function stagingBudget(engine: Engine, kind: number, threads: number): number {
  const transform = Math.max(...engine.parts.map((p) => p.transformBytes));
  const left = (threads * (4 - transformsPerThread[kind]!) - 1) * transform;
  const floor = threads === 1 ? soloStaging : sharedStaging;
  return 4 * transform < sharedStaging ? Math.max(floor, left) : left;
}

/** Bytes that one row of every tensor takes in staging. */
function stagedRowBytes(rows: readonly RowTensor[]): number {
  return rows.reduce((sum, r) => sum + r.width * r.data.BYTES_PER_ELEMENT, 0);
}

/** Whether every row tensor lies in the backend's memory, where jobs find it. */
export function isInMemory(engine: Engine, rows: readonly RowTensor[]): boolean {
  return rows.every((r) => engine.backend.arena.owns(r.data.buffer));
}

export function pointAt(jobs: readonly Job[], rows: readonly RowTensor[]): void {
  for (const r of rows) for (const job of jobs) job[r.field] = r.data.byteOffset;
}

/** Run the job of part i; later parts add to what earlier ones stored. */
function runPart(
  engine: Engine,
  programs: readonly Program[],
  jobs: readonly Job[],
  i: number,
  units: number,
  factor: number,
): Running {
  const part = engine.parts[i]!;
  const job = jobs[i]!;
  const crew = team(engine, part, units, factor * part.rowSeconds);
  job.units = units;
  job.together = Number(crew.together);
  job.threads = crew.threads;
  return engine.backend.run(programs[i]!, job, crew.threads, crew.blocking);
}

/** Run the jobs of all parts, one after the other. A function that makes a closure allocates at once: for one part there is none. */
export function runParts(
  engine: Engine,
  programs: readonly Program[],
  jobs: readonly Job[],
  units: number,
  factor: number,
): Running {
  return jobs.length === 1
    ? runPart(engine, programs, jobs, 0, units, factor)
    : runSeveral(engine, programs, jobs, units, factor);
}

function runSeveral(
  engine: Engine,
  programs: readonly Program[],
  jobs: readonly Job[],
  units: number,
  factor: number,
): Running {
  return inSteps(0, jobs.length, 1, (i) => runPart(engine, programs, jobs, i, units, factor));
}

/** Taps from the first to the last that acts: in the causal mode there may be millions behind it. */
function actingTaps(parts: readonly EnginePart[]): number {
  return Math.max(...parts.flatMap(({ part }) => part.taps.map((r) => r.index + r.count)));
}

/** A spectrum costs half a row: one transform instead of two. */
const spectrumFactor = 0.5;

/** Spectra of the kernel rows [from, to): part p's lie at base + (to − from)·offset(p), one channel after the other. */
export function makeSpectra(
  engine: Engine,
  programs: readonly Program[],
  kernel: SampleArray,
  range: readonly [from: number, to: number],
  base: number,
  name: string,
): Running {
  const { backend, problem, parts } = engine;
  const [from, to] = range;
  const width = problem.kernelLength;
  const address = addressIn(backend.arena, kernel);
  const acting = Math.min(width, actingTaps(parts));
  const rowBytes = (address === undefined ? acting : width) * kernel.BYTES_PER_ELEMENT;
  const { threads } = widestTeam(engine, to - from, spectrumFactor);
  const budget = stagingBudget(engine, parts[0]!.spectraKind, threads);
  const size = address === undefined ? Math.max(1, Math.floor(budget / rowBytes)) : to - from;
  const jobs = parts.map((p, i) =>
    newJob(p, p.spectraKind, programs[i]!, { batch: 1, channels: 1 }, noGates),
  );
  const rows: RowTensor[] = [{ field: "k", data: kernel, width, staged: acting, direction: "in" }];
  const call: RowCall = { shape: { batch: 1, channels: 1 }, rows, skip: undefined, name };
  const slots = Math.min(size, to - from);
  const memory = new CallMemory(engine, jobs, threads, call, slots * rowBytes);
  const staging = new StagedRows(backend.arena, call, slots);
  memory.place();
  return inSteps(from, to, size, (h) => {
    const count = Math.min(size, to - h);
    jobs.forEach((job, i) => {
      job.kernelBytes = rowBytes;
      job.spectra = base + (to - from) * parts[i]!.spectrumOffset + (h - from) * job.spectrumBytes;
      if (address !== undefined) job.k = address + h * rowBytes;
    });
    const work = (): Running => runParts(engine, programs, jobs, count, spectrumFactor);
    return address === undefined
      ? staging.around(jobs, memory.at(0), count, (i) => h + i, work)
      : work();
  });
}

/** Spectra of a kernel: kept by the user's kernel object, or made for a call and freed with it. */
export type Spectra = { readonly kept: Block } | { readonly kernel: SampleArray };

/** Work on channels [from, to); part p's spectrum of channel h lies at bases[p] + h·spectrumBytes of the part. */
type ChannelWork = (from: number, to: number, bases: readonly number[]) => Running;

/** Where the parts' spectra of channels [from, to) begin, were they all there from channel 0 on. */
function spectrumBases(engine: Engine, address: number, from: number, to: number): number[] {
  return engine.parts.map((p) => address + (to - from) * p.spectrumOffset - from * p.spectrumBytes);
}

/** Run `work` over the channels: all at once where their spectra are kept, else in groups whose spectra fit the budget. */
export function overChannels(
  engine: Engine,
  programs: readonly Program[],
  spectra: Spectra,
  call: RowCall,
  work: ChannelWork,
): Running {
  const { channels } = call.shape;
  if ("kept" in spectra) {
    return work(0, channels, spectrumBases(engine, spectra.kept.address, 0, channels));
  }
  const { backend, spectrumBytes: bytes } = engine;
  const group = Math.min(channels, Math.max(1, Math.floor(spectraBudget / bytes)));
  const { address, ...rest } = backend.allocate(group * bytes, call.name);
  const groups = (): Running =>
    inSteps(0, channels, group, (h) => {
      const to = Math.min(channels, h + group);
      const made = makeSpectra(engine, programs, spectra.kernel, [h, to], address, call.name);
      return after(made, () => work(h, to, spectrumBases(engine, address, h, to)));
    });
  return ending(groups, () => backend.arena.free({ address, ...rest }));
}

/** Rows of a call, bound to their memory: may run again for as long as arrays and spectra stay where they are. */
export type BoundRows = () => Running;

/** y = postgate ⊙ ((pregate ⊙ u) ∗ k) + skip ⊙ u for the rows of channels [from, to). */
function bindForward(
  engine: Engine,
  programs: readonly Program[],
  call: RowCall,
  gates: Gates,
  [from, to]: readonly [number, number],
  bases: readonly number[],
): BoundRows {
  const { batch, channels } = call.shape;
  const units = (to - from) * batch;
  const inPlace = isInMemory(engine, call.rows);
  const jobs = engine.parts.map((part, i) => {
    const job = newJob(part, jobKinds.forward, programs[i]!, call.shape, gates);
    job.spectra = bases[i]!;
    job.first = from * batch;
    job.packed = Number(!inPlace);
    return job;
  });
  const { threads, together } = widestTeam(engine, units, 1);
  if (inPlace) {
    pointAt(jobs, call.rows);
    const memory = new CallMemory(engine, jobs, threads, call);
    return () => {
      memory.place();
      return runParts(engine, programs, jobs, units, 1);
    };
  }
  const rowBytes = stagedRowBytes(call.rows);
  const budget = stagingBudget(engine, jobKinds.forward, threads);
  const size = Math.min(units, Math.max(together ? 1 : threads, Math.floor(budget / rowBytes)));
  const room = size * rowBytes + 128 * call.rows.length;
  const memory = new CallMemory(engine, jobs, threads, call, room);
  const staging = new StagedRows(engine.backend.arena, call, size);
  let first = 0;
  let count = 0;
  const rowAt = (i: number): number =>
    ((first + i) % batch) * channels + Math.floor((first + i) / batch);
  const work = (): Running => runParts(engine, programs, jobs, count, 1);
  const step = (at: number): Running => {
    first = from * batch + at;
    count = Math.min(size, units - at);
    for (const job of jobs) job.first = first;
    return staging.around(jobs, memory.at(0), count, rowAt, work);
  };
  return () => {
    memory.place();
    return size === units ? step(0) : inSteps(0, units, size, step);
  };
}

/** Programs of a backward call, one of each per part: the forward ones make spectra. */
export interface Programs {
  readonly forward: readonly Program[];
  readonly backward: readonly Program[];
}

/** How a backward call is cut: channels and batch rows of one job. */
interface RowCut {
  readonly channels: number;
  readonly rows: number;
}

/**
 * Channels that outgrow staging go a few batch rows at a time, one channel a thread; their sums wait in work memory, of
 * which there is one for each channel under way. Several parts would need as many sums.
 */
function cutBackward(engine: Engine, call: RowCall, channels: number, inPlace: boolean): RowCut {
  const { batch } = call.shape;
  if (inPlace) return { channels, rows: batch };
  const rowBytes = stagedRowBytes(call.rows);
  const { threads, together } = widestTeam(engine, channels, 2 * batch);
  const budget = stagingBudget(engine, jobKinds.backward, threads);
  const fit = Math.floor(budget / (batch * rowBytes));
  const least = Math.min(channels, together ? 1 : threads);
  if (fit >= least || engine.parts.length > 1) {
    return { channels: Math.min(channels, Math.max(least, fit)), rows: batch };
  }
  return { channels: least, rows: Math.max(1, Math.floor(budget / (least * rowBytes))) };
}

/** Gradients of the rows of channels [from, to); the kernel's go to `dk`, one row of K float32 per channel. */
function runBackward(
  engine: Engine,
  programs: Programs,
  call: RowCall,
  gates: Gates,
  dk: Float32Array,
  [from, to]: readonly [number, number],
  bases: readonly number[],
): Running {
  const { batch, channels } = call.shape;
  const { arena } = engine.backend;
  const width = engine.problem.kernelLength;
  const inPlace = isInMemory(engine, call.rows);
  const cut = cutBackward(engine, call, to - from, inPlace);
  const jobs = engine.parts.map((part, i) => {
    const job = newJob(part, jobKinds.backward, programs.backward[i]!, call.shape, gates);
    job.spectra = bases[i]!;
    job.packed = Number(!inPlace);
    return job;
  });
  if (inPlace) pointAt(jobs, call.rows);
  const dkAddress = addressIn(arena, dk);
  const dkBytes = dkAddress === undefined ? cut.channels * width * 4 : 0;
  const rowBytes = inPlace ? 0 : stagedRowBytes(call.rows);
  const room = cut.channels * cut.rows * rowBytes + 128 * call.rows.length;
  // Where the batch is cut, the sum of each channel waits in an area of its own, however few threads each job deserves.
  const slotted = cut.rows < batch;
  const { threads } = widestTeam(engine, cut.channels, 2 * cut.rows);
  const areas = slotted ? cut.channels : threads;
  const memory = new CallMemory(engine, jobs, areas, call, dkBytes, room);
  const staging = new StagedRows(arena, call, cut.channels * cut.rows);
  memory.place();
  const sums = memory.at(0);
  const perChannel = Math.ceil(batch / cut.rows);
  const groups = Math.ceil((to - from) / cut.channels);
  return inSteps(0, groups * perChannel, 1, (at) => {
    const h = from + Math.floor(at / perChannel) * cut.channels;
    const b = (at % perChannel) * cut.rows;
    const count = Math.min(cut.channels, to - h);
    const rows = Math.min(cut.rows, batch - b);
    for (const job of jobs) {
      job.first = h;
      job.batchFrom = b;
      job.batchTo = b + rows;
      job.slotted = Number(slotted);
      job.dk = dkAddress === undefined ? sums : dkAddress + h * width * 4;
    }
    const keep = (): void => {
      if (dkAddress !== undefined || b + rows < batch) return;
      intact("dk", dk, (h + count) * width, call.name);
      dk.set(new Float32Array(arena.buffer, sums, count * width), h * width);
    };
    const rowAt = (i: number): number => (b + (i % rows)) * channels + h + Math.floor(i / rows);
    const work = (): Running => runParts(engine, programs.backward, jobs, count, 2 * rows);
    const running = inPlace
      ? work()
      : staging.around(jobs, memory.at(1), count * rows, rowAt, work);
    return after(running, keep);
  });
}

/** How the rows of some channels run on an engine. */
export interface RowRuns {
  readonly forward: typeof bindForward;
  readonly backward: typeof runBackward;
}

/** How rows that are transformed whole run. */
export const wholeRuns: RowRuns = { forward: bindForward, backward: runBackward };
