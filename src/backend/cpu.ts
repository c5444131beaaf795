/**
 * The CPU backend: one linear memory, compiled programs, twiddle tables, work memory and threads, shared by all
 * convolutions with the same settings. WebAssembly with relaxed SIMD or SIMD, or plain JavaScript.
 */
import { printJavaScript } from "../kernels/js/print.ts";
import type { ConstantTable, ProgramSource } from "../kernels/source.ts";
import { printWasm } from "../kernels/wasm/print.ts";
import { execute, soloTickets } from "./executor.ts";
import type { Instructions } from "./features.ts";
import type { Job } from "./job.ts";
import type { Block, LinearMemory, WorkLayout } from "./memory.ts";
import { Arena, maxPages, PlainMemory } from "./memory.ts";
import { Pool } from "./pool.ts";
import type { Kernels } from "./recipe.ts";

/** A compiled program and its constants, ready on every thread. */
export interface Program {
  readonly id: number;
  readonly key: string;
  readonly table: Block | undefined;
  kernels: Kernels;
  /** Kernels in plain JavaScript are made for one buffer, and again when the memory has moved. */
  readonly factory: ((buffer: ArrayBufferLike) => Kernels) | undefined;
  buffer: ArrayBufferLike;
  uses: number;
}

/** Settings that convolutions share a backend by. */
export interface CpuSettings {
  readonly threads: number;
  readonly instructions: Instructions;
  /**
   * Whether the memory is shared, which threads need and typed arrays lent to users: views of unshared memory die when
   * it grows. One thread otherwise does without, since V8 copies to and from shared memory word by word, three to seven
   * times slower.
   */
  readonly shared: boolean;
}

/** Programs kept after their last user is gone, for the next one. */
const idlePrograms = 16;

const open = new Map<string, CpuBackend>();

/** Backends are opened once per settings and kept: their workers do not hold the process. */
export function openCpu(settings: CpuSettings): CpuBackend {
  const key = JSON.stringify([settings.instructions, settings.threads, settings.shared]);
  let backend = open.get(key);
  if (!backend) {
    backend = new CpuBackend(settings);
    open.set(key, backend);
  }
  return backend;
}

function openMemory({ instructions, shared }: CpuSettings): LinearMemory {
  if (instructions === "javascript") return new PlainMemory();
  return shared
    ? new WebAssembly.Memory({ initial: 1, maximum: maxPages, shared: true })
    : new WebAssembly.Memory({ initial: 1 });
}

/** Memory, programs and threads of one setting. */
export class CpuBackend {
  readonly settings: CpuSettings;
  readonly arena: Arena;
  readonly lanes: 1 | 4;
  #pool: Pool | undefined;
  readonly #programs = new Map<string, Program>();
  readonly #tables = new Map<string, { block: Block; uses: number }>();
  #nextProgram = 1;
  #workspace: Block | undefined;
  /** What lies in it. */
  #layout: WorkLayout | undefined;
  #users = 0;
  /** The end of the last call in the queue. */
  #last: Promise<unknown> | undefined;

  constructor(settings: CpuSettings) {
    this.settings = settings;
    this.arena = new Arena(openMemory(settings));
    this.lanes = settings.instructions === "javascript" ? 1 : 4;
  }

  /** Count a user in or out; work memory goes with the last one. */
  retain(): void {
    this.#users++;
  }

