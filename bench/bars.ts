/** The bars that the CPU backend has to clear, judged from records. */
import type { BenchRecord } from "./records.ts";

/** One bar and how it came out. */
export interface Verdict {
  readonly bar: string;
  /** `≥ 1.5`; undefined when nothing was measured. */
  readonly wanted: string | undefined;
  /** The worst number measured and where; undefined when nothing was. */
  readonly measured: string | undefined;
  readonly met: boolean | undefined;
}

interface Bar {
  readonly name: string;
  readonly sense: "at least" | "at most";
  readonly applies: (record: BenchRecord) => boolean;
  readonly wanted: (record: BenchRecord) => number;
  /** What is judged where it is no ratio of times. */
  readonly value?: (record: BenchRecord, ms: number) => number;
}

const rowsOf = ({ B, H }: BenchRecord): number => B * H;

/** `at least` bars are on peer over ours, `at most` bars on ours over peer. */
function barValue(bar: Bar, record: BenchRecord, ours: number, peer: number | null): number {
  const { sense } = bar;
  if (bar.value) return bar.value(record, ours);
  if (peer === null) return Number.NaN;
  return sense === "at least" ? peer / ours : ours / peer;
}

/** A short convolution with nothing behind it, forward. */
const isShort = (r: BenchRecord): boolean => r.case === "short" && r.plan.startsWith("linear");

/** Fused multiply-add makes the higher bar. */
const fused = ({ instructions }: BenchRecord): number =>
  instructions === "relaxed-simd" ? 1.5 : 1.25;

function againstPffft(
  shapes: string,
  data: string,
  shape: (record: BenchRecord) => boolean,
  wanted: Bar["wanted"],
): Bar {
  return {
    name: `times the speed of pffft-wasm, 1 thread, ${shapes}, ${data}`,
    sense: "at least",
    applies: (r) => r.case === "causal" && r.peer === "pffft-wasm" && r.data === data && shape(r),
    wanted,
  };
}

const bars: readonly Bar[] = [
  ...["resident", "arrays"].flatMap((data) => [
    againstPffft("B·H = 64, L = 1K … 64K", data, (r) => rowsOf(r) === 64 && r.L <= 65_536, fused),
    againstPffft(
      "B·H = 64, L = 512K",
      data,
      (r) => rowsOf(r) === 64 && r.L === 524_288,
      () => 2,
    ),
    againstPffft(
      "B·H = 1",
      data,
      (r) => rowsOf(r) === 1,
      () => 1.2,
    ),
  ]),
  {
    name: "time with both gates over time without",
    sense: "at most",
    applies: (r) => r.case === "gated",
    wanted: () => 1.15,
  },
  ...([1024, 256] as const).map(
    (L): Bar => ({
      name: `times the speed of pffft-wasm, one row of ${L} by forwardSync, 1 thread, resident`,
      sense: "at least",
      applies: (r) => r.case === "sync" && r.data === "resident" && r.L === L,
      wanted: () => (L === 1024 ? 1.2 : 1),
    }),
  ),
  {
    name: "two threads over one by minima, B·H ≥ 64, L = 4K … 256K",
    sense: "at least",
    applies: (r) => r.case === "threads" && r.threads === 2 && rowsOf(r) >= 64 && r.L >= 4096,
    wanted: () => 1.6,
    value: (r) => r.peer_min_ms! / r.ours_min_ms,
  },
  {
    name: "two threads over one by minima, every shape",
    sense: "at least",
    applies: (r) => r.case === "threads" && r.threads === 2,
    wanted: () => 1,
    value: (r) => r.peer_min_ms! / r.ours_min_ms,
  },
  {
    name: "two threads over one, B·H ≥ 16",
    sense: "at least",
    applies: (r) => r.case === "threads" && r.threads === 2 && rowsOf(r) >= 16,
    wanted: () => 1.8,
  },
  {
    name: "two threads over one, one sequence of 1M",
    sense: "at least",
    applies: (r) => r.case === "threads" && r.threads === 2 && rowsOf(r) === 1 && r.L === 1_048_576,
    wanted: () => 1.5,
  },
  {
    name: "times the speed of fft.js, 1 thread",
    sense: "at least",
    applies: (r) => r.peer === "fft.js",
    wanted: () => 15,
  },
  {
    name: "backward (du and dk) over forward",
    sense: "at most",
    applies: (r) => r.case === "backward",
    wanted: () => 2.2,
  },
  {
    name: "short convolution, K = 4, float32: GB/s on one thread",
    sense: "at least",
    applies: (r) => isShort(r) && r.dtype === "float32" && r.K === 4 && r.threads === 1,
    wanted: () => 3,
    value: (r, ms) => (r.gb_per_s! * r.ours_ms) / ms,
  },
  {
    name: "short convolution, K = 4: times the speed of plain JavaScript",
    sense: "at least",
    applies: (r) => isShort(r) && r.K === 4 && r.peer === "JavaScript",
    wanted: () => 5,
  },
  {
    name: "chosen plan over the best plan",
    sense: "at most",
    applies: (r) => r.case === "plans",
    wanted: () => 1.15,
  },
];

/** `B=4 H=16 L=1024` */
function where({ B, H, L, threads }: BenchRecord): string {
  return `B=${B} H=${H} L=${L}${threads > 1 ? `, ${threads} threads` : ""}`;
}

