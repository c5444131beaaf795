/** What calls need that answer when they return: a stream that can, and for `stream.render` rows of whole blocks. */
import type { Dtype } from "../dtype.ts";
import { InvalidArgumentError, UnsupportedError } from "../errors.ts";
import { show } from "../show.ts";
import type { StreamEngine } from "./engine.ts";

const call = "stream.render";

/** Where a stream stands. */
interface StreamState {
  readonly dtype: Dtype;
  /** Samples by which the first tap looks ahead. */
  readonly ahead: number;
  /** Samples of a block that is not whole yet. */
  readonly pending: number;
  /** Whether calls that return promises are under way. */
  readonly busy: boolean;
}

/**
 * The engine's way to run a block at once.
 * @throws UnsupportedError where it has none, InvalidArgumentError while calls are under way.
 */
export function blocksNow(
  engine: StreamEngine,
  busy: boolean,
  call: string,
): (block: number) => void {
  if (!engine.runNow) {
    throw new UnsupportedError({
      call,
      requirement: "it answers before it returns, which a GPU cannot",
      value: "a stream on WebGPU",
      remedy: "Create the stream with backend: 'cpu', or use process.",
    });
  }
  if (!busy) return (block) => engine.runNow!(block);
  throw new InvalidArgumentError({
    call,
    requirement: "it needs the stream to itself",
    value: "a call of process, flush or reset under way",
    remedy: "Await its promise first.",
  });
}

/**
 * The same for whole blocks of a row.
 * @throws UnsupportedError where it has none, InvalidArgumentError where the stream has no whole block to give.
 */
export function renderer(
  engine: StreamEngine,
  { dtype, ahead, pending, busy }: StreamState,
): (block: number) => void {
  const run = blocksNow(engine, busy, call);
  const refuse = (requirement: string, value: string, remedy: string): never => {
    throw new InvalidArgumentError({ call, requirement, value, remedy });
  };
  if (dtype !== "float32")
    refuse("render needs a stream of float32", dtype, "Create it with dtype: 'float32'.");
  if (ahead > 0)
    refuse(
      "render answers a block with itself, so no tap may look ahead",
      `taps that look ${show(ahead)} samples ahead`,
      "Use mode 'causal' or 'full', or process.",
    );
  if (pending > 0)
    refuse(
      "render begins with a block",
      `one of which ${show(pending)} samples have come`,
      `Give process a multiple of ${show(engine.blockLength)} samples, or reset the stream.`,
    );
  return run;
}

/**
 * Samples of each row: whole blocks.
 * @throws InvalidArgumentError where a row is not an array of as many samples as the first.
 */
export function renderLength(
  arrays: { readonly inputs: unknown; readonly outputs: unknown },
  rows: number,
  blockLength: number,
): number {
  let size: number | undefined;
  for (const [name, list] of Object.entries(arrays)) {
    if (!Array.isArray(list) || list.length !== rows) {
      throw new InvalidArgumentError({
        call,
        requirement: `${name} must be a list of ${show(rows)} Float32Arrays, one a row`,
        value: Array.isArray(list) ? `a list of ${show(list.length)}` : show(list),
        remedy: "Pass silence for a row without samples.",
      });
    }
    for (const row of list as unknown[]) {
      const n = row instanceof Float32Array ? row.length : 0;
      size ??= n;
      if (n > 0 && n === size && n % blockLength === 0) continue;
      throw new InvalidArgumentError({
        call,
        requirement: `every row of ${name} must hold as many samples, a multiple of ${show(blockLength)}`,
        value: show(row),
        remedy:
          "Pass whole blocks of the blockLength that create was given; process takes pieces of any length.",
      });
    }
  }
  return size!;
}
