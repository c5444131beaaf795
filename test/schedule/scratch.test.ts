/** Work memory of schedules in few buffers: no dispatch reads a part of one and writes another, and no two parts overlap. */
import { describe, expect, test } from "vitest";
import { createProblem } from "../../src/plan/create-problem.ts";
import type { ProblemOptions } from "../../src/plan/problem.ts";
import type { Schedule } from "../../src/schedule/schedule.ts";
import { layOutScratch } from "../../src/schedule/scratch.ts";
import { namedScheduler } from "../support/plans.ts";

const limits = {
  ...{ values: 32, alignment: 256, workspaceBytes: 2 ** 22, sharedBytes: 49_152, threads: 1024 },
  ...{ bindingBytes: 2 ** 31 - 4, bindings: 16, packs: true, shuffles: true, lanes: 32 },
};

const cases: readonly (readonly [string, ProblemOptions, string])[] = [
  ["one pass", { length: 256 }, "halves 256: 4·8·8 ×32·2 split"],
  ["two passes", { length: 256 }, "halves 256: 4 /16 ×16 | 8·8 ×8"],
  [
    "rows in pairs, with norms",
    { length: 1024, mode: "circular" },
    "rows 1024: 16 /16 ×16 | 8·8 ×8",
  ],
  ["the time domain", { length: 256, kernelLength: 9 }, "direct 9"],
];

/** Hold a layout to the rules of bindings; how many buffers it has. */
function check(schedule: Schedule, most: number): number {
  const { bytes, places } = layOutScratch(schedule, limits.alignment, most);
  const parts = Object.entries(schedule.bytes).map(([name, size]) => ({
    ...{ name, size, ...places.get(name as never)! },
  }));
  parts.forEach((a, i) => {
    expect(a.offset % limits.alignment).toBe(0);
    expect(a.offset + a.size).toBeLessThanOrEqual(bytes[a.index]!);
    for (const b of parts.slice(0, i).filter((p) => p.index === a.index))
      expect(a.offset >= b.offset + b.size || b.offset >= a.offset + a.size).toBe(true);
  });
  for (const { kernel, ranges } of schedule.steps) {
    const access = new Map<number, string>();
    for (const binding of kernel.bindings) {
      const place = places.get(ranges[binding.name]!.buffer);
      if (!place) continue;
      expect(access.get(place.index) ?? binding.access).toBe(binding.access);
      access.set(place.index, binding.access);
    }
  }
  return bytes.length;
}

describe("work memory", () => {
  test.each(cases)("%s", (_, options, plan) => {
    const problem = createProblem({ ...options, dtype: "float16" }, "test");
    const rows = { batch: 6, channels: 40 };
    const scheduler = namedScheduler(plan, problem, limits, rows);
    for (const taps of ["float32", undefined] as const) {
      const gates = { pregate: true, postgate: true, skip: true };
      const call = { ...rows, ...gates, taps, offsets: {} };
      for (const schedule of [scheduler.forward(call), scheduler.backward(call)]) {
        const parts = Object.keys(schedule.bytes).length;
        expect(check(schedule, 2 ** 30)).toBeLessThanOrEqual(Math.min(parts, 4));
        // Where a buffer may hold no more than one part, each has its own.
        expect(check(schedule, 1)).toBe(parts);
      }
    }
  });
});
