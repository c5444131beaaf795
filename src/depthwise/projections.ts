/** FlashHyenaProjections: what stands between a Hyena operator's input projection and its long convolution, in one pass. */
import type { CpuBackend } from "../backend/cpu/backend.ts";
import type { Instructions } from "../backend/cpu/features.ts";
import type { GpuRecorder } from "../calls/recorder.ts";
import { madeByCreate } from "../calls/runtime.ts";
import { checkOptions, known, oneOf } from "../checks.ts";
import type { Dtype, NewArray, StoredArray } from "../dtype.ts";
import type { GpuDevice } from "../gpu.ts";
import type { DepthwiseProblem } from "../plan/depthwise.ts";
import { createDepthwiseProblem } from "../plan/depthwise.ts";
import type { GpuTensor, Tensor } from "../tensors/tensor.ts";
import { checkNames, DepthwiseCore } from "./core.ts";
import type {
  DepthwiseGradientsOf,
  DepthwiseRecorderOptions,
  DepthwiseWarmUp,
  FlashHyenaProjectionsOptions,
  HyenaProjections,
  HyenaProjectionsOf,
  ProjectionsBackwardOptions,
  ProjectionsForwardOptions,
  ProjectionsUpstream,
  RecordedDepthwiseCall,
} from "./options.ts";

/**
 * The short filters of a Hyena operator's three packed projections (x₁, x₂, v), each H channels of 3H, and the gate before
 * the long convolution: gated = v′ ⊙ pregate′ and postgate′, where ′ is the filter, y′[n] = bias + Σ_j weight[j]·y[n + j −
 * left]. The packed tensor is read once and the two results are written once; the filtered v and pregate are never stored.
 * What follows in the operator is `FlashFFTConv.forward(gated, k, { postgate })`.
 */
export class FlashHyenaProjections<out D extends Dtype = "float32"> {
  readonly #core: DepthwiseCore;

  private constructor(core: DepthwiseCore) {
    madeByCreate(core instanceof DepthwiseCore, "FlashHyenaProjections");
    this.#core = core;
    Object.freeze(this);
  }

  /**
   * Compile and start threads, or open the GPU. `channels` is H: the packed tensor has 3H.
   * @throws InvalidArgumentError for options out of range, UnsupportedError for what the runtime lacks.
   */
  static async create<D extends Dtype = "float32">(
    options: FlashHyenaProjectionsOptions<D>,
  ): Promise<FlashHyenaProjections<D>> {
    const names = { type: "FlashHyenaProjections", object: "projections", option: "pregate" };
    const call = checkNames(options, names);
    const { pregate = "second" } = options;
    oneOf(call, "pregate", pregate, ["first", "second"]);
    const problem = createDepthwiseProblem(options, "projections", call);
    const order = pregate === "first" ? [0, 1, 2] : [1, 0, 2];
    const core = await DepthwiseCore.create(problem, options, names, order);
    return new FlashHyenaProjections(core);
  }

  /** Channels, taps, padding, layout and dtype. */
  get problem(): DepthwiseProblem {
    return this.#core.problem;
  }

  /** Threads in use, the caller's included. */
  get threads(): number {
    return this.#core.runner.threads;
  }

  /** In what the kernels are written: an instruction set of the CPU, or WebGPU's language. */
  get instructions(): Instructions | "wgsl" {
    return this.#core.runner.instructions;
  }

  /** The GPU device in use, for buffers and commands of your own; undefined on the CPU. */
  get device(): GpuDevice | undefined {
    return this.#core.runner.device;
  }

  /** @internal For tests: the CPU's memory and threads. */
  get backend(): CpuBackend | undefined {
    return this.#core.runner.backend;
  }

  /** Samples of an output row for `length` samples of an input row. */
  outputLength(length: number): number {
    return this.#core.outputLength(length);
  }

  /** A zeroed array (B, 3H, L) or (B, L, 3H) that calls on the CPU use without copying; it lives until `dispose`. */
  allocateInput(batch: number, length: number): StoredArray<D> {
    const { inputChannels } = this.#core;
    return this.#core.lend(inputChannels, batch, length, "allocateInput") as StoredArray<D>;
  }

