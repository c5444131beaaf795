/**
 * The cost model of pass plans: Eq. 2 with the numbers of a GPU. Arithmetic and exchanges of a pass overlap with the memory
 * traffic of other tiles, and all of it with nothing else: a pass takes as long as its slowest resource and a share of the
 * others.
 */
import type { Dtype } from "../dtype.ts";
import { bytesPerSample } from "../dtype.ts";
import type { Cost } from "./cost.ts";
import { stageFlops } from "./cost.ts";
import type { DeviceSpec } from "./device.ts";
import type { PassLayout, PassPlan } from "./passes.ts";
import { passLayouts } from "./passes.ts";

/** What besides the plan decides a row's cost. */
export interface RowWork {
  /** Samples of an input and of an output row. */
  readonly length: number;
  readonly outputLength: number;
  readonly dtype: Dtype;
}

/** Bytes of a complex point in shared and in work memory. */
const pointBytes = 8;
/** Share of the shorter resources that does not hide behind the longest. */
const exposed = 0.35;

function passSeconds(
  pass: PassLayout,
  plan: PassPlan,
  traffic: { readonly io: number; readonly work: number },
  device: DeviceSpec,
): Cost {
  const { points } = plan;
  const last = pass.rest === 1;
  const flops =
    pass.radices.reduce((sum, r) => sum + stageFlops(points, r, "butterfly"), 0) +
    (last ? 8 * points : 0);
  const [shared, cache, memory] = device.memory;
  // Each boundary between stages is written and read, each way.
  const exchanged = (pass.radices.length - 1) * 4 * points * pointBytes;
  const values = pass.tilePoints / pass.threads;
  // Half as many threads in flight hide half as much.
  const crowding = values > 16 ? 1.15 : 1;
  const barriers = pass.exchange === "split" ? 1.05 : 1;
  const arithmetic = (flops / device.generalFlops) * crowding;
  const exchange = (exchanged / shared!.bandwidth) * barriers;
  const io = traffic.io / memory!.bandwidth + traffic.work / cache!.bandwidth;
  const parts = [arithmetic, exchange, io];
  const longest = Math.max(...parts);
  const seconds = longest + exposed * (parts[0]! + parts[1]! + parts[2]! - longest);
  return { seconds, arithmetic, memory: exchange + io, overhead: 0, flops };
}

/** Seconds of one row (of two rows, where they are packed together) on the whole device. */
export function passPlanCost(plan: PassPlan, work: RowWork, device: DeviceSpec): Cost {
  const layouts = passLayouts(plan);
  const rows = plan.packing === "rows" ? 2 : 1;
  const io = rows * (work.length + work.outputLength) * bytesPerSample(work.dtype);
  const total = { seconds: 0, arithmetic: 0, memory: 0, overhead: 0, flops: 0 };
  layouts.forEach((pass, i) => {
    const last = i === layouts.length - 1;
    const ends = (i === 0 ? io : 0) * 1;
    // Passes between others read and write work memory both ways; the last also reads the spectrum.
    const trips = 2 * ((i > 0 ? 1 : 0) + (last ? 0 : 1));
    const traffic = {
      io: ends,
      work: trips * plan.points * pointBytes + (last ? plan.points * 8 : 0),
    };
    const cost = passSeconds(pass, plan, traffic, device);
    for (const key of ["seconds", "arithmetic", "memory", "overhead", "flops"] as const) {
      total[key] += cost[key];
    }
  });
  return total;
}
