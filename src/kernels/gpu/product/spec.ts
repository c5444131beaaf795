/** What a kernel of a matrix product computes, as data: two products of one specification have one text, whatever their sizes. */
import type { GpuProductTile } from "../../../plan/gpu/product.ts";
import type { Matrix, ProductEpilogue } from "../../../plan/product.ts";
import type { Machine } from "../kernel.ts";

export type MatrixDtype = Matrix["dtype"];

/** One operand as its kernel sees it. */
export interface ProductOperand {
  readonly name: "a" | "b";
  readonly dtype: MatrixDtype;
  /** Whether neighbours in memory are neighbours along k; else along m (A) or n (B). */
  readonly alongK: boolean;
  /** Elements that come in one access. */
  readonly width: number;
}

/** C, and the matrices that lie as it does. */
export interface ProductCells {
  readonly dtype: MatrixDtype;
  /** Neighbours of a row that are written in one access. */
  readonly width: number;
}

export interface ProductKernel {
  readonly tile: GpuProductTile;
  readonly a: ProductOperand;
  readonly b: ProductOperand;
  readonly c: ProductCells;
  /** Whether tiles reach over the edges of C, and steps over the end of k. */
  readonly edges: { readonly cells: boolean; readonly k: boolean };
  /** Whether steps walk the items of the batch. */
  readonly sumsBatch: boolean;
  /** Whether partial sums are stored, whose epilogue is another kernel's. */
  readonly splits: boolean;
  readonly epilogue: ProductEpilogue;
  readonly machine: Pick<Machine, "packs" | "slowFma">;
}

/** Words of the parameters. Distances of A, B and C are in accesses of their width; `share` are the steps of a workgroup. */
export const productParameters: readonly string[] = (
  "tiles each rows columns band items m n k steps total share splits " +
  "a_stride a_batch b_stride b_batch c_stride c_batch"
).split(" ");

/** Elements between rows of partial sums, which are whole tiles: a text of the parameters. */
export const partialStride = ({ tile }: Pick<ProductKernel, "tile">): string =>
  `(p.columns * ${tile.n}u)`;

/** Elements of one partial sum of an item. */
export const partialPlane = (spec: Pick<ProductKernel, "tile">): string =>
  `(p.rows * ${spec.tile.m}u * ${partialStride(spec)})`;
