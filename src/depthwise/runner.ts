/** What short convolutions ask of a backend: calls whose arguments are checked. */
import type { CpuBackend } from "../backend/cpu/backend.ts";
import type { Instructions } from "../backend/cpu/features.ts";
import type { GpuRecorder } from "../calls/recorder.ts";
import type { Dtype } from "../dtype.ts";
import type { GpuCommandEncoder, GpuDevice } from "../gpu.ts";
import type { Named } from "../tensors/check.ts";
import type { GpuSamples, TensorData } from "../tensors/tensor.ts";
import type {
  DepthwiseRecorderOptions,
  DepthwiseWarmUp,
  RecordedDepthwiseCall,
} from "./options.ts";

/** A call, checked. */
export interface DepthwiseRequest {
  /** The call's name, for errors. */
  readonly name: string;
  readonly batch: number;
  readonly length: number;
  readonly x: TensorData;
  /** (branches·H, K) and (branches·H), float32. */
  readonly weight: TensorData;
  readonly bias: TensorData | undefined;
  readonly state: TensorData | undefined;
  /** Where the caller records commands; the backend submits its own where there is none. */
  readonly encoder: GpuCommandEncoder | undefined;
  /** Throws where the object has been disposed of while the call waited. */
  readonly alive: () => void;
}

/** A forward call and where its results go. */
export interface DepthwiseForward extends DepthwiseRequest {
  readonly outputs: readonly Named[];
  readonly stateOut: TensorData | undefined;
}

/** A backward call and where the gradients of samples go. */
export interface DepthwiseBackward extends DepthwiseRequest {
  readonly dy: readonly Named[];
  readonly dstateOut: TensorData | undefined;
  readonly dx: TensorData;
  readonly dstate: TensorData | undefined;
}

/** Gradients of taps and biases, float32. */
export interface DepthwiseSums {
  readonly dweight: TensorData;
  readonly dbias?: TensorData;
}

/** Calls to be ready for: their rows and operands. */
export type DepthwiseWarmUpFor = DepthwiseWarmUp & { readonly batch: number };

/** A backend's way to run one short convolution. */
export interface DepthwiseRunner {
  readonly threads: number;
  /** In what its kernels are written. */
  readonly instructions: Instructions | "wgsl";
  /** The device whose buffers tensors may be; undefined where they must be arrays. */
  readonly device: GpuDevice | undefined;
  /** The CPU's memory and threads, where it is the CPU that computes. */
  readonly backend: CpuBackend | undefined;
  /** Compile what such calls need. */
  warmUp(calls: DepthwiseWarmUpFor, call: string): Promise<void>;
  forward(request: DepthwiseForward): void | Promise<void>;
  backward(request: DepthwiseBackward): Promise<DepthwiseSums>;
  /** A zeroed array that calls use without copying, where the backend can lend one. */
  lend(size: number, call: string): Float32Array | Uint16Array;
  /** A new buffer for a result: asked for only where tensors may be buffers. */
  allocate(size: number, dtype: Dtype, call: string): Promise<GpuSamples>;
  /** A call to record in the middle of other commands; absent where there are none. */
  recorder?(
    way: RecordedDepthwiseCall,
    options: DepthwiseRecorderOptions,
    call: string,
    alive: (call: string) => void,
  ): Promise<GpuRecorder>;
  /** Free what only submitted encoders name; absent where there are none. */
  submitted?(): Promise<void>;
  /** Give everything back once the calls before have ended. */
  leave(): void;
}
