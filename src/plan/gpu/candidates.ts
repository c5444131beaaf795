/** All pass plans worth comparing: which padded size, which radices, how much on chip, how many threads. */

import { product } from "../cpu/plan.ts";
import type { Part } from "../geometry.ts";
import type { Exchange, Packing, Pass, PassPlan } from "./passes.ts";
import { endsOf, exchangeBytes, holdsPairs, runnable } from "./passes.ts";

/** What a device allows a workgroup. */
export interface WorkgroupLimits {
  /** Bytes of workgroup memory. */
  readonly sharedBytes: number;
  /** Threads. */
  readonly threads: number;
  /** Most complex values that a thread should hold. */
  readonly values: number;
}

/** Smallest transform: one thread's butterfly and a few more. */
export const leastPassPoints = 32;
/** Complex values of a thread: at most 64 registers, and as many again for what it computes. */
const valuesEach = [8, 16, 32] as const;
/** Points of the tiles of passes that work on columns. */
const columnTiles = [512, 1024, 2048, 4096] as const;
/** Fewest adjacent columns: 16 complex points are two lines of 64 bytes. */
const leastColumns = 16;
/** Most rows that one pass takes apart beside columns. */
const mostRows = 256;
/** Rows that a workgroup may take one after the other. */
const rowsInTurn = 4;
/**
 * What an exchange by halves of parts must have, over its points: without pads between them threads meet in the same banks,
 * and 8,192 points in just 16 KiB took 25 ps a point on an H200, two passes 12.
 */
const roomForPads = 33 / 32;
/** A workgroup has at least so many threads: two subgroups of 32. */
const leastThreads = 64;

const bits = (n: number): number => Math.round(Math.log2(n));

/** The odd part of a number. */
const oddPart = (n: number): number => n / 2 ** Math.min(...[n].map(trailingZeros));

function trailingZeros(n: number): number {
  let zeros = 0;
  for (let m = n; m % 2 === 0; m /= 2) zeros++;
  return zeros;
}

/** `total` bits in as few even parts of at most `most` as there can be, small ones first. */
function evenly(total: number, most: number): number[] {
  const count = Math.ceil(total / most);
  return Array.from({ length: count }, (_, i) => Math.floor((total + i) / count));
}

/** Lists of radices for `points` with `each` values a thread. */
type RadixLists = (points: number, each: number) => number[][];

/** Lists whose first radix takes at most all values of a thread but `spare` bits; an odd factor goes there. */
function listsFrom(points: number, each: number, spare: 0 | 1): number[][] {
  const odd = oddPart(points);
  if (each % odd !== 0) return [];
  const total = bits(points / odd);
  const most = bits(each / odd);
  const lists: number[][] = [];
  for (let first = odd > 1 ? 0 : 1; first <= most - spare; first++) {
    const rest = total - first;
    if (rest < 0) continue;
    lists.push([odd * 2 ** first, ...evenly(rest, Math.min(5, most)).map((b) => 2 ** b)]);
  }
  return lists;
}

/** Where a pass meets the user's tensors, the first radix leaves a thread two butterflies: neighbours are loaded together. */
const pairedLists: RadixLists = (points, each) => listsFrom(points, each, 1);

/** Where points come from work memory, one is enough. */
const lastLists: RadixLists = (points, each) => listsFrom(points, each, 0);

function exchanges(
  points: number,
  tiles: number,
  stages: number,
  limits: WorkgroupLimits,
): Exchange[] {
  if (stages === 1) return ["whole"];
  const fits = (e: Exchange, room = 1): boolean =>
    points * tiles * exchangeBytes[e] * room <= limits.sharedBytes;
  const usual = (["whole", "split"] as const).filter((e) => fits(e));
  if (usual.length > 0) return usual;
  return fits("quarter", roomForPads) ? ["quarter"] : [];
}

/**
 * Lists of radices for `rows` rows whose points hold neighbours: words come with both, so that the first radix may take all
 * values of a thread; the last of several leaves it two butterflies, whose blocks are each other's mirror.
 */
const mirroredLists: RadixLists = (rows, each) => {
  const odd = oddPart(rows);
  if (each % odd !== 0) return [];
  const most = bits(each / odd);
  const total = bits(rows / odd);
  if (total <= most) return [[rows]];
  if (odd > 1) return [];
  const lists: number[][] = [];
  for (let last = most - 1; last > 0; last--) {
    lists.push([...evenly(total - last, most).map((b) => 2 ** b), 2 ** last]);
  }
  return lists;
};

/** Passes that split `rows` rows of `columns` columns on chip. */
function tilePasses(
  rows: number,
  columns: number,
  limits: WorkgroupLimits,
  lists = pairedLists,
): Pass[] {
  const points = rows * columns;
  const odd = oddPart(rows);
  const passes: Pass[] = [];
  for (const values of valuesEach.filter((v) => v <= limits.values)) {
    const each = odd > 1 ? (values / 4) * odd : values;
    const threads = points / each;
    if (!Number.isInteger(threads) || threads > limits.threads) continue;
    const tiles = threads >= leastThreads ? 1 : Math.ceil(leastThreads / threads);
    for (const radices of lists(rows, each)) {
      for (const exchange of exchanges(points, tiles, radices.length, limits)) {
        passes.push({
          radices,
          columns,
          threads,
          tiles: Math.min(tiles, limits.threads),
          exchange,
        });
      }
    }
  }
  return passes;
}

