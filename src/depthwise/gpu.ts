/** Calls of short convolutions on a GPU: schedules, the buffers they need, and the way of arrays there and back. */
import type { WebGpuBackend } from "../backend/webgpu/device.ts";
import { backendFor } from "../calls/gpu-open.ts";
import type { CallOperand } from "../calls/gpu-operands.ts";
import { offsetsOf, onlyBuffers, operand } from "../calls/gpu-operands.ts";
import { openRecorder } from "../calls/gpu-recorder.ts";
import { GpuCalls } from "../calls/gpu-turns.ts";
import type { GpuRecorder } from "../calls/recorder.ts";
import type { Dtype } from "../dtype.ts";
import type { DepthwiseProblem } from "../plan/depthwise.ts";
import type { DepthwiseGpuCall } from "../schedule/pieces.ts";
import { zeros } from "../tensors/results.ts";
import { GpuSamples } from "../tensors/tensor.ts";
import { DepthwiseKernels, outputBuffers, upstreamBuffers } from "./gpu-encode.ts";
import type { DepthwiseRecorderOptions, RecordedDepthwiseCall } from "./options.ts";
import type {
  DepthwiseBackward,
  DepthwiseForward,
  DepthwiseRequest,
  DepthwiseRunner,
  DepthwiseWarmUpFor,
} from "./runner.ts";

/** One short convolution on one GPU. */
export class DepthwiseGpuRunner implements DepthwiseRunner {
  readonly threads = 1;
  readonly instructions = "wgsl";
  readonly backend = undefined;
  readonly #backend: WebGpuBackend;
  readonly #schedules: DepthwiseKernels;
  readonly #calls: GpuCalls;

  private constructor(
    problem: DepthwiseProblem,
    order: readonly number[],
    gpu: WebGpuBackend,
    workspaceBytes: number,
  ) {
    this.#backend = gpu;
    this.#schedules = new DepthwiseKernels(problem, gpu.limits(workspaceBytes), order);
    this.#calls = new GpuCalls(gpu, workspaceBytes);
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
    const { schedule } = this.#schedules.planned(backward ? "backward" : "forward", scheduled);
    await this.#calls.warm(schedule, call);
  }

  async recorder(
    way: RecordedDepthwiseCall,
    options: DepthwiseRecorderOptions,
    call: string,
    alive: (call: string) => void,
  ): Promise<GpuRecorder> {
    return openRecorder(this.#schedules, way, options, { calls: this.#calls, alive }, call);
  }

  get device(): GPUDevice {
    return this.#backend.device;
  }

  lend(size: number, dtype: Dtype, call: string): Float32Array | Uint16Array {
    return zeros(dtype, size, call);
  }

  allocate(size: number, dtype: Dtype, call: string): Promise<GpuSamples> {
    return this.#calls.allocate(size, dtype, call);
  }

  forward(request: DepthwiseForward): Promise<void> {
    const { outputs, state, stateOut } = request;
    const operands = [
      ...operandsOf(request),
      ...outputs.map(({ name, data }, o) => operand(outputBuffers[o]!, data, "out", name)),
      ...(stateOut ? [operand("stateOut", stateOut, "out")] : []),
    ];
    // One buffer cannot be read and written by one kernel.
    const shared = stateOut instanceof GpuSamples && stateOut.buffer === state?.buffer;
    const left = stateOut ? (shared ? "same" : "apart") : "none";
    return this.#calls.exclusive(() => this.#run("forward", request, operands, left));
  }

  backward(request: DepthwiseBackward): Promise<void> {
    const { dy, dstateOut } = request;
    const operands = [
      ...operandsOf(request),
      ...dy.map(({ name, data }, o) => operand(upstreamBuffers[o]!, data, "in", name)),
      ...(dstateOut ? [operand("dstateOut", dstateOut, "in")] : []),
    ];
    for (const name of ["dx", "dstate", "dweight", "dbias"] as const) {
      const data = request[name];
      if (data) operands.push(operand(name, data, "out"));
    }
    return this.#calls.exclusive(() => this.#run("backward", request, operands, "none"));
  }

  /** A call in its turn. */
  async #run(
    way: RecordedDepthwiseCall,
    request: DepthwiseRequest,
    operands: readonly CallOperand[],
    stateOut: DepthwiseGpuCall["stateOut"],
  ): Promise<void> {
    const { name, batch, length, bias, state, encoder, alive } = request;
    if (encoder) onlyBuffers(operands, name);
    alive();
    const dstateOut = operands.some((o) => o.buffer === "dstateOut");
    const call: DepthwiseGpuCall = {
      ...{ name, batch, length, bias: bias !== undefined, state: state !== undefined },
      ...{ stateOut, dstateOut, offsets: offsetsOf(operands, this.#calls.alignment) },
    };
    const key = `${way} ${JSON.stringify(call)}`;
    await this.#calls.call(key, () => this.#schedules.planned(way, call), operands, request);
  }

  submitted(): Promise<void> {
    return this.#calls.submitted();
  }

  leave(): void {
    this.#calls.leave();
  }
}

/** What forward and backward calls have in common. */
function operandsOf({ x, weight, bias, state }: DepthwiseRequest): CallOperand[] {
  return [
    operand("x", x, "in"),
    operand("weight", weight, "kept"),
    ...(bias ? [operand("bias", bias, "kept")] : []),
    ...(state ? [operand("state", state, "in")] : []),
  ];
}
