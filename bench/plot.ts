/** Figures as SVG: panels of lines over lengths; the CPU's, time per output sample of ours and the peers. */
import type { BenchRecord } from "./records.ts";
import { lengthName, machineLine, nanosecondsPerSample } from "./table.ts";

/** A line of a panel. */
export interface Series {
  readonly name: string;
  readonly color: string;
  readonly dashed: boolean;
  /** (length, value), ascending */
  readonly points: readonly (readonly [number, number])[];
}

export const panelWidth = 460;
const height = 430;
const margin = { left: 56, right: 128, top: 72, bottom: 48 };

const colors: Readonly<Record<string, string>> = {
  ours: "#c2185b",
  "pffft-wasm": "#1565c0",
  FFTW: "#00796b",
  PyTorch: "#e65100",
  "fft.js": "#616161",
};

/** One line a library and number of threads, of the causal records that `applies` picks. */
function seriesOf(records: readonly BenchRecord[], applies: (r: BenchRecord) => boolean): Series[] {
  const found = new Map<string, Map<number, number>>();
  const add = (name: string, record: BenchRecord, ms: number): void => {
    const points = found.get(name) ?? new Map<number, number>();
    points.set(record.L, nanosecondsPerSample(ms, record));
    found.set(name, points);
  };
  const threadsName = (name: string, threads: number): string =>
    threads === 1 ? name : `${name}, ${threads} threads`;
  const shape = ({ B, H, L }: BenchRecord): string => `${B} ${H} ${L}`;
  const compared = new Set(records.filter((r) => r.case === "causal").map(shape));
  for (const record of records.filter((r) => applies(r) && compared.has(shape(r)))) {
    const { case: name, peer, peer_ms, data, threads } = record;
    if (name !== "causal" && name !== "threads") continue;
    if (data === "resident") add(threadsName("ours", threads), record, record.ours_ms);
    const same = data === "resident" || peer === "fft.js";
    if (name === "causal" && peer && peer_ms && same && peer in colors) {
      add(threadsName(peer, threads), record, peer_ms);
    }
  }
  return [...found].map(([name, points]) => ({
    name,
    color: colors[name.split(",")[0]!]!,
    dashed: name.includes("threads"),
    points: [...points].sort((a, b) => a[0] - b[0]),
  }));
}

const text = (x: number, y: number, words: string, more = ""): string =>
  `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" ${more}>${words}</text>`;

/** Heights of the labels at the lines' ends, pushed apart until none overlaps. */
function spread(wanted: readonly number[], gap: number, bottom: number): number[] {
  const order = wanted.map((y, index) => ({ y, index })).sort((a, b) => a.y - b.y);
  for (let i = 1; i < order.length; i++) order[i]!.y = Math.max(order[i]!.y, order[i - 1]!.y + gap);
  let limit = bottom;
  for (const place of order.toReversed()) {
    place.y = Math.min(place.y, limit);
    limit = place.y - gap;
  }
  const heights: number[] = [];
  for (const { y, index } of order) heights[index] = y;
  return heights;
}

/** Where an axis begins and ends that all values of the lines are on. */
export function rangeOf(series: readonly Series[]): [number, number] {
  const values = series.flatMap(({ points }) => points.map(([, v]) => v));
  return [Math.min(...values) / 1.3, Math.max(...values) * 1.3];
}

/** 1, 2 and 5 of every power of ten. */
const ticks = Array.from({ length: 14 }, (_, i) => [1, 2, 5].map((d) => d * 10 ** (i - 3))).flat();

