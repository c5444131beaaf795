/** Runs row programs where a test's configuration says, and compares what they leave in their tensors with float64. */
import type { CpuBackend } from "../../src/backend/cpu/backend.ts";
import { WebGpuBackend } from "../../src/backend/webgpu/device.ts";
import { openCpuFor } from "../../src/calls/cpu-open.ts";
import { compileRows, runRows } from "../../src/calls/cpu-row-program.ts";
import { decode, encode } from "../../src/dtype.ts";
import type { RowProgram, RowShape } from "../../src/math/row-program.ts";
import { rowSchedule } from "../../src/schedule/rows.ts";
import type { GpuLimits } from "../../src/schedule/schedule.ts";
import type { CpuOptions } from "./backends.ts";
import { distance, norm } from "./close.ts";
import "./gpu.ts";
import type { CaseTensor, CellType, RowOperation } from "./row-operations.ts";

/** A tensor's bytes. */
export function bytesOf({ values, dtype }: CaseTensor): Uint8Array {
  const stored =
    dtype === "uint32"
      ? Uint32Array.from(values)
      : (encode(values, dtype) as Float32Array | Uint16Array);
  return new Uint8Array(stored.buffer as ArrayBuffer, stored.byteOffset, stored.byteLength);
}

/** What bytes hold as a tensor of a type. */
export function valuesOf(bytes: Uint8Array, { dtype }: CaseTensor): Float64Array {
  const own = bytes.slice().buffer;
  if (dtype === "uint32") return Float64Array.from(new Uint32Array(own));
  const stored = dtype === "float16" ? new Uint16Array(own) : new Float32Array(own);
  return decode(stored, dtype);
}

/** The bytes of tensors by name, before or behind a program. */
export type CaseBytes = Record<string, Uint8Array>;

/** Runs a program on the CPU: the bytes of its tensors afterwards. Nothing behind them may have changed. */
export async function runOnCpu(
  options: CpuOptions,
  program: RowProgram,
  shape: RowShape,
  tensors: Readonly<Record<string, CaseTensor>>,
  threads: number,
): Promise<CaseBytes> {
  const { backend } = openCpuFor(options, "test");
  const user = { threads: options.threads, workspaceBytes: 0 };
  backend.retain(user);
  try {
    return await backend.exclusive(() => runOn(backend, program, shape, tensors, threads));
  } finally {
    backend.release(user);
  }
}

const guard = 0xa5;

async function runOn(
  backend: CpuBackend,
  program: RowProgram,
  shape: RowShape,
  tensors: Readonly<Record<string, CaseTensor>>,
  threads: number,
): Promise<CaseBytes> {
  const { arena } = backend;
  const compiled = await compileRows(backend, program, shape, threads, "test");
  const placed = Object.entries(tensors).map(([name, t]) => {
    const bytes = bytesOf(t);
    return { name, bytes, block: arena.allocate(bytes.length, "test") };
  });
  const view = (address: number, length: number): Uint8Array =>
    new Uint8Array(arena.buffer, address, length);
  for (const { block, bytes } of placed) {
    view(block.address, bytes.length + 48).fill(guard);
    view(block.address, bytes.length).set(bytes);
  }
  const addresses = Object.fromEntries(placed.map((p) => [p.name, p.block.address]));
  await runRows(backend, compiled, addresses, "test");
  const results = placed.map(({ name, block, bytes }) => {
    const behind = view(block.address + bytes.length, 48);
    if (behind.some((b) => b !== guard)) throw new Error(`${name}: written beyond its end`);
    return [name, view(block.address, bytes.length).slice()] as const;
  });
  for (const { block } of placed) arena.free(block);
  backend.releaseProgram(compiled.program);
  return Object.fromEntries(results);
}

/** The device that the environment names, opened once. */
let opened: Promise<WebGpuBackend> | undefined;
export const rowBackend = (): Promise<WebGpuBackend> =>
  (opened ??= WebGpuBackend.open(undefined, "test"));

