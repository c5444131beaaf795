/**
 * Worker threads over one shared memory. A job is published by raising a generation number that the workers watch:
 * first by spinning, then by sleeping on it, so that calls in a loop cost a microsecond and idle threads nothing.
 * The caller may take part as one more thread (short jobs) or wait for a message (long ones).
 */
import { BackendError } from "../errors.ts";
import type { Tickets } from "./executor.ts";
import { execute } from "./executor.ts";
import type { Job } from "./job.ts";
import { jobFields, mostFields } from "./job.ts";
import type { Kernels } from "./recipe.ts";

/** Slots of the control block (Int32Array over shared memory). */
export const slot = {
  next: 0,
  done: 1,
  active: 2,
  /** Thread number of the first worker. */
  base: 3,
  command: 4,
  failed: 5,
  report: 6,
} as const;
/** Int32 slots of a cache line. */
const line = 16;

/** Where a thread's count of drawn units lies: on a cache line of its own. */
function drawn(thread: number): number {
  return line * (1 + 2 * thread);
}

/** The generation that worker `index` (1 …) watches: raised to give it a job or messages. Others sleep on. */
export function generationSlot(index: number): number {
  return line * (2 + 2 * index);
}

/** What a new generation asks for. */
export const commands = { run: 1, messages: 2 } as const;

/** Everything a worker needs to start. */
export interface WorkerStart {
  readonly type: "start";
  readonly index: number;
  readonly control: SharedArrayBuffer;
  readonly job: SharedArrayBuffer;
  readonly memory: WebAssembly.Memory;
}

/** Messages to a worker. */
export type ToWorker =
  | WorkerStart
  | { readonly type: "program"; readonly id: number; readonly module: WebAssembly.Module }
  | { readonly type: "forget"; readonly id: number }
  /** Go and wait for generations after this one. */
  | { readonly type: "enter"; readonly generation: number };

/** Messages from a worker. */
export type FromWorker =
  | { readonly type: "ready" }
  | { readonly type: "done" }
  | { readonly type: "failed"; readonly message: string };

/** The part of a worker that Node's and the browser's have in common. */
interface WorkerHandle {
  post(message: ToWorker): void;
  onMessage(handler: (message: FromWorker) => void): void;
  onDeath(handler: (reason: string) => void): void;
  terminate(): Promise<unknown>;
  /** Whether this worker keeps the process alive. */
  hold(alive: boolean): void;
}

/** How long the caller spins for the last workers before it waits for a message instead, in milliseconds. */
const patience = 50;

async function startWorker(): Promise<WorkerHandle> {
  const url = new URL("./worker.js", import.meta.url);
  const process = (globalThis as { process?: { getBuiltinModule?: (id: string) => unknown } })
    .process;
  const threads = process?.getBuiltinModule?.("node:worker_threads") as
    | typeof import("node:worker_threads")
    | undefined;
  if (threads) {
    // No options of the process: some of them (--eval, --input-type) would keep a worker from starting.
    const worker = new threads.Worker(url, { name: "flashfftconv", execArgv: [] });
    worker.unref();
    return {
      post: (m) => worker.postMessage(m),
      onMessage: (f) => worker.on("message", f),
      onDeath: (f) => {
        worker.on("error", (e) => f(String(e)));
        worker.on("exit", (code) => f(`exit code ${code}`));
      },
      terminate: () => worker.terminate(),
      hold: (alive) => (alive ? worker.ref() : worker.unref()),
    };
  }
  const worker = new Worker(url, { type: "module", name: "flashfftconv" });
  return {
    post: (m) => worker.postMessage(m),
    onMessage: (f) => worker.addEventListener("message", (e) => f(e.data as FromWorker)),
    onDeath: (f) => worker.addEventListener("error", (e) => f(e.message)),
    terminate: async () => worker.terminate(),
    hold: () => {},
  };
}

/** A fixed set of workers; one job at a time. */
export class Pool {
  readonly workers: readonly WorkerHandle[];
  readonly #control: Int32Array;
  readonly #job: Float64Array;
  /** Why the pool can no longer be used. */
  #broken: string | undefined;
  #closing: Promise<void> | undefined;
  #settle: (() => void) | undefined;
  #ready = 0;

