/** Results of calls: arrays for them, and buffers that nobody will get. */
import type { Dtype, SampleArray } from "../dtype.ts";
import { BackendError } from "../errors.ts";
import { show } from "../show.ts";
import type { TensorData } from "./tensor.ts";
import { GpuSamples } from "./tensor.ts";

/** Destroy what lies on the GPU: results of a call that failed, which its caller never gets. */
export function destroyBuffers(results: Iterable<unknown>): void {
  for (const r of results) if (r instanceof GpuSamples) r.buffer.destroy();
}

/** An object of promises → an object of what they give; where one of them fails, the buffers of the others are destroyed. */
export async function settled<T>(
  promises: Readonly<Record<string, T | Promise<T>>>,
): Promise<Record<string, T>> {
  const names = Object.keys(promises);
  const values = await Promise.allSettled(Object.values(promises));
  const failed = values.find((v) => v.status === "rejected");
  const made = values.map((v) => (v.status === "fulfilled" ? v.value : undefined));
  if (!failed) return Object.fromEntries(names.map((name, i) => [name, made[i]!]));
  destroyBuffers(
    Object.values(promises).map((p, i) => (p instanceof Promise ? made[i] : undefined)),
  );
  throw failed.reason;
}

/** What a call gives; where it fails, the buffers that were made for its results are destroyed. */
export async function orDestroyed<T>(
  running: Promise<T>,
  results: readonly TensorData[],
): Promise<T> {
  try {
    return await running;
  } catch (error) {
    destroyBuffers(results);
    throw error;
  }
}

/**
 * A new array of a kind.
 * @throws BackendError where the runtime has no memory for it.
 */
export function newArray<T extends SampleArray>(
  Kind: new (size: number) => T,
  size: number,
  call: string,
): T {
  try {
    return new Kind(size);
  } catch (cause) {
    const parts = {
      call,
      requirement: `memory for an array of ${show(size)} samples`,
      value: String(cause),
      remedy: "Work on fewer rows at a time.",
    };
    throw new BackendError(parts, cause);
  }
}

/** A new array of zeros for a type, halves as bits. */
export function zeros(dtype: Dtype, size: number, call: string): Float32Array | Uint16Array {
  const Kind = dtype === "float32" ? Float32Array : Uint16Array;
  return newArray<Float32Array | Uint16Array>(Kind, size, call);
}
