/**
 * What the calling thread and its workers share: the messages between them, and the control block, an Int32Array over shared
 * memory by which jobs are published and drawn.
 */
import type { Tickets } from "./executor.ts";

/** Slots of the control block. */
export const slot = {
  next: 0,
  done: 1,
  active: 2,
  /** Thread number of the first worker. */
  base: 3,
  command: 4,
  failed: 5,
  report: 6,
  /** Threads that sleep until `done` or `active` changes. */
  sleepers: 7,
} as const;
/** Int32 slots of a cache line. */
const line = 16;

/** Where a thread's count of drawn units lies: on a cache line of its own. */
export function drawn(thread: number): number {
  return line * (1 + 2 * thread);
}

/** The generation that worker `index` (1 …) watches: raised to give it a job or messages. Others sleep on. */
export function generationSlot(index: number): number {
  return line * (2 + 2 * index);
}

/** Bytes of a control block for so many workers. */
export function controlBytes(workers: number): number {
  return 4 * (generationSlot(workers) + line);
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

/** A compiled program, by the number that jobs name it by. */
export interface WorkerProgram {
  readonly type: "program";
  readonly id: number;
  readonly module: WebAssembly.Module;
}

/** Messages to a worker. */
export type ToWorker =
  | WorkerStart
  | WorkerProgram
  | { readonly type: "forget"; readonly id: number }
  /** Go and wait for generations after this one. */
  | { readonly type: "enter"; readonly generation: number };

/** Messages from a worker. */
export type FromWorker =
  | { readonly type: "ready" }
  | { readonly type: "done" }
  | { readonly type: "failed"; readonly message: string };

/** Looks at a slot this often before sleeping on it, about 50 µs: as long as waking a sleeper takes. */
const spins = 5_000;
/** Sleeps no longer than this at a time, in milliseconds. */
const nap = 1;

/** Whether this thread may sleep: a page's main thread may not. */
function maySleep(): boolean {
  try {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 1, 0);
    return true;
  } catch {
    return false;
  }
}

let sleeps: boolean | undefined;

/**
 * Wait while `holds` is true of a slot's value: spinning, then asleep where this thread may, so that a thread which waits
 * leaves its core to the one it waits for. Returns false after `limit` milliseconds, or when the job was given up.
 */
export function waitWhile(
  control: Int32Array,
  index: number,
  holds: (value: number) => boolean,
  limit: number,
): boolean {
  sleeps ??= maySleep();
  const until = performance.now() + limit;
  for (let i = 0; ; i++) {
    const value = Atomics.load(control, index);
    if (!holds(value)) return true;
    if (i < spins) continue;
    if (Atomics.load(control, slot.failed) !== 0) return false;
    if (performance.now() > until) return false;
    if (!sleeps) continue;
    Atomics.add(control, slot.sleepers, 1);
    Atomics.wait(control, index, value, nap);
    Atomics.sub(control, slot.sleepers, 1);
  }
}

/** Wake who sleeps on a slot that has changed. */
export function wake(control: Int32Array, index: number): void {
  if (Atomics.load(control, slot.sleepers) > 0) Atomics.notify(control, index);
}

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
    finish: () => {
      Atomics.add(control, slot.done, 1);
      wake(control, slot.done);
    },
    wait: (count) => {
      if (waitWhile(control, slot.done, (done) => done < count, limit)) return true;
      Atomics.store(control, slot.failed, 1);
      return false;
    },
  };
}
