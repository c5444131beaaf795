/** Results of calls: memory that callers give for them, and memory for the others. */
import type { Dtype, SampleArray } from "../dtype.ts";
import { BackendError, InvalidArgumentError } from "../errors.ts";
import type { GpuDevice } from "../gpu.ts";
import { show } from "../show.ts";
import type { Named } from "./check.ts";
import { apart, sized } from "./check.ts";
import type { GpuTensor, Tensor, TensorData } from "./tensor.ts";
import { GpuSamples, handed } from "./tensor.ts";

/** A result of a call. */
export interface WantedResult {
  /** The caller's memory for it; undefined where the call makes some. */
  readonly given: Tensor | GpuTensor | undefined;
  readonly shape: readonly number[];
  /** Names of its dimensions, for messages. */
  readonly dimensions: readonly string[];
  readonly dtype: Dtype;
}

/** What a call's results depend on. */
export interface ResultPlace {
  readonly call: string;
  readonly device: GpuDevice | undefined;
  /** An operand: results that the call makes are arrays of its kind, or buffers where it is in one. */
  readonly like: TensorData;
  /** Makes a buffer. */
  readonly allocate: (size: number, dtype: Dtype, call: string) => Promise<GpuSamples>;
}

/** Refuse memory for the gradient of an operand that the call does not have: nothing would be written there. */
export function checkGradientOf(operand: string, given: unknown, out: unknown, call: string): void {
  if (out === undefined || given !== undefined) return;
  throw new InvalidArgumentError({
    call,
    requirement: `out.d${operand} needs a ${operand}`,
    value: `${show(out)} without one`,
    remedy: `Pass the ${operand} of the forward call, or leave out.d${operand} out.`,
  });
}

/** Where the results of one call go, by name. */
export interface Results<N extends string = string> {
  readonly all: Readonly<Record<N, TensorData | Promise<TensorData>>>;
  /** Names of those that the call makes. */
  readonly made: readonly N[];
}

/**
 * Check the memory that a caller gives for results: of the right size and kind, apart from inputs and from each other. Then, with
 * nothing left to refuse, make the others: arrays at once, buffers by promises.
 */
export function placeResults<N extends string>(
  { call, device, like, allocate }: ResultPlace,
  wanted: Readonly<Record<N, WantedResult>>,
  inputs: readonly Named[],
): Results<N> {
  const entries = Object.entries(wanted) as [N, WantedResult][];
  const others = [...inputs];
  const given = new Map<N, TensorData>();
  for (const [name, { given: tensor, shape, dimensions, dtype }] of entries) {
    if (tensor === undefined) continue;
    const data = sized(tensor, shape, { call, name, dtype, dimensions, device });
    apart({ name, data }, others, call);
    others.push({ name, data, isOutput: true });
    given.set(name, data);
  }
  const make = ({ shape, dtype }: WantedResult): TensorData | Promise<TensorData> => {
    const size = shape.reduce((a, b) => a * b);
    if (like instanceof GpuSamples) return allocate(size, dtype, call);
    const Kind = dtype === "float32" ? Float32Array : like.constructor;
    return newArray(Kind as new (n: number) => SampleArray, size, call);
  };
  const all = entries.map(([name, result]) => [name, given.get(name) ?? make(result)]);
  const made = entries.map(([name]) => name).filter((name) => !given.has(name));
  return { all: Object.fromEntries(all) as Results<N>["all"], made };
}

/**
 * Run a call into its results and hand them out. Arrays are there at once, so that calls on them take their turns in the order in
 * which they were made. Where the call fails, the buffers that it made are destroyed.
 */
export async function collect<N extends string>(
  place: ResultPlace,
  wanted: Readonly<Record<N, WantedResult>>,
  inputs: readonly Named[],
  run: (results: Readonly<Record<N, TensorData>>) => void | Promise<void>,
): Promise<Record<N, SampleArray | GpuTensor>> {
  const { all, made } = placeResults(place, wanted, inputs);
  const waits = made.some((name) => all[name] instanceof Promise);
  const results = (waits ? await settled(all) : all) as Readonly<Record<N, TensorData>>;
  try {
    const running = run(results);
    if (running) await running;
  } catch (error) {
    destroyBuffers(made.map((name) => results[name]));
    throw error;
  }
  const entries = Object.entries(wanted) as [N, WantedResult][];
  const handedOut = entries.map(([name, { shape }]) => [name, handed(results[name], shape)]);
  return Object.fromEntries(handedOut) as Record<N, SampleArray | GpuTensor>;
}

/** The same for a call that is answered when it returns, on arrays. */
export function collectNow<N extends string>(
  place: ResultPlace,
  wanted: Readonly<Record<N, WantedResult>>,
  inputs: readonly Named[],
  run: (results: Readonly<Record<N, SampleArray>>) => void,
): Record<N, SampleArray> {
  const results = placeResults(place, wanted, inputs).all as Record<N, SampleArray>;
  run(results);
  return results;
}

/** Destroy what lies on the GPU: results of a call that failed, which its caller never gets. */
function destroyBuffers(results: Iterable<unknown>): void {
  for (const r of results) if (r instanceof GpuSamples) r.buffer.destroy();
}

/** An object of promises → an object of what they give; where one of them fails, the buffers of the others are destroyed. */
async function settled(
  promises: Readonly<Record<string, TensorData | Promise<TensorData>>>,
): Promise<Record<string, TensorData>> {
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
