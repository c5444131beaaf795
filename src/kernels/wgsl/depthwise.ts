/**
 * Kernels of short convolutions. A thread takes runs of consecutive positions and holds their samples in registers, where all
 * taps meet them. In layout BHL threads stand side by side along a row, in BLH along the channels; the arithmetic on cells
 * is the same.
 */
import { silu, siluSlope } from "../../math/activation.ts";
import { Graph } from "../../math/expr.ts";
import type { Layout } from "../../plan/depthwise.ts";
import type { Lines, Width } from "./depthwise-cells.ts";
import {
  cellType,
  lineStart,
  linesBinding,
  linesParameters,
  loadFunctions,
  storeFunctions,
  storeRun,
  window,
} from "./depthwise-cells.ts";
import type { Kernel, Machine } from "./kernels.ts";
import { declarations, entry } from "./kernels.ts";
import { named, printValues, Text } from "./print.ts";
import type { Binding } from "./tensors.ts";
import { roundingFunctions } from "./tensors.ts";

/** Threads of a workgroup. */
export const depthwiseThreads = 256;

/** How the positions and channels of a call go to threads. */
export interface Spread {
  readonly layout: Layout;
  /** Channels of a cell. */
  readonly cell: Width;
  /** Consecutive positions that a thread holds at once. */
  readonly run: number;
  /** Threads side by side along a row (BHL) or along the channels (BLH): a power of two. */
  readonly lanes: number;
  /** Runs that a thread takes, one after the other. */
  readonly strips: number;
}

/** What every kernel of a short convolution needs to know. */
interface Common {
  readonly spread: Spread;
  /** K. */
  readonly kernelLength: number;
  /** Positions of zeros, or of history, before the first of the source. */
  readonly left: number;
  readonly source: Lines;
  /** The carried state before the source. */
  readonly history?: Lines | undefined;
  readonly bias: boolean;
  /** Whether four taps of neighbouring channels come in one access: layout BLH. */
  readonly wideTaps: boolean;
  /** Added to what is stored: the gradient of the state that the call left behind. */
  readonly tail?: Lines | undefined;
  /** Whether the target has all positions of a run or none. */
  readonly whole: boolean;
  readonly machine: Pick<Machine, "packs" | "slowFma">;
}

/** y = act(bias + Σ_j w[j]·x[n + j − left]), and what has the same form: gradients of samples, and copies. */
export interface Filter extends Common {
  readonly kind: "filter";
  readonly taps: "forward" | "reversed" | "none";
  /** What becomes of a sum: itself, its SiLU, or the SiLU's slope there times dy. */
  readonly result: "sum" | "silu" | "slope";
  readonly upstream?: Lines | undefined;
  readonly target: Lines;
}

/**
 * Sums of dw[j] = Σ x[m]·dz[m + left − j] and of dbias, workgroup by workgroup, for `taps` taps at a time; where that is all of
 * them, dx[m] = Σ_j w[j]·dz[m + left − j] on the way. dz is `upstream`, times the SiLU's slope where `slope` asks for it.
 */
export interface Gradient extends Common {
  readonly kind: "gradient";
  readonly taps: number;
  readonly slope: boolean;
  readonly upstream: Lines;
  readonly target?: Lines | undefined;
}

/** Taps that meet a run in registers at once, of filters that do not hold all of theirs. */
export const tapsAtOnce = { BHL: 16, BLH: 8 } as const;

/** First output that a run at position 0 counts for dbias: one that the first taps see. */
export function biasShift({ left, taps }: Pick<Gradient, "left" | "taps">): number {
  return Math.max(0, left - (taps - 1));
}

/** A kernel under construction. */
class Writer {
  readonly text: Text;
  readonly spread: Spread;
  readonly common: Common;
  readonly type: string;

  constructor(common: Common) {
    this.common = common;
    this.spread = common.spread;
    this.text = new Text(common.machine.slowFma !== true);
    this.type = cellType(common.spread.cell);
  }

  get across(): boolean {
    return this.spread.layout === "BLH";
  }

  line(text: string): void {
    this.text.line(text);
  }

