/**
 * Kernels of short convolutions. A thread takes runs of consecutive positions and holds their samples in registers, where all
 * taps meet them. In layout BHL threads stand side by side along a row, in BLH along the channels; the arithmetic on cells
 * is the same.
 */

import type { Kernel } from "../kernel.ts";
import { declarations, entry } from "../kernel.ts";
import type { Binding } from "../storage.ts";
import type { Common, RunSpread, RunWriter } from "./runs.ts";
import {
  activationFunctions,
  depthwiseThreads,
  FilterText,
  filterOperands,
  tensorTexts,
} from "./runs.ts";
import type { Lines, Width } from "./samples.ts";
import { cellType, window } from "./samples.ts";

/** y = act(bias + Σ_j w[j]·x[n + j − left]), and what has the same form: gradients of samples, and copies. */
export interface Filter extends Common {
  readonly kind: "filter";
  readonly taps: "forward" | "reversed" | "none";
  /**
   * What becomes of a sum: itself, its activation, the activation's slope there times dy, or the sum times dy. `gated` is the
   * product of the sums of the first two thirds, with those of the last as they are in `postgate`.
   */
  readonly result: "sum" | "value" | "slope" | "product" | "gated";
  readonly upstream?: Lines | undefined;
  readonly target: Lines;
  readonly postgate?: Lines | undefined;
}

/**
 * Sums of dw[j] = Σ x[m]·dz[m + left − j] and of dbias, workgroup by workgroup, for `taps` taps at a time; where that is all of
 * them, dx[m] = Σ_j w[j]·dz[m + left − j] on the way. dz is `upstream`; where it is made on the way, times the
 * activation's slope, or of `gated`, two thirds whose product was taken, times the other one's sums.
 */
export interface FilterGradient extends Common {
  readonly kind: "gradient";
  readonly taps: number;
  readonly form: "linear" | "activated" | "gated";
  readonly upstream: Lines;
  readonly target?: Lines | undefined;
}

/** Taps that meet a run in registers at once, of filters that do not hold all of theirs. */
export const tapsAtOnce = { BHL: 16, BLH: 8 } as const;

/** First output that a run at position 0 counts for dbias: one that the first taps see. */
export function biasShift({ left, taps }: Pick<FilterGradient, "left" | "taps">): number {
  return Math.max(0, left - (taps - 1));
}

const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

/** One filter of a kernel: where its samples begin, and what it holds of its taps and bias. */
interface FilterBranch {
  readonly third: number | undefined;
  readonly at: string;
  readonly held: readonly string[];
  readonly bias: string | undefined;
}

/** The sums of one filter for the positions of a run. */
function filtered(
  w: FilterText,
  filter: Filter,
  { third, at, held, bias }: FilterBranch,
): string[] {
  const { kernelLength, left, taps, source, spread } = filter;
  const { text } = w;
  const { run } = spread;
  const most = tapsAtOnce[spread.layout];
  if (taps === "none") return window(text, source, at, "n0", -left, run);
  if (kernelLength <= most) {
    const x = window(text, source, at, "n0", -left, run + kernelLength - 1);
    return upTo(run).map((r) => {
      const sum = w.dot(held, x.slice(r));
      return text.hold("z", bias ? `${sum} + ${bias}` : sum);
    });
  }
  // Sums of some taps each, which are added up: closer to the truth than one long sum.
  const sums = upTo(run).map((r) => `total${third === undefined ? "" : `${third}_`}${r}`);
  for (const s of sums) w.line(`var ${s} = ${bias ?? `${w.type}()`};`);
  w.inBlocks(kernelLength, most, (count) => {
    const sign = taps === "reversed" ? " - j" : " + j";
    const weights = w.weights(tapsOf(filter, count), sign, third);
    const x = window(text, source, at, "(n0 + i32(j))", -left, run + count - 1);
    sums.forEach((s, r) => {
      w.line(`${s} += ${w.dot(weights, x.slice(r))};`);
    });
  });
  return sums;
}

