/**
 * Runs calls on a backend: builds jobs from the plan, decides how many threads take part, and moves rows through
 * staging where the user's arrays lie elsewhere.
 */
import type { CpuBackend, Program } from "../backend/cpu.ts";
import type { Job } from "../backend/job.ts";
import { emptyJob, jobKinds } from "../backend/job.ts";
import type { Block } from "../backend/memory.ts";
import type { SampleArray } from "../dtype.ts";
import { bodyCount, tileCount } from "../kernels/transform.ts";
import type { DeviceSpec } from "../plan/device.ts";
import type { TransformPlan } from "../plan/plan.ts";
import { transformBytes } from "../plan/plan.ts";
import { canShareRow } from "../plan/planner.ts";
import type { Problem } from "../plan/problem.ts";
import type { RowTensor } from "./staging.ts";
import { addressIn, copyRows } from "./staging.ts";

/** A problem with everything that is fixed when the object is made. */
export interface Engine {
  readonly problem: Problem;
  readonly plan: TransformPlan;
  readonly backend: CpuBackend;
  readonly device: DeviceSpec;
  /** Predicted seconds of one row, forward. */
  readonly rowSeconds: number;
  /** A job with all that does not change from call to call. */
  readonly template: Job;
  /** Whether all threads can work on one row. */
  readonly shareable: boolean;
}

/** Put together what calls need. */
export function createEngine(
  parts: Pick<Engine, "problem" | "plan" | "backend" | "device" | "rowSeconds">,
  covered: { readonly sinks: number; readonly taps: number },
): Engine {
  const { problem, plan, backend } = parts;
  const bytes = problem.dtype === "float32" ? 4 : 2;
  const transform = transformBytes(plan);
  const template: Job = {
    ...emptyJob(),
    ...{ inputBytes: problem.length * bytes, outputBytes: problem.outputLength * bytes },
    ...{ spectrumBytes: transform, transformBytes: transform, dkBytes: problem.kernelLength * 4 },
    ...{ tiles: tileCount(plan), bodies: bodyCount(plan, backend.lanes) },
    ...{
      dkSinks: covered.sinks,
      clearTaps: Number(covered.sinks > 1 || covered.taps < problem.kernelLength),
    },
  };
  const shareable = plan.points >= shareablePoints && canShareRow(plan, backend.settings.threads);
  return { ...parts, template, shareable };
}

/** Shape of a call. */
export interface Shape {
  readonly batch: number;
  readonly channels: number;
}

/** Rows of a call, by field of the job, and what goes with them. */
export interface Call {
  readonly shape: Shape;
  readonly rows: readonly RowTensor[];
  readonly skip: Float32Array | undefined;
  readonly name: string;
}

/** Jobs predicted shorter than this run with the caller taking part, in seconds: not long enough to miss an event. */
const blockingSeconds = 4e-3;
/** Staging of a call on one thread: little, so that rows stay in cache between copy and transform. */
const soloStaging = 64 * 1024;
/** Staging per thread of a call on several: much, so that threads meet rarely. */
const sharedStaging = 1024 * 1024;
/** Spectra that a call makes for itself are kept to this many bytes at a time. */
const spectraBudget = 512 * 1024 * 1024;
/** Spectra of fewer points than this are not worth sharing a row for. */
const shareablePoints = 65_536;

interface Team {
  readonly threads: number;
  readonly blocking: boolean;
  readonly together: boolean;
}

/** How many threads a job of `units` units with `seconds` of work each deserves. */
function team(engine: Engine, units: number, seconds: number): Team {
  const { threads } = engine.backend.settings;
  const total = units * seconds;
  const alone = { threads: 1, blocking: true, together: false };
  if (threads === 1 || total < 2 * engine.device.dispatchSeconds) return alone;
  const together = engine.shareable && (units < 4 * threads || units % threads !== 0);
  if (!together && units === 1) return alone;
  return { threads, blocking: !together && total / threads < blockingSeconds, together };
}