  at(lines: Lines): string {
    return this.text.hold("at", lineStart(lines, "line", "cell"));
  }

  /** Where the lines of the source begin, and of its history: the first arguments of its loads. */
  sourceAt(): string {
    const { source, history } = this.common;
    return history ? `${this.at(source)}, ${this.at(history)}` : this.at(source);
  }

  /** a·b + c. */
  add(a: string, b: string, c: string): string {
    return this.text.fuses ? `fma(${a}, ${b}, ${c})` : `(${a} * ${b} + ${c})`;
  }

  /** Σ a·b, in order. */
  dot(a: readonly string[], b: readonly string[]): string {
    return a.slice(1).reduce((sum, x, i) => this.add(x, b[i + 1]!, sum), `${a[0]} * ${b[0]}`);
  }

  /** Which line, cell and runs a thread has, then `setup` once and `body` for each run, whose first position is `n0`. */
  walk(setup: () => void, body: () => void): void {
    const { lanes, strips, run } = this.spread;
    const log = Math.log2(lanes);
    const beside = `(lane & ${lanes - 1}u)`;
    const behind = `tile / p.chunks * ${depthwiseThreads / lanes}u + (lane >> ${log}u)`;
    if (this.across) {
      this.line(`let cell = tile % p.chunks * ${lanes}u + ${beside};`);
      this.line(`let down = ${behind};`);
      this.line("let line = down / p.pieces;");
      this.line("let own = line < p.lines && cell < p.cells;");
    } else {
      this.line("let chunk = tile % p.chunks;");
      this.line(`let line = ${behind};`);
      this.line("let channel = line % p.span;");
      this.line("let own = line < p.lines;");
    }
    this.line("if (own) {");
    setup();
    this.line(`for (var strip = 0u; strip < ${strips}u; strip++) {`);
    this.line(
      this.across
        ? `let run = down % p.pieces * ${strips}u + strip;`
        : `let run = (chunk * ${strips}u + strip) * ${lanes}u + ${beside};`,
    );
    this.line("if (run < p.runs) {");
    this.line(`let n0 = i32(p.begin) + i32(run * ${run}u);`);
    body();
    this.line("}\n}\n}");
  }

  /** Weights of the taps at the given places, the first of them behind `offset`. */
  weights(taps: readonly number[], offset = ""): string[] {
    const { kernelLength, wideTaps } = this.common;
    const { cell } = this.spread;
    if (wideTaps) {
      const loaded = Array.from({ length: kernelLength }, (_, k) =>
        this.text.hold("w", `weight[cell * ${kernelLength}u + ${k}u + p.weight]`),
      );
      const one = (flat: number): string => `${loaded[flat >> 2]}.${"xyzw"[flat & 3]}`;
      return taps.map((j) =>
        this.text.hold("w", `vec4f(${[0, 1, 2, 3].map((c) => one(c * kernelLength + j))})`),
      );
    }
    const first = this.across ? `cell * ${cell * kernelLength}u` : `channel * ${kernelLength}u`;
    const base = this.text.hold("at", `${first} + p.weight${offset}`);
    return taps.map((j) => {
      const each = Array.from(
        { length: cell },
        (_, c) => `weight[${base} + u32(${j + c * kernelLength})]`,
      );
      return this.text.hold("w", cell === 1 ? each[0]! : `${this.type}(${each.join(", ")})`);
    });
  }

  bias(): string | undefined {
    if (!this.common.bias) return undefined;
    const { cell } = this.spread;
    if (!this.across) return this.text.hold("b", "bias[channel + p.bias]");
    const each = Array.from({ length: cell }, (_, c) => `bias[cell * ${cell}u + ${c}u + p.bias]`);
    return this.text.hold("b", cell === 1 ? each[0]! : `${this.type}(${each.join(", ")})`);
  }

