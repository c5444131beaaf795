/** FlashDepthwiseConv1d: the short filter of each channel that models of the Hyena family have before the long one. */
import { oneOf } from "../checks.ts";
import type { Dtype } from "../dtype.ts";
import { activations } from "../math/activation.ts";
import { createDepthwiseProblem } from "../plan/depthwise.ts";
import type { KnownOptions, ResultOf } from "../tensors/result-types.ts";
import type { GpuTensor, Tensor } from "../tensors/tensor.ts";
import type { OpenedShort } from "./open.ts";
import { checkShortNames, openShort } from "./open.ts";
import type {
  DepthwiseBackwardOptions,
  DepthwiseForwardOptions,
  DepthwiseGradientArrays,
  DepthwiseGradientsOf,
  FlashDepthwiseConv1dOptions,
} from "./options.ts";
import { ShortConvolution } from "./short-convolution.ts";

/**
 * A short depthwise convolution: y[n] = act(bias + Σ_j weight[j]·x[n + j − left]), zeros outside x, for each channel by
 * itself. Taps are in the order of torch.nn.Conv1d (a correlation), so that a model's weights (H, 1, K) serve as they are.
 * A causal one may be fed block by block: whatever the cuts, the outputs are the same bits. Make it with
 * `FlashDepthwiseConv1d.create`, free it with `dispose`. Layers of the Hyena family have it (Poli et al., arXiv 2302.10866).
 * @example
 * const filter = await FlashDepthwiseConv1d.create({ channels: 1, kernelLength: 2 });
 * console.log(await filter.forward(Float32Array.of(1, 2, 3), Float32Array.of(10, 1))); // Float32Array(3) [ 1, 12, 23 ]
 * filter.dispose();
 */
export class FlashDepthwiseConv1d<out D extends Dtype = "float32"> extends ShortConvolution<D> {
  private constructor(opened: OpenedShort) {
    super(opened, "FlashDepthwiseConv1d", "depthwise");
  }

  /**
   * Compile and start threads, or open the GPU.
   * @throws InvalidArgumentError for options out of range, UnsupportedError for what the runtime lacks.
   */
  static async create<D extends Dtype = "float32">(
    options: FlashDepthwiseConv1dOptions<D>,
  ): Promise<FlashDepthwiseConv1d<D>> {
    const call = "FlashDepthwiseConv1d.create";
    checkShortNames(options, "activation", call);
    const { activation = "none" } = options;
    oneOf(call, "activation", activation, ["none", ...Object.keys(activations)]);
    const form = activation === "none" ? "linear" : activation;
    const problem = createDepthwiseProblem(options, form, call);
    return new FlashDepthwiseConv1d(await openShort(problem, options, [0], call));
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
    const call = this.call("forward");
    const { out } = await this.run(call, x, weight, options, { out: options?.out });
    return out as ResultOf<X, O>;
  }

  /**
   * forward, done when it returns: on the CPU, on the calling thread, with the same bits. It waits for no call under way and
   * disturbs none.
   * @throws InvalidArgumentError, UnsupportedError on a GPU, BackendError.
   */
  forwardSync<X extends Tensor<D>, O extends Tensor<D> | undefined = undefined>(
    x: X,
    weight: Tensor<D | "float32">,
    options: DepthwiseForwardOptions<D, O> = {},
  ): ResultOf<X, O> {
    const call = this.call("forwardSync");
    return this.runNow(call, x, weight, options, { out: options?.out }).out as ResultOf<X, O>;
  }

  /**
   * Gradients of a forward call with the same x, weight and options, given dy = ∂loss/∂y. The object keeps nothing of the forward
   * call: it computes again what stands before an activation.
   * @param dy (B, H, Lout) or (B, Lout, H) samples of the object's dtype.
   * @returns dx, dweight (H, K), and dbias and dstate where the call has a bias and a state.
   * @throws InvalidArgumentError, BackendError.
   * @example
   * const filter = await FlashDepthwiseConv1d.create({ channels: 1, kernelLength: 2 });
   * const [x, weight] = [Float32Array.of(1, 2, 3), Float32Array.of(10, 1)];
   * const { dx, dweight } = await filter.backward(Float32Array.of(1, 1, 1), x, weight);
   * console.log(dx, dweight); // Float32Array(3) [ 11, 11, 1 ] Float32Array(2) [ 3, 6 ]
   * filter.dispose();
   */
  async backward<
    X extends Tensor<D> | GpuTensor,
    P extends DepthwiseBackwardOptions<D> = Record<never, never>,
  >(
    dy: Tensor<D> | GpuTensor,
    x: X,
    weight: Tensor<D | "float32"> | GpuTensor,
    options: KnownOptions<P, DepthwiseBackwardOptions, DepthwiseGradientArrays> = {} as never,
  ): Promise<DepthwiseGradientsOf<X, P>> {
    const call = this.call("backward");
    const gradients = await this.differentiate(call, { dy }, x, weight, options);
    return gradients as DepthwiseGradientsOf<X, P>;
  }

  /**
   * backward, done when it returns, as `forwardSync` is. The first call compiles; `warmUp({ length, backward: true })` does so before.
   * @throws InvalidArgumentError, UnsupportedError on a GPU, BackendError.
   */
  backwardSync<X extends Tensor<D>, P extends DepthwiseBackwardOptions<D> = Record<never, never>>(
    dy: Tensor<D>,
    x: X,
    weight: Tensor<D | "float32">,
    options: KnownOptions<P, DepthwiseBackwardOptions, DepthwiseGradientArrays> = {} as never,
  ): DepthwiseGradientsOf<X, P> {
    const call = this.call("backwardSync");
    const gradients = this.differentiateNow(call, { dy }, x, weight, options);
    return gradients as DepthwiseGradientsOf<X, P>;
  }
}
