/** Streams on a GPU: each block one call over a window of its samples and their past, which stays on the device. */

import { copyBufferRows } from "../backend/webgpu/buffers.ts";
import type { WebGpuBackend } from "../backend/webgpu/device.ts";
import { backendFor } from "../calls/gpu-open.ts";
import { GpuCalls } from "../calls/gpu-turns.ts";
import { gpuDeviceFor } from "../calls/measured.ts";
import type { BoundRecorder, GpuRecorder } from "../calls/recorder.ts";
import { usualWorkspace } from "../calls/runtime.ts";
import type { GpuRunner } from "../conv/gpu.ts";
import { openGpuRunnerOn } from "../conv/gpu.ts";
import { UnsupportedError } from "../errors.ts";
import type { GpuDevice } from "../gpu.ts";
import { mostWindowTaps, windowHop, windowProblem } from "../plan/gpu/stream-window.ts";
import type { Problem } from "../plan/problem.ts";
import { show } from "../show.ts";
import { intact } from "../tensors/check.ts";
import { zeros } from "../tensors/results.ts";
import type { StreamEngine, StreamRows, StreamTaps } from "./engine.ts";
import type { StreamOptions } from "./options.ts";

const floatBytes = 4;

/** A stream's blocks on a GPU. */
export class GpuStream implements StreamEngine {
  readonly threads = 1;
  readonly instructions = "wgsl";
  readonly plan: string;
  readonly blockLength: number;
  readonly #backend: WebGpuBackend;
  readonly #runner: GpuRunner;
  readonly #problem: Problem;
  readonly #rows: StreamRows;
  /** Turns and buffers. */
  readonly #calls: GpuCalls;
  /** The convolution of a window. */
  #window: BoundRecorder | undefined;
  /** Outputs of the block that ran last, row after row. */
  readonly #outputs: Float32Array;
  /** Samples in the newest block so far. */
  #fill = 0;

  private constructor(
    backend: WebGpuBackend,
    runner: GpuRunner,
    problem: Problem,
    rows: StreamRows,
    outputs: Float32Array,
  ) {
    this.#backend = backend;
    this.#runner = runner;
    this.#problem = problem;
    this.#rows = rows;
    this.#outputs = outputs;
    this.#calls = new GpuCalls(backend, usualWorkspace);
    this.blockLength = problem.outputLength;
    this.plan = runner.explain().chosen.plan;
  }

  /** Plan, compile, transform the taps. */
  static async open(
    taps: StreamTaps,
    rows: StreamRows,
    options: StreamOptions,
    call: string,
  ): Promise<GpuStream> {
    // This code may have been loaded meanwhile.
    for (const row of taps) intact("k", row, 1, call);
    const count = taps[0]!.length;
    if (count > mostWindowTaps) refuseTaps(count, call);
    const backend = await backendFor(options.device, call);
    const { workspaceBytes = usualWorkspace } = options;
    const limits = backend.limits(workspaceBytes);
    const hop = options.blockLength ?? windowHop(count, rows, gpuDeviceFor(backend), limits);
    const problem = windowProblem(count, hop);
    const outputs = zeros("float32", rows.batch * rows.channels * hop, call) as Float32Array;
    const choice = { ...rows, workspaceBytes };
    const runner = await openGpuRunnerOn(backend, problem, choice, call);
    const stream = new GpuStream(backend, runner, problem, rows, outputs);
    try {
      await stream.#start(taps, call);
    } catch (error) {
      stream.leave();
      throw error;
    }
    return stream;
  }

