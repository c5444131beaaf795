/**
 * The convolution on a device as browsers hand it out unasked: 16 KiB of workgroup memory, 256 threads, no half precision, no
 * subgroups, every access checked; beside the same rows with all that the adapter has.
 */
import { round } from "./records.ts";
import { type GpuCase, type GpuRecord, type GpuRun, runGpuCase } from "./webgpu.ts";

/** What a device of default limits is compared with. */
export const allFeatures = "ours, all features";

/** Gated causal convolutions that such a device computes in one pass, and the first that takes two. */
export function gpuDefaultCases(): GpuCase[] {
  const half = { mode: "causal", pass: "forward", gated: true, dtype: "float16" } as const;
  return [8, 10, 12, 13, 14].map((e) => ({ ...half, N: 2 ** e }));
}

/** Measure one case on both devices, with as many rows as the smaller one can bind. */
export async function runGpuDefaults(c: GpuCase, run: GpuRun): Promise<GpuRecord[]> {
  const { create, globals } = await import("webgpu");
  Object.assign(globalThis, globals);
  // None of the library's toggles: the checks that a browser makes stay on. Held until the device is gone.
  const gpu = create([]);
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) throw new Error("bench webgpu: Dawn finds no adapter without toggles");
  const device = await adapter.requestDevice();
  try {
    const mostBytes = Math.min(run.mostBytes, device.limits.maxStorageBufferBindingSize);
    const rows = { ...run, torch: "not asked", mostBytes };
    const [full] = await runGpuCase(c, rows);
    const [plain] = await runGpuCase(c, { ...rows, device });
    return [
      {
        ...{ ...plain!, case: `${plain!.case}, default limits`, peer: allFeatures },
        ...{ peer_ms: full!.ours_ms, peer_rel_error: full!.rel_error },
        peer_workspace_bytes: full!.workspace_bytes,
        ratio: round(full!.ours_ms / plain!.ours_ms),
      },
    ];
  } finally {
    device.destroy();
  }
}
