/**
 * A job is numbers only: what to run, where its rows lie, and how it is cut into items. Every thread that takes part
 * walks the same list of phases and draws items by one shared counter, so the answer does not depend on who does what.
 */

/** Fields of a job, in the order in which they cross to the workers. */
const fields = [
  "kind",
  "program",
  /** Rows: batch × channels; a unit is a row (forward) or a channel (spectra, backward). */
  "batch",
  "channels",
  /** Units [first, first + units). */
  "first",
  "units",
  /** Threads that take part. */
  "threads",
  /** Rows of the units lie one after another from `u`, `y`, …; else row b·channels + h of whole tensors. */
  "packed",
  /** Batch rows [batchFrom, batchTo) of a backward job; the kernel gradient is stored after the last of the batch. */
  "batchFrom",
  "batchTo",
  /** Work memory belongs to units (no more than threads), not to threads: what it holds outlives the job. */
  "slotted",
  /** All threads work on one row at a time, in phases. */
  "together",
  "table",
  "k",
  "kernelBytes",
  "spectra",
  "spectrumBytes",
  "u",
  "pregate",
  "inputBytes",
  "y",
  "postgate",
  "outputBytes",
  "skip",
  "dy",
  "du",
  "dpregate",
  "dpostgate",
  "dk",
  "dkBytes",
  /** Work memory of thread 0, and from thread to thread; transforms lie `transformBytes` apart in it. */
  "workspace",
  "threadBytes",
  "transformBytes",
  "hasPregate",
  "hasPostgate",
  "hasSkip",
  /** Tiles of an end, units of a body, sinks of the kernel gradient. */
  "tiles",
  "bodies",
  "dkSinks",
  /** Kernel gradients are cleared first: some taps have no effect, or two sinks add up. */
  "clearTaps",
] as const;

export type Job = Record<(typeof fields)[number], number>;

export const jobFields: readonly (keyof Job)[] = fields;

export const jobKinds = { spectra: 0, forward: 1, backward: 2 } as const;

const empty: Job = Object.fromEntries(fields.map((f) => [f, 0])) as Job;

/** A job with every field 0. */
export function emptyJob(): Job {
  return { ...empty };
}
