/** FlashHyenaProjections: what stands between a Hyena operator's input projection and its long convolution, in one pass. */
import { checkOptions, known, oneOf } from "../checks.ts";
import type { Dtype } from "../dtype.ts";
import { createDepthwiseProblem } from "../plan/depthwise.ts";
import type { KnownOptions } from "../tensors/result-types.ts";
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
 * What follows in the operator (Poli et al., arXiv 2302.10866) is `FlashFFTConv.forward(gated, k, { postgate })`.
 * @example
 * const projections = await FlashHyenaProjections.create({ channels: 1, kernelLength: 1 });
 * const x = Float32Array.of(1, 2, 3, 4, 5, 6); // x₁, x₂ and v of two samples each
 * const { gated, postgate } = await projections.forward(x, Float32Array.of(1, 1, 1));
 * console.log(gated, postgate); // Float32Array(2) [ 15, 24 ] Float32Array(2) [ 1, 2 ]
 * projections.dispose();
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
    const results = await this.run(call, x, weight, options, givenFor(options?.out, call));
    return named(results) as HyenaProjectionsOf<X, O>;
  }

  /**
   * forward, done when it returns: on the CPU, on the calling thread, with the same bits. It waits for no call under way and
   * disturbs none.
   * @throws InvalidArgumentError, UnsupportedError on a GPU, BackendError.
   */
  forwardSync<X extends Tensor<D>, O extends HyenaProjections<Tensor<D>> | undefined = undefined>(
    x: X,
    weight: Tensor<D | "float32">,
    options: ProjectionsForwardOptions<D, O> = {},
  ): HyenaProjectionsOf<X, O> {
    const call = this.call("forwardSync");
    const given = givenFor<Tensor>(options?.out, call);
    return named(this.runNow(call, x, weight, options, given)) as HyenaProjectionsOf<X, O>;
  }

  /**
   * Gradients of a forward call with the same x, weight and options. The object computes the filters' outputs again.
   * @param upstream dgated and dpostgate: ∂loss/∂ of both results, of their shape.
   * @returns dx (B, 3H, L) or (B, L, 3H), dweight (3H, K), and dbias (3H) and dstate where the call has a bias and a state.
   * @throws InvalidArgumentError, BackendError.
   */
  async backward<
    X extends Tensor<D> | GpuTensor,
    P extends DepthwiseBackwardOptions<D> = Record<never, never>,
  >(
    upstream: ProjectionsUpstream<Tensor<D> | GpuTensor>,
    x: X,
    weight: Tensor<D | "float32"> | GpuTensor,
    options: KnownOptions<P, DepthwiseBackwardOptions, DepthwiseGradientArrays> = {} as never,
  ): Promise<DepthwiseGradientsOf<X, P>> {
    const call = this.call("backward");
    const dy = upstreamOf(upstream, call);
    const gradients = await this.differentiate(call, dy, x, weight, options);
    return gradients as DepthwiseGradientsOf<X, P>;
  }

  /**
   * backward, done when it returns, as `forwardSync` is. The first call compiles; `warmUp({ length, backward: true })` does so before.
   * @throws InvalidArgumentError, UnsupportedError on a GPU, BackendError.
   */
  backwardSync<X extends Tensor<D>, P extends DepthwiseBackwardOptions<D> = Record<never, never>>(
    upstream: ProjectionsUpstream<Tensor<D>>,
    x: X,
    weight: Tensor<D | "float32">,
    options: KnownOptions<P, DepthwiseBackwardOptions, DepthwiseGradientArrays> = {} as never,
  ): DepthwiseGradientsOf<X, P> {
    const call = this.call("backwardSync");
    const dy = upstreamOf<Tensor>(upstream, call);
    return this.differentiateNow(call, dy, x, weight, options) as DepthwiseGradientsOf<X, P>;
  }
}

/** What is given for the results, by the names that messages have for them. */
function givenFor<T extends Tensor | GpuTensor>(
  out: HyenaProjections<T> | undefined,
  call: string,
): Record<"out.gated" | "out.postgate", T | undefined> {
  if (out !== undefined) {
    checkOptions(out, call, "out", "Pass { gated, postgate }, or leave it out.");
    known(out, ["gated", "postgate"], call, "out");
  }
  return { "out.gated": out?.gated, "out.postgate": out?.postgate };
}

/** Results by the names that users have for them. */
function named<T>(results: Record<"out.gated" | "out.postgate", T>): HyenaProjections<T> {
  const { "out.gated": gated, "out.postgate": postgate } = results;
  return { gated, postgate };
}

function upstreamOf<T extends Tensor | GpuTensor>(
  upstream: ProjectionsUpstream<T>,
  call: string,
): Record<"dgated" | "dpostgate", T> {
  const remedy = "Pass { dgated, dpostgate }: zeros for a result that the loss does not depend on.";
  checkOptions(upstream, call, "the upstream gradients", remedy);
  const { dgated, dpostgate } = upstream;
  return { dgated, dpostgate };
}
