/**
 * The cost model of pass plans: Eq. 2 with the numbers of a GPU. A pass costs its arithmetic, its exchanges between stages and
 * its traffic with device memory or the cache in front of it, one after the other: tiles overlap, but what limits one
 * limits them all. Its factors, and what it adds in seconds a point, were fitted on the default GPU: on another one the seconds
 * follow that one's arithmetic, or its cache where they are about places in memory.
 */
import type { Dtype } from "../../dtype.ts";
import { bytesPerSample } from "../../dtype.ts";
import type { Cost } from "../cpu/cost.ts";
import { stageFlops } from "../cpu/cost.ts";
import type { DeviceSpec } from "../device.ts";
import { defaultGpu } from "../device.ts";
import type { KeptFrequencies } from "../frequencies.ts";
import { keptShares } from "./kept-blocks.ts";
import type { PassLayout, PassPlan, PointFormat } from "./passes.ts";
import { gradientValues, passLayouts, pointBytes, pointFormat, widened } from "./passes.ts";

/** What besides the plan decides a row's cost. */
export interface RowWork {
  /** Samples of an input and of an output row. */
  readonly length: number;
  readonly outputLength: number;
  readonly dtype: Dtype;
  /** Frequencies that are kept; blocks of the other ones are left out. */
  readonly frequencies?: KeptFrequencies | undefined;
  /** For gradients, the most threads of a workgroup, which share a tile where one thread would hold too many values. */
  readonly gradientThreads?: number | undefined;
}

/** Threads of a workgroup that leave each enough registers for gradients: compilers give those of 512 half as many. */
const gradientThreadsMost = 256;

/**
 * How much longer a gradient kernel takes than others do, where registers have no room for all its values: gradients of 8,192
 * points took 21.5 ps a point on an H200 (28 in two passes), of 16,384 in one pass 55 (29), of 2M with last passes of 8,192
 * 101. Where they have room, gradients take 2.5 to 2.7 times the forward pass, whatever the plan.
 */
const spilling = { single: 1.35, large: 2.2, several: 3.4, waiting: 1.15 };

/** Values of a thread that leave room for gradients whatever the threads. */
const fewValues = 8;

/** How much longer a gradient kernel takes for what its registers have no room for. */
function spilled(pass: PassLayout, plan: PassPlan): number {
  const values = pass.tilePoints / pass.threads;
  const large = pass.threads * pass.tiles > gradientThreadsMost;
  // Eight values have room in large workgroups too, but few of these run at once.
  if (values <= fewValues) return large ? spilling.waiting : 1;
  if (values <= gradientValues && !large) return 1;
  if (plan.passes.length > 1) return spilling.several;
  return large ? spilling.large : spilling.single;
}

/**
 * How much longer a pass's own work takes than with 16 values a thread, exchanged by halves: fitted to some 430 timings of 128 to
 * 4M points on an H200 (docs/cost-model.md). More registers or shared memory a thread leave fewer threads to hide latency.
 */
function crowding(
  pass: PassLayout,
  plan: PassPlan,
  { gradient, format }: { readonly gradient: boolean; readonly format: PointFormat },
): number {
  const values = pass.tilePoints / pass.threads;
  const whole = pass.exchange === "whole" && pass.radices.length > 1;
  const memory = whole ? (values > 16 ? 2.55 : 1.21) : 1;
  const single = plan.passes.length === 1;
  const last = format === "pair" ? 1.4 : 1.6;
  const many = single ? (pass.tilePoints >= 4096 ? 1.2 : 1.4) : pass.rest === 1 ? last : 1.8;
  const registers = values > 16 ? many : values < 16 ? 0.84 : 1;
  // Large workgroups wait for one another; by halves of halves they do so four times as often (9.8 ps a point at 16,384).
  const large = pass.threads * pass.tiles > 256 ? 1.55 : 1;
  const meeting = pass.exchange === "quarter" ? 1.9 : large;
  // Two tiles that wait for each other at every exchange (last passes of 512 points: 7.4 ps a point, 5.7 alone).
  const coupled = !single && pass.tiles > 1 && pass.radices.length > 1 ? 1.2 : 1;
  // Taking tiles in turn keeps the spectrum at hand, where a tile is long enough to be worth it.
  const turns = pass.turns ? (pass.tilePoints >= 2048 ? 0.93 : 1.05) : 1;
  // Gradients of 8 values a thread have half the registers and instructions of those of 16, which pays where workgroups are small:
  // 512 and 1,024 points took 0.77 and 0.88 of the time of 1,024 with 16.
  const small = values <= fewValues && pass.threads <= 128 && pass.tiles === 1;
  const light = gradient && !single && pass.rest === 1 && small;
  // Elsewhere a fourth stage was dearer than its exchange: 1.0 to 1.5 times the best of three.
  const deep = light ? 0.72 : pass.radices.length > 3 ? 1.3 : 1;
  // Between device memory and device memory in one launch: what a pass reads and writes hides behind what it computes.
  const alone = single ? 0.77 : 1;
  return memory * registers * meeting * coupled * turns * deep * alone;
}

