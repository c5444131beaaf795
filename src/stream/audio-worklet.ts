/**
 * The module `flashfftconv/audio-worklet`: streams on the CPU in one file, since an AudioWorklet can't import later on
 * and its modules are seldom bundled.
 */
export {
  BackendError,
  FlashFFTConvError,
  InvalidArgumentError,
  UnsupportedError,
} from "../errors.ts";
export type { Tensor } from "../tensors/tensor.ts";
export type { StreamMode, StreamOptions, StreamPiece } from "./options.ts";
export { FlashFFTConvStream } from "./stream.ts";