function newJob(engine: Engine, kind: number, program: Program, shape: Shape): Job {
  const job = { ...engine.template };
  job.kind = kind;
  job.program = program.id;
  job.table = program.table.address;
  job.batch = shape.batch;
  job.channels = shape.channels;
  return job;
}

/** Transforms that a thread works on, by kind of job. */
const transformsPerThread: Readonly<Record<number, number>> = {
  [jobKinds.spectra]: 0,
  [jobKinds.forward]: 1,
  [jobKinds.backward]: 3,
};

const aligned = (bytes: number): number => Math.ceil((bytes + 64) / 64) * 64;

/** Work memory of a call, carved: transforms of each thread, the skip weights, and staging. */
interface Memory {
  readonly transforms: number;
  readonly skip: number;
  readonly staging: number;
}

function reserve(engine: Engine, job: Job, threads: number, call: Call, staging: number): Memory {
  const { backend } = engine;
  const perThread = aligned(transformsPerThread[job.kind]! * job.transformBytes);
  const skipBytes = call.skip ? aligned(call.skip.byteLength) : 0;
  const base = backend.workspace(threads * perThread + skipBytes + staging, call.name);
  job.workspace = base;
  job.threadBytes = perThread;
  const memory = {
    transforms: base,
    skip: base + threads * perThread,
    staging: base + threads * perThread + skipBytes,
  };
  if (call.skip) {
    new Float32Array(backend.arena.memory.buffer, memory.skip, call.skip.length).set(call.skip);
    job.skip = memory.skip;
    job.hasSkip = 1;
  }
  return memory;
}

/** Bytes that one row of every tensor takes in staging. */
function stagedRowBytes(rows: readonly RowTensor[]): number {
  return rows.reduce((sum, r) => sum + r.width * r.data.BYTES_PER_ELEMENT, 0);
}

/** Addresses of all row tensors where every one of them lies in the backend's memory. */
function direct(engine: Engine, rows: readonly RowTensor[]): Record<string, number> | undefined {
  const out: Record<string, number> = {};
  for (const r of rows) {
    const address = addressIn(engine.backend.arena, r.data);
    if (address === undefined) return undefined;
    out[r.field] = address;
  }
  return out;
}

/** Run one job with its rows in staging: copy in, run, copy out. `slots` rows of each tensor; rowAt as in copyRows. */
function staged(
  engine: Engine,
  program: Program,
  job: Job,
  crew: Team,
  call: Call,
  memory: Memory,
  slots: number,
  rowAt: (i: number) => number,
): void | Promise<void> {
  const { arena } = engine.backend;
  let at = memory.staging;
  const places = call.rows.map((tensor) => {
    const address = at;
    at += aligned(slots * tensor.width * tensor.data.BYTES_PER_ELEMENT);
    return { tensor, address };
  });
  for (const { tensor, address } of places) {
    job[tensor.field as keyof Job] = address;
    if (tensor.direction === "in") copyRows(arena, tensor, address, slots, rowAt);
  }
  const finish = (): void => {
    for (const { tensor, address } of places) {
      if (tensor.direction === "out") copyRows(arena, tensor, address, slots, rowAt);
    }
  };
  const running = engine.backend.run(program, job, crew.threads, crew.blocking);
  return running ? running.then(finish) : finish();
}

/** Spectra of the kernel rows [from, to) into `base`. */
export async function makeSpectra(
  engine: Engine,
  program: Program,
  kernel: SampleArray,
  from: number,
  to: number,
  base: number,
  name: string,
): Promise<void> {
  const { backend, problem } = engine;
  const width = problem.kernelLength;
  const bytes = kernel.BYTES_PER_ELEMENT;
  const address = addressIn(backend.arena, kernel);
  const crewAll = team(engine, to - from, engine.rowSeconds / 2);
  const budget = crewAll.threads === 1 ? soloStaging : crewAll.threads * sharedStaging;
  const step =
    address === undefined ? Math.max(1, Math.floor(budget / (width * bytes))) : to - from;
  for (let h = from; h < to; h += step) {
    const count = Math.min(step, to - h);
    const crew = team(engine, count, engine.rowSeconds / 2);
    const job = newJob(engine, jobKinds.spectra, program, { batch: 1, channels: 1 });
    Object.assign(job, {
      first: 0,
      units: count,
      together: Number(crew.together),
      kernelBytes: width * bytes,
    });
    job.spectra = base + (h - from) * job.spectrumBytes;
    if (address !== undefined) {
      job.k = address + h * width * bytes;
      await backend.run(program, job, crew.threads, crew.blocking);
      continue;
    }
    const rows: RowTensor[] = [{ field: "k", data: kernel, width, direction: "in" }];
    const call: Call = { shape: { batch: 1, channels: 1 }, rows, skip: undefined, name };
    const memory = reserve(engine, job, crew.threads, call, aligned(count * width * bytes));
    const running = staged(engine, program, job, crew, call, memory, count, (i) => h + i);
    if (running) await running;
  }
}

