/** What `bench plot` and `bench table` make of the committed records of kernels shorter than the input. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { judge } from "../../bench/bars.ts";
import { partialPlot, partialTable } from "../../bench/partial.ts";
import { readRecords } from "../../bench/records.ts";
import type { GpuRecord } from "../../bench/webgpu.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const cpu = readRecords(`${root}/bench/results/partial-epyc-node20.jsonl`);
const gpu = readRecords(`${root}/bench/results/h200.jsonl`) as object[] as GpuRecord[];

test("the figure in docs is that of the records: each kernel on its line", () => {
  const svg = partialPlot(cpu, gpu);
  expect(svg).toBe(readFileSync(`${root}/docs/bench-partial.svg`, "utf8"));
  const lines = [...svg.matchAll(/<polyline points="([^"]+)"/g)].map(([, p]) => p!.split(" "));
  expect(lines.map((points) => points.length)).toEqual([5, 5, 8, 2]);
  expect(partialPlot(cpu, [])).toContain("ns a sample");
  expect(partialPlot([], gpu)).toContain("ps a sample");
  expect(() => partialPlot([], [])).toThrow("no kernel shorter than its input");
});

test("the table has a row for each record, and the bars", () => {
  const table = partialTable(cpu, judge(cpu));
  const rows = table.split("\n").filter((line) => /^\| (forward|gradients|\d+K|\d+M) /.test(line));
  expect(rows).toHaveLength(cpu.length);
  expect(table).toContain("| forward | 1K | 64K | 16 | 1 | 3.633 | 3.46 | 1.59× | 0.22 | 2.2e-7 |");
  expect(table).toContain("| workspace, 1K taps");
});
