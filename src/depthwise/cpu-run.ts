/**
 * Runs calls of short depthwise convolutions: lays out work memory, fills in the job, moves slabs through staging where
 * arrays lie elsewhere, and adds up what the units have summed.
 */
import type { CpuBackend, Program } from "../backend/cpu/backend.ts";
import type { DepthwiseJob as Job } from "../backend/cpu/job.ts";
import { depthwiseJob, jobKinds } from "../backend/cpu/job.ts";
import { aligned, WorkLayout } from "../backend/cpu/memory.ts";
import { branchFields } from "../backend/cpu/recipe-depthwise.ts";
import { copyRows } from "../calls/cpu-staging.ts";
import type { Running } from "../calls/cpu-threads.ts";
import {
  after as behind,
  blockingSeconds,
  inSteps,
  sharedStaging,
  soloStaging,
} from "../calls/cpu-threads.ts";
import type { SampleArray } from "../dtype.ts";
import { frame } from "../kernels/cpu/depthwise/addressing.ts";
import { sumCount } from "../kernels/cpu/depthwise/gradients.ts";
import type { DepthwiseProblem } from "../plan/depthwise.ts";
import { cutting, outputLengthOf } from "../plan/depthwise.ts";
import type { DeviceSpec } from "../plan/device.ts";
import { intact } from "../tensors/check.ts";
import type { LineKind, Slab } from "./cpu-slabs.ts";
import { slabs, touched } from "./cpu-slabs.ts";

/** A problem on a backend. */
export interface DepthwiseEngine {
  readonly problem: DepthwiseProblem;
  readonly backend: CpuBackend;
  /** Threads that calls may use, the caller's included. */
  readonly threads: number;
  readonly device: DeviceSpec;
  /** The last call's job of each kind: calls run one at a time, and most are as long as the one before. */
  readonly jobs: Map<number, Job>;
  /** Which third of the packed channels each branch takes; [0] where nothing is packed. */
  readonly order: readonly number[];
}

/** A tensor of a call and the fields of the job that point into it: by branch, or the one of an output. */
export interface LineTensor {
  /** As the user knows it. */
  readonly name: string;
  readonly kind: LineKind;
  readonly data: SampleArray;
  readonly fields: readonly (keyof Job)[];
}

/** The K − 1 samples before each line, their gradient, or that of the K − 1 last ones. */
export interface StateTensor {
  readonly name: string;
  readonly direction: "in" | "out";
  readonly data: SampleArray;
  readonly fields: readonly (keyof Job)[];
}

/** What a call works on. */
export interface DepthwiseCall {
  readonly name: string;
  readonly batch: number;
  readonly length: number;
  readonly lines: readonly LineTensor[];
  readonly states: readonly StateTensor[];
  /** (branches·H, K) and (branches·H), float32. */
  readonly weight: Float32Array;
  readonly bias: Float32Array | undefined;
}

/** Sums over a call, in float64: (branches·H, K) and (branches·H). */
export interface TapSums {
  readonly weight: Float64Array;
  readonly bias: Float64Array;
}

/** Seconds that a sample of one branch takes, less what depends on taps, and with each tap. */
const samplePrice = { base: 0.6e-9, tap: 0.1e-9, javascript: 12, backward: 3 } as const;

const { state, dstate, dstateOut } = branchFields;
const stateFields = [...state, ...dstate, ...dstateOut];

/** The job of a call, without addresses: the last one, where that was of the same size. */
function jobOf(engine: DepthwiseEngine, call: DepthwiseCall, kind: number): Job {
  const last = engine.jobs.get(kind);
  if (last && last.batch === call.batch && last.length === call.length) {
    for (const field of stateFields) last[field] = 0;
    return last;
  }
  const job = newJob(engine, call, kind);
  engine.jobs.set(kind, job);
  return job;
}

