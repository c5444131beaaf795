/**
 * Calls under a plan that cuts rows into blocks (overlap-save). Work memory depends on the block, not on the row: arrays
 * that lie elsewhere pass through staging a few blocks at a time, each with the samples around it.
 */

import type { Program } from "../backend/cpu/backend.ts";
import { addRecipes } from "../backend/cpu/executor.ts";
import type { ConvolutionJob as Job } from "../backend/cpu/job.ts";
import { jobKinds } from "../backend/cpu/job.ts";
import { aligned } from "../backend/cpu/memory.ts";
import { blockRecipes, shareOf } from "../backend/cpu/recipe-blocks.ts";
import type { RowField, RowTensor } from "../calls/cpu-staging.ts";
import { addressIn, blockIn, blockOut } from "../calls/cpu-staging.ts";
import type { Running } from "../calls/cpu-threads.ts";
import { after, inSteps } from "../calls/cpu-threads.ts";
import { extension } from "../plan/geometry.ts";
import { intact } from "../tensors/check.ts";
import type { Engine } from "./cpu-parts.ts";
import type { BoundRows, Gates, Programs, RowCall, RowRuns } from "./cpu-rows.ts";
import {
  CallMemory,
  isInMemory,
  newJob,
  noGates,
  pointAt,
  runParts,
  stagingBudget,
  widestTeam,
} from "./cpu-rows.ts";

/** A block of a row: row b·channels + h, and the block's number in it. */
interface BlockPlace {
  readonly row: number;
  readonly block: number;
}

type BlockPlaces = Partial<Record<RowField, RowField>>;

/** Fields whose blocks take the place of others, which have been read by then. */
function sharedPlaces({ parts }: Engine): BlockPlaces {
  return { ...(parts[0]!.inPlace && { y: "u" }), du: "dy", dpregate: "u" };
}

/** Bytes of a block of samples, with room for vector loads past its end. */
function blockBytes(job: Job): number {
  return aligned(job.span * job.sampleBytes);
}

/** Staging areas of a call: one for each tensor that has not the place of another. */
function areasOf(engine: Engine, rows: readonly RowTensor[]): readonly RowField[] {
  const places = sharedPlaces(engine);
  return rows.map((r) => r.field).filter((f) => places[f] === undefined);
}

/**
 * Run `work` over blocks that lie elsewhere: `places` are brought in, those of area a at base + a·(room for `size`
 * blocks), and their results taken out.
 */
function stagedBlocks(
  engine: Engine,
  job: Job,
  rows: readonly RowTensor[],
  base: number,
  size: number,
  places: readonly (BlockPlace | undefined)[],
  work: () => Running,
  call: string,
): Running {
  const { arena } = engine.backend;
  const { hop, lead, span, scratchBytes: step } = job;
  const areas = areasOf(engine, rows);
  const shared = sharedPlaces(engine);
  for (const tensor of rows) {
    const { field } = tensor;
    job[field] = base + areas.indexOf(shared[field] ?? field) * size * step;
    if (tensor.direction === "out") continue;
    // Gates behind the convolution go with its outputs, of which no block needs the periods.
    const period = field === periodic(job) || field === gateOf(job) ? job.period : 0;
    places.forEach((place, i) => {
      if (!place) return;
      const { row, block } = place;
      const pieces = extension(block * hop - lead, span, tensor.width, period);
      blockIn(arena, tensor, row, job[field] + i * step, span, pieces, call);
    });
  }
  return after(work(), () => {
    for (const tensor of rows) {
      if (tensor.direction === "in") continue;
      places.forEach((place, i) => {
        if (!place) return;
        const { row, block } = place;
        const count = Math.min(hop, tensor.width - block * hop);
        const at = job[tensor.field] + i * step + lead * job.sampleBytes;
        blockOut(arena, tensor, row, block * hop, at, count, call);
      });
    }
  });
}

