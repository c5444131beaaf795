/** Opening what programs run on, as options ask for it. */
import type { RuntimeOptions } from "../calls/runtime.ts";
import { checkNames, checkRuntime } from "../calls/runtime.ts";
import { oneOf } from "../checks.ts";
import { UnsupportedError } from "../errors.ts";
import type { ModelMachine } from "./machine.ts";

/** Where and how models compute. */
export interface MachineOptions extends RuntimeOptions {
  /**
   * `float32`, the default, or `mixed` on a GPU: activations and the weights that products read in float16; parameters, sums, norms,
   * softmax and implicit filters in float32.
   */
  readonly precision?: "float32" | "mixed";
}

/**
 * Open a machine for models: the CPU, or the GPU where `backend: "webgpu"` or a `device` asks for it.
 * @throws InvalidArgumentError for options out of range, UnsupportedError for what the runtime lacks.
 * @example
 * const machine = await openMachine();
 * console.log(machine.storage); // float32
 * machine.dispose();
 */
export async function openMachine(options: MachineOptions = {}): Promise<ModelMachine> {
  const call = "openMachine";
  checkNames(options, ["precision"], call, "Pass { backend, precision, … }, or nothing.");
  const { precision = "float32", ...runtime } = options;
  oneOf(call, "precision", precision, ["float32", "mixed"]);
  const { gpu } = checkRuntime(options, call);
  if (gpu) {
    const { GpuMachine } = await import("./gpu-machine.ts");
    return GpuMachine.open(runtime.device, precision === "mixed" ? "float16" : "float32", call);
  }
  if (precision === "mixed") {
    throw new UnsupportedError({
      call,
      requirement: "mixed precision needs a GPU",
      value: "the CPU",
      remedy: "Leave precision out, or set backend: 'webgpu'.",
    });
  }
  const { CpuMachine } = await import("./cpu-machine.ts");
  return new CpuMachine(runtime, call);
}
