/** Calls on a GPU: schedules, the buffers they need, and the way of arrays there and back. */
import type { Buffers, Recording, WebGpuBackend } from "../backend/webgpu/device.ts";
import { backendFor } from "../calls/gpu-open.ts";
import { GpuCalls } from "../calls/gpu-turns.ts";
import { gpuDeviceFor, keptPlan, plannedOn } from "../calls/measured.ts";
import { PreparedKernel } from "../calls/prepared.ts";
import type { Dtype, SampleArray } from "../dtype.ts";
import { InvalidArgumentError, UnsupportedError } from "../errors.ts";
import type { GpuCandidate, GpuPlans } from "../plan/gpu/choose.ts";
import { bestPlans, gpuCandidates, namedGpuPlans } from "../plan/gpu/choose.ts";
import type { PassPlan } from "../plan/gpu/passes.ts";
import type { Problem } from "../plan/problem.ts";
import { DirectScheduler } from "../schedule/direct.ts";
import type {
  BufferName,
  CallScheduler,
  GpuCall,
  GpuLimits,
  Schedule,
} from "../schedule/schedule.ts";
import { Scheduler } from "../schedule/transform.ts";
import { show } from "../show.ts";
import { intact } from "../tensors/check.ts";
import { zeros } from "../tensors/results.ts";
import type { TensorData } from "../tensors/tensor.ts";
import { GpuSamples } from "../tensors/tensor.ts";
import type { Explanation } from "./explain.ts";
import { explainGpu } from "./explain-gpu.ts";
import type { FlashFFTConvOptions, MemoryUse, WarmUp } from "./options.ts";
import type { Request, Runner, WeightGradients } from "./runner.ts";

/** Buffers of calls besides their tensors and kept spectra. */
const workspace: ReadonlySet<string> = new Set<BufferName>([
  ...(["work", "other", "again", "sums", "spectrum"] as const),
  ...(["norms", "scales", "otherScales"] as const),
]);

/** Why a convolution runs on this GPU. */
function whyGpu({ backend = "auto" }: GpuOptions, { isSoftware }: WebGpuBackend): string {
  const why = backend === "auto" ? "auto takes the device that was given" : "it was asked for";
  return isSoftware ? `${why}, though a processor plays this GPU` : why;
}

/** Only transforms with exactly the bins that frequencies name may be missing. */
function refusePeriod({ frequencies }: Problem, call: string): never {
  throw new UnsupportedError({
    call,
    requirement:
      "on WebGPU the samples N that frequencies are taken over must be a power of two from 32 on, or 3 or 5 times one from 128 on",
    value: show(frequencies!.period),
    remedy: "Choose such an N, or set backend: 'cpu'.",
  });
}

/** The scheduler of a plan: a transform's, or, where there is none, that of the time domain. */
export function schedulerFor(
  problem: Problem,
  { part, plan: keeper }: GpuCandidate,
  plan: PassPlan | undefined,
  limits: GpuLimits,
): CallScheduler {
  return plan && keeper
    ? new Scheduler({ problem, part, plan, keeper, limits })
    : new DirectScheduler(problem, part, limits);
}

/** Options that are checked whatever the backend. */
type GpuNumbers = "batch" | "channels" | "workspaceBytes";

/** Options of a runner. */
type GpuOptions = Required<Pick<FlashFFTConvOptions, GpuNumbers>> &
  Pick<FlashFFTConvOptions, "backend" | "plan">;

/** A runner on WebGPU. */
export async function openGpuRunner(
  problem: Problem,
  options: GpuOptions & Pick<FlashFFTConvOptions, "device">,
  call: string,
): Promise<GpuRunner> {
  const backend = await backendFor(options.device, call);
  return openGpuRunnerOn(backend, problem, options, call);
}

