/**
 * The functions that CPU programs export: their names, which are made here, and what they take. Arguments are byte addresses
 * and counts: z, w, s are transforms in work memory, k a kernel's spectrum, `table` the program's constants, [from, to) a range
 * of tiles or of units that threads share. Direct programs export the same names and ignore what they have no use for.
 */

import type { KernelFunction, Statement } from "./ir.ts";

/** What is fused into an end of a convolution, as a part of names. */
export type Gate = "" | "_gate";
export type Skip = "" | "_skip";

/** Names of the variants of an end. */
export function suffix(gated: boolean): Gate;
export function suffix(gated: boolean, skip: boolean): `${Gate}${Skip}`;
export function suffix(gated: boolean, skip = false): string {
  return (gated ? "_gate" : "") + (skip ? "_skip" : "");
}

/** Name of the function that takes a whole row through head, body and tail. */
export function rowName(
  pregate: boolean,
  postgate: boolean,
  skip: boolean,
): `row${Gate}_to${Gate}${Skip}` {
  return `row${suffix(pregate)}_to${suffix(postgate, skip)}`;
}

/** Where a row stands in the sum over the batch: it starts the sum, adds to it, ends it, or is alone. */
export type BatchPlace = "first" | "inner" | "last" | "only";
/** All places in a batch. */
export const batchPlaces: readonly BatchPlace[] = ["first", "inner", "last", "only"];

/** What enters a transform, and what leaves it: the rest of the names of heads and tails. `chain` is a program's own. */
export type HeadId = "k" | `u${Gate}` | `dy${Gate}` | "chain";
export type TailId = `y${Gate}${Skip}` | `du${Gate}${Skip}` | "dpostgate" | `dk${number}` | "chain";

type Range = [table: number, from: number, to: number];
type Head = (x: number, gate: number, z: number, ...tiles: Range) => void;
/** Pointers to the rows of a tail: y = z·gate + skip·u and y2 = z·gate2, whichever of it a variant has. */
type Sink = [y: number, gate: number, u: number, skip: number, y2: number, gate2: number];
export type Tail = (z: number, ...sinkAndTiles: [...Sink, ...Range]) => void;
type Source = [u: number, pregate: number, z: number, k: number];
type Row = (...a: [...Source, y: number, postgate: number, skip: number, table: number]) => void;
/** Bodies of so many pointers, in the order of middleShape (middle-stage.ts). */
type Body1 = (z: number, ...units: Range) => void;
type Body2 = (z: number, k: number, ...units: Range) => void;
type Body3 = (s: number, w: number, k: number, ...units: Range) => void;
type Body4 = (z: number, w: number, k: number, s: number, ...units: Range) => void;

type Heads<Id extends HeadId> = Readonly<Record<`head_${Id}`, Head>>;
type Tails<Id extends TailId> = Readonly<Record<`tail_${Id}`, Tail>>;

/** Forward functions of every program, for all variants of both ends. */
type Forward = Heads<"k" | `u${Gate}`> &
  Tails<`y${Gate}${Skip}`> &
  Readonly<Record<`row${Gate}_to${Gate}${Skip}`, Row>> & { readonly body_multiply: Body2 };

/** Backward functions of every program. */
type Backward = Heads<`u${Gate}` | `dy${Gate}`> & Tails<`du${Gate}${Skip}` | `dk${number}`>;

/** For blocks that reach over an end of their row. */
interface Moves {
  readonly copy: (to: number, from: number, bytes: number) => void;
  readonly clear: (at: number, bytes: number) => void;
}

/** Where one tap acts, its sum with the skip weight. */
interface Joins {
  readonly join?: (k: number, skip: number, sum: number) => void;
}

export type DenseForward = Forward & { readonly body_spectrum: Body1 };
export type DenseBackward = Backward &
  Tails<"dpostgate"> &
  Readonly<Record<`body_gradients_${BatchPlace}${"" | "_gated"}`, Body4>>;

/** Spectra of which only some points are kept. */
export type SparseForward = Forward & { readonly body_compact: Body2 };

/** Blocks of rows, by transforms or in the time domain. */
export type BlockForward = DenseForward & Moves & Joins;
/** Each block adds to a sum of products, and sums meet before they come back. */
export type BlockBackward = Backward &
  Moves &
  Joins &
  Readonly<Record<"body_gradients_first" | "body_gradients_inner", Body4>> & {
    readonly body_add: Body2;
    readonly body_back: Body1;
  };

/** A level of a stream. */
export type StreamFunctions = Heads<"k" | "u"> &
  Tails<"y"> & {
    readonly body_spectrum: Body1;
    readonly body_product: Body3;
    readonly body_accumulate: Body3;
    readonly body_back: Body1;
  };

/** `count` positions of `width` channels from an address on. */
type Extent = [at: number, count: number, width: number];
type Filter = (...windowsTapsBiasesOutputsAndExtent: number[]) => void;

/** Short convolutions fill windows of float32 and filter them. */
interface Windows {
  readonly zero: (...window: Extent) => void;
  readonly fill: (x: number, ...window: Extent) => void;
}
export interface FilterFunctions extends Windows {
  readonly filter: Filter;
  /** From the user's samples, where they do not lie as in a window. */
  readonly direct?: Filter;
}
export interface FilterGradientFunctions extends Windows {
  readonly fillUpstream: Windows["fill"];
  /** dy → dz, where something stands behind the filter. */
  readonly upstream?: Filter;
  readonly transpose: (dz: number, taps: number, ...dx: Extent) => void;
  readonly transposeOnto: (dz: number, taps: number, r: number, ...dx: Extent) => void;
  readonly sum: (x: number, dz: number, ...sums: Extent) => void;
  readonly fold: (sums: number, ...result: Extent) => void;
}

/** Row programs. */
export interface RowFunctions {
  /**
   * Addresses of the tensors' first rows, bytes from row to row of each; then sums, sumBytes, rows, columns, and the numbers of the
   * first row and of its first cell.
   */
  readonly rows: (...numbers: number[]) => void;
  readonly zero: (at: number, bytes: number) => void;
}

type Named = Heads<"chain"> &
  Tails<"chain"> &
  DenseForward &
  DenseBackward &
  SparseForward &
  BlockForward &
  BlockBackward &
  StreamFunctions &
  FilterFunctions &
  FilterGradientFunctions;

/** A function that a program exports, under one of the names above. */
export function exported(
  name: keyof Named,
  parameters: readonly string[],
  body: readonly Statement[],
): KernelFunction {
  return { name, parameters, body, exported: true };
}
