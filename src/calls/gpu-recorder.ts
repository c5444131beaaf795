/** Recorders: calls of fixed shape on a GPU, bound to the caller's buffers and recorded without waiting. */
import type { BoundSchedule } from "../backend/gpu.ts";
import { storageSize } from "../backend/webgpu/buffers.ts";
import type { CommandTarget, WebGpuSchedule } from "../backend/webgpu/compiled.ts";
import { checkOptions, known } from "../checks.ts";
import { InvalidArgumentError } from "../errors.ts";
import type { GpuBuffer, GpuCommandEncoder } from "../gpu.ts";
import { show } from "../show.ts";
import type { Named } from "../tensors/check.ts";
import { apart, checkStorage } from "../tensors/check.ts";
import { GpuSamples } from "../tensors/tensor.ts";
import type { GpuCalls, PlannedCall } from "./gpu-turns.ts";
import type {
  BoundRecorder,
  GpuBufferBinding,
  GpuRecorder,
  NamedOperand,
  RecorderOperand,
} from "./recorder.ts";
import { checkEncoder } from "./runtime.ts";

/** What a recorder belongs to. */
export interface RecorderOwner {
  readonly calls: GpuCalls;
  /** Throws where the object has been disposed of. */
  readonly alive: (call: string) => void;
}

/** What an operation says of the calls that it records: the ways they go, the options of one, and the call that comes of them. */
interface RecordedCalls<Way, Options, Call> {
  recorded(way: Way, options: Options, call: string): Call;
  planned(way: Way, recorded: Call): PlannedCall;
  operands(way: Way, recorded: Call): readonly NamedOperand[];
}

/**
 * A recorder of a call.
 * @throws InvalidArgumentError for options out of range, BackendError where an operand fits no buffer: a call of any size would have a schedule as long.
 */
export async function openRecorder<Way, Options, Call>(
  schedules: RecordedCalls<Way, Options, Call>,
  way: Way,
  options: Options,
  owner: RecorderOwner,
  call: string,
): Promise<GpuRecorder> {
  const recorded = schedules.recorded(way, options, call);
  const operands = schedules.operands(way, recorded);
  for (const { bytes } of operands) storageSize(owner.calls.backend.device, bytes, call);
  const compiled = await owner.calls.hold(
    schedules.planned(way, recorded),
    () => owner.alive(call),
    call,
  );
  return new ScheduleRecorder(compiled, operands, owner);
}

class ScheduleRecorder implements GpuRecorder {
  readonly operands: Readonly<Record<string, RecorderOperand>>;
  readonly #compiled: WebGpuSchedule;
  readonly #named: readonly NamedOperand[];
  readonly #owner: RecorderOwner;
  #disposed = false;

  constructor(compiled: WebGpuSchedule, named: readonly NamedOperand[], owner: RecorderOwner) {
    this.#compiled = compiled;
    this.#named = named;
    this.#owner = owner;
    const operands = named.map(({ name, bytes, access }) => [name, { bytes, access }]);
    this.operands = Object.freeze(Object.fromEntries(operands));
    Object.freeze(this);
  }

  get scratchBytes(): readonly number[] {
    return this.#compiled.scratchBytes;
  }

  get dispatches(): number {
    return this.#compiled.schedule.steps.length;
  }

