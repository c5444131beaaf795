/** Loading the code for GPUs, more than half of the library, when it is first asked for. */
import { findGpu } from "../backend/find-gpu.ts";

/**
 * The code for GPUs.
 * @throws UnsupportedError where no device is given and there is no WebGPU; then nothing is loaded.
 */
export async function loadGpu(device: unknown, call: string): Promise<typeof import("./gpu.ts")> {
  if (device === undefined) await findGpu(call);
  return import("./gpu.ts");
}
