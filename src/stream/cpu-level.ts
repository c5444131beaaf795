/** One level of a stream on a backend: its program, the spectra of its taps, and what it remembers of the input. */

import type { CpuBackend, Program } from "../backend/cpu/backend.ts";
import type { Jobs } from "../backend/cpu/job.ts";
import { jobKinds, streamJob } from "../backend/cpu/job.ts";
import type { Block } from "../backend/cpu/memory.ts";
import { aligned } from "../backend/cpu/memory.ts";
import { blockingSeconds } from "../calls/cpu-threads.ts";
import { programSource } from "../kernels/cpu/dense-program.ts";
import { bodyCount, tileCount } from "../kernels/cpu/stages.ts";
import { transformBytes } from "../plan/cpu/plan.ts";
import type { StreamLevel } from "../plan/cpu/stream-levels.ts";
import { levelSeconds, streamPart } from "../plan/cpu/stream-levels.ts";
import type { DeviceSpec } from "../plan/device.ts";
import { intact } from "../tensors/check.ts";
import type { StreamRows } from "./engine.ts";

const floatBytes = 4;
const view = new Float32Array(0);

/** Blocks predicted shorter than this, in seconds, stay on the calling thread. */
const sharedSeconds = 0.5e-3;

/** Part of the work on a block: its transform, products with partitions [from, to), the sum's transform back. */
export interface LevelStep {
  readonly analyse: boolean;
  readonly from: number;
  readonly to: number;
  readonly synthesise: boolean;
}

/** Where the arrays of a level lie. */
interface LevelPlaces {
  readonly spectra: number;
  readonly ring: number;
  readonly sums: number;
  readonly windows: number;
  readonly outputs: number;
  readonly bytes: number;
}

function placesOf(
  { plan, hop, partitions }: StreamLevel,
  { batch, channels }: StreamRows,
): LevelPlaces {
  const rows = batch * channels;
  const transform = transformBytes(plan);
  let end = 0;
  const take = (bytes: number): number => {
    const at = end;
    end += aligned(bytes);
    return at;
  };
  return {
    spectra: take(channels * partitions * transform),
    ring: take(rows * partitions * transform),
    sums: take(rows * transform),
    windows: take(rows * 2 * plan.points * floatBytes),
    // Two blocks: one is read while the next is made.
    outputs: take(2 * rows * hop * floatBytes),
    bytes: end,
  };
}

/** A level at work. Call everything inside the backend's exclusive section. */
export class LevelState {
  readonly level: StreamLevel;
  readonly #backend: CpuBackend;
  readonly #program: Program;
  readonly #rows: StreamRows;
  readonly #places: LevelPlaces;
  readonly #block: Block;
  readonly #job: Jobs["stream"];
  readonly #threads: number;
  readonly #blocking: boolean;
  /** Samples in the newest block so far. */
  #fill = 0;

