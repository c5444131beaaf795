/** FlashDepthwiseConv1d: the short filter of each channel that models of the Hyena family have before the long one. */
import type { CpuBackend } from "../backend/cpu/backend.ts";
import type { Instructions } from "../backend/cpu/features.ts";
import type { GpuRecorder } from "../calls/recorder.ts";
import { madeByCreate } from "../calls/runtime.ts";
import { checkOptions, oneOf } from "../checks.ts";
import type { Dtype, NewArray, StoredArray } from "../dtype.ts";
import type { GpuDevice } from "../gpu.ts";
import type { DepthwiseProblem } from "../plan/depthwise.ts";
import { createDepthwiseProblem } from "../plan/depthwise.ts";
import type { ResultOf } from "../tensors/result-types.ts";
import type { GpuTensor, Tensor } from "../tensors/tensor.ts";
import { checkNames, DepthwiseCore } from "./core.ts";
import type {
  DepthwiseBackwardOptions,
  DepthwiseForwardOptions,
  DepthwiseGradientsOf,
  DepthwiseRecorderOptions,
  DepthwiseWarmUp,
  FlashDepthwiseConv1dOptions,
  RecordedDepthwiseCall,
} from "./options.ts";

/**
 * A short depthwise convolution: y[n] = act(bias + Σ_j weight[j]·x[n + j − left]), zeros outside x, for each channel by
 * itself. Taps are in the order of torch.nn.Conv1d (a correlation), so that a model's weights (H, 1, K) serve as they are.
 * A causal one may be fed block by block: whatever the cuts, the outputs are the same bits. Make it with
 * `FlashDepthwiseConv1d.create`, free it with `dispose`.
 */
export class FlashDepthwiseConv1d<out D extends Dtype = "float32"> {
  readonly #core: DepthwiseCore;

  private constructor(core: DepthwiseCore) {
    madeByCreate(core instanceof DepthwiseCore, "FlashDepthwiseConv1d");
    this.#core = core;
    Object.freeze(this);
  }

  /**
   * Compile and start threads, or open the GPU.
   * @throws InvalidArgumentError for options out of range, UnsupportedError for what the runtime lacks.
   */
  static async create<D extends Dtype = "float32">(
    options: FlashDepthwiseConv1dOptions<D>,
  ): Promise<FlashDepthwiseConv1d<D>> {
    const names = { type: "FlashDepthwiseConv1d", object: "conv", option: "activation" };
    const call = checkNames(options, names);
    const { activation = "none" } = options;
    oneOf(call, "activation", activation, ["none", "silu"]);
    const form = activation === "silu" ? "silu" : "linear";
    const problem = createDepthwiseProblem(options, form, call);
    const core = await DepthwiseCore.create(problem, options, names, [0]);
    return new FlashDepthwiseConv1d(core);
  }

  /** Channels, taps, padding, layout, activation and dtype. */
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

  /** A zeroed array (B, H, L) or (B, L, H) that calls on the CPU use without copying; it lives until `dispose`. */
  allocateInput(batch: number, length: number): StoredArray<D> {
    const { channels } = this.problem;
    return this.#core.lend(channels, batch, length, "allocateInput") as StoredArray<D>;
  }

  /** The same for the outputs of rows of `length` samples: (B, H, Lout) or (B, Lout, H). */
  allocateOutput(batch: number, length: number): StoredArray<D> {
    const positions = this.#core.outputLength(length, "conv.allocateOutput");
    const { channels } = this.problem;
    return this.#core.lend(channels, batch, positions, "allocateOutput") as StoredArray<D>;
  }

  /** A zeroed state (B, H, K − 1) or (B, K − 1, H), for the first block of a stream. */
  createState(batch: number): NewArray<StoredArray<D>> {
    return this.#core.createState(batch) as NewArray<StoredArray<D>>;
  }

  /**
   * y of all rows.
   * @param x (B, H, L) or (B, L, H) samples of the object's dtype, any B and L; a flat array has the object's `batch`.
   * @param weight (H, K) or (H, 1, K) taps, float32 or the dtype; float32 where they are in a GPU buffer.
   * @returns (B, H, Lout) or (B, Lout, H) samples: `out`, or an array of x's kind; a new buffer that is the caller's where x
   * is in one.
   * @throws InvalidArgumentError, BackendError.
   */
  async forward<
    X extends Tensor<D> | GpuTensor,
    O extends Tensor<D> | GpuTensor | undefined = undefined,
  >(
    x: X,
    weight: Tensor<D | "float32"> | GpuTensor,
    options: DepthwiseForwardOptions<D, O> = {},
  ): Promise<ResultOf<X, O>> {
    checkOptions(options, "conv.forward");
    const results = [{ name: "out", array: options.out }];
    const [y] = await this.#core.forward(x, weight, options, results);
    return y as ResultOf<X, O>;
  }

  /**
   * Gradients of a forward call with the same x, weight and options, given dy = ∂loss/∂y. Nothing of the forward call is
   * kept: what stands before an activation is computed again.
   * @throws InvalidArgumentError, BackendError.
   */
  async backward<
    X extends Tensor<D> | GpuTensor,
    O extends Tensor<D> | GpuTensor | undefined = undefined,
  >(
    dy: Tensor<D> | GpuTensor,
    x: X,
    weight: Tensor<D | "float32"> | GpuTensor,
    options: DepthwiseBackwardOptions<D, O> = {},
  ): Promise<DepthwiseGradientsOf<X, O>> {
    const gradients = await this.#core.backward([{ name: "dy", tensor: dy }], x, weight, options);
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
   * const forward = await conv.recorder("forward", { batch: 8, length: 2048 });
   * forward.bind({ x, weight, y }, scratch).encode(pass);
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
