/** What records of `bench webgpu` show: docs/speed.md's table, and the figure of time and memory against length. */
import type { Series } from "./plot.ts";
import { figure, panel, panelWidth, rangeOf } from "./plot.ts";
import { lengthName, markdown } from "./table.ts";
import type { GpuRecord } from "./webgpu.ts";
import { kittens, wholeKernel } from "./webgpu.ts";
import { attention } from "./webgpu-attention.ts";
import { allFeatures } from "./webgpu-defaults.ts";

const colors: Readonly<Record<string, string>> = {
  ours: "#c2185b",
  "copy once": "#9e9e9e",
  "flash-fft-conv": "#1565c0",
  "PyTorch fft": "#e65100",
  "PyTorch rfft": "#00796b",
};

const peerName = (peer: string): string => (peer.endsWith("fft") ? `PyTorch ${peer}` : peer);

/** Which records of a run a column or a line is about. */
type Pick = Partial<GpuRecord>;

const matches = (r: GpuRecord, pick: Pick): boolean =>
  Object.entries(pick).every(([key, value]) => r[key as keyof GpuRecord] === value);

const gated: Pick = { mode: "causal", pass: "forward", gated: true, dtype: "float16" };

/** The record of a peer in its faster type, where it ran in several. */
function fastest(records: readonly GpuRecord[]): GpuRecord | undefined {
  const ms = (r: GpuRecord): number => r.peer_ms ?? Number.POSITIVE_INFINITY;
  return records.toSorted((a, b) => ms(a) - ms(b))[0];
}

/** Picoseconds for each output sample. */
const picoseconds = (ms: number, { B, H, L }: GpuRecord): number => (ms * 1e9) / (B * H * L);

function line(name: string, points: readonly (readonly [number, number])[]): Series {
  const sorted = [...new Map(points)].sort((a, b) => a[0] - b[0]);
  return { name, color: colors[name]!, dashed: name === "copy once", points: sorted };
}

function lines(
  records: readonly GpuRecord[],
  ours: (r: GpuRecord) => number,
  theirs: (r: GpuRecord) => number | null,
): Series[] {
  const peers = [...new Set(records.flatMap((r) => (r.peer ? [r.peer] : [])))];
  return [
    line(
      "ours",
      records.map((r) => [r.L, ours(r)]),
    ),
    ...peers.map((peer) =>
      line(
        peerName(peer),
        [...new Set(records.map(({ L }) => L))].flatMap((L): [number, number][] => {
          const r = fastest(records.filter((r) => r.peer === peer && r.L === L));
          const value = r ? theirs(r) : null;
          return value ? [[L, value]] : [];
        }),
      ),
    ),
  ];
}

/** Time on the left, memory on the right: gated causal convolutions in float16. */
export function gpuPlot(records: readonly GpuRecord[]): string {
  const chosen = records.filter((r) => matches(r, gated) && !isApart(r));
  const [machine] = chosen;
  if (!machine) throw new Error("bench plot: the records hold no gated causal case in float16");
  const time = [
    ...lines(
      chosen,
      (r) => picoseconds(r.ours_ms, r),
      (r) => r.peer_ms && picoseconds(r.peer_ms, r),
    ),
    line(
      "copy once",
      chosen.map((r) => [r.L, picoseconds(r.floor_ms, r)]),
    ),
  ];
  const memory = lines(
    chosen,
    (r) => r.workspace_bytes / 1e6,
    (r) => r.peer_workspace_bytes && r.peer_workspace_bytes / 1e6,
  );
  const axis = "L, samples of one row";
  return figure({
    name: "Time and memory of gated causal convolutions against length, ours and peers",
    headline: "Gated causal convolution, float16, on a GPU (lower is better)",
    machine: gpuLine(machine),
    panels: [
      panel({ title: "picoseconds for each output sample", axis, series: time }, 0, rangeOf(time)),
      panel(
        { title: "MB beside inputs and outputs", axis, series: memory },
        panelWidth,
        rangeOf(memory),
      ),
    ],
  });
}

/** The machine of a record. */
export function gpuLine({ adapter, node, copy_gb_per_s }: GpuRecord): string {
  const copy = copy_gb_per_s.toLocaleString("en-US");
  return `${adapter.replace(/^(default GPU, on|this machine,) /, "")}, copies ${copy} GB/s, Node ${node}`;
}

interface Column {
  readonly title: string;
  readonly pick: Pick;
  readonly cell: (r: GpuRecord) => string;
}

/** How many times faster ours was than a peer whose answer was right. */
const ratioOf = ({ peer, ratio }: GpuRecord): string =>
  peer === null ? "–" : (ratio?.toFixed(1) ?? "wrong");

const times = (title: string, peer: string, pick: Pick): Column => ({
  title,
  pick: { ...pick, peer },
  cell: ratioOf,
});

const circular: Pick = { ...gated, mode: "circular" };
const columns: readonly Column[] = [
  { title: "gated, ms", pick: gated, cell: (r) => String(r.ours_ms) },
  { title: "× one copy", pick: gated, cell: (r) => r.over_floor.toFixed(1) },
  times("× flash-fft-conv", "flash-fft-conv", gated),
  times("× PyTorch `fft`", "fft", gated),
  times("× PyTorch `rfft`", "rfft", gated),
  times("ungated × flash-fft-conv", "flash-fft-conv", { ...gated, gated: false }),
  times("circular × flash-fft-conv", "flash-fft-conv", circular),
  times("gradients × flash-fft-conv", "flash-fft-conv", { ...gated, pass: "backward" }),
  times("float32 × `rfft`", "rfft", { ...gated, dtype: "float32" }),
];