  bind(
    ranges: Readonly<Record<string, GpuBufferBinding>>,
    scratch: readonly (GpuBuffer | GpuBufferBinding)[] = [],
  ): BoundRecorder {
    const call = "recorder.bind";
    this.#alive(call);
    checkOptions(ranges, call, "ranges", "Pass { name: { buffer } } for each of operands.");
    known(ranges, Object.keys(this.operands), call, "ranges");
    const { limits } = this.#owner.calls.backend.device;
    const check = (name: string, binding: GpuBufferBinding | undefined, bytes: number) =>
      checkedRange(name, binding, bytes, limits.minStorageBufferOffsetAlignment, call);
    const found = this.#named.map(({ name, bytes, access }): Named & { data: GpuSamples } => ({
      ...{ name, data: check(name, ranges[name], bytes), isOutput: access !== "read" },
    }));
    const work = this.scratchBytes.map((bytes, i) => {
      const lent = Object(scratch)[i] as GpuBuffer | GpuBufferBinding | undefined;
      const binding = Object(lent).buffer ? lent : { buffer: lent };
      const name = `scratch ${i}`;
      return { name, data: check(name, binding as GpuBufferBinding, bytes) };
    });
    found.forEach((o, i) => {
      if (o.isOutput) apart(o, found.toSpliced(i, 1), call);
    });
    work.forEach((w, i) => {
      apart(w, [...found.map(({ name, data }) => ({ name, data })), ...work.slice(0, i)], call);
    });
    const named = this.#named.flatMap(({ buffers }, i) =>
      buffers.map((buffer) => [buffer, rangeOf(found[i]!.data)]),
    );
    const bound = this.#owner.calls.backend.noted(() =>
      this.#compiled.bind(
        Object.fromEntries(named),
        work.map(({ data }) => rangeOf(data)),
      ),
    );
    return new CheckedBinding(bound, (during) => this.#alive(during));
  }

  async submit(...encoders: GpuCommandEncoder[]): Promise<void> {
    const call = "recorder.submit";
    this.#owner.alive(call);
    const { backend } = this.#owner.calls;
    for (const encoder of encoders) checkEncoder(encoder ?? null, backend.device, call);
    await backend.flush(encoders as GPUCommandEncoder[], call);
  }

  #alive(call: string): void {
    this.#owner.alive(call);
    if (!this.#disposed) return;
    throw new InvalidArgumentError({
      call,
      requirement: "it needs a recorder that has not been disposed",
      value: "a disposed one",
      remedy: "Make a new one, or dispose later.",
    });
  }

  dispose(): void {
    this.#disposed = true;
    this.#owner.calls.release(this.#compiled);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

class CheckedBinding implements BoundRecorder {
  readonly dispatches: number;
  readonly #bound: BoundSchedule<CommandTarget>;
  readonly #alive: (call: string) => void;

  constructor(bound: BoundSchedule<CommandTarget>, alive: (call: string) => void) {
    this.dispatches = bound.dispatches;
    this.#bound = bound;
    this.#alive = alive;
    Object.freeze(this);
  }

  encode(into: unknown): void {
    this.#alive("recorder.encode");
    const { beginComputePass, dispatchWorkgroups } = Object(into);
    const open = beginComputePass ?? dispatchWorkgroups;
    if (typeof open !== "function") {
      throw new InvalidArgumentError({
        call: "recorder.encode",
        requirement: "into must be a GPUCommandEncoder or a GPUComputePassEncoder",
        value: show(into),
        remedy: "Pass what device.createCommandEncoder() or encoder.beginComputePass() returns.",
      });
    }
    this.#bound.encode(into as CommandTarget);
  }
}

const rangeOf = ({ buffer, byteOffset, byteLength }: GpuSamples) => ({
  ...{ buffer: buffer as GPUBuffer, offset: byteOffset, size: byteLength },
});

/** A range that a caller gave, as so many bytes of its buffer. */
function checkedRange(
  name: string,
  binding: GpuBufferBinding | undefined,
  bytes: number,
  alignment: number,
  call: string,
): GpuSamples {
  const refuse = (requirement: string, value: unknown, remedy: string): never => {
    throw new InvalidArgumentError({ call, requirement, value: show(value), remedy });
  };
  const buffer = Object(binding).buffer as Partial<GPUBuffer> | undefined;
  if (typeof buffer?.destroy !== "function" || typeof buffer.size !== "number") {
    refuse(
      `${name} needs { buffer } with a GPUBuffer`,
      binding,
      `Pass { buffer }, or { buffer, offset, size }, of ${show(bytes)} bytes or more.`,
    );
  }
  known(binding!, ["buffer", "offset", "size"], call, name);
  const { offset = 0, size } = binding!;
  if (!Number.isInteger(offset) || offset < 0 || offset % alignment !== 0) {
    refuse(
      `the offset of ${name} must be a multiple of ${show(alignment)} bytes (minStorageBufferOffsetAlignment)`,
      offset,
      "Begin ranges at such multiples.",
    );
  }
  const whole = buffer as GPUBuffer;
  checkStorage(whole, name, call);
  const room = Math.min(size ?? Number.POSITIVE_INFINITY, whole.size - offset);
  if (!(room >= bytes)) {
    refuse(
      `the range of ${name} must have ${show(bytes)} bytes`,
      Math.max(0, room),
      "Check offset, size and the buffer, and the shape that the recorder was made for.",
    );
  }
  return new GpuSamples(whole, offset, bytes, 1);
}
