/** What programs run on: memory, and steps made ready for it. One implementation for the CPU, one for WebGPU. */
import type { Step, TapeTensor } from "./tape.ts";

/** Part of a machine's memory. */
export interface Region<Memory> {
  readonly memory: Memory;
  /** Bytes before it. */
  readonly offset: number;
  readonly bytes: number;
}

/** Steps that are compiled and bound. */
export interface CompiledSteps {
  /** Kernels or jobs that a run starts. */
  readonly launches: number;
  /** Bytes of work memory beside the tensors. */
  readonly scratchBytes: number;
  /** Run all of them once. On a GPU it returns as soon as they are submitted. */
  run(): void | Promise<void>;
  /** Milliseconds of each step by itself, the mean of so many runs in a row: what sums to be added up hold is lost. */
  profile(rounds: number): Promise<readonly number[]>;
  dispose(): void;
}

/** A backend, as programs use it. */
export interface ModelMachine<Memory = unknown> {
  /** Where it computes, in words. */
  readonly name: string;
  /** Storage of activations. */
  readonly storage: "float32" | "float16";
  /** Whether gradients of short filters are added up in place. */
  readonly filtersAdd: boolean;
  /** Zeros. @throws BackendError where there is no room. */
  allocate(bytes: number, call: string): Promise<Memory>;
  free(memory: Memory): void;
  write(region: Region<Memory>, data: ArrayBufferView): void;
  /** The numbers at a region, once all that was run before is done. */
  read(region: Region<Memory>, into: ArrayBufferView): Promise<void>;
  compile(
    steps: readonly Step[],
    place: (tensor: TapeTensor) => Region<Memory>,
    call: string,
  ): Promise<CompiledSteps>;
  dispose(): void;
}
