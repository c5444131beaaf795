/**
 * Arithmetic as data: a hash-consed expression graph over one machine vector (four lanes in WebAssembly, one number in
 * JavaScript). Codelets build it once; printers turn it into each target's text; `countOps` feeds the cost model.
 * Multiplying by 0 and 1 and adding 0 disappear while the graph is built, so a zero half of the input prunes the
 * butterflies that it feeds without any special case. Idea: Frigo 1999, "A fast Fourier transform compiler".
 */

/** Where a vector lies: a byte offset from a named pointer. */
export interface Address {
  readonly pointer: string;
  readonly offset: number;
  /** Loads that differ only in this are made separately, where holding the value would cost more than loading it. */
  readonly copy?: number;
}

/**
 * How a vector lies in memory: consecutive samples of a storage type, or one float32 copied to every lane; `word` is one integer
 * of 32 bits copied to every lane, which stays an integer.
 */
export type Format = "float32" | "float16" | "bfloat16" | "splat" | "word";

/** Two-input lane permutations: interleave low or high elements, of 32 or 64 bits. */
export type Shuffle = "low32" | "high32" | "low64" | "high64";

/** `min` and `max` pass a NaN of either side on; `hash` is an integer made of two, the same bits on every target. */
type Binary = "add" | "sub" | "mul" | "div" | "min" | "max" | "hash";

/**
 * `nearest` rounds to an integer (ties as the target likes); `pow2` is 2^a for an integral a from −126 to 127. |a| is
 * `fraction` · 2^`exponent` with a fraction in [1, 2), where a is neither zero nor subnormal. Of an integer, `float` is the float32
 * next to it and `uniform` its upper 24 bits as a number in [0, 1).
 */
type Unary = "neg" | "nearest" | "pow2" | "sqrt" | "exponent" | "fraction" | "float" | "uniform";

interface Ternary<Op extends string> {
  readonly op: Op;
  readonly id: number;
  readonly a: Node;
  readonly b: Node;
  readonly c: Node;
}

/** One value of the graph. `fma` is a·b + c, `fnma` is c − a·b, `select` is b where a > 0 and c elsewhere. */
export type Node =
  | { readonly op: "const"; readonly id: number; readonly value: number }
  | {
      readonly op: "load";
      readonly id: number;
      readonly at: Address;
      readonly format: Format;
      /** Lanes outside [first, last) read as zero. */
      readonly first: number;
      readonly last: number;
    }
  /** An integer of 32 bits. */
  | { readonly op: "word"; readonly id: number; readonly value: number }
  /** The integer variable `name` plus `ahead`, and in lane i plus i where lanes are to `count`. */
  | {
      readonly op: "counter";
      readonly id: number;
      readonly name: string;
      readonly ahead: number;
      readonly counts: boolean;
    }
  /** A vector variable that statements set (kernels/cpu/ir.ts). */
  | { readonly op: "register"; readonly id: number; readonly name: string }
  | { readonly op: Binary; readonly id: number; readonly a: Node; readonly b: Node }
  | { readonly op: Unary; readonly id: number; readonly a: Node }
  | Ternary<"fma">
  | Ternary<"fnma">
  | Ternary<"select">
  | { readonly op: Shuffle; readonly id: number; readonly a: Node; readonly b: Node };

/** A complex value in split form. */
export interface Complex {
  readonly re: Node;
  readonly im: Node;
}

/** Builds the nodes of one straight-line block; equal nodes are the same object. */
export class Graph {
  readonly #nodes = new Map<string, Node>();

  #intern<T extends Node>(key: string, make: (id: number) => T): T {
    const found = this.#nodes.get(key);
    if (found) return found as T;
    const node = make(this.#nodes.size);
    this.#nodes.set(key, node);
    return node;
  }

  constant(value: number): Node {
    const v = Object.is(value, -0) ? 0 : value;
    return this.#intern(`const ${v}`, (id) => ({ op: "const", id, value: v }));
  }

