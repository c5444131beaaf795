/** Embeddings on a GPU: rows of a table by number, and the gradient of it. */
import type { ScatterSpread } from "../kernels/gpu/gather/kernel.ts";
import {
  gatherKernel,
  gatherThreads,
  idsAtOnce,
  scatterKernel,
} from "../kernels/gpu/gather/kernel.ts";
import { columnsBeside, rowSumsKernel } from "../kernels/gpu/rows/sums.ts";
import type { GpuLimits, Schedule, ScheduleStep } from "./schedule.ts";

/** What is gathered: y[r] = table[ids[r]], or the gradient, table[ids[r]] += dy[r]. */
export interface GatherProblem {
  readonly kind: "gather" | "scatterAdd";
  readonly rows: number;
  readonly columns: number;
  /** Rows of the table. */
  readonly entries: number;
  readonly table: "float32" | "float16";
  /** Storage of y or dy. */
  readonly cells: "float32" | "float16";
}

/** Workgroups that keep a large GPU busy, and the most memory that shares of a sum may take. */
const [manyGroups, mostPartials] = [528, 2 ** 26];

/** The launches of a gather or of its gradient. */
export function gatherSchedule(problem: GatherProblem, limits: GpuLimits): Schedule<string> {
  const { kind, rows, columns, entries, table, cells } = problem;
  const bytes = { float32: 4, float16: 2 };
  const whole = (buffer: string, size: number) => ({
    ...{ buffer, offset: 0, size: Math.ceil(size / 4) * 4 },
  });
  const ids = whole("ids", 4 * rows);
  const tableRange = whole("table", bytes[table] * entries * columns);
  const cellBytes = bytes[cells] * rows * columns;
  if (kind === "gather") {
    const paired = columns % 2 === 0;
    const all = (rows * columns) / (paired ? 2 : 1);
    const step: ScheduleStep<string> = {
      kernel: gatherKernel(table, cells, paired, limits),
      tiles: Math.ceil(all / gatherThreads),
      parameters: { columns: columns / (paired ? 2 : 1), all },
      ranges: { ids, table: tableRange, y: whole("y", cellBytes) },
    };
    return { steps: [step], bytes: {} };
  }
  const owned = limits.sharedBytes >= 32_768 ? 16 : 8;
  const [across, blocks] = [Math.ceil(columns / gatherThreads), Math.ceil(entries / owned)];
  const each = 4 * entries * columns;
  const slices = Math.max(
    1,
    Math.min(
      ...[Math.floor(manyGroups / (across * blocks)), Math.floor(mostPartials / each)],
      Math.ceil(rows / idsAtOnce),
    ),
  );
  const share = Math.ceil(rows / slices / idsAtOnce) * idsAtOnce;
  const spread: ScatterSpread = { entries: owned, shares: slices > 1 };
  const target = spread.shares ? "partials" : "table";
  const first: ScheduleStep<string> = {
    kernel: scatterKernel(cells, spread),
    tiles: across * blocks * slices,
    parameters: { rows, columns, entries, across, blocks, share },
    ranges: {
      ...{ ids, dy: whole("dy", cellBytes) },
      [target]: spread.shares ? whole("partials", slices * each) : tableRange,
    },
  };
  if (!spread.shares) return { steps: [first], bytes: {} };
  const second: ScheduleStep<string> = {
    kernel: rowSumsKernel(true),
    tiles: Math.ceil((entries * columns) / columnsBeside),
    parameters: { parts: slices, columns: entries * columns, offset: 0 },
    ranges: { partials: whole("partials", slices * each), sums: tableRange },
  };
  return { steps: [first, second], bytes: { partials: slices * each } };
}