/** A job with all that addresses do not decide. */
function newJob({ problem, backend }: DepthwiseEngine, call: DepthwiseCall, kind: number): Job {
  const { kernelLength, channels, left, layout, dtype } = problem;
  const { lanes } = backend;
  const backward = kind === jobKinds.depthwiseBackward;
  const f = frame({ kind: backward ? "backward" : "forward", problem, lanes });
  const cut = cutting(problem);
  const across = layout === "BLH";
  const outputLength = outputLengthOf(problem, call.length);
  const chunk = backward ? cut.backwardChunk : cut.forwardChunk;
  const span = backward ? Math.max(outputLength, call.length + left) : outputLength;
  const positions = backward ? chunk + 2 * kernelLength : cut.forwardTile + kernelLength;
  const windowBytes = aligned((positions + 8) * f.window);
  const sumBytes = across ? (kernelLength + 1) * f.window : 4 * lanes * sumCount(kernelLength);
  const branchPartialBytes = 4 * (across ? (kernelLength + 1) * channels : sumCount(kernelLength));
  const windows = windowBytes * f.branches;
  return {
    ...depthwiseJob,
    ...{ kind, batch: call.batch, channels, kernelLength, left, length: call.length },
    ...{ outputLength, branches: f.branches, outputs: f.outputs },
    ...{ chunks: Math.ceil(span / chunk), chunk, tile: cut.forwardTile },
    tileChannels: cut.tileChannels,
    channelTiles: across ? Math.ceil(channels / cut.tileChannels) : 1,
    direct: Number(dtype === "float32"),
    ...{ sampleBytes: f.bytes, inputStep: f.input, outputStep: f.output, windowStep: f.window },
    ...{ windowBytes, sumBytes, tapBytes: across ? 0 : 4 * kernelLength },
    ...{ branchPartialBytes, partialBytes: branchPartialBytes * f.branches },
    linesPerBatch: across ? 1 : channels,
    threadBytes: aligned(backward ? 2 * windows + sumBytes : windows),
  };
}

/** How many threads a job of `units` units and so many samples deserves, and whether the caller is one of them. */
function team(
  { problem, backend, device, threads: wanted }: DepthwiseEngine,
  job: Job,
  units: number,
  samples: number,
): { threads: number; blocking: boolean } {
  const { instructions } = backend.settings;
  const threads = backend.threadsFor(wanted);
  const { base, tap, javascript, backward } = samplePrice;
  const price =
    (base + tap * problem.kernelLength) *
    (instructions === "javascript" ? javascript : 1) *
    (job.kind === jobKinds.depthwiseBackward ? backward : 1);
  const seconds = samples * job.branches * price;
  const saved = seconds - seconds / threads;
  if (units === 1 || saved <= 3 * device.dispatchSeconds)
    return { threads: 1, blocking: seconds < blockingSeconds };
  return { threads, blocking: seconds / threads < blockingSeconds };
}

/** Samples of the states of `batch` items. */
function stateSamples({ branches, channels, kernelLength }: Job, batch: number): number {
  return batch * branches * channels * (kernelLength - 1);
}

/** A state tensor as one row. */
function wholeState({ name, data, direction }: StateTensor, job: Job, batch: number) {
  return { field: name, data, direction, width: stateSamples(job, batch) };
}

const isInput = (kind: LineKind): boolean => kind === "x" || kind === "dx";

/** A call under way. */
class DepthwiseCallOnCpu {
  readonly engine: DepthwiseEngine;
  readonly call: DepthwiseCall;
  readonly job: Job;
  readonly lines: number;
  readonly slabs: readonly Slab[];
  readonly threads: number;
  /** Tensors that go through staging: those that lie elsewhere, and those whose distances they share. */
  readonly #staged: readonly LineTensor[];
  readonly #base: number;
  readonly #staging: number;
  readonly #states: readonly { readonly tensor: StateTensor; readonly copy: number | undefined }[];

