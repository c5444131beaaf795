/** What the calls of one object on a GPU have in common: turns, schedules that are remembered, buffers. */

import type { BoundSchedule, GpuRange, GpuRanges } from "../backend/gpu.ts";
import type { CommandTarget, Pipelines, WebGpuSchedule } from "../backend/webgpu/compiled.ts";
import type { WebGpuBackend } from "../backend/webgpu/device.ts";
import type { Dtype } from "../dtype.ts";
import { bytesPerSample } from "../dtype.ts";
import type { BufferName, Schedule } from "../schedule/schedule.ts";
import { intact } from "../tensors/check.ts";
import { GpuSamples } from "../tensors/tensor.ts";
import { OwnBuffers } from "./gpu-buffers.ts";
import type { CallOperand } from "./gpu-operands.ts";
import { alignedRange } from "./gpu-operands.ts";

/** Schedules that an object remembers: those used last. */
const mostSchedules = 128;

/** A schedule and what every call of it binds. */
export interface PlannedCall {
  readonly schedule: Schedule;
  readonly tables?: GpuRanges<GPUBuffer>;
}

/** Bind groups of a schedule's last call on ranges whose first lies in a buffer: they go with that buffer. */
type KnownBindings = WeakMap<
  GPUBuffer,
  { readonly key: string; readonly bound: BoundSchedule<CommandTarget> }
>;

/** A schedule that is remembered. */
interface RememberedSchedule {
  readonly compiled: WebGpuSchedule;
  readonly bindings: KnownBindings;
}

/** The calls of one object. */
export class GpuCalls {
  readonly backend: WebGpuBackend;
  readonly own: OwnBuffers;
  /** What offsets of bindings are multiples of. */
  readonly alignment: number;
  readonly #workspaceBytes: number;
  readonly #remembered = new Map<string, RememberedSchedule>();
  /** Schedules of recorders. */
  readonly #recorded = new Set<WebGpuSchedule>();
  /** Kernels that calls to come will need. */
  readonly #warm: Pipelines[] = [];
  #turn: Promise<unknown> = Promise.resolve();
  /** Calls that wait or run. */
  #pending = 0;
  #left = false;

  constructor(backend: WebGpuBackend, workspaceBytes: number) {
    this.backend = backend;
    this.own = new OwnBuffers(backend);
    this.#workspaceBytes = workspaceBytes;
    this.alignment = backend.device.limits.minStorageBufferOffsetAlignment;
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

  /** The schedule of that key, made where there is none. */
  async #schedule(key: string, make: () => PlannedCall, call: string): Promise<RememberedSchedule> {
    const known = this.#remembered.get(key) ?? {
      compiled: await this.#prepare(make(), call),
      bindings: new WeakMap(),
    };
    // The first of the map is the one that was not used for longest.
    this.#remembered.delete(key);
    this.#remembered.set(key, known);
    const [oldest] = this.#remembered.keys();
    if (this.#remembered.size > mostSchedules) this.#forget(oldest!);
    return known;
  }

  #prepare({ schedule, tables }: PlannedCall, call: string): Promise<WebGpuSchedule> {
    return this.backend.prepare(schedule, call, tables);
  }

  #forget(key: string): void {
    this.#free(this.#remembered.get(key)!.compiled);
    this.#remembered.delete(key);
  }

  #free({ parameters, pipelines }: WebGpuSchedule): void {
    this.own.retire(parameters);
    this.backend.spare(pipelines);
  }

  /** A schedule that a recorder has until `release`; `alive` as in requests. */
  hold(planned: PlannedCall, alive: () => void, call: string): Promise<WebGpuSchedule> {
    return this.exclusive(async () => {
      alive();
      const compiled = await this.#prepare(planned, call);
      this.#recorded.add(compiled);
      return compiled;
    });
  }

  release(compiled: WebGpuSchedule): void {
    if (this.#recorded.delete(compiled)) this.#free(compiled);
  }

  /** One call in its turn: bind or fill buffers, submit or record, fetch what goes to arrays. */
  async call(
    key: string,
    make: () => PlannedCall,
    operands: readonly CallOperand[],
    {
      name: call,
      encoder,
    }: { readonly name: string; readonly encoder?: GPUCommandEncoder | undefined },
  ): Promise<void> {
    const schedule = await this.#schedule(key, make, call);
    const ranges: Partial<Record<BufferName, GpuRange<GPUBuffer>>> = {};
    for (const o of operands) ranges[o.buffer] = await this.#range(o, call);
    await this.#run(schedule, ranges, encoder, call);
    for (const { buffer, name, data, use } of operands) {
      if (use !== "out" || data instanceof GpuSamples) continue;
      intact(name, data, 1, call);
      const from = ranges[buffer]!.buffer;
      await this.backend.read(from, 0, data as unknown as ArrayBufferView, call);
    }
  }

  /** The range of an operand: arrays have a buffer of ours. */
  async #range(
    { buffer, name, data, size, use }: CallOperand,
    call: string,
  ): Promise<GpuRange<GPUBuffer>> {
    if (data instanceof GpuSamples) return alignedRange(data, this.alignment);
    intact(name, data, use === "out" ? 1 : size, call);
    if (use === "kept")
      return { buffer: await this.own.holding(buffer, data as Float32Array, call) };
    const own = await this.own.get(buffer, data.length * data.BYTES_PER_ELEMENT, call);
    if (use === "in") this.backend.write(own, 0, data as unknown as ArrayBufferView);
    return { buffer: own };
  }

  /** A schedule's commands on these ranges, in work memory of the object: submitted, or added to the caller's encoder. */
  async #run(
    { compiled, bindings }: RememberedSchedule,
    ranges: GpuRanges<GPUBuffer>,
    encoder: GPUCommandEncoder | undefined,
    call: string,
  ): Promise<void> {
    const scratch = await this.own.scratch(compiled.scratchBytes, this.#workspaceBytes, call);
    const all = [...Object.values(ranges), ...scratch];
    if (encoder) this.own.lend([...all.map((r) => r.buffer), compiled.parameters]);
    const record = (to: GPUCommandEncoder): void => {
      const key = all.map(rangeKey).join();
      const [{ buffer }] = all as [GpuRange<GPUBuffer>];
      const known = bindings.get(buffer);
      const bound = known?.key === key ? known.bound : compiled.bind(ranges, scratch);
      if (bound !== known?.bound) bindings.set(buffer, { key, bound });
      bound.encode(to);
    };
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
      for (const key of [...this.#remembered.keys()]) this.#forget(key);
      for (const compiled of [...this.#recorded]) this.release(compiled);
      for (const pipelines of this.#warm) this.backend.spare(pipelines);
      this.own.leave();
      this.backend.left(this);
    });
  }
}

/** Buffers by number: what tells ranges from each other. */
const numbers = new WeakMap<GPUBuffer, number>();
let count = 0;

function rangeKey({ buffer, offset = 0 }: GpuRange<GPUBuffer>): string {
  const known = numbers.get(buffer) ?? ++count;
  numbers.set(buffer, known);
  return `${known}+${offset}`;
}
