/** The last forward calls that were done at once: one with the same arrays needs no checks, and allocates nothing. */
import type { Repeat } from "./runner.ts";
import { boundCalls } from "./runner.ts";

/** Options that decide whether a call is the same; `encoder` is none of them. */
interface Options {
  readonly out?: unknown;
  readonly pregate?: unknown;
  readonly postgate?: unknown;
  readonly skip?: unknown;
}

/** A call that may run again. */
interface RepeatedCall {
  readonly u: unknown;
  readonly k: unknown;
  readonly options: Options;
  /** The arrays that it was given, and how long they were. */
  readonly arrays: readonly { readonly length: number }[];
  readonly sizes: readonly number[];
  readonly repeat: Repeat;
}

const optionNames = ["out", "pregate", "postgate", "skip"] as const;

/** Calls whose input is larger take so long that checks do not count, and keep their arrays alive. */
const mostSamples = 65_536;

/** Calls that may run again. */
export class RepeatedCalls {
  readonly #calls: RepeatedCall[] = [];
  #next = 0;

  /** Remember a call whose operands have been checked: with `out`, and all of them flat arrays, whose size is their own. */
  keep(u: unknown, k: unknown, options: Options, repeat: Repeat): void {
    const { out, pregate, postgate, skip } = options;
    const given = [u, out, pregate, postgate, skip].filter((a) => a !== undefined);
    if (out === undefined || !given.every((a) => ArrayBuffer.isView(a))) return;
    const arrays = given as unknown as readonly { readonly length: number }[];
    const sizes = arrays.map((a) => a.length);
    if (sizes[0]! > mostSamples) return;
    const known = { out, pregate, postgate, skip };
    const call = { u, k, options: known, arrays, sizes, repeat };
    // One that could not run again gives its place to the same call.
    const same = this.#calls.findIndex((c) => c.u === u && c.k === k && isSame(c, known));
    if (same >= 0) {
      this.#calls[same] = call;
      return;
    }
    this.#calls[this.#next] = call;
    this.#next = (this.#next + 1) % boundCalls;
  }

  /** Run a call again, if it is one of these; whether it was. */
  run(u: unknown, k: unknown, options: Options, takesTurns: boolean): boolean {
    for (const call of this.#calls) {
      if (call.u === u && call.k === k && isSame(call, options)) return call.repeat(takesTurns);
    }
    return false;
  }
}

function isSame({ options: known, arrays, sizes }: RepeatedCall, options: Options | null): boolean {
  if (!options) return false;
  for (const name of optionNames) if (options[name] !== known[name]) return false;
  for (const name in options) if (!Object.hasOwn(known, name)) return false;
  // An array that was transferred away has lost its samples.
  for (let i = 0; i < arrays.length; i++) if (arrays[i]!.length !== sizes[i]) return false;
  return true;
}
