/** Expression graph → WGSL: one `let` for each node, in the order of creation, which keeps few values alive at a time. */
import type { Complex, Graph, Node } from "../../math/expr.ts";
import { operands } from "../../math/expr.ts";

/** A complex value in a kernel's text: names of its parts, or 0 where a part is known to be zero. */
export interface Value {
  readonly re: string | 0;
  readonly im: string | 0;
}

/** Lines of a function body, and names that occur once. */
export class Text {
  readonly lines: string[] = [];
  /** Whether multiply-adds are asked for as one operation, or left to the compiler. */
  readonly fuses: boolean;
  #names = 0;

  constructor(fuses: boolean) {
    this.fuses = fuses;
  }

  line(text: string): void {
    this.lines.push(text);
  }

  /** A name that nothing else has, the types f32, i32 and the like included. */
  fresh(prefix: string): string {
    this.#names++;
    const name = `${prefix}${this.#names}`;
    return /^[fiu](16|32|64)$/.test(name) ? this.fresh(prefix) : name;
  }

  /** `let name = text`, under a fresh name. */
  hold(prefix: string, text: string): string {
    const name = this.fresh(prefix);
    this.line(`let ${name} = ${text};`);
    return name;
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

/** A float32 literal. */
export function literal(value: number): string {
  const rounded = Math.fround(value);
  const text = String(rounded);
  return `${/[.e]/.test(text) ? text : `${text}.0`}f`.replace(/^-.*$/, "($&)");
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
      return `select(${value(n.c)}, ${value(n.b)}, ${value(n.a)} > 0.0f)`;
    case "div":
      return `${value(n.a)} / ${value(n.b)}`;
    case "min":
    case "max":
      return `${n.op}(${value(n.a)}, ${value(n.b)})`;
    case "nearest":
      return `round(${value(n.a)})`;
    case "pow2":
      return `bitcast<f32>(u32(i32(${value(n.a)}) + 127) << 23u)`;
    default:
      throw new Error(`a thread holds one lane: no ${n.op} here`);
  }
}

/** Print what the values need and return their names. */
export function printValues(text: Text, values: readonly Complex[]): Value[] {
  const names = new Map<Node, string>();
  const needed = new Set<Node>();
  const visit = (n: Node): void => {
    if (needed.has(n)) return;
    needed.add(n);
    for (const m of operands(n)) visit(m);
  };
  for (const v of values) {
    visit(v.re);
    visit(v.im);
  }
  for (const n of [...needed].sort((a, b) => a.id - b.id)) {
    const inline = n.op === "const" || n.op === "load";
    const body = expression(n, (m) => names.get(m)!, text.fuses);
    names.set(n, inline ? body : text.hold("v", body));
  }
  const name = (n: Node): string | 0 => (n.op === "const" && n.value === 0 ? 0 : names.get(n)!);
  return values.map((v) => ({ re: name(v.re), im: name(v.im) }));
}
