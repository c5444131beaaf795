/** Kernels whose spectra are kept between calls. */

import { InvalidArgumentError } from "../errors.ts";

/** A kernel whose spectrum is kept, for calls on the object that made it. */
export class PreparedKernel {
  /** H. */
  readonly channels: number;
  readonly #free: (kernel: PreparedKernel) => void;

  /** @internal Made by `prepareKernel`. */
  constructor(channels: number, free: (kernel: PreparedKernel) => void) {
    if (typeof free !== "function") {
      throw new InvalidArgumentError({
        call: "new PreparedKernel",
        requirement: "prepareKernel must make the object, because its spectrum is computed first",
        value: "a call of the constructor",
        remedy: "Write await conv.prepareKernel(k).",
      });
    }
    this.channels = channels;
    this.#free = free;
  }

  /** Free the spectra; later use is an error. */
  dispose(): void {
    this.#free(this);
  }

  /** The same as `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}
