/** Windows of a text, batch by batch: inputs, and as targets the token after each. */
import { integer, known } from "../checks.ts";
import { InvalidArgumentError } from "../errors.ts";
import { show } from "../show.ts";
import { uniformAt } from "./random.ts";
import type { TokenSource } from "./tokens.ts";

/** What a model learns from at a time. */
export interface Batch {
  /** (B, L) */
  readonly inputs: Uint32Array;
  /** (B, L): the token that follows each of the inputs. */
  readonly targets: Uint32Array;
}

/** Which windows there are. */
export interface WindowOptions {
  /** Windows a batch. */
  readonly batch: number;
  /** Inputs a window; it has one token more. */
  readonly length: number;
  /** The part of the text, in tokens: from 0 to its end unless given. */
  readonly from?: number;
  readonly to?: number;
  /** What chance depends on; 0 unless given. */
  readonly seed?: number;
  /** Change a window in place, by a number from 0 to 1 that is its own. */
  readonly augment?: (tokens: Uint32Array, random: number) => void;
}

/** Which window is next, of which windows: plain data, for a checkpoint. */
export interface WindowState {
  readonly windows: "random" | "ordered" | "endless";
  /** Of the text. */
  readonly size: number;
  readonly batch: number;
  readonly length: number;
  readonly from: number;
  readonly to: number;
  readonly seed: number;
  /** Windows given so far. */
  readonly next: number;
}

/** Batches of windows; made by `randomWindows` and `orderedWindows`. */
export class Windows implements AsyncIterable<Batch> {
  /** The text that the windows are of. */
  readonly source: TokenSource;
  readonly #augment: WindowOptions["augment"];
  /** Where a window begins, by its number. */
  readonly #place: (window: number) => number;
  /** Windows that there are. */
  readonly #count: number;
  #state: WindowState;

  /** @internal */
  constructor(
    source: TokenSource,
    state: WindowState,
    augment: WindowOptions["augment"],
    count: number,
    place: (window: number) => number,
  ) {
    this.source = source;
    this.#state = state;
    this.#augment = augment;
    this.#count = count;
    this.#place = place;
  }

  /** The next batch, or undefined at the end. Windows that fill no batch are left out. */
  async next(): Promise<Batch | undefined> {
    const { batch, length, seed, next } = this.#state;
    if (next + batch > this.#count) return undefined;
    const inputs = new Uint32Array(batch * length);
    const targets = new Uint32Array(batch * length);
    const window = new Uint32Array(length + 1);
    for (let row = 0; row < batch; row++) {
      await this.source.read(window, this.#place(next + row));
      this.#augment?.(window, uniformAt(seed, 1, next + row));
      inputs.set(window.subarray(0, length), row * length);
      targets.set(window.subarray(1), row * length);
    }
    this.#state = { ...this.#state, next: next + batch };
    return { inputs, targets };
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Batch, void, undefined> {
    for (let batch = await this.next(); batch; batch = await this.next()) yield batch;
  }

  /** Where the batches are: the next one is the same after `restore`, in another process too. */
  state(): WindowState {
    return this.#state;
  }

  /**
   * Go on where `state` was taken.
   * @throws InvalidArgumentError where it was taken of other windows, or of another text.
   */
  restore(state: WindowState): void {
    const { next, ...own } = this.#state;
    const { next: place, ...theirs } = state;
    const keys = Object.keys(own) as (keyof typeof own)[];
    const other = keys.find((key) => theirs[key] !== own[key]);
    if (other) {
      throw new InvalidArgumentError({
        call: "windows.restore",
        requirement: `state must be of windows with ${other} ${show(own[other])}`,
        value: show(theirs[other]),
        remedy: "Open the same text with the same options as when the state was taken.",
      });
    }
    integer("windows.restore", "state.next", place, 0, Number.MAX_SAFE_INTEGER);
    this.#state = { ...own, next: place };
  }
}

/**
 * Windows drawn at random, without an end: training on a text that can be read anywhere.
 * @throws InvalidArgumentError where the text is shorter than a window, or can only be read in order.
 * @example
 * const windows = randomWindows(source, { batch: 64, length: 1024, seed: 1 });
 * for await (const { inputs, targets } of windows) await trainer.step(inputs, targets);
 */
export function randomWindows(source: TokenSource, options: WindowOptions): Windows {
  const call = "randomWindows";
  const state = stateOf(source, "random", options, call);
  if (source.sequential) {
    throw new InvalidArgumentError({
      call,
      requirement: "source must be one that can be read anywhere",
      value: `${show(source.name)}, which is read in order`,
      remedy: "Load it first (loadTokens), or use orderedWindows with endless: true.",
    });
  }
  const { from, to, length, seed } = state;
  const places = atLeastOne(to - from - length, source, state, call);
  const place = (n: number): number => from + Math.floor(uniformAt(seed, 0, n) * places);
  return new Windows(source, state, options.augment, Number.POSITIVE_INFINITY, place);
}

/**
 * Windows one behind the other, each token a target once: evaluation; or, endless, training on a text that is read in order.
 * Then each pass begins at another of the first `length` tokens.
 * @throws InvalidArgumentError where the text is shorter than a batch.
 * @example
 * const held = orderedWindows(source, { batch: 8, length: 1024, from: 900_000 });
 * for await (const { inputs, targets } of held) total += await loss(inputs, targets);
 */
export function orderedWindows(
  source: TokenSource,
  { endless = false, ...options }: WindowOptions & { readonly endless?: boolean },
): Windows {
  const call = "orderedWindows";
  const state = stateOf(source, endless ? "endless" : "ordered", options, call);
  const { from, to, batch, length, seed } = state;
  const span = to - from - 1 - (endless ? length - 1 : 0);
  const needed = endless ? 1 : batch;
  const windows = Math.floor(span / length);
  atLeastOne(windows - needed + 1, source, state, call);
  const shift = (pass: number): number =>
    endless ? Math.floor(uniformAt(seed, 2, pass) * length) : 0;
  const place = (n: number): number =>
    from + shift(Math.floor(n / windows)) + (n % windows) * length;
  const count = endless ? Number.POSITIVE_INFINITY : windows;
  return new Windows(source, state, options.augment, count, place);
}

function stateOf(
  { size }: TokenSource,
  windows: WindowState["windows"],
  options: WindowOptions,
  call: string,
): WindowState {
  known(options, ["batch", "length", "from", "to", "seed", "augment"], call);
  const { from = 0, to = size, seed = 0 } = options;
  const batch = integer(call, "batch", options.batch, 1, 2 ** 20);
  const length = integer(call, "length", options.length, 1, 2 ** 28);
  integer(call, "from", from, 0, size);
  integer(call, "to", to, from, size);
  integer(call, "seed", seed, 0, 2 ** 32 - 1);
  return { ...{ windows, size, batch, length, from, to, seed }, next: 0 };
}

function atLeastOne(count: number, source: TokenSource, state: WindowState, call: string): number {
  if (count >= 1) return count;
  const { from, to, batch, length } = state;
  throw new InvalidArgumentError({
    call,
    requirement: `${show(source.name)} must have tokens for ${show(batch)} windows of ${show(length)} and the token after each`,
    value: `${show(to - from)} tokens`,
    remedy: "Use a longer text, shorter windows or fewer a batch.",
  });
}
