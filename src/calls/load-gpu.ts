/** Loading the code for GPUs, more than half of the library, when it is first asked for. */
import { UnsupportedError } from "../errors.ts";

/**
 * A module for GPUs, as `load` imports it.
 * @throws UnsupportedError where no device is given and there is no WebGPU, and then nothing is loaded, or where it is missing.
 */
export async function loadGpu<Module>(
  device: unknown,
  call: string,
  load: () => Promise<Module>,
): Promise<Module> {
  if (device === undefined) await (await import("../backend/webgpu/find-gpu.ts")).findGpu(call);
  try {
    return await load();
  } catch (cause) {
    throw new UnsupportedError(
      {
        call,
        requirement: "backend 'webgpu' needs the library's modules for GPUs",
        value: `ones that do not load: ${(cause as Error)?.message ?? cause}`,
        remedy: "Import flashfftconv, not flashfftconv/audio-worklet, or use backend: 'cpu'.",
      },
      cause,
    );
  }
}