  release(): void {
    this.#users--;
    if (this.#users > 0) return;
    if (this.#workspace) this.arena.free(this.#workspace);
    this.#workspace = undefined;
    for (const p of [...this.#programs.values()]) if (p.uses === 0) this.#drop(p);
  }

  async #startPool(): Promise<void> {
    const pool = await Pool.start(this.settings.threads, this.arena.memory as WebAssembly.Memory);
    this.#pool = pool;
    for (const p of this.#programs.values()) {
      await pool.send({ type: "program", id: p.id, module: this.#modules.get(p.id)! });
    }
  }

  readonly #modules = new Map<number, WebAssembly.Module>();

  /** Run `work` when no other call is running: at once where possible, else in its turn. */
  exclusive<T>(work: () => T | Promise<T>): T | Promise<T> {
    const turn = this.#last ? this.#last.then(work) : work();
    if (!(turn instanceof Promise)) return turn;
    // The next call waits for this one, however it ends.
    const ended: Promise<unknown> = turn
      .catch(() => {})
      .then(() => {
        if (this.#last === ended) this.#last = undefined;
      });
    this.#last = ended;
    return turn;
  }

  /** Compile a program on every thread, or find it compiled. Call inside `exclusive`. */
  async program(source: ProgramSource, call: string): Promise<Program> {
    const { key } = source;
    const found = this.#programs.get(key);
    if (found) {
      found.uses++;
      return found;
    }
    const id = this.#nextProgram++;
    const table = source.table && this.#table(source.table, call);
    const { kernels, factory } = await this.#compile(source, id);
    const program: Program = {
      id,
      key,
      table,
      kernels,
      factory,
      buffer: this.arena.memory.buffer,
      uses: 1,
    };
    this.#programs.set(key, program);
    return program;
  }

  async #compile(
    { build }: ProgramSource,
    id: number,
  ): Promise<Pick<Program, "kernels" | "factory">> {
    const source = build(this.lanes);
    if (this.lanes === 1) {
      const factory = new Function("memory", printJavaScript(source)) as (
        memory: ArrayBufferLike,
      ) => Kernels;
      return { kernels: factory(this.arena.memory.buffer), factory };
    }
    const relaxed = this.settings.instructions === "relaxed-simd";
    const binary = printWasm(source, {
      relaxed,
      sharedPages: this.settings.shared ? maxPages : undefined,
    });
    const module = await WebAssembly.compile(binary as Uint8Array<ArrayBuffer>);
    const instance = await WebAssembly.instantiate(module, {
      env: { memory: this.arena.memory as WebAssembly.Memory },
    });
    if (this.settings.threads > 1) {
      this.#modules.set(id, module);
      await (await this.#livePool()).send({ type: "program", id, module });
    }
    return { kernels: instance.exports as unknown as Kernels, factory: undefined };
  }

  releaseProgram(program: Program): void {
    program.uses--;
    const idle = [...this.#programs.values()].filter((p) => p.uses === 0);
    if (idle.length > idlePrograms) this.#drop(idle[0]!);
  }

  #drop(program: Program): void {
    this.#programs.delete(program.key);
    this.#modules.delete(program.id);
    for (const [key, t] of this.#tables) {
      if (t.block !== program.table) continue;
      t.uses--;
      if (t.uses > 0) break;
      this.arena.free(t.block);
      this.#tables.delete(key);
      break;
    }
    if (this.#pool?.usable)
      void this.exclusive(() => this.#pool?.send({ type: "forget", id: program.id }));
  }

  #table({ key, size, write }: ConstantTable, call: string): Block {
    const found = this.#tables.get(key);
    if (found) {
      found.uses++;
      return found.block;
    }
    const block = this.arena.allocate(4 * size, call);
    write(new Float32Array(this.arena.memory.buffer, block.address, size), this.lanes);
    this.#tables.set(key, { block, uses: 1 });
    return block;
  }

  /** Work memory for a layout, valid until the next call of this or the end of the exclusive section: where it begins. */
  workspace(layout: WorkLayout, call: string): number {
    const { bytes } = layout;
    if (!this.#workspace || this.#workspace.bytes < bytes) {
      if (this.#workspace) this.arena.free(this.#workspace);
      this.#workspace = undefined;
      this.#workspace = this.arena.allocate(bytes, call);
    }
    this.#layout = layout;
    layout.seal(this.arena.memory, this.#workspace.address);
    return this.#workspace.address;
  }

  #checkWorkspace(): void {
    if (this.#workspace) this.#layout?.check(this.arena.memory, this.#workspace.address);
  }

  /** Bytes of work memory now. */
  get workspaceBytes(): number {
    return this.#workspace?.bytes ?? 0;
  }

  /** A pool in working order: a broken one is replaced. */
  async #livePool(): Promise<Pool> {
    if (!this.#pool?.usable) {
      await this.#pool?.close();
      this.#pool = undefined;
      await this.#startPool();
    }
    return this.#pool!;
  }

  /** The workers, for tests that end one. */
  get pool(): Pool | undefined {
    return this.#pool;
  }

  /**
   * Run a job: on the calling thread, on it and workers (`blocking`), or on workers alone.
   * @throws BackendError when a worker dies.
   */
  run(program: Program, job: Job, threads: number, blocking: boolean): void | Promise<void> {
    if (program.factory && program.buffer !== this.arena.memory.buffer) {
      program.buffer = this.arena.memory.buffer;
      program.kernels = program.factory(program.buffer);
    }
    const running = this.#start(program, job, threads, blocking);
    return running ? running.then(() => this.#checkWorkspace()) : this.#checkWorkspace();
  }

  #start(program: Program, job: Job, threads: number, blocking: boolean): void | Promise<void> {
    if (threads === 1) return execute(program.kernels, job, 0, soloTickets(), this.#clear);
    const pool = this.#pool;
    if (pool?.usable && blocking) return pool.runWith(job, threads, program.kernels, this.#clear);
    return this.#runOnWorkers(job, threads);
  }

  async #runOnWorkers(job: Job, threads: number): Promise<void> {
    const pool = await this.#livePool();
    return pool.run(job, threads);
  }

  readonly #clear = (from: number, to: number): void => {
    new Uint8Array(this.arena.memory.buffer, from, to - from).fill(0);
  };
}