/** Spectra of a kernel: kept by the user's kernel object, or made for a call and freed with it. */
export type Spectra = { readonly kept: Block } | { readonly kernel: SampleArray };

/** Work on channels [from, to); the spectrum of channel h lies at base + h·spectrumBytes. */
type ChannelWork = (from: number, to: number, base: number) => void | Promise<void>;

/** Run `work` over the channels: all at once where their spectra are kept, else in groups whose spectra fit the budget. */
function overChannels(
  engine: Engine,
  program: Program,
  spectra: Spectra,
  call: Call,
  work: ChannelWork,
): void | Promise<void> {
  const { channels } = call.shape;
  if ("kept" in spectra) return work(0, channels, spectra.kept.address);
  return overGroups(engine, program, spectra.kernel, call, work);
}

async function overGroups(
  engine: Engine,
  program: Program,
  kernel: SampleArray,
  call: Call,
  work: ChannelWork,
): Promise<void> {
  const { arena } = engine.backend;
  const { channels } = call.shape;
  const bytes = engine.template.spectrumBytes;
  const group = Math.min(channels, Math.max(1, Math.floor(spectraBudget / bytes)));
  const block = arena.allocate(group * bytes, call.name);
  try {
    for (let h = 0; h < channels; h += group) {
      const to = Math.min(channels, h + group);
      await makeSpectra(engine, program, kernel, h, to, block.address, call.name);
      await work(h, to, block.address - h * bytes);
    }
  } finally {
    arena.free(block);
  }
}

/** Run the steps from `at` on, one after the other, without a promise as long as none of them needs one. */
function inSteps(
  at: number,
  end: number,
  step: (at: number) => readonly [next: number, running: void | Promise<void>],
): void | Promise<void> {
  for (let i = at; i < end; ) {
    const [next, running] = step(i);
    if (running) return running.then(() => inSteps(next, end, step));
    i = next;
  }
}

/** y = postgate ⊙ ((pregate ⊙ u) ∗ k) + skip ⊙ u for all rows of a call. */
export function runForward(
  engine: Engine,
  program: Program,
  spectra: Spectra,
  call: Call,
  gates: Partial<Job>,
): void | Promise<void> {
  const { batch, channels } = call.shape;
  const { backend, rowSeconds } = engine;
  return overChannels(engine, program, spectra, call, (from, to, base) => {
    const units = (to - from) * batch;
    const job = newJob(engine, jobKinds.forward, program, call.shape);
    Object.assign(job, gates);
    job.spectra = base;
    const crew = team(engine, units, rowSeconds);
    const places = direct(engine, call.rows);
    if (places) {
      Object.assign(job, places);
      job.first = from * batch;
      job.units = units;
      job.together = Number(crew.together);
      reserve(engine, job, crew.threads, call, 0);
      return backend.run(program, job, crew.threads, crew.blocking);
    }
    const rowBytes = stagedRowBytes(call.rows);
    const budget = crew.threads === 1 ? soloStaging : crew.threads * sharedStaging;
    const size = Math.min(
      units,
      Math.max(crew.together ? 1 : crew.threads, Math.floor(budget / rowBytes)),
    );
    const memory = reserve(
      engine,
      job,
      crew.threads,
      call,
      size * rowBytes + 128 * call.rows.length,
    );
    job.packed = 1;
    return inSteps(0, units, (at) => {
      const count = Math.min(size, units - at);
      const part = count === size ? crew : team(engine, count, rowSeconds);
      const first = from * batch + at;
      job.first = first;
      job.units = count;
      job.together = Number(part.together);
      const rowAt = (i: number): number =>
        ((first + i) % batch) * channels + Math.floor((first + i) / batch);
      return [at + size, staged(engine, program, job, part, call, memory, count, rowAt)];
    });
  });
}