/** A runner on a backend that is open. */
export async function openGpuRunnerOn(
  backend: WebGpuBackend,
  problem: Problem,
  options: GpuOptions,
  call: string,
): Promise<GpuRunner> {
  const limits = backend.limits(options.workspaceBytes);
  const { batch, channels } = options;
  const workload = { batch, channels };
  const device = gpuDeviceFor(backend);
  const candidates = gpuCandidates(problem, device, limits, workload);
  const [cheapest] = candidates;
  if (!cheapest) refusePeriod(problem, call);
  const kept =
    options.plan === undefined
      ? keptPlan(backend.key, problem, plannedOn(limits, workload))
      : undefined;
  // One that does not fit is another version's, or of a device with other limits.
  const measured = kept && namedGpuPlans(kept.plan, problem, device, limits, workload)?.chosen;
  const plans =
    options.plan === undefined
      ? bestPlans(measured ?? cheapest, candidates, problem, device, limits, workload)
      : typeof options.plan === "string"
        ? namedGpuPlans(options.plan, problem, device, limits, workload)
        : undefined;
  if (!plans) {
    throw new InvalidArgumentError({
      call,
      requirement:
        "plan must be one that explain() prints for these lengths and this GPU, or like it",
      value: show(options.plan),
      remedy: "Take one from explain().candidates, or leave plan out.",
    });
  }
  const explanation = explainGpu(
    problem,
    {
      ...{ rows: batch * channels, device, reason: whyGpu(options, backend) },
      kept: measured && kept,
    },
    plans,
    candidates,
  );
  const runner = new GpuRunner(problem, backend, limits, plans, explanation);
  if (runner.transformBytes > limits.bindingBytes) {
    throw new UnsupportedError({
      call,
      requirement: `a GPU that binds ${show(runner.transformBytes)} bytes at once, one transform`,
      value: `${backend.name}, which binds ${show(limits.bindingBytes)}`,
      remedy:
        "Open the device with requiredLimits.maxStorageBufferBindingSize and maxBufferSize of as much, where its adapter has them, or use backend: 'cpu'.",
    });
  }
  try {
    await runner.start(call);
  } catch (error) {
    // Nobody holds the object that could give back what it has.
    runner.leave();
    throw error;
  }
  return runner;
}

/** One convolution on one GPU. */
export class GpuRunner implements Runner {
  readonly threads = 1;
  readonly instructions = "wgsl";
  readonly #backend: WebGpuBackend;
  readonly #explanation: Explanation;
  readonly #problem: Problem;
  readonly #scheduler: CallScheduler;
  /** Of gradients: the same, or one with another plan for the same spectra. */
  readonly #gradients: CallScheduler;
  readonly #calls: GpuCalls;
  readonly #workspaceBytes: number;
  readonly #kernels = new Map<PreparedKernel, { buffer: GPUBuffer; channels: number }>();

  constructor(
    problem: Problem,
    backend: WebGpuBackend,
    limits: GpuLimits,
    { chosen, gradients }: GpuPlans,
    explanation: Explanation,
  ) {
    this.#problem = problem;
    this.#backend = backend;
    this.#explanation = explanation;
    this.#scheduler = schedulerFor(problem, chosen, chosen.plan, limits);
    this.#gradients =
      gradients === chosen.plan
        ? this.#scheduler
        : schedulerFor(problem, chosen, gradients, limits);
    this.#calls = new GpuCalls(backend);
    this.#workspaceBytes = limits.workspaceBytes;
  }

  /** Upload what every call needs, and compile what the plainest does. */
  async start(call: string): Promise<void> {
    for (const scheduler of new Set([this.#scheduler, this.#gradients])) {
      for (const [name, values] of Object.entries(scheduler.tables())) {
        const own = this.#tableOf(scheduler, name);
        this.#backend.write(await this.#calls.own.keep(own, values.byteLength, call), 0, values);
      }
    }
    await this.warmUp({}, call);
  }

  async warmUp({ backward = false, ...operands }: WarmUp, call: string): Promise<void> {
    const { pregate = false, postgate = false, skip = false } = operands;
    const flags = { pregate, postgate, skip, taps: "float32", offsets: {} } as const;
    const one: GpuCall = { batch: 1, channels: 1, ...flags };
    const schedule = backward ? this.#gradients.backward(one) : this.#scheduler.forward(one);
    await this.#calls.warm(schedule, call);
  }

  /** Our name of a table that a plan's kernels read. */
  #tableOf(scheduler: CallScheduler, name: string): string {
    return scheduler === this.#scheduler ? name : `${name} of gradients`;
  }

  get device(): GPUDevice {
    return this.#backend.device;
  }

  explain(): Explanation {
    return this.#explanation;
  }

  /** Bytes that a binding must span: those of a transform, or of a channel's taps. */
  get transformBytes(): number {
    return this.#scheduler.transformBytes;
  }

  /** Bytes of what is kept of a channel's kernel. */
  get #spectrumBytes(): number {
    return this.#scheduler.spectrumBytes;
  }

