/**
 * FlashFFTConv: the object users hold. It plans once, then runs y = postgate ⊙ ((pregate ⊙ u) ∗ k) + skip ⊙ u and its
 * gradients as often as asked.
 */
import type { CallContext } from "../calls/operation.ts";
import { Operation } from "../calls/operation.ts";
import type { PreparedKernel } from "../calls/prepared.ts";
import type { GpuRecorder } from "../calls/recorder.ts";
import { refuseRecorder } from "../calls/recorder.ts";
import { checkFlags, checkOptions, integer, known } from "../checks.ts";
import type { Dtype, SampleArray, StoredArray } from "../dtype.ts";
import type { Problem } from "../plan/problem.ts";
import type { KnownOptions, ResultOf } from "../tensors/result-types.ts";
import type { ResultPlace } from "../tensors/results.ts";
import { collect } from "../tensors/results.ts";
import type { GpuTensor, Tensor, TensorData } from "../tensors/tensor.ts";
import type { Explanation } from "./explain.ts";
import { frozen } from "./explain.ts";
import { openRunner } from "./open.ts";
import type { Operands } from "./operands.ts";
import { checkSkip, named, OperandChecks } from "./operands.ts";
import type {
  BackwardOptions,
  ConvRecorderOptions,
  FlashFFTConvOptions,
  ForwardOptions,
  GradientArrays,
  GradientsOf,
  MemoryUse,
  RecordedConvCall,
  WarmUp,
} from "./options.ts";
import { checkedProblem } from "./options.ts";
import { RepeatedCalls } from "./repeat.ts";
import type { OperandRows, Repeat, Request, Runner, WeightGradients } from "./runner.ts";

type Result = SampleArray | GpuTensor;
type RunForward = (request: Request, keep: (repeat: Repeat) => void) => void | Promise<void>;

/** Options of `warmUp`. */
const warmUpNames = ["backward", "pregate", "postgate", "skip"] as const;

/**
 * A long convolution with fixed lengths, mode and dtype `D`. Make it with `FlashFFTConv.create`, free it with `dispose`.
 *
 * The transform is a right-angle convolution (Nussbaumer, 1982), computed modulo x^P + 1 in stages that are fused with gates and
 * products, as in FlashFFTConv (Fu et al., arXiv 2311.05908). docs/architecture.md has the mathematics.
 * @example
 * const conv = await FlashFFTConv.create({ length: 4 });
 * const y = await conv.forward(Float32Array.of(1, 0, 2, 0), Float32Array.of(1, 1, 0, 0));
 * console.log(y.map(Math.round)); // Float32Array(4) [ 1, 1, 2, 2 ]
 * conv.dispose();
 */
export class FlashFFTConv<out D extends Dtype = "float32"> extends Operation {
  /** Lengths, mode and dtype. */
  readonly problem: Problem<D>;
  readonly #runner: Runner;
  readonly #repeated: RepeatedCalls = new RepeatedCalls();

  private constructor(problem: Problem<D>, runner: Runner) {
    super(runner, "FlashFFTConv");
    this.problem = problem;
    this.#runner = runner;
    // What calls rely on cannot be written to.
    Object.freeze(this);
  }

  /**
   * Plan, compile, open the backend.
   * @throws InvalidArgumentError for options out of range, UnsupportedError for what the runtime lacks.
   */
  static create<D extends Dtype = "float32">(
    options: FlashFFTConvOptions<D>,
  ): Promise<FlashFFTConv<D>> {
    return FlashFFTConv.createFor(options, "FlashFFTConv.create");
  }

  /** @internal create, with errors that name another call. */
  static async createFor<D extends Dtype = "float32">(
    options: FlashFFTConvOptions<D>,
    call: string,
  ): Promise<FlashFFTConv<D>> {
    const problem = checkedProblem(options, call);
    return new FlashFFTConv(problem, await openRunner(problem, options, call));
  }

  /** @internal create with a runner that is open. */
  static on<D extends Dtype>(problem: Problem<D>, runner: Runner): FlashFFTConv<D> {
    return new FlashFFTConv(problem, runner);
  }

  /** Samples of one output row. */
  get outputLength(): number {
    return this.problem.outputLength;
  }

