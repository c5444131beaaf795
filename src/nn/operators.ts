/** The objects whose calls steps of convolutions make: one for all steps of the same lengths. */
import type { RuntimeOptions } from "../calls/runtime.ts";
import { FlashFFTConv } from "../conv/conv.ts";
import { FlashDepthwiseConv1d } from "../depthwise/depthwise.ts";
import { FlashHyenaProjections } from "../depthwise/projections.ts";
import type { Dtype } from "../dtype.ts";
import type { ConvolutionStep, FilterStep } from "./step.ts";

/** An object whose calls steps make. */
export type Operator =
  | FlashFFTConv<Dtype>
  | FlashHyenaProjections<Dtype>
  | FlashDepthwiseConv1d<Dtype>;

function keyOf(work: ConvolutionStep | FilterStep): string {
  const { kind, kernelLength, dtype } = work;
  const own =
    work.kind === "convolution"
      ? [work.length, work.mode, work.frequencies]
      : [work.channels, work.pregate];
  return JSON.stringify([kind, kernelLength, dtype, ...own]);
}

/** Makes them when they are first asked for. */
export class Operators {
  readonly #runtime: RuntimeOptions;
  readonly #told: (object: Operator) => void;
  readonly #made = new Map<string, Promise<Operator>>();

  /** `made` is told of each new object. */
  constructor(runtime: RuntimeOptions, made: (object: Operator) => void = () => {}) {
    this.#runtime = runtime;
    this.#told = made;
  }

  /** The object of a step. */
  get(work: ConvolutionStep | FilterStep, call: string): Promise<Operator> {
    const key = keyOf(work);
    const object = this.#made.get(key) ?? this.#opened(work, call);
    this.#made.set(key, object);
    object.catch(() => this.#made.delete(key));
    return object;
  }

  async #opened(work: ConvolutionStep | FilterStep, call: string): Promise<Operator> {
    const object = await this.#make(work, call);
    this.#told(object);
    return object;
  }

  async #make(work: ConvolutionStep | FilterStep, call: string): Promise<Operator> {
    const { kernelLength, dtype, channels } = work;
    const options = { ...this.#runtime, kernelLength, dtype };
    if (work.kind === "convolution") {
      const { length, mode, frequencies } = work;
      const kept = frequencies && { frequencies };
      return FlashFFTConv.createFor<Dtype>({ ...options, length, mode, ...kept }, call);
    }
    if (work.kind === "filter") return FlashDepthwiseConv1d.create<Dtype>({ ...options, channels });
    const { pregate = "second" } = work;
    return FlashHyenaProjections.create<Dtype>({ ...options, channels, pregate });
  }

  dispose(): void {
    for (const made of this.#made.values()) void made.then((object) => object.dispose());
    this.#made.clear();
  }
}