/** The first `count` taps in the order in which samples meet them. */
const tapsOf = ({ taps, kernelLength }: Filter, count: number): number[] =>
  upTo(count).map((j) => (taps === "reversed" ? kernelLength - 1 - j : j));

/** The text of a filter. */
export function filterKernel(filter: Filter): Kernel {
  const { kernelLength, taps, result, upstream, target, postgate, spread, thirds, activation } =
    filter;
  const w = new FilterText(filter);
  const { text } = w;
  const { run, cell } = spread;
  let [dyAt, yAt, postgateAt] = ["", "", ""];
  let branches: FilterBranch[] = [];
  w.line("let tile = index;");
  w.walk(
    () => {
      const starts = (thirds ?? [undefined]).map((third) => ({ third, at: w.sourceAt(third) }));
      yAt = w.at(target);
      if (postgate) postgateAt = w.at(postgate);
      if (upstream) dyAt = w.at(upstream);
      const holds = taps !== "none" && kernelLength <= tapsAtOnce[spread.layout];
      branches = starts.map(({ third, at }) => {
        const bias = taps === "none" ? undefined : w.bias(third);
        const held = holds ? w.weights(tapsOf(filter, kernelLength), "", third) : [];
        return { third, at, held, bias };
      });
    },
    () => {
      let sums = filtered(w, filter, branches[0]!);
      if (result === "value") sums = sums.map((s) => text.hold("y", `${activation}(${s})`));
      if (result === "gated") {
        const gates = filtered(w, filter, branches[1]!);
        sums = sums.map((s, r) => text.hold("y", `${s} * ${gates[r]}`));
      }
      if (upstream) {
        const dy = window(text, upstream, dyAt, "n0", 0, run);
        const factor = (s: string): string => (result === "slope" ? `slope(${s})` : s);
        sums = sums.map((s, r) => text.hold("y", `${dy[r]} * ${factor(s)}`));
      }
      w.store(target, yAt, sums);
      if (postgate) w.store(postgate, postgateAt, filtered(w, filter, branches[2]!));
    },
  );
  const tensors = tensorTexts(filter, [upstream], [target, postgate]);
  const functions =
    activation && (result === "value" || result === "slope")
      ? activationFunctions(activation, result, cell, text.fuses)
      : [];
  return w.kernel(
    [...tensors.parameters, "weight", "bias"],
    [...tensors.bindings, ...filterOperands(filter, taps !== "none")],
    [...tensors.functions, ...functions],
  );
}

/** Bytes of workgroup memory that any device has. */
const sharedBytes = 16_384;

