/** A convolution that a worker computes: calls and copies of their arrays go there, results come back. */
import type { Instructions } from "../backend/cpu/features.ts";
import { raw } from "../calls/cpu-staging.ts";
import { PreparedKernel } from "../calls/prepared.ts";
import type { Dtype, SampleArray } from "../dtype.ts";
import { BackendError, InvalidArgumentError } from "../errors.ts";
import { show } from "../show.ts";
import { intact } from "../tensors/check.ts";
import { newArray, zeros } from "../tensors/results.ts";
import type { TensorData } from "../tensors/tensor.ts";
import type { Explanation } from "./explain.ts";
import type { ConvolutionWorker, FlashFFTConvOptions, MemoryUse, WarmUp } from "./options.ts";
import type {
  Answer,
  Ask,
  Opening,
  State,
  Wire,
  WireRequest,
  WireResults,
} from "./remote-messages.ts";
import { fromWire } from "./remote-messages.ts";
import type { Request, Runner, WeightGradients } from "./runner.ts";

/** A worker that says nothing for so many milliseconds serves no convolutions. */
const startLimit = 30_000;

/** The first error of a worker that is to compute, until nobody asks any more. */
export interface FirstError {
  readonly message: Promise<string>;
  readonly stop: () => void;
}

interface Waiting {
  readonly resolve: (results: WireResults) => void;
  readonly reject: (error: Error) => void;
}

/** Node's ports keep the process alive while they listen. */
type PostPort = MessagePort & { ref?(): void; unref?(): void };

/** A copy that may be given away. */
function copy(data: TensorData, call: string): Wire {
  const bits = raw(data as SampleArray);
  const made = newArray(bits.constructor as new (n: number) => Wire, bits.length, call);
  made.set(bits);
  return made;
}

/** A runner whose work is done by a worker. */
export class RemoteRunner implements Runner {
  readonly device = undefined;
  readonly #port: PostPort;
  readonly #waiting = new Map<number, Waiting>();
  readonly #kernels = new Map<PreparedKernel, number>();
  #state: State | undefined;
  #explained: State["explained"];
  #calls = 0;
  #prepared = 0;
  /** Why no answer will come any more. */
  #lost: string | undefined;
  #left = false;

  private constructor(port: PostPort) {
    this.#port = port;
    port.onmessage = ({ data }: MessageEvent<Answer>) => this.#receive(data);
    port.addEventListener("close", () => this.#lose("a worker that has ended"));
  }

  /**
   * Make the object in the worker.
   * @throws what `FlashFFTConv.create` throws there, BackendError where the worker does not answer.
   */
  static async open(
    { worker, device, workerUrl, ...options }: FlashFFTConvOptions,
    error: FirstError,
    call: string,
  ): Promise<RemoteRunner> {
    if (device !== undefined) {
      throw new InvalidArgumentError({
        call,
        requirement: "a device stays on the thread that opened it",
        value: "a device with worker",
        remedy: "Leave device out (backend: 'webgpu' opens one in the worker), or worker.",
      });
    }
    if (typeof worker?.postMessage !== "function") {
      throw new InvalidArgumentError({
        call,
        requirement: "worker must be a Worker",
        value: show(worker),
        remedy: "Pass new Worker(…) of a script that calls serveConvolutions().",
      });
    }
    const { port1, port2 } = new MessageChannel();
    const runner = new RemoteRunner(port1);
    const url = workerUrl === undefined ? {} : { workerUrl: String(workerUrl) };
    const opening: Opening = { flashfftconv: { ...options, ...url }, call, port: port2 };
    const opened = runner.#answer(() => post(worker, opening));
    // Of a script that does not load; Node's workers close the port.
    void error.message.then((message) => runner.#lose(`a worker with an error: ${message}`));
    const silence = `a worker that says nothing for ${startLimit / 1e3} s`;
    const timer = setTimeout(() => runner.#lose(silence), startLimit);
    try {
      await opened;
    } catch (error) {
      runner.leave();
      throw error;
    } finally {
      clearTimeout(timer);
      error.stop();
    }
    return runner;
  }

  /** The next answer to a message that `post` posts. */
  #answer(post: (id: number) => void): Promise<WireResults> {
    return new Promise((resolve, reject) => {
      const id = this.#calls++;
      this.#waiting.set(id, { resolve, reject });
      this.#port.ref?.();
      if (this.#lost !== undefined) return this.#lose(this.#lost);
      try {
        post(id);
      } catch (error) {
        this.#settle(id);
        reject(error);
      }
    });
  }

  #ask(ask: Ask, given: WireResults): Promise<WireResults> {
    const transfer = given.flatMap((wire) => (wire ? [wire.buffer] : []));
    return this.#answer((id) => this.#port.postMessage({ id, ...ask }, transfer));
  }

  #receive(answer: Answer): void {
    const { resolve, reject } = this.#waiting.get(answer.id)!;
    this.#settle(answer.id);
    if (answer.state) this.#state = answer.state;
    this.#explained = answer.state?.explained ?? this.#explained;
    if ("error" in answer) reject(fromWire(answer.error));
    else resolve(answer.results);
  }

  #settle(id: number): void {
    this.#waiting.delete(id);
    if (this.#waiting.size > 0) return;
    if (this.#left) this.#port.close();
    else this.#port.unref?.();
  }

  /** Calls that wait hear that no answer comes. */
  #lose(value: string): void {
    this.#lost = value;
    for (const [id, { reject }] of this.#waiting) {
      this.#settle(id);
      reject(
        new BackendError({
          call: "FlashFFTConv",
          requirement: "a worker that lives, and whose script calls serveConvolutions()",
          value,
          remedy: "Start a new worker and create the object again.",
        }),
      );
    }
  }

  get threads(): number {
    return this.#state!.threads;
  }

  get instructions(): Instructions | "wgsl" {
    return this.#state!.instructions;
  }

  explain(): Explanation {
    const { fields, text } = this.#explained!;
    return { ...fields, toString: () => text };
  }

  memory(): MemoryUse {
    return this.#state!.memory;
  }

  #request({ shape, gates, name, rows, skip, kernel }: Request): {
    request: WireRequest;
    given: (Wire | undefined)[];
  } {
    const wires = rows.map(({ field, width, direction, data }) => ({
      ...{ field, width, direction, size: data.length, wide: data instanceof Float32Array },
      data: direction === "in" ? copy(data, name) : undefined,
    }));
    const weights = skip && copy(skip, name);
    const taps =
      "prepared" in kernel
        ? this.#kernels.get(kernel.prepared)!
        : { taps: copy(kernel.taps, name), dtype: kernel.dtype };
    const request = { shape, gates, name, rows: wires, skip: weights, kernel: taps };
    const given = [...wires.map(({ data }) => data), weights];
    return { request, given: typeof taps === "number" ? given : [...given, taps.taps] };
  }

