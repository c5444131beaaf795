/**
 * How a product is done on the CPU: C is cut into rectangles, each one thread's work, in which panels of A and B are packed
 * and multiplied tile by tile. What a rectangle's cells are does not depend on the cut, so that threads change no bit.
 */
import type { ProductProblem } from "../product.ts";

/** A tile of C in registers: rows, and vectors of columns. */
export interface CpuProductTile {
  readonly rows: number;
  readonly vectors: number;
  readonly lanes: 1 | 4;
}

/** Tiles of a vector width. */
export function productTile(lanes: 1 | 4): CpuProductTile {
  return { rows: 5, vectors: 2, lanes };
}

export function tileWidth({ vectors, lanes }: CpuProductTile): number {
  return vectors * lanes;
}

export function tileBytes(tile: CpuProductTile): number {
  return 4 * tile.rows * tileWidth(tile);
}

/** Most steps of k that are summed in registers: a panel of B then lies in half of the first cache. */
const mostDepth = 512;
/** Most columns of a rectangle: so much of B is packed at a time. */
const mostColumns = 512;
/** Bytes of A that are packed at a time: a part of the second cache. */
const blockBytes = 128 * 1024;
/** Most rows of a rectangle whose sums wait in memory for the next panel. */
const mostSplitRows = 512;

/** How C is cut, and what a thread needs. */
export interface CpuProductPlan {
  readonly tile: CpuProductTile;
  /** Steps of k of a panel, and panels of an item. */
  readonly depth: number;
  readonly panels: number;
  /** Rows and columns of a rectangle, and rectangles down and across C. */
  readonly rows: number;
  readonly columns: number;
  readonly down: number;
  readonly across: number;
  /** Rows of A packed at a time. */
  readonly blockRows: number;
  /** Results of the batch. */
  readonly items: number;
  /** Bytes of a thread's packed B, packed A and sums. */
  readonly bBytes: number;
  readonly aBytes: number;
  readonly sumBytes: number;
  /** Bytes of the sums of such rows, where they wait in memory for the next panel. */
  readonly blockSumBytes: number;
  /** Predicted seconds on one thread. */
  readonly seconds: number;
}

/** `total` in as few equal parts of at most `most` as there can be, each a multiple of `unit`. */
function equalParts(total: number, most: number, unit: number): { size: number; count: number } {
  const count = Math.ceil(total / Math.max(unit, most));
  const size = Math.ceil(total / count / unit) * unit;
  return { size, count: Math.ceil(total / size) };
}

/** Seconds of a multiplication and addition, of an element packed, of a cell of C stored: EPYC 9005, one thread, relaxed SIMD. */
const price = { product: 0.04e-9, packed: 0.25e-9, cell: 0.5e-9, javascript: 12 } as const;

/** The plan of a product for so many threads. */
export function planProduct(
  problem: ProductProblem,
  lanes: 1 | 4,
  threads: number,
): CpuProductPlan {
  const { m, n, k, batch, sumsBatch } = problem;
  const tile = productTile(lanes);
  const items = sumsBatch ? 1 : batch;
  const { size: depth, count: panels } = equalParts(k, mostDepth, 1);
  const whole = panels === 1 && (batch === 1 || !sumsBatch);
  const across = equalParts(n, mostColumns, tileWidth(tile));
  // Each thread has a few rectangles, so that one which is late is helped, but no rectangle so few rows that packing B shows.
  const wanted = threads === 1 ? 1 : Math.ceil((4 * threads) / (items * across.count));
  const least = Math.max(tile.rows, Math.min(256, Math.ceil(m / threads)));
  const most = Math.min(whole ? m : mostSplitRows, Math.max(least, Math.ceil(m / wanted)));
  const down = equalParts(m, most, tile.rows);
  const aRows = Math.max(tile.rows, Math.floor(blockBytes / (4 * depth) / tile.rows) * tile.rows);
  const blockRows = equalParts(down.size, aRows, tile.rows).size;
  const blockSumBytes = tileBytes(tile) * (blockRows / tile.rows) * (across.size / tileWidth(tile));
  const packed = batch * k * (m * across.count + n * down.count);
  const seconds =
    batch * m * n * k * price.product + packed * price.packed + items * m * n * price.cell;
  return {
    ...{ tile, depth, panels, items, blockRows },
    ...{ rows: down.size, down: down.count, columns: across.size, across: across.count },
    bBytes: 4 * depth * across.size,
    aBytes: 4 * depth * blockRows,
    blockSumBytes,
    sumBytes: whole ? tileBytes(tile) : blockSumBytes * Math.ceil(down.size / blockRows),
    seconds: lanes === 1 ? price.javascript * seconds : seconds,
  };
}
