/**
 * WebGPU's objects in public types: what the program's own libraries call them, so that declarations hold where TypeScript's
 * DOM library is left out or older than WebGPU.
 */
type Instance<Name extends string> = typeof globalThis extends {
  readonly [N in Name]: { readonly prototype: infer T };
}
  ? T
  : unknown;

/** GPUBuffer. */
export type GpuBuffer = Instance<"GPUBuffer">;
/** GPUDevice. */
export type GpuDevice = Instance<"GPUDevice">;
/** GPUCommandEncoder. */
export type GpuCommandEncoder = Instance<"GPUCommandEncoder">;
/** GPUComputePassEncoder. */
export type GpuComputePassEncoder = Instance<"GPUComputePassEncoder">;