  /** WireResults to where the caller wants them. */
  #fill(outputs: readonly TensorData[], results: WireResults, name: string): void {
    for (const [i, data] of (outputs as SampleArray[]).entries()) {
      const result = results[i]!;
      intact("out", data, result.length, name);
      raw(data).set(result);
    }
  }

  async forward(request: Request): Promise<void> {
    const { request: wire, given } = this.#request(request);
    const results = await this.#ask({ kind: "forward", request: wire }, given);
    this.#fill(outputsOf(request), results, request.name);
  }

  async backward(request: Request, { dk, dskip }: WeightGradients): Promise<void> {
    const { request: wire, given } = this.#request(request);
    const ask = { kind: "backward", request: wire, taps: dk.length } as const;
    const results = await this.#ask(ask, given);
    this.#fill([...outputsOf(request), dk, ...(dskip ? [dskip] : [])], results, request.name);
  }

  async warmUp(calls: WarmUp, name: string): Promise<void> {
    await this.#ask({ kind: "warmUp", calls, name }, []);
  }

  async prepare(
    taps: TensorData,
    dtype: Dtype,
    channels: number,
    { name, alive }: Pick<Request, "name" | "alive">,
  ): Promise<PreparedKernel> {
    const wire = { taps: copy(taps, name), dtype };
    const kernel = this.#prepared++;
    await this.#ask({ kind: "prepare", kernel, taps: wire, channels, name }, [wire.taps]);
    alive();
    const prepared = new PreparedKernel(channels, (self) => {
      if (!this.#kernels.delete(self) || this.#left) return;
      void this.#ask({ kind: "free", kernel }, []).catch(() => {});
    });
    this.#kernels.set(prepared, kernel);
    return prepared;
  }

  holds(kernel: PreparedKernel): boolean {
    return this.#kernels.has(kernel);
  }

  /** An array of the caller's memory: it is copied to the worker as any other. */
  lend(size: number, dtype: Dtype, call: string): Float32Array | Uint16Array {
    return zeros(dtype, size, call);
  }

  allocate(_size: number, _dtype: Dtype, call: string): never {
    throw new Error(`${call}: tensors in buffers of a GPU stay on its thread`);
  }

  /** The object in the worker ends after the calls before, and the port closes after the last answer. */
  leave(): void {
    this.#left = true;
    this.#port.postMessage({ kind: "leave" } satisfies Ask);
    if (this.#waiting.size === 0) this.#port.close();
  }
}

/** @throws InvalidArgumentError for options that cannot be copied. */
function post(worker: ConvolutionWorker, opening: Opening): void {
  try {
    worker.postMessage(opening, [opening.port] as never[]);
  } catch (cause) {
    throw new InvalidArgumentError({
      call: opening.call,
      requirement: "options that can be copied to a worker",
      value: cause instanceof Error ? cause.message : String(cause),
      remedy: "Pass numbers, strings and plain objects.",
    });
  }
}

function outputsOf({ rows }: Request): TensorData[] {
  return rows.filter(({ direction }) => direction === "out").map(({ data }) => data);
}
