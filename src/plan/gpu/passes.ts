/**
 * Plans for GPUs. A transform of M complex points runs in passes through device memory; each pass brings tiles of points
 * on chip, splits their rings by some stages, and either hands them to the next pass or, at the last one, multiplies and
 * comes back the same way. Only the last pass goes down to single points; the others work on columns that lie side by
 * side, so that every access is a full line.
 */
import type { Dtype } from "../../dtype.ts";
import { product, remembered } from "../cpu/plan.ts";

/**
 * How a tile's points go from stage to stage: real and imaginary parts together, one after the other in half the memory, or
 * each of these for one half of the points after the other, in a quarter of it.
 */
export type Exchange = "whole" | "split" | "quarter";

/** Bytes of workgroup memory for each point of a tile. */
export const exchangeBytes = { whole: 8, split: 4, quarter: 2 } as const;

/** Stages that run on chip between one load and one store. */
export interface Pass {
  /** Radices, outermost first. */
  readonly radices: readonly number[];
  /** Adjacent columns of a tile; 1 in the last pass, whose tiles are whole blocks. */
  readonly columns: number;
  /** Threads that share a tile. */
  readonly threads: number;
  /** Tiles of one workgroup. */
  readonly tiles: number;
  /** How points go from stage to stage. */
  readonly exchange: Exchange;
  /** Tiles that a workgroup takes one after the other: what they share stays in its cache. 1 where left out. */
  readonly turns?: number;
}

/**
 * What a complex point holds: sample n and sample n + M of one row, modulo x^M − i (negacyclic, as on the CPU); sample n of
 * two rows that share a kernel, modulo x^M − 1 (circular); or, in the first of several passes, samples 2n and 2n + 1 of one
 * row, modulo x^M − 1 over the reals. That pass splits the ring into R blocks for both columns of its samples at once and takes
 * the two apart; of a real row it keeps the blocks of frequencies 0 … R/2, whose mirrors are their conjugates.
 */
export type Packing = "halves" | "rows" | "neighbours";

/** A transform of `points` = Π radices points, complex ones, or real ones where neighbours are packed. */
export interface PassPlan {
  readonly points: number;
  readonly packing: Packing;
  /** Outermost first. */
  readonly passes: readonly Pass[];
  /** Where rows are cut into blocks (overlap-save): outputs of a block, an even number. */
  readonly hop?: number;
}

/** One pass, laid out over the transform. */
export interface PassLayout extends Pass {
  /** Blocks that the passes before have left. */
  readonly blocks: number;
  /** Points of one block. */
  readonly size: number;
  /** Points of a sub-block that this pass leaves; 1 in the last pass. */
  readonly rest: number;
  /** Points of a tile: the product of the radices times the columns. */
  readonly tilePoints: number;
  /** Tiles of one block. */
  readonly tilesPerBlock: number;
}

/**
 * How a complex point lies in work memory: two float32; one word of 32 bits, two parts of 12 bits with a common exponent of 8;
 * or, with its neighbour, a pair of 64 bits, four parts of 14 bits with a common exponent. A trip through words costs a
 * relative error of 2.7e-4, a little more than rounding a result to float16 (2.1e-4), one through pairs 8.2e-5.
 */
export type PointFormat = "float32" | "word" | "pair";

/**
 * The format of rows in work memory. Half precision in and out leaves room for pairs, where threads hold them (two trips, one
 * boundary between passes there and back: 2.4e-4 in all; four: 2.7e-4), and else for words: bfloat16, which rounds results by
 * 1.7e-3, for any number, float16 for two trips (4.3e-4).
 */
export function pointFormat({ passes, packing }: PassPlan, dtype: Dtype): PointFormat {
  if (dtype === "float32" || passes.length === 1) return "float32";
  const hold = (pass: Pass, i: number): boolean =>
    holdsPairs(pass, endsOf(packing, i, passes.length));
  if (passes.every(hold)) return "pair";
  return dtype === "bfloat16" || passes.length === 2 ? "word" : "float32";
}

/**
 * Whether a thread takes butterflies of a stage two by two, as neighbours of each other: of an odd number of columns the last
 * has none.
 */
export function inPairs(pass: Pass, stage: number): boolean {
  const each = pointsOf(pass) / (pass.threads * pass.radices[stage]!);
  const rest = product(pass.radices.slice(stage + 1)) * pass.columns;
  const beside = pass.columns === 1 || pass.columns % 2 === 0;
  return each % 2 === 0 && rest % 2 === 0 && beside;
}

/** Ends of a pass that may meet work memory: both, or the first stage's of the last pass, or blocks of two columns taken apart. */
type PassEnds = "both" | "first" | "apart";

/** Those of the `i`-th of so many passes. */
export function endsOf(packing: Packing, i: number, passes: number): PassEnds {
  if (i === passes - 1) return "first";
  return packing === "neighbours" && i === 0 ? "apart" : "both";
}