/** The text of a gradient. */
export function gradientKernel(gradient: FilterGradient): Kernel {
  const { kernelLength, left, taps, form, source, upstream, target, spread, thirds, activation } =
    gradient;
  const w = new FilterText(gradient);
  const { text, type } = w;
  const { run, cell } = spread;
  const blocks = Math.ceil(kernelLength / taps);
  const totals = (thirds ?? [undefined]).map((third) =>
    upTo(taps + 1).map((j) => `total${third === undefined ? "" : `${third}_`}${j}`),
  );
  for (const t of totals.flat()) w.line(`var ${t} = ${type}();`);
  w.line(`let block = index % ${blocks}u;`);
  w.line(`let tile = index / ${blocks}u;`);
  let branches: (FilterBranch & { readonly dxAt: string })[] = [];
  let dyAt = "";
  w.walk(
    () => {
      const starts = (thirds ?? [undefined]).map((third) => ({ third, at: w.sourceAt(third) }));
      dyAt = w.at(upstream);
      branches = starts.map(({ third, at }) => {
        const filters = target !== undefined || form !== "linear";
        const held = filters ? w.weights(upTo(kernelLength), "", third) : [];
        const dxAt = target ? w.at(target, third) : "";
        const bias = form === "linear" ? undefined : w.bias(third);
        return { third, at, held, bias, dxAt };
      });
    },
    () => {
      // The window of dz, of which x[m0 + r] meets the places r … r + taps − 1, the last tap first.
      const width = run + taps - 1;
      const dy = window(
        text,
        upstream,
        dyAt,
        blocks === 1 ? "n0" : `(n0 - i32(block * ${taps}u))`,
        left - (taps - 1),
        width,
      );
      const around = branches.map(({ at }) =>
        form === "linear"
          ? window(text, source, at, "n0", 0, run)
          : window(text, source, at, "n0", -(taps - 1), width + taps - 1),
      );
      /** The filter's output at a place of the window. */
      const z = (b: number, i: number): string => {
        const { held, bias } = branches[b]!;
        const sum = w.dot(held, around[b]!.slice(i));
        return bias ? `${sum} + ${bias}` : sum;
      };
      branches.forEach(({ held, dxAt, third }, b) => {
        const d = dy.map((upstream, i) => {
          if (form === "linear") return upstream;
          const factor = form === "activated" ? `slope(${z(b, i)})` : `(${z(1 - b, i)})`;
          return text.hold("d", `${upstream} * ${factor}`);
        });
        const x = form === "linear" ? around[b]! : around[b]!.slice(taps - 1, taps - 1 + run);
        for (const j of upTo(taps)) {
          w.line(`${totals[b]![j]} += ${w.dot(x, d.slice(taps - 1 - j))};`);
        }
        const counted = biasShift(gradient) - left + taps - 1;
        w.line(`${totals[b]![taps]} += ${d.slice(counted, counted + run).join(" + ")};`);
        if (!target) return;
        const backwards = [...held].reverse();
        const dx = upTo(run).map((r) => text.hold("z", w.dot(backwards, d.slice(r))));
        w.store(target, dxAt, dx, third);
      });
    },
  );
  reduceTotals(w, totals.flat());
  const place = (tap: string): string =>
    w.across
      ? `(tile / p.chunks * ${kernelLength + 1}u + ${tap}) * p.cells + cell`
      : `((line / p.span * p.chunks + chunk) * ${kernelLength + 1}u + ${tap}) * p.span + channel`;
  w.line("if (first && own) {");
  totals.forEach((some, b) => {
    const beside = thirds ? `${thirds[b]}u * p.sums_third + ` : "";
    some.forEach((t, j) => {
      const tap = blocks === 1 ? `${j}u` : `(block * ${taps}u + ${j}u)`;
      const store = `sums[${beside}${place(j === taps ? `${kernelLength}u` : tap)}] = ${t};`;
      if (blocks === 1) w.line(store);
      else if (j === taps) w.line(`if (block == 0u) { ${store} }`);
      else w.line(`if (${tap} < ${kernelLength}u) { ${store} }`);
    });
  });
  w.line("}");
  const tensors = tensorTexts(gradient, [upstream], [target]);
  const bindings: Binding[] = [
    ...tensors.bindings,
    ...filterOperands(gradient, target !== undefined || form !== "linear"),
    { name: "sums", access: "read_write", element: type },
  ];
  const count = totals.flat().length;
  return w.kernel(
    [...tensors.parameters, "weight", "bias", ...(thirds ? ["sums_third"] : [])],
    bindings,
    [
      ...tensors.functions,
      ...(activation && form === "activated"
        ? activationFunctions(activation, "slope", cell, text.fuses)
        : []),
    ],
    sharedTotals(spread, count),
  );
}

/** The workgroup memory in which `count` totals of each thread are added up. */
export function sharedTotals(spread: RunSpread, count: number): string[] {
  const { cell } = spread;
  if (sharers(spread) === 1) return [];
  const elements = depthwiseThreads * atOnce(cell, count);
  return [`var<workgroup> partial: array<${cellType(cell)}, ${elements}>;`];
}

/** Values of each thread that fit in workgroup memory at once. */
const atOnce = (cell: Width, count: number): number =>
  Math.min(count, sharedBytes / (4 * cell * depthwiseThreads));

