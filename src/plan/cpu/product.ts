/**
 * How a product is done on the CPU: C is cut into rectangles, each one thread's work, for which panels of A and B are packed
 * and multiplied tile by tile. What a cell is does not depend on the cut, so that threads change no bit.
 */
import type { ProductProblem } from "../product.ts";

/** A tile of C in registers: rows, and vectors of columns. */
export interface RegisterTile {
  readonly rows: number;
  readonly vectors: number;
  readonly lanes: 1 | 4;
}

/**
 * Tiles by instructions. Of V8's fifteen registers 6×8 takes all: 57 GFLOP/s where 5×8 has 54 and 4×8 51. Without fused
 * multiply-add products need one more, and 6×8 falls to 38 where 4×8 has 52 (EPYC 9005, Node 24).
 */
export const registerTiles = {
  "relaxed-simd": { rows: 6, vectors: 2, lanes: 4 },
  simd: { rows: 4, vectors: 2, lanes: 4 },
  javascript: { rows: 4, vectors: 2, lanes: 1 },
} as const;

export const tileWidth = ({ vectors, lanes }: RegisterTile): number => vectors * lanes;
export const tileBytes = (tile: RegisterTile): number => 4 * tile.rows * tileWidth(tile);

/** Most steps of k that are summed in registers: a panel of B takes half of the first cache, sums err by √512 roundings. */
const mostDepth = 512;
/** Most columns of a rectangle: so much of B is packed at a time. */
const mostColumns = 512;
/** Bytes of A that are packed at a time: a part of the second cache. */
const blockBytes = 256 * 1024;
/** Fewest rows of a rectangle for which packing B does not show, and products of one between which others get the thread. */
const [fewestRows, pauseProducts] = [256, 2 ** 28];
/** Most rows of A that are multiplied with B as it lies. */
const thinRows = 3;
/** Rectangles for each thread, so that one which is late is helped. */
const share = 4;

/** A product in numbers, as a job carries them. */
export const productNumbers = {
  m: 0,
  n: 0,
  k: 0,
  /** Items of the batch that are summed to one of C. */
  summed: 0,
  /** Rows and columns of a rectangle, and rectangles down and across C; a unit is one: (item·down + i)·across + j. */
  rows: 0,
  columns: 0,
  down: 0,
  across: 0,
  units: 0,
  /** Steps of k of a panel, and panels of an item. */
  depth: 0,
  panels: 0,
  /** Rows of A that are packed at a time, and bytes of their sums where several panels add to them. */
  blockRows: 0,
  blockSumBytes: 0,
  /** Bytes of work memory: of packed columns of B, of that and packed rows of A, of both and sums. */
  aOffset: 0,
  sumOffset: 0,
  threadBytes: 0,
  /** Flags; with `thin` nothing is packed. */
  thin: 0,
  aTransposed: 0,
  bTransposed: 0,
  rowBias: 0,
  /** Bytes from row to row as stored, and from item to item. What goes with C lies as C does. */
  aStride: 0,
  bStride: 0,
  cStride: 0,
  aBatch: 0,
  bBatch: 0,
  cBatch: 0,
};

/** `total` in as few equal parts of at most `most` as there can be, each a multiple of `unit`. */
function equalParts(total: number, most: number, unit: number): [size: number, count: number] {
  const size = Math.ceil(total / Math.ceil(total / Math.max(unit, most)) / unit) * unit;
  return [size, Math.ceil(total / size)];
}

/** Bytes of a region with room for vectors that reach over its end, up to a cache line. */
const region = (bytes: number): number => Math.ceil(bytes / 64 + 1) * 64;

/** Bᵀ·Aᵀ in place of A·B where C is a column: so it is the row that its transpose is, and A need not be packed. */
export function turned(problem: ProductProblem): ProductProblem | undefined {
  const { m, n, a, b, c, epilogue } = problem;
  if (n > 1 || m === 1 || c.stride > 1) return undefined;
  const { bias, ...others } = epilogue;
  return {
    ...{ ...problem, m: n, n: m, c: { ...c, stride: m } },
    a: { ...b, transposed: !b.transposed },
    b: { ...a, transposed: !a.transposed },
    epilogue: { ...others, ...(bias && { bias: bias === "rows" ? "columns" : "rows" }) },
  };
}

/** A product cut for so many threads. */
export function planProduct(
  problem: ProductProblem,
  tile: RegisterTile,
  threads: number,
): typeof productNumbers {
  const { m, n, k, batch, sumsBatch, a, b, c, epilogue } = problem;
  const [items, summed] = sumsBatch ? [1, batch] : [batch, 1];
  const lies = b.transposed && (!a.transposed || a.stride === 1);
  const thin = lies && m <= thinRows && summed === 1;
  const [depth, panels] = equalParts(k, thin ? k : mostDepth, 1);
  const wanted = threads === 1 ? 1 : share * threads;
  const [columns, across] = equalParts(n, thin ? n / wanted : mostColumns, tileWidth(tile));
  const others = items * across;
  const most = Math.min(
    Math.max(fewestRows, pauseProducts / (columns * k * summed)),
    Math.max((m * others) / wanted, Math.min(fewestRows, (m * others) / threads)),
  );
  const [rows, down] = equalParts(m, most, tile.rows);
  const [packedRows] = equalParts(rows, blockBytes / (4 * depth), tile.rows);
  const blockRows = thin ? 1 : packedRows;
  const blockSumBytes = panels * summed > 1 ? 4 * blockRows * columns : 0;
  const aOffset = thin ? 0 : region(4 * depth * columns);
  const sumOffset = aOffset + (thin ? 0 : region(4 * depth * blockRows));
  const sumBytes = Math.max(tileBytes(tile), blockSumBytes * Math.ceil(rows / blockRows));
  return {
    ...{ m, n, k, summed, rows, columns, down, across, depth, panels, blockRows, blockSumBytes },
    ...{ aOffset, sumOffset, threadBytes: sumOffset + region(sumBytes) },
    ...{ units: items * down * across, thin: Number(thin) },
    ...{ aTransposed: Number(a.transposed), bTransposed: Number(b.transposed) },
    rowBias: Number(epilogue.bias === "rows"),
    ...{ aStride: 4 * a.stride, bStride: 4 * b.stride, cStride: 4 * c.stride },
    ...{ aBatch: 4 * a.batchStride, bBatch: 4 * b.batchStride, cBatch: 4 * c.batchStride },
  };
}

/** Seconds of a multiplication with its addition, and of a cell of C: EPYC 9005, relaxed SIMD; so many times that without any. */
const price = { product: 0.045e-9, cell: 0.5e-9, javascript: 12 } as const;

/** Seconds that a product takes one thread. */
export function productSeconds(
  { m, n, k, batch }: ProductProblem,
  { lanes }: RegisterTile,
): number {
  const seconds = batch * m * n * (k * price.product + price.cell);
  return lanes === 1 ? price.javascript * seconds : seconds;
}
