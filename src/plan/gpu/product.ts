/**
 * Plans of matrix products on a GPU. C is cut into tiles, one for a workgroup, and k into steps, whose slices of A and B the workgroup
 * stages in its memory. Subgroups multiply matrices where the device does and both operands are float16; elsewhere threads hold cells of
 * C in registers. Where tiles are too few to keep the device busy, several workgroups share the k of a tile, each with a partial sum.
 */
import type { ProductProblem } from "../product.ts";

/** Sides of the matrices that a subgroup multiplies: m×k in float16 by k×n in float16, with sums in float32. */
export interface MatrixShape {
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

/** How a workgroup computes m×n cells of C. */
export interface ProductTile {
  readonly m: number;
  readonly n: number;
  /** Products that each cell advances by in a step. */
  readonly k: number;
  /** Workers side by side along m and along n: subgroups, or threads where there is no `shape`. */
  readonly rows: number;
  readonly columns: number;
  readonly threads: number;
  readonly shape?: MatrixShape;
  /** Whether a step's slices have memory besides those of the step before, so that one barrier a step is enough. */
  readonly twice?: boolean;
  /** Matrices side by side that a subgroup hands over through shared memory at a time. */
  readonly strip?: number;
}

/** A tile with what it costs on the machine where it was measured. */
interface PricedTile extends ProductTile {
  /** Workgroups that the device runs at once. */
  readonly atOnce: number;
  /** Seconds of a step of so many workgroups, and of all else that they do. */
  readonly stepSeconds: number;
  readonly tileSeconds: number;
}

/** What plans depend on of a device. */
export interface ProductMachine {
  readonly sharedBytes: number;
  readonly threads: number;
  readonly lanes?: number;
  readonly values: number;
  readonly bindingBytes: number;
  readonly workspaceBytes: number;
  readonly matrices?: readonly MatrixShape[];
}

/** How a product is computed. */
export interface ProductPlan {
  readonly tile: ProductTile;
  /** Workgroups that share the k of a tile. */
  readonly splits: number;
  /** Rows of tiles that workgroups take together, column by column, so that what they share is still in the cache. */
  readonly band: number;
  /** What the cost model expects. */
  readonly seconds: number;
}

/** Steps over k, of all items where they are summed. */
export const stepsOf = ({ k, batch, sumsBatch }: ProductProblem, tile: ProductTile): number =>
  Math.ceil(k / tile.k) * (sumsBatch ? batch : 1);

/** Products that C consists of. */
export const itemsOf = ({ batch, sumsBatch }: ProductProblem): number => (sumsBatch ? 1 : batch);

/** Rows and columns of tiles. */
export const gridOf = (
  { m, n }: ProductProblem,
  tile: ProductTile,
): { readonly rows: number; readonly columns: number } => {
  return { rows: Math.ceil(m / tile.m), columns: Math.ceil(n / tile.n) };
};

/** Bytes of the partial sums. */
export function partialBytes(problem: ProductProblem, tile: ProductTile, splits: number): number {
  const { rows, columns } = gridOf(problem, tile);
  return splits > 1 ? 4 * splits * itemsOf(problem) * rows * tile.m * columns * tile.n : 0;
}

/** Bytes a second of the memory, and seconds of a launch, where the tiles were measured. */
const memoryBandwidth = 3.5e12;
const launchSeconds = 4e-6;

/** Tiles of subgroups by the matrices along each side of a subgroup's part, largest first. */
function matrixTiles({ matrices = [], lanes = 1 }: ProductMachine): PricedTile[] {
  // The largest matrices first: they need the fewest loads.
  const [shape] = matrices.toSorted((a, b) => b.m * b.n * b.k - a.m * a.n * a.k);
  if (!shape || lanes < 2) return [];
  const tile = (sides: number, atOnce: number, stepSeconds: number, tileSeconds: number) => ({
    ...{ m: 2 * sides * shape.m, n: 2 * sides * shape.m, k: 32, rows: 2, columns: 2 },
    ...{ threads: 4 * lanes, shape, strip: 2, atOnce, stepSeconds, tileSeconds },
  });
  return [tile(4, 264, 0.9e-6, 4e-6), tile(2, 528, 0.6e-6, 2e-6)];
}

/** Tiles of threads by the cells of a thread along each side. */
function registerTiles({ values, threads }: ProductMachine): PricedTile[] {
  const tile = (cells: number, side: number, k: number, ...price: [number, number, number]) => ({
    ...{ m: cells * side, n: cells * side, k, rows: side, columns: side, threads: side * side },
    ...{ atOnce: price[0], stepSeconds: price[1], tileSeconds: price[2] },
  });
  // A processor that plays the GPU compiles a kernel of many values for seconds.
  return [
    ...(values >= 32 ? [tile(8, 16, 8, 264, 2.3e-6, 4e-6)] : []),
    ...(values >= 16 ? [tile(4, 16, 16, 528, 2e-6, 2e-6)] : []),
    tile(4, 8, 16, 2112, 2.5e-6, 2e-6),
  ].filter((t) => t.threads <= threads);
}

/** Seconds that a plan takes on the machine where its tile was measured. */
function priceOf(problem: ProductProblem, tile: PricedTile, splits: number): number {
  const { batch, m, n, k } = problem;
  const items = itemsOf(problem);
  const { rows, columns } = gridOf(problem, tile);
  const steps = Math.ceil(stepsOf(problem, tile) / splits);
  const waves = Math.ceil((rows * columns * items * splits) / tile.atOnce);
  const work = waves * (tile.tileSeconds + steps * tile.stepSeconds);
  const size = { float32: 4, float16: 2 };
  const bytes = batch * (m * k * size[problem.a.dtype] + k * n * size[problem.b.dtype]);
  const traffic = (bytes + items * m * n * size[problem.c.dtype]) / memoryBandwidth;
  // Partial sums are written, and read again by a launch of their own.
  const joins = (2 * partialBytes(problem, tile, splits)) / memoryBandwidth;
  return Math.max(work, traffic) + joins + launchSeconds * (splits > 1 ? 2 : 1);
}

/** Splits that are worth a price. */
const mostSplits = 64;

/** Rows of tiles of a band. */
const bandRows = 8;

/** Every plan that the device can run, cheapest first. */
export function productPlans(problem: ProductProblem, machine: ProductMachine): ProductPlan[] {
  const halves = problem.a.dtype === "float16" && problem.b.dtype === "float16";
  const subgroups = halves ? matrixTiles(machine) : [];
  const tiles = subgroups.length > 0 ? subgroups : registerTiles(machine);
  const room = Math.min(machine.bindingBytes, machine.workspaceBytes);
  const plans = tiles.flatMap(({ atOnce, stepSeconds, tileSeconds, ...tile }) => {
    const found: ProductPlan[] = [];
    const total = stepsOf(problem, tile);
    const most = Math.min(mostSplits, total);
    for (let wanted = 1; wanted <= most; wanted += Math.max(1, wanted >> 2)) {
      // No part may be empty.
      const splits = Math.ceil(total / Math.ceil(total / wanted));
      if (splits > 1 && partialBytes(problem, tile, splits) > room) break;
      const seconds = priceOf(problem, { ...tile, atOnce, stepSeconds, tileSeconds }, splits);
      found.push({ tile, splits, band: bandRows, seconds });
    }
    return found;
  });
  return plans.sort((a, b) => a.seconds - b.seconds);
}

/** A plan in one line. */
export function describeProductPlan({ tile, splits, band }: ProductPlan): string {
  const { shape } = tile;
  const how = shape
    ? `${tile.rows}×${tile.columns} subgroups of ${shape.m}×${shape.n}×${shape.k}`
    : `${tile.rows}×${tile.columns} threads`;
  const parts = splits > 1 ? `, k in ${splits} parts` : "";
  return `tiles ${tile.m}×${tile.n}×${tile.k} by ${how}, bands of ${band}${parts}`;
}
