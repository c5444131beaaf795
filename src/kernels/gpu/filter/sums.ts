/** Sums of gradients: those of a workgroup's threads, stored workgroup by workgroup, and the kernel that adds these up. */
import { kernelText, workgroup } from "../dialect/wgsl.ts";
import type { Kernel } from "../kernel.ts";
import type { Binding } from "../storage.ts";
import type { RunSpread, RunWriter } from "./runs.ts";
import { depthwiseThreads } from "./runs.ts";
import type { Width } from "./samples.ts";

/** Names of what a thread sums for one filter. */
export interface FilterSums {
  /** Of the taps, or of as many as are summed at a time. */
  readonly taps: readonly string[];
  /** Of the bias or the skip weight; stored behind the taps. */
  readonly last?: string | undefined;
  /** Where the filter's sums begin, as text that ends in a plus. */
  readonly from?: string;
}

export const sumNames = ({ taps, last }: FilterSums): string[] => [
  ...taps,
  ...(last ? [last] : []),
];

/** Add up the sums of a workgroup and store them: those of `block` of so many blocks of taps, the last one with the first block. */
export function storeSums(
  w: RunWriter,
  filters: readonly FilterSums[],
  taps: number,
  blocks: number,
): void {
  reduceTotals(w, filters.flatMap(sumNames));
  const each = taps + (filters[0]!.last ? 1 : 0);
  const place = (tap: string): string =>
    w.across
      ? `(tile / p.chunks * ${each}u + ${tap}) * p.cells + cell`
      : `((line / p.span * p.chunks + chunk) * ${each}u + ${tap}) * p.span + channel`;
  w.line("if (first && own) {");
  for (const { taps: some, last, from = "" } of filters) {
    const store = (tap: string, sum: string, condition: string): void => {
      const stored = `sums[${from}${place(tap)}] = ${sum};`;
      w.line(blocks === 1 ? stored : `if (${condition}) { ${stored} }`);
    };
    some.forEach((sum, j) => {
      const tap = blocks === 1 ? `${j}u` : `(block * ${some.length}u + ${j}u)`;
      store(tap, sum, `${tap} < ${taps}u`);
    });
    if (last) store(`${taps}u`, last, "block == 0u");
  }
  w.line("}");
}

/** Bytes of workgroup memory that any device has. */
const sharedBytes = 16_384;

/** Values of each thread that fit in workgroup memory at once. */
const atOnce = (cell: Width, count: number): number =>
  Math.min(count, sharedBytes / (4 * cell * depthwiseThreads));

/** Threads of a workgroup that have the same channels. */
const sharers = ({ layout, lanes }: RunSpread): number =>
  layout === "BLH" ? depthwiseThreads / lanes : lanes;

/** Add up the totals of the threads of a workgroup that have the same channels; `first` says who holds the sums. */
function reduceTotals(w: RunWriter, totals: readonly string[]): void {
  const { lanes, cell } = w.spread;
  const stride = w.across ? lanes : 1;
  const count = sharers(w.spread);
  w.line(`let order = ${w.across ? `lane / ${lanes}u` : `lane % ${lanes}u`};`);
  w.line("let first = order == 0u;");
  if (count === 1) return;
  const group = atOnce(cell, totals.length);
  w.shared.push({ name: "partial", element: w.type, count: depthwiseThreads * group });
  for (let from = 0; from < totals.length; from += group) {
    const some = totals.slice(from, from + group);
    const slot = (i: number, more = ""): string =>
      `partial[${i * depthwiseThreads}u + lane${more}]`;
    if (from > 0) w.line("workgroupBarrier();");
    some.forEach((t, i) => {
      w.line(`${slot(i)} = ${t};`);
    });
    w.line("workgroupBarrier();");
    w.line(`for (var half = ${count / 2}u; half > 0u; half /= 2u) {`);
    w.line("if (order < half) {");
    some.forEach((_, i) => {
      w.line(`${slot(i)} += ${slot(i, ` + half * ${stride}u`)};`);
    });
    w.line("}\nworkgroupBarrier();\n}");
    w.line("if (first) {");
    some.forEach((t, i) => {
      w.line(`${t} = ${slot(i)};`);
    });
    w.line("}");
  }
}