  /** Store cells from position n0 on. */
  store(target: Lines, at: string, values: readonly string[]): void {
    const { tail, whole } = this.common;
    if (!tail) return storeRun(this.text, target, at, "n0", values, whole);
    const from = this.at(tail);
    const sums = values.map((v, r) => {
      const [more] = window(this.text, tail, from, `(n0 + i32(p.tail_shift) + ${r})`, 0, 1);
      return this.text.hold("z", `${v} + ${more}`);
    });
    storeRun(this.text, target, at, "n0", sums, whole);
  }

  /** The whole text. */
  kernel(
    parameters: readonly string[],
    bindings: readonly Binding[],
    functions: readonly string[],
    shared: readonly string[] = [],
  ): Kernel {
    const declared = ["lines", "span", "cells", "chunks", "pieces", "runs", "begin", ...parameters];
    const code = [
      ...declarations(bindings, declared),
      ...shared,
      ...functions,
      `@compute @workgroup_size(${depthwiseThreads})`,
      entry,
      "let index = group.y * groups.x + group.x;",
      ...this.text.lines,
      "}",
      "",
    ].join("\n");
    return { code, bindings, parameters: declared, tiles: 1, tilesPerUnit: 1 };
  }
}

/** A function of one float32, and of a cell of several. */
function activation(name: "silu" | "slope", cell: Width, fuses: boolean): string[] {
  const g = new Graph();
  const z = named(g, "z");
  const result = name === "silu" ? silu(g, z) : siluSlope(g, z);
  const text = new Text(fuses);
  const [value] = printValues(text, [{ re: result, im: g.constant(0) }]);
  const one = `fn ${name}_one(z: f32) -> f32 {\n${text.lines.join("\n")}\nreturn ${value!.re};\n}`;
  const type = cellType(cell);
  const each = [..."xyzw"].slice(0, cell).map((a) => `${name}_one(z.${a})`);
  const body = cell === 1 ? `${name}_one(z)` : `${type}(${each.join(", ")})`;
  return [one, `fn ${name}(z: ${type}) -> ${type} { return ${body}; }`];
}

/** Bindings of taps and bias. */
function operands(common: Common, taps: boolean): Binding[] {
  const element = common.wideTaps ? "vec4f" : "f32";
  return [
    ...(taps ? [{ name: "weight", access: "read", element } as const] : []),
    ...(common.bias ? [{ name: "bias", access: "read", element: "f32" } as const] : []),
  ];
}

/** What a kernel says of its tensors: bindings, parameters and functions. */
function tensorTexts(common: Common, read: readonly (Lines | undefined)[], written?: Lines) {
  const { source, history, tail, machine } = common;
  const reads = read.filter((t) => t !== undefined);
  const all = [source, history, ...reads, tail, written].filter((t) => t !== undefined);
  return {
    bindings: all.map(linesBinding),
    parameters: [...all.flatMap(linesParameters), ...(tail ? ["tail_shift"] : [])],
    functions: [
      ...loadFunctions(source, history),
      ...[...reads, ...(tail ? [tail] : [])].flatMap((t) => loadFunctions(t)),
      ...(written ? roundingFunctions(written.dtype, machine.packs) : []),
      ...(written ? storeFunctions(written) : []),
    ],
  };
}

const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