  /**
   * Which plan was chosen, what it is predicted to cost in milliseconds, and what the others would. It can't be written to.
   * @example
   * const conv = await FlashFFTConv.create({ length: 4096 });
   * console.log(String(conv.explain())); // causal convolution, L 4,096, K 4,096, float32: …
   * conv.dispose();
   */
  explain(): Explanation {
    return frozen(this.#runner.explain());
  }

  /** Bytes held in the backend. */
  memory(): MemoryUse {
    return this.#runner.memory();
  }

  /**
   * A zeroed array (B, H, L) that calls on the CPU use without copying. It lives until `dispose`.
   * @throws InvalidArgumentError, BackendError where there is no memory for it.
   * @example
   * const conv = await FlashFFTConv.create({ length: 1024 });
   * const [u, out] = [conv.allocateInput(1, 8), conv.allocateOutput(1, 8)];
   * console.log((await conv.forward(u, new Float32Array(8 * 1024), { out })) === out); // true
   * conv.dispose();
   */
  allocateInput(batch: number, channels: number): StoredArray<D> {
    return this.#lend(batch, channels, this.problem.length, "conv.allocateInput");
  }

  /** The same for outputs: (B, H, Lout). */
  allocateOutput(batch: number, channels: number): StoredArray<D> {
    return this.#lend(batch, channels, this.problem.outputLength, "conv.allocateOutput");
  }

  #lend(batch: number, channels: number, width: number, call: string): StoredArray<D> {
    this.alive(call);
    const rows =
      integer(call, "batch", batch, 1, 2 ** 31) * integer(call, "channels", channels, 1, 2 ** 31);
    return this.#runner.lend(rows * width, this.problem.dtype, call) as StoredArray<D>;
  }

  #checks(call: string): OperandChecks {
    this.alive(call);
    return new OperandChecks(this.problem, this.#runner, call);
  }

  /**
   * Compute and keep the spectra of k (H, K), for calls whose kernel does not change.
   * @throws InvalidArgumentError, BackendError.
   * @example
   * const conv = await FlashFFTConv.create({ length: 4 });
   * const kernel = await conv.prepareKernel(Float32Array.of(1, 1, 0, 0));
   * const y = await conv.forward(Float32Array.of(3, 1, 1, 1), kernel);
   * console.log(y.map(Math.round)); // Float32Array(4) [ 3, 4, 2, 2 ]
   * conv.dispose();
   */
  async prepareKernel(k: Tensor<D | "float32"> | GpuTensor): Promise<PreparedKernel> {
    const call = "conv.prepareKernel";
    const { data, dtype, channels } = this.#checks(call).taps(k);
    return this.#runner.prepare(data, dtype, channels, this.context(call, undefined));
  }