/** Sums that a workgroup of the last step adds up side by side. */
export const sumsBeside = 8;

/** What the last step adds up, and where that goes. */
export interface Totals {
  /** Taps of a channel in the result. */
  readonly taps: number;
  /** Where the sums of runs of taps stand among those of a channel; a tap in none of them has none. By default all at their own. */
  readonly runs?: readonly {
    readonly index: number;
    readonly count: number;
    readonly place: number;
  }[];
  /** Sums of a channel in each workgroup. */
  readonly each: number;
  /** Buffers of the taps' sums and, where it is asked for, of what stands behind them. */
  readonly results: readonly string[];
  /** Filters for each channel, whose sums lie one after the other: 1, or 3 of packed channels. */
  readonly thirds: number;
}

/**
 * The sums of all workgroups → a gradient of taps (H, K) and one of a value for each channel (H), which they replace where
 * p.clear is 1, and join elsewhere. Threads share a sum in an order that nothing but the call's size decides, each with the
 * rounding error of every addition carried along (Kahan 1965).
 */
export function totalsKernel({ taps, runs, each, results, thirds }: Totals): Kernel {
  const bindings: Binding[] = [
    { name: "sums", access: "read", element: "f32" },
    ...results.map((name) => ({ name, access: "read_write", element: "f32" }) as const),
  ];
  const packs = thirds > 1;
  const parameters = [
    ...["parts", "items", "span", "clear", ...results],
    ...(packs ? ["tiles", "sums_third", "third"] : []),
  ];
  const [from, channel] = packs
    ? ["third * p.sums_third + ", "(third * p.third + channel)"]
    : ["", "channel"];
  const beside = `${sumsBeside}u + lane % ${sumsBeside}u`;
  const put = (array: string, at: string): string[] => [
    `let at = ${at} + p.${array};`,
    `if (p.clear == 1u) { ${array}[at] = sum; } else { ${array}[at] += sum; }`,
  ];
  const [ofTaps, other] = results;
  const body = [
    `let index = ${workgroup};`,
    ...(packs
      ? [
          "let third = index / p.tiles;",
          `let item = select(p.items, index % p.tiles * ${beside}, third < ${thirds}u);`,
        ]
      : [`let item = index * ${beside};`]),
    "let tap = item / p.span;",
    "let channel = item % p.span;",
    ...placeOf(taps, each, runs),
    "var sum = 0.0f;",
    "var lost = 0.0f;",
    `if (item < p.items && place < ${each}u) {`,
    `for (var part = lane / ${sumsBeside}u; part < p.parts; part += ${depthwiseThreads / sumsBeside}u) {`,
    `let term = sums[${from}(part * ${each}u + place) * p.span + channel] - lost;`,
    "let next = sum + term;",
    "lost = (next - sum) - term;",
    "sum = next;",
    "}",
    "}",
    "partial[lane] = sum;",
    "workgroupBarrier();",
    `for (var half = ${depthwiseThreads / 2}u; half >= ${sumsBeside}u; half /= 2u) {`,
    "if (lane < half) { partial[lane] += partial[lane + half]; }",
    "workgroupBarrier();",
    "}",
    `if (lane < ${sumsBeside}u && item < p.items) {`,
    "sum = partial[lane];",
    `if (tap < ${taps}u) {`,
    ...put(ofTaps!, `${channel} * ${taps}u + tap`),
    ...(other ? ["} else {", ...put(other, channel)] : []),
    "}",
    "}",
  ];
  const shared = [{ name: "partial", element: "f32", count: depthwiseThreads }];
  const code = kernelText({ bindings, parameters, shared, threads: depthwiseThreads, body });
  return { code, bindings, parameters, tiles: 1, tilesPerUnit: 1 };
}

/** `place`: where the sum of `tap` stands among the sums of a channel, or behind them where it has none. */
function placeOf(taps: number, each: number, runs: Totals["runs"]): string[] {
  if (!runs) return ["let place = tap;"];
  return [
    `var place = select(${each}u, ${each - 1}u, tap == ${taps}u);`,
    ...runs.map(
      ({ index, count, place }) =>
        `if (tap >= ${index}u && tap < ${index + count}u) { place = tap - ${index}u + ${place}u; }`,
    ),
  ];
}