/** The text of a filter. */
export function filterKernel(filter: Filter): Kernel {
  const { kernelLength, left, taps, result, source, upstream, target, spread } = filter;
  const w = new Writer(filter);
  const { text } = w;
  const { run, layout } = spread;
  const most = tapsAtOnce[layout];
  const place = (j: number): number => (taps === "reversed" ? kernelLength - 1 - j : j);
  let [at, dyAt, yAt] = ["", "", ""];
  let held: string[] = [];
  let bias: string | undefined;
  w.line("let tile = index;");
  w.walk(
    () => {
      at = w.sourceAt();
      yAt = w.at(target);
      if (upstream) dyAt = w.at(upstream);
      if (taps !== "none") {
        bias = w.bias();
        if (kernelLength <= most) held = w.weights(upTo(kernelLength).map(place));
      }
    },
    () => {
      let sums: string[];
      if (taps === "none") sums = window(text, source, at, "n0", -left, run);
      else if (kernelLength <= most) {
        const x = window(text, source, at, "n0", -left, run + kernelLength - 1);
        sums = upTo(run).map((r) => {
          const sum = w.dot(held, x.slice(r));
          return text.hold("z", bias ? `${sum} + ${bias}` : sum);
        });
      } else {
        // Sums of some taps each, which are added up: closer to the truth than one long sum.
        sums = upTo(run).map((r) => `total${r}`);
        for (const s of sums) w.line(`var ${s} = ${bias ?? `${w.type}()`};`);
        const block = (count: number): void => {
          const sign = taps === "reversed" ? " - j" : " + j";
          const weights = w.weights(upTo(count).map(place), sign);
          const x = window(text, source, at, "(n0 + i32(j))", -left, run + count - 1);
          sums.forEach((s, r) => {
            w.line(`${s} += ${w.dot(weights, x.slice(r))};`);
          });
        };
        const rest = kernelLength % most;
        w.line(`for (var j = 0u; j < ${kernelLength - rest}u; j += ${most}u) {`);
        block(most);
        w.line("}");
        if (rest > 0) {
          w.line(`{\nlet j = ${kernelLength - rest}u;`);
          block(rest);
          w.line("}");
        }
      }
      if (result === "silu") sums = sums.map((s) => text.hold("y", `silu(${s})`));
      if (upstream) {
        const dy = window(text, upstream, dyAt, "n0", 0, run);
        sums = sums.map((s, r) => text.hold("y", `${dy[r]} * slope(${s})`));
      }
      w.store(target, yAt, sums);
    },
  );
  const tensors = tensorTexts(filter, [upstream], target);
  return w.kernel(
    [...tensors.parameters, "weight", "bias"],
    [...tensors.bindings, ...operands(filter, taps !== "none")],
    [
      ...tensors.functions,
      ...(result === "sum" ? [] : activation(result, spread.cell, text.fuses)),
    ],
  );
}

/** Bytes of workgroup memory that any device has. */
const sharedBytes = 16_384;

/** The text of a gradient. */
export function gradientKernel(gradient: Gradient): Kernel {
  const { kernelLength, left, taps, slope, source, upstream, target, spread } = gradient;
  const w = new Writer(gradient);
  const { text, type } = w;
  const { run, cell } = spread;
  const blocks = Math.ceil(kernelLength / taps);
  const totals = upTo(taps + 1).map((j) => `total${j}`);
  for (const t of totals) w.line(`var ${t} = ${type}();`);
  w.line(`let block = index % ${blocks}u;`);
  w.line(`let tile = index / ${blocks}u;`);
  let [at, dyAt, dxAt] = ["", "", ""];
  let weights: string[] = [];
  let bias: string | undefined;
  w.walk(
    () => {
      at = w.sourceAt();
      dyAt = w.at(upstream);
      if (target || slope) weights = w.weights(upTo(kernelLength));
      if (target) dxAt = w.at(target);
      if (slope) bias = w.bias();
    },
    () => {
      // The window of dz, of which x[m0 + r] meets the places r … r + taps − 1, the last tap first.
      const width = run + taps - 1;
      let x: string[];
      let d = window(
        text,
        upstream,
        dyAt,
        blocks === 1 ? "n0" : `(n0 - i32(block * ${taps}u))`,
        left - (taps - 1),
        width,
      );
      if (slope) {
        const around = window(text, source, at, "n0", -(taps - 1), width + taps - 1);
        d = d.map((dy, i) => {
          const sum = w.dot(weights, around.slice(i));
          return text.hold("d", `${dy} * slope(${bias ? `${sum} + ${bias}` : sum})`);
        });
        x = around.slice(taps - 1, taps - 1 + run);
      } else x = window(text, source, at, "n0", 0, run);
      for (const j of upTo(taps)) {
        w.line(`total${j} += ${w.dot(x, d.slice(taps - 1 - j))};`);
      }
      const counted = biasShift(gradient) - left + taps - 1;
      w.line(`total${taps} += ${d.slice(counted, counted + run).join(" + ")};`);
      if (target) {
        const backwards = [...weights].reverse();
        const dx = upTo(run).map((r) => text.hold("z", w.dot(backwards, d.slice(r))));
        w.store(target, dxAt, dx);
      }
    },
  );
  reduceTotals(w, totals);
  const place = (tap: string): string =>
    w.across
      ? `(tile / p.chunks * ${kernelLength + 1}u + ${tap}) * p.cells + cell`
      : `((line / p.span * p.chunks + chunk) * ${kernelLength + 1}u + ${tap}) * p.span + channel`;
  w.line("if (first && own) {");
  totals.forEach((t, j) => {
    const tap = blocks === 1 ? `${j}u` : `(block * ${taps}u + ${j}u)`;
    const store = `sums[${place(j === taps ? `${kernelLength}u` : tap)}] = ${t};`;
    if (blocks === 1) w.line(store);
    else if (j === taps) w.line(`if (block == 0u) { ${store} }`);
    else w.line(`if (${tap} < ${kernelLength}u) { ${store} }`);
  });
  w.line("}");
  const tensors = tensorTexts(gradient, [upstream], target);
  const bindings: Binding[] = [
    ...tensors.bindings,
    ...operands(gradient, target !== undefined || slope),
    { name: "sums", access: "read_write", element: type },
  ];
  const shared =
    sharers(spread) === 1
      ? []
      : [`var<workgroup> partial: array<${type}, ${depthwiseThreads * atOnce(cell, taps + 1)}>;`];
  return w.kernel(
    [...tensors.parameters, "weight", "bias"],
    bindings,
    [...tensors.functions, ...(slope ? activation("slope", cell, text.fuses) : [])],
    shared,
  );
}

