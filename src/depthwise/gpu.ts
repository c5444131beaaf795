/** Calls of short convolutions on a GPU: schedules, the buffers they need, and the way of arrays there and back. */
import type { Buffers, WebGpuBackend } from "../backend/webgpu/device.ts";
import { backendFor } from "../calls/gpu-open.ts";
import { GpuCalls } from "../calls/gpu-turns.ts";
import type { Dtype } from "../dtype.ts";
import { InvalidArgumentError } from "../errors.ts";
import type { DepthwiseProblem } from "../plan/depthwise.ts";
import { DepthwiseScheduler } from "../schedule/depthwise.ts";
import type { DepthwiseGpuCall } from "../schedule/pieces.ts";
import type { BufferName, Schedule } from "../schedule/schedule.ts";
import { intact } from "../tensors/check.ts";
import { zeros } from "../tensors/results.ts";
import type { TensorData } from "../tensors/tensor.ts";
import { GpuSamples } from "../tensors/tensor.ts";
import type {
  DepthwiseBackward,
  DepthwiseForward,
  DepthwiseRequest,
  DepthwiseRunner,
  DepthwiseWarmUpFor,
} from "./runner.ts";

/** Work memory of calls: sums of gradients, what stands behind an activation where taps are many, a state on its way. */
const workspace: ReadonlySet<string> = new Set<BufferName>(["sums", "dz", "carried"]);

/** A tensor of a call, in the buffer of that name. */
interface OperandBuffer {
  readonly buffer: BufferName;
  /** As the user knows it. */
  readonly name: string;
  readonly data: TensorData;
  /** `kept`: taps and biases, which stay where they are while they do not change. */
  readonly use: "in" | "kept" | "out";
}

/** Buffers of results and of their gradients, in the order in which requests have them. */
const outputBuffers = ["y", "postgate"] as const;
const upstreamBuffers = ["dy", "dpostgate"] as const;

/** One short convolution on one GPU. */
export class DepthwiseGpuRunner implements DepthwiseRunner {
  readonly threads = 1;
  readonly instructions = "wgsl";
  readonly backend = undefined;
  readonly #gpu: WebGpuBackend;
  readonly #scheduler: DepthwiseScheduler;
  readonly #calls: GpuCalls;
  readonly #workspaceBytes: number;

  private constructor(
    problem: DepthwiseProblem,
    order: readonly number[],
    gpu: WebGpuBackend,
    workspaceBytes: number,
  ) {
    this.#gpu = gpu;
    this.#workspaceBytes = workspaceBytes;
    this.#scheduler = new DepthwiseScheduler(problem, gpu.limits(workspaceBytes), order);
    this.#calls = new GpuCalls(gpu);
  }

  /**
   * `order` as in DepthwiseScheduler.
   * @throws UnsupportedError where there is no GPU.
   */
  static async open(
    problem: DepthwiseProblem,
    options: { readonly device?: GPUDevice | undefined; readonly workspaceBytes: number },
    order: readonly number[],
    call: string,
  ): Promise<DepthwiseGpuRunner> {
    const gpu = await backendFor(options.device, call);
    return new DepthwiseGpuRunner(problem, order, gpu, options.workspaceBytes);
  }

  async warmUp(calls: DepthwiseWarmUpFor, call: string): Promise<void> {
    const { batch, length, backward = false, bias = false, state = false } = calls;
    const scheduled: DepthwiseGpuCall = {
      ...{ name: call, batch, length, bias, state, offsets: {} },
      ...{ stateOut: state && !backward ? "apart" : "none", dstateOut: state && backward },
    };
    const schedule = backward
      ? this.#scheduler.backward(scheduled)
      : this.#scheduler.forward(scheduled);
    await this.#calls.warm(schedule, call);
  }

  get device(): GPUDevice {
    return this.#gpu.device;
  }

  lend(size: number, dtype: Dtype, call: string): Float32Array | Uint16Array {
    return zeros(dtype, size, call);
  }

  allocate(size: number, dtype: Dtype, call: string): Promise<GpuSamples> {
    return this.#calls.allocate(size, dtype, call);
  }

