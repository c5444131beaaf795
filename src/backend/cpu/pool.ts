/**
 * Worker threads over one shared memory. A job is published by raising a generation number that the workers watch:
 * first by spinning, then by sleeping on it, so that calls in a loop cost a microsecond and idle threads nothing.
 * The caller may take part as one more thread (short jobs) or wait for a message (long ones).
 */
import { BackendError } from "../../errors.ts";
import type { FromWorker, ToWorker, WorkerProgram } from "./control.ts";
import {
  commands,
  controlBytes,
  drawn,
  generationSlot,
  sharedTickets,
  slot,
  waitWhile,
} from "./control.ts";
import type { Tickets } from "./executor.ts";
import type { Job } from "./job.ts";
import { mostFields, sendJob } from "./job.ts";
import type { WorkerHandle } from "./worker-handle.ts";
import { openWorker } from "./worker-handle.ts";

/** How long the caller waits, blocking, for the last workers before it waits for a message instead, in milliseconds. */
const patience = 8;
/** How long the caller waits, blocking, for workers on a row that they share; a dead one would never be heard of. */
const giveUp = 5_000;
/** How long workers may take to start, in milliseconds: 48 of them took 3 s on two cores. */
const startLimit = 30_000;

/** Workers, one job at a time. Their number grows to the largest asked for. */
export class Pool {
  readonly workers: WorkerHandle[] = [];
  readonly #memory: WebAssembly.Memory;
  readonly #workerUrl: string | undefined;
  readonly #shared: { readonly control: SharedArrayBuffer; readonly job: SharedArrayBuffer };
  readonly #control: Int32Array;
  readonly #job: Float64Array;
  /** Why the pool can no longer be used. */
  #broken: string | undefined;
  #closing: Promise<void> | undefined;
  #settle: (() => void) | undefined;
  /** Workers that have yet to say that they are ready. */
  #awaited = 0;

