/**
 * What kernels of short convolutions have in common: how positions and channels go to threads, taps and biases, the tensors.
 */
import type { Activation, ActivationName } from "../../../math/activation.ts";
import { activations } from "../../../math/activation.ts";
import { Graph } from "../../../math/expr.ts";
import type { Layout } from "../../../plan/depthwise.ts";
import type { SharedArray } from "../dialect/wgsl.ts";
import { kernelText, workgroup } from "../dialect/wgsl.ts";
import type { Kernel, Machine } from "../kernel.ts";
import type { Binding } from "../storage.ts";
import { roundingFunctions } from "../storage.ts";
import { nameNode, printValues, Text } from "../text.ts";
import type { Lines, Width } from "./samples.ts";
import {
  cellType,
  lineStart,
  linesBinding,
  linesParameters,
  loadFunctions,
  storeFunctions,
  storeRun,
  window,
} from "./samples.ts";

export const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

/** Threads of a workgroup. */
export const depthwiseThreads = 256;

/** How the positions and channels of a call go to threads. */
export interface RunSpread {
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

/** What every kernel that walks runs needs to know. */
export interface Walked {
  readonly spread: RunSpread;
  readonly machine: Pick<Machine, "packs" | "slowFma">;
}

/** What every kernel of a short convolution needs to know. */
export interface Common extends Walked {
  /** K. */
  readonly kernelLength: number;
  /** Positions of zeros, or of history, before the first of the source. */
  readonly left: number;
  readonly source: Lines;
  /** The carried state before the source. */
  readonly history?: Lines | undefined;
  readonly bias: boolean;
  /** What the filters' outputs go through. */
  readonly activation?: ActivationName | undefined;
  /** Whether four taps of neighbouring channels come in one access: layout BLH. */
  readonly wideTaps: boolean;
  /** Added to what is stored: the gradient of the state that the call left behind. */
  readonly tail?: Lines | undefined;
  /** Whether the target has all positions of a run or none. */
  readonly whole: boolean;
  /** Of packed channels, the thirds that the kernel filters, each with taps of its own; one filter where it is left out. */
  readonly thirds?: readonly number[] | undefined;
}

/** A kernel under construction whose threads walk runs. */
export class RunWriter {
  readonly text: Text;
  readonly spread: RunSpread;
  readonly type: string;
  /** Functions and workgroup memory that the text has come to need. */
  readonly functions: string[] = [];
  readonly shared: SharedArray[] = [];
  readonly #machine: Walked["machine"];

  constructor({ spread, machine }: Walked) {
    this.spread = spread;
    this.#machine = machine;
    this.text = new Text(machine.slowFma !== true);
    this.type = cellType(spread.cell);
  }

  get across(): boolean {
    return this.spread.layout === "BLH";
  }

  line(text: string): void {
    this.text.line(text);
  }

  at(lines: Lines, third?: number): string {
    return this.text.hold("at", lineStart(lines, "line", "cell", third));
  }

