/** Everything that only GPUs need, as one part to load (load-gpu.ts): bundlers cut parts that share code into many small files. */
export { DepthwiseGpuRunner } from "./depthwise-gpu.ts";
export { backendFor, openGpuRunner } from "./gpu-runner.ts";
export { GpuTiming } from "./gpu-timing.ts";
export { GpuStream } from "./stream-gpu.ts";