  /** Make the buffers, and transform the taps. */
  async #start(taps: StreamTaps, call: string): Promise<void> {
    const { kernelLength, past = 0 } = this.#problem;
    const { channels } = this.#rows;
    const { own } = this.#calls;
    const alive = (): void => {};
    const [prepare, forward] = [
      await this.#runner.recorder("prepareKernel", { channels }, call, alive),
      await this.#runner.recorder("forward", { ...this.#rows, kernel: "spectrum" }, call, alive),
    ];
    const [windows, kernels] = [forward.operands, prepare.operands];
    // Rows of a past and a block; their pasts, on the way to the front; rows of outputs.
    const u = await own.keep("window", windows.u!.bytes, call);
    await own.keep("past", this.#rows.batch * channels * past * floatBytes, call);
    const y = await own.keep("y", windows.y!.bytes, call);
    const spectrum = await own.keep("spectrum", kernels.spectrum!.bytes, call);
    const k = await own.get("k", kernels.k!.bytes, call);
    taps.forEach((row, h) => {
      intact("k", row, kernelLength, call);
      this.#backend.write(k, h * kernelLength * floatBytes, row);
    });
    const transform = await this.#bind(prepare, { k, spectrum }, call);
    await this.#backend.submit((to) => transform.encode(to), call);
    own.drop("k");
    this.#window = await this.#bind(forward, { u, spectrum, y }, call);
  }

  /** A recorder with buffers, and work memory that all of the stream's share. */
  async #bind(
    recorder: GpuRecorder,
    buffers: Readonly<Record<string, GPUBuffer>>,
    call: string,
  ): Promise<BoundRecorder> {
    const scratch: GPUBuffer[] = [];
    for (const [i, bytes] of recorder.scratchBytes.entries())
      scratch.push(await this.#calls.own.keep(`scratch ${i}`, bytes, call));
    const ranges = Object.entries(buffers).map(([name, buffer]) => [name, { buffer }]);
    return recorder.bind(Object.fromEntries(ranges), scratch);
  }

  get device(): GpuDevice {
    return this.#backend.device;
  }

  get bytes(): number {
    return this.#calls.own.bytes;
  }

  exclusive<T>(work: () => T | Promise<T>): Promise<T> {
    return this.#calls.exclusive(async () => work());
  }

  take(rows: readonly Float32Array[], from: number, count: number): void {
    const window = this.#calls.own.known("window")!;
    const { length, past = 0 } = this.#problem;
    rows.forEach((row, r) => {
      const at = r * length + past + this.#fill;
      this.#backend.write(window, at * floatBytes, row.subarray(from, from + count));
    });
    this.#fill += count;
  }

  async run(block: number, call: string): Promise<void> {
    const { length, outputLength, past = 0 } = this.#problem;
    const { own } = this.#calls;
    const [window, aside, y] = [own.known("window")!, own.known("past")!, own.known("y")!];
    const rows = this.#rows.batch * this.#rows.channels;
    const row = length * floatBytes;
    const front = { buffer: window, offset: 0, stride: row };
    const end = { buffer: window, offset: outputLength * floatBytes, stride: row };
    const copy = { buffer: aside, offset: 0, stride: past * floatBytes };
    const bytes = past * floatBytes;
    await Promise.all([
      this.#backend.submit((to) => {
        if (block === 0) copyBufferRows(to, undefined, front, rows, bytes);
        this.#window!.encode(to);
        // By way of another buffer, since none may be copied to itself.
        copyBufferRows(to, end, copy, rows, bytes);
        copyBufferRows(to, copy, front, rows, bytes);
      }, call),
      this.#backend.read(y, 0, this.#outputs, call),
    ]);
    this.#fill = 0;
  }

  output(_: number, row: number, from: number, out: Float32Array): void {
    const at = row * this.blockLength + from;
    out.set(this.#outputs.subarray(at, at + out.length));
  }

  /** The first block of a sequence clears its past. */
  reset(): void {
    this.#fill = 0;
  }

  leave(): void {
    this.#calls.leave(() => this.#runner.leave());
  }
}

function refuseTaps(taps: number, call: string): never {
  throw new UnsupportedError({
    call,
    requirement: `a stream on a GPU has at most ${show(mostWindowTaps)} taps, which half of the longest transform holds`,
    value: show(taps),
    remedy: "Set backend: 'cpu'.",
  });
}
