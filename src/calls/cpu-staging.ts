/**
 * Between the user's arrays and the backend's memory. Arrays that lie in that memory are used where they are; others
 * pass through a staging area a few rows at a time, so that a call never holds a second copy of its inputs.
 */

import type { ConvolutionJob } from "../backend/cpu/job.ts";
import type { Arena } from "../backend/cpu/memory.ts";
import { aligned } from "../backend/cpu/memory.ts";
import type { SampleArray } from "../dtype.ts";
import type { Piece } from "../plan/geometry.ts";
import { intact } from "../tensors/check.ts";
import type { Running } from "./cpu-threads.ts";

/** Fields of a job that point at rows. */
export type RowField =
  | "k"
  | "u"
  | "y"
  | "pregate"
  | "postgate"
  | "dy"
  | "du"
  | "dpregate"
  | "dpostgate";

/** One row tensor of a call: rows in the order b·channels + h. */
export interface RowTensor {
  /** Field of the job that takes its address. */
  readonly field: RowField;
  readonly data: SampleArray;
  /** Samples of a row. */
  readonly width: number;
  /** Samples from its beginning that pass through staging; all of them where left out. */
  readonly staged?: number;
  readonly direction: "in" | "out";
}

const isRaw = (array: SampleArray): array is Float32Array | Uint16Array =>
  array instanceof Float32Array || array instanceof Uint16Array;

/** The same bytes as numbers that can be copied without conversion. */
export function raw(array: SampleArray): Float32Array | Uint16Array {
  if (isRaw(array)) return array;
  return new Uint16Array(array.buffer, array.byteOffset, array.length);
}

/** Address of an array that lies in the backend's memory. */
export function addressIn(arena: Arena, data: SampleArray): number | undefined {
  return arena.owns(data.buffer) ? data.byteOffset : undefined;
}

/** Samples [from, to) of an array; the array itself where that is all of it. */
function part<T extends Float32Array | Uint16Array>(array: T, from: number, to: number): T {
  return from === 0 && to === array.length ? array : (array.subarray(from, to) as T);
}

/** What the user calls the array of a field: y was given as `out`. */
function nameOf(field: string): string {
  return field === "y" ? "out" : field;
}

/**
 * Copy rows between a user's array and staging at `address`. `rowAt(i)` is the user's row that lies i-th in staging;
 * rows that follow each other in both go in one copy.
 * @throws InvalidArgumentError, naming `call`, for an array that was detached while the call waited.
 */
export function copyRows(
  arena: Arena,
  tensor: Omit<RowTensor, "field"> & { readonly field: string },
  address: number,
  count: number,
  rowAt: (i: number) => number,
  call: string,
): void {
  const { field, data, width, staged = width } = tensor;
  const name = nameOf(field);
  intact(name, data, 1, call);
  const user = raw(data);
  const memory = arena.view(user);
  const base = address / user.BYTES_PER_ELEMENT;
  for (let i = 0; i < count; ) {
    const row = rowAt(i);
    let run = 1;
    while (staged === width && i + run < count && rowAt(i + run) === row + run) run++;
    intact(name, data, (row + run) * width, call);
    const at = base + i * staged;
    const [from, samples] = [row * width, (run - 1) * width + staged];
    if (tensor.direction === "in") memory.set(part(user, from, from + samples), at);
    else user.set(memory.subarray(at, at + samples), from);
    i += run;
  }
}

/** A tensor in staging, and its part of it. */
interface StagedTensor {
  readonly tensor: RowTensor;
  /** Bytes before it. */
  readonly offset: number;
  /** Its samples there, where all of them are: calls of one row make no view of it anew. */
  view: Float32Array | Uint16Array | undefined;
}

/** The rows of a call on their way through staging. */
export class StagedRows {
  readonly #arena: Arena;
  readonly #call: string;
  readonly #tensors: readonly StagedTensor[];

  /** `slots` rows of each tensor at a time. */
  constructor(
    arena: Arena,
    { rows, name }: { readonly rows: readonly RowTensor[]; readonly name: string },
    slots: number,
  ) {
    this.#arena = arena;
    this.#call = name;
    let offset = 0;
    this.#tensors = rows.map((tensor) => {
      const at = offset;
      offset += aligned(slots * tensor.width * tensor.data.BYTES_PER_ELEMENT);
      return { tensor, offset: at, view: undefined };
    });
  }

  /** Run `work` with `count` rows in staging at `base`: copy in, work, copy out. `rowAt` as in copyRows. */
  around(
    jobs: readonly ConvolutionJob[],
    base: number,
    count: number,
    rowAt: (i: number) => number,
    work: () => Running,
  ): Running {
    for (const staged of this.#tensors) {
      for (const job of jobs) job[staged.tensor.field] = base + staged.offset;
      if (staged.tensor.direction === "in") this.#copy(staged, base, count, rowAt);
    }
    const running = work();
    if (running) return this.#bringOutAfter(running, base, count, rowAt);
    this.#bringOut(base, count, rowAt);
  }

  async #bringOutAfter(
    running: Promise<void>,
    base: number,
    count: number,
    rowAt: (i: number) => number,
  ): Promise<void> {
    await running;
    this.#bringOut(base, count, rowAt);
  }

  #bringOut(base: number, count: number, rowAt: (i: number) => number): void {
    for (const staged of this.#tensors) {
      if (staged.tensor.direction === "out") this.#copy(staged, base, count, rowAt);
    }
  }

  #copy(staged: StagedTensor, base: number, count: number, rowAt: (i: number) => number): void {
    const { tensor, offset } = staged;
    const { data, width } = tensor;
    const arena = this.#arena;
    const address = base + offset;
    if (count > 1 || data.length !== width || tensor.staged !== undefined || !isRaw(data)) {
      copyRows(arena, tensor, address, count, rowAt, this.#call);
      return;
    }
    const { view } = staged;
    const memory = arena.view(data);
    if (view?.buffer !== memory.buffer || view.byteOffset !== address) {
      const at = address / data.BYTES_PER_ELEMENT;
      staged.view = memory.subarray(at, at + width);
    }
    if (tensor.direction === "in") staged.view!.set(data);
    else data.set(staged.view!);
  }
}

/**
 * Copy pieces of a user's row into a block of `span` samples at `address`, with zeros between them.
 * @throws InvalidArgumentError, naming `call`, for an array that was detached while the call waited.
 */
export function blockIn(
  arena: Arena,
  tensor: RowTensor,
  row: number,
  address: number,
  span: number,
  pieces: readonly Piece[],
  call: string,
): void {
  intact(nameOf(tensor.field), tensor.data, (row + 1) * tensor.width, call);
  const user = raw(tensor.data);
  const memory = arena.view(user);
  const base = address / user.BYTES_PER_ELEMENT;
  if (pieces.length !== 1 || pieces[0]!.count < span) memory.fill(0, base, base + span);
  const start = row * tensor.width;
  for (const { at, from, count } of pieces) {
    memory.set(part(user, start + from, start + from + count), base + at);
  }
}

/** Copy `count` samples at `address` to a user's row, from sample `first` on; throws as blockIn. */
export function blockOut(
  arena: Arena,
  tensor: RowTensor,
  row: number,
  first: number,
  address: number,
  count: number,
  call: string,
): void {
  intact(nameOf(tensor.field), tensor.data, (row + 1) * tensor.width, call);
  const user = raw(tensor.data);
  const memory = arena.view(user);
  const base = address / user.BYTES_PER_ELEMENT;
  user.set(memory.subarray(base, base + count), row * tensor.width + first);
}