  /** A zeroed array for one result of rows of `length` samples: (B, H, Lout) or (B, Lout, H). */
  allocateOutput(batch: number, length: number): StoredArray<D> {
    const positions = this.#core.outputLength(length, "projections.allocateOutput");
    const { channels } = this.problem;
    return this.#core.lend(channels, batch, positions, "allocateOutput") as StoredArray<D>;
  }

  /** A zeroed state (B, 3H, K − 1) or (B, K − 1, 3H), for the first block of a stream. */
  createState(batch: number): NewArray<StoredArray<D>> {
    return this.#core.createState(batch) as NewArray<StoredArray<D>>;
  }

  /**
   * Both results for all rows.
   * @param x (B, 3H, L) or (B, L, 3H): the packed projections, in the object's dtype.
   * @param weight (3H, K) or (3H, 1, K) taps, float32 or the dtype; float32 where they are in a GPU buffer.
   * @returns `out`, or arrays of x's kind; new buffers that are the caller's where x is in one.
   * @throws InvalidArgumentError, BackendError.
   */
  async forward<
    X extends Tensor<D> | GpuTensor,
    O extends HyenaProjections<Tensor<D> | GpuTensor> | undefined = undefined,
  >(
    x: X,
    weight: Tensor<D | "float32"> | GpuTensor,
    options: ProjectionsForwardOptions<D, O> = {},
  ): Promise<HyenaProjectionsOf<X, O>> {
    const call = "projections.forward";
    checkOptions(options, call);
    const { out, ...rest } = options;
    if (out !== undefined) {
      checkOptions(out, call, "out", "Pass { gated, postgate }, or leave it out.");
      known(out, ["gated", "postgate"], call, "out");
    }
    const results = [
      { name: "out.gated", array: out?.gated },
      { name: "out.postgate", array: out?.postgate },
    ];
    const [gated, postgate] = await this.#core.forward(x, weight, rest, results);
    return { gated, postgate } as HyenaProjectionsOf<X, O>;
  }

  /**
   * Gradients of a forward call with the same x, weight and options; the filters' outputs are computed again. dx is (B,
   * 3H, L) or (B, L, 3H), dweight (3H, K), dbias (3H).
   * @throws InvalidArgumentError, BackendError.
   */
  async backward<
    X extends Tensor<D> | GpuTensor,
    O extends Tensor<D> | GpuTensor | undefined = undefined,
  >(
    upstream: ProjectionsUpstream<Tensor<D> | GpuTensor>,
    x: X,
    weight: Tensor<D | "float32"> | GpuTensor,
    options: ProjectionsBackwardOptions<D, O> = {},
  ): Promise<DepthwiseGradientsOf<X, O>> {
    const remedy =
      "Pass { dgated, dpostgate }: zeros for a result that the loss does not depend on.";
    checkOptions(upstream, "projections.backward", "the upstream gradients", remedy);
    const dy = [
      { name: "dgated", tensor: upstream.dgated },
      { name: "dpostgate", tensor: upstream.dpostgate },
    ];
    const gradients = await this.#core.backward(dy, x, weight, options);
    return gradients as DepthwiseGradientsOf<X, O>;
  }

  /**
   * Compile what calls of such rows need, so that the first has nothing left to compile: kernels on a GPU depend on the rows, which
   * `create` does not know. On the CPU `create` has compiled forward calls of any rows, and gradients are left.
   */
  async warmUp(calls: DepthwiseWarmUp): Promise<void> {
    await this.#core.warmUp(calls);
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
    return this.#core.recorder(recorded, options);
  }

  /**
   * Say that you have submitted every encoder that calls were given so far. What only their commands name is freed, such as
   * outgrown work memory; without this it stays until `dispose`.
   */
  async submitted(): Promise<void> {
    await this.#core.submitted();
  }

  /** Free lent arrays and programs. Calls under way finish first; lent arrays must not be used after. */
  dispose(): void {
    this.#core.dispose();
  }

  /** The same as `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** The same as `dispose`, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }
}
