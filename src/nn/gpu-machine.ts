/** Programs on a GPU: every step a schedule or a recorded convolution, bound once, all recorded into one pass. */
import type { BoundSchedule, GpuRange } from "../backend/gpu.ts";
import type { CommandTarget } from "../backend/webgpu/compiled.ts";
import type { WebGpuBackend } from "../backend/webgpu/device.ts";
import { backendFor } from "../calls/gpu-open.ts";
import type { GpuRecorder } from "../calls/recorder.ts";
import type { GpuDevice } from "../gpu.ts";
import { gatherSchedule } from "../schedule/gather.ts";
import { productSchedule } from "../schedule/product.ts";
import { rowSchedule } from "../schedule/rows.ts";
import type { GpuLimits, Schedule } from "../schedule/schedule.ts";
import type { CompiledSteps, ModelMachine, Region } from "./machine.ts";
import { Operators } from "./operators.ts";
import type { ConvolutionStep, FilterStep, StepWork } from "./step.ts";
import type { Step, TapeTensor } from "./tape.ts";

/** Work that is a schedule of its own. */
type ScheduledWork = Exclude<StepWork, ConvolutionStep | FilterStep>;

/** What can be bound to ranges, whatever it is made of. */
interface Bindable {
  readonly scratchBytes: readonly number[];
  bind(
    ranges: Record<string, GpuRange<GPUBuffer>>,
    scratch: readonly GpuRange<GPUBuffer>[],
  ): Recorded;
}

type Recorded = Pick<BoundSchedule<CommandTarget>, "dispatches" | "encode">;

/** An object whose calls can be recorded. */
interface Recordable {
  recorder(way: "forward" | "backward", options: object): Promise<GpuRecorder>;
}

function scheduleOf(work: ScheduledWork, limits: GpuLimits): Schedule<string> {
  if (work.kind === "product") return productSchedule(work.problem, limits);
  if (work.kind === "rows") return rowSchedule(work.program, work.shape, limits);
  return gatherSchedule(work, limits);
}

/** Equal keys mean that one compiled form serves. */
function keyOf(work: StepWork, reads: readonly string[]): string {
  if (work.kind !== "rows") return JSON.stringify([work, reads]);
  return JSON.stringify([work.program.key, work.shape]);
}

/** A WebGPU device for programs. */
export class GpuMachine implements ModelMachine<GPUBuffer> {
  readonly filtersAdd = true;
  readonly storage: "float32" | "float16";
  readonly #backend: WebGpuBackend;
  readonly #compiled = new Map<string, Promise<Bindable>>();
  readonly #operators: Operators;

  private constructor(
    backend: WebGpuBackend,
    device: GpuDevice | undefined,
    storage: "float32" | "float16",
  ) {
    this.#backend = backend;
    this.#operators = new Operators(device ? { device } : { backend: "webgpu" });
    this.storage = storage;
  }

  /** @throws UnsupportedError where there is no GPU. */
  static async open(
    device: GpuDevice | undefined,
    storage: "float32" | "float16",
    call: string,
  ): Promise<GpuMachine> {
    return new GpuMachine(await backendFor(device as GPUDevice, call), device, storage);
  }

  get name(): string {
    return this.#backend.name;
  }

  /** The device, whose buffers are the machine's memory. */
  get device(): GPUDevice {
    return this.#backend.device;
  }

  /** Bytes of all buffers of the device that the library holds. */
  get heldBytes(): number {
    return this.#backend.held.bytes;
  }

  allocate(bytes: number, call: string): Promise<GPUBuffer> {
    return this.#backend.buffer(bytes, call);
  }

  free(buffer: GPUBuffer): void {
    this.#backend.release(buffer);
  }

  write({ memory, offset }: Region<GPUBuffer>, data: ArrayBufferView): void {
    this.#backend.write(memory, offset, data);
  }

  read({ memory, offset }: Region<GPUBuffer>, into: ArrayBufferView): Promise<void> {
    return this.#backend.read(memory, offset, into, "program.read");
  }