  /** A pool of at most `most` workers, none of which has started. */
  constructor(memory: WebAssembly.Memory, most: number, workerUrl: string | undefined) {
    this.#memory = memory;
    this.#workerUrl = workerUrl;
    this.#shared = {
      control: new SharedArrayBuffer(controlBytes(most)),
      job: new SharedArrayBuffer(8 * mostFields),
    };
    this.#control = new Int32Array(this.#shared.control);
    this.#job = new Float64Array(this.#shared.job);
  }

  /**
   * Start workers until there are `count`, and give the new ones the programs that there are.
   * @throws BackendError where they do not start; the pool is lost then.
   */
  async grow(count: number, programs: readonly WorkerProgram[]): Promise<void> {
    const first = this.workers.length;
    try {
      for (let i = first; i < count; i++) this.#add(openWorker(this.#workerUrl));
    } catch (error) {
      this.#fail(String(error));
    }
    const fresh = this.workers.slice(first);
    const timer = setTimeout(() => this.#fail(`no answer for ${startLimit / 1e3} s`), startLimit);
    try {
      await this.#tell(fresh, (index) => ({
        type: "start",
        index,
        ...this.#shared,
        memory: this.#memory,
      }));
      for (const program of programs) await this.#tell(fresh, () => program);
    } finally {
      clearTimeout(timer);
    }
    this.#enter(fresh);
  }

  #add(worker: WorkerHandle): void {
    this.workers.push(worker);
    worker.onMessage((m) => this.#receive(m));
    worker.onDeath((reason) => this.#die(reason));
  }

  /** Number of a worker, from 1 on. */
  #indexOf(worker: WorkerHandle): number {
    return this.workers.indexOf(worker) + 1;
  }

  /** Send a message to workers that read them; resolves when all of them have done what it says. */
  async #tell(
    workers: readonly WorkerHandle[],
    message: (index: number) => ToWorker,
  ): Promise<void> {
    if (workers.length === 0) return this.#check();
    this.#awaited = workers.length;
    const ready = this.#next();
    if (this.#broken === undefined) for (const w of workers) w.post(message(this.#indexOf(w)));
    await ready;
  }

  /** Let workers that read messages wait for jobs again. */
  #enter(workers: readonly WorkerHandle[]): void {
    for (const w of workers) {
      const at = generationSlot(this.#indexOf(w));
      w.post({ type: "enter", generation: Atomics.load(this.#control, at) });
    }
  }

  get usable(): boolean {
    return this.#broken === undefined && !this.#closing;
  }

  #receive(message: FromWorker): void {
    if (message.type === "failed") this.#fail(message.message);
    else if (message.type === "done") this.#settle?.();
    else if (--this.#awaited === 0) this.#settle?.();
  }

  #die(reason: string): void {
    if (!this.#closing) this.#fail(`a worker thread ended: ${reason}`);
  }

  /** The pool is lost: its other threads end too, and only then does the call that waits hear of it. */
  #fail(reason: string): void {
    if (this.#broken !== undefined) return;
    this.#broken = reason;
    Atomics.store(this.#control, slot.failed, 1);
    void this.close().then(() => this.#settle?.());
  }

  #failure(): BackendError {
    return new BackendError({
      call: "FlashFFTConv",
      requirement: "worker threads that live through the call",
      value: this.#broken ?? "a closed pool",
      remedy: "Call again: new threads are started. Outputs of the failed call are incomplete.",
    });
  }

  /** A promise of the next message that matters; keeps the process alive until it comes. */
  #next(): Promise<void> {
    for (const w of this.workers) w.hold(true);
    return new Promise<void>((resolve, reject) => {
      this.#settle = () => {
        this.#settle = undefined;
        for (const w of this.workers) w.hold(false);
        if (this.#broken === undefined) resolve();
        else reject(this.#failure());
      };
      if (this.#broken !== undefined) void this.close().then(() => this.#settle?.());
    });
  }

  /** Wake the first `workers` workers. */
  #publish(command: number, workers: number): void {
    Atomics.store(this.#control, slot.command, command);
    for (let index = 1; index <= workers; index++) {
      Atomics.add(this.#control, generationSlot(index), 1);
      Atomics.notify(this.#control, generationSlot(index));
    }
  }

  /** Give every worker a message that it must have before the next job. */
  async send(message: ToWorker): Promise<void> {
    this.#publish(commands.messages, this.workers.length);
    await this.#tell(this.workers, () => message);
    this.#enter(this.workers);
  }

  /** Run a job on `threads` workers while the caller waits for a message. */
  async run(job: Job, threads: number): Promise<void> {
    this.#open(job, threads, 0, 1);
    await this.#next();
    this.#check();
  }

  /**
   * Run a job on the caller, whose share is what it draws, and `threads` − 1 workers. Returns nothing when it is done, or a
   * promise where a worker is late (or dead).
   */
  runWith(job: Job, threads: number, share: (tickets: Tickets) => void): void | Promise<void> {
    this.#open(job, threads - 1, 1, 0);
    share(sharedTickets(this.#control, giveUp));
    const ended = waitWhile(this.#control, slot.active, (active) => active > 0, patience);
    if (!ended || Atomics.load(this.#control, slot.failed) !== 0) return this.#wait();
    this.#check();
  }

  /** Wait without blocking for workers that outlast the caller's patience. */
  async #wait(): Promise<void> {
    while (Atomics.load(this.#control, slot.active) > 0 && this.#broken === undefined) {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    if (Atomics.load(this.#control, slot.failed) !== 0)
      this.#fail("a worker thread did not answer");
    if (this.#broken !== undefined) await this.close();
    this.#check();
  }

  #check(): void {
    if (this.#broken !== undefined) throw this.#failure();
  }

  /** Publish a job: `workers` of the pool take part, their thread numbers start at `base`. */
  #open(job: Job, workers: number, base: number, report: number): void {
    this.#check();
    sendJob(job, this.#job);
    const c = this.#control;
    Atomics.store(c, slot.next, 0);
    Atomics.store(c, slot.done, 0);
    for (let t = 0; t < job.threads; t++) Atomics.store(c, drawn(t), 0);
    Atomics.store(c, slot.active, workers);
    Atomics.store(c, slot.base, base);
    Atomics.store(c, slot.report, report);
    this.#publish(commands.run, workers);
  }

  /** End all threads; resolves when none of them touches the memory any more. */
  close(): Promise<void> {
    this.#closing ??= Promise.all(this.workers.map((w) => w.terminate())).then(() => {});
    return this.#closing;
  }
}