  constructor(engine: DepthwiseEngine, call: DepthwiseCall, kind: number) {
    const { backend } = engine;
    const { arena } = backend;
    this.engine = engine;
    this.call = call;
    this.job = jobOf(engine, call, kind);
    this.lines = call.batch * this.job.linesPerBatch;
    const { job } = this;
    const away = (input: boolean): boolean =>
      call.lines.some((t) => isInput(t.kind) === input && !arena.owns(t.data.buffer));
    const outside = { input: away(true), output: away(false) };
    this.#staged = call.lines.filter((t) => (isInput(t.kind) ? outside.input : outside.output));
    this.threads = team(engine, job, this.lines * job.chunks, this.#samples).threads;
    const budget = this.threads === 1 ? soloStaging : sharedStaging;
    const positionBytes = this.#staged.reduce((sum, t) => sum + this.#stagedStep(t), 0);
    this.slabs = slabs(job, this.lines, positionBytes, budget);
    const layout = new WorkLayout();
    const threads = layout.take(this.threads * job.threadBytes);
    const filters = job.branches * job.channels;
    const taps = layout.take(4 * filters * job.kernelLength);
    const bias = layout.take(4 * filters);
    const units = Math.max(...this.slabs.map((s) => this.#units(s)));
    const partials =
      kind === jobKinds.depthwiseBackward ? layout.take(units * job.partialBytes) : 0;
    const states = call.states.map((tensor) => ({
      tensor,
      copy: arena.owns(tensor.data.buffer)
        ? undefined
        : layout.take(stateSamples(job, call.batch) * job.sampleBytes),
    }));
    const most = this.slabs.map((s) =>
      this.#staged.reduce((sum, t) => sum + aligned(this.#slabBytes(t, s)), 0),
    );
    const staging = layout.take(Math.max(...most));
    this.#base = backend.workspace(layout, call.name);
    this.#staging = this.#base + staging;
    job.program = 0;
    job.workspace = this.#base + threads;
    job.partials = this.#base + partials;
    this.#placeTaps(this.#base + taps, this.#base + bias);
    this.#states = states;
    for (const { tensor, copy } of states) this.#placeState(tensor, copy);
    for (const t of call.lines) if (!this.#staged.includes(t)) this.#placeDirect(t);
  }

  /** Samples of the longer of x and y, of one branch. */
  get #samples(): number {
    const { batch, channels, length, outputLength } = this.job;
    return batch * channels * Math.max(length, outputLength);
  }

  #units(s: Slab): number {
    return (s.lineTo - s.lineFrom) * (s.chunkTo - s.chunkFrom);
  }

  /** Bytes from position to position of a tensor in the user's array. */
  #step(tensor: LineTensor): number {
    return isInput(tensor.kind) ? this.job.inputStep : this.job.outputStep;
  }

  /** Lines of the user's array that each of the job's lines stands for: in layout BHL one for each branch. */
  #strands(tensor: LineTensor): number {
    return this.engine.problem.layout === "BHL" ? tensor.fields.length : 1;
  }

