/** What calls on the CPU agree on: when a job blocks the caller, how much is staged, and how steps follow one another. */
import { isDue, pause } from "../backend/cpu/pauses.ts";

/** Jobs predicted shorter than this run with the caller taking part, in seconds: not long enough to miss an event. */
export const blockingSeconds = 4e-3;

/** Staging of a call on one thread: little, so that rows stay in cache between copy and transform. */
export const soloStaging: number = 256 * 1024;

/** Staging of a call on several threads: at least this much, so that they meet rarely even over short rows. */
export const sharedStaging: number = 1024 * 1024;

/** What is done at once, or later: calls on one thread that need no pause allocate no promise. */
export type Running = void | Promise<void>;

/** `next` when `running` is done: now, where it is. */
export function after(running: Running, next: () => Running): Running {
  return running ? running.then(next) : next();
}

/** `next` with a value when it is there: now, where it is. */
export function given<T>(value: T | Promise<T>, next: (value: T) => Running): Running {
  return value instanceof Promise ? value.then(next) : next(value);
}

/** `work`, and `end` behind it however it ends. */
export function ending(work: () => Running, end: () => void): Running {
  let running: Running;
  try {
    running = work();
  } catch (error) {
    end();
    throw error;
  }
  return running ? running.finally(end) : end();
}

/** Run the steps at `from`, `from + by`, … below `end`, without a promise as long as none of them needs one and no pause is due. */
export function inSteps(
  from: number,
  end: number,
  by: number,
  step: (at: number) => Running,
): Running {
  for (let at = from; at < end; ) {
    const running = step(at);
    at += by;
    const next = at;
    if (running) return running.then(() => inSteps(next, end, by, step));
    if (at < end && isDue()) return pause().then(() => inSteps(next, end, by, step));
  }
}
