/** What a stream asks of a backend: blocks of samples in, blocks of outputs out. */
import type { OperationRunner } from "../calls/operation.ts";

/** Rows of a stream. */
export interface StreamRows {
  readonly batch: number;
  readonly channels: number;
}

/** Taps of a stream: one row a channel, in the order of their lags from 0 on. */
export type StreamTaps = readonly Float32Array[];

/**
 * A causal convolution of blocks of one length, which remembers what it needs of the blocks before. Gates, skip, lags below 0
 * and pieces of other lengths are the stream's affair. Call `take`, `run`, `output` and `reset` inside `exclusive`.
 */
export interface StreamEngine extends OperationRunner {
  /** Samples of a block. */
  readonly blockLength: number;
  /** How blocks are computed, on one line. */
  readonly plan: string;
  /** Bytes held in the backend. */
  readonly bytes: number;
  /** Run `work` when no other call is running. */
  exclusive<T>(work: () => T | Promise<T>): T | Promise<T>;
  /** Take samples [from, from + count) of each row into the newest block; they may not pass its end. */
  take(rows: readonly Float32Array[], from: number, count: number): void;
  /**
   * Convolve the newest block, which is whole: number `block` since the beginning of the sequence.
   * @throws BackendError; what has come of the sequence is lost then.
   */
  run(block: number, call: string): void | Promise<void>;
  /** `run` on the calling thread, done when it returns; absent where blocks are computed elsewhere. */
  runNow?(block: number): void;
  /** Outputs of row `row` of block number `block`, which ran last, from the `from`-th on: as many as `out` has room for. */
  output(block: number, row: number, from: number, out: Float32Array): void;
  /** Forget the input. */
  reset(): void;
}
