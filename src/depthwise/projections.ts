/** FlashHyenaProjections: what stands between a Hyena operator's input projection and its long convolution, in one pass. */
import { checkOptions, known, oneOf } from "../checks.ts";
import type { Dtype } from "../dtype.ts";
import { createDepthwiseProblem } from "../plan/depthwise.ts";
import type { GpuTensor, Tensor } from "../tensors/tensor.ts";
import type { OpenedShort } from "./open.ts";
import { checkShortNames, openShort } from "./open.ts";
import type {
  DepthwiseBackwardOptions,
  DepthwiseGradientArrays,
  DepthwiseGradientsOf,
  FlashHyenaProjectionsOptions,
  HyenaProjections,
  HyenaProjectionsOf,
  ProjectionsForwardOptions,
  ProjectionsUpstream,
} from "./options.ts";
import { ShortConvolution } from "./short-convolution.ts";

/**
 * The short filters of a Hyena operator's three packed projections (x₁, x₂, v), each H channels of 3H, and the gate before
 * the long convolution: gated = v′ ⊙ pregate′ and postgate′, where ′ is the filter, y′[n] = bias + Σ_j weight[j]·y[n + j −
 * left]. The packed tensor is read once and the two results are written once; the filtered v and pregate are never stored.
 * What follows in the operator is `FlashFFTConv.forward(gated, k, { postgate })`.
 */
export class FlashHyenaProjections<out D extends Dtype = "float32"> extends ShortConvolution<D> {
  private constructor(opened: OpenedShort) {
    super(opened, "FlashHyenaProjections", "projections");
  }

  /**
   * Compile and start threads, or open the GPU. `channels` is H: the packed tensor has 3H.
   * @throws InvalidArgumentError for options out of range, UnsupportedError for what the runtime lacks.
   */
  static async create<D extends Dtype = "float32">(
    options: FlashHyenaProjectionsOptions<D>,
  ): Promise<FlashHyenaProjections<D>> {
    const call = "FlashHyenaProjections.create";
    checkShortNames(options, "pregate", call);
    const { pregate = "second" } = options;
    oneOf(call, "pregate", pregate, ["first", "second"]);
    const problem = createDepthwiseProblem(options, "projections", call);
    const order = pregate === "first" ? [0, 1, 2] : [1, 0, 2];
    return new FlashHyenaProjections(await openShort(problem, options, order, call));
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
    const call = this.call("forward");
    const out = options?.out;
    if (out !== undefined) {
      checkOptions(out, call, "out", "Pass { gated, postgate }, or leave it out.");
      known(out, ["gated", "postgate"], call, "out");
    }
    const given = { "out.gated": out?.gated, "out.postgate": out?.postgate };
    const results = await this.run(call, x, weight, options, given);
    const { "out.gated": gated, "out.postgate": postgate } = results;
    return { gated, postgate } as HyenaProjectionsOf<X, O>;
  }

  /**
   * Gradients of a forward call with the same x, weight and options; the filters' outputs are computed again. dx is (B,
   * 3H, L) or (B, L, 3H), dweight (3H, K), dbias (3H).
   * @throws InvalidArgumentError, BackendError.
   */
  async backward<
    X extends Tensor<D> | GpuTensor,
    O extends DepthwiseGradientArrays<D> | undefined = undefined,
  >(
    upstream: ProjectionsUpstream<Tensor<D> | GpuTensor>,
    x: X,
    weight: Tensor<D | "float32"> | GpuTensor,
    options: DepthwiseBackwardOptions<D, O> = {},
  ): Promise<DepthwiseGradientsOf<X, O>> {
    const call = this.call("backward");
    const remedy =
      "Pass { dgated, dpostgate }: zeros for a result that the loss does not depend on.";
    checkOptions(upstream, call, "the upstream gradients", remedy);
    const { dgated, dpostgate } = upstream;
    const gradients = await this.differentiate(call, { dgated, dpostgate }, x, weight, options);
    return gradients as DepthwiseGradientsOf<X, O>;
  }
}