/** Whether threads hold neighbours at these ends of a pass, of the last one for gradients too. */
export function holdsPairs(pass: Pass, ends: PassEnds): boolean {
  if (ends === "apart") return true;
  if (ends === "first") return inPairs(widened(pass, Number.POSITIVE_INFINITY), 0);
  return inPairs(pass, 0) && inPairs(pass, pass.radices.length - 1);
}

/** Bytes of a complex point. */
export const pointBytes = { float32: 8, word: 4, pair: 4 } as const;

/** How a point of a kernel's spectrum lies in memory: as two float32, or as two float16, which a scale of the channel fits. */
export type SpectrumFormat = "float32" | "float16";

/**
 * The format of the kernel's spectra that a plan makes. Half precision in and out leaves room for float16, which rounds each
 * frequency by 2.1e-4 of itself, as results are rounded. It pays where a single pass fills a multiprocessor with one tile, which
 * waits for its spectrum: 16,384 points took 1.84 ms on an H200 in float32, and 1.60; less long ones gained 4 % at most. In pairs of
 * points with a common exponent, noise would err less, but a frequency that a filter stops, beside one that it lets pass, a hundred times more.
 */
export function spectrumFormat({ passes }: PassPlan, dtype: Dtype): SpectrumFormat {
  const waits = passes.length === 1 && passes[0]!.exchange === "quarter";
  return waits && dtype !== "float32" ? "float16" : "float32";
}

/** Bytes of a channel's spectrum: in float16 with its scale behind the points, up to where the next one may be bound. */
export function spectrumBytes(plan: PassPlan, format: SpectrumFormat): number {
  if (format === "float32") return workPoints(plan) * pointBytes.float32;
  return 4 * boundWords * Math.ceil((workPoints(plan) + 1) / boundWords);
}

/** Words from one place to the next where a buffer may be bound, on any device. */
const boundWords = 64;

/** The format of points between passes whose bar a plan's results keep to: spectra in float16 cost about what trips in pairs do. */
export function barFormat(plan: PassPlan, dtype: Dtype): PointFormat {
  return spectrumFormat(plan, dtype) === "float16" ? "pair" : pointFormat(plan, dtype);
}

/**
 * Which output of a butterfly stands at a place: its digit of the frequency. Digits stand in bit-reversed order, an odd factor
 * of the radix outermost. Then so do all points of a transform, whatever the radices that it is taken apart by, as long as an
 * odd factor belongs to the first of them; and plans of one length share their spectra.
 */
export function digitAt(place: number, radix: number): number {
  let odd = radix;
  while (odd % 2 === 0) odd /= 2;
  let reversed = 0;
  let rest = place;
  for (let n = radix / odd; n > 1; n /= 2) {
    reversed = 2 * reversed + (rest & 1);
    rest >>= 1;
  }
  return rest + odd * reversed;
}

/** Points of a pass's tile. */
const pointsOf = ({ radices, columns }: Pass): number => product(radices) * columns;

/** Sizes of every pass, outermost first. */
export const passLayouts: (plan: PassPlan) => readonly PassLayout[] = remembered(layoutsOf);

function layoutsOf(plan: PassPlan): PassLayout[] {
  const neighbours = plan.packing === "neighbours";
  let blocks = 1;
  let size = neighbours ? plan.points / 2 : plan.points;
  return plan.passes.map((pass, i) => {
    const rows = product(pass.radices);
    const rest = size / rows;
    const layout = {
      ...pass,
      ...{ blocks, size, rest },
      tilePoints: pointsOf(pass),
      tilesPerBlock: rest / pass.columns,
    };
    const apart = neighbours && i === 0;
    blocks *= apart ? rows / 2 + 1 : rows;
    size = apart ? 2 * rest : rest;
    return layout;
  });
}

/** Complex points of a transform in work memory, and of its spectrum. */
export function workPoints(plan: PassPlan): number {
  const { blocks, size } = passLayouts(plan).at(-1)!;
  return blocks * size;
}

/**
 * Where, among the R blocks that a pass splits a ring into, the `slot`-th stands that is kept of a real row: even places, whose
 * frequencies are less than R/2, and at last that of R/2.
 */
export const placeOfSlot = (slot: number, rows: number): number =>
  slot === rows / 2 ? 1 : 2 * slot;

/** For each place of a stage of some radix, that of the negative of its digit. */
export function mirrorPlaces(radix: number): number[] {
  const places = new Array<number>(radix);
  const digits = Array.from({ length: radix }, (_, place) => digitAt(place, radix));
  digits.forEach((digit, place) => {
    places[digit] = place;
  });
  return digits.map((digit) => places[(radix - digit) % radix]!);
}

/**
 * How the last of several stages that take neighbours apart is shared: blocks that are each other's mirror go to one thread,
 * and places 0 and 1, which are their own mirrors, to the first thread of each column.
 */
export interface Mirrored {
  /** Pairs of blocks: the first lies below its mirror. */
  readonly pairs: readonly (readonly [number, number])[];
  /** Threads that share a column; thread n takes pairs n, n + across, … */
  readonly across: number;
}

