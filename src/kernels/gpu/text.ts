/** Kernels under construction: statements in order, and expression graphs as statements, one for each node. */
import type { Complex, Graph, Node } from "../../math/expr.ts";
import { operands } from "../../math/expr.ts";
import {
  barrier,
  choice,
  constant,
  floatOf,
  floats,
  literal,
  loopHead,
  variable,
  when,
  wordOf,
} from "./dialect/wgsl.ts";

/** A complex value in a kernel's text: names of its parts, or 0 where a part is known to be zero. */
export interface Value {
  readonly re: string | 0;
  readonly im: string | 0;
}

/** Text of a part of a value. */
export const partText = (part: string | 0): string => part || "0.0f";

/** Text of values as one vector. */
export const vectorOf = (...values: readonly Value[]): string =>
  floats(values.flatMap(({ re, im }) => [partText(re), partText(im)]));

/** The value in a vector's first two parts, or in others. */
export const valueIn = (vector: string, parts = "xy"): Value => ({
  re: `${vector}.${parts[0]}`,
  im: `${vector}.${parts[1]}`,
});

/** Statements of a kernel, and names that occur once. */
export class Text {
  readonly lines: string[] = [];
  /** Whether multiply-adds are asked for as one operation, or left to the compiler. */
  readonly fuses: boolean;
  #names = 0;
  /** Where statements go while those of a condition are collected. */
  #guarded: string[] | undefined;

  constructor(fuses: boolean) {
    this.fuses = fuses;
  }

  line(...texts: readonly string[]): void {
    (this.#guarded ?? this.lines).push(...texts);
  }

  /** A name that nothing else has, the types f32, i32 and the like included. */
  fresh(prefix: string): string {
    this.#names++;
    const name = `${prefix}${this.#names}`;
    return /^[fiu](16|32|64)$/.test(name) ? this.fresh(prefix) : name;
  }

  /** A fresh name for a value. */
  hold(prefix: string, value: string): string {
    const name = this.fresh(prefix);
    this.lines.push(constant(name, value));
    return name;
  }

  /** A name of the caller's for a value. */
  constant(name: string, value: string): void {
    this.line(constant(name, value));
  }

  /** A fresh name, or the caller's, for a value that changes. */
  variable(name: string, value: string): string {
    this.line(variable(name, value));
    return name;
  }

  /** Statements under a condition, and others where it does not hold. */
  when(condition: string, then: () => void, otherwise?: () => void): void {
    this.line(`if (${condition}) {`);
    then();
    if (otherwise) {
      this.line("} else {");
      otherwise();
    }
    this.line("}");
  }

  /** Statements under a condition, but what they hold before it, so that later code sees the names. */
  guarded(condition: string, body: () => void): void {
    const statements: string[] = [];
    this.#guarded = statements;
    body();
    this.#guarded = undefined;
    this.when(condition, () => this.lines.push(...statements));
  }

  /** Statements that repeat, `index` counting from `from` on. */
  loop(index: string, from: string, condition: string, step: string, body: () => void): void {
    this.line(loopHead(index, from, condition, step));
    body();
    this.line("}");
  }

  barrier(): void {
    this.line(barrier);
  }

  /** The statements that `body` writes, taken out of the text. */
  taken(body: () => void): string[] {
    const from = this.lines.length;
    body();
    return this.lines.splice(from);
  }
}

/** Statements by condition: those under the same one stand together, since SwiftShader compiles kernels of many branches for seconds. */
export class Branches {
  readonly #statements = new Map<string, string[]>();

  /** Adds a statement; without a condition where that is empty. */
  add(condition: string, statement: string): void {
    const alike = this.#statements.get(condition) ?? [];
    this.#statements.set(condition, [...alike, statement]);
  }

  /** All of them, one a line. */
  get lines(): string[] {
    return [...this.#statements].flatMap(([condition, alike]) =>
      condition ? when(condition, alike) : alike,
    );
  }
}

/** A name of the text as a node. */
export function nameNode(g: Graph, name: string | 0): Node {
  return name === 0 ? g.constant(0) : g.load({ pointer: name, offset: 0 }, "float32");
}

/** A value of the text as nodes. */
export function nodes(g: Graph, value: Value): Complex {
  return { re: nameNode(g, value.re), im: nameNode(g, value.im) };
}

function expression(n: Node, value: (n: Node) => string, fuses: boolean): string {
  switch (n.op) {
    case "const":
      return literal(n.value);
    case "load":
      return n.at.pointer;
    case "neg":
      return `-${value(n.a)}`;
    case "add":
      return `${value(n.a)} + ${value(n.b)}`;
    case "sub":
      return `${value(n.a)} - ${value(n.b)}`;
    case "mul":
      return `${value(n.a)} * ${value(n.b)}`;
    case "fma":
      return fuses
        ? `fma(${value(n.a)}, ${value(n.b)}, ${value(n.c)})`
        : `${value(n.a)} * ${value(n.b)} + ${value(n.c)}`;
    case "fnma":
      return fuses
        ? `fma(-${value(n.a)}, ${value(n.b)}, ${value(n.c)})`
        : `${value(n.c)} - ${value(n.a)} * ${value(n.b)}`;
    case "select":
      return choice(`${value(n.a)} > 0.0f`, value(n.b), value(n.c));
    case "div":
      return `${value(n.a)} / ${value(n.b)}`;
    case "min":
    case "max":
      return `${n.op}(${value(n.a)}, ${value(n.b)})`;
    case "nearest":
      return `round(${value(n.a)})`;
    case "pow2":
      return floatOf(`u32(i32(${value(n.a)}) + 127) << 23u`);
    case "sqrt":
      return `sqrt(${value(n.a)})`;
    case "exponent":
      return `f32(i32((${wordOf(value(n.a))} >> 23u) & 255u) - 127)`;
    case "fraction":
      return floatOf(`(${wordOf(value(n.a))} & 0x7fffffu) | 0x3f800000u`);
    case "word":
      return `${n.value}u`;
    case "float":
      return `f32(${value(n.a)})`;
    case "uniform":
      return `f32(${value(n.a)} >> 8u) * ${literal(2 ** -24)}`;
    case "hash":
      return `hash_of(${value(n.a)}, ${value(n.b)})`;
    default:
      throw new Error(`a thread holds one lane: no ${n.op} here`);
  }
}

/**
 * Print what the values need and return their names: in the order of creation, which keeps few of them alive at a time. `given` are
 * values that have names already.
 */
export function printValues(
  text: Text,
  values: readonly Complex[],
  given: ReadonlyMap<Node, string> = new Map(),
): Value[] {
  const names = new Map<Node, string>(given);
  const needed = new Set<Node>();
  const visit = (n: Node): void => {
    if (needed.has(n) || given.has(n)) return;
    needed.add(n);
    for (const m of operands(n)) visit(m);
  };
  for (const v of values) {
    visit(v.re);
    visit(v.im);
  }
  for (const n of [...needed].sort((a, b) => a.id - b.id)) {
    const inline = n.op === "const" || n.op === "load" || n.op === "word";
    const body = expression(n, (m) => names.get(m)!, text.fuses);
    names.set(n, inline ? body : text.hold("v", body));
  }
  const name = (n: Node): string | 0 => (n.op === "const" && n.value === 0 ? 0 : names.get(n)!);
  return values.map((v) => ({ re: name(v.re), im: name(v.im) }));
}
