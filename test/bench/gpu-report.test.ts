/** What `bench table` makes of records of a GPU: peers that are given the spectrum of k, and peers whose answers are wrong. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { gpuPlot, gpuTable } from "../../bench/gpu-report.ts";
import { caseName, compared, type GpuRecord, gpuCases, gpuKeptCases } from "../../bench/webgpu.ts";

const file = fileURLToPath(new URL("../../bench/results/h200.jsonl", import.meta.url));
const records = readFileSync(file, "utf8")
  .trim()
  .split("\n")
  .map((line): GpuRecord => JSON.parse(line));
const rowsOf = (table: string): string[] =>
  table.split("\n").filter((l) => /^\| \d+[KM]? /.test(l));

/** A record of a case that ThunderKittens has, with what it answered. */
function keptRecord(N: number, answer: { ms?: number[]; error: number }): GpuRecord {
  const c = gpuKeptCases().find((c) => c.N === N)!;
  const some = records.find((r) => r.dtype === "bfloat16" && r.N === N)!;
  return {
    ...{ ...some, case: caseName(c), mode: c.mode, gated: c.gated, kept_kernel: true, B: 64 },
    ...{ ours_ms: 0.8, over_floor: 4.3, rel_error: 1.7e-3 },
    ...compared(answer, "ThunderKittens", c.dtype, 0.8),
  };
}

test("a right answer is compared, a wrong one has its error and no time", () => {
  const right = compared({ ms: [0.5, 0.6, 0.9], error: 5.3e-3, bytes: 0 }, "p", "bfloat16", 0.8);
  expect(right).toMatchObject({ peer_ms: 0.6, ratio: 0.75, peer_rel_error: 5.3e-3 });
  const wrong = compared({ wrong: "y", error: 1.3 }, "p", "bfloat16", 0.8);
  expect(wrong).toMatchObject({ peer: "p", peer_ms: null, ratio: null, peer_rel_error: 1.3 });
});

test("cases whose kernel is kept say so, and have names of their own", () => {
  const names = [...gpuCases(false), ...gpuKeptCases()].map(caseName);
  expect(new Set(names).size).toBe(names.length);
  expect(gpuKeptCases().map(caseName)).toEqual([
    "circular forward N=1024 bfloat16, kernel kept",
    "circular forward N=4096 bfloat16, kernel kept",
  ]);
});

test("they have a table of their own and leave the other rows and the figure as they are", () => {
  const kept = [keptRecord(1024, { error: 1.3 }), keptRecord(4096, { ms: [0.547], error: 5.3e-3 })];
  const before = rowsOf(gpuTable(records));
  const after = rowsOf(gpuTable([...records, ...kept]));
  expect(after.filter((row) => !before.includes(row))).toEqual([
    "| 1K | 49152 | 0.8 | 4.3 | – | wrong | 1.7e-3 | 1.3e+0 |",
    "| 4K | 49152 | 0.8 | 4.3 | 0.547 | 0.7 | 1.7e-3 | 5.3e-3 |",
  ]);
  expect(after).toHaveLength(before.length + 2);
  expect(gpuPlot([...records, ...kept])).toBe(gpuPlot(records));
});

test("a wrong peer is so called in the table, and has no point in the figure", () => {
  const flash = (r: GpuRecord): boolean =>
    r.peer === "flash-fft-conv" && r.N === 4096 && r.case.startsWith("causal forward");
  const wrong = records.map((r) => (flash(r) ? { ...r, peer_ms: null, ratio: null } : r));
  const row = rowsOf(gpuTable(wrong)).find((l) => l.startsWith("| 4K "))!;
  expect(row.split(" | ")[4]).toBe("wrong");
  const points = (svg: string): number =>
    svg
      .match(/<polyline points="[^"]+"/g)!
      .join()
      .split(" ").length;
  expect(points(gpuPlot(records)) - points(gpuPlot(wrong))).toBe(1);
});