  /**
   * Sums over `taps` taps for the positions of a run, `most` at once from tap j on, which are added up: closer to the truth than
   * one long sum. `terms` writes what the positions of a block of taps share, and gives the sum at each of them.
   */
  summed(
    names: readonly string[],
    start: string,
    taps: number,
    most: number,
    terms: (count: number) => (position: number) => string,
  ): readonly string[] {
    for (const name of names) this.line(`var ${name} = ${start};`);
    const block = (count: number): void => {
      const sum = terms(count);
      names.forEach((name, r) => {
        this.line(`${name} += ${sum(r)};`);
      });
      this.line("}");
    };
    const rest = taps % most;
    this.line(`for (var j = 0u; j < ${taps - rest}u; j += ${most}u) {`);
    block(most);
    if (rest === 0) return names;
    this.line(`{\nlet j = ${taps - rest}u;`);
    block(rest);
    return names;
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

  /**
   * The whole kernel, which reads and writes `tensors`, source first. Before the source's first position lies `history`; `tail` is
   * added to what is stored.
   */
  kernel(
    tensors: readonly (Lines | undefined)[],
    operands: readonly Binding[],
    parameters: readonly string[],
    history?: Lines,
    tail?: Lines,
  ): Kernel {
    const all = tensors.filter((t) => t !== undefined);
    const written = all.filter((t) => t.writes);
    const read = all.filter((t) => !t.writes && t !== history);
    const bindings = [...all.map(linesBinding), ...operands];
    const declared = [
      ...["lines", "span", "cells", "chunks", "pieces", "runs", "begin"],
      ...all.flatMap(linesParameters),
      ...(tail ? ["tail_shift"] : []),
      ...(all.some((t) => t.packed) ? ["third"] : []),
      ...parameters,
    ];
    const code = kernelText({
      ...{ bindings, parameters: declared, shared: this.shared, threads: depthwiseThreads },
      functions: [
        ...read.flatMap((t, i) => loadFunctions(t, i === 0 ? history : undefined)),
        ...written
          .slice(0, 1)
          .flatMap(({ dtype }) => roundingFunctions(dtype, this.#machine.packs)),
        ...written.flatMap(storeFunctions),
        ...this.functions,
      ],
      body: [`let index = ${workgroup};`, ...this.text.lines],
    });
    return { code, bindings, parameters: declared, tiles: 1, tilesPerUnit: 1 };
  }
}

/** A kernel of a short convolution under construction. */
export class FilterText extends RunWriter {
  readonly common: Common;

  constructor(common: Common) {
    super(common);
    this.common = common;
  }

  /** Bindings of taps and bias. */
  operands(taps: boolean): Binding[] {
    const { wideTaps, bias } = this.common;
    const element = wideTaps ? "vec4f" : "f32";
    return [
      ...(taps ? [{ name: "weight", access: "read", element } as const] : []),
      ...(bias ? [{ name: "bias", access: "read", element: "f32" } as const] : []),
    ];
  }

  /** Where the lines of the source begin, and of its history: the first arguments of its loads. */
  sourceAt(third?: number): string {
    const { source, history } = this.common;
    const at = this.at(source, third);
    return history ? `${at}, ${this.at(history, third)}` : at;
  }

  /** The channel or cell that taps and biases belong to. */
  #owner(third?: number): string {
    const name = this.across ? "cell" : "channel";
    return third === undefined ? name : `(${name} + ${third}u * p.third)`;
  }

  /** Weights of the taps at the given places, the first of them behind `offset`. */
  weights(taps: readonly number[], offset = "", third?: number): string[] {
    const { kernelLength, wideTaps } = this.common;
    const { cell } = this.spread;
    const owner = this.#owner(third);
    if (wideTaps) {
      const loaded = Array.from({ length: kernelLength }, (_, k) =>
        this.text.hold("w", `weight[${owner} * ${kernelLength}u + ${k}u + p.weight]`),
      );
      const one = (flat: number): string => `${loaded[flat >> 2]}.${"xyzw"[flat & 3]}`;
      return taps.map((j) =>
        this.text.hold("w", `vec4f(${[0, 1, 2, 3].map((c) => one(c * kernelLength + j))})`),
      );
    }
    const first = `${owner} * ${cell * kernelLength}u`;
    const base = this.text.hold("at", `${first} + p.weight${offset}`);
    return taps.map((j) => {
      const each = Array.from(
        { length: cell },
        (_, c) => `weight[${base} + u32(${j + c * kernelLength})]`,
      );
      return this.text.hold("w", cell === 1 ? each[0]! : `${this.type}(${each.join(", ")})`);
    });
  }

  bias(third?: number): string | undefined {
    if (!this.common.bias) return undefined;
    const { cell } = this.spread;
    const owner = this.#owner(third);
    if (!this.across) return this.text.hold("b", `bias[${owner} + p.bias]`);
    const each = Array.from(
      { length: cell },
      (_, c) => `bias[${owner} * ${cell}u + ${c}u + p.bias]`,
    );
    return this.text.hold("b", cell === 1 ? each[0]! : `${this.type}(${each.join(", ")})`);
  }

  /** The activation of a cell, or its derivative, `slope`, there. */
  activated(part: keyof Activation, z: string): string {
    const { activation } = this.common;
    const name = `activation_${part}`;
    if (this.functions.length > 0) return `${name}(${z})`;
    const { cell } = this.spread;
    const g = new Graph();
    const text = new Text(this.text.fuses);
    const result = activations[activation!][part](g, nameNode(g, "z"));
    const [value] = printValues(text, [{ re: result, im: g.constant(0) }]);
    const each = [..."xyzw"].slice(0, cell).map((a) => `${name}_one(z.${a})`);
    const body = cell === 1 ? `${name}_one(z)` : `${this.type}(${each.join(", ")})`;
    this.functions.push(
      `fn ${name}_one(z: f32) -> f32 {\n${text.lines.join("\n")}\nreturn ${value!.re};\n}`,
      `fn ${name}(z: ${this.type}) -> ${this.type} { return ${body}; }`,
    );
    return `${name}(${z})`;
  }

  /** Store cells from position n0 on. */
  store(target: Lines, at: string, values: readonly string[], third?: number): void {
    const { tail, whole } = this.common;
    if (!tail) return storeRun(this.text, target, at, "n0", values, whole);
    const from = this.at(tail, third);
    const sums = values.map((v, r) => {
      const [more] = window(this.text, tail, from, `(n0 + i32(p.tail_shift) + ${r})`, 0, 1);
      return this.text.hold("z", `${v} + ${more}`);
    });
    storeRun(this.text, target, at, "n0", sums, whole);
  }
}