/** Programs of a backward call: the forward one makes spectra. */
export interface Programs {
  readonly forward: Program;
  readonly backward: Program;
}

/** How a backward call is cut: channels and batch rows of one job. */
interface Cut {
  readonly channels: number;
  readonly rows: number;
}

function cutBackward(crew: Team, call: Call, channels: number, isDirect: boolean): Cut {
  const { batch } = call.shape;
  if (isDirect) return { channels, rows: batch };
  const rowBytes = stagedRowBytes(call.rows);
  const budget = crew.threads === 1 ? soloStaging : crew.threads * sharedStaging;
  const fit = Math.floor(budget / (batch * rowBytes));
  if (crew.threads > 1)
    return {
      channels: Math.min(channels, Math.max(crew.together ? 1 : crew.threads, fit)),
      rows: batch,
    };
  if (fit >= 1) return { channels: Math.min(channels, fit), rows: batch };
  return { channels: 1, rows: Math.max(1, Math.min(batch, Math.floor(budget / rowBytes))) };
}

/** Gradients of all rows; the kernel's go to `dk`, one row of K float32 per channel. */
export function runBackward(
  engine: Engine,
  programs: Programs,
  spectra: Spectra,
  call: Call,
  gates: Partial<Job>,
  dk: Float32Array,
): void | Promise<void> {
  const { batch, channels } = call.shape;
  const { backend, problem } = engine;
  const { arena } = backend;
  const width = problem.kernelLength;
  const seconds = 2 * batch * engine.rowSeconds;
  return overChannels(engine, programs.forward, spectra, call, (from, to, base) => {
    const places = direct(engine, call.rows);
    const crew = team(engine, to - from, seconds);
    const cut = cutBackward(crew, call, to - from, places !== undefined);
    const job = newJob(engine, jobKinds.backward, programs.backward, call.shape);
    Object.assign(job, gates, places);
    job.spectra = base;
    job.packed = Number(!places);
    const dkAddress = addressIn(arena, dk);
    const dkBytes = dkAddress === undefined ? aligned(cut.channels * width * 4) : 0;
    const staging = places
      ? 0
      : cut.channels * cut.rows * stagedRowBytes(call.rows) + 128 * call.rows.length;
    const memory = reserve(engine, job, crew.threads, call, dkBytes + staging);
    const rest = { ...memory, staging: memory.staging + dkBytes };
    const perChannel = Math.ceil(batch / cut.rows);
    const groups = Math.ceil((to - from) / cut.channels);
    return inSteps(0, groups * perChannel, (at) => {
      const h = from + Math.floor(at / perChannel) * cut.channels;
      const b = (at % perChannel) * cut.rows;
      const count = Math.min(cut.channels, to - h);
      const rows = Math.min(cut.rows, batch - b);
      const part = count === cut.channels ? crew : team(engine, count, seconds);
      Object.assign(job, {
        first: h,
        units: count,
        batchFrom: b,
        batchTo: b + rows,
        together: Number(part.together),
      });
      job.dk = dkAddress === undefined ? memory.staging : dkAddress + h * width * 4;
      const keep = (): void => {
        if (dkAddress !== undefined || b + rows < batch) return;
        dk.set(new Float32Array(arena.memory.buffer, memory.staging, count * width), h * width);
      };
      const rowAt = (i: number): number => (b + (i % rows)) * channels + h + Math.floor(i / rows);
      const running = places
        ? backend.run(programs.backward, job, part.threads, part.blocking)
        : staged(engine, programs.backward, job, part, call, rest, count * rows, rowAt);
      return [at + 1, running ? running.then(keep) : keep()];
    });
  });
}