  forward(request: DepthwiseForward): Promise<void> {
    const { outputs, state, stateOut } = request;
    const operands = operandsOf(request);
    for (const [o, { name, data }] of outputs.entries())
      operands.push({ buffer: outputBuffers[o]!, name, data, use: "out" });
    if (stateOut)
      operands.push({ buffer: "stateOut", name: "stateOut", data: stateOut, use: "out" });
    // One buffer cannot be read and written by one kernel.
    const shared = stateOut instanceof GpuSamples && stateOut.buffer === state?.buffer;
    const left = shared ? "same" : "apart";
    const call = { ...callOf(request, operands), stateOut: stateOut ? left : "none" } as const;
    return this.#calls.exclusive(() =>
      this.#run("forward", request, operands, call, (c) => this.#scheduler.forward(c)),
    );
  }

  backward(request: DepthwiseBackward): Promise<void> {
    const { dy, dstateOut } = request;
    const operands = operandsOf(request);
    for (const [o, { name, data }] of dy.entries())
      operands.push({ buffer: upstreamBuffers[o]!, name, data, use: "in" });
    if (dstateOut)
      operands.push({ buffer: "dstateOut", name: "dstateOut", data: dstateOut, use: "in" });
    for (const name of ["dx", "dstate", "dweight", "dbias"] as const) {
      const data = request[name];
      if (data) operands.push({ buffer: name, name, data, use: "out" });
    }
    const call = callOf(request, operands);
    return this.#calls.exclusive(() =>
      this.#run("backward", request, operands, call, (c) => this.#scheduler.backward(c)),
    );
  }

  /** Schedule, fill buffers, submit or record, fetch what goes to arrays. */
  async #run(
    way: string,
    request: DepthwiseRequest,
    operands: readonly OperandBuffer[],
    scheduled: DepthwiseGpuCall,
    schedule: (call: DepthwiseGpuCall) => Schedule,
  ): Promise<void> {
    const { name: call, encoder, alive } = request;
    if (encoder) onlyBuffers(operands, call);
    alive();
    const key = `${way} ${JSON.stringify(scheduled)}`;
    const recording = await this.#calls.recording(key, () => schedule(scheduled), call);
    const buffers: Buffers = {};
    for (const operand of operands) buffers[operand.buffer] = await this.#bind(operand, call);
    const needs = new Map(Object.entries(recording.schedule.bytes));
    this.#calls.own.makeRoom(needs, workspace, this.#workspaceBytes);
    for (const [name, bytes] of needs) {
      buffers[name as BufferName] = await this.#calls.own.get(name, bytes, call);
    }
    await this.#calls.run(recording, buffers, encoder, call);
    for (const { buffer, name, data, use } of operands) {
      if (use !== "out" || data instanceof GpuSamples) continue;
      intact(name, data, 1, call);
      await this.#gpu.read(buffers[buffer]!, 0, data as unknown as ArrayBufferView, call);
    }
  }

  /** The buffer of an operand: arrays have one of ours. */
  async #bind({ buffer, name, data, use }: OperandBuffer, call: string): Promise<GPUBuffer> {
    if (data instanceof GpuSamples) return data.buffer;
    intact(name, data, 1, call);
    if (use === "kept") return this.#calls.own.holding(buffer, data as Float32Array, call);
    const bytes = data.length * data.BYTES_PER_ELEMENT;
    const own = await this.#calls.own.get(buffer, bytes, call);
    if (use === "in") this.#gpu.write(own, 0, data as unknown as ArrayBufferView);
    return own;
  }

  submitted(): Promise<void> {
    return this.#calls.submitted();
  }

  leave(): void {
    this.#calls.leave();
  }
}

/** What forward and backward calls have in common. */
function operandsOf({ x, weight, bias, state }: DepthwiseRequest): OperandBuffer[] {
  return [
    { buffer: "x", name: "x", data: x, use: "in" },
    { buffer: "weight", name: "weight", data: weight, use: "kept" },
    ...(bias ? [{ buffer: "bias", name: "bias", data: bias, use: "kept" } as const] : []),
    ...(state ? [{ buffer: "state", name: "state", data: state, use: "in" } as const] : []),
  ];
}

function callOf(
  { name, batch, length, bias, state }: DepthwiseRequest,
  operands: readonly OperandBuffer[],
): DepthwiseGpuCall {
  const offsets: Partial<Record<BufferName, number>> = {};
  for (const { buffer, data } of operands) {
    if (data instanceof GpuSamples && data.byteOffset) offsets[buffer] = data.byteOffset;
  }
  const dstateOut = operands.some((o) => o.buffer === "dstateOut");
  const flags = { bias: bias !== undefined, state: state !== undefined, dstateOut };
  return { name, batch, length, ...flags, stateOut: "none", offsets };
}

/** Arrays would be read and written while the encoder still waits; taps and biases are uploaded and stay. */
function onlyBuffers(operands: readonly OperandBuffer[], call: string): void {
  if (operands.every((o) => o.use === "kept" || o.data instanceof GpuSamples)) return;
  throw new InvalidArgumentError({
    call,
    requirement: "with an encoder all samples and states must be in GPU buffers",
    value: "an array among them",
    remedy: "Upload it, or leave encoder out.",
  });
}