/** How much longer a device's arithmetic takes than that of the GPU of the fit. */
const ownTime = (device: DeviceSpec): number => device.pointSeconds / defaultGpu.pointSeconds;

/** How much longer its cache takes. */
const cacheTime = ({ memory }: DeviceSpec): number =>
  defaultGpu.memory[1]!.bandwidth / memory[1]!.bandwidth;

/**
 * What single passes of whole rows pay of the bytes of float32: they compute as long as for half precision, and hide more of them (512
 * points took 0.139 and 0.127 ms, which was priced at 0.187 and 0.144).
 */
const paidFloat32 = 0.7;

/** Seconds a point that measuring the rows of pairs takes, on chip or in a pass of its own: the same fit. */
const measuring = { single: 0.75e-12, several: 3.15e-12 };

/**
 * What fewer columns than these, whose samples are part of a line of 128 bytes, and what more of them cost a point more: the
 * same fit.
 */
const wholeLine = { columns: 32, neighbours: 0.4e-12, others: 0.15e-12, more: 0.3e-12 };

/** What columns of so many rows or more, far strides, cost a point more: the same fit. Most first. */
const farRows = {
  neighbours: [
    [256, 1.38e-12],
    [128, 0.2e-12],
  ],
  others: [
    [256, 0.6e-12],
    [128, 0.35e-12],
    [64, 0.5e-12],
  ],
} as const;

/** What of that remains where points wait as float32, whose columns fill twice as many lines. */
const float32Far = 0.5;

/** What first passes of so many threads cost a point more, where rows are not packed as neighbours: the same fit. */
const largeFirst = { threads: 256, more: 0.8e-12 };

/** What last passes of several with so many points or more cost a point more: the same fit. Most first. */
const longLast = [
  [4096, 2.93e-12],
  [2048, 0.7e-12],
  [1024, 0.35e-12],
] as const;

/** The price of the first step that a size reaches. */
const stepOf = (steps: readonly (readonly [number, number])[], size: number): number =>
  steps.find(([least]) => size >= least)?.[1] ?? 0;

/** What the same fit adds, in seconds a point, to passes of several. */
function distance(pass: PassLayout, plan: PassPlan, format: PointFormat): number {
  if (plan.passes.length === 1) return 0;
  if (pass.rest === 1) return stepOf(longLast, pass.tilePoints);
  const packing = plan.packing === "neighbours" && pass.blocks === 1 ? "neighbours" : "others";
  const { columns, more } = wholeLine;
  const short = pass.blocks === 1 && pass.columns < columns ? wholeLine[packing] : 0;
  const long = pass.columns > columns ? more : 0;
  const large =
    packing === "others" && pass.threads * pass.tiles >= largeFirst.threads ? largeFirst.more : 0;
  const far = stepOf(farRows[packing], pass.tilePoints / pass.columns);
  return short + long + large + (format === "float32" ? float32Far : 1) * far;
}

/**
 * Seconds that a trip of a point through work memory takes longer in pairs than in words, which the fit has in what it says of
 * passes: less in the first and the last pass, whose other end is something else (2,048 points 1.17 instead of 1.32 ms for
 * 201M), more in a pass between others.
 */
const pairing = { outer: -0.2e-12, between: 0.15e-12 };

/** Bytes of a pass's traffic with device memory, and with work memory, which a cache may hold; and seconds of packing points. */
interface Traffic {
  readonly io: number;
  /** The share of the first that is not hidden. */
  readonly paid: number;
  readonly work: number;
  readonly packing: number;
  /** How points lie in work memory. */
  readonly format: PointFormat;
}