/** Passes before the last one for `rows` rows of blocks whose sub-blocks have `rest` points. */
function columnPasses(
  rows: number,
  rest: number,
  limits: WorkgroupLimits,
  lists = pairedLists,
): Pass[] {
  return columnTiles.flatMap((tile) => {
    const columns = Math.min(rest, 2 ** Math.floor(Math.log2(tile / rows)));
    if (columns < Math.min(leastColumns, rest)) return [];
    return tilePasses(rows, columns, limits, lists);
  });
}

/** Most points that a workgroup can hold at once. */
function mostTilePoints(limits: WorkgroupLimits): number {
  const most = Math.min(limits.sharedBytes / exchangeBytes.quarter, limits.threads * limits.values);
  return 2 ** Math.floor(Math.log2(most));
}

/** Which plans of several passes are wanted. */
interface Wanted {
  /** Fewest points of a last pass's blocks. */
  readonly finest: number;
  /** Whether points may wait in pairs. */
  readonly pairs: boolean;
}

/** Plans of one size. */
export function passPlans(
  points: number,
  packing: Packing,
  limits: WorkgroupLimits,
  { finest, pairs }: Wanted,
): PassPlan[] {
  const most = mostTilePoints(limits);
  const plans: PassPlan[] = [];
  const add = (passes: readonly Pass[]): void => {
    const plan = { points, packing, passes };
    if (runnable(plan)) plans.push(plan);
  };
  const neighbours = packing === "neighbours";
  if (points <= most && !neighbours) {
    for (const pass of tilePasses(points, 1, limits)) {
      add([pass]);
      add([{ ...pass, turns: rowsInTurn }]);
    }
  }
  if (plans.length > 0 && points < most) return plans;
  for (let inner = most; inner >= finest; inner /= 2) {
    const rows = points / inner;
    if (!Number.isInteger(rows) || rows < 2 || (neighbours && rows % 2 !== 0)) continue;
    const last = tilePasses(inner, 1, limits, lastLists);
    const forGradients = neighbours && inner <= shortLast ? splitFrom(rows) : [];
    for (const outer of [...splitRows(rows), ...forGradients]) {
      let rest = points;
      const options = outer.map((r, i) => {
        rest /= r;
        return neighbours && i === 0
          ? columnPasses(r, rest / 2, limits, mirroredLists)
          : columnPasses(r, rest, limits);
      });
      for (const passes of alongside([...options, last])) add(passes);
      if (!pairs) continue;
      // Points wait in pairs where all passes of a plan hold them: such plans have the best of such passes.
      const holding = [...options, last].map((o, i, all) =>
        o.filter((pass) => holdsPairs(pass, endsOf(packing, i, all.length))),
      );
      for (const passes of alongside(holding)) add(passes);
    }
  }
  return plans;
}

/** One of each list, so that all occur: passes are priced apart, and the planner puts the best together. */
function alongside(options: readonly (readonly Pass[])[]): Pass[][] {
  if (options.some((o) => o.length === 0)) return [];
  const count = Math.max(...options.map((o) => o.length));
  return Array.from({ length: count }, (_, i) => options.map((o) => o[i % o.length]!));
}

/** Rows as the product of what one pass can take, in as few passes as possible. */
function splitRows(rows: number): number[][] {
  if (rows <= mostRows) return [[rows]];
  const odd = oddPart(rows);
  const parts = evenly(bits(rows / odd), bits(mostRows) - (odd > 1 ? 3 : 0)).map((b) => 2 ** b);
  parts[0]! *= odd;
  return parts.length <= 2 && product(parts) === rows ? [parts] : [];
}

/**
 * Rows of a first pass, rows between it and the last one, and points of the last one, for gradients beside a last pass of 8,192 points:
 * where neighbours are packed they need a first pass of as many rows, and took 5 times as long as forward in such a last one.
 */
const firstRows = [64, 128, 256];
const betweenRows = { least: 4, most: 32 };
const shortLast = 2048;

/** Rows as the product of such two. */
function splitFrom(rows: number): number[][] {
  return firstRows.flatMap((first) => {
    const rest = rows / first;
    return rest >= betweenRows.least && rest <= betweenRows.most ? [[first, rest]] : [];
  });
}

/** Transform sizes for a part: powers of two, and three or five times one where that is less. */
export function passSizes(part: Part, packing: Packing): number[] {
  const need = packing === "halves" ? part.positions / 2 : part.positions;
  const power = Math.max(leastPassPoints, 2 ** Math.ceil(Math.log2(need)));
  const fewer = [(power / 8) * 5, (power / 4) * 3].filter(
    (n) => Number.isInteger(n) && n >= need && n >= 16 * leastPassPoints,
  );
  if (!part.exact) return [...fewer, power];
  return need >= leastPassPoints && [1, 3, 5].includes(oddPart(need)) ? [need] : [];
}