  async compile(
    steps: readonly Step[],
    place: (tensor: TapeTensor) => Region<GPUBuffer>,
    call: string,
  ): Promise<CompiledSteps> {
    const made = await Promise.all(steps.map((step) => this.#prepared(step, call)));
    const most: number[] = [];
    for (const { scratchBytes } of made)
      scratchBytes.forEach((bytes, i) => {
        most[i] = Math.max(most[i] ?? 0, bytes);
      });
    const scratch = await Promise.all(most.map((bytes) => this.allocate(bytes, call)));
    const range = (tensor: TapeTensor): GpuRange<GPUBuffer> => {
      const { memory, offset, bytes } = place(tensor);
      return { buffer: memory, offset, size: Math.ceil(bytes / 4) * 4 };
    };
    const recorded = this.#backend.noted(() =>
      steps.map(({ reads, writes }, i) => {
        const named = Object.entries({ ...reads, ...writes });
        const ranges = Object.fromEntries(named.map(([name, t]) => [name, range(t)]));
        const { scratchBytes } = made[i]!;
        const lent = scratch.slice(0, scratchBytes.length).map((buffer) => ({ buffer }));
        return made[i]!.bind(ranges, lent);
      }),
    );
    // What was bound wrong comes to light here, and not in the first run.
    await this.#backend.flush([], call);
    return new RecordedSteps(this.#backend, recorded, scratch);
  }

  /** A step's work, compiled once for all steps that ask for the same. */
  #prepared({ work, reads }: Step, call: string): Promise<Bindable> {
    const key = keyOf(work, Object.keys(reads));
    const found = this.#compiled.get(key);
    if (found) return found;
    const made = this.#make(work, call);
    this.#compiled.set(key, made);
    made.catch(() => this.#compiled.delete(key));
    return made;
  }

  async #make(work: StepWork, call: string): Promise<Bindable> {
    switch (work.kind) {
      case "convolution": {
        const { way, batch, channels, pregate, postgate } = work;
        const conv = (await this.#operators.get(work, call)) as Recordable;
        return conv.recorder(way, { batch, channels, pregate, postgate });
      }
      case "filter":
      case "projections": {
        const { way, batch, length, bias } = work;
        const filter = (await this.#operators.get(work, call)) as Recordable;
        return filter.recorder(way, {
          batch,
          length,
          bias,
          ...(way === "backward" && { add: true }),
        });
      }
      default: {
        const limits = this.#backend.limits(workspaceBytes);
        return this.#backend.prepare(scheduleOf(work, limits), call);
      }
    }
  }

  dispose(): void {
    this.#operators.dispose();
    this.#compiled.clear();
  }
}

/** Work memory that schedules are made for. */
const workspaceBytes = 256 * 2 ** 20;

class RecordedSteps implements CompiledSteps {
  readonly launches: number;
  readonly scratchBytes: number;
  readonly #backend: WebGpuBackend;
  readonly #recorded: readonly Recorded[];
  readonly #scratch: readonly GPUBuffer[];

  constructor(backend: WebGpuBackend, recorded: readonly Recorded[], scratch: GPUBuffer[]) {
    this.#backend = backend;
    this.#recorded = recorded;
    this.#scratch = scratch;
    this.launches = recorded.reduce((sum, r) => sum + r.dispatches, 0);
    this.scratchBytes = scratch.reduce((sum, b) => sum + b.size, 0);
  }

  run(): void {
    this.#submit(this.#recorded);
  }

  #submit(all: readonly Recorded[]): void {
    const { device } = this.#backend;
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (const recorded of all) recorded.encode(pass);
    pass.end();
    device.queue.submit([encoder.finish()]);
  }

  async profile(rounds: number): Promise<readonly number[]> {
    const { queue } = this.#backend.device;
    const milliseconds: number[] = [];
    await queue.onSubmittedWorkDone();
    for (const recorded of this.#recorded) {
      const begin = performance.now();
      this.#submit(Array.from({ length: rounds }, () => recorded));
      await queue.onSubmittedWorkDone();
      milliseconds.push((performance.now() - begin) / rounds);
    }
    return milliseconds;
  }

  dispose(): void {
    for (const buffer of this.#scratch) this.#backend.release(buffer);
  }
}