/** The cost of a pass whose blocks are left to a share. */
function passCost(
  pass: PassLayout,
  plan: PassPlan,
  traffic: Traffic,
  share: number,
  device: DeviceSpec,
  gradient: boolean,
): Cost {
  const points = pass.blocks * pass.size * share;
  const flops =
    pass.radices.reduce((sum, r) => sum + stageFlops(points, r), 0) +
    (pass.rest === 1 ? 8 * points : 0);
  const [shared, cache, memory] = device.memory;
  // Each boundary between stages is written and read, each way.
  const exchanged = (pass.radices.length - 1) * 4 * points * pointBytes.float32;
  const own = flops / device.generalFlops + points * device.pointSeconds;
  const longer = gradient && pass.rest === 1 ? spilled(pass, plan) : 1;
  const crowded = crowding(pass, plan, { gradient, format: traffic.format }) * longer;
  const arithmetic = own * crowded + traffic.packing;
  const exchange = (exchanged / shared!.bandwidth) * crowded;
  // What spills goes the way of all other traffic.
  const io =
    longer *
    ((traffic.paid * traffic.io) / memory!.bandwidth +
      traffic.work / cache!.bandwidth +
      points * distance(pass, plan, traffic.format) * cacheTime(device));
  return {
    seconds: arithmetic + exchange + io,
    ...{ arithmetic, memory: exchange + io, overhead: 0, flops },
  };
}

/** A cost with the bytes that are read and written. */
type PassCost = Cost & { readonly bytes: number };

/** Costs of a plan's passes, for one row, or two where they are packed together, on the whole device. */
function passCosts(plan: PassPlan, work: RowWork, device: DeviceSpec): PassCost[] {
  const { gradientThreads } = work;
  const gradient = gradientThreads !== undefined;
  const layouts = passLayouts(plan).map((pass) =>
    gradient && pass.rest === 1 ? widened(pass, gradientThreads) : pass,
  );
  const rows = plan.packing === "rows" ? 2 : 1;
  const io = rows * (work.length + work.outputLength) * bytesPerSample(work.dtype);
  const format = pointFormat(plan, work.dtype);
  const shares = keptShares(plan, work.frequencies);
  const stored = layouts.at(-1)!.blocks * layouts.at(-1)!.size;
  return layouts.map((pass, i) => {
    const last = i === layouts.length - 1;
    // Passes between others read and write work memory both ways; the last also reads the spectrum.
    const trips = 2 * ((i > 0 ? shares[i]! : 0) + (last ? 0 : shares[i + 1]!));
    // Spectra in float16 have half as many, which the fit does not see: blocks of 16,384 points took 1.15 times what it said then.
    const spectrum = last ? shares[i]! * pointBytes.float32 : 0;
    const traffic = {
      io: i === 0 ? io : 0,
      paid: layouts.length === 1 && work.dtype === "float32" && !plan.hop ? paidFloat32 : 1,
      work: stored * (trips * pointBytes[format] + spectrum),
      packing:
        format === "pair"
          ? stored * trips * pairing[i === 0 || last ? "outer" : "between"] * ownTime(device)
          : 0,
      format,
    };
    const cost = {
      ...passCost(pass, plan, traffic, shares[i]!, device, gradient),
      bytes: traffic.io + traffic.work,
    };
    if (i > 0 || rows === 1) return cost;
    const each = layouts.length === 1 ? measuring.single : measuring.several;
    const measure = plan.points * each * ownTime(device);
    return { ...cost, seconds: cost.seconds + measure, memory: cost.memory + measure };
  });
}

/** The cost of one row (of two rows, where they are packed together). */
export function passPlanCost(plan: PassPlan, work: RowWork, device: DeviceSpec): PassCost {
  const total = { seconds: 0, arithmetic: 0, memory: 0, overhead: 0, flops: 0, bytes: 0 };
  for (const cost of passCosts(plan, work, device)) {
    for (const key of ["seconds", "arithmetic", "memory", "overhead", "flops", "bytes"] as const) {
      total[key] += cost[key];
    }
  }
  return total;
}

/** The cheapest pass of each position, out of plans that take the same rows apart in each. */
export function cheapestPasses(
  plans: readonly PassPlan[],
  work: RowWork,
  device: DeviceSpec,
): PassPlan {
  const costs = plans.map((plan) => passCosts(plan, work, device));
  const [first] = plans;
  const passes = first!.passes.map((_, i) => {
    let best = 0;
    costs.forEach((cost, p) => {
      if (cost[i]!.seconds < costs[best]![i]!.seconds) best = p;
    });
    return plans[best]!.passes[i]!;
  });
  return { ...first!, passes };
}
