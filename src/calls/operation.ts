/** What objects of every class have in common: a backend's half, where it computes, and an end. */
import type { Instructions } from "../backend/cpu/features.ts";
import type { Dtype } from "../dtype.ts";
import { InvalidArgumentError, UnsupportedError } from "../errors.ts";
import type { GpuCommandEncoder, GpuDevice } from "../gpu.ts";
import type { GpuSamples } from "../tensors/tensor.ts";
import { madeByCreate } from "./runtime.ts";

/** What every object asks of its backend's half. */
export interface OperationRunner {
  readonly threads: number;
  /** In what its kernels are written. */
  readonly instructions: Instructions | "wgsl";
  /** The device whose buffers tensors may be; undefined where they must be arrays. */
  readonly device: GpuDevice | undefined;
  /** Give everything back once the calls before have ended. */
  leave(): void;
}

/** What a convolution's object asks besides; `Calls` says which calls to be ready for. */
export interface ConvolutionRunner<Calls> extends OperationRunner {
  /** Compile what such calls need. */
  warmUp(calls: Calls, call: string): Promise<void>;
  /** A zeroed array that calls use without copying, where the backend can lend one. */
  lend(size: number, dtype: Dtype, call: string): Float32Array | Uint16Array;
  /** A new buffer for a result: asked for only where tensors may be buffers. */
  allocate(size: number, dtype: Dtype, call: string): Promise<GpuSamples>;
  /** Free what only submitted encoders name; absent where there are none. */
  submitted?(): Promise<void>;
}

/** What a backend is told of a call besides its operands. */
export interface CallContext {
  /** The call's name, for errors. */
  readonly name: string;
  /** Where the caller records commands; the backend submits its own where there is none. */
  readonly encoder: GpuCommandEncoder | undefined;
  /** Throws where the object has been disposed of while the call waited. */
  readonly alive: () => void;
}

/** Refuse a call that answers when it returns, where calls cannot. */
export function refuseNow(call: string, value: string, remedy: string): never {
  const requirement = "it answers before it returns, which only the CPU on the caller's thread can";
  throw new UnsupportedError({ call, requirement, value, remedy });
}

/** An operation that is open on a backend: where it computes, and its end. Each class makes its own by `create`. */
export abstract class Operation {
  readonly #runner: OperationRunner;
  readonly #type: string;
  #disposed = false;

  /** @internal */
  protected constructor(runner: OperationRunner, type: string) {
    madeByCreate(typeof runner?.leave === "function", type);
    this.#runner = runner;
    this.#type = type;
  }

  /** Threads in use at most, the caller's included. */
  get threads(): number {
    return this.#runner.threads;
  }

  /** In what the kernels are written: an instruction set of the CPU, or WebGPU's language. */
  get instructions(): Instructions | "wgsl" {
    return this.#runner.instructions;
  }

  /** The GPU device in use, for buffers and commands of your own; undefined on the CPU. */
  get device(): GpuDevice | undefined {
    return this.#runner.device;
  }

  /** @internal */
  protected get disposed(): boolean {
    return this.#disposed;
  }

  /** @internal Refuse a call on an object that is disposed. */
  protected alive(call: string): void {
    if (!this.#disposed) return;
    throw new InvalidArgumentError({
      call,
      requirement: `it needs a ${this.#type} that has not been disposed`,
      value: "a disposed one",
      remedy: "Create a new object, or dispose later.",
    });
  }

  /**
   * @internal The backend's way to answer when it returns.
   * @throws UnsupportedError where it has none.
   */
  protected answering<T>(now: T | undefined, call: string): T {
    this.alive(call);
    if (now) return now;
    const value = this.device ? "an object on WebGPU" : "an object whose calls run in a worker";
    const remedy = "Create the object with backend: 'cpu' and without a worker, or await";
    return refuseNow(call, value, `${remedy} ${call.replace("Sync", "")}.`);
  }

  /** @internal What the backend is told of a call. */
  protected context(name: string, encoder: GpuCommandEncoder | undefined): CallContext {
    return { name, encoder, alive: () => this.alive(name) };
  }

  /**
   * Free what the object holds: spectra, programs, lent arrays. Calls under way finish first; lent arrays must not be used after.
   * A second call does nothing.
   */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#runner.leave();
  }

  /** The same as `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** The same as `dispose`, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }
}
