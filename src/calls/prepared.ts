/** Kernels whose spectra are kept between calls. */

import { madeByCreate } from "./runtime.ts";

/** A kernel whose spectra are kept, for calls on the object whose `prepareKernel` made it. Free it with `dispose`. */
export class PreparedKernel {
  /** H: kernel rows. */
  readonly channels: number;
  readonly #free: (kernel: PreparedKernel) => void;

  /** @internal Made by `prepareKernel`. */
  constructor(channels: number, free: (kernel: PreparedKernel) => void) {
    madeByCreate(typeof free === "function", "PreparedKernel", "await conv.prepareKernel(k)");
    this.channels = channels;
    this.#free = free;
    Object.freeze(this);
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