/** The tensor whose samples around a block matter, and the gate that is multiplied into it. */
function periodic({ kind }: Job): RowField {
  return kind === jobKinds.blockForward ? "u" : "dy";
}

function gateOf({ kind }: Job): RowField {
  return kind === jobKinds.blockForward ? "pregate" : "postgate";
}

/** y = postgate ⊙ ((pregate ⊙ u) ∗ k) + skip ⊙ u of channels [from, to), block by block. */
function bindBlocks(
  engine: Engine,
  programs: readonly Program[],
  call: RowCall,
  gates: Gates,
  [from, to]: readonly [number, number],
  [spectra]: readonly number[],
): BoundRows {
  const { batch, channels } = call.shape;
  const part = engine.parts[0]!;
  const job = newJob(part, jobKinds.blockForward, programs[0]!, call.shape, gates);
  const units = (to - from) * batch * job.blocks;
  const start = from * batch * job.blocks;
  job.spectra = spectra!;
  job.first = start;
  job.scratchBytes = blockBytes(job);
  const { threads } = widestTeam(engine, units, 1);
  if (isInMemory(engine, call.rows)) {
    pointAt([job], call.rows);
    const memory = new CallMemory(engine, [job], threads, call);
    return () => {
      memory.place();
      return runParts(engine, programs, [job], units, 1);
    };
  }
  job.packed = 1;
  const bytes = areasOf(engine, call.rows).length * job.scratchBytes;
  const budget = stagingBudget(engine, jobKinds.blockForward, threads);
  const size = Math.min(units, Math.max(threads, Math.floor(budget / bytes)));
  const memory = new CallMemory(engine, [job], threads, call, size * bytes);
  const step = (at: number): Running => {
    const count = Math.min(size, units - at);
    job.first = start + at;
    const places = Array.from({ length: count }, (_, i): BlockPlace => {
      const index = Math.floor((job.first + i) / job.blocks);
      const row = (index % batch) * channels + Math.floor(index / batch);
      return { row, block: (job.first + i) % job.blocks };
    });
    const work = (): Running => runParts(engine, programs, [job], count, 1);
    return stagedBlocks(engine, job, call.rows, memory.at(0), size, places, work, call.name);
  };
  return () => {
    memory.place();
    return inSteps(0, units, size, step);
  };
}

/**
 * Sums of products of spectra that a channel's blocks are shared among: enough to keep threads busy on one channel and
 * to keep the sums short, few enough to take little memory. A fixed number, so that dk does not depend on the threads.
 */
const mostShares = 8;

/** Seconds of a backward block, in forward ones: three transforms and two products. */
const backwardFactor = 1.5;

/** Gradients of channels [from, to), block by block; the kernel's go to `dk`, one row of K float32 per channel. */
function runBlocksBackward(
  engine: Engine,
  programs: Programs,
  call: RowCall,
  gates: Gates,
  dk: Float32Array,
  range: readonly [number, number],
  bases: readonly number[],
): Running {
  const gradients = runGradients(engine, programs.backward, call, gates, dk, range, bases[0]!);
  if (!gates.postgate) return gradients;
  // dpostgate = dy ⊙ ((pregate ⊙ u) ∗ k): a forward call with dy for its gate.
  const upstream: RowCall = { ...call, rows: forwardRows(call.rows), skip: undefined };
  return after(gradients, () =>
    bindBlocks(engine, programs.forward, upstream, gates, range, bases)(),
  );
}

/** Rows of the forward call whose result is dpostgate. */
function forwardRows(rows: readonly RowTensor[]): RowTensor[] {
  const roles: Partial<Record<RowField, RowField>> = {
    ...{ u: "u", pregate: "pregate", dy: "postgate", dpostgate: "y" },
  };
  return rows.flatMap((r) => {
    const field = roles[r.field];
    return field ? [{ ...r, field }] : [];
  });
}