  #stagedStep(tensor: LineTensor): number {
    return this.#step(tensor) * this.#strands(tensor);
  }

  #slabBytes(tensor: LineTensor, slab: Slab): number {
    const [from, to] = touched(this.job, tensor.kind, slab);
    return (slab.lineTo - slab.lineFrom) * (to - from) * this.#stagedStep(tensor);
  }

  /** Taps and biases as the kernels read them: as given in layout BHL, tap by tap in BLH. */
  #placeTaps(taps: number, bias: number): void {
    const { engine, call, job } = this;
    const { buffer } = engine.backend.arena;
    const { kernelLength, channels, layout } = engine.problem;
    const count = job.branches * channels;
    intact("weight", call.weight, count * kernelLength, call.name);
    if (call.bias) intact("bias", call.bias, count, call.name);
    const table = new Float32Array(buffer, taps, count * kernelLength);
    if (layout === "BHL") table.set(call.weight);
    else {
      for (let c = 0; c < count; c++) {
        for (let j = 0; j < kernelLength; j++)
          table[j * count + c] = call.weight[c * kernelLength + j]!;
      }
    }
    const biases = new Float32Array(buffer, bias, count);
    if (call.bias) biases.set(call.bias);
    else biases.fill(0);
    const perChannel = layout === "BHL" ? 4 * kernelLength : 4;
    engine.order.forEach((third, i) => {
      job[branchFields.weight[i]!] = taps + third * channels * perChannel;
      job[branchFields.bias[i]!] = bias + third * channels * 4;
    });
  }

  /** Where branch i of the packed channels begins in an item of `positions` positions, in bytes. */
  #branchOffset(i: number, fields: readonly (keyof Job)[], positions: number): number {
    const { problem, order } = this.engine;
    const third = fields.length > 1 ? order[i]! : 0;
    const across = problem.layout === "BHL" ? positions : 1;
    return third * problem.channels * across * this.job.sampleBytes;
  }

  #placeState(tensor: StateTensor, copy: number | undefined): void {
    const { job, engine, call } = this;
    const { arena } = engine.backend;
    const positions = job.kernelLength - 1;
    job.stateBatchBytes = stateSamples(job, 1) * job.sampleBytes;
    job.stateLineBytes = positions * job.inputStep;
    let address = tensor.data.byteOffset;
    if (copy !== undefined) {
      address = this.#base + copy;
      if (tensor.direction === "in")
        copyRows(arena, wholeState(tensor, job, call.batch), address, 1, () => 0, call.name);
    }
    tensor.fields.forEach((field, i) => {
      job[field] = address + this.#branchOffset(i, tensor.fields, positions);
    });
  }

  #placeDirect(tensor: LineTensor): void {
    const { job } = this;
    const positions = isInput(tensor.kind) ? job.length : job.outputLength;
    this.#distances(
      tensor,
      job.linesPerBatch * this.#strands(tensor) * positions * this.#step(tensor),
      positions * this.#step(tensor),
    );
    tensor.fields.forEach((field, i) => {
      job[field] = tensor.data.byteOffset + this.#branchOffset(i, tensor.fields, positions);
    });
  }

  #distances(tensor: LineTensor, batch: number, line: number): void {
    const { job } = this;
    if (isInput(tensor.kind)) {
      job.inputBatchBytes = batch;
      job.inputLineBytes = line;
    } else {
      job.outputBatchBytes = batch;
      job.outputLineBytes = line;
    }
  }

  /** Copy a slab of a tensor to or from its place in staging. */
  #copy(tensor: LineTensor, slab: Slab, place: number): void {
    const { job, engine, call } = this;
    const { arena } = engine.backend;
    const [from, to] = touched(job, tensor.kind, slab);
    if (from === to) return;
    const direction = tensor.kind === "x" || tensor.kind === "dy" ? "in" : "out";
    const positions = isInput(tensor.kind) ? job.length : job.outputLength;
    const samples = this.#step(tensor) / job.sampleBytes;
    const lines = slab.lineTo - slab.lineFrom;
    const rowsPerBatch = job.linesPerBatch * this.#strands(tensor);
    for (let strand = 0; strand < this.#strands(tensor); strand++) {
      const third = tensor.fields.length > 1 ? engine.order[strand]! : 0;
      const first = this.#strands(tensor) > 1 ? third * job.linesPerBatch : 0;
      const rowAt = (i: number): number => {
        const line = slab.lineFrom + i;
        const b = Math.floor(line / job.linesPerBatch);
        return b * rowsPerBatch + first + (line - b * job.linesPerBatch);
      };
      const at = place + strand * lines * (to - from) * this.#step(tensor);
      if (to - from === positions) {
        const width = positions * samples;
        const rows = { field: tensor.name, data: tensor.data, width, direction } as const;
        copyRows(arena, rows, at, lines, rowAt, call.name);
        continue;
      }
      const start = (rowAt(0) * positions + from) * samples;
      intact(tensor.name, tensor.data, start + (to - from) * samples, call.name);
      const data = (tensor.data as Float32Array).subarray(start, start + (to - from) * samples);
      const piece = { field: tensor.name, data, width: data.length, direction } as const;
      copyRows(arena, piece, at, 1, () => 0, call.name);
    }
  }

  /** Point the job at a slab in staging and copy what goes in. Returns where each tensor lies. */
  #stage(slab: Slab): number[] {
    const { job } = this;
    let place = this.#staging;
    return this.#staged.map((tensor) => {
      const at = place;
      const [from, to] = touched(job, tensor.kind, slab);
      // Tensors of which different parts are here have no distance in common, but then there is one line only.
      const whole = slab.chunkTo - slab.chunkFrom === job.chunks;
      const line = whole ? (to - from) * this.#step(tensor) : 0;
      this.#distances(tensor, job.linesPerBatch * line, line);
      const shift = slab.lineFrom * line + from * this.#step(tensor);
      tensor.fields.forEach((field, i) => {
        const lines = (slab.lineTo - slab.lineFrom) * (to - from) * this.#step(tensor);
        const strand = this.#strands(tensor) > 1 ? i * lines : 0;
        const across = this.#strands(tensor) > 1 ? 0 : this.#branchOffset(i, tensor.fields, 1);
        job[field] = at + strand + across - shift;
      });
      if (tensor.kind === "x" || tensor.kind === "dy") this.#copy(tensor, slab, at);
      place += aligned(this.#slabBytes(tensor, slab));
      return at;
    });
  }

  /** Run the job slab by slab; `after` hears of each. */
  start(program: Program, after: (slab: Slab) => void): Running {
    const { job, engine } = this;
    job.program = program.id;
    const running = inSteps(0, this.slabs.length, 1, (index) => {
      const slab = this.slabs[index]!;
      const places = this.#stage(slab);
      job.first = slab.lineFrom * job.chunks + slab.chunkFrom;
      job.units = this.#units(slab);
      const share = job.units / (this.lines * job.chunks);
      const crew = team(engine, job, job.units, share * this.#samples);
      job.threads = crew.threads;
      const finish = (): void => {
        this.#staged.forEach((tensor, i) => {
          if (tensor.kind === "y" || tensor.kind === "dx") this.#copy(tensor, slab, places[i]!);
        });
        after(slab);
      };
      return behind(engine.backend.run(program, job, job.threads, crew.blocking), finish);
    });
    return behind(running, () => this.#returnStates());
  }

  #returnStates(): void {
    const { arena } = this.engine.backend;
    for (const { tensor, copy } of this.#states) {
      if (copy === undefined || tensor.direction === "in") continue;
      const rows = wholeState(tensor, this.job, this.call.batch);
      copyRows(arena, rows, this.#base + copy, 1, () => 0, this.call.name);
    }
  }
}

