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
export interface GpuProductTile {
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
export interface PricedTile extends GpuProductTile {
  /** Workgroups that a multiprocessor runs at once, and FLOP/s of all multiprocessors so filled in long products. */
  readonly beside: number;
  readonly flops: number;
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
export interface GpuProductPlan {
  readonly tile: GpuProductTile;
  /** Workgroups that share the k of a tile. */
  readonly splits: number;
  /** Rows of tiles that workgroups take together, column by column, so that what they share is still in the cache. */
  readonly band: number;
  /** What the cost model expects. */
  readonly seconds: number;
}

/** Steps over k, of all items where they are summed. */
export const stepsOf = ({ k, batch, sumsBatch }: ProductProblem, tile: GpuProductTile): number =>
  Math.ceil(k / tile.k) * (sumsBatch ? batch : 1);

/** Products that C consists of. */
export const itemsOf = ({ batch, sumsBatch }: ProductProblem): number => (sumsBatch ? 1 : batch);

/** Rows and columns of tiles. */
export const gridOf = (
  { m, n }: ProductProblem,
  tile: GpuProductTile,
): { readonly rows: number; readonly columns: number } => {
  return { rows: Math.ceil(m / tile.m), columns: Math.ceil(n / tile.n) };
};

/** Bytes of the partial sums. */
export function partialBytes(
  problem: ProductProblem,
  tile: GpuProductTile,
  splits: number,
): number {
  const { rows, columns } = gridOf(problem, tile);
  return splits > 1 ? 4 * splits * itemsOf(problem) * rows * tile.m * columns * tile.n : 0;
}

/** The H200 on which tiles were measured: multiprocessors, bytes a second of the memory, and seconds of a launch, */
const multiprocessors = 132;
const memoryBandwidth = 3.5e12;
const launchSeconds = 4e-6;
/** of a step that waits for nothing but its own loads, and of a workgroup besides its steps. */
const stepSeconds = 0.4e-6;
const tileSeconds = 3e-6;

/** Workers down and along, each with so many matrices or cells down and along; products of a step; what it reaches on an H200. */
type TileRow = readonly [
  ...[workers: readonly [number, number], each: readonly [number, number], k: number],
  ...[beside: number, flops: number, more?: Pick<GpuProductTile, "strip" | "twice">],
];

const subgroupTiles: readonly TileRow[] = [
  [[4, 2], [4, 4], 32, 1, 300e12],
  [[2, 4], [4, 4], 32, 1, 297e12],
  [[2, 2], [4, 4], 32, 2, 190e12, { strip: 2 }],
  [[2, 2], [4, 4], 32, 2, 185e12, { twice: true }],
  [[2, 2], [4, 4], 16, 2, 100e12, { strip: 2, twice: true }],
  [[1, 2], [4, 4], 32, 4, 190e12, { strip: 2 }],
  [[2, 2], [2, 4], 32, 4, 180e12, { strip: 2 }],
  [[2, 2], [2, 2], 32, 8, 105e12, { strip: 2 }],
  [[2, 2], [1, 2], 16, 16, 60e12, { strip: 2 }],
];

const threadTiles: readonly TileRow[] = [
  [[16, 16], [8, 8], 8, 2, 37e12],
  [[16, 16], [8, 8], 8, 2, 35e12, { twice: true }],
  [[16, 8], [8, 8], 16, 3, 33e12],
  [[8, 8], [8, 8], 16, 6, 34e12],
  [[16, 16], [8, 4], 16, 3, 37e12],
  [[16, 16], [4, 4], 16, 6, 33e12],
  [[8, 8], [4, 4], 16, 16, 27e12],
];

/** Tiles of workers that have `threads` each. A processor that plays the GPU compiles much of either for minutes. */
const tilesOf = (rows: readonly TileRow[], most: number, threads: number, shape?: MatrixShape) =>
  rows
    .filter(([, [down, along]]) => down * along <= most)
    .map(([[rows, columns], [down, along], k, beside, flops, more]): PricedTile => {
      const [m, n] = [rows * down * (shape?.m ?? 1), columns * along * (shape?.n ?? 1)];
      const workers = { rows, columns, threads: rows * columns * threads, ...(shape && { shape }) };
      return { m, n, k, ...workers, ...more, beside, flops };
    });

/** Bytes of workgroup memory, padding included. */
function sharedBytesOf({
  m,
  n,
  k,
  rows,
  columns,
  shape,
  strip = 1,
  twice,
}: GpuProductTile): number {
  const places = twice ? 2 : 1;
  if (!shape) return 4 * k * (m + n + 8) * places;
  const slices = 2 * Math.max((m + n) * (k + 8), k * (m + n + 16)) * places;
  return slices + 4 * rows * columns * shape.m * (strip * shape.n + 8);
}

/** Every tile that serves a product on a device: of matrices where both operands are float16 and subgroups multiply them. */
export function productTiles({ a, b }: ProductProblem, machine: ProductMachine): PricedTile[] {
  const { matrices = [], lanes = 1, values } = machine;
  // The largest matrices need the fewest loads.
  const [shape] = matrices.toSorted((x, y) => y.m * y.n * y.k - x.m * x.n * x.k);
  const multiplies = shape && lanes > 1 && a.dtype === "float16" && b.dtype === "float16";
  const tiles = multiplies
    ? tilesOf(subgroupTiles, values >= 32 ? 16 : 2, lanes, shape)
    : tilesOf(threadTiles, 2 * values, 1);
  return tiles.filter(
    (tile) => tile.threads <= machine.threads && sharedBytesOf(tile) <= machine.sharedBytes,
  );
}

/** Seconds that a plan takes on the machine where its tile was measured. */
function priceOf(problem: ProductProblem, tile: PricedTile, splits: number): number {
  const { batch, m, n, k } = problem;
  const items = itemsOf(problem);
  const { rows, columns } = gridOf(problem, tile);
  const steps = Math.ceil(stepsOf(problem, tile) / splits);
  // What the busiest multiprocessor has to do, and how long each of its workgroups takes at least.
  const groups = Math.ceil((rows * columns * items * splits) / multiprocessors);
  const busy = (groups * steps * 2 * tile.m * tile.n * tile.k * multiprocessors) / tile.flops;
  const turns = Math.ceil(groups / tile.beside);
  const work = Math.max(busy, turns * steps * stepSeconds) + turns * tileSeconds;
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

/** The plans of one tile, one for each number of splits. */
export function plansOfTile(
  problem: ProductProblem,
  priced: PricedTile,
  machine: ProductMachine,
): GpuProductPlan[] {
  const { beside: _, flops: __, ...tile } = priced;
  const room = Math.min(machine.bindingBytes, machine.workspaceBytes);
  const total = stepsOf(problem, tile);
  const most = Math.min(mostSplits, total);
  const found = new Map<number, GpuProductPlan>();
  for (let wanted = 1; wanted <= most; wanted += Math.max(1, wanted >> 3)) {
    // No part may be empty.
    const splits = Math.ceil(total / Math.ceil(total / wanted));
    if (splits > 1 && partialBytes(problem, tile, splits) > room) break;
    const seconds = priceOf(problem, priced, splits);
    found.set(splits, { tile, splits, band: bandRows, seconds });
  }
  return [...found.values()];
}

/** Every plan that the device can run, cheapest first. */
export function productPlans(problem: ProductProblem, machine: ProductMachine): GpuProductPlan[] {
  return productTiles(problem, machine)
    .flatMap((tile) => plansOfTile(problem, tile, machine))
    .sort((a, b) => a.seconds - b.seconds);
}

/** A plan in one line. */
export function describeProductPlan({ tile, splits, band }: GpuProductPlan): string {
  const { shape } = tile;
  const how = shape
    ? `${tile.rows}×${tile.columns} subgroups of ${shape.m}×${shape.n}×${shape.k}`
    : `${tile.rows}×${tile.columns} threads`;
  const parts = splits > 1 ? `, k in ${splits} parts` : "";
  const places = tile.twice ? " twice" : "";
  return `tiles ${tile.m}×${tile.n}×${tile.k}${places} by ${how}, bands of ${band}${parts}`;
}