/** Values of each thread that fit in workgroup memory at once. */
const atOnce = (cell: Width, count: number): number =>
  Math.min(count, sharedBytes / (4 * cell * depthwiseThreads));

/** Threads of a workgroup that have the same channels. */
const sharers = ({ layout, lanes }: Spread): number =>
  layout === "BLH" ? depthwiseThreads / lanes : lanes;

/** Add up the totals of the threads of a workgroup that have the same channels; `first` says who holds the sums. */
function reduceTotals(w: Writer, totals: readonly string[]): void {
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
 * The sums of all workgroups → dweight (H, K) and dbias (H). Several threads share a sum, each with the rounding error of every
 * addition carried along (Kahan 1965), in an order that nothing but the call's size decides.
 */
export function totalsKernel(kernelLength: number, bias: boolean): Kernel {
  const bindings: Binding[] = [
    { name: "sums", access: "read", element: "f32" },
    { name: "dweight", access: "read_write", element: "f32" },
    ...(bias ? [{ name: "dbias", access: "read_write", element: "f32" } as const] : []),
  ];
  const parameters = ["parts", "items", "span", "clear", "dweight", "dbias"];
  const behind = depthwiseThreads / sumsBeside;
  const put = (array: string, at: string): string =>
    `let at = ${at};\nif (p.clear == 1u) { ${array}[at] = sum; } else { ${array}[at] += sum; }`;
  const code = [
    ...declarations(bindings, parameters),
    `var<workgroup> partial: array<f32, ${depthwiseThreads}>;`,
    `@compute @workgroup_size(${depthwiseThreads})`,
    entry,
    "let index = group.y * groups.x + group.x;",
    `let item = index * ${sumsBeside}u + lane % ${sumsBeside}u;`,
    "var sum = 0.0f;",
    "var lost = 0.0f;",
    "if (item < p.items) {",
    `for (var part = lane / ${sumsBeside}u; part < p.parts; part += ${behind}u) {`,
    "let term = sums[part * p.items + item] - lost;",
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
    "let tap = item / p.span;",
    "let channel = item % p.span;",
    `if (tap < ${kernelLength}u) {`,
    put("dweight", `channel * ${kernelLength}u + tap + p.dweight`),
    ...(bias ? ["} else {", put("dbias", "channel + p.dbias")] : []),
    "}",
    "}",
    "}",
    "",
  ].join("\n");
  return { code, bindings, parameters, tiles: 1, tilesPerUnit: 1 };
}
