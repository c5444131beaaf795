/** FlashHyenaProjections: what stands between a Hyena operator's input projection and its long convolution, in one pass. */
import type { CpuBackend } from "../backend/cpu.ts";
import type { Instructions } from "../backend/features.ts";
import type { SampleArray } from "../dtype.ts";
import type { GpuDevice } from "../gpu.ts";
import type { DepthwiseProblem } from "../plan/depthwise.ts";
import { createDepthwiseProblem } from "../plan/depthwise.ts";
import { oneOf } from "../plan/problem.ts";
import type { GpuTensor, Tensor } from "./arguments.ts";
import { checkOptions, known } from "./arguments.ts";
import { DepthwiseCore } from "./depthwise-core.ts";
import type {
  DepthwiseGradients,
  FlashHyenaProjectionsOptions,
  GpuDepthwiseGradients,
  GpuHyenaProjections,
  GpuProjectionsUpstream,
  HyenaProjections,
  ProjectionsBackwardOptions,
  ProjectionsForwardOptions,
  ProjectionsUpstream,
} from "./depthwise-options.ts";
import { madeByCreate } from "./runtime.ts";

/**
 * The short filters of a Hyena operator's three packed projections (x₁, x₂, v), each H channels of 3H, and the gate before
 * the long convolution: gated = v′ ⊙ pregate′ and postgate′, where ′ is the filter, y′[n] = bias + Σ_j weight[j]·y[n + j −
 * left]. The packed tensor is read once and the two results are written once; the filtered v and pregate are never stored.
 * What follows in the operator is `FlashFFTConv.forward(gated, k, { postgate })`.
 */
export class FlashHyenaProjections {
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
  static async create(options: FlashHyenaProjectionsOptions): Promise<FlashHyenaProjections> {
    const names = { type: "FlashHyenaProjections", object: "projections", option: "pregate" };
    const call = `${names.type}.create`;
    checkOptions(options, call, "options", "Pass { channels: H, kernelLength: K }.");
    const { pregate = "second" } = options;
    oneOf(call, "pregate", pregate, ["first", "second"]);
    const problem = createDepthwiseProblem(options, "projections", call);
    const order = pregate === "first" ? [0, 1, 2] : [1, 0, 2];
    return new FlashHyenaProjections(await DepthwiseCore.create(problem, options, names, order));
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
  allocateInput(batch: number, length: number): SampleArray {
    return this.#core.lend(this.#core.inputChannels, batch, length, "allocateInput");
  }

  /** A zeroed array for one result of rows of `length` samples: (B, H, Lout) or (B, Lout, H). */
  allocateOutput(batch: number, length: number): SampleArray {
    const positions = this.#core.outputLength(length, "projections.allocateOutput");
    return this.#core.lend(this.problem.channels, batch, positions, "allocateOutput");
  }

  /** A zeroed state (B, 3H, K − 1) or (B, K − 1, 3H), for the first block of a stream. */
  createState(batch: number): SampleArray {
    return this.#core.createState(batch);
  }

  /**
   * Both results for all rows.
   * @param x (B, 3H, L) or (B, L, 3H): the packed projections, in the object's dtype.
   * @param weight (3H, K) or (3H, 1, K) taps, float32 or the dtype; float32 where they are in a GPU buffer.
   * @returns `out`, or arrays of x's kind; new buffers that are the caller's where x is in one.
   * @throws InvalidArgumentError, BackendError.
   */
  forward(
    x: GpuTensor,
    weight: Tensor | GpuTensor,
    options?: ProjectionsForwardOptions,
  ): Promise<GpuHyenaProjections>;
  forward(
    x: Tensor,
    weight: Tensor | GpuTensor,
    options?: ProjectionsForwardOptions,
  ): Promise<HyenaProjections>;
  async forward(
    x: Tensor | GpuTensor,
    weight: Tensor | GpuTensor,
    options: ProjectionsForwardOptions = {},
  ): Promise<HyenaProjections | GpuHyenaProjections> {
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
    return { gated, postgate } as HyenaProjections;
  }

  /**
   * Gradients of a forward call with the same x, weight and options; the filters' outputs are computed again. dx is (B,
   * 3H, L) or (B, L, 3H), dweight (3H, K), dbias (3H).
   * @throws InvalidArgumentError, BackendError.
   */
  backward(
    upstream: GpuProjectionsUpstream,
    x: GpuTensor,
    weight: Tensor | GpuTensor,
    options?: ProjectionsBackwardOptions,
  ): Promise<GpuDepthwiseGradients>;
  backward(
    upstream: ProjectionsUpstream,
    x: Tensor,
    weight: Tensor | GpuTensor,
    options?: ProjectionsBackwardOptions,
  ): Promise<DepthwiseGradients>;
  async backward(
    upstream: ProjectionsUpstream | GpuProjectionsUpstream,
    x: Tensor | GpuTensor,
    weight: Tensor | GpuTensor,
    options: ProjectionsBackwardOptions = {},
  ): Promise<DepthwiseGradients | GpuDepthwiseGradients> {
    const remedy =
      "Pass { dgated, dpostgate }: zeros for a result that the loss does not depend on.";
    checkOptions(upstream, "projections.backward", "the upstream gradients", remedy);
    const dy = [
      { name: "dgated", tensor: upstream.dgated },
      { name: "dpostgate", tensor: upstream.dpostgate },
    ];
    return await this.#core.backward(dy, x, weight, options);
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
