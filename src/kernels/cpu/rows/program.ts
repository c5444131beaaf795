/**
 * Row programs → functions for the CPU. Four columns are the lanes of a vector; what is the same for a row, or for all of them,
 * is computed ahead of the loops and held in registers. Sums over rows are those of the rows that a call is for.
 */
import { copied } from "../../../math/copied.ts";
import type { Node } from "../../../math/expr.ts";
import { Graph, operands } from "../../../math/expr.ts";
import type {
  RowLevel,
  RowOperand,
  RowOutput,
  RowProgram,
  RowReduction,
} from "../../../math/row-program.ts";
import { addressed, identity, lowest, valuesOf } from "../../../math/row-program.ts";
import type { Int, KernelFunction, KernelModule, Register, Statement, Store } from "../ir.ts";
import { loop, plus, times } from "../ir.ts";
import type { ProgramSource } from "../program-source.ts";

/** Most tensors of a program, and bytes from one of a unit's totals to the next. */
export const mostRowTensors = 16;
export const totalBytes = 16;

/** Bytes of an element. */
export const elementBytes = ({ dtype }: Pick<RowOperand, "dtype">): number =>
  dtype === "float16" ? 2 : 4;
const isMoving = ({ kind }: RowOperand): boolean => kind === "cell" || kind === "column";

/** A part of a loop over columns: vectors of a block, lanes that are stored. */
interface Stretch {
  readonly vectors: number;
  readonly stored: number;
}

/** Loops over `columns`: blocks of vectors, single vectors, single lanes. `pointers` move by so many bytes a column. */
function overColumns(
  lanes: 1 | 4,
  vectors: number,
  pointers: readonly { readonly name: string; readonly from: Int; readonly by: number }[],
  body: (stretch: Stretch) => readonly Statement[],
): Statement[] {
  const floor = (multiple: number): Int =>
    multiple === 1 ? "columns" : times({ op: "div", a: "columns", by: multiple }, multiple);
  const part = (from: Int, end: Int, step: number, stretch: Stretch): Statement => {
    const also = pointers.map(({ name, from: base, by }) => ({
      ...{ name, from: plus(base, times(from, by)), step: step * by },
    }));
    return loop("c", from, end, step, body(stretch), also, false);
  };
  return [
    { op: "let", name: "wide", value: floor(vectors * lanes) },
    { op: "let", name: "narrow", value: floor(lanes) },
    part(0, "wide", vectors * lanes, { vectors, stored: lanes }),
    ...(vectors > 1 ? [part("wide", "narrow", lanes, { vectors: 1, stored: lanes })] : []),
    ...(lanes > 1 ? [part("narrow", "columns", 1, { vectors: 1, stored: 1 })] : []),
  ];
}

/** Combines values of a reduction. */
const combined = (g: Graph, op: RowReduction["op"], a: Node, b: Node): Node =>
  op === "sum" ? g.add(a, b) : g.max(a, b);

/** What a reduction begins with. */
const beginning = (g: Graph, op: RowReduction["op"]): Node => g.constant(op === "sum" ? 0 : lowest);

/** The function `rows` under construction. */
class RowsText {
  readonly #program: RowProgram;
  readonly #lanes: 1 | 4;
  readonly #tensors: ReadonlyMap<string, string>;
  readonly #operands: readonly RowOperand[];
  /** Values that registers hold at this place of the text. */
  readonly #ready = new Set<Node>();

  constructor(program: RowProgram, lanes: 1 | 4) {
    this.#program = program;
    this.#lanes = lanes;
    this.#operands = addressed(program);
    this.#tensors = new Map(this.#operands.map((o, i) => [identity(o), `p${i}`]));
  }

  /** What stands for the leaves and for what is ready in a graph, at a vector of a block. */
  #known(g: Graph, vector = 0): Map<Node, Node> {
    const known = new Map<Node, Node>();
    const ahead = vector * this.#lanes;
    for (const [node, leaf] of this.#program.leaves) {
      if (leaf.from === "column") known.set(node, g.counter("c", ahead, true));
      else if (leaf.from === "cell") known.set(node, g.counter("cells", ahead, true));
      else if (leaf.from === "row") known.set(node, g.counter("row", 0, false));
      else if (leaf.from === "operand") {
        const { operand } = leaf;
        const pointer = this.#tensors.get(identity(operand))!;
        const moving = isMoving(operand);
        const at = { pointer: `${pointer}${moving ? "c" : ""}`, offset: 0 };
        const format = operand.dtype === "uint32" ? "word" : "splat";
        const offset = ahead * elementBytes(operand);
        known.set(
          node,
          moving ? g.load({ ...at, offset }, operand.dtype as "float32") : g.load(at, format),
        );
      }
    }
    for (const n of this.#ready) known.set(n, g.register(`u${n.id}`));
    return known;
  }

