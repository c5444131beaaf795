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
  const together =
    engine.plan.points >= shareablePoints && canShareRow(engine.plan, threads) && (units < 4 * threads || units % threads !== 0);
  if (!together && units === 1) return alone;
  return { threads, blocking: !together && total / threads < blockingSeconds, together };
}

function baseJob(engine: Engine, kind: number, program: Program, shape: Shape): Job {
  const { problem, plan, backend } = engine;
  const bytes = problem.dtype === "float32" ? 4 : 2;
  const transform = transformBytes(plan);
  return {
    ...emptyJob(),
    ...{ kind, program: program.id, table: program.table.address },
    ...{ batch: shape.batch, channels: shape.channels },
    ...{ inputBytes: problem.length * bytes, outputBytes: problem.outputLength * bytes },
    ...{ spectrumBytes: transform, transformBytes: transform, dkBytes: problem.kernelLength * 4 },
    ...{ tiles: tileCount(plan), bodies: bodyCount(plan, backend.lanes) },
  };
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
  const memory = { transforms: base, skip: base + threads * perThread, staging: base + threads * perThread + skipBytes };
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
  const step = address === undefined ? Math.max(1, Math.floor(budget / (width * bytes))) : to - from;
  for (let h = from; h < to; h += step) {
    const count = Math.min(step, to - h);
    const crew = team(engine, count, engine.rowSeconds / 2);
    const job = baseJob(engine, jobKinds.spectra, program, { batch: 1, channels: 1 });
    Object.assign(job, { first: 0, units: count, together: Number(crew.together), kernelBytes: width * bytes });
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

/** Run `work` over groups of channels whose spectra lie at an address: all at once where they are kept. */
async function overChannels(
  engine: Engine,
  program: Program,
  spectra: Spectra,
  channels: number,
  name: string,
  work: (from: number, to: number, spectraBase: number) => void | Promise<void>,
): Promise<void> {
  const { backend, plan } = engine;
  if ("kept" in spectra) {
    const running = work(0, channels, spectra.kept.address);
    if (running) await running;
    return;
  }
  const bytes = transformBytes(plan);
  const group = Math.min(channels, Math.max(1, Math.floor(spectraBudget / bytes)));
  const block = backend.arena.allocate(group * bytes, name);
  try {
    for (let h = 0; h < channels; h += group) {
      const to = Math.min(channels, h + group);
      await makeSpectra(engine, program, spectra.kernel, h, to, block.address, name);
      // Channel h finds its spectrum at base + h·bytes.
      const running = work(h, to, block.address - h * bytes);
      if (running) await running;
    }
  } finally {
    backend.arena.free(block);
  }
}

/** y = postgate ⊙ ((pregate ⊙ u) ∗ k) + skip ⊙ u for all rows of a call. */
export function runForward(engine: Engine, program: Program, spectra: Spectra, call: Call, gates: Partial<Job>): Promise<void> {
  return overChannels(engine, program, spectra, call.shape.channels, call.name, (from, to, base) => {
    const { batch, channels } = call.shape;
    const units = (to - from) * batch;
    const job = baseJob(engine, jobKinds.forward, program, call.shape);
    Object.assign(job, gates, { first: from * batch, spectra: base });
    const places = direct(engine, call.rows);
    if (places) {
      const crew = team(engine, units, engine.rowSeconds);
      Object.assign(job, places, { units, together: Number(crew.together) });
      reserve(engine, job, crew.threads, call, 0);
      return engine.backend.run(program, job, crew.threads, crew.blocking);
    }
    const whole = team(engine, units, engine.rowSeconds);
    const rowBytes = stagedRowBytes(call.rows);
    const budget = whole.threads === 1 ? soloStaging : whole.threads * sharedStaging;
    const least = whole.together ? 1 : whole.threads;
    const step = Math.min(units, Math.max(least, Math.floor(budget / rowBytes)));
    const memory = reserve(engine, job, whole.threads, call, step * rowBytes + 128 * call.rows.length);
    job.packed = 1;
    const next = (done: number): void | Promise<void> => {
      for (let at = done; at < units; at += step) {
        const count = Math.min(step, units - at);
        const crew = count === step ? whole : team(engine, count, engine.rowSeconds);
        const first = from * batch + at;
        Object.assign(job, { first, units: count, together: Number(crew.together) });
        const rowAt = (i: number): number => ((first + i) % batch) * channels + Math.floor((first + i) / batch);
        const running = staged(engine, program, job, crew, call, memory, count, rowAt);
        if (running) return running.then(() => next(at + step));
      }
    };
    return next(0);
  });
}

/** Gradients of all rows; dk rows go where `dk` lies, one row of K float32 per channel. */
export function runBackward(
  engine: Engine,
  programs: { readonly forward: Program; readonly backward: Program },
  spectra: Spectra,
  call: Call,
  gates: Partial<Job>,
  dk: Float32Array,
  dkSinks: number,
): Promise<void> {
  const { batch, channels } = call.shape;
  const seconds = 2 * batch * engine.rowSeconds;
  return overChannels(engine, programs.forward, spectra, channels, call.name, async (from, to, base) => {
    const places = direct(engine, call.rows);
    const dkAddress = addressIn(engine.backend.arena, dk);
    const whole = team(engine, to - from, seconds);
    // On one thread a channel passes through staging row by row; on several, a channel at a time each.
    const rowsPerStep = places || whole.threads > 1 ? batch : 1;
    const channelsPerStep = places ? to - from : whole.together ? 1 : whole.threads;
    const { kernelLength } = engine.problem;
    for (let h = from; h < to; h += channelsPerStep) {
      const count = Math.min(channelsPerStep, to - h);
      const crew = count === channelsPerStep ? whole : team(engine, count, seconds);
      for (let b = 0; b < batch; b += rowsPerStep) {
        const job = baseJob(engine, jobKinds.backward, programs.backward, call.shape);
        Object.assign(job, gates, { first: h, units: count, spectra: base, together: Number(crew.together), dkSinks });
        Object.assign(job, { batchFrom: b, batchTo: b + rowsPerStep, finish: Number(b + rowsPerStep === batch) });
        const slots = count * rowsPerStep;
        const dkBytes = dkAddress === undefined ? aligned(count * kernelLength * 4) : 0;
        const staging = places ? 0 : slots * stagedRowBytes(call.rows) + 128 * call.rows.length;
        const memory = reserve(engine, job, crew.threads, call, dkBytes + staging);
        job.dk = dkAddress === undefined ? memory.staging : dkAddress + h * kernelLength * 4;
        if (places) {
          Object.assign(job, places);
          const running = engine.backend.run(programs.backward, job, crew.threads, crew.blocking);
          if (running) await running;
        } else {
          job.packed = 1;
          const rowAt = (i: number): number => (b + (i % rowsPerStep)) * channels + h + Math.floor(i / rowsPerStep);
          const shifted = { ...memory, staging: memory.staging + dkBytes };
          const running = staged(engine, programs.backward, job, crew, call, shifted, slots, rowAt);
          if (running) await running;
        }
        if (job.finish && dkAddress === undefined) {
          const { buffer } = engine.backend.arena.memory;
          dk.set(new Float32Array(buffer, memory.staging, count * kernelLength), h * kernelLength);
        }
      }
    }
  });
}
