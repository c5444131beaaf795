/**
 * The cost model of pass plans: Eq. 2 with the numbers of a GPU. A pass costs its arithmetic, its exchanges between stages and
 * its traffic with device memory or the cache in front of it, one after the other: tiles overlap, but what limits one
 * limits them all.
 */
import type { Dtype } from "../dtype.ts";
import { bytesPerSample } from "../dtype.ts";
import type { Cost } from "./cost.ts";
import { stageFlops } from "./cost.ts";
import type { DeviceSpec } from "./device.ts";
import type { PassLayout, PassPlan } from "./passes.ts";
import { passLayouts, pointBytes, pointFormat } from "./passes.ts";

/** What besides the plan decides a row's cost. */
export interface RowWork {
  /** Samples of an input and of an output row. */
  readonly length: number;
  readonly outputLength: number;
  readonly dtype: Dtype;
}

/**
 * How much longer a pass's own work takes than with 16 values a thread, exchanged by halves: fitted to 163 plans of 128 to
 * 2M points on an H200 (docs/cost-model.md). More registers or shared memory a thread leave fewer threads to hide latency.
 */
function crowding(pass: PassLayout, plan: PassPlan): number {
  const many = pass.tilePoints / pass.threads > 16;
  const whole = pass.exchange === "whole" && pass.radices.length > 1;
  const memory = whole ? (many ? 2.34 : 1.08) : 1;
  const registers = many ? (plan.passes.length > 1 ? 1.6 : 1.21) : 1;
  const meeting = pass.threads * pass.tiles > 256 ? 1.35 : 1;
  // Taking tiles in turn keeps the spectrum at hand, where a tile is long enough to be worth it.
  const turns = pass.turns ? (pass.tilePoints >= 2048 ? 0.94 : 1.1) : 1;
  return memory * registers * meeting * turns;
}

function passCost(
  pass: PassLayout,
  plan: PassPlan,
  traffic: { readonly io: number; readonly work: number },
  device: DeviceSpec,
): Cost {
  const { points } = plan;
  const flops =
    pass.radices.reduce((sum, r) => sum + stageFlops(points, r, "butterfly"), 0) +
    (pass.rest === 1 ? 8 * points : 0);
  const [shared, cache, memory] = device.memory;
  // Each boundary between stages is written and read, each way.
  const exchanged = (pass.radices.length - 1) * 4 * points * pointBytes.float32;
  const own = flops / device.generalFlops + points * device.pointSeconds;
  const arithmetic = own * crowding(pass, plan);
  const exchange = (exchanged / shared!.bandwidth) * crowding(pass, plan);
  const io = traffic.io / memory!.bandwidth + traffic.work / cache!.bandwidth;
  return {
    seconds: arithmetic + exchange + io,
    ...{ arithmetic, memory: exchange + io, overhead: 0, flops },
  };
}

/** Seconds of one row (of two rows, where they are packed together) on the whole device. */
export function passPlanCost(plan: PassPlan, work: RowWork, device: DeviceSpec): Cost {
  const layouts = passLayouts(plan);
  const rows = plan.packing === "rows" ? 2 : 1;
  const io = rows * (work.length + work.outputLength) * bytesPerSample(work.dtype);
  const total = { seconds: 0, arithmetic: 0, memory: 0, overhead: 0, flops: 0 };
  const workBytes = pointBytes[pointFormat(plan, work.dtype)];
  layouts.forEach((pass, i) => {
    const last = i === layouts.length - 1;
    // Passes between others read and write work memory both ways; the last also reads the spectrum.
    const trips = 2 * ((i > 0 ? 1 : 0) + (last ? 0 : 1));
    const traffic = {
      io: i === 0 ? io : 0,
      work: plan.points * (trips * workBytes + (last ? pointBytes.float32 : 0)),
    };
    const cost = passCost(pass, plan, traffic, device);
    for (const key of ["seconds", "arithmetic", "memory", "overhead", "flops"] as const) {
      total[key] += cost[key];
    }
  });
  return total;
}