  load(at: Address, format: Format, first = 0, last = 4): Node {
    return this.#intern(
      `load ${at.pointer} ${at.offset} ${at.copy ?? 0} ${format} ${first} ${last}`,
      (id) => ({
        op: "load",
        id,
        at,
        format,
        first,
        last,
      }),
    );
  }

  add(a: Node, b: Node): Node {
    if (isZero(a)) return b;
    if (isZero(b)) return a;
    if (b.op === "neg") return this.sub(a, b.a);
    if (a.op === "neg") return this.sub(b, a.a);
    if (a.op === "const" && b.op === "const") return this.constant(a.value + b.value);
    const [x, y] = a.id < b.id ? [a, b] : [b, a];
    return this.#intern(`add ${x.id} ${y.id}`, (id) => ({ op: "add", id, a: x, b: y }));
  }

  sub(a: Node, b: Node): Node {
    if (isZero(b)) return a;
    if (isZero(a)) return this.neg(b);
    if (b.op === "neg") return this.add(a, b.a);
    return this.#intern(`sub ${a.id} ${b.id}`, (id) => ({ op: "sub", id, a, b }));
  }

  mul(a: Node, b: Node): Node {
    if (isZero(a) || isZero(b)) return this.constant(0);
    if (isOne(a)) return b;
    if (isOne(b)) return a;
    if (a.op === "neg") return this.neg(this.mul(a.a, b));
    if (b.op === "neg") return this.neg(this.mul(a, b.a));
    if (a.op === "const" && a.value === -1) return this.neg(b);
    if (b.op === "const" && b.value === -1) return this.neg(a);
    const [x, y] = a.id < b.id ? [a, b] : [b, a];
    return this.#intern(`mul ${x.id} ${y.id}`, (id) => ({ op: "mul", id, a: x, b: y }));
  }

  neg(a: Node): Node {
    if (a.op === "neg") return a.a;
    if (a.op === "const") return this.constant(-a.value);
    if (a.op === "sub") return this.sub(a.b, a.a);
    return this.#intern(`neg ${a.id}`, (id) => ({ op: "neg", id, a }));
  }

  div(a: Node, b: Node): Node {
    return isOne(b) ? a : this.#intern(`div ${a.id} ${b.id}`, (id) => ({ op: "div", id, a, b }));
  }

  min(a: Node, b: Node): Node {
    return this.#intern(`min ${a.id} ${b.id}`, (id) => ({ op: "min", id, a, b }));
  }

  max(a: Node, b: Node): Node {
    return this.#intern(`max ${a.id} ${b.id}`, (id) => ({ op: "max", id, a, b }));
  }

  #unary(op: Unary, a: Node): Node {
    return this.#intern(`${op} ${a.id}`, (id) => ({ op, id, a }));
  }

  nearest(a: Node): Node {
    return this.#unary("nearest", a);
  }

  pow2(a: Node): Node {
    return this.#unary("pow2", a);
  }

  sqrt(a: Node): Node {
    return this.#unary("sqrt", a);
  }

  exponent(a: Node): Node {
    return this.#unary("exponent", a);
  }

  fraction(a: Node): Node {
    return this.#unary("fraction", a);
  }

  float(a: Node): Node {
    return this.#unary("float", a);
  }

  uniform(a: Node): Node {
    return this.#unary("uniform", a);
  }

  /** An integer whose every bit depends on those of `key` and `index`: of counters it makes random numbers. */
  hash(key: Node, index: Node): Node {
    return this.#intern(`hash ${key.id} ${index.id}`, (id) => ({
      ...{ op: "hash", id, a: key, b: index },
    }));
  }

  word(value: number): Node {
    return this.#intern(`word ${value}`, (id) => ({ op: "word", id, value }));
  }

  counter(name: string, ahead: number, counts: boolean): Node {
    return this.#intern(`counter ${name} ${ahead} ${counts}`, (id) => ({
      ...{ op: "counter", id, name, ahead, counts },
    }));
  }

  register(name: string): Node {
    return this.#intern(`register ${name}`, (id) => ({ op: "register", id, name }));
  }

  /** a·b + c */
  fma(a: Node, b: Node, c: Node): Node {
    const product = this.mul(a, b);
    if (isZero(c) || product.op !== "mul") return this.add(product, c);
    return this.#intern(`fma ${product.id} ${c.id}`, (id) => ({
      op: "fma",
      id,
      a: product.a,
      b: product.b,
      c,
    }));
  }

  /** c − a·b */
  fnma(a: Node, b: Node, c: Node): Node {
    const product = this.mul(a, b);
    if (isZero(c) || product.op !== "mul") return this.sub(c, product);
    return this.#intern(`fnma ${product.id} ${c.id}`, (id) => ({
      op: "fnma",
      id,
      a: product.a,
      b: product.b,
      c,
    }));
  }

  /** b where a > 0, and c elsewhere. */
  select(a: Node, b: Node, c: Node): Node {
    return this.#intern(`select ${a.id} ${b.id} ${c.id}`, (id) => ({ op: "select", id, a, b, c }));
  }

  shuffle(op: Shuffle, a: Node, b: Node): Node {
    if (isZero(a) && isZero(b)) return a;
    return this.#intern(`${op} ${a.id} ${b.id}`, (id) => ({ op, id, a, b }));
  }

  cadd(a: Complex, b: Complex): Complex {
    return { re: this.add(a.re, b.re), im: this.add(a.im, b.im) };
  }

  csub(a: Complex, b: Complex): Complex {
    return { re: this.sub(a.re, b.re), im: this.sub(a.im, b.im) };
  }

  /** a·w */
  cmul(a: Complex, w: Complex): Complex {
    return {
      re: this.fnma(a.im, w.im, this.mul(a.re, w.re)),
      im: this.fma(a.im, w.re, this.mul(a.re, w.im)),
    };
  }

  /** a·conj(w) */
  cmulConj(a: Complex, w: Complex): Complex {
    return {
      re: this.fma(a.im, w.im, this.mul(a.re, w.re)),
      im: this.fnma(a.re, w.im, this.mul(a.im, w.re)),
    };
  }

  /** Four vectors as the rows of a 4×4 matrix → its columns. */
  transpose4(rows: readonly [Node, Node, Node, Node]): [Node, Node, Node, Node] {
    const [a, b, c, d] = rows;
    const ac0 = this.shuffle("low32", a, b);
    const ac1 = this.shuffle("high32", a, b);
    const bd0 = this.shuffle("low32", c, d);
    const bd1 = this.shuffle("high32", c, d);
    return [
      this.shuffle("low64", ac0, bd0),
      this.shuffle("high64", ac0, bd0),
      this.shuffle("low64", ac1, bd1),
      this.shuffle("high64", ac1, bd1),
    ];
  }
}