/** One panel, its lines labelled at their ends. */
export function panel(
  { title, axis, series }: { title: string; axis: string; series: readonly Series[] },
  left: number,
  range: readonly [number, number],
): string {
  const lengths = series.flatMap(({ points }) => points.map(([L]) => L));
  const [x0, x1] = [left + margin.left, left + panelWidth - margin.right];
  const [y0, y1] = [height - margin.bottom, margin.top];
  const [first, last] = [Math.log2(Math.min(...lengths)), Math.log2(Math.max(...lengths))];
  const x = (L: number): number =>
    x0 + ((Math.log2(L) - first) / Math.max(1, last - first)) * (x1 - x0);
  const y = (ns: number): number =>
    y0 + (Math.log(ns / range[0]) / Math.log(range[1] / range[0])) * (y1 - y0);
  const parts = [text(x0, margin.top - 14, title, 'font-weight="600"')];
  for (const tick of ticks) {
    if (tick < range[0] || tick > range[1]) continue;
    parts.push(
      `<line x1="${x0}" x2="${x1}" y1="${y(tick).toFixed(1)}" y2="${y(tick).toFixed(1)}" stroke="#e0e0e0"/>`,
      text(x0 - 6, y(tick) + 4, String(tick), 'text-anchor="end" fill="#555"'),
    );
  }
  for (let power = Math.ceil(first); power <= last; power += 2) {
    const L = 2 ** power;
    parts.push(
      `<line x1="${x(L).toFixed(1)}" x2="${x(L).toFixed(1)}" y1="${y0}" y2="${y0 + 4}" stroke="#999"/>`,
      text(x(L), y0 + 18, lengthName(L), 'text-anchor="middle" fill="#555"'),
    );
  }
  parts.push(text((x0 + x1) / 2, height - 10, axis, 'text-anchor="middle" fill="#555"'));
  const ends = series.map(({ points }) => y(points.at(-1)![1]) + 4);
  const labels = spread(ends, 14, y0);
  for (const [index, { name, color, dashed, points }] of series.entries()) {
    const path = points.map(([L, ns]) => `${x(L).toFixed(1)},${y(ns).toFixed(1)}`).join(" ");
    const width = name.startsWith("ours") ? 2.6 : 1.6;
    const dash = dashed ? ' stroke-dasharray="5 3"' : "";
    parts.push(
      `<polyline points="${path}" fill="none" stroke="${color}" stroke-width="${width}"${dash}/>`,
      ...points.map(
        ([L, ns]) =>
          `<circle cx="${x(L).toFixed(1)}" cy="${y(ns).toFixed(1)}" r="2.4" fill="${color}"/>`,
      ),
      `<line x1="${(x(points.at(-1)![0]) + 3).toFixed(1)}" y1="${(ends[index]! - 4).toFixed(1)}" x2="${x1 + 12}" y2="${(labels[index]! - 4).toFixed(1)}" stroke="${color}" stroke-opacity="0.4"/>`,
      text(x1 + 15, labels[index]!, name, `fill="${color}"`),
    );
  }
  return parts.join("\n");
}

/** Time per output sample against L, causal: many rows on the left, one sequence on the right. */
export function plot(records: readonly BenchRecord[]): string {
  const [machine] = records;
  const panels = [
    { title: "many rows (B·H = 64; 8 at 1M)", series: seriesOf(records, ({ B, H }) => B * H > 1) },
    { title: "one sequence (B·H = 1)", series: seriesOf(records, ({ B, H }) => B * H === 1) },
  ].filter(({ series }) => series.length > 0);
  const values = panels.flatMap(({ series }) =>
    series.flatMap(({ points }) => points.map(([, ns]) => ns)),
  );
  if (!machine || values.length === 0)
    throw new Error("bench plot: the records hold no causal case");
  const range: [number, number] = [Math.min(...values) / 1.2, Math.max(...values) * 1.2];
  const axis = "L, samples of one row";
  return figure({
    name: "Time per output sample against length, ours and peers",
    headline: "Causal convolution, float32: ns per output sample (lower is faster)",
    machine: machineLine(machine),
    panels: panels.map(({ title, series }, index) =>
      panel({ title, axis, series }, index * panelWidth, range),
    ),
  });
}

/** Panels side by side under a headline. */
export function figure({
  name,
  headline,
  machine,
  panels,
}: {
  name: string;
  headline: string;
  machine: string;
  panels: readonly string[];
}): string {
  const width = panels.length * panelWidth;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="Helvetica, Arial, DejaVu Sans, sans-serif" font-size="12">`,
    `<title>${name}</title>`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    text(margin.left, 20, headline, 'font-size="14" font-weight="600"'),
    text(margin.left, 36, machine, 'fill="#555" font-size="11"'),
    ...panels,
    "</svg>\n",
  ].join("\n");
}
