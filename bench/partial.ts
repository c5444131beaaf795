/** What records of kernels shorter than the input show: tables of time over K and of work memory, and the figure. */
import type { Verdict } from "./bars.ts";
import { gpuLine } from "./gpu-report.ts";
import { figure, panel, panelWidth, rangeOf, type Series } from "./plot.ts";
import type { BenchRecord } from "./records.ts";
import { barsTable, lengthName, machineLine, markdown, nanosecondsPerSample } from "./table.ts";
import type { GpuRecord } from "./webgpu.ts";
import { wholeKernel } from "./webgpu.ts";

const colors = ["#c2185b", "#1565c0", "#00796b", "#e65100"];

/** Whether these are records of `bench partial`. */
export function isPartial(records: readonly BenchRecord[]): boolean {
  return records.some(({ case: name }) => name === "partial" || name === "workspace");
}

const pick = (records: readonly BenchRecord[], name: string): BenchRecord[] =>
  records.filter((r) => r.case === name).sort((a, b) => a.threads - b.threads || b.K - a.K);

const megabytes = ({ workspace_bytes: bytes }: BenchRecord): string =>
  bytes === undefined ? "–" : (bytes / 1e6).toFixed(2);

/** Tables of `bench partial`: a row for each K, with what the longest takes over it; a row for each L; then the bars. */
export function partialTable(
  records: readonly BenchRecord[],
  verdicts: readonly Verdict[],
): string {
  const [first] = records;
  if (!first) return "No records.";
  const kernels = ["partial", "partial backward"].flatMap((name) => pick(records, name));
  const byKernel = kernels.map((r) => {
    const same = kernels.filter((o) => o.case === r.case && o.threads === r.threads);
    return [
      r.case === "partial" ? "forward" : "gradients",
      ...[lengthName(r.K), lengthName(r.L), String(r.B * r.H), String(r.threads)],
      ...[String(r.ours_ms), nanosecondsPerSample(r.ours_ms, r).toFixed(2)],
      `${(same[0]!.ours_ms / r.ours_ms).toFixed(2)}×`,
      ...[megabytes(r), r.rel_error.toExponential(1)],
    ];
  });
  const byLength = pick(records, "workspace").map((r) => [
    ...[lengthName(r.L), lengthName(r.K), String(r.threads), String(r.ours_ms)],
    ...[nanosecondsPerSample(r.ours_ms, r).toFixed(2), megabytes(r), r.rel_error.toExponential(1)],
  ]);
  const times = ["ms", "ns per sample"];
  const ends = ["work memory, MB", "error"];
  const titles = ["pass", "K", "L", "B·H", "threads", ...times, "speed of the longest", ...ends];
  return [
    `Kernels shorter than the input, causal, float32, medians; forward with both gates, gradients (du, dk) without. ${machineLine(first)}`,
    ...(byKernel.length > 0 ? [markdown(titles, byKernel)] : []),
    ...(byLength.length > 0 ? [markdown(["L", "K", "threads", ...times, ...ends], byLength)] : []),
    barsTable(verdicts),
  ].join("\n\n");
}

interface Part {
  readonly title: string;
  readonly machine: string;
  readonly series: readonly Series[];
}

/** Lines over K, from points by name. */
function seriesOf(points: ReadonlyMap<string, ReadonlyMap<number, number>>): Series[] {
  return [...points].map(([name, values], i) => ({
    ...{ name, color: colors[i % colors.length]!, dashed: name.includes("threads") },
    points: [...values].sort((a, b) => a[0] - b[0]),
  }));
}

function add(
  points: Map<string, Map<number, number>>,
  name: string,
  K: number,
  value: number,
): void {
  const values = points.get(name) ?? new Map<number, number>();
  // A record for each peer tells the same time of ours again.
  if (!values.has(K)) values.set(K, value);
  points.set(name, values);
}

function cpuPart(records: readonly BenchRecord[]): Part | undefined {
  const points = new Map<string, Map<number, number>>();
  const kernels = ["partial", "partial backward"].flatMap((name) => pick(records, name));
  for (const r of kernels) {
    const pass = r.case === "partial" ? "forward, gated" : "gradients";
    const name = r.threads === 1 ? pass : `${pass}, ${r.threads} threads`;
    add(points, name, r.K, nanosecondsPerSample(r.ours_ms, r));
  }
  const [first] = kernels;
  if (!first) return undefined;
  const title = `CPU, float32, L = ${lengthName(first.L)}, B·H = ${first.B * first.H}: ns a sample`;
  return { title, machine: machineLine(first), series: seriesOf(points) };
}

/** The rows of most samples that have several kernels, and the whole kernel of the same rows. */
function gpuPart(records: readonly GpuRecord[]): Part | undefined {
  const shorter = records.filter((r) => r.peer === wholeKernel && r.K < r.L);
  const samples = ({ B, H, L }: GpuRecord): number => B * H * L;
  const [first] = shorter.toSorted((a, b) => samples(b) - samples(a));
  if (!first) return undefined;
  const points = new Map<string, Map<number, number>>();
  const { B, H, L } = first;
  const picoseconds = (ms: number): number => (ms * 1e9) / samples(first);
  for (const r of shorter.filter((s) => s.B === B && s.H === H && s.L === L)) {
    const name = `${r.pass === "forward" ? "forward" : "gradients"}${r.gated ? ", gated" : ""}`;
    add(points, name, r.K, picoseconds(r.ours_ms));
    add(points, name, L, picoseconds(r.peer_ms!));
  }
  const title = `GPU, ${first.dtype}, L = ${lengthName(L)}, B·H = ${B * H}: ps a sample`;
  return { title, machine: gpuLine(first), series: seriesOf(points) };
}

/** Time per output sample against K: a panel for the CPU's records, one for a GPU's. */
export function partialPlot(cpu: readonly BenchRecord[], gpu: readonly GpuRecord[]): string {
  const parts = [cpuPart(cpu), gpuPart(gpu)].filter((part) => part !== undefined);
  if (parts.length === 0)
    throw new Error("bench plot: the records hold no kernel shorter than its input");
  return figure({
    name: "Time per output sample against the length of the kernel",
    headline: "Kernels shorter than the input, causal: time per output sample (lower is faster)",
    machine: parts.map(({ machine }) => machine).join(" · "),
    panels: parts.map(({ title, series }, i) =>
      panel({ title, axis: "K, taps", series }, i * panelWidth, rangeOf(series)),
    ),
  });
}
