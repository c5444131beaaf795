/** Calls on a GPU: schedules, the buffers they need, and the way of arrays there and back. */
import type { WebGpuBackend } from "../backend/webgpu/device.ts";
import { backendFor } from "../calls/gpu-open.ts";
import type { CallOperand } from "../calls/gpu-operands.ts";
import { offsetsOf, onlyBuffers, operand } from "../calls/gpu-operands.ts";
import { openRecorder } from "../calls/gpu-recorder.ts";
import { GpuCalls } from "../calls/gpu-turns.ts";
import { gpuDeviceFor, keptPlan, plannedOn } from "../calls/measured.ts";
import { PreparedKernel } from "../calls/prepared.ts";
import type { GpuRecorder } from "../calls/recorder.ts";
import type { Dtype } from "../dtype.ts";
import { InvalidArgumentError, UnsupportedError } from "../errors.ts";
import type { GpuPlans } from "../plan/gpu/choose.ts";
import { bestPlans, gpuCandidates, namedGpuPlans } from "../plan/gpu/choose.ts";
import type { Problem } from "../plan/problem.ts";
import type { GpuCall, GpuLimits } from "../schedule/schedule.ts";
import { show } from "../show.ts";
import { zeros } from "../tensors/results.ts";
import type { TensorData } from "../tensors/tensor.ts";
import { GpuSamples } from "../tensors/tensor.ts";
import type { Explanation } from "./explain.ts";
import { explainGpu } from "./explain-gpu.ts";
import { ConvolutionKernels } from "./gpu-encode.ts";
import type {
  ConvRecorderOptions,
  FlashFFTConvOptions,
  MemoryUse,
  RecordedConvCall,
  WarmUp,
} from "./options.ts";
import type { Request, Runner, WeightGradients } from "./runner.ts";

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
  const planning = { problem, device, limits, workload };
  const candidates = gpuCandidates(planning);
  const [cheapest] = candidates;
  if (!cheapest) refusePeriod(problem, call);
  const kept =
    options.plan === undefined
      ? keptPlan(backend.key, problem, plannedOn(limits, workload))
      : undefined;
  // One that does not fit is another version's, or of a device with other limits.
  const measured = kept && namedGpuPlans(kept.plan, planning)?.chosen;
  const plans =
    options.plan === undefined
      ? bestPlans(measured ?? cheapest, candidates, planning)
      : typeof options.plan === "string"
        ? namedGpuPlans(options.plan, planning)
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
  readonly #schedules: ConvolutionKernels<GPUBuffer>;
  readonly #calls: GpuCalls;
  readonly #kernels = new Map<PreparedKernel, { buffer: GPUBuffer; channels: number }>();

  constructor(
    problem: Problem,
    backend: WebGpuBackend,
    limits: GpuLimits,
    plans: GpuPlans,
    explanation: Explanation,
  ) {
    this.#backend = backend;
    this.#explanation = explanation;
    this.#schedules = new ConvolutionKernels(problem, plans, limits);
    this.#calls = new GpuCalls(backend, limits.workspaceBytes);
  }

  /** Upload what every call needs, and compile what the plainest does. */
  async start(call: string): Promise<void> {
    await this.#schedules.upload(async (name, values) => {
      const buffer = await this.#calls.own.keep(name, values.byteLength, call);
      this.#backend.write(buffer, 0, values);
      return buffer;
    });
    await this.warmUp({}, call);
  }

  async warmUp({ backward = false, ...operands }: WarmUp, call: string): Promise<void> {
    const { pregate = false, postgate = false, skip = false } = operands;
    const flags = { pregate, postgate, skip, taps: "float32", offsets: {} } as const;
    const one: GpuCall = { batch: 1, channels: 1, ...flags };
    const { schedule } = this.#schedules.planned(backward ? "backward" : "forward", one);
    await this.#calls.warm(schedule, call);
  }

  async recorder(
    way: RecordedConvCall,
    options: ConvRecorderOptions,
    call: string,
    alive: (call: string) => void,
  ): Promise<GpuRecorder> {
    return openRecorder(this.#schedules, way, options, { calls: this.#calls, alive }, call);
  }

  get device(): GPUDevice {
    return this.#backend.device;
  }

  explain(): Explanation {
    return this.#explanation;
  }

  /** Bytes that a binding must span: those of a transform, or of a channel's taps. */
  get transformBytes(): number {
    return this.#schedules.transformBytes;
  }

  memory(): MemoryUse {
    let channels = 0;
    for (const kernel of this.#kernels.keys()) channels += kernel.channels;
    return {
      transformBytes: this.transformBytes,
      workspaceBytes: this.#calls.own.scratchBytes,
      spectrumBytes: channels * this.#schedules.spectrumBytes,
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
    const k = operand("k", taps, "in");
    return this.#calls.exclusive(async () => {
      alive();
      const bytes = channels * this.#schedules.spectrumBytes;
      const buffer = await this.#backend.buffer(bytes, call);
      try {
        const spectrum = operand("spectrum", new GpuSamples(buffer, 0, bytes, 1), "out");
        const plain = { batch: 1, pregate: false, postgate: false, skip: false };
        await this.#run("prepareKernel", { channels, taps: dtype, ...plain }, [spectrum, k], {
          name: call,
        });
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

  /** The kernel of a call; whoever disposes of a prepared one later waits for the call. */
  #kernel({ kernel, name: call }: Request): CallOperand {
    if ("taps" in kernel) return operand("k", kernel.taps, "in");
    const kept = this.#kernels.get(kernel.prepared);
    if (kept) return operand("spectrum", new GpuSamples(kept.buffer, 0, kept.buffer.size, 1), "in");
    throw new InvalidArgumentError({
      call,
      requirement: "a prepared kernel must be alive until the promise settles",
      value: "one disposed of meanwhile",
      remedy: "Await the call first.",
    });
  }

  #operands(request: Request): CallOperand[] {
    const { rows, skip } = request;
    return [
      ...rows.map(({ field, data, direction }) =>
        operand(field, data, direction, field === "y" ? "out" : field),
      ),
      this.#kernel(request),
      ...(skip ? [operand("skip", skip, "kept")] : []),
    ];
  }

  async forward(request: Request): Promise<void> {
    await this.#call("forward", request, {});
  }

  async backward(request: Request, weights: WeightGradients): Promise<void> {
    await this.#call("backward", request, weights);
  }

  async #call(
    way: "forward" | "backward",
    request: Request,
    { dk, dskip }: Partial<WeightGradients>,
  ): Promise<void> {
    request.alive();
    const operands = [
      ...this.#operands(request),
      ...(dk ? [operand("dk", dk, "out")] : []),
      ...(dskip ? [operand("dskip", dskip, "out")] : []),
    ];
    const { shape, gates, kernel, skip, encoder } = request;
    if (encoder) onlyBuffers(operands, request.name);
    const taps = "taps" in kernel ? kernel.dtype : undefined;
    const call = { ...shape, ...gates, skip: skip !== undefined, taps };
    await this.#calls.exclusive(() => this.#run(way, call, operands, request));
  }

  /** A call in its turn. */
  #run(
    way: RecordedConvCall,
    call: Omit<GpuCall, "offsets">,
    operands: readonly CallOperand[],
    request: { readonly name: string; readonly encoder?: Request["encoder"] },
  ): Promise<void> {
    const scheduled = { ...call, offsets: offsetsOf(operands, this.#calls.alignment) };
    const key = `${way} ${JSON.stringify(scheduled)}`;
    const make = () => this.#schedules.planned(way, scheduled);
    return this.#calls.call(key, make, operands, request);
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