  /**
   * prepareKernel, done when it returns: on the CPU, on the calling thread.
   * @throws InvalidArgumentError, UnsupportedError on a GPU, BackendError.
   */
  prepareKernelSync(k: Tensor<D | "float32">): PreparedKernel {
    const call = "conv.prepareKernelSync";
    const now = this.answering(this.#runner.now, call);
    const { data, dtype, channels } = this.#checks(call).taps(k);
    return now.prepareNow(data, dtype, channels, this.context(call, undefined));
  }

  /**
   * y = postgate ⊙ ((pregate ⊙ u) ∗ k) + skip ⊙ u. Inputs are read, and `out` is written, until the promise settles; what
   * `out` holds before that is not promised.
   * @param u (B, H, L) samples of the object's dtype.
   * @param k (H, K) taps, float32 or the dtype, or a kernel from `prepareKernel`.
   * @returns (B, H, Lout) samples: `out`, or an array of u's kind; a new buffer that is the caller's where u is in one.
   * @throws InvalidArgumentError, BackendError.
   */
  async forward<
    U extends Tensor<D> | GpuTensor,
    O extends Tensor<D> | GpuTensor | undefined = undefined,
  >(
    u: U,
    k: Tensor<D | "float32"> | GpuTensor | PreparedKernel,
    options: ForwardOptions<D, O> = {},
  ): Promise<ResultOf<U, O>> {
    if (this.#repeated.run(u, k, options, true)) return options.out as ResultOf<U, O>;
    return this.forwardFor(u, k, options, "conv.forward") as Promise<ResultOf<U, O>>;
  }

  /**
   * forward, done when it returns: on the CPU, on the calling thread, with the same bits. For short rows, for layers, and for who
   * cannot await, such as an AudioWorklet. It waits for no call under way and disturbs none. A call with the arrays of one of the
   * last eight, `out` among them, allocates nothing.
   * @throws InvalidArgumentError, UnsupportedError on a GPU, BackendError.
   */
  forwardSync<U extends Tensor<D>, O extends Tensor<D> | undefined = undefined>(
    u: U,
    k: Tensor<D | "float32"> | PreparedKernel,
    options: ForwardOptions<D, O> = {},
  ): ResultOf<U, O> {
    if (this.#repeated.run(u, k, options, false)) return options.out as ResultOf<U, O>;
    return this.forwardNow(u, k, options, "conv.forwardSync") as ResultOf<U, O>;
  }

  /** @internal forwardSync, with errors that name another call. */
  forwardNow(
    u: Tensor,
    k: Tensor | PreparedKernel,
    options: ForwardOptions<Dtype>,
    call: string,
  ): SampleArray {
    const now = this.answering(this.#runner.now, call);
    const run: RunForward = (request, keep) => now.forwardNow(request, keep);
    return this.#forward(u, k, options, call, run) as SampleArray;
  }

  /** @internal forward, with errors that name another call. */
  forwardFor(
    u: Tensor | GpuTensor,
    k: Tensor | GpuTensor | PreparedKernel,
    options: ForwardOptions<Dtype>,
    call: string,
  ): Result | Promise<Result> {
    const run: RunForward = (request, keep) => this.#runner.forward(request, keep);
    return this.#forward(u, k, options, call, run);
  }

  #forward(
    u: Tensor | GpuTensor,
    k: Tensor | GpuTensor | PreparedKernel,
    options: ForwardOptions<Dtype>,
    call: string,
    run: RunForward,
  ): Result | Promise<Result> {
    const checks = this.#checks(call);
    const operands = checks.operands(u, k, options);
    const wanted = { out: checks.wantedRows(options.out, "out", operands.shape) };
    const context = this.context(call, options.encoder);
    const place = this.#place(operands.u, call);
    const results = collect(place, wanted, operands.inputs, ({ out }) => {
      const rows = [...operands.rows, checks.output("y", out)];
      const keep = (repeat: Repeat): void => this.#repeated.keep(u, k, options, repeat);
      return run(requestOf(operands, rows, context), keep);
    });
    return results instanceof Promise ? results.then(({ out }) => out) : results.out;
  }

  /** Where results of a call go that reads `like`. */
  #place(like: TensorData, call: string): ResultPlace {
    const runner = this.#runner;
    return { call, device: runner.device, like, allocate: runner.allocate.bind(runner) };
  }

  /**
   * Gradients of a forward call with the same u, k and options, given dy = ∂loss/∂y. The object keeps nothing of the forward call:
   * it computes the transforms again from what is passed here.
   * @param dy (B, H, Lout) samples of the object's dtype.
   * @returns du, dk (H, K), and the gradients of the gates and of skip where the call has them.
   * @throws InvalidArgumentError, BackendError.
   * @example
   * const conv = await FlashFFTConv.create({ length: 4 });
   * const [u, k] = [Float32Array.of(1, 0, 2, 0), Float32Array.of(1, 1, 0, 0)];
   * const { du, dk } = await conv.backward(Float32Array.of(1, 1, 1, 1), u, k);
   * console.log(du.map(Math.round), dk.map(Math.round)); // Float32Array(4) [ 2, 2, 2, 1 ] Float32Array(4) [ 3, 3, 1, 1 ]
   * conv.dispose();
   */
  async backward<
    U extends Tensor<D> | GpuTensor,
    P extends BackwardOptions<D> = Record<never, never>,
  >(
    dy: Tensor<D> | GpuTensor,
    u: U,
    k: Tensor<D | "float32"> | GpuTensor | PreparedKernel,
    options: KnownOptions<P, BackwardOptions, GradientArrays> = {} as never,
  ): Promise<GradientsOf<U, P>> {
    const call = "conv.backward";
    const { place, wanted, inputs, requestFor } = this.#gradients(dy, u, k, options, call);
    const gradients = await collect(place, wanted, inputs, (results) =>
      this.#runner.backward(requestFor(results), results as typeof results & WeightGradients),
    );
    return gradients as unknown as GradientsOf<U, P>;
  }

  /**
   * backward, done when it returns: on the CPU, on the calling thread, with the same bits. The first call compiles, in some
   * 10 ms; `await conv.warmUp({ backward: true })` does so before.
   * @throws InvalidArgumentError, UnsupportedError on a GPU, BackendError.
   */
  backwardSync<U extends Tensor<D>, P extends BackwardOptions<D> = Record<never, never>>(
    dy: Tensor<D>,
    u: U,
    k: Tensor<D | "float32"> | PreparedKernel,
    options: KnownOptions<P, BackwardOptions, GradientArrays> = {} as never,
  ): GradientsOf<U, P> {
    const call = "conv.backwardSync";
    const now = this.answering(this.#runner.now, call);
    const { place, wanted, inputs, requestFor } = this.#gradients(dy, u, k, options, call);
    const gradients = collect(place, wanted, inputs, (results) =>
      now.backwardNow(requestFor(results), results as typeof results & WeightGradients),
    );
    return gradients as unknown as GradientsOf<U, P>;
  }

  /** A backward call, checked: its results and the request that they make. */
  #gradients(
    dy: Tensor | GpuTensor,
    u: Tensor | GpuTensor,
    k: Tensor | GpuTensor | PreparedKernel,
    options: BackwardOptions<Dtype>,
    call: string,
  ) {
    const checks = this.#checks(call);
    const operands = checks.operands(u, k, options);
    const upstream = checks.rows(dy, "dy", operands.shape);
    const context = this.context(call, options.encoder);
    return {
      place: this.#place(operands.u, call),
      wanted: checks.gradients(operands, options),
      inputs: [named(upstream), ...operands.inputs],
      requestFor: (results: Readonly<Record<string, TensorData>>): Request => {
        const rows = [upstream, ...operands.rows];
        for (const field in results)
          if (field !== "dk" && field !== "dskip")
            rows.push(checks.output(field as OperandRows["field"], results[field]!));
        return requestOf(operands, rows, context);
      },
    };
  }

  /**
   * Compile what calls with these operands need, so that the first of them has nothing left to compile. `create` has compiled what
   * `forward(u, k)` and `prepareKernel` need, with taps in float32; on the CPU that serves gates and the skip term too.
   */
  async warmUp(calls: WarmUp = {}): Promise<void> {
    const call = "conv.warmUp";
    this.alive(call);
    checkOptions(calls, call);
    known(calls, warmUpNames, call);
    checkFlags(calls, warmUpNames, call);
    if (calls.skip) checkSkip(this.problem, call, "Leave skip out.");
    await this.#runner.warmUp(calls, call);
  }

  /**
   * Say that you have submitted every encoder that calls were given so far. What only their commands name is freed: spectra of
   * kernels disposed of since, outgrown work memory, former values of `skip`. A loop that records needs this now and then;
   * without it they stay until `dispose`.
   */
  async submitted(): Promise<void> {
    this.alive("conv.submitted");
    await this.#runner.submitted?.();
  }

  /**
   * A call of one shape on the GPU, compiled, to be bound to ranges of your buffers and recorded in the middle of other commands,
   * without waiting. It stands for the method that it is named after.
   * @example
   * ```js
   * const backward = await conv.recorder("backward", { batch: 8, channels: 768, add: true });
   * const bound = backward.bind({ dy, u, k, du, dk }, scratch);
   * bound.encode(pass);
   * ```
   * @throws InvalidArgumentError, UnsupportedError on the CPU, BackendError.
   */
  async recorder(recorded: RecordedConvCall, options: ConvRecorderOptions): Promise<GpuRecorder> {
    const call = "conv.recorder";
    this.alive(call);
    const recorder = this.#runner.recorder?.(recorded, options, call, (c) => this.alive(c));
    return recorder ?? refuseRecorder(call);
  }
}

function requestOf(
  { kernel, shape, gates, skip }: Operands,
  rows: readonly OperandRows[],
  { name, encoder, alive }: CallContext,
): Request {
  return { kernel, shape, rows, gates, skip, name, encoder, alive };
}
