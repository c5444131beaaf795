/**
 * Where points lie in shared memory. Strides of powers of two meet in one bank; elements left out at two distances move them
 * apart. The layout taken is the one with the fewest bank conflicts, counted for subgroups of 32 threads and 32 banks of 4 bytes.
 */
import type { Mirrored, PassLayout } from "../../../plan/gpu/passes.ts";

/** How a stage's points lie in a tile. */
export interface StageSpread {
  readonly radix: number;
  readonly size: number;
  readonly rest: number;
  readonly each: number;
  readonly vector: number;
  /** Where mirrors meet in a thread: how its blocks are shared. */
  readonly mirrored?: Mirrored | undefined;
}

/** Elements left out: one after every `near`, and `gap` more after every `far`; 0 for none. */
export interface Pad {
  readonly near: number;
  readonly far: number;
  readonly gap: number;
}

/** Layout of a tile's exchanges in shared memory. */
export interface SharedLayout {
  /** For each boundary between stages. */
  readonly pads: readonly Pad[];
  /** Elements from one tile to the next. */
  readonly stride: number;
}

const banks = 32;
const lanes = 32;
const nears = [0, 64, 32, 16, 8, 4];
const fars = [64, 128, 256, 512, 1024];
const candidates: readonly Pad[] = nears.flatMap((near) => [
  { near, far: 0, gap: 0 },
  ...fars.flatMap((far) => [2, 4, 8, 16].map((gap) => ({ near, far, gap }))),
]);
/** Elements between tiles beyond a multiple of the banks, for tiles that share a subgroup. */
const gaps = [0, 1, 2, 4, 8, 16];

/** Index of a point. */
export function padded(point: number, { near, far, gap }: Pad): number {
  const one = near === 0 ? 0 : Math.floor(point / near);
  return point + one + (far === 0 ? 0 : gap * Math.floor(point / far));
}

/** Text of the index of a point. */
export function paddedText(x: string, { near, far, gap }: Pad): string {
  return `${x}${near ? ` + ${x} / ${near}u` : ""}${far ? ` + ${x} / ${far}u * ${gap}u` : ""}`;
}

/**
 * Points of a half of a block, where the exchange below a stage takes one half of every block after the other: those of its
 * butterflies' first outputs, then those of the others.
 */
export function foldOf(pass: PassLayout, outer: StageSpread): number | undefined {
  return pass.exchange === "quarter" ? outer.size / 2 : undefined;
}

/** Where a point lies among those of its half. */
export const folded = (point: number, half: number | undefined): number =>
  half === undefined ? point : Math.floor(point / (2 * half)) * half + (point % half);

/** Text of that. */
export const foldedText = (x: string, half: number | undefined): string =>
  half === undefined ? x : `${x} / ${2 * half}u * ${half}u + ${x} % ${half}u`;

/** Place in the tile of input q of butterfly i of thread t. */
export function place(pass: PassLayout, s: StageSpread, t: number, i: number, q: number): number {
  if (s.mirrored) {
    const { pairs, across } = s.mirrored;
    const block = pairs[Math.floor(t / s.rest) + across * (i >> 1)]![i & 1]!;
    return block * s.size + (t % s.rest) + q * s.rest;
  }
  const g = Math.floor(i / s.vector) * s.vector * pass.threads + t * s.vector + (i % s.vector);
  return Math.floor(g / s.rest) * s.size + (g % s.rest) + q * s.rest;
}

/** What the lanes of a subgroup access, one access after the other: each lane's tile, and its point among those exchanged. */
interface Accesses {
  readonly tiles: Int32Array;
  readonly points: Int32Array;
  /** Lanes of an access. */
  readonly lanes: number;
}

/** The accesses of a stage's points by the first subgroup. */
function accessesOf(pass: PassLayout, s: StageSpread, fold: number | undefined): Accesses {
  const active = Math.min(lanes, pass.threads * pass.tiles);
  const count = s.each * s.radix * active;
  const found = { tiles: new Int32Array(count), points: new Int32Array(count), lanes: active };
  for (let n = 0; n < count; n++) {
    const lane = n % active;
    const access = Math.floor(n / active);
    const i = Math.floor(access / s.radix);
    found.tiles[n] = Math.floor(lane / pass.threads);
    found.points[n] = folded(place(pass, s, lane % pass.threads, i, access % s.radix), fold);
  }
  return found;
}

/** Turns that the banks take for accesses of elements of so many words; two words of a lane make two turns. */
function turns(accesses: Accesses, pad: Pad, stride: number, words: 1 | 2): number {
  const { tiles, points } = accesses;
  let total = 0;
  const load = new Uint8Array(banks);
  for (let start = 0; start < points.length; start += accesses.lanes) {
    const end = start + accesses.lanes;
    for (let first = start; first < end; first += lanes / words) {
      load.fill(0);
      let most = 0;
      const last = Math.min(first + lanes / words, end);
      for (let n = first; n < last; n++) {
        const at = padded(points[n]!, pad) + tiles[n]! * stride;
        most = Math.max(most, ++load[(at * words) % banks]!);
      }
      total += most;
    }
  }
  return total;
}

/** The layout that takes the fewest turns and fits. */
export function sharedLayout(
  pass: PassLayout,
  stages: readonly StageSpread[],
  bytes: number,
): SharedLayout {
  if (stages.length < 2) return { pads: [], stride: 0 };
  const words = pass.exchange === "whole" ? 2 : 1;
  const room = Math.floor(bytes / (4 * words * pass.tiles));
  // No more than an eighth beyond the points: shared memory is what limits how many workgroups run at once.
  const points = pass.exchange === "quarter" ? pass.tilePoints / 2 : pass.tilePoints;
  const most = Math.min(room, Math.ceil(points * 1.125));
  const none = candidates[0]!;
  // Tiles that share a subgroup may stand at several distances; then the search keeps to pads of one distance.
  const together = pass.tiles > 1 && pass.threads < lanes;
  const wider = candidates.slice(1).filter((pad) => {
    return padded(points, pad) <= most && !(together && pad.far > 0);
  });
  const span = Math.max(...[none, ...wider].map((pad) => padded(points, pad)));
  const boundaries = stages.slice(1).map((stage, i) => {
    const sides = [stages[i]!, stage];
    const fold = foldOf(pass, stages[i]!);
    return {
      accesses: sides.map((side) => accessesOf(pass, side, fold)),
      least: words * sides.reduce((n, side) => n + side.each * side.radix, 0),
    };
  });
  let best = { pads: boundaries.map(() => none), stride: points };
  let fewest = Number.POSITIVE_INFINITY;
  for (const gap of together ? gaps : [0]) {
    const apart = pass.tiles > 1 ? Math.ceil(span / banks) * banks + gap : span;
    const fits = apart <= room;
    const stride = fits ? apart : points;
    let sum = 0;
    let ideal = 0;
    const pads = boundaries.map(({ accesses, least }) => {
      let chosen = none;
      let taken = Number.POSITIVE_INFINITY;
      for (const pad of fits ? [none, ...wider] : [none]) {
        const cost = accesses.reduce((n, side) => n + turns(side, pad, stride, words), 0);
        if (cost < taken) [chosen, taken] = [pad, cost];
        // Every access in one turn: there is nothing better.
        if (taken <= least) break;
      }
      sum += taken;
      ideal += least;
      return chosen;
    });
    if (sum < fewest) {
      const used = Math.max(...pads.map((pad) => padded(points, pad)));
      best = { pads, stride: pass.tiles > 1 ? stride : used };
      fewest = sum;
    }
    if (fewest <= ideal) break;
  }
  return best;
}
