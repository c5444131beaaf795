/**
 * Streams: convolution of a sequence without end, a block at a time, by uniformly partitioned overlap-save in levels.
 *
 * A level cuts its share of the taps into partitions and its input into blocks of `hop` samples. Each block is
 * transformed once; its spectrum is kept and meets partition q when it is q blocks old, so that an output block costs one
 * transform there, one product a partition, and one transform back (Stockham's and Kulp's partitioned convolution). Where
 * there are many more taps than a block has samples, later taps go to levels of longer blocks (Gardner 1995): the taps
 * of a level of hop N begin at 2N, so that its work on a block may be spread over the next N samples and no call is late.
 */

import type { DeviceSpec } from "../device.ts";
import type { Part } from "../geometry.ts";
import { blockPlans, transformable } from "./candidates.ts";
import { planCost } from "./cost.ts";
import type { TransformPlan } from "./plan.ts";
import { formatTransform } from "./plan.ts";

/** One level of a stream. */
export interface StreamLevel {
  /** The transform of a block and of a partition. */
  readonly plan: TransformPlan;
  /** Samples of a block: what goes in and comes out of the level at a time. */
  readonly hop: number;
  /** First tap of the level, in the order of lags. */
  readonly first: number;
  /** Taps of a partition: `hop` of them, or all of a level with one. */
  readonly taps: number;
  /** How many. */
  readonly partitions: number;
}

/** A level's hop is so many times that of the level before. */
const ratio = 16;
/** Seconds that one point of a product of spectra and its sum take: 24 bytes of the third-level cache. */
const productSeconds = 1e-9;
/** Blocks for throughput: what a level takes in memory is a few times this many points a row. */
const blockPoints = { least: 1024, most: 65_536 } as const;

function cheapestPlan(points: number, device: DeviceSpec): TransformPlan {
  const seconds = (plan: TransformPlan): number => planCost(plan, device).seconds;
  return blockPlans(points).reduce((a, b) => (seconds(b) < seconds(a) ? b : a));
}

/** Seconds of one block of a level. */
export function levelSeconds({ plan, partitions }: StreamLevel, device: DeviceSpec): number {
  return planCost(plan, device).seconds + partitions * plan.points * productSeconds;
}

/** Whether blocks of so many samples can be streamed. */
export function streamable(blockLength: number): boolean {
  return transformable(blockLength);
}

/** Levels for blocks of `hop` samples, from the first tap on. */
function levelsOf(taps: number, hop: number, device: DeviceSpec): StreamLevel[] {
  const levels: StreamLevel[] = [];
  for (let [first, size] = [0, hop]; ; size *= ratio) {
    const end = taps - first > 2 * ratio * size ? 2 * ratio * size : taps;
    const partitions = Math.ceil((end - first) / size);
    levels.push({ plan: cheapestPlan(size, device), hop: size, first, taps: size, partitions });
    if (end === taps) return levels;
    first = end;
  }
}

/** One level whose blocks take the least time a sample. */
function fastest(taps: number, device: DeviceSpec): StreamLevel {
  let best: StreamLevel | undefined;
  const rate = (l: StreamLevel): number => levelSeconds(l, device) / l.hop;
  for (let points: number = blockPoints.least; points <= blockPoints.most; points *= 2) {
    const whole = 2 * points - taps + 1;
    const plan = cheapestPlan(points, device);
    const level =
      whole >= points
        ? { plan, hop: whole, first: 0, taps, partitions: 1 }
        : { plan, hop: points, first: 0, taps: points, partitions: Math.ceil(taps / points) };
    if (!best || rate(level) < rate(best)) best = level;
  }
  return best!;
}

/** The levels of a stream: for blocks of `blockLength` samples, or for the most samples a second. */
export function streamLevels(
  taps: number,
  blockLength: number | undefined,
  device: DeviceSpec,
): StreamLevel[] {
  return blockLength === undefined ? [fastest(taps, device)] : levelsOf(taps, blockLength, device);
}

/** Where a level's samples stand: a block ends with its own `hop`, which are the outputs that nothing has wrapped to. */
export function streamPart({ plan, hop, taps }: StreamLevel): Part {
  const positions = 2 * plan.points;
  return {
    inputs: [{ index: 0, count: positions, position: 0, sign: 1 }],
    taps: [{ index: 0, count: taps, position: 0, sign: 1 }],
    outputs: [{ index: 0, count: hop, position: positions - hop, sign: 1 }],
    ...{ positions, exact: true, scale: 1 },
  };
}

/** "128 × 32 in 128: 2·4·4 | …": block, partitions and transform of each level. */
export function formatStream(levels: readonly StreamLevel[]): string {
  return levels.map((l) => `${l.hop} × ${l.partitions} in ${formatTransform(l.plan)}`).join(" ; ");
}
