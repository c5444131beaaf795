/** Opening GPUs: one backend a device, for all objects that compute there. */
import { WebGpuBackend } from "../backend/webgpu/device.ts";

/** Backends that are open, by device; one that the library opened is shared by all objects. */
const backends = new WeakMap<GPUDevice, Promise<WebGpuBackend>>();
let shared: Promise<WebGpuBackend> | undefined;

/** The open backend of a device, or of the adapter that the library takes by itself. */
export async function backendFor(
  device: GPUDevice | undefined,
  call: string,
): Promise<WebGpuBackend> {
  if (device !== undefined) {
    const opening = backends.get(device) ?? WebGpuBackend.open(device, call);
    backends.set(device, opening);
    opening.catch(() => backends.delete(device));
    return opening;
  }
  for (;;) {
    shared ??= WebGpuBackend.open(undefined, call);
    const opening = shared;
    const backend = await opening.catch(() => undefined);
    if (backend && !backend.isLost) return backend;
    // On failure, clear the cache so that the next call tries again.
    if (shared === opening) shared = undefined;
    if (!backend) return opening;
  }
}
