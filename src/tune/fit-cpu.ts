/**
 * What `tune` makes of the times that rows took. Every number is a difference of times, so that whatever else runs on a
 * machine can make it anything: a number that is not within a plausible range of the default's is measured again, and in
 * the end left out.
 */
import type { DeviceSpec, MemoryLevel } from "../plan/device.ts";

/** Transforms that are timed: points and radices, as plans name them. */
const rows = {
  least: "16: 4",
  base: "256: 4·4·4",
  4: "1024: 4·4·4·4",
  2: "512: 2·4·4·4",
  3: "768: 3·4·4·4",
  5: "1280: 5·4·4·4",
  7: "1792: 7·4·4·4",
} as const;

const oddRadices = [2, 3, 5, 7] as const;

/** Transforms whose one-level plans sweep one memory level each: bits of their points. */
const sweeps: Readonly<Record<string, number>> = { L2: 14, L3: 18, DRAM: 23 };

/** One-level plan of 2^bits points. */
function sweepPlan(bits: number): string {
  const stages = bits - 2;
  const radices = [...(stages % 2 ? [2] : []), ...new Array<number>(stages >> 1).fill(4)];
  return `${2 ** bits}: ${radices.join("·")}`;
}

/** A row to time. */
interface TimedRow {
  readonly plan: string;
  readonly what: string;
}

/** All that are timed, those of one size after one another. */
export const timedRows: readonly TimedRow[] = [
  { plan: rows.least, what: "the cost of a row" },
  { plan: rows.base, what: "a row of 256 points" },
  ...([4, ...oddRadices] as const).map((r) => ({ plan: rows[r], what: `radix ${r}` })),
  ...Object.entries(sweeps).map(([level, bits]) => ({
    plan: sweepPlan(bits),
    what: `sweeps through ${level}`,
  })),
];

/** A machine as its times describe it. */
export interface Fit {
  readonly device: DeviceSpec;
  /** Numbers that the times do not give, which are the default machine's, arithmetic at this one's speed: "radix 3", "points", "rows", "DRAM". */
  readonly defaults: readonly string[];
  /** Plans whose times those rest on. */
  readonly doubtful: readonly string[];
  /** Whether so many are left that the times say nothing of the machine. */
  readonly useless: boolean;
}

/**
 * How far from the default's, at the speed of a row of 256 points, a number of operations may be: processors differ in how
 * radices compare, but a stage of radix 3 or 5 does not cost a tenth of its operations, as it seemed to on a busy machine.
 */
const arithmeticRange = [0.5, 4] as const;
/** The speed itself: from a processor four times as fast as the default to one thirty times as slow. */
const speedRange = [1 / 4, 30] as const;
/** What starting a row may cost: calls differ more than arithmetic does. */
const rowRange = [1 / 8, 40] as const;
/** Bandwidths: caches are as large as what another machine's memory is asked for, so the last level may be a cache's. */
const bandwidthRange = [1 / 30, 40] as const;
/** A level is at most so much faster than the one before it; both may cost nothing next to arithmetic. */
const fasterThanInner = 1.5;
/** A sweep takes no less than this share of its arithmetic, which otherwise was measured too high. */
const leastSweep = 0.9;
/** A sweep's memory is told from its arithmetic down to this share of it. */
const resolution = 0.02;

const within = (value: number, from: number, [low, high]: readonly [number, number]): boolean =>
  value >= low * from && value <= high * from;

/**
 * The description of a machine on which a row of each plan takes `seconds`.
 * @param reference the default machine, whose numbers stand where times give none.
 * @param bytes sizes of caches by level, where they are known.
 */
export function fitDevice(
  seconds: (plan: string) => number,
  reference: DeviceSpec,
  bytes: Readonly<Record<string, number>>,
): Fit {
  const defaults: string[] = [];
  const doubtful = new Set<string>();
  let numbers = 0;
  /** The measured value, or, where it is not plausible, the other one. */
  const settle = (
    name: string,
    value: number,
    plausible: boolean,
    otherwise: number,
    plans: readonly string[],
  ): number => {
    numbers++;
    if (plausible) return value;
    defaults.push(name);
    for (const plan of plans) doubtful.add(plan);
    return otherwise;
  };
  const points = reference.pointSeconds;
  const fours = reference.butterflySeconds[4]!;
  const started = seconds(rows.least) - 16 * points;
  const usualStart = reference.rowSeconds;
  const startable = within(started, usualStart, rowRange);
  const rowSeconds = settle("rows", started, startable, usualStart, [rows.least]);
  // row = rowSeconds + points·(pointSeconds + Σ stages): two sizes that differ by one stage give both.
  const perPoint = (plan: string): number =>
    (seconds(plan) - rowSeconds) / Number.parseInt(plan, 10);
  const at256 = perPoint(rows.base);
  const speed = at256 / (points + 3 * fours);
  const known = within(speed, 1, speedRange);
  const arithmetic = (name: string, value: number, usual: number, plan: string): number =>
    settle(name, value, known && within(value, speed * usual, arithmeticRange), speed * usual, [
      ...[rows.least, rows.base, plan],
    ]);
  const four = arithmetic("radix 4", perPoint(rows[4]) - at256, fours, rows[4]);
  const pointSeconds = arithmetic("points", at256 - 3 * four, points, rows[4]);
  const butterflySeconds: Record<number, number> = { 4: four };
  for (const radix of oddRadices) {
    const usual = reference.butterflySeconds[radix]!;
    const value = perPoint(rows[radix]) - at256;
    butterflySeconds[radix] = arithmetic(`radix ${radix}`, value, usual, rows[radix]);
  }
  const [first, ...others] = reference.memory;
  const memory: MemoryLevel[] = [{ ...first!, bytes: bytes[first!.name] ?? first!.bytes }];
  for (const level of others) {
    const bits = sweeps[level.name]!;
    const plan = sweepPlan(bits);
    const count = 2 ** bits;
    const [stages, odd] = [(bits - 2) >> 1, (bits - 2) % 2];
    const operations = count * (pointSeconds + stages * four + odd * butterflySeconds[2]!);
    const taken = seconds(plan) - rowSeconds;
    const lost = Math.max(resolution * operations, taken - operations);
    const bandwidth = ((stages + odd + 1) * 4 * count * reference.bytesPerPoint) / lost;
    const plausible =
      taken >= leastSweep * operations &&
      within(bandwidth, level.bandwidth, bandwidthRange) &&
      bandwidth <= fasterThanInner * memory.at(-1)!.bandwidth;
    memory.push({
      ...level,
      bytes: bytes[level.name] ?? level.bytes,
      bandwidth: settle(level.name, bandwidth, plausible, level.bandwidth, [plan]),
    });
  }
  return {
    device: { ...reference, butterflySeconds, pointSeconds, memory, rowSeconds },
    ...{ defaults, doubtful: [...doubtful] },
    useless: !known || 2 * defaults.length > numbers,
  };
}
