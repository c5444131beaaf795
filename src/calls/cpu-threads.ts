/** What calls on the CPU agree on: when a job blocks the caller, how much is staged, and how steps follow one another. */
import { isDue, pause } from "../backend/cpu/pauses.ts";

/** Jobs predicted shorter than this run with the caller taking part, in seconds: not long enough to miss an event. */
export const blockingSeconds = 4e-3;

/** Staging of a call on one thread: little, so that rows stay in cache between copy and transform. */
export const soloStaging: number = 256 * 1024;

/** Staging of a call on several threads: at least this much, so that they meet rarely even over short rows. */
export const sharedStaging: number = 1024 * 1024;

/** Run the steps from `at` on, one after the other, without a promise as long as none of them needs one and no pause is due. */
export function inSteps(
  at: number,
  end: number,
  step: (at: number) => readonly [next: number, running: void | Promise<void>],
): void | Promise<void> {
  for (let i = at; i < end; ) {
    const [next, running] = step(i);
    if (running) return running.then(() => inSteps(next, end, step));
    i = next;
    if (i < end && isDue()) return pause().then(() => inSteps(next, end, step));
  }
}
