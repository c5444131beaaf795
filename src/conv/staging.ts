/**
 * Between the user's arrays and the backend's memory. Arrays that lie in that memory are used where they are; others
 * pass through a staging area a few rows at a time, so that a call never holds a second copy of its inputs.
 */

import type { Arena } from "../backend/memory.ts";
import type { SampleArray } from "../dtype.ts";

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
  readonly direction: "in" | "out";
}

/** The same bytes as numbers that can be copied without conversion. */
function raw(array: SampleArray): Float32Array | Uint16Array {
  if (array instanceof Float32Array || array instanceof Uint16Array) return array;
  return new Uint16Array(array.buffer, array.byteOffset, array.length);
}

/** Address of an array that lies in the backend's memory. */
export function addressIn(arena: Arena, data: SampleArray): number | undefined {
  return arena.owns(data.buffer) ? data.byteOffset : undefined;
}

/** A typed array of the kind of `like` over the backend's memory. */
function view(
  arena: Arena,
  like: Float32Array | Uint16Array,
  address: number,
  length: number,
): typeof like {
  const { buffer } = arena.memory;
  return like instanceof Float32Array
    ? new Float32Array(buffer, address, length)
    : new Uint16Array(buffer, address, length);
}

/**
 * Copy rows between a user's array and staging at `address`. `rowAt(i)` is the user's row that lies i-th in staging;
 * rows that follow each other in both go in one copy.
 */
export function copyRows(
  arena: Arena,
  tensor: RowTensor,
  address: number,
  count: number,
  rowAt: (i: number) => number,
): void {
  const user = raw(tensor.data);
  const { width } = tensor;
  const staged = view(arena, user, address, count * width);
  for (let i = 0; i < count; ) {
    const row = rowAt(i);
    let run = 1;
    while (i + run < count && rowAt(i + run) === row + run) run++;
    if (tensor.direction === "in") {
      staged.set(user.subarray(row * width, (row + run) * width) as Float32Array, i * width);
    } else {
      user.set(staged.subarray(i * width, (i + run) * width) as Float32Array, row * width);
    }
    i += run;
  }
}
