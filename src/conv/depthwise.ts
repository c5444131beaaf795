/** FlashDepthwiseConv1d: the short filter of each channel that models of the Hyena family have before the long one. */
import type { CpuBackend } from "../backend/cpu.ts";
import type { Instructions } from "../backend/features.ts";
import type { SampleArray } from "../dtype.ts";
import type { GpuDevice } from "../gpu.ts";
import type { DepthwiseProblem } from "../plan/depthwise.ts";
import { createDepthwiseProblem } from "../plan/depthwise.ts";
import { oneOf } from "../plan/problem.ts";
import type { GpuTensor, Tensor } from "./arguments.ts";
import { checkOptions } from "./arguments.ts";
import { DepthwiseCore } from "./depthwise-core.ts";
import type {
  DepthwiseBackwardOptions,
  DepthwiseForwardOptions,
  DepthwiseGradients,
  FlashDepthwiseConv1dOptions,
  GpuDepthwiseGradients,
} from "./depthwise-options.ts";
import { madeByCreate } from "./runtime.ts";

/**
 * A short depthwise convolution: y[n] = act(bias + Σ_j weight[j]·x[n + j − left]), zeros outside x, for each channel by
 * itself. Taps are in the order of torch.nn.Conv1d (a correlation), so that a model's weights (H, 1, K) serve as they are.
 * A causal one may be fed block by block: whatever the cuts, the outputs are the same bits. Make it with
 * `FlashDepthwiseConv1d.create`, free it with `dispose`.
 */
export class FlashDepthwiseConv1d {
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
  static async create(options: FlashDepthwiseConv1dOptions): Promise<FlashDepthwiseConv1d> {
    const names = { type: "FlashDepthwiseConv1d", object: "conv", option: "activation" };
    const call = `${names.type}.create`;
    checkOptions(options, call, "options", "Pass { channels: H, kernelLength: K }.");
    const { activation = "none" } = options;
    oneOf(call, "activation", activation, ["none", "silu"]);
    const form = activation === "silu" ? "silu" : "linear";
    const problem = createDepthwiseProblem(options, form, call);
    return new FlashDepthwiseConv1d(await DepthwiseCore.create(problem, options, names, [0]));
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
  allocateInput(batch: number, length: number): SampleArray {
    return this.#core.lend(this.problem.channels, batch, length, "allocateInput");
  }

  /** The same for the outputs of rows of `length` samples: (B, H, Lout) or (B, Lout, H). */
  allocateOutput(batch: number, length: number): SampleArray {
    const positions = this.#core.outputLength(length, "conv.allocateOutput");
    return this.#core.lend(this.problem.channels, batch, positions, "allocateOutput");
  }

  /** A zeroed state (B, H, K − 1) or (B, K − 1, H), for the first block of a stream. */
  createState(batch: number): SampleArray {
    return this.#core.createState(batch);
  }

  /**
   * y of all rows.
   * @param x (B, H, L) or (B, L, H) samples of the object's dtype, any B and L; a flat array has the object's `batch`.
   * @param weight (H, K) or (H, 1, K) taps, float32 or the dtype; float32 where they are in a GPU buffer.
   * @returns (B, H, Lout) or (B, Lout, H) samples: `out`, or an array of x's kind; a new buffer that is the caller's where x
   * is in one.
   * @throws InvalidArgumentError, BackendError.
   */
  forward(
    x: GpuTensor,
    weight: Tensor | GpuTensor,
    options?: DepthwiseForwardOptions,
  ): Promise<GpuTensor>;
  forward(
    x: Tensor,
    weight: Tensor | GpuTensor,
    options?: DepthwiseForwardOptions,
  ): Promise<SampleArray>;
  async forward(
    x: Tensor | GpuTensor,
    weight: Tensor | GpuTensor,
    options: DepthwiseForwardOptions = {},
  ): Promise<SampleArray | GpuTensor> {
    checkOptions(options, "conv.forward");
    const results = [{ name: "out", array: options.out }];
    const [y] = await this.#core.forward(x, weight, options, results);
    return y!;
  }

  /**
   * Gradients of a forward call with the same x, weight and options, given dy = ∂loss/∂y. Nothing of the forward call is
   * kept: what stands before an activation is computed again.
   * @throws InvalidArgumentError, BackendError.
   */
  backward(
    dy: GpuTensor,
    x: GpuTensor,
    weight: Tensor | GpuTensor,
    options?: DepthwiseBackwardOptions,
  ): Promise<GpuDepthwiseGradients>;
  backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | GpuTensor,
    options?: DepthwiseBackwardOptions,
  ): Promise<DepthwiseGradients>;
  backward(
    dy: Tensor | GpuTensor,
    x: Tensor | GpuTensor,
    weight: Tensor | GpuTensor,
    options: DepthwiseBackwardOptions = {},
  ): Promise<DepthwiseGradients | GpuDepthwiseGradients> {
    return this.#core.backward([{ name: "dy", tensor: dy }], x, weight, options);
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