/** Whether a record is about a kernel of few taps or frequencies. */
const saves = (r: GpuRecord): boolean => r.peer === wholeKernel;

/** Whether one is about a device of default limits. */
const isPlain = (r: GpuRecord): boolean => r.peer === allFeatures;

/** Whether one is of a convolution beside attention. */
const isBesideAttention = (r: GpuRecord): boolean => r.peer === attention;

/** Records with tables of their own, those of bfloat16 excepted. */
const isApart = (r: GpuRecord): boolean =>
  saves(r) || isPlain(r) || isBesideAttention(r) || Boolean(r.kept_kernel) || r.plan === "short";

const shortCells = (r: GpuRecord): string[] => [
  ...[r.case, String(r.B * r.H), String(r.ours_ms), r.over_floor.toFixed(2)],
  r.ratio?.toFixed(1) ?? "–",
];

/** One row for each length in bfloat16. */
function bfloatRows(records: readonly GpuRecord[]): string[][] {
  const lengths = [...new Set(records.map(({ N }) => N))].sort((a, b) => a - b);
  return lengths.map((N) => {
    const r = fastest(records.filter((r) => r.N === N))!;
    return [
      ...[lengthName(N), String(r.B * r.H), String(r.ours_ms), r.over_floor.toFixed(1)],
      ...[ratioOf(r), ...errorsOf(r)],
    ];
  });
}

const errorsOf = (r: GpuRecord): string[] =>
  [r.rel_error, r.peer_rel_error].map((e) => e?.toExponential(1) ?? "–");

const keptCells = (r: GpuRecord): string[] => [
  ...[lengthName(r.N), String(r.B * r.H), String(r.ours_ms), r.over_floor.toFixed(1)],
  ...[String(r.peer_ms ?? "–"), ratioOf(r), ...errorsOf(r)],
];

const attentionCells = (r: GpuRecord): string[] => [
  ...[lengthName(r.L), String(r.B), String(r.ours_ms), String(r.peer_ms), r.ratio!.toFixed(1)],
];

/** The largest error of each pass and type. */
function worstErrors(records: readonly GpuRecord[]): string {
  const worst = new Map<string, number>();
  for (const { pass, dtype, rel_error } of records) {
    const key = `${pass} ${dtype}`;
    worst.set(key, Math.max(worst.get(key) ?? 0, rel_error));
  }
  return [...worst].map(([key, error]) => `${key} ${error.toExponential(1)}`).join(", ");
}

/** docs/speed.md's tables: a row for each transform length, and one for each kernel that asks for less. */
export function gpuTable(all: readonly GpuRecord[]): string {
  const [first] = all;
  if (!first) return "No records.";
  const short = all.filter(({ plan }) => plan === "short");
  const bfloat = all.filter((r) => r.dtype === "bfloat16" && !isApart(r));
  const records = all.filter((r) => r.dtype !== "bfloat16" && !isApart(r));
  const saving = all.filter(saves);
  const lengths = [...new Set(records.map((r) => r.N))].sort((a, b) => a - b);
  const rows = lengths.map((N) => {
    const here = records.filter((r) => r.N === N);
    const sample = here.find((r) => matches(r, gated)) ?? here[0]!;
    const cells = columns.map(({ pick, cell }) => {
      const found = fastest(here.filter((r) => matches(r, pick)));
      return found ? cell(found) : "–";
    });
    return [lengthName(N), String(sample.B * sample.H), ...cells];
  });
  const savings = saving.map((r) => [
    ...[r.case, String(r.B * r.H), String(r.ours_ms), r.ratio!.toFixed(2)],
    (r.workspace_bytes / 1e6).toFixed(1),
  ]);
  const kept = all.filter((r) => r.kept_kernel).map(keptCells);
  const attended = all.filter(isBesideAttention).map(attentionCells);
  const plain = all
    .filter(isPlain)
    .map((r) => [
      ...[r.case, String(r.B * r.H), String(r.ours_ms), String(r.peer_ms)],
      (1 / r.ratio!).toFixed(2),
    ]);
  const table = (titles: string[], cells: string[][]): string[] =>
    cells.length > 0 ? [markdown(titles, cells)] : [];
  const [ms, copy] = ["gated bfloat16, ms", "× one copy"];
  const flash = "× flash-fft-conv";
  return [
    `Medians of device time, spectrum of the kernel included. ${gpuLine(first)}.`,
    `Largest relative errors: ${worstErrors(all)}.`,
    ...table(["N", "B·H", ...columns.map(({ title }) => title)], rows),
    ...table(["N", "B·H", ms, copy, flash, "error", "error of flash-fft-conv"], bfloatRows(bfloat)),
    ...table(
      [
        ...["N", "B·H", "circular bfloat16, kernel kept, ms", copy],
        ...[`${kittens}, ms`, `× ${kittens}`, "error", `error of ${kittens}`],
      ],
      kept,
    ),
    ...table(["L", "B", ms, `${attention}, ms`, `× ${attention}`], attended),
    ...table(["case", "B·H", "ms", "× whole kernel", "work memory, MB"], savings),
    ...table(["case", "B·H", "ms", "all features, ms", "times as long"], plain),
    ...table(["case", "B·H", "ms", "× one copy", "× Conv1d"], short.map(shortCells)),
  ].join("\n\n");
}