function isZero(n: Node): boolean {
  return n.op === "const" && n.value === 0;
}

function isOne(n: Node): boolean {
  return n.op === "const" && n.value === 1;
}

/** Operands of a node. */
export function operands(n: Node): readonly Node[] {
  switch (n.op) {
    case "const":
    case "load":
    case "word":
    case "counter":
    case "register":
      return [];
    case "neg":
    case "nearest":
    case "pow2":
    case "sqrt":
    case "exponent":
    case "fraction":
    case "float":
    case "uniform":
      return [n.a];
    case "fma":
    case "fnma":
    case "select":
      return [n.a, n.b, n.c];
    default:
      return [n.a, n.b];
  }
}

/** How often each operation occurs in the graph below the roots: what a codelet costs. */
export function countOps(roots: readonly Node[]): Readonly<Record<Node["op"], number>> {
  const counts: Record<Node["op"], number> = {
    ...{ const: 0, load: 0, word: 0, counter: 0, register: 0 },
    ...{ add: 0, sub: 0, mul: 0, div: 0, min: 0, max: 0, hash: 0 },
    ...{ neg: 0, nearest: 0, pow2: 0, sqrt: 0, exponent: 0, fraction: 0, float: 0, uniform: 0 },
    ...{ fma: 0, fnma: 0, select: 0, low32: 0, high32: 0, low64: 0, high64: 0 },
  };
  const seen = new Set<Node>();
  const visit = (n: Node): void => {
    if (seen.has(n)) return;
    seen.add(n);
    counts[n.op]++;
    for (const m of operands(n)) visit(m);
  };
  for (const root of roots) visit(root);
  return counts;
}
