/**
 * Row programs as kernels. Some threads share a row, several rows a workgroup; a thread takes a few neighbouring columns at a time,
 * `turns` times along the row. What is the same for a row is computed once; a pass over the columns is a function of one cell, which
 * threads call for each of theirs. Sums and maxima go from thread to thread by shuffles as far as a subgroup reaches, then by
 * workgroup memory. Cells that several passes need stay in registers where they fit, as they are stored.
 */
import type { Node } from "../../../math/expr.ts";
import { operands } from "../../../math/expr.ts";
import type {
  RowLeaf,
  RowLevel,
  RowOperand,
  RowOutput,
  RowProgram,
} from "../../../math/row-program.ts";
import { identity, lowest, rowLevels, valuesOf } from "../../../math/row-program.ts";
import {
  barrier,
  choice,
  constant,
  floatOf,
  floats,
  kernelText,
  literal,
  longFunction,
  loopHead,
  ownArray,
  recordOf,
  recordType,
  result,
  shuffled,
  unpackHalves,
  variable,
  when,
  words,
  workgroup,
  zero,
} from "../dialect/wgsl.ts";
import { hashFunction, roundingFunctions } from "../dialect/wgsl-functions.ts";
import { upTo } from "../filter/runs.ts";
import type { Kernel } from "../kernel.ts";
import { partText, printValues, Text } from "../text.ts";
import type { BoundBuffer, RowMachine, RowSpread } from "./spec.ts";
import { isSum, rowBindings, rowThreads } from "./spec.ts";
import { teamSums } from "./sums.ts";

/** The kernel of a program. */
export function rowKernel(program: RowProgram, spread: RowSpread, machine: RowMachine): Kernel {
  return new RowKernel(program, spread, machine).kernel();
}

/** A thread's columns of a turn: the number of the turn where that is known. */
type Along = (turn: number | undefined) => readonly string[];

class RowKernel {
  readonly #program: RowProgram;
  readonly #spread: RowSpread;
  readonly #machine: RowMachine;
  readonly #bindings: readonly BoundBuffer[];
  readonly #names: ReadonlyMap<string, string>;
  readonly #level: (n: Node) => RowLevel;
  /** Statements of values that a whole row has: each has a name of its own. */
  readonly #text: Text;
  readonly #functions: string[] = [];
  readonly #body: string[] = [];
  /** Values of the row that have names by now. */
  readonly #ready = new Map<Node, string>();
  /** Operands whose cells are in registers, by their identity. */
  readonly #held = new Map<string, string>();

  constructor(program: RowProgram, spread: RowSpread, machine: RowMachine) {
    this.#program = program;
    this.#spread = spread;
    this.#machine = machine;
    this.#bindings = rowBindings(program, spread.width);
    this.#names = new Map(this.#bindings.map((b) => [b.of, b.name]));
    this.#level = rowLevels(program);
    this.#text = new Text(machine.slowFma !== true);
  }

