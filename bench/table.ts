/** Records and verdicts as text: lines for a terminal, tables for docs/speed.md. */
import type { Verdict } from "./bars.ts";
import type { BenchRecord } from "./records.ts";

/** 1024 → 1K, 1,048,576 → 1M, 48,502 → 48,502. */
export function lengthName(length: number): string {
  if (length % (1 << 20) === 0) return `${length >> 20}M`;
  return length % 1024 === 0 ? `${length >> 10}K` : length.toLocaleString("en-US");
}

export function nanosecondsPerSample(ms: number, { B, H, L }: BenchRecord): number {
  return (ms * 1e6) / (B * H * L);
}

const columns: readonly [title: string, width: number][] = [
  ["case", -9],
  ["mode", -8],
  ["B·H", 6],
  ["L", 8],
  ["threads", 8],
  ["data", -9],
  ["ours ms", 10],
  ["ns/sample", 10],
  ["peer", -15],
  ["peer ms", 10],
  ["ratio", 8],
  ["error", 9],
  ["predicted", 10],
  ["plan", -1],
];

function line(cells: readonly string[]): string {
  const padded = cells.map((cell, index) => {
    const width = columns[index]![1];
    return width < 0 ? cell.padEnd(-width) : cell.padStart(width);
  });
  return padded.join(" ").trimEnd();
}

export function header(): string {
  return line(columns.map(([title]) => title));
}

/** Three significant digits. */
const short = (x: number): string => (x >= 100 ? x.toFixed(0) : x.toPrecision(3));

export function recordLine(record: BenchRecord): string {
  return line([
    record.case,
    record.mode,
    `${record.B}·${record.H}`,
    lengthName(record.L),
    String(record.threads),
    record.data,
    short(record.ours_ms),
    nanosecondsPerSample(record.ours_ms, record).toFixed(2),
    record.peer ?? "",
    record.peer_ms === null ? "" : short(record.peer_ms),
    record.ratio === null ? "" : record.ratio.toFixed(2),
    record.rel_error.toExponential(1),
    short(record.predicted_ms),
    record.gb_per_s === undefined ? record.plan : `${record.plan}, ${record.gb_per_s} GB/s`,
  ]);
}

export function verdictLine({ bar, wanted, measured, met }: Verdict): string {
  if (met === undefined) return `not measured  ${bar}`;
  return `${(met ? "met" : "NOT MET").padEnd(13)} ${bar}: ${measured}, wanted ${wanted}`;
}

export function markdown(titles: readonly string[], rows: readonly (readonly string[])[]): string {
  const row = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  return [row(titles), row(titles.map(() => "---")), ...rows.map(row)].join("\n");
}

/** Which record fills a column of the table. */
interface Column {
  readonly title: string;
  readonly cell: (records: readonly BenchRecord[]) => string | undefined;
}

function ratioColumn(title: string, find: (record: BenchRecord) => boolean): Column {
  return {
    title,
    cell: (records) => {
      const ratio = records.find(find)?.ratio;
      return ratio == null ? undefined : `${ratio.toPrecision(ratio < 10 ? 2 : 3)}×`;
    },
  };
}

function tableColumns(most: number): Column[] {
  const time = (threads: number): Column => ({
    title: `ns per sample, ${threads} thread${threads > 1 ? "s" : ""}`,
    cell: (records) => {
      const found = records.find((r) => r.threads === threads && r.data === "resident");
      return found && nanosecondsPerSample(found.ours_ms, found).toFixed(2);
    },
  });
  const torch = (threads: number): Column =>
    ratioColumn(
      `× PyTorch, ${threads} thread${threads > 1 ? "s" : ""}`,
      (r) => r.peer === "PyTorch" && r.threads === threads,
    );
  const columns = [
    time(1),
    ratioColumn("× pffft-wasm", (r) => r.peer === "pffft-wasm" && r.data === "resident"),
    ratioColumn(
      "× pffft-wasm, plain arrays",
      (r) => r.peer === "pffft-wasm" && r.data === "arrays",
    ),
    ratioColumn("× fft.js", (r) => r.peer === "fft.js"),
    ratioColumn("× FFTW", (r) => r.peer === "FFTW"),
    torch(1),
  ];
  if (most > 1) columns.push(time(most), torch(most));
  return columns;
}

/** docs/speed.md's table: a row for each causal shape, how many times faster ours is than each peer; then the bars. */
export function markdownTable(
  records: readonly BenchRecord[],
  verdicts: readonly Verdict[],
): string {
  const [first] = records;
  if (!first) return "No records.";
  const causal = records.filter(({ case: name }) => name === "causal" || name === "threads");
  const columns = tableColumns(Math.max(...causal.map(({ threads }) => threads)));
  const shapes = new Map<string, BenchRecord[]>();
  for (const record of causal) {
    const key = `${record.B} ${record.H} ${record.L}`;
    shapes.set(key, [...(shapes.get(key) ?? []), record]);
  }
  // Shapes that met no other library belong to the bars alone.
  const groups = [...shapes.values()].filter((group) => group.some((r) => r.case === "causal"));
  const cells = groups.map((group) => [
    String(group[0]!.B * group[0]!.H),
    lengthName(group[0]!.L),
    ...columns.map(({ cell }) => cell(group) ?? "–"),
    Math.max(...group.map((r) => r.rel_error)).toExponential(1),
  ]);
  const filled = columns.map((_, index) => cells.some((row) => row[index + 2] !== "–"));
  const keep = (row: readonly string[]): string[] => row.filter((_, i) => filled[i - 2] ?? true);
  const titles = ["B·H", "L", ...columns.map(({ title }) => title), "error"];
  return [
    `Causal, float32, spectrum of the kernel kept, medians. ${machineLine(first)}`,
    markdown(keep(titles), cells.map(keep)),
    barsTable(verdicts),
  ].join("\n\n");
}

/** The bars that were measured. */
export function barsTable(verdicts: readonly Verdict[]): string {
  const judged = verdicts.filter(({ met }) => met !== undefined);
  return markdown(
    ["bar", "wanted", "worst measured", "met"],
    judged.map(({ bar, wanted, measured, met }) => [bar, wanted!, measured!, met ? "yes" : "no"]),
  );
}

export function machineLine({ cpu, cores, node, instructions }: BenchRecord): string {
  return `${cpu}, ${cores} core${cores > 1 ? "s" : ""}, Node ${node}, WebAssembly ${instructions}.`;
}
