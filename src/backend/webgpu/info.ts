/** What the WebGPU adapter of this runtime offers, for people who ask. */
import { WebGpuBackend } from "./device.ts";
import { matrixConfigs } from "./traits.ts";

/** An adapter, as `backend: 'webgpu'` opens it. */
export interface WebGpuFacts {
  /** Its name, as the driver gives it. */
  readonly adapter: string;
  /** Whether a processor plays the GPU. */
  readonly software: boolean;
  /** Whether each feature that matters to convolutions is there. */
  readonly features: Readonly<Record<"shader-f16" | "subgroups" | "timestamp-query", boolean>>;
  /** Fewest and most lanes of a subgroup; 0 where there are none. */
  readonly subgroupSizes: readonly [fewest: number, most: number];
  /** Products of subgroup matrices, as `16×8×16 f16→f32`. */
  readonly subgroupMatrices: readonly string[];
  /** Bytes that the invocations of a workgroup share. */
  readonly workgroupBytes: number;
  /** Most invocations of a workgroup. */
  readonly invocations: number;
  /** Most bytes that one binding spans. */
  readonly bindingBytes: number;
}

/**
 * Open the adapter that the library takes where a program gives no device, ask it, and close it.
 * @throws UnsupportedError where there is none, naming `call`.
 */
export async function describeWebGpu(call: string): Promise<WebGpuFacts> {
  const { device, name, isSoftware, info } = await WebGpuBackend.open(undefined, call);
  const { limits, adapterInfo } = device;
  const has = (feature: GPUFeatureName): boolean => device.features.has(feature);
  const subgroups = has("subgroups");
  const facts: WebGpuFacts = {
    ...{ adapter: name, software: isSoftware },
    features: {
      "shader-f16": has("shader-f16"),
      subgroups,
      "timestamp-query": has("timestamp-query"),
    },
    subgroupSizes: subgroups ? [adapterInfo.subgroupMinSize, adapterInfo.subgroupMaxSize] : [0, 0],
    subgroupMatrices: matrixProducts(info),
    workgroupBytes: limits.maxComputeWorkgroupStorageSize,
    invocations: limits.maxComputeInvocationsPerWorkgroup,
    bindingBytes: limits.maxStorageBufferBindingSize,
  };
  device.destroy();
  return facts;
}

const matrixProducts = (info: GPUAdapterInfo | undefined): string[] =>
  matrixConfigs(info).map(
    (c) => `${c.M}×${c.N}×${c.K} ${c.componentType}→${c.resultComponentType}`,
  );
