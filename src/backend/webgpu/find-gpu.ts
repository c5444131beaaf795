/** Finding the WebGPU of this runtime: a page asks before it loads any code for GPUs, and one without never loads it. */
import { UnsupportedError } from "../../errors.ts";

/** WebGPU of this runtime: the browser's, or Dawn's in Node where the package `webgpu` is installed. */
export async function findGpu(call: string): Promise<GPU> {
  const own = (globalThis.navigator as { gpu?: GPU } | undefined)?.gpu;
  if (own) return own;
  if (!(globalThis as { process?: NodeJS.Process }).process?.versions?.node) refusePage(call);
  dawnInstance ??= (await importDawn(call)).create([
    `enable-dawn-features=${dawnToggles.join(",")}`,
  ]);
  return dawnInstance;
}

/** The package `webgpu`, Dawn for Node: package.json says what `#webgpu` is. */
export async function importDawn(call: string): Promise<typeof import("#webgpu")> {
  try {
    return await import("#webgpu");
  } catch (cause) {
    const missing = (cause as { code?: string }).code === "ERR_MODULE_NOT_FOUND";
    throw new UnsupportedError(
      {
        call,
        requirement: "backend 'webgpu' needs a runtime with WebGPU",
        value: missing
          ? "one without navigator.gpu and without the package webgpu"
          : `the package webgpu, which does not load: ${(cause as Error)?.message ?? cause}`,
        remedy: missing
          ? "Install it beside flashfftconv (npm install webgpu), or use backend: 'cpu'."
          : "Install a build of it for this system, or use backend: 'cpu'.",
      },
      cause,
    );
  }
}

/** Browsers show WebGPU to pages from a secure origin only. */
function refusePage(call: string): never {
  const secure = (globalThis as { isSecureContext?: boolean }).isSecureContext !== false;
  throw new UnsupportedError({
    call,
    requirement: "backend 'webgpu' needs a browser with WebGPU, and a page from https or localhost",
    value: secure ? "a browser that has none (no navigator.gpu)" : "a page that is neither",
    remedy: secure
      ? "Use backend: 'cpu', or a browser that has it switched on."
      : "Serve the page over https or from localhost, or use backend: 'cpu'.",
  });
}

/** One Dawn instance for the process: instances hold threads of their own. */
let dawnInstance: GPU | undefined;

/**
 * What Dawn may do for us in Node: half precision on NVIDIA and subgroup matrices, which a program may want for kernels of its own, are
 * behind the first two; the others leave out clearing of workgroup memory and clamping of indices, which our kernels do not need.
 */
const dawnToggles = [
  "allow_unsafe_apis",
  "vulkan_enable_f16_on_nvidia",
  "disable_workgroup_init",
  "disable_robustness",
] as const;