/** y from x, slab by slab. */
export function runDepthwiseForward(
  engine: DepthwiseEngine,
  program: Program,
  call: DepthwiseCall,
): Running {
  return new DepthwiseCallOnCpu(engine, call, jobKinds.depthwiseForward).start(program, () => {});
}

/** dx; `done` gets the sums that dweight and dbias are, added up in the order of lines and chunks. */
export function runDepthwiseBackward(
  engine: DepthwiseEngine,
  program: Program,
  call: DepthwiseCall,
  done: (sums: TapSums) => void,
): Running {
  const { kernelLength, channels } = engine.problem;
  const filters = engine.order.length * channels;
  const run = new DepthwiseCallOnCpu(engine, call, jobKinds.depthwiseBackward);
  const sums: TapSums = {
    weight: new Float64Array(filters * kernelLength),
    bias: new Float64Array(filters),
  };
  const running = run.start(program, (slab) => addPartials(engine, run.job, slab, sums));
  return behind(running, () => done(sums));
}

/** Add the partial sums of a slab's units. */
function addPartials(engine: DepthwiseEngine, job: Job, slab: Slab, sums: TapSums): void {
  const { arena } = engine.backend;
  const { layout, channels, kernelLength } = engine.problem;
  const across = layout === "BLH";
  const floats = new Float32Array(arena.buffer);
  // From tap to tap and from channel to channel of a unit's sums.
  const [perTap, perChannel] = across ? [channels, 1] : [1, 0];
  const chunks = slab.chunkTo - slab.chunkFrom;
  const units = (slab.lineTo - slab.lineFrom) * chunks;
  for (let unit = 0; unit < units; unit++) {
    const line = slab.lineFrom + Math.floor(unit / chunks);
    const first = across ? 0 : line % job.linesPerBatch;
    engine.order.forEach((third, i) => {
      const at = (job.partials + unit * job.partialBytes + i * job.branchPartialBytes) / 4;
      for (let c = 0; c < (across ? channels : 1); c++) {
        const channel = third * channels + first + c;
        const from = at + c * perChannel;
        for (let j = 0; j < kernelLength; j++) {
          const tap = channel * kernelLength + j;
          sums.weight[tap] = sums.weight[tap]! + floats[from + j * perTap]!;
        }
        sums.bias[channel] = sums.bias[channel]! + floats[from + kernelLength * perTap]!;
      }
    });
  }
}