/** du, dpregate and dk of channels [from, to). */
function runGradients(
  engine: Engine,
  programs: readonly Program[],
  call: RowCall,
  gates: Gates,
  dk: Float32Array,
  [from, to]: readonly [number, number],
  spectra: number,
): Running {
  const { batch, channels } = call.shape;
  const part = engine.parts[0]!;
  const [program] = programs;
  const job = newJob(part, jobKinds.blockBackward, program!, call.shape, gates);
  const taps = newJob(part, jobKinds.blockTaps, program!, call.shape, noGates);
  const rows = call.rows.filter((r) => r.field !== "dpostgate");
  const direct = isInMemory(engine, rows);
  const terms = batch * job.blocks;
  const shares = Math.min(mostShares, terms);
  const most = Math.ceil(terms / shares);
  job.spectra = spectra;
  job.shares = taps.shares = shares;
  job.scratchBytes = blockBytes(job);
  job.packed = Number(!direct);
  const { threads } = widestTeam(engine, (to - from) * shares, backwardFactor * most);
  const bytes = areasOf(engine, rows).length * job.scratchBytes;
  const budget = stagingBudget(engine, jobKinds.blockBackward, threads);
  const channelBytes = shares * (job.transformBytes + (direct ? 0 : most * bytes));
  // Channels under way: enough for all threads, or as many as fit: one by one, rows of 256 samples took three times as long.
  const least = Math.ceil(threads / shares);
  const group = Math.min(to - from, Math.max(least, Math.floor(budget / channelBytes)));
  const units = group * shares;
  const step = direct ? most : Math.min(most, Math.max(1, Math.floor(budget / (units * bytes))));
  const width = engine.problem.kernelLength;
  const dkAddress = addressIn(engine.backend.arena, dk);
  const dkBytes = dkAddress === undefined ? group * width * 4 : 0;
  const staging = direct ? 0 : units * step * bytes;
  const sumBytes = units * job.transformBytes;
  const memory = new CallMemory(engine, [job], threads, call, sumBytes, dkBytes, staging);
  memory.place();
  const [sums, ownDk, place] = [memory.at(0), memory.at(1), memory.at(2)];
  job.sums = taps.sums = sums;
  if (direct) pointAt([job], rows);
  const perGroup = Math.ceil(most / step) + 1;
  return inSteps(0, Math.ceil((to - from) / group) * perGroup, 1, (at) => {
    const h = from + Math.floor(at / perGroup) * group;
    const count = Math.min(group, to - h);
    const stage = at % perGroup;
    if (stage === perGroup - 1) {
      taps.first = h;
      taps.dk = dkAddress === undefined ? ownDk : dkAddress + h * width * 4;
      const keep = (): void => {
        if (dkAddress !== undefined) return;
        const { buffer } = engine.backend.arena;
        intact("dk", dk, (h + count) * width, call.name);
        dk.set(new Float32Array(buffer, ownDk, count * width), h * width);
      };
      return after(runParts(engine, programs, [taps], count, 1), keep);
    }
    job.first = h * shares;
    job.termFrom = stage * step;
    job.termTo = Math.min(most, job.termFrom + step);
    const some = job.termTo - job.termFrom;
    const work = (): Running =>
      runParts(engine, programs, [job], count * shares, backwardFactor * some);
    if (direct) return work();
    const places: (BlockPlace | undefined)[] = [];
    for (let unit = 0; unit < count * shares; unit++) {
      const [first, end] = shareOf(job, unit % shares);
      for (let i = 0; i < some; i++) {
        const term = first + job.termFrom + i;
        const row = Math.floor(term / job.blocks) * channels + h + Math.floor(unit / shares);
        places.push(term < end ? { row, block: term % job.blocks } : undefined);
      }
    }
    const size = units * step;
    return stagedBlocks(engine, job, rows, place, size, places, work, call.name);
  });
}

/** How rows that are cut into blocks run. */
export function blockRuns(): RowRuns {
  addRecipes(blockRecipes);
  return { forward: bindBlocks, backward: runBlocksBackward };
}
