/**
 * The CPU backend: one linear memory, compiled programs, twiddle tables, work memory and threads, shared by all
 * convolutions with the same settings. WebAssembly with relaxed SIMD or SIMD, or plain JavaScript.
 */

import { BackendError, UnsupportedError } from "../../errors.ts";
import { printWasm } from "../../kernels/cpu/print/wasm.ts";
import type { ConstantTable, ProgramSource } from "../../kernels/cpu/program-source.ts";
import type { KernelFactory } from "./compile.ts";
import { compileJavaScript, compileWasm, compileWasmNow, loadPrinter } from "./compile.ts";
import type { WorkerProgram } from "./control.ts";
import { execute, SoloTickets, soloItems } from "./executor.ts";
import type { Instructions } from "./features.ts";
import { features } from "./features.ts";
import type { Job } from "./job.ts";
import type { Block, WorkLayout } from "./memory.ts";
import { Arena, maxPages, openWasmMemory, PlainMemory, WorkMemory } from "./memory.ts";
import { begin, isDue, pause, withoutPauses } from "./pauses.ts";
import type { Pool } from "./pool.ts";
import type { Kernels } from "./recipe.ts";

/** A compiled program and its constants, ready on every thread. */
export interface Program {
  readonly id: number;
  readonly key: string;
  readonly table: Block | undefined;
  kernels: Kernels;
  /** Kernels in plain JavaScript are made for one buffer, and again when the memory has moved. */
  readonly factory: KernelFactory | undefined;
  buffer: ArrayBufferLike;
  uses: number;
}

/** Settings that convolutions share a backend by. */
export interface CpuSettings {
  readonly instructions: Instructions;
  /**
   * Whether the memory is shared, which threads need and typed arrays lent to users: views of unshared memory die when
   * it grows. One thread otherwise does without, since V8 copies to and from shared memory word by word, three to seven
   * times slower.
   */
  readonly shared: boolean;
  /** Where workers start from, if not from the library's own script. */
  readonly workerUrl?: string | undefined;
}

/** An object that uses a backend. */
export interface CpuUser {
  /** Threads that it was asked to use. */
  readonly threads: number;
  /** Work memory that its last call took, in bytes. */
  readonly workspaceBytes: number;
}

/** Programs kept after their last user is gone, for the next one. */
const idlePrograms = 16;
/** Reasons why workers did not start that the console has been told: backends come and go. */
const warnedOf = new Set<string>();

/** A backend and its threads end so long after their last user, in milliseconds: loops that create and dispose find them. */
const grace = 1_000;

/** Most threads: more than a few a core only wait for each other. */
export const mostThreads: number = 4 * features().cores;

const open = new Map<string, CpuBackend>();

/**
 * The backend of some settings: opened once and kept until a second after its last user has gone.
 * @throws UnsupportedError where there is no memory for it, naming `call`.
 */
export function openCpu(settings: CpuSettings, call: string): CpuBackend {
  const key = JSON.stringify([settings.instructions, settings.shared, settings.workerUrl]);
  let backend = open.get(key);
  if (!backend) {
    const opened = new CpuBackend(settings, call, () => {
      if (open.get(key) === opened) open.delete(key);
    });
    backend = opened;
    open.set(key, backend);
  }
  return backend;
}

/** Memory, programs and threads of one setting. */
export class CpuBackend {
  readonly settings: CpuSettings;
  readonly arena: Arena;
  readonly lanes: 1 | 4;
  #pool: Pool | undefined;
  /** Why there are no workers, where they did not start. */
  #refusal: string | undefined;
  /** Whether they did, the last time. */
  #haveStarted = false;
  readonly #programs = new Map<string, Program>();
  readonly #tables = new Map<string, { block: Block; uses: number }>();
  #nextProgram = 1;
  /** Work memory of the call in turn, and of whoever waits for no turn while there is one. */
  readonly #turnWork: WorkMemory;
  #work: WorkMemory;
  readonly #users = new Set<CpuUser>();
  readonly #onClose: () => void;
  #closing: ReturnType<typeof setTimeout> | undefined;
  /** The end of the last call in the queue. */
  #last: Promise<unknown> | undefined;
  /** Whether one is between two of its steps. */
  #isBusy = false;

