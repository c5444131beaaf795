/** What the short convolutions have in common: the choice of a backend, their calls, their arrays. */
import type { CpuBackend } from "../backend/cpu/backend.ts";
import { Operation } from "../calls/operation.ts";
import type { GpuRecorder } from "../calls/recorder.ts";
import { refuseRecorder } from "../calls/recorder.ts";
import { checkFlags, checkOptions, integer, known } from "../checks.ts";
import type { Dtype, NewArray, SampleArray, StoredArray } from "../dtype.ts";
import type { DepthwiseProblem } from "../plan/depthwise.ts";
import type { Named } from "../tensors/check.ts";
import type { ResultPlace, WantedResult } from "../tensors/results.ts";
import { collect, zeros } from "../tensors/results.ts";
import type { GpuTensor, Tensor, TensorData } from "../tensors/tensor.ts";
import type { OpenedShort } from "./open.ts";
import {
  checkedOutputLength,
  checkStreams,
  inputChannels,
  ShortOperandChecks,
  type ShortOperands,
} from "./operands.ts";
import type {
  DepthwiseBackwardOptions,
  DepthwiseForwardOptions,
  DepthwiseRecorderOptions,
  DepthwiseWarmUp,
  RecordedDepthwiseCall,
} from "./options.ts";
import type {
  DepthwiseBackward,
  DepthwiseForward,
  DepthwiseRequest,
  DepthwiseRunner,
} from "./runner.ts";

/** What `warmUp` is told of calls besides their rows. */
const warmUpFlags = ["backward", "bias", "state"] as const;

/** A short depthwise convolution of dtype `D`: what FlashDepthwiseConv1d and FlashHyenaProjections have in common. */
export abstract class ShortConvolution<out D extends Dtype = Dtype> extends Operation {
  /** Channels, taps, padding, layout, what follows the filters, and dtype. */
  readonly problem: DepthwiseProblem;
  readonly #batch: number;
  readonly #runner: DepthwiseRunner;
  /** What errors call an object of this class. */
  readonly #name: string;

  /** @internal */
  protected constructor(opened: OpenedShort, type: string, name: string) {
    super(opened?.runner, type);
    this.problem = opened.problem;
    this.#batch = opened.batch;
    this.#runner = opened.runner;
    this.#name = name;
    Object.freeze(this);
  }

  /** @internal For tests: the CPU's memory and threads. */
  get backend(): CpuBackend | undefined {
    return this.#runner.backend;
  }

  /** @internal A method as errors name it, on an object that has not been disposed. */
  protected call(method: string): string {
    const call = `${this.#name}.${method}`;
    this.alive(call);
    return call;
  }

  /**
   * Samples of an output row for `length` samples of an input row.
   * @throws InvalidArgumentError where the filter does not fit.
   */
  outputLength(length: number): number {
    return checkedOutputLength(this.problem, length, `${this.#name}.outputLength`);
  }

  /**
   * A zeroed array for x of rows of `length` samples, (B, H, L) or (B, L, H), or 3H channels where three are packed. Calls on the
   * CPU use it without copying. It lives until `dispose`.
   */
  allocateInput(batch: number, length: number): StoredArray<D> {
    return this.#lend(inputChannels(this.problem), batch, length, this.call("allocateInput"));
  }

  /** The same for one result of rows of `length` samples: (B, H, Lout) or (B, Lout, H). */
  allocateOutput(batch: number, length: number): StoredArray<D> {
    const call = this.call("allocateOutput");
    const positions = checkedOutputLength(this.problem, length, call);
    return this.#lend(this.problem.channels, batch, positions, call);
  }

