/**
 * Row programs as data: what happens to every cell x[r, c] of `rows` × `columns`, with sums and maxima along the rows and sums
 * down the columns. An operation of a layer builds one over the expression graph; `kernels/cpu/rows` and `kernels/gpu/rows` print it.
 *
 * A program runs in passes over the columns of a row. A pass ends with the sums and maxima that need nothing but earlier ones, so
 * that a value which depends on a sum belongs to a later pass; everything that has a column is stored in the last pass.
 */
import { InvalidArgumentError } from "../errors.ts";
import type { Node } from "./expr.ts";
import { Graph, operands } from "./expr.ts";

/**
 * What a tensor is to a program: `cell` (rows, columns); `column` (columns), the same for all rows; `row` (rows), one number a row;
 * `scalar`, one number.
 */
export type RowOperandKind = "cell" | "column" | "row" | "scalar";

/** A tensor of a program. Operands of one name are one buffer: a result with the name of an input replaces it. */
export interface RowOperand {
  readonly name: string;
  readonly kind: RowOperandKind;
  /** float16 of cells and columns only; uint32 of inputs that are rows or scalars, and read as floats (exact below 2^24). */
  readonly dtype: "float32" | "float16" | "uint32";
  /** Cells: elements from row to row, where they are not as many as columns: a part of a wider tensor. */
  readonly stride?: number;
  /** Elements before the first; 0 by default. */
  readonly offset?: number;
  /** Cells of inputs: row r reads row r mod period. */
  readonly period?: number;
}

/** Where a value of a program comes from, if no operation makes it. */
export type RowLeaf =
  | { readonly from: "operand"; readonly operand: RowOperand }
  | { readonly from: "reduction"; readonly reduction: RowReduction }
  /** Numbers of the column, of the row, and of the cell: row · columns + column. All are integers. */
  | { readonly from: "column" | "row" | "cell" };

/** A sum or a maximum along the row. */
export interface RowReduction {
  readonly op: "sum" | "max";
  readonly value: Node;
  /** The pass at whose end it is known. */
  readonly pass: number;
}

/** A result: cells or a row that are stored, sums of a column over all rows, or the sum of a row's value over all rows. */
export interface RowOutput {
  readonly how: "store" | "columnSum" | "total";
  readonly operand: RowOperand;
  readonly value: Node;
  /** Sums: whether they are added to what is there. Stored values read that as an input. */
  readonly accumulate: boolean;
}

/** A tensor as it is bound: under its name. */
export interface RowBuffer extends Pick<RowOperand, "name" | "kind" | "dtype"> {
  readonly reads: boolean;
  readonly writes: boolean;
}

/** A program. */
export interface RowProgram {
  /** Equal keys mean equal programs. */
  readonly key: string;
  readonly buffers: readonly RowBuffer[];
  /** By the node, a `load` of the graph, that stands for the leaf. */
  readonly leaves: ReadonlyMap<Node, RowLeaf>;
  readonly reductions: readonly RowReduction[];
  readonly outputs: readonly RowOutput[];
  /** How often a value is to be computed. */
  readonly level: (value: Node) => RowLevel;
  /** Passes over the columns. */
  readonly passes: number;
  /** Whether cells have nothing to do with the shape: any rows and columns of as many cells make the same. */
  readonly flat: boolean;
}

/** Rows and columns that a program runs over. */
export interface RowShape {
  readonly rows: number;
  readonly columns: number;
}

/** How often a value is to be computed: once, of scalars only; once a row; or for every cell. */
export type RowLevel = 0 | 1 | 2;

/** How often a value is to be computed, and the first pass in which it can be. */
interface Place {
  readonly level: RowLevel;
  readonly pass: number;
}

const levelOfKind = { scalar: 0, row: 1, column: 2, cell: 2 } as const;

/** What counts as no value yet in a maximum: float32's lowest number, since WGSL has no infinity. */
export const lowest = -3.4028234663852886e38;

/** What tells a tensor from all others of a program. */
export const identity = ({ name, kind, dtype, stride, offset = 0, period }: RowOperand): string =>
  JSON.stringify([name, kind, dtype, stride ?? 0, offset, period ?? 0]);

/**
 * Builds a program.
 * @example
 * const b = new RowBuilder();
 * const x = b.input({ name: "x", kind: "cell", dtype: "float32" });
 * const mean = b.g.mul(b.sum(x), b.input({ name: "perColumn", kind: "scalar", dtype: "float32" }));
 * b.store({ name: "y", kind: "cell", dtype: "float32" }, b.g.sub(x, mean));
 * const program = b.finish();
 */
export class RowBuilder {
  readonly g: Graph = new Graph();
  readonly #leaves = new Map<Node, RowLeaf>();
  readonly #reductions: RowReduction[] = [];
  readonly #outputs: RowOutput[] = [];
  readonly #buffers = new Map<string, RowBuffer>();
  readonly #places = new Map<Node, Place>();

