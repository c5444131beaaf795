/** Kernels whose spectra are kept between calls. */
import type { Block } from "../backend/memory.ts";
import { InvalidArgumentError } from "../errors.ts";
import type { FlashFFTConv } from "./conv.ts";

/** A kernel whose spectrum is kept, for calls on the object that made it. */
export class PreparedKernel {
  /** H. */
  readonly channels: number;
  readonly #owner: FlashFFTConv;
  #block: Block | undefined;
  readonly #free: (kernel: PreparedKernel) => void;

  /** @internal */
  constructor(
    owner: FlashFFTConv,
    channels: number,
    block: Block,
    free: (kernel: PreparedKernel) => void,
  ) {
    this.#owner = owner;
    this.channels = channels;
    this.#block = block;
    this.#free = free;
  }

  /** @internal The spectra, for a call of `owner`. */
  blockFor(owner: FlashFFTConv, call: string): Block {
    if (this.#block && owner === this.#owner) return this.#block;
    throw new InvalidArgumentError({
      call,
      requirement: "a prepared kernel must be alive and of the same FlashFFTConv object",
      value: this.#block ? "a kernel of another object" : "a disposed kernel",
      remedy: "Call prepareKernel on this object.",
    });
  }

  /** Free the spectra; later use is an error. */
  dispose(): void {
    if (this.#block) this.#free(this);
    this.#block = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