  memory(): MemoryUse {
    let channels = 0;
    for (const kernel of this.#kernels.keys()) channels += kernel.channels;
    return {
      transformBytes: this.transformBytes,
      workspaceBytes: this.#calls.own.bytes(workspace),
      spectrumBytes: channels * this.#spectrumBytes,
      backendBytes: this.#backend.held.bytes,
    };
  }

  lend(size: number, dtype: Dtype, call: string): Float32Array | Uint16Array {
    return zeros(dtype, size, call);
  }

  allocate(size: number, dtype: Dtype, call: string): Promise<GpuSamples> {
    return this.#calls.allocate(size, dtype, call);
  }

  prepare(
    taps: TensorData,
    dtype: Dtype,
    channels: number,
    request: Pick<Request, "name" | "alive">,
  ): Promise<PreparedKernel> {
    const { name: call, alive } = request;
    return this.#calls.exclusive(async () => {
      alive();
      const offset = taps instanceof GpuSamples ? taps.byteOffset : 0;
      const { kernelLength } = this.#problem;
      const buffer = await this.#backend.buffer(channels * this.#spectrumBytes, call);
      try {
        const key = `spectra ${channels} ${dtype} ${offset}`;
        const make = (): Schedule => this.#scheduler.spectra(channels, dtype, offset);
        const recording = await this.#calls.recording(key, make, call);
        const buffers: Buffers = {
          spectrum: buffer,
          k: await this.#upload("k", taps, channels * kernelLength, call),
        };
        await this.#run(recording, buffers, undefined, call);
        alive();
      } catch (error) {
        this.#backend.release(buffer);
        throw error;
      }
      const kernel = new PreparedKernel(channels, (k) => this.#freeKernel(k));
      this.#kernels.set(kernel, { buffer, channels });
      return kernel;
    });
  }