  /** Registers of what the roots need no more often than `most` says. */
  #hoisted(roots: readonly Node[], most: RowLevel): Statement[] {
    const wanted = valuesOf(this.#program, roots, most).filter((n) => !this.#ready.has(n));
    const g = new Graph();
    const known = this.#known(g);
    const registers = wanted.map((n) => ({ name: `u${n.id}`, value: copied(g, n, known) }));
    for (const n of wanted) this.#ready.add(n);
    return wanted.length > 0 ? [{ op: "block", stores: [], registers }] : [];
  }

  /** rows(p…, s…, sums, sumBytes, rows, columns, row, cell): see `RowFunctions`. */
  function(): KernelFunction {
    const { outputs, reductions, passes } = this.#program;
    const all = [...outputs, ...reductions].map((o) => o.value);
    const perRow = outputs.filter((o) => o.operand.kind === "row" || o.how === "total");
    const first = this.#hoisted(all, 0);
    const totals = outputs.filter((o) => o.how === "total");
    const sums = outputs
      .filter((o) => o.how === "columnSum")
      .map((_, i): Statement => {
        const before = i === 0 ? plus("sums", totalBytes * totals.length) : `k${i - 1}`;
        return { op: "let", name: `k${i}`, value: i === 0 ? before : plus(before, "sumBytes") };
      });
    const body = [
      ...Array.from({ length: passes }, (_, pass) => this.#pass(pass)).flat(),
      ...(perRow.length > 0 ? [this.#rowResults(perRow, totals)] : []),
      ...this.#operands.flatMap(({ kind }, i): Statement[] =>
        kind === "cell" || kind === "row"
          ? [{ op: "let", name: `p${i}`, value: plus(`p${i}`, `s${i}`) }]
          : [],
      ),
      { op: "let", name: "row", value: plus("row", 1) } as const,
      { op: "let", name: "cell", value: plus("cell", "columns") } as const,
    ];
    const names = (letter: string): string[] => this.#operands.map((_, i) => `${letter}${i}`);
    return {
      name: "rows",
      parameters: [
        ...[...names("p"), ...names("s")],
        ...["sums", "sumBytes", "rows", "columns", "row", "cell"],
      ],
      exported: true,
      body: [...sums, ...first, loop("i", 0, "rows", 1, body)],
    };
  }

  #rowResults(results: readonly RowOutput[], totals: readonly RowOutput[]): Statement {
    const g = new Graph();
    const known = this.#known(g);
    const stores = results.map((o): Store => {
      const value = copied(g, o.value, known);
      if (o.how === "store") {
        const at = { pointer: this.#tensors.get(identity(o.operand))!, offset: 0 };
        return { at, format: "float32", value, first: 0, last: 1 };
      }
      const at = { pointer: "sums", offset: totalBytes * totals.indexOf(o) };
      const sum = g.add(g.load(at, "float32"), value);
      return { at, format: "float32", value: sum, first: 0, last: this.#lanes };
    });
    return { op: "block", stores };
  }

  #pass(pass: number): Statement[] {
    const { passes, outputs, reductions, leaves } = this.#program;
    const own = [...leaves].flatMap(([node, leaf]) =>
      leaf.from === "reduction" && leaf.reduction.pass === pass
        ? [{ node, ...leaf.reduction, name: `a${reductions.indexOf(leaf.reduction)}` }]
        : [],
    );
    const isLast = pass === passes - 1;
    const stored = outputs.filter((o) => isLast && (o.operand.kind === "cell" || isSum(o)));
    const roots = [...own, ...stored].map((o) => o.value);
    const before = this.#hoisted(roots, 1);
    const cells = this.#cellsBelow(roots);
    const used = new Set(cells.flatMap((n) => this.#pointerOf(n)));
    for (const o of stored) used.add(this.#tensors.get(identity(o.operand)) ?? "");
    const vectors = cells.length > 12 ? 2 : 4;
    const g = new Graph();
    const set = (value: (r: (typeof own)[number]) => Register): Statement[] =>
      own.length > 0 ? [{ op: "block", stores: [], registers: own.map(value) }] : [];
    const pointers = [
      { name: "cells", from: "cell", by: 1 },
      ...this.#operands.flatMap((o, i) =>
        used.has(`p${i}`) && isMoving(o)
          ? [{ name: `p${i}c`, from: `p${i}`, by: elementBytes(o) }]
          : [],
      ),
      ...stored.filter(isSum).map((_, i) => ({ name: `k${i}c`, from: `k${i}`, by: 4 })),
    ];
    const block = (stretch: Stretch): Statement[] => [this.#block(stretch, own, stored)];
    const statements = [
      ...before,
      ...set(({ name, op }) => ({ name, value: beginning(g, op) })),
      ...overColumns(this.#lanes, vectors, pointers, block),
      ...set(({ node, name, op }) => ({
        ...{ name: `u${node.id}`, value: this.#across(g, op, g.register(name)) },
      })),
    ];
    for (const { node } of own) this.#ready.add(node);
    return statements;
  }

  /** Columns of a pass: what is stored, and what reductions gain. */
  #block(
    { vectors, stored: last }: Stretch,
    own: readonly (RowReduction & { readonly name: string })[],
    outputs: readonly RowOutput[],
  ): Statement {
    const g = new Graph();
    const sums = outputs.filter(isSum);
    const copies = Array.from({ length: vectors }, (_, v) => this.#known(g, v));
    const stores = copies.flatMap((known, v) =>
      outputs.map((o): Store => {
        const value = copied(g, o.value, known);
        const { dtype } = o.operand;
        const format = dtype === "float16" ? dtype : "float32";
        if (!isSum(o)) {
          const pointer = `${this.#tensors.get(identity(o.operand))!}c`;
          const at = { pointer, offset: v * this.#lanes * elementBytes(o.operand) };
          return { at, format, value, first: 0, last };
        }
        const at = { pointer: `k${sums.indexOf(o)}c`, offset: v * this.#lanes * 4 };
        const sum = g.add(g.load(at, "float32"), value);
        return { at, format: "float32", value: sum, first: 0, last };
      }),
    );
    const registers = own.map(({ name, op, value }) => {
      const values = copies.map((known) => {
        const whole = copied(g, value, known);
        if (last === this.#lanes) return whole;
        const none = beginning(g, op);
        return g.shuffle("low64", g.shuffle("low32", whole, none), none);
      });
      while (values.length > 1) values.push(combined(g, op, values.shift()!, values.shift()!));
      return { name, value: combined(g, op, g.register(name), values[0]!) };
    });
    return { op: "block", stores, registers };
  }

  /** A reduction of all lanes, in every lane. */
  #across(g: Graph, op: RowReduction["op"], a: Node): Node {
    if (this.#lanes === 1) return a;
    const halves = combined(g, op, a, g.shuffle("high64", a, a));
    const pairs = g.shuffle("low32", halves, halves);
    return combined(
      ...([g, op, g.shuffle("low64", pairs, pairs), g.shuffle("high64", pairs, pairs)] as const),
    );
  }

  /** Nodes below the roots that are computed for every cell. */
  #cellsBelow(roots: readonly Node[]): Node[] {
    const found = new Set<Node>();
    const visit = (n: Node): void => {
      if (found.has(n) || this.#program.level(n) < 2) return;
      found.add(n);
      operands(n).forEach(visit);
    };
    roots.forEach(visit);
    return [...found];
  }

  #pointerOf(n: Node): string[] {
    const leaf = this.#program.leaves.get(n);
    return leaf?.from === "operand" ? [this.#tensors.get(identity(leaf.operand))!] : [];
  }
}

const isSum = ({ how }: RowOutput): boolean => how === "columnSum";

/** The functions of a row program. */
export function rowsSource(program: RowProgram): ProgramSource {
  const build = (lanes: 1 | 4): KernelModule => ({
    lanes,
    functions: [
      new RowsText(program, lanes).function(),
      {
        ...{ name: "zero", parameters: ["at", "bytes"], exported: true },
        body: [{ op: "clear", at: "at", bytes: "bytes" }],
      },
    ],
  });
  return { key: `rows ${program.key}`, build };
}