/** That of a pass; undefined where it has one stage. */
export function mirrored({ radices, threads, columns }: Pass): Mirrored | undefined {
  if (radices.length === 1) return undefined;
  const pairs: (readonly [number, number])[] = [[0, 1]];
  mirrorPlaces(product(radices.slice(0, -1))).forEach((mirror, place) => {
    if (place > 1 && place < mirror) pairs.push([place, mirror]);
  });
  return { pairs, across: threads / columns };
}

/** Most rows that take neighbours apart, in pairs of blocks that are listed. */
const mostApart = 4096;

/** Whether a pass can take neighbours apart: with a mirror of each frequency in the same thread. */
function takesApart(pass: Pass): boolean {
  const { radices } = pass;
  const rows = product(radices);
  // Mirrors are found by the digits of all radices as of one, whose odd factor comes first.
  if (radices[0]! % 2 !== 0 || !radices.slice(1).every(isPower) || rows > mostApart) return false;
  const found = mirrored(pass);
  if (!found) return true;
  const { pairs, across } = found;
  // Threads that share a column find their blocks by powers of two.
  const numbered = across === 1 || isPower(rows);
  return Number.isInteger(across) && pairs.length % across === 0 && numbered;
}

/** "rows 1048576: 32 /64 ×64·2 split | 16·16·16 ×256": columns after /, threads and tiles after ×, turns after @; outputs of a block last. */
export function formatPasses(plan: PassPlan): string {
  const passes = plan.passes.map((p) => {
    const columns = p.columns > 1 ? ` /${p.columns}` : "";
    const tiles = p.tiles > 1 ? `·${p.tiles}` : "";
    const split = p.exchange === "whole" ? "" : ` ${p.exchange}`;
    const turns = p.turns ? ` @${p.turns}` : "";
    return `${p.radices.join("·")}${columns} ×${p.threads}${tiles}${split}${turns}`;
  });
  const hop = plan.hop ? `, hop ${plan.hop}` : "";
  return `${plan.packing} ${plan.points}: ${passes.join(" | ")}${hop}`;
}

/** Inverse of formatPasses; undefined where the text is no plan that can run. */
export function parsePasses(text: string): PassPlan | undefined {
  const match = /^(halves|rows|neighbours) (\d+): (.+?)(?:, hop (\d+))?$/.exec(text.trim());
  if (!match) return undefined;
  const passes: Pass[] = [];
  for (const part of match[3]!.split(" | ")) {
    const pass =
      /^(\d+(?:·\d+)*)(?: \/(\d+))? ×(\d+)(?:·(\d+))?( split| quarter)?(?: @(\d+))?$/.exec(part);
    if (!pass) return undefined;
    passes.push({
      radices: pass[1]!.split("·").map(Number),
      columns: Number(pass[2] ?? 1),
      threads: Number(pass[3]),
      tiles: Number(pass[4] ?? 1),
      exchange: (pass[5]?.trim() ?? "whole") as Exchange,
      ...(pass[6] ? { turns: Number(pass[6]) } : {}),
    });
  }
  const plan: PassPlan = {
    ...{ points: Number(match[2]), packing: match[1] as Packing, passes },
    ...(match[4] && { hop: Number(match[4]) }),
  };
  return runnable(plan) ? plan : undefined;
}

/** Whether a number is a power of two. */
export const isPower = (n: number): boolean => (n & (n - 1)) === 0;

/**
 * Values of a thread that takes tiles in turn: with 40 of them, NVIDIA's compiler (driver 580.159) made one kernel out of a forward
 * pass of 5,120 points, float32, no gates, that got a point of each thread wrong; the same without turns, with gates or with other
 * radices was right, as were 1,650 other plans that were tried on an H200.
 */
const mostInTurn = 32;

/** Whether every tile divides its block and every stage its threads, and what goes by halves has halves. */
export function runnable(plan: PassPlan): boolean {
  const layouts = passLayouts(plan);
  const last = layouts.length - 1;
  return (
    layouts.every(
      (p, i) =>
        Number.isInteger(p.tilesPerBlock) &&
        // Columns of one point would take whole blocks for those of the last pass.
        (i < last ? p.columns > 1 : p.columns === 1 && p.rest === 1) &&
        p.radices.every((r) => r > 1 && p.tilePoints % (p.threads * r) === 0) &&
        (p.exchange !== "quarter" || [p.tilePoints, p.threads].every(isPower)) &&
        (p.turns === undefined || p.tilePoints / p.threads <= mostInTurn),
    ) &&
    last >= 0 &&
    (plan.packing !== "neighbours" || (last > 0 && takesApart(layouts[0]!)))
  );
}

/** Values that a thread should hold at most where it computes gradients: with more, U, G and the sums spill. */
export const gradientValues = 16;

/** The pass as gradients take it: with more threads, where one would hold too many values and the radices allow it. */
export function widened<P extends Pass>(pass: P, most: number): P {
  const threads = 2 * pass.threads;
  const points = pointsOf(pass);
  const fits = pass.radices.every((r) => points % (threads * r) === 0);
  const values = points / pass.threads;
  if (values <= gradientValues || !fits || threads * pass.tiles > most) return pass;
  return widened({ ...pass, threads }, most);
}
