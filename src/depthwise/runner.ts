/** What short convolutions ask of a backend: calls whose arguments are checked. */
import type { CpuBackend } from "../backend/cpu/backend.ts";
import type { CallContext, ConvolutionRunner } from "../calls/operation.ts";
import type { GpuRecorder } from "../calls/recorder.ts";
import type { Named } from "../tensors/check.ts";
import type { TensorData } from "../tensors/tensor.ts";
import type {
  DepthwiseRecorderOptions,
  DepthwiseWarmUp,
  RecordedDepthwiseCall,
} from "./options.ts";

/** A call, checked. */
export interface DepthwiseRequest extends CallContext {
  readonly batch: number;
  readonly length: number;
  readonly x: TensorData;
  /** (branches·H, K) and (branches·H), float32. */
  readonly weight: TensorData;
  readonly bias: TensorData | undefined;
  readonly state: TensorData | undefined;
}

/** A forward call and where its results go. */
export interface DepthwiseForward extends DepthwiseRequest {
  readonly outputs: readonly Named[];
  readonly stateOut: TensorData | undefined;
}

/** A backward call and where the gradients go, those of taps and biases float32. */
export interface DepthwiseBackward extends DepthwiseRequest {
  readonly dy: readonly Named[];
  readonly dstateOut: TensorData | undefined;
  readonly dx: TensorData;
  readonly dweight: TensorData;
  readonly dbias: TensorData | undefined;
  readonly dstate: TensorData | undefined;
}

/** Calls to be ready for: their rows and operands. */
export type DepthwiseWarmUpFor = DepthwiseWarmUp & { readonly batch: number };

/** Calls that are answered when they return. */
export interface DepthwiseRunnerNow {
  forwardNow(request: DepthwiseForward): void;
  backwardNow(request: DepthwiseBackward): void;
}

/** A backend's way to run one short convolution. */
export interface DepthwiseRunner extends ConvolutionRunner<DepthwiseWarmUpFor> {
  /** The CPU's memory and threads, where it is the CPU that computes. */
  readonly backend: CpuBackend | undefined;
  /** The same without promises, where the backend can. */
  readonly now?: DepthwiseRunnerNow;
  forward(request: DepthwiseForward): void | Promise<void>;
  backward(request: DepthwiseBackward): Promise<void>;
  /** A call to record in the middle of other commands; absent where there are none. */
  recorder?(
    way: RecordedDepthwiseCall,
    options: DepthwiseRecorderOptions,
    call: string,
    alive: (call: string) => void,
  ): Promise<GpuRecorder>;
}