/** Threads of a workgroup that have the same channels. */
const sharers = ({ layout, lanes }: RunSpread): number =>
  layout === "BLH" ? depthwiseThreads / lanes : lanes;

/** Add up the totals of the threads of a workgroup that have the same channels; `first` says who holds the sums. */
export function reduceTotals(w: RunWriter, totals: readonly string[]): void {
  const { lanes, cell } = w.spread;
  const stride = w.across ? lanes : 1;
  const count = sharers(w.spread);
  w.line(`let order = ${w.across ? `lane / ${lanes}u` : `lane % ${lanes}u`};`);
  w.line("let first = order == 0u;");
  if (count === 1) return;
  const group = atOnce(cell, totals.length);
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

/**
 * Adds up p.parts terms, the `part`-th of them at `term`, for each of the items that stand side by side, where `has` says that
 * there are any; the sum is then in `partial[lane]` of the item's first thread. Several threads share a sum, each with the
 * rounding error of every addition carried along (Kahan 1965).
 */
export function compensated(has: string, term: string): string[] {
  const behind = depthwiseThreads / sumsBeside;
  return [
    "var sum = 0.0f;",
    "var lost = 0.0f;",
    `if (${has}) {`,
    `for (var part = lane / ${sumsBeside}u; part < p.parts; part += ${behind}u) {`,
    `let term = ${term} - lost;`,
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
  ];
}

/** The end of a kernel of totals: `named`, then the total of a tap, or behind the taps another one, is stored. */
export function storedTotals(
  named: readonly string[],
  taps: number,
  ofTap: string,
  other: string | undefined,
): string[] {
  return [
    `if (lane < ${sumsBeside}u && item < p.items) {`,
    "sum = partial[lane];",
    ...named,
    `if (tap < ${taps}u) {`,
    ofTap,
    ...(other ? ["} else {", other] : []),
    "}",
    "}",
    "}",
    "",
  ];
}

/**
 * The sums of all workgroups → dweight (H, K) and dbias (H), of one filter for each channel or of three, whose sums lie one
 * after the other, in an order that nothing but the call's size decides.
 */
export function totalsKernel(kernelLength: number, bias: boolean, thirds: number): Kernel {
  const bindings: Binding[] = [
    { name: "sums", access: "read", element: "f32" },
    { name: "dweight", access: "read_write", element: "f32" },
    ...(bias ? [{ name: "dbias", access: "read_write", element: "f32" } as const] : []),
  ];
  const alone = thirds === 1;
  const parameters = [
    ...["parts", "items", "span", "clear", "dweight", "dbias"],
    ...(alone ? [] : ["tiles", "sums_third", "third"]),
  ];
  const put = (array: string, at: string): string =>
    `let at = ${at};\nif (p.clear == 1u) { ${array}[at] = sum; } else { ${array}[at] += sum; }`;
  const beside = `${sumsBeside}u + lane % ${sumsBeside}u`;
  const which = alone
    ? [`let item = index * ${beside};`]
    : [
        "let third = index / p.tiles;",
        `let item = select(p.items, index % p.tiles * ${beside}, third < ${thirds}u);`,
      ];
  const [sumsFrom, channelFrom] = alone
    ? ["", ""]
    : ["third * p.sums_third + ", "third * p.third + "];
  const code = [
    ...declarations(bindings, parameters),
    `var<workgroup> partial: array<f32, ${depthwiseThreads}>;`,
    `@compute @workgroup_size(${depthwiseThreads})`,
    entry,
    "let index = group.y * groups.x + group.x;",
    ...which,
    ...compensated("item < p.items", `sums[${sumsFrom}part * p.items + item]`),
    ...storedTotals(
      ["let tap = item / p.span;", `let channel = ${channelFrom}item % p.span;`],
      kernelLength,
      put("dweight", `channel * ${kernelLength}u + tap + p.dweight`),
      bias ? put("dbias", "channel + p.dbias") : undefined,
    ),
  ].join("\n");
  return { code, bindings, parameters, tiles: 1, tilesPerUnit: 1 };
}