  #leaf(key: string, leaf: RowLeaf, word: boolean): Node {
    const node = this.g.load({ pointer: key, offset: 0 }, word ? "word" : "float32");
    this.#leaves.set(node, leaf);
    return word ? this.g.float(node) : node;
  }

  /**
   * The value of a tensor at (r, c).
   * @throws InvalidArgumentError for a tensor that programs cannot read.
   */
  input(operand: RowOperand): Node {
    const { kind, dtype } = operand;
    this.#use(operand, false);
    const flat = kind === "row" || kind === "scalar";
    if (dtype === "float16") need(!flat, "float16 of cells and columns only", operand);
    if (dtype === "uint32") need(flat, "uint32 of rows and scalars only", operand);
    return this.#leaf(identity(operand), { from: "operand", operand }, dtype === "uint32");
  }

  /** The column's number, as a float (exact below 2^24). */
  columnIndex(): Node {
    return this.#leaf("column", { from: "column" }, true);
  }

  /** The row's number, as a float (exact below 2^24). */
  rowIndex(): Node {
    return this.#leaf("row", { from: "row" }, true);
  }

  /**
   * A random number in [0, 1), a multiple of 2^−24: a hash of the seed, the stream and r·columns + c, with the same bits on every
   * backend. The seed is an input, a scalar of uint32; streams are integers from 0 to 2^32 − 1.
   * @throws InvalidArgumentError for another seed.
   */
  random(seed: Node, stream: number): Node {
    const word = seed.op === "float" ? seed.a : seed;
    const leaf = this.#leaves.get(word);
    const scalar = leaf?.from === "operand" && leaf.operand.kind === "scalar";
    need(scalar && seed.op === "float", "a seed that is an input, a scalar of uint32", seed.op);
    const cell = this.#leaf("cell", { from: "cell" }, true) as Node & { a: Node };
    return this.g.uniform(this.g.hash(this.g.hash(word, this.g.word(stream)), cell.a));
  }

  #reduce(op: "sum" | "max", value: Node): Node {
    const key = `${op} ${value.id}`;
    const node = this.g.load({ pointer: key, offset: 0 }, "float32");
    if (this.#leaves.has(node)) return node;
    const reduction = { op, value, pass: this.#place(value).pass };
    this.#reductions.push(reduction);
    return this.#leaf(key, { from: "reduction", reduction }, false);
  }

  /** The sum along the row: the same number for every c. */
  sum(value: Node): Node {
    return this.#reduce("sum", value);
  }

  /** The largest along the row: the same number for every c. */
  max(value: Node): Node {
    return this.#reduce("max", value);
  }

  /** value[r, column[r]], for a column that is a whole number; 0 where it is none of the row's. */
  at(value: Node, column: Node): Node {
    const { g } = this;
    const distance = g.sub(this.columnIndex(), column);
    const near = g.sub(g.constant(0.5), g.max(distance, g.neg(distance)));
    return this.sum(g.select(near, value, g.constant(0)));
  }

  /**
   * Store cells, or a row of which no value depends on the column.
   * @throws InvalidArgumentError for a tensor that programs cannot write, or such a value.
   */
  store(operand: RowOperand, value: Node, accumulate = false): void {
    const { kind, period } = operand;
    need(kind === "cell" || kind === "row", "cells or a row to store", operand);
    need(period === undefined, "results without a period", operand);
    if (kind === "row") this.#needRow(value, operand);
    const stored = accumulate ? this.g.add(this.input(operand), value) : value;
    this.#output("store", operand, stored, false);
  }

  /** Σ over the rows of each column, always in the same order. */
  columnSum(operand: RowOperand, value: Node, accumulate = false): void {
    need(operand.kind === "column", "sums of columns in a column", operand);
    this.#output("columnSum", operand, value, accumulate);
  }

  /** Σ over the rows of a value that does not depend on the column, always in the same order. */
  total(operand: RowOperand, value: Node, accumulate = false): void {
    need(operand.kind === "scalar", "totals in a scalar", operand);
    this.#needRow(value, operand);
    this.#output("total", operand, value, accumulate);
  }

  #needRow(value: Node, { name }: RowOperand): void {
    need(this.#place(value).level < 2, "a value that does not depend on the column", name);
  }

  #output(how: RowOutput["how"], operand: RowOperand, value: Node, accumulate: boolean): void {
    this.#use(operand, true);
    const half = operand.dtype === "float16" && operand.kind === "cell";
    need(operand.dtype === "float32" || half, "results of float32, or cells of float16", operand);
    this.#outputs.push({ how, operand, value, accumulate });
  }

  /** Note that a buffer is read or written. */
  #use(operand: RowOperand, writes: boolean): void {
    const { name, kind, dtype, stride = 1, offset = 0, period = 1 } = operand;
    const whole = [stride, offset + 1, period].every((n) => Number.isSafeInteger(n) && n > 0);
    need(whole, "an integral stride and period from 1 on, and offset from 0 on", operand);
    const cellsOnly = operand.stride === undefined && operand.period === undefined;
    need(kind === "cell" || cellsOnly, "stride and period of cells only", operand);
    const known = this.#buffers.get(name);
    const alike = !known || (known.kind === kind && (known.dtype === dtype || kind === "scalar"));
    need(alike, `tensors of one name that are of one kind and type`, operand);
    const { reads = false, writes: written = false } = known ?? {};
    const use = { reads: reads || !writes, writes: written || writes };
    this.#buffers.set(name, { name, kind, dtype: known?.dtype ?? dtype, ...use });
  }

  #place(n: Node): Place {
    const known = this.#places.get(n);
    if (known) return known;
    const below = operands(n).map((m) => this.#place(m));
    const leaf = this.#leaves.get(n);
    const most = (values: readonly number[]): number => Math.max(0, ...values);
    let place = { level: most(below.map((p) => p.level)), pass: most(below.map((p) => p.pass)) };
    if (leaf?.from === "reduction") place = { level: 1, pass: leaf.reduction.pass + 1 };
    else if (leaf?.from === "operand") place.level = levelOfKind[leaf.operand.kind];
    else if (leaf) place.level = leaf.from === "row" ? 1 : 2;
    this.#places.set(n, place as Place);
    return place as Place;
  }

  /** The program: of what was built, what its results need. */
  finish(): RowProgram {
    const outputs = [...this.#outputs];
    need(outputs.length > 0, "a program that stores something", "none");
    const numbers = new Map<Node, number>();
    const texts: string[] = [];
    const visit = (n: Node): number => {
      const known = numbers.get(n);
      if (known !== undefined) return known;
      const leaf = this.#leaves.get(n);
      const below = operands(n).map(visit);
      const own = n.op === "const" || n.op === "word" ? n.value : "";
      let text = `${n.op}${own} ${below}`;
      if (leaf?.from === "operand") text = identity(leaf.operand);
      else if (leaf?.from === "reduction")
        text = `${leaf.reduction.op} ${visit(leaf.reduction.value)}`;
      else if (leaf) text = leaf.from;
      numbers.set(n, texts.length);
      return texts.push(text) - 1;
    };
    const stored = outputs.map(({ how, operand, value, accumulate }) =>
      [how, identity(operand), visit(value), Number(accumulate)].join(" "),
    );
    const leaves = new Map([...this.#leaves].filter(([n]) => numbers.has(n)));
    const from = [...leaves.values()];
    const used = new Set(from.map((leaf) => leaf.from === "operand" && leaf.operand.name));
    const reductions = from.flatMap((l) => (l.from === "reduction" ? [l.reduction] : []));
    const ofColumns = outputs.filter((o) => o.operand.kind === "cell" || o.how === "columnSum");
    return {
      key: [...texts, ...stored].join(";"),
      buffers: [...this.#buffers.values()].filter((b) => b.writes || used.has(b.name)),
      ...{ leaves, reductions, outputs, level: (n) => this.#place(n).level },
      // The last reductions' pass stores as well, where nothing stored depends on them.
      passes: Math.max(
        ...[0, ...reductions.map((r) => r.pass + 1)],
        ...ofColumns.map((o) => this.#place(o.value).pass + 1),
      ),
      flat:
        from.every((leaf) => leaf.from === "cell" || isFlat(leaf)) &&
        outputs.every((o) => o.how === "store" && isFlat({ from: "operand", ...o })),
    };
  }
}

/** The largest values below the roots that need be computed no more often than `most` says; constants are not among them. */
export function valuesOf(
  { level }: Pick<RowProgram, "level">,
  roots: readonly Node[],
  most: RowLevel,
): Node[] {
  const found = new Set<Node>();
  const seen = new Set<Node>();
  const visit = (n: Node): void => {
    if (seen.has(n) || n.op === "const" || n.op === "word") return;
    seen.add(n);
    if (level(n) <= most) found.add(n);
    else operands(n).forEach(visit);
  };
  roots.forEach(visit);
  return [...found];
}

/** Tensors that a program reads or stores by address, each once: sums of columns and totals are not among them. */
export function addressed({ leaves, outputs }: RowProgram): RowOperand[] {
  const found = new Map<string, RowOperand>();
  for (const leaf of leaves.values())
    if (leaf.from === "operand") found.set(identity(leaf.operand), leaf.operand);
  for (const { how, operand } of outputs)
    if (how === "store") found.set(identity(operand), operand);
  return [...found.values()];
}

/** Whether an operand's cells lie one after another, or are the same everywhere. */
function isFlat(leaf: RowLeaf): boolean {
  if (leaf.from !== "operand") return false;
  const { kind, stride, period } = leaf.operand;
  return kind === "scalar" || (kind === "cell" && stride === undefined && period === undefined);
}

/** @throws InvalidArgumentError where a rule is broken. */
function need(holds: boolean, requirement: string, value: RowOperand | string): void {
  if (holds) return;
  throw new InvalidArgumentError({
    call: "RowBuilder",
    requirement,
    value: typeof value === "string" ? value : JSON.stringify(value),
    remedy: "What programs take is said by RowOperand and RowBuilder.",
  });
}