  private constructor(workers: readonly WorkerHandle[], control: Int32Array, job: Float64Array) {
    this.workers = workers;
    this.#control = control;
    this.#job = job;
    for (const w of workers) {
      w.onMessage((m) => this.#receive(m));
      w.onDeath((reason) => this.#die(reason));
    }
  }

  /** Start `count` workers over a shared memory. */
  static async start(count: number, memory: WebAssembly.Memory): Promise<Pool> {
    const control = new SharedArrayBuffer(4 * (generationSlot(count) + line));
    const job = new SharedArrayBuffer(8 * mostFields);
    const workers = await Promise.all(Array.from({ length: count }, () => startWorker()));
    const pool = new Pool(workers, new Int32Array(control), new Float64Array(job));
    const ready = pool.#allReady();
    for (const [i, w] of workers.entries())
      w.post({ type: "start", index: i + 1, control, job, memory });
    await ready;
    return pool;
  }

  get usable(): boolean {
    return this.#broken === undefined && !this.#closing;
  }

  #receive(message: FromWorker): void {
    if (message.type === "ready") {
      this.#ready++;
      if (this.#ready === this.workers.length) this.#settle?.();
      return;
    }
    if (message.type === "failed") this.#fail(message.message);
    else this.#settle?.();
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

  #allReady(): Promise<void> {
    this.#ready = 0;
    return this.#next();
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
    const ready = this.#allReady();
    for (const w of this.workers) w.post(message);
    await ready;
    for (const [i, w] of this.workers.entries()) {
      w.post({ type: "enter", generation: Atomics.load(this.#control, generationSlot(i + 1)) });
    }
  }

  /** Run a job on `threads` workers while the caller waits for a message. */
  async run(job: Job, threads: number): Promise<void> {
    this.#open(job, threads, 0, 1);
    await this.#next();
    this.#check();
  }

  /**
   * Run a job on the caller and `threads` − 1 workers. Returns nothing when it is done, or a promise where a worker
   * is late (or dead).
   */
  runWith(
    job: Job,
    threads: number,
    kernels: Kernels,
    clear: (from: number, to: number) => void,
  ): void | Promise<void> {
    this.#open(job, threads - 1, 1, 0);
    execute(kernels, job, 0, sharedTickets(this.#control, giveUp), clear);
    const until = performance.now() + patience;
    while (Atomics.load(this.#control, slot.active) > 0) {
      if (performance.now() > until) return this.#wait();
    }
    if (Atomics.load(this.#control, slot.failed) !== 0) return this.#wait();
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
    jobFields(job.kind).forEach((f, i) => {
      this.#job[i] = job[f];
    });
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

/** How long the caller waits, blocking, for workers on a row that they share; a dead one would never be heard of. */
const giveUp = 5_000;

/** Tickets drawn from the control block by all threads of a job; waits end after `limit` milliseconds. */
export function sharedTickets(
  control: Int32Array,
  limit: number = Number.POSITIVE_INFINITY,
): Tickets {
  return {
    // A thread begins with the same share in every call, so that the rows it wrote last are still in its cache: a row
    // of 1,024 samples took twice as long when the other core had its output (EPYC 7003).
    draw: (thread, { units, threads }) => {
      for (let i = 0; i < threads; i++) {
        const t = (thread + i) % threads;
        const from = Math.floor((units * t) / threads);
        const to = Math.floor((units * (t + 1)) / threads);
        const unit = from + Atomics.add(control, drawn(t), 1);
        if (unit < to) return unit;
      }
      return -1;
    },
    next: () => Atomics.add(control, slot.next, 1),
    finish: () => void Atomics.add(control, slot.done, 1),
    wait: (count) => {
      const until = performance.now() + limit;
      while (Atomics.load(control, slot.done) < count) {
        if (Atomics.load(control, slot.failed) !== 0) return false;
        if (performance.now() > until) {
          Atomics.store(control, slot.failed, 1);
          return false;
        }
      }
      return true;
    },
  };
}
