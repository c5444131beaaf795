/** What the calls of one object on a GPU have in common: turns, schedules that are remembered, buffers. */
import type { Buffers, Pipelines, Recording, WebGpuBackend } from "../backend/webgpu/device.ts";
import type { Dtype } from "../dtype.ts";
import { bytesPerSample } from "../dtype.ts";
import type { Schedule } from "../schedule/schedule.ts";
import { GpuSamples } from "../tensors/tensor.ts";
import { OwnBuffers } from "./gpu-buffers.ts";

/** Schedules that an object remembers. */
const mostRecordings = 64;

/** The calls of one object. */
export class GpuCalls {
  readonly backend: WebGpuBackend;
  readonly own: OwnBuffers;
  readonly #recordings = new Map<string, Recording>();
  /** Kernels that calls to come will need. */
  readonly #warm: Pipelines[] = [];
  #turn: Promise<unknown> = Promise.resolve();
  /** Calls that wait or run. */
  #pending = 0;
  #left = false;

  constructor(backend: WebGpuBackend) {
    this.backend = backend;
    this.own = new OwnBuffers(backend);
    backend.joined(this);
  }

  /** Give back the buffers that only calls to come would use, where none is under way. */
  yieldIdle(): boolean {
    return this.#pending === 0 && this.own.yieldSpare();
  }

  /** Compile the kernels of a schedule ahead of the calls that need them. */
  async warm(schedule: Schedule, call: string): Promise<void> {
    const pipelines = await this.backend.compile(schedule, call);
    if (this.#left) this.backend.spare(pipelines);
    else this.#warm.push(pipelines);
  }

  /** A new buffer for a result. */
  async allocate(size: number, dtype: Dtype, call: string): Promise<GpuSamples> {
    const bytes = bytesPerSample(dtype);
    const buffer = await this.backend.gift(size * bytes, call);
    return new GpuSamples(buffer, 0, size, bytes);
  }

  /** One call after the other: they share work memory. */
  exclusive<T>(work: () => Promise<T>): Promise<T> {
    this.#pending++;
    const turn = this.#turn.then(work);
    this.#turn = turn
      .catch(() => {})
      .then(() => {
        this.#pending--;
      });
    return turn;
  }

  /** The recording of that key, made where there is none. */
  async recording(key: string, make: () => Schedule, call: string): Promise<Recording> {
    const known = this.#recordings.get(key);
    if (known) return known;
    const recording = await this.backend.prepare(make(), call);
    this.#recordings.set(key, recording);
    const [oldest] = this.#recordings.keys();
    if (this.#recordings.size > mostRecordings) this.#forget(oldest!);
    return recording;
  }

  #forget(key: string): void {
    const { parameters, pipelines } = this.#recordings.get(key)!;
    this.#recordings.delete(key);
    this.own.retire(parameters);
    this.backend.spare(pipelines);
  }

  /** A recording's commands: submitted, or added to the caller's encoder. */
  async run(
    recording: Recording,
    buffers: Buffers,
    encoder: GPUCommandEncoder | undefined,
    call: string,
  ): Promise<void> {
    if (encoder) this.own.lend([...Object.values(buffers), recording.parameters]);
    const record = (to: GPUCommandEncoder): void => this.backend.record(to, recording, buffers);
    if (encoder) await this.backend.checked(() => record(encoder), call);
    else await this.backend.submit(record, call);
  }

  /** The caller has submitted all encoders that calls were given so far. */
  submitted(): Promise<void> {
    return this.exclusive(async () => this.own.submitted());
  }

  /** Give everything back once the calls before have ended; `first` what else there is. */
  leave(first: () => void = () => {}): void {
    if (this.#left) return;
    this.#left = true;
    void this.exclusive(async () => {
      first();
      for (const key of [...this.#recordings.keys()]) this.#forget(key);
      for (const pipelines of this.#warm) this.backend.spare(pipelines);
      this.own.leave();
      this.backend.left(this);
    });
  }
}