  /** Columns of an element of an operand's buffer. */
  #each({ dtype }: RowOperand): number {
    return dtype === "float16" ? this.#spread.width : Math.min(4, this.#spread.width);
  }

  /** An operand's element, the `piece`-th at row r and column c, the latter a multiple of the width. */
  #element(operand: RowOperand, piece = 0): string {
    const { name, kind, stride, offset = 0, period } = operand;
    const array = this.#names.get(name)!;
    if (kind === "scalar") return `${array}[${offset}u]`;
    if (kind === "row") return `${array}[r + ${offset}u]`;
    const row = period ? `r % ${period}u` : "r";
    const step = stride === undefined ? "p.columns" : `${stride}u`;
    const first = kind === "column" ? `c` : `${row} * ${step} + c`;
    return `${array}[(${first} + ${offset}u) / ${this.#each(operand)}u + ${piece}u]`;
  }

  /** Elements of a thread's columns, and names for their values as float32. */
  #columns(operand: RowOperand, turn: number | undefined, written: string[], prefix: string) {
    const held = this.#held.get(identity(operand));
    const pieces = upTo(this.#spread.width / this.#each(operand)).map((piece) => {
      if (held !== undefined) return `${held}_${turn}_${piece}`;
      written.push(constant(`${prefix}_${piece}`, this.#element(operand, piece)));
      return `${prefix}_${piece}`;
    });
    const lanes = (name: string, count: number): string[] =>
      count === 1 ? [name] : upTo(count).map((l) => `${name}.${"xyzw"[l]}`);
    if (operand.dtype !== "float16") return pieces.flatMap((n) => lanes(n, this.#each(operand)));
    return lanes(pieces[0]!, this.#spread.width / 2).flatMap((word, i) => {
      written.push(constant(`${prefix}h${i}`, unpackHalves(word)));
      return lanes(`${prefix}h${i}`, 2);
    });
  }

  /** What a leaf is that the whole row has. */
  #ofRow(leaf: RowLeaf): string {
    if (leaf.from === "row") return "r";
    const operand = (leaf as RowLeaf & { from: "operand" }).operand;
    const stored = this.#element(operand);
    const isFloat = operand.kind === "scalar" && operand.dtype === "float32";
    return isFloat ? floatOf(stored) : stored;
  }

  /** Names for all that the roots need once a row. */
  #hoist(roots: readonly Node[]): void {
    const wanted = valuesOf(roots, this.#level, 1).filter((n) => !this.#ready.has(n));
    const given = new Map(this.#ready);
    for (const n of this.#leavesOf(wanted)) {
      if (given.has(n)) continue;
      given.set(n, this.#text.hold("w", this.#ofRow(this.#program.leaves.get(n)!)));
    }
    const values = wanted.map((re) => ({ re, im: re }));
    printValues(this.#text, values, given).forEach(({ re }, i) => {
      this.#ready.set(wanted[i]!, partText(re));
    });
    this.#body.push(...this.#text.lines.splice(0));
  }

  /** Leaves below values, and values that are ready. */
  #leavesOf(values: readonly Node[]): Node[] {
    const found = new Set<Node>();
    const seen = new Set<Node>();
    const visit = (n: Node): void => {
      if (seen.has(n)) return;
      seen.add(n);
      if (this.#program.leaves.has(n) || this.#ready.has(n)) found.add(n);
      else operands(n).forEach(visit);
    };
    values.forEach(visit);
    return [...found];
  }

  /** A function of one cell that returns values; what a thread calls it with for its columns, and what it returns by column. */
  #cells(name: string, values: readonly Node[]) {
    const leaves = this.#leavesOf(values);
    const type = `${name[0]!.toUpperCase()}${name.slice(1)}`;
    const text = new Text(this.#machine.slowFma !== true);
    const given = new Map(leaves.map((n, i) => [n, `x${i}`]));
    const printed = printValues(
      text,
      values.map((re) => ({ re, im: re })),
      given,
    );
    const fields = values.map((_, i) => `a${i}`);
    const isInteger = (n: Node): boolean =>
      n.op === "hash" || (n.op === "load" && n.format === "word");
    const parameters = leaves.map((n, i) => `x${i}: ${isInteger(n) ? "u32" : "f32"}`);
    const returned = recordOf(
      type,
      printed.map(({ re }) => partText(re)),
    );
    this.#functions.push(
      recordType(type, fields),
      longFunction(name, parameters.join(", "), type, [...text.lines, result(returned)]),
    );
    return (turn: number | undefined, written: string[]): string[][] => {
      const columns = leaves.map((n, i): readonly string[] => {
        const leaf = this.#program.leaves.get(n);
        const ready = this.#ready.get(n);
        if (ready !== undefined) return upTo(this.#spread.width).map(() => ready);
        if (leaf?.from === "operand")
          return this.#columns(leaf.operand, turn, written, `${name}_${i}`);
        const before = leaf?.from === "cell" ? "r * p.columns + " : "";
        return upTo(this.#spread.width).map((l) => `${before}c + ${l}u`);
      });
      return upTo(this.#spread.width).map((l) => {
        const called = `${name}_at${l}`;
        const given = columns.map((c) => c[l]!);
        written.push(constant(called, `${name}(${given.join(", ")})`));
        return fields.map((f) => `${called}.${f}`);
      });
    };
  }

  /** Statements for a thread's columns, turn by turn. */
  #along(body: Along): string[] {
    const { width, across, turns, held, whole } = this.#spread;
    const isThere = this.#program.flat ? "r * p.columns + c < p.cells" : "c < p.columns";
    const one = (turn: number | undefined): string[] => [
      constant("c", `(turn * ${across}u + t) * ${width}u`),
      ...(whole ? body(turn) : when(isThere, body(turn))),
      "}",
    ];
    if (!held) return [loopHead("turn", "0u", `turn < ${turns}u`, "turn++"), ...one(undefined)];
    return upTo(turns).flatMap((k) => ["{", constant("turn", `${k}u`), ...one(k)]);
  }

  /** Cells that several passes need, into registers. */
  #hold(passes: readonly (readonly Node[])[]): void {
    const { width, across, turns, held, whole } = this.#spread;
    if (!held) return;
    const counts = new Map<string, { operand: RowOperand; count: number }>();
    for (const roots of passes)
      for (const n of this.#leavesOf(roots)) {
        const leaf = this.#program.leaves.get(n);
        if (leaf?.from !== "operand" || leaf.operand.kind !== "cell") continue;
        const key = identity(leaf.operand);
        counts.set(key, { operand: leaf.operand, count: (counts.get(key)?.count ?? 0) + 1 });
      }
    for (const [key, { operand, count }] of counts) {
      if (count < 2) continue;
      const name = `h${this.#held.size}`;
      const pieces = upTo(width / this.#each(operand));
      const { element } = this.#bindings.find((b) => b.of === operand.name)!;
      for (const k of upTo(turns)) {
        const names = pieces.map((piece) => `${name}_${k}_${piece}`);
        const there = [constant("c", `(${k * across}u + t) * ${width}u`)];
        this.#body.push(...names.map((n) => variable(n, zero(element))));
        there.push(
          ...(whole ? [] : [`if (c < p.columns) {`]),
          ...names.map((n, piece) => `${n} = ${this.#element(operand, piece)};`),
          ...(whole ? [] : ["}"]),
        );
        this.#body.push("{", ...there, "}");
      }
      this.#held.set(key, name);
    }
  }

  #ofPass(pass: number) {
    return this.#program.reductions.flatMap((r, index) =>
      r.pass === pass ? [{ ...r, index }] : [],
    );
  }

  /** The sums and maxima at the end of a pass. */
  #pass(pass: number): void {
    const own = this.#ofPass(pass);
    if (own.length === 0) return;
    const values = own.map((r) => r.value);
    this.#hoist(values);
    const join = (op: "sum" | "max", a: string, b: string): string =>
      op === "sum" ? `${a} + ${b}` : `max(${a}, ${b})`;
    const cells = this.#cells(`pass${pass}`, values);
    for (const { op, index } of own)
      this.#body.push(variable(`m${index}`, literal(op === "sum" ? 0 : lowest)));
    this.#body.push(
      ...this.#along((turn) => {
        const written: string[] = [];
        for (const cell of cells(turn, written))
          own.forEach(({ op, index }, i) => {
            written.push(`m${index} = ${join(op, `m${index}`, cell[i]!)};`);
          });
        return written;
      }),
    );
    const { across } = this.#spread;
    const lanes = Math.min(across, this.#machine.lanes ?? 1);
    for (let d = 1; d < lanes; d *= 2)
      for (const { op, index } of own)
        this.#body.push(`m${index} = ${join(op, `m${index}`, shuffled(`m${index}`, d))};`);
    if (across > lanes) {
      const meet = (index: number, more = ""): string => `meet${index}[lane / ${lanes}u${more}]`;
      this.#body.push(
        ...when(
          lanes > 1 ? `lane % ${lanes}u == 0u` : "true",
          own.map(({ index }) => `${meet(index)} = m${index};`),
        ),
        barrier,
        loopHead("half", `${across / lanes / 2}u`, "half > 0u", "half /= 2u"),
        ...when(
          `lane % ${lanes}u == 0u && t / ${lanes}u < half`,
          own.map(
            ({ op, index }) => `${meet(index)} = ${join(op, meet(index), meet(index, " + half"))};`,
          ),
        ),
        barrier,
        "}",
        ...own.map(({ index }) => `m${index} = meet${index}[(lane - t) / ${lanes}u];`),
        // What was met is read by all before the next row's replaces it.
        barrier,
      );
    }
    for (const { index } of own)
      for (const [n, leaf] of this.#program.leaves)
        if (leaf.from === "reduction" && leaf.reduction === this.#program.reductions[index])
          this.#ready.set(n, `m${index}`);
  }

  get #alongOutputs(): RowOutput[] {
    return this.#program.outputs.filter((o) => o.operand.kind === "cell" || o.how === "columnSum");
  }

  /** The number of an output among the sums. */
  #sum(output: RowOutput): number {
    return this.#program.outputs.filter(isSum).indexOf(output);
  }

  /** Store cells, and add to a thread's sums of columns; then what the whole row has. */
  #stores(): void {
    const { width } = this.#spread;
    const along = this.#alongOutputs;
    const once = this.#program.outputs.filter((o) => !along.includes(o));
    this.#hoist(this.#program.outputs.map((o) => o.value));
    if (along.length > 0) {
      const cells = this.#cells(
        "stored",
        along.map((o) => o.value),
      );
      this.#body.push(
        ...this.#along((turn) => {
          const written: string[] = [];
          const found = cells(turn, written);
          const stores = along.flatMap((o, i) => {
            const values = found.map((cell) => cell[i]!);
            if (o.how === "store") return this.#storeCells(o.operand, values);
            const own = `own${this.#sum(o)}[turn * ${width}u`;
            return values.map((x, l) => `${own} + ${l}u] += ${x};`);
          });
          return [...written, ...when("inside", stores)];
        }),
      );
    }
    const stores = once.map((o) => {
      const value = this.#ready.get(o.value) ?? literal((o.value as { value: number }).value);
      if (o.how === "total") return `own${this.#sum(o)}[0] += ${value};`;
      return `${this.#element(o.operand)} = ${value};`;
    });
    if (once.length > 0) this.#body.push(...when("inside && t == 0u", stores));
  }

  #storeCells(operand: RowOperand, values: readonly string[]): string[] {
    const each = this.#each(operand);
    return upTo(values.length / each).map((piece) => {
      const some = values.slice(piece * each, (piece + 1) * each);
      const pairs = upTo(each / 2).map((i) => `pack_pair(${floats(some.slice(2 * i, 2 * i + 2))})`);
      const [parts, vector] = operand.dtype === "float16" ? [pairs, words] : [some, floats];
      return `${this.#element(operand, piece)} = ${parts.length === 1 ? parts[0] : vector(parts)};`;
    });
  }

  kernel(): Kernel {
    const { reductions, outputs, passes } = this.#program;
    const { width, across, turns } = this.#spread;
    const sums = outputs.filter(isSum);
    const roots = upTo(passes).map((pass) => this.#ofPass(pass).map((r) => r.value));
    this.#hold([...roots, this.#alongOutputs.map((o) => o.value)]);
    for (let pass = 0; pass < passes; pass++) this.#pass(pass);
    this.#stores();
    const rows = this.#body.splice(0);
    for (const output of sums)
      this.#body.push(...teamSums(this.#spread, this.#sum(output), output.how === "total"));
    const body = [
      constant("index", workgroup),
      constant("t", `lane % ${across}u`),
      constant("local", `lane / ${across}u`),
      ...sums.map((o, i) => ownArray(`own${i}`, o.how === "total" ? 1 : turns * width)),
      loopHead("i", "0u", "i < p.share", "i++"),
      constant("row", `(index * p.share + i) * ${rowThreads / across}u + local`),
      constant("inside", "row < p.rows"),
      constant("r", choice("inside", "row", "0u")),
      ...rows,
      "}",
      ...this.#body,
    ];
    const bindings = this.#bindings.map(({ of: _, ...binding }) => binding);
    const parameters = ["rows", "columns", "cells", "share"];
    const lanes = Math.min(across, this.#machine.lanes ?? 1);
    const met = across > lanes ? reductions : [];
    const shared = met.map((_, i) => ({
      name: `meet${i}`,
      element: "f32",
      count: rowThreads / lanes,
    }));
    const wide = sums.some((o) => o.how === "columnSum") ? width : 1;
    if (sums.length > 0) shared.push({ name: "join", element: "f32", count: rowThreads * wide });
    const halves = this.#program.buffers.some((b) => b.writes && b.dtype === "float16");
    const random =
      this.#functions.some((f) => f.includes("hash_of(")) ||
      rows.some((l) => l.includes("hash_of("));
    const code = kernelText({
      ...{ bindings, parameters, threads: rowThreads, shared, body },
      shuffles: lanes > 1 && reductions.length > 0,
      functions: [
        ...(halves ? roundingFunctions("float16", this.#machine.packs) : []),
        ...(random ? [hashFunction] : []),
        ...this.#functions,
      ],
    });
    return { code, bindings, parameters, tiles: 1, tilesPerUnit: 1 };
  }
}
