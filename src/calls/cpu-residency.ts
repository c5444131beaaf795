/** An object's place on a CPU backend, the same for all operations: programs that it has compiled, memory that is its own. */
import type { CpuBackend, CpuUser, Program } from "../backend/cpu/backend.ts";
import type { Block } from "../backend/cpu/memory.ts";
import type { Dtype } from "../dtype.ts";
import { bytesPerSample } from "../dtype.ts";
import type { ProgramSource } from "../kernels/cpu/program-source.ts";
import { zeros } from "../tensors/results.ts";
import { lendingBackend } from "./cpu-open.ts";

/** Programs that go together, made where they are first asked for. */
type Sources = () => readonly ProgramSource[];

/** Programs and memory of one object on one backend. */
export class CpuResidency implements CpuUser {
  /** Work memory that the last call took. */
  workspaceBytes = 0;
  readonly backend: CpuBackend;
  readonly threads: number;
  /** Memory that goes with the object: arrays that it lends, spectra that it keeps. */
  readonly blocks: Set<Block> = new Set();
  readonly #programs = new Map<string, readonly Program[]>();

  constructor(backend: CpuBackend, threads: number) {
    this.backend = backend;
    this.threads = threads;
    backend.retain(this);
  }

  /** Programs: at once where they are compiled. */
  compile(
    key: string,
    sources: Sources,
    call: string,
  ): readonly Program[] | Promise<readonly Program[]> {
    return this.#programs.get(key) ?? this.#compileLater(key, sources, call);
  }

  async #compileLater(key: string, sources: Sources, call: string): Promise<readonly Program[]> {
    const ready: Program[] = [];
    try {
      for (const source of sources()) ready.push(await this.backend.program(source, call));
      return this.compileNow(key, sources, call);
    } finally {
      for (const p of ready) this.backend.releaseProgram(p);
    }
  }

  /** Programs, compiled at once if need be. */
  compileNow(key: string, sources: Sources, call: string): readonly Program[] {
    const found = this.#programs.get(key);
    if (found) return found;
    const programs: Program[] = [];
    try {
      for (const source of sources()) programs.push(this.backend.programNow(source, call));
    } catch (error) {
      for (const p of programs) this.backend.releaseProgram(p);
      throw error;
    }
    this.#programs.set(key, programs);
    return programs;
  }

  /** A zeroed array in the backend's memory where that is shared, else an ordinary one, which calls copy. */
  lend(size: number, dtype: Dtype, call: string): Float32Array | Uint16Array {
    const { backend } = this;
    if (!backend.settings.shared) return zeros(dtype, size, call);
    const block = backend.lend(size * bytesPerSample(dtype), call);
    this.blocks.add(block);
    const { buffer } = backend.arena;
    const array =
      dtype === "float32"
        ? new Float32Array(buffer, block.address, size)
        : new Uint16Array(buffer, block.address, size);
    return array.fill(0);
  }

  /** Give everything back once the calls before have ended. */
  leave(): void {
    const { backend } = this;
    void backend.exclusive(() => {
      for (const block of this.blocks) backend.arena.free(block);
      for (const p of [...this.#programs.values()].flat()) backend.releaseProgram(p);
      backend.release(this);
    });
  }
}

/** Where an object must be to lend arrays: it moves, by `move`, where its backend's memory cannot be lent. */
export function lender<R extends CpuResidency>(
  at: R,
  call: string,
  move: (backend: CpuBackend) => R,
): R {
  const backend = lendingBackend(at.backend, call);
  if (backend === at.backend) return at;
  const moved = move(backend);
  at.leave();
  return moved;
}