/** Runs a program on a GPU, whose limits may be taken to be others: the bytes of its tensors afterwards. */
export async function runOnGpu(
  program: RowProgram,
  shape: RowShape,
  tensors: Readonly<Record<string, CaseTensor>>,
  less: Partial<GpuLimits> = {},
): Promise<CaseBytes> {
  const backend = await rowBackend();
  const schedule = rowSchedule(program, shape, { ...backend.limits(2 ** 28), ...less });
  const compiled = await backend.prepare(schedule, "test");
  const scratch = await Promise.all(compiled.scratchBytes.map((n) => backend.buffer(n, "test")));
  const buffers = new Map<string, GPUBuffer>();
  for (const [name, tensor] of Object.entries(tensors)) {
    const stored = bytesOf(tensor);
    const bytes = new Uint8Array(Math.ceil(stored.length / 4) * 4 + 64).fill(guard);
    bytes.set(stored);
    const buffer = await backend.buffer(bytes.length, "test");
    backend.write(buffer, 0, bytes);
    buffers.set(name, buffer);
  }
  const ranges = Object.fromEntries([...buffers].map(([name, buffer]) => [name, { buffer }]));
  const bound = compiled.bind(
    ranges,
    scratch.map((buffer) => ({ buffer })),
  );
  await backend.submit((encoder) => bound.encode(encoder), "test");
  const found: CaseBytes = {};
  for (const [name, buffer] of buffers) {
    const bytes = new Uint8Array(Math.ceil(bytesOf(tensors[name]!).length / 4) * 4 + 64);
    await backend.read(buffer, 0, bytes, "test");
    const { length } = bytesOf(tensors[name]!);
    if (bytes.subarray(length).some((b) => b !== guard))
      throw new Error(`${name}: written beyond its end`);
    found[name] = bytes.slice(0, length);
  }
  for (const buffer of [...buffers.values(), ...scratch]) backend.release(buffer);
  compiled.parameters.destroy();
  backend.spare(compiled.pipelines);
  return found;
}

/** Something of an operation, for a shape and a type. */
type Remembered<T> = (operation: RowOperation, shape: RowShape, dtype: CellType) => T;

/** What is made once for all backends. */
function remembered<T>(make: Remembered<T>): Remembered<T> {
  const made = new Map<string, T>();
  return (operation, shape, dtype) => {
    const key = JSON.stringify([operation.name, shape, dtype]);
    const found = made.get(key) ?? make(operation, shape, dtype);
    made.set(key, found);
    return found;
  };
}

/** The tensors of an operation, those that are only written among them. */
export const tensorsOf: Remembered<Record<string, CaseTensor>> = remembered(
  (operation, shape, dtype): Record<string, CaseTensor> => ({
    ...operation.inputs(shape, dtype),
    ...operation.outputs?.(shape, dtype),
  }),
);

/** Half a unit in the last place of a float16 of some size. */
const halfUnit = (size: number): number =>
  2 ** (Math.max(-14, Math.floor(Math.log2(size || 1e-9))) - 11);

/** Relative L2 error of a tensor behind a program, once every value's rounding to storage is allowed for. */
function miss(got: Float64Array, want: Float64Array, allowed: Float64Array | undefined): number {
  let sum = 0;
  for (let i = 0; i < want.length; i++)
    sum += Math.max(0, Math.abs(got[i]! - want[i]!) - (allowed?.[i] ?? 0)) ** 2;
  return Math.sqrt(sum) / (norm(want) || 1);
}

/** What the results are in float64. That a comparison would take no zeros, shifts or lost ends for them is seen once. */
const exactOf = remembered((operation, shape, dtype) => {
  const tensors = tensorsOf(operation, shape, dtype);
  const given = Object.entries(tensors).map(([n, t]) => [n, t.values] as const);
  const exact = Object.entries(operation.exact(Object.fromEntries(given), shape));
  return exact.map(([name, want]) => {
    const half = tensors[name]!.dtype === "float16";
    const allowed = half ? want.map((v) => 1.1 * halfUnit(Math.abs(v))) : undefined;
    const mutants = {
      zeros: want.map(() => 0),
      moved: want.map((_, i) => want[(i + 1) % want.length]!),
      "without an end": want.map((v, i) => (i < want.length - 4 ? v : 0)),
    };
    for (const [kind, mutant] of Object.entries(mutants)) {
      // Sums of one row, and results that are zero.
      if (distance(mutant, want) <= 1e-5 * norm(want)) continue;
      if (miss(mutant, want, allowed) <= operationBound)
        throw new Error(`${operation.name}: ${name} is taken for itself ${kind}`);
    }
    return { name, want, allowed };
  });
});

/** Largest relative error of an operation in float32. */
const operationBound = 3e-6;

/** Throw unless every result is as close as float32 and its storage allow, and all other tensors are as they were. */
export function checkOperation(
  operation: RowOperation,
  shape: RowShape,
  dtype: CellType,
  found: CaseBytes,
): void {
  const results = exactOf(operation, shape, dtype);
  for (const [name, tensor] of Object.entries(tensorsOf(operation, shape, dtype))) {
    const got = valuesOf(found[name]!, tensor);
    const result = results.find((r) => r.name === name);
    const { want, allowed } = result ?? { want: tensor.values, allowed: undefined };
    const error = miss(got, want, allowed);
    if (error <= (result ? operationBound : 0)) continue;
    throw new Error(
      `${operation.name}, ${name} of ${shape.rows} × ${shape.columns}: relative L2 error ${error}, ` +
        `such as ${got.slice(0, 4)} for ${want.slice(0, 4)}`,
    );
  }
}