  /** @throws UnsupportedError where there is no memory for it, naming `call`. */
  constructor(settings: CpuSettings, call: string, onClose: () => void) {
    this.settings = settings;
    this.#onClose = onClose;
    this.lanes = settings.instructions === "javascript" ? 1 : 4;
    if (this.lanes === 1) {
      this.arena = new Arena(new PlainMemory());
    } else {
      const { memory, pages } = openWasmMemory(settings.shared, call);
      this.arena = new Arena(memory, pages);
    }
    this.#work = this.#turnWork = new WorkMemory(this.arena);
    this.#closeLater();
  }

  /** Count a user in. */
  retain(user: CpuUser): void {
    this.#users.add(user);
  }

  /** Count a user out. Work memory that no other one needs goes with it; programs, threads and the backend a little later. */
  release(user: CpuUser): void {
    this.#users.delete(user);
    const needed = Math.max(0, ...[...this.#users].map((u) => u.workspaceBytes));
    if (this.#turnWork.bytes > needed) this.#turnWork.free();
    this.#closeLater();
  }

  #dropIdlePrograms(): void {
    for (const p of [...this.#programs.values()]) if (p.uses === 0) this.#drop(p);
  }

  /** End what nobody uses: threads, programs with their tables, and the backend. */
  #close(): void | Promise<void> {
    const users = [...this.#users];
    if (users.length === 0) this.#onClose();
    const pool = this.#pool;
    if (!pool || users.some((u) => u.threads > 1)) return this.#dropIdlePrograms();
    this.#pool = undefined;
    return pool.close().then(() => this.#dropIdlePrograms());
  }

  /** After the grace, end what nobody uses. */
  #closeLater(): void {
    // An AudioWorklet has no timers, and no threads.
    if (typeof setTimeout === "undefined") return;
    clearTimeout(this.#closing);
    // In its turn: workers may be reading messages.
    this.#closing = setTimeout(() => void this.exclusive(() => this.#close()), grace);
    // Node: what waits to be closed keeps no process alive.
    (this.#closing as { unref?: () => void }).unref?.();
  }

  /** Whether no call is running, nor waits for its turn. */
  get idle(): boolean {
    return this.#last === undefined;
  }

  /** Run `work` when no other call is running: at once where possible, else in its turn. */
  exclusive<T>(work: () => T | Promise<T>): T | Promise<T> {
    const start = (): T | Promise<T> => {
      begin();
      this.#turnWork.next();
      const working = work();
      if (working instanceof Promise) {
        this.#isBusy = true;
        const over = (): void => {
          this.#isBusy = false;
        };
        working.then(over, over);
      }
      return working;
    };
    const turn = this.#last ? this.#last.then(start) : start();
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

  /**
   * Do `work` at once, without pauses and on this thread: before the calls in the queue, and between two steps of the one in turn,
   * whose work memory stays as it is.
   * @throws UnsupportedError in plain JavaScript while a call is under way: memory that grows would leave its kernels behind.
   */
  now<T>(work: () => T, call: string): T {
    if (!this.#isBusy) {
      this.#turnWork.next();
      return withoutPauses(work);
    }
    if (this.lanes === 1) {
      throw new UnsupportedError({
        call,
        requirement: "instructions 'javascript' to itself, as long as it returns no promise",
        value: "a call under way that does",
        remedy: "Await the promises of the calls before.",
      });
    }
    const before = this.#work;
    this.#work = new WorkMemory(this.arena);
    try {
      return withoutPauses(work);
    } finally {
      this.#work.free();
      this.#work = before;
    }
  }

  readonly #modules = new Map<number, WebAssembly.Module>();
  /** Programs that workers have yet to be given. */
  #unsent: WorkerProgram[] = [];

  /** Compile a program, or find it compiled. */
  async program(source: ProgramSource, call: string): Promise<Program> {
    if (this.lanes === 1) await loadPrinter();
    else if (!this.#programs.has(source.key)) {
      const module = await compileWasm(this.#print(source), call);
      // Another call may have compiled it meanwhile.
      return this.#found(source) ?? this.#add(source, module, call);
    }
    return this.programNow(source, call);
  }

  /** The same at once. */
  programNow(source: ProgramSource, call: string): Program {
    const found = this.#found(source);
    if (found) return found;
    return this.#add(source, this.lanes > 1 && compileWasmNow(this.#print(source), call), call);
  }

  #found({ key }: ProgramSource): Program | undefined {
    const found = this.#programs.get(key);
    if (found) found.uses++;
    return found;
  }

  #print({ build }: ProgramSource): Uint8Array {
    return printWasm(build(this.lanes), {
      relaxed: this.settings.instructions === "relaxed-simd",
      sharedPages: this.settings.shared ? maxPages : undefined,
    });
  }

  #add(source: ProgramSource, module: WebAssembly.Module | false, call: string): Program {
    const { buffer } = this.arena.memory;
    const factory = module ? undefined : compileJavaScript(source.build(this.lanes), call);
    const kernels = module ? this.#instance(module) : factory!(buffer);
    const table = source.table && this.#table(source.table, call);
    const id = this.#nextProgram++;
    const program: Program = { id, key: source.key, table, kernels, factory, buffer, uses: 1 };
    this.#programs.set(source.key, program);
    if (module && this.settings.shared) {
      this.#modules.set(id, module);
      this.#unsent.push({ type: "program", id, module });
    }
    return program;
  }

  #instance(module: WebAssembly.Module): Kernels {
    const env = { memory: this.arena.memory as WebAssembly.Memory };
    return new WebAssembly.Instance(module, { env }).exports as unknown as Kernels;
  }

  releaseProgram(program: Program): void {
    program.uses--;
    const idle = [...this.#programs.values()].filter((p) => p.uses === 0);
    if (idle.length > idlePrograms) this.#drop(idle[0]!);
  }

  #drop(program: Program): void {
    this.#programs.delete(program.key);
    this.#modules.delete(program.id);
    this.#unsent = this.#unsent.filter(({ id }) => id !== program.id);
    for (const [key, t] of this.#tables) {
      if (t.block !== program.table) continue;
      t.uses--;
      if (t.uses > 0) break;
      this.arena.free(t.block);
      this.#tables.delete(key);
      break;
    }
    if (this.#pool?.usable) void this.exclusive(() => this.#forget(program.id));
  }

  /** Let workers forget a program. Those that have died have: the next call that needs them hears of it. */
  async #forget(id: number): Promise<void> {
    try {
      await this.#pool?.send({ type: "forget", id });
    } catch (error) {
      if (!(error instanceof BackendError)) throw error;
    }
  }

  #table({ key, size, write }: ConstantTable, call: string): Block {
    const found = this.#tables.get(key);
    if (found) {
      found.uses++;
      return found.block;
    }
    const block = this.allocate(4 * size, call);
    write(new Float32Array(this.arena.buffer, block.address, size), this.lanes);
    this.#tables.set(key, { block, uses: 1 });
    return block;
  }

  /** A block for a call, before it takes work memory: where there is no room, what others have left goes, if it is its turn. */
  allocate(bytes: number, call: string): Block {
    try {
      return this.arena.allocate(bytes, call);
    } catch (error) {
      if (!(error instanceof BackendError) || this.#work !== this.#turnWork) throw error;
      this.#turnWork.free();
      this.#dropIdlePrograms();
      return this.arena.allocate(bytes, call);
    }
  }

  /** A block for who waits for no turn. */
  lend(bytes: number, call: string): Block {
    return this.#last ? this.arena.allocate(bytes, call) : this.allocate(bytes, call);
  }

  /** Work memory for a layout, valid until the next call of this or the end of the section: where it begins. */
  workspace(layout: WorkLayout, call: string): number {
    return this.#work.take(layout, call);
  }

  /** Bytes of work memory that the last call took. What is kept may be more, for another object's calls. */
  get workspaceBytes(): number {
    return this.#work.taken;
  }

  /** Threads that an object which asked for so many has now: one where workers did not start. */
  threadsFor(wanted: number): number {
    return this.#refusal === undefined ? wanted : 1;
  }

  /** Why calls run on one thread although more were asked for; undefined where they do not. */
  get refusal(): string | undefined {
    return this.#refusal;
  }

  /** At least `threads` workers in working order, in place of broken ones; undefined where they do not start. */
  async #livePool(threads: number): Promise<Pool | undefined> {
    while (this.#refusal === undefined) {
      if (!this.#pool?.usable) {
        await this.#pool?.close();
        const memory = this.arena.memory as WebAssembly.Memory;
        const { Pool: Workers } = await import("./pool.ts");
        this.#pool = new Workers(memory, mostThreads, this.settings.workerUrl);
        this.#unsent = [];
      }
      try {
        const programs = [...this.#modules].map(
          ([id, module]) => ({ type: "program", id, module }) as const,
        );
        await this.#pool.grow(threads, programs);
        this.#haveStarted = true;
        return this.#pool;
      } catch (error) {
        // Workers that have started before start again: one of them ended while others were being added.
        if (!this.#haveStarted) this.#refuse(error as BackendError);
        this.#haveStarted = false;
      }
    }
    return undefined;
  }

  /** Go on with one thread: workers that did not start now will not start at the next call. */
  #refuse({ parts }: BackendError): void {
    this.#pool = undefined;
    this.#refusal = parts.value;
    if (warnedOf.has(parts.value)) return;
    warnedOf.add(parts.value);
    console.warn(
      `flashfftconv: worker threads do not start (${parts.value}); calls run on one thread. docs/browser.md tells what threads need.`,
    );
  }

  /** The workers, for tests that end one. */
  get pool(): Pool | undefined {
    return this.#pool;
  }

  /**
   * Run a job: on the calling thread, on it and workers (`blocking`), or on workers alone. The calling thread by itself lets
   * other tasks have it now and then, unless the job is `blocking`.
   * @throws BackendError when a worker dies.
   */
  run(program: Program, job: Job, threads: number, blocking: boolean): void | Promise<void> {
    if (program.factory && program.buffer !== this.arena.buffer) {
      program.buffer = this.arena.buffer;
      program.kernels = program.factory(program.buffer);
    }
    const running = this.#start(program, job, threads, blocking);
    if (running) return this.#checkAfter(running);
    this.#work.check();
  }

  async #checkAfter(running: Promise<void>): Promise<void> {
    await running;
    this.#work.check();
  }

  #start(program: Program, job: Job, threads: number, blocking: boolean): void | Promise<void> {
    if (threads === 1) return this.#runHere(program, job, blocking);
    const pool = this.#pool;
    if (pool?.usable && pool.workers.length >= threads && this.#unsent.length === 0)
      return this.#runOn(pool, program, job, threads, blocking);
    return this.#runOnFresh(program, job, threads, blocking);
  }

  #runOn(
    pool: Pool,
    { kernels }: Program,
    job: Job,
    threads: number,
    blocking: boolean,
  ): void | Promise<void> {
    if (!blocking) return pool.run(job, threads);
    return pool.runWith(job, threads, (tickets) => execute(kernels, job, 0, tickets, this.#clear));
  }

  async #runOnFresh(program: Program, job: Job, threads: number, blocking: boolean): Promise<void> {
    const pool = await this.#livePool(threads);
    if (!pool) return this.#runHere(program, job, blocking);
    for (const message of this.#unsent.splice(0)) await pool.send(message);
    return this.#runOn(pool, program, job, threads, blocking);
  }

  #runHere({ kernels }: Program, job: Job, blocking: boolean): void | Promise<void> {
    if (blocking) return execute(kernels, job, 0, this.#tickets.restart(), this.#clear);
    const items = soloItems(kernels, job, this.#clear);
    if (!advance(items)) return finish(items);
  }

  readonly #tickets = new SoloTickets();

  readonly #clear = (from: number, to: number): void => {
    new Uint8Array(this.arena.buffer, from, to - from).fill(0);
  };
}

/** Do some of what is left of a job, until it is time for a pause; whether it is done. */
function advance(items: Iterator<void, void>): boolean {
  while (!items.next().done) if (isDue()) return false;
  return true;
}

/** Do the rest of a job, with pauses. */
async function finish(items: Iterator<void, void>): Promise<void> {
  do await pause();
  while (!advance(items));
}
