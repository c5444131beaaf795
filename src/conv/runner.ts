/** What FlashFFTConv asks of a backend: calls whose arguments are checked. */
import type { RowField } from "../calls/cpu-staging.ts";
import type { CallContext, ConvolutionRunner } from "../calls/operation.ts";
import type { PreparedKernel } from "../calls/prepared.ts";
import type { GpuRecorder } from "../calls/recorder.ts";
import type { Dtype } from "../dtype.ts";
import type { TensorData } from "../tensors/tensor.ts";
import type { Gates, Shape } from "./cpu-rows.ts";
import type { Explanation } from "./explain.ts";
import type { ConvRecorderOptions, MemoryUse, RecordedConvCall, WarmUp } from "./options.ts";

/** One row tensor of a call: rows in the order b·channels + h. */
export interface OperandRows {
  readonly field: RowField;
  readonly data: TensorData;
  /** Samples of a row. */
  readonly width: number;
  readonly direction: "in" | "out";
}

/** The kernel of a call: one whose spectra are kept, or its taps. */
export type KernelArgument =
  | { readonly prepared: PreparedKernel }
  | { readonly taps: TensorData; readonly dtype: Dtype };

/** A call, checked. */
export interface Request extends CallContext {
  readonly kernel: KernelArgument;
  readonly shape: Shape;
  readonly rows: readonly OperandRows[];
  readonly gates: Gates;
  /** (H) float32. */
  readonly skip: TensorData | undefined;
}

/** Where the gradients of what all rows share go, float32. */
export interface WeightGradients {
  /** (H, K). */
  readonly dk: TensorData;
  /** (H), where the call has a skip. */
  readonly dskip?: TensorData | undefined;
}

/**
 * Runs a forward call again, with the samples that its arrays hold now; whether it could: nothing it needs has moved and, of a
 * call that takes turns, it is its turn and few rows.
 */
export type Repeat = (takesTurns: boolean) => boolean;

/** Calls that stay ready to run again: rows and results in turns, as those of a stream or of a few layers. */
export const boundCalls = 8;

/** Calls that are answered when they return. */
export interface RunnerNow {
  /** `keep` is told how to run the call again, where that is quicker than another one. */
  forwardNow(request: Request, keep: (repeat: Repeat) => void): void;
  backwardNow(request: Request, weights: WeightGradients): void;
  prepareNow(
    taps: TensorData,
    dtype: Dtype,
    channels: number,
    request: Pick<Request, "name" | "alive">,
  ): PreparedKernel;
}

/** A backend's way to run one convolution. */
export interface Runner extends ConvolutionRunner<WarmUp> {
  /** The same without promises, where the backend can. */
  readonly now?: RunnerNow;
  /** `keep` as for `forwardNow`. */
  forward(request: Request, keep?: (repeat: Repeat) => void): void | Promise<void>;
  /** Gradients, of rows and of weights. */
  backward(request: Request, weights: WeightGradients): void | Promise<void>;
  /** Compute and keep the spectra of taps (H, K). */
  prepare(
    taps: TensorData,
    dtype: Dtype,
    channels: number,
    request: Pick<Request, "name" | "alive">,
  ): Promise<PreparedKernel>;
  /** Whether it keeps the spectra of a kernel. */
  holds(kernel: PreparedKernel): boolean;
  /** Which plan was chosen, and why. */
  explain(): Explanation;
  memory(): MemoryUse;
  /** A call to record in the middle of other commands; absent where there are none. */
  recorder?(
    way: RecordedConvCall,
    options: ConvRecorderOptions,
    call: string,
    alive: (call: string) => void,
  ): Promise<GpuRecorder>;
}