  private constructor(
    level: StreamLevel,
    backend: CpuBackend,
    threads: number,
    program: Program,
    rows: StreamRows,
    block: Block,
    device: DeviceSpec,
  ) {
    this.level = level;
    this.#backend = backend;
    this.#program = program;
    this.#rows = rows;
    this.#block = block;
    this.#places = placesOf(level, rows);
    const { plan, hop, partitions } = level;
    const transform = transformBytes(plan);
    const at = block.address;
    this.#job = {
      ...streamJob,
      ...{ kind: jobKinds.stream, program: program.id, table: program.table!.address },
      ...{ channels: rows.channels, units: rows.batch * rows.channels },
      ...{ tiles: tileCount(plan), bodies: bodyCount(plan, backend.lanes) },
      ...{ transformBytes: transform, spectrumBytes: partitions * transform, partitions },
      ...{ inputBytes: 2 * plan.points * floatBytes, outputBytes: hop * floatBytes },
      ...{ spectra: at + this.#places.spectra, ring: at + this.#places.ring },
      ...{ sums: at + this.#places.sums, u: at + this.#places.windows },
    };
    // A row goes to one thread. Others help with long blocks only: a block of live audio would wait for a thread that
    // the system runs late, 5 ms one time in a hundred where the work takes 0.3 (EPYC 7003, two cores, busy).
    const seconds = levelSeconds(level, device);
    const several = Math.min(threads, rows.batch * rows.channels);
    this.#threads = level.first === 0 && seconds >= sharedSeconds ? several : 1;
    this.#blocking = seconds < blockingSeconds;
  }

  /** Bytes in the backend's memory. */
  get bytes(): number {
    return this.#block.bytes;
  }

  /** Compile, and transform the taps: `taps` holds all taps of every channel, in the order of lags. */
  static async open(
    level: StreamLevel,
    backend: CpuBackend,
    threads: number,
    rows: StreamRows,
    taps: readonly Float32Array[],
    device: DeviceSpec,
    call: string,
  ): Promise<LevelState> {
    const spec = { part: streamPart(level), adds: false, plan: level.plan };
    const types = { dtype: "float32", kernelDtype: "float32" } as const;
    const program = await backend.program(
      programSource({ kind: "stream", ...spec, ...types }),
      call,
    );
    let block: Block | undefined;
    try {
      block = backend.allocate(placesOf(level, rows).bytes, call);
      const state = new LevelState(level, backend, threads, program, rows, block, device);
      await state.#transformTaps(taps, call);
      await state.#warm();
      state.reset();
      return state;
    } catch (error) {
      if (block) backend.arena.free(block);
      backend.releaseProgram(program);
      throw error;
    }
  }

  async #transformTaps(taps: readonly Float32Array[], call: string): Promise<void> {
    const { arena } = this.#backend;
    const { level } = this;
    const bytes = level.taps * floatBytes;
    const staging = this.#backend.allocate(level.partitions * bytes, call);
    try {
      for (const [h, row] of taps.entries()) {
        intact("k", row, 1, call);
        const memory = arena.view(view);
        const at = staging.address / floatBytes;
        memory.fill(0, at, at + level.partitions * level.taps);
        memory.set(row.subarray(level.first, level.first + level.partitions * level.taps), at);
        const job: Jobs["spectra"] = {
          ...this.#job,
          ...{ kind: jobKinds.spectra, units: level.partitions, threads: 1 },
          ...{ k: staging.address, kernelBytes: bytes, spectrumBytes: this.#job.transformBytes },
          spectra: this.#job.spectra + h * this.#job.spectrumBytes,
        };
        await this.#backend.run(this.#program, job, 1, true);
      }
    } finally {
      arena.free(staging);
    }
  }

  /**
   * Run a block of one row, of whatever the memory holds: a function is compiled when it first runs, and blocks of live audio
   * have no time for that (the first one takes 1.0 ms without, 0.5 ms with; EPYC 7003, Node 20).
   */
  #warm(): void | Promise<void> {
    const all = { analyse: 1, termFrom: 0, termTo: this.#job.partitions, synthesise: 1 };
    const job: Jobs["stream"] = {
      ...this.#job,
      ...all,
      slot: 0,
      y: this.#outputs(0),
      units: 1,
      threads: 1,
    };
    return this.#backend.run(this.#program, job, 1, true);
  }

  /** Forget the input. */
  reset(): void {
    const { arena } = this.#backend;
    const { ring, bytes } = this.#places;
    const from = (this.#block.address + ring) / floatBytes;
    arena.view(view).fill(0, from, (this.#block.address + bytes) / floatBytes);
    this.#fill = 0;
    this.#job.slot = this.#job.partitions - 1;
  }

  /** Take `count` samples of each row into the newest block; `count` may not pass its end. */
  take(rows: readonly Float32Array[], from: number, count: number): void {
    const memory = this.#backend.arena.view(view);
    const span = 2 * this.level.plan.points;
    const start = (this.#block.address + this.#places.windows) / floatBytes;
    const at = start + span - this.level.hop + this.#fill;
    rows.forEach((row, r) => {
      memory.set(count === row.length ? row : row.subarray(from, from + count), at + r * span);
    });
    this.#fill += count;
  }

  /**
   * Some of the work on the newest block that is whole; its outputs go to buffer `parity`. With `now` the calling thread
   * has done it when this returns.
   */
  run(slice: LevelStep, parity: number, now = false): void | Promise<void> {
    const job = this.#job;
    job.threads = now ? 1 : this.#backend.threadsFor(this.#threads);
    if (slice.analyse) job.slot = (job.slot + 1) % job.partitions;
    job.analyse = Number(slice.analyse);
    job.termFrom = slice.from;
    job.termTo = slice.to;
    job.synthesise = Number(slice.synthesise);
    job.y = this.#outputs(parity);
    const blocking = now || this.#blocking;
    const running = this.#backend.run(this.#program, job, job.threads, blocking);
    if (!slice.analyse) return running;
    return running ? running.then(() => this.#shift()) : this.#shift();
  }

  /** The block that was transformed is the past of the next. */
  #shift(): void {
    const memory = this.#backend.arena.view(view);
    const span = 2 * this.level.plan.points;
    const start = (this.#block.address + this.#places.windows) / floatBytes;
    const rows = this.#rows.batch * this.#rows.channels;
    for (let at = start; at < start + rows * span; at += span) {
      memory.copyWithin(at, at + this.level.hop, at + span);
    }
    this.#fill = 0;
  }

  #outputs(parity: number): number {
    const rows = this.#rows.batch * this.#rows.channels;
    const size = rows * this.level.hop * floatBytes;
    return this.#block.address + this.#places.outputs + parity * size;
  }

  /** Outputs of row `row` of output block `parity` from the `from`-th on, in place of what `out` holds. */
  output(parity: number, row: number, from: number, out: Float32Array): void {
    const at = this.#outputAt(parity, row, from);
    out.set(this.#backend.arena.view(view).subarray(at, at + out.length));
  }

  /** The same, added to it. No view is made: live audio has no time to spare for their collection. */
  addOutput(parity: number, row: number, from: number, out: Float32Array): void {
    const at = this.#outputAt(parity, row, from);
    const memory = this.#backend.arena.view(view);
    for (let i = 0; i < out.length; i++) out[i]! += memory[at + i]!;
  }

  #outputAt(parity: number, row: number, from: number): number {
    return this.#outputs(parity) / floatBytes + row * this.level.hop + from;
  }

  close(): void {
    this.#backend.arena.free(this.#block);
    this.#backend.releaseProgram(this.#program);
  }
}
