/**
 * Times of calls on a GPU: tensors in buffers of its own and many calls in a submission, so that neither copies nor the
 * way to the device and back count.
 */
import { storageBuffer } from "../backend/webgpu/buffers.ts";
import type { FlashFFTConv } from "../conv/conv.ts";
import type { SampleArray } from "../dtype.ts";
import type { GpuTensor } from "../tensors/tensor.ts";

type Device = NonNullable<FlashFFTConv["device"]>;
type Encoder = ReturnType<Device["createCommandEncoder"]>;

/** Calls of one submission: about a tenth of a second of work. */
const submissionMs = 100;
const mostCalls = 400;
/**
 * A device that has idled so many milliseconds sleeps: an H200 runs at a fifth of its speed then, until it has worked for a quarter
 * of a second, recording of commands not counted. It is awake when for so many milliseconds no call took less than before, by a
 * share that is worth the name; or after so many.
 */
const restMs = 50;
const steadyMs = 400;
const steadyShare = 0.97;
const longestWakeMs = 4000;

/** Buffers for calls, and the clock. */
export class GpuTiming {
  readonly #device: Device;
  readonly #call: string;
  readonly #buffers: GPUBuffer[] = [];
  /** When the device was last seen at work. */
  #worked = Number.NEGATIVE_INFINITY;

  /** @param call the call that errors name. */
  constructor(device: Device, call: string) {
    this.#device = device;
    this.#call = call;
  }

  /**
   * Samples in a new buffer of a shape, which lives until `free`: again and again where it has more, in whole words.
   * @throws BackendError where the device has no room for it.
   */
  async upload(samples: SampleArray, shape: readonly number[]): Promise<GpuTensor> {
    const all = shape.reduce((a, b) => a * b, samples.BYTES_PER_ELEMENT);
    const size = Math.ceil(all / 4) * 4;
    const data = await storageBuffer(this.#device, size, this.#call);
    this.#buffers.push(data);
    const bytes = new Uint8Array(Math.ceil(samples.byteLength / 4) * 4);
    bytes.set(new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength));
    const { queue } = this.#device;
    for (let at = 0; at < size; at += bytes.length)
      queue.writeBuffer(data, at, bytes, 0, Math.min(bytes.length, size - at));
    return { data, shape };
  }

  /**
   * Median milliseconds of the device for what `record` adds to an encoder: a submission of 1 + n calls less one of a
   * single call, over n, while the budget lasts; before that, work that wakes the device up.
   */
  async median(budget: number, record: (encoder: Encoder) => Promise<unknown>): Promise<number> {
    const { queue } = this.#device;
    const submit = async (calls: number): Promise<number> => {
      const encoder = this.#device.createCommandEncoder();
      for (let i = 0; i < calls; i++) await record(encoder);
      const commands = encoder.finish();
      const start = performance.now();
      queue.submit([commands]);
      await queue.onSubmittedWorkDone();
      this.#worked = performance.now();
      return this.#worked - start;
    };
    const count = (ms: number): number =>
      Math.max(1, Math.min(mostCalls, Math.round(submissionMs / ms)));
    const asleep = performance.now() - this.#worked > restMs;
    // The first call waits for tables and work memory.
    await submit(1);
    let calls = count(await submit(1));
    const begun = performance.now();
    for (let [least, since] = [Number.POSITIVE_INFINITY, begun]; asleep; ) {
      const ms = (await submit(calls)) / calls;
      calls = count(ms);
      if (ms < steadyShare * least) [least, since] = [ms, this.#worked];
      if (this.#worked - since > steadyMs || this.#worked - begun > longestWakeMs) break;
    }
    const times: number[] = [];
    const end = performance.now() + budget;
    while (times.length < 3 || performance.now() < end) {
      const single = await submit(1);
      times.push(((await submit(1 + calls)) - single) / calls);
    }
    times.sort((a, b) => a - b);
    return times[times.length >> 1]!;
  }

  /** Destroy the buffers. */
  free(): void {
    for (const buffer of this.#buffers) buffer.destroy();
  }
}