  #lend(channels: number, batch: number, positions: number, call: string): StoredArray<D> {
    const rows = channels * integer(call, "batch", batch, 1, 2 ** 31);
    const size = rows * integer(call, "length", positions, 1, 2 ** 31);
    return this.#runner.lend(size, this.problem.dtype, call) as StoredArray<D>;
  }

  /**
   * A zeroed state for the first block of a stream: K − 1 samples of each channel of x, in x's layout.
   * @throws InvalidArgumentError where the padding is not causal.
   * @example
   * const filter = await FlashDepthwiseConv1d.create({ channels: 1, kernelLength: 2 });
   * const [weight, state] = [Float32Array.of(10, 1), filter.createState(1)];
   * for (const block of [Float32Array.of(1, 2), Float32Array.of(3)])
   *   console.log(await filter.forward(block, weight, { state, stateOut: state })); // Float32Array(2) [ 1, 12 ]…[ 23 ]
   * filter.dispose();
   */
  createState(batch: number): NewArray<StoredArray<D>> {
    const call = this.call("createState");
    integer(call, "batch", batch, 1, 2 ** 31);
    checkStreams(this.problem, call);
    const { dtype, kernelLength } = this.problem;
    const size = batch * inputChannels(this.problem) * (kernelLength - 1);
    return zeros(dtype, size, call) as NewArray<StoredArray<D>>;
  }

  #checks(call: string): ShortOperandChecks {
    return new ShortOperandChecks(this.problem, this.#batch, this.#runner.device, call);
  }

  #request(
    operands: ShortOperands,
    options: Pick<DepthwiseForwardOptions, "encoder">,
    call: string,
  ): DepthwiseRequest {
    const { x, batch, length, weight, bias, state } = operands;
    const { name, encoder, alive } = this.context(call, options.encoder);
    return { x, batch, length, weight, bias, state, name, encoder, alive };
  }

  /** Where results of a call go that reads `like`. */
  #place(like: TensorData, call: string): ResultPlace {
    const runner = this.#runner;
    return { call, device: runner.device, like, allocate: runner.allocate.bind(runner) };
  }

  /** @internal The outputs of a forward call by the names that messages have for them; `out` has what is given for them. */
  protected async run<N extends string>(
    call: string,
    x: Tensor | GpuTensor,
    weight: Tensor | GpuTensor,
    options: Omit<DepthwiseForwardOptions<Dtype>, "out">,
    out: Readonly<Record<N, Tensor | GpuTensor | undefined>>,
  ): Promise<Record<N, SampleArray | GpuTensor>> {
    const { place, wanted, inputs, requestFor } = this.#outputs(call, x, weight, options, out);
    return collect(place, wanted, inputs, (results) => this.#runner.forward(requestFor(results)));
  }

  /** @internal The same, done when it returns. */
  protected runNow<N extends string>(
    call: string,
    x: Tensor,
    weight: Tensor,
    options: Omit<DepthwiseForwardOptions<Dtype>, "out">,
    out: Readonly<Record<N, Tensor | undefined>>,
  ): Record<N, SampleArray> {
    const now = this.answering(this.#runner.now, call);
    const { place, wanted, inputs, requestFor } = this.#outputs(call, x, weight, options, out);
    const run = (results: Readonly<Record<N, TensorData>>): void =>
      now.forwardNow(requestFor(results));
    return collect(place, wanted, inputs, run) as Record<N, SampleArray>;
  }

  /** A forward call, checked: its results and the request that they make. */
  #outputs<N extends string>(
    call: string,
    x: Tensor | GpuTensor,
    weight: Tensor | GpuTensor,
    options: Omit<DepthwiseForwardOptions<Dtype>, "out">,
    out: Readonly<Record<N, Tensor | GpuTensor | undefined>>,
  ) {
    const checks = this.#checks(call);
    const operands = checks.operands(x, weight, options, "forward");
    const stateOut = checks.stateOut(options.stateOut, operands);
    const wanted = {} as Record<N, WantedResult>;
    for (const name in out) wanted[name] = checks.wantedOutput(out[name], operands);
    const request = this.#request(operands, options, call);
    return {
      place: this.#place(operands.x, call),
      wanted,
      inputs: [...operands.given, ...stateOut],
      requestFor: (results: Readonly<Record<string, TensorData>>): DepthwiseForward => {
        const outputs: Named[] = [];
        for (const name in results) outputs.push({ name, data: results[name]! });
        return Object.assign(request, { outputs, stateOut: stateOut[0]?.data });
      },
    };
  }

  /** @internal Gradients of a forward call with the same operands, given those of its outputs by name. */
  protected async differentiate(
    call: string,
    dy: Readonly<Record<string, Tensor | GpuTensor>>,
    x: Tensor | GpuTensor,
    weight: Tensor | GpuTensor,
    options: DepthwiseBackwardOptions<Dtype>,
  ): Promise<unknown> {
    const { place, wanted, inputs, requestFor } = this.#gradients(call, dy, x, weight, options);
    return collect(place, wanted, inputs, (results) => this.#runner.backward(requestFor(results)));
  }

  /** @internal The same, done when it returns. */
  protected differentiateNow(
    call: string,
    dy: Readonly<Record<string, Tensor>>,
    x: Tensor,
    weight: Tensor,
    options: DepthwiseBackwardOptions<Dtype>,
  ): unknown {
    const now = this.answering(this.#runner.now, call);
    const { place, wanted, inputs, requestFor } = this.#gradients(call, dy, x, weight, options);
    return collect(place, wanted, inputs, (results) => now.backwardNow(requestFor(results)));
  }

  /** A backward call, checked: its results and the request that they make. */
  #gradients(
    call: string,
    dy: Readonly<Record<string, Tensor | GpuTensor>>,
    x: Tensor | GpuTensor,
    weight: Tensor | GpuTensor,
    options: DepthwiseBackwardOptions<Dtype>,
  ) {
    const checks = this.#checks(call);
    const operands = checks.operands(x, weight, options, "backward");
    const upstream = Object.entries(dy).map(
      ([name, tensor]): Named => checks.upstream(name, tensor, operands),
    );
    const behind = checks.state(options.dstateOut, "dstateOut", operands.batch);
    const wanted = checks.gradients(operands, options);
    const request = this.#request(operands, options, call);
    return {
      place: this.#place(operands.x, call),
      wanted,
      inputs: [...operands.given, ...upstream, ...behind],
      requestFor: (results: Readonly<Record<string, TensorData>>): DepthwiseBackward => {
        const { dx, dweight, dbias, dstate } = results;
        return {
          ...{ ...request, dy: upstream, dstateOut: behind[0]?.data },
          ...{ dx: dx!, dweight: dweight!, dbias, dstate },
        };
      },
    };
  }

  /**
   * Compile what calls of such rows need, so that the first has nothing left to compile: kernels on a GPU depend on the rows, which
   * `create` does not know. On the CPU `create` has compiled forward calls of any rows, and gradients are left.
   */
  async warmUp(calls: DepthwiseWarmUp): Promise<void> {
    const call = this.call("warmUp");
    checkOptions(calls, call);
    known(calls, ["length", "batch", ...warmUpFlags], call);
    checkedOutputLength(this.problem, calls.length, call);
    const batch = integer(call, "batch", calls.batch ?? this.#batch, 1, 2 ** 31);
    checkFlags(calls, warmUpFlags, call);
    if (calls.state) checkStreams(this.problem, call);
    await this.#runner.warmUp({ ...calls, batch }, call);
  }

  /**
   * A call of one shape on the GPU, compiled, to be bound to ranges of your buffers and recorded in the middle of other commands,
   * without waiting. It stands for the method that it is named after.
   * @example
   * ```js
   * const forward = await projections.recorder("forward", { batch: 8, length: 2048 });
   * forward.bind({ x, weight, gated, postgate }, scratch).encode(pass);
   * ```
   * @throws InvalidArgumentError, UnsupportedError on the CPU, BackendError.
   */
  async recorder(
    recorded: RecordedDepthwiseCall,
    options: DepthwiseRecorderOptions,
  ): Promise<GpuRecorder> {
    const call = this.call("recorder");
    const recorder = this.#runner.recorder?.(recorded, options, call, (c) => this.alive(c));
    return recorder ?? refuseRecorder(call);
  }

  /**
   * Say that you have submitted every encoder that calls were given so far. What only their commands name is freed, such as
   * outgrown work memory; without this it stays until `dispose`.
   */
  async submitted(): Promise<void> {
    this.call("submitted");
    await this.#runner.submitted?.();
  }
}