  #freeKernel(kernel: PreparedKernel): void {
    const found = this.#kernels.get(kernel);
    this.#kernels.delete(kernel);
    if (found) void this.#calls.exclusive(async () => this.#calls.own.retire(found.buffer));
  }

  holds(kernel: PreparedKernel): boolean {
    return this.#kernels.has(kernel);
  }

  /** The buffer of a tensor; arrays are copied to one of ours. */
  async #upload(name: string, samples: TensorData, size: number, call: string): Promise<GPUBuffer> {
    if (samples instanceof GpuSamples) return samples.buffer;
    intact(name, samples, size, call);
    const buffer = await this.#calls.own.get(
      name,
      samples.length * samples.BYTES_PER_ELEMENT,
      call,
    );
    this.#backend.write(buffer, 0, samples as unknown as ArrayBufferView);
    return buffer;
  }

  /** The buffer of float32 weights; an array's values stay in ours while they do not change. */
  async #weights(
    name: string,
    samples: TensorData,
    size: number,
    call: string,
  ): Promise<GPUBuffer> {
    if (samples instanceof GpuSamples) return samples.buffer;
    intact(name, samples, size, call);
    return this.#calls.own.holding(name, samples as Float32Array, call);
  }

  /** The spectra of a call's kernel, where they are kept: whoever disposes of them later waits for the call. */
  #spectra({ kernel, name: call }: Request): GPUBuffer | undefined {
    if (!("prepared" in kernel)) return undefined;
    const kept = this.#kernels.get(kernel.prepared);
    if (kept) return kept.buffer;
    throw new InvalidArgumentError({
      call,
      requirement: "a prepared kernel must be alive until the promise settles",
      value: "one disposed of meanwhile",
      remedy: "Await the call first.",
    });
  }

  /** Buffers of a call's tensors and kernel, inputs filled. */
  async #bind(request: Request, spectra: GPUBuffer | undefined): Promise<Buffers> {
    const { name: call, kernel } = request;
    const { batch, channels } = request.shape;
    const buffers: Buffers = {};
    for (const { field, data, width, direction } of request.rows) {
      if (direction === "in") {
        buffers[field] = await this.#upload(field, data, batch * channels * width, call);
      } else if (data instanceof GpuSamples) buffers[field] = data.buffer;
      else {
        buffers[field] = await this.#calls.own.get(
          field,
          data.length * data.BYTES_PER_ELEMENT,
          call,
        );
      }
    }
    if ("taps" in kernel) {
      const size = channels * this.#problem.kernelLength;
      buffers.k = await this.#upload("k", kernel.taps, size, call);
    } else buffers.spectrum = spectra!;
    if (request.skip) {
      buffers.skip = await this.#weights("skip", request.skip, request.shape.channels, call);
    }
    return buffers;
  }

  #call(request: Request, { dk, dskip }: Partial<WeightGradients> = {}): GpuCall {
    const offsets: Partial<Record<BufferName, number>> = {};
    const note = (name: BufferName, data: TensorData): void => {
      if (data instanceof GpuSamples && data.byteOffset) offsets[name] = data.byteOffset;
    };
    for (const { field, data } of request.rows) note(field, data);
    if ("taps" in request.kernel) note("k", request.kernel.taps);
    if (request.skip) note("skip", request.skip);
    if (dk) note("dk", dk);
    if (dskip) note("dskip", dskip);
    const taps = "taps" in request.kernel ? request.kernel.dtype : undefined;
    const skip = request.skip !== undefined;
    return { ...request.shape, ...request.gates, skip, taps, offsets };
  }

  /** Work memory for a recording, then its commands: submitted, or added to the caller's encoder. */
  async #run(
    recording: Recording,
    buffers: Buffers,
    encoder: GPUCommandEncoder | undefined,
    call: string,
    scheduler = this.#scheduler,
  ): Promise<void> {
    const tables = ["twiddles", "pattern"].flatMap((name) => {
      const buffer = this.#calls.own.known(this.#tableOf(scheduler, name));
      return buffer ? [[name, buffer]] : [];
    });
    const all: Buffers = { ...buffers, ...Object.fromEntries(tables) };
    const needs = new Map(Object.entries(recording.schedule.bytes));
    this.#calls.own.makeRoom(needs, workspace, this.#workspaceBytes);
    for (const [name, bytes] of needs) {
      all[name as BufferName] ??= await this.#calls.own.get(name, bytes, call);
    }
    await this.#calls.run(recording, all, encoder, call);
  }

  #onlyBuffers(request: Request, more: readonly TensorData[]): void {
    const samples = [...request.rows.map((r) => r.data), ...more];
    if ("taps" in request.kernel) samples.push(request.kernel.taps);
    if (!request.encoder || samples.every((s) => s instanceof GpuSamples)) return;
    throw new InvalidArgumentError({
      call: request.name,
      requirement:
        "with an encoder every tensor must be in a GPU buffer, the kernel too or prepared",
      value: "an array among them",
      remedy: "Upload it, or leave encoder out.",
    });
  }

  async #download(
    rows: readonly { field: string; data: TensorData }[],
    buffers: Buffers,
    call: string,
  ): Promise<void> {
    for (const { field, data } of rows) {
      if (data instanceof GpuSamples) continue;
      const array: SampleArray = data;
      intact(field === "y" ? "out" : field, array, 1, call);
      await this.#backend.read(
        buffers[field as BufferName]!,
        0,
        array as unknown as ArrayBufferView,
        call,
      );
    }
  }

  async forward(request: Request): Promise<void> {
    const { name: call } = request;
    request.alive();
    this.#onlyBuffers(request, []);
    const spectra = this.#spectra(request);
    await this.#calls.exclusive(async () => {
      const scheduled = this.#call(request);
      const key = `forward ${JSON.stringify(scheduled)}`;
      const recording = await this.#calls.recording(
        key,
        () => this.#scheduler.forward(scheduled),
        call,
      );
      const buffers = await this.#bind(request, spectra);
      await this.#run(recording, buffers, request.encoder, call);
      const outputs = request.rows.filter((r) => r.direction === "out");
      await this.#download(outputs, buffers, call);
    });
  }

  async backward(request: Request, weights: WeightGradients): Promise<void> {
    const { name: call } = request;
    const sums = Object.entries(weights).flatMap(
      ([field, data]: [string, TensorData | undefined]) => (data ? [{ field, data }] : []),
    );
    request.alive();
    this.#onlyBuffers(
      request,
      sums.map(({ data }) => data),
    );
    const spectra = this.#spectra(request);
    await this.#calls.exclusive(async () => {
      const scheduled = this.#call(request, weights);
      const key = `backward ${JSON.stringify(scheduled)}`;
      const recording = await this.#calls.recording(
        key,
        () => this.#gradients.backward(scheduled),
        call,
      );
      const outputs = request.rows.filter((r) => r.direction === "out");
      const buffers = await this.#bind(request, spectra);
      for (const { field, data } of sums) {
        buffers[field as BufferName] =
          data instanceof GpuSamples
            ? data.buffer
            : await this.#calls.own.get(field, data.length * 4, call);
      }
      await this.#run(recording, buffers, request.encoder, call, this.#gradients);
      await this.#download([...outputs, ...sums], buffers, call);
    });
  }

  submitted(): Promise<void> {
    return this.#calls.submitted();
  }

  leave(): void {
    this.#calls.leave(() => {
      for (const { buffer } of this.#kernels.values()) this.#backend.release(buffer);
      this.#kernels.clear();
    });
  }
}
