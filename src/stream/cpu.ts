/** Streams on the CPU: levels of partitioned convolution, the work of later ones spread over the blocks of the first. */
import type { CpuBackend, CpuUser } from "../backend/cpu/backend.ts";
import { addRecipes } from "../backend/cpu/executor.ts";
import type { Instructions } from "../backend/cpu/features.ts";
import { streamRecipes } from "../backend/cpu/recipe-stream.ts";
import { openCpuFor } from "../calls/cpu-open.ts";
import { deviceFor } from "../calls/measured.ts";
import { formatStream, streamLevels } from "../plan/cpu/stream-levels.ts";
import type { LevelStep } from "./cpu-level.ts";
import { LevelState } from "./cpu-level.ts";
import type { StreamEngine, StreamRows, StreamTaps } from "./engine.ts";
import type { StreamOptions } from "./options.ts";

/** A stream's blocks on the CPU. */
export class CpuStream implements StreamEngine {
  readonly plan: string;
  readonly blockLength: number;
  readonly device = undefined;
  readonly #backend: CpuBackend;
  readonly #user: CpuUser;
  #levels: readonly LevelState[] = [];

  private constructor(backend: CpuBackend, threads: number, plan: string, blockLength: number) {
    this.#backend = backend;
    this.#user = { threads, workspaceBytes: 0 };
    this.plan = plan;
    this.blockLength = blockLength;
    backend.retain(this.#user);
  }

  /** Plan, compile, transform the taps. */
  static async open(
    taps: StreamTaps,
    rows: StreamRows,
    options: StreamOptions,
    call: string,
  ): Promise<CpuStream> {
    addRecipes(streamRecipes);
    const { backend, threads } = openCpuFor(options, call);
    const device = deviceFor(backend.settings.instructions);
    const levels = streamLevels(taps[0]!.length, options.blockLength, device);
    const stream = new CpuStream(backend, threads, formatStream(levels), levels[0]!.hop);
    try {
      await backend.exclusive(async () => {
        for (const level of levels) {
          const state = await LevelState.open(level, backend, threads, rows, taps, device, call);
          stream.#levels = [...stream.#levels, state];
        }
      });
    } catch (error) {
      stream.leave();
      throw error;
    }
    return stream;
  }

  get threads(): number {
    return this.#backend.threadsFor(this.#user.threads);
  }

  get instructions(): Instructions {
    return this.#backend.settings.instructions;
  }

  get bytes(): number {
    return this.#levels.reduce((sum, l) => sum + l.bytes, 0);
  }

  exclusive<T>(work: () => T | Promise<T>): T | Promise<T> {
    return this.#backend.exclusive(work);
  }

  take(rows: readonly Float32Array[], from: number, count: number): void {
    for (const level of this.#levels) level.take(rows, from, count);
  }

  async run(block: number): Promise<void> {
    for (const { state, slice, parity } of this.#due(block)) {
      const running = state.run(slice, parity);
      if (running) await running;
    }
  }

  runNow(block: number): void {
    for (const { state, slice, parity } of this.#due(block)) void state.run(slice, parity, true);
  }

  /** What is due with a block: all of the first level's work on it, a share of the others' on theirs. */
  *#due(block: number): Iterable<{ state: LevelState; slice: LevelStep; parity: number }> {
    for (const [index, state] of this.#levels.entries()) {
      const { partitions, hop } = state.level;
      if (index === 0) {
        yield { state, slice: wholeOf(state), parity: 0 };
        continue;
      }
      const steps = hop / this.blockLength;
      const own = Math.floor((block + 1) / steps) - 1;
      if (own < 0) continue;
      yield { state, slice: sliceOf((block + 1) % steps, steps, partitions), parity: own % 2 };
    }
  }

  output(block: number, row: number, from: number, out: Float32Array): void {
    for (const [index, state] of this.#levels.entries()) {
      if (index === 0) {
        state.output(0, row, from, out);
        continue;
      }
      const steps = state.level.hop / this.blockLength;
      const own = Math.floor(block / steps) - 2;
      if (own < 0) continue;
      const at = (block % steps) * this.blockLength + from;
      state.addOutput(own % 2, row, at, out);
    }
  }

  reset(): void {
    for (const level of this.#levels) level.reset();
  }

  leave(): void {
    void this.#backend.exclusive(() => {
      for (const level of this.#levels) level.close();
      this.#backend.release(this.#user);
    });
  }
}

/** All the work on a block. */
function wholeOf({ level }: LevelState): LevelStep {
  return { analyse: true, from: 0, to: level.partitions, synthesise: true };
}

/**
 * The share of step `step` of a block's work over `steps` steps: its transform in the first, so that the block may be
 * overwritten, the transform back in the last.
 */
function sliceOf(step: number, steps: number, partitions: number): LevelStep {
  const from = step === 0 ? 0 : Math.floor((partitions * (step - 1)) / (steps - 1));
  const to = step === 0 ? 0 : Math.floor((partitions * step) / (steps - 1));
  return { analyse: step === 0, from, to, synthesise: step === steps - 1 };
}