function judgeBar(bar: Bar, records: readonly BenchRecord[]): Verdict {
  const judged = records.filter(bar.applies).map((record) => {
    const value = barValue(bar, record, record.ours_ms, record.peer_ms);
    const margin = value / bar.wanted(record);
    return { record, value, margin: bar.sense === "at least" ? margin : 1 / margin };
  });
  judged.sort((a, b) => a.margin - b.margin);
  const sign = bar.sense === "at least" ? "≥" : "≤";
  const [worst] = judged;
  if (!worst) return { bar: bar.name, wanted: undefined, measured: undefined, met: undefined };
  const { record, value } = worst;
  const missed = judged.filter(({ margin }) => margin < 1).length;
  const minima = barValue(bar, record, record.ours_min_ms, record.peer_min_ms).toFixed(2);
  return {
    bar: bar.name,
    wanted: `${sign} ${bar.wanted(record)}`,
    measured: `${value.toFixed(2)} (${where(record)}; by minima ${minima}; ${judged.length - missed} of ${judged.length} meet it)`,
    met: missed === 0,
  };
}

/** Nanoseconds per output sample over log2 L: largest over smallest. */
function judgeGrowth(records: readonly BenchRecord[]): Verdict {
  const bar = "growth: time per output sample over log2 L, largest over smallest, 1K … 4M";
  const points = records
    .filter((record) => record.case === "growth")
    .map(({ ours_ms, B, H, L }) => ({ L, value: (ours_ms * 1e6) / (B * H * L) / Math.log2(L) }))
    .sort((a, b) => a.value - b.value);
  const [least, most] = [points[0], points.at(-1)];
  if (!least || !most || points.length < 2) {
    return { bar, wanted: undefined, measured: undefined, met: undefined };
  }
  const spread = most.value / least.value;
  const extremes = `${least.value.toFixed(3)} ns at L=${least.L}, ${most.value.toFixed(3)} ns at L=${most.L}`;
  return {
    bar,
    wanted: "< 1.6",
    measured: `${spread.toFixed(2)} (${extremes})`,
    met: spread < 1.6,
  };
}

/** Time over K at one L: it falls with every K, and from the longest to 1K by a factor. */
function judgePartial(name: string, records: readonly BenchRecord[]): Verdict[] {
  const counts = new Set(records.filter((r) => r.case === name).map((r) => r.threads));
  return [...counts].map((threads) => {
    const points = records
      .filter((r) => r.case === name && r.threads === threads)
      .sort((a, b) => b.K - a.K);
    const bar = `${name}: 64K taps over 1K by minima, time falling with K, ${threads} thread(s)`;
    const at = (K: number): number => points.find((r) => r.K === K)?.ours_min_ms ?? Number.NaN;
    const ratio = at(65_536) / at(1024);
    const falls = points.every((r, i) => i === 0 || r.ours_min_ms < points[i - 1]!.ours_min_ms);
    const list = points.map((r) => `${r.K}: ${r.ours_min_ms} ms`).join(", ");
    return {
      bar,
      wanted: "≥ 2",
      measured: `${ratio.toFixed(2)} (${list})`,
      met: ratio >= 2 && falls,
    };
  });
}

/** Work memory over L with K = 1K. */
function judgeWorkspace(records: readonly BenchRecord[]): Verdict[] {
  const found = records.filter((r) => r.case === "workspace" && r.workspace_bytes !== undefined);
  return [...new Set(found.map((r) => r.threads))].map((threads) => {
    const points = found.filter((r) => r.threads === threads).sort((a, b) => a.L - b.L);
    const [least, most] = [points[0]!, points.at(-1)!];
    const bar = `workspace, 1K taps, from L = ${least.L} to ${most.L}, ${threads} thread(s)`;
    const growth = most.workspace_bytes! / least.workspace_bytes!;
    const list = points.map((r) => `${r.L}: ${r.workspace_bytes}`).join(", ");
    return { bar, wanted: "≤ 1", measured: `${growth.toFixed(2)} (${list})`, met: growth <= 1 };
  });
}

/** Frequency-sparse against dense in the causal mode: patterns of blocks that mask about the paper's shares. */
const sparseBars: readonly Bar[] = [
  { least: 0.745, most: 0.755, factor: 1.3 },
  { least: 0.905, most: 0.915, factor: 1.8 },
].map(({ least, most, factor }) => ({
  name: `times the speed of the dense convolution, causal, N = 64K and 1M, ${Math.round(100 * least)} … ${Math.round(100 * most)} % of the frequencies zero in blocks`,
  sense: "at least",
  applies: ({ case: name, mode, frequencies, zeroed = 0 }) =>
    name === "sparse" &&
    mode === "causal" &&
    frequencies !== undefined &&
    "digits" in frequencies &&
    zeroed >= least &&
    zeroed <= most,
  wanted: () => factor,
}));

/** PyTorch with as many threads as ours: a bar for each number of threads, because both scale in their own way. */
function againstPyTorch(records: readonly BenchRecord[]): Bar[] {
  const counts = new Set(records.map(({ threads }) => threads));
  return [...counts]
    .sort((a, b) => a - b)
    .map((threads) => ({
      name: `times the speed of PyTorch, ${threads} thread${threads > 1 ? "s" : ""} each, L = 1K … 1M`,
      sense: "at least",
      applies: (r) => r.peer === "PyTorch" && r.threads === threads,
      wanted: () => 2,
    }));
}

/** Every bar. */
export function judge(records: readonly BenchRecord[]): Verdict[] {
  const all = [...bars, ...sparseBars, ...againstPyTorch(records)];
  return [
    ...all.map((bar) => judgeBar(bar, records)),
    judgeGrowth(records),
    ...judgePartial("partial", records),
    ...judgePartial("partial backward", records),
    ...judgeWorkspace(records),
  ];
}
