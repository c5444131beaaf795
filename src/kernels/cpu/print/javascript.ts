/**
 * Kernel language → plain JavaScript, one lane, for runtimes without WebAssembly SIMD. The text is the body of a function
 * of (memory) that returns the exported kernels; arithmetic between loads and stores is float64.
 */
import type { Format, Node } from "../../../math/expr.ts";
import type { Int, KernelFunction, KernelModule, Register, Statement, Store } from "../ir.ts";
import { isFree, useCounts } from "../ir.ts";

/** Widening and rounding of half precision by bit patterns, and views of the memory. */
const prelude = `"use strict";
const F = new Float32Array(memory), H = new Uint16Array(memory), B = new Uint8Array(memory);
const real = new Float32Array(1), word = new Uint32Array(real.buffer);
const fromFloat16 = (h) => {
  const e = (h >> 10) & 31, f = h & 1023;
  const m = e === 31 ? (f ? NaN : Infinity) : e === 0 ? f * 2 ** -24 : (1024 + f) * 2 ** (e - 25);
  return h & 0x8000 ? -m : m;
};
const toFloat16 = (x) => {
  real[0] = x;
  const sign = (word[0] >>> 16) & 0x8000, m = word[0] & 0x7fffffff;
  if (m > 0x7f800000) return sign | 0x7e00;
  if (m > 0x477fefff) return sign | 0x7c00;
  if (m >= 0x38800000) return sign | ((m + 0xfff + ((m >>> 13) & 1) - 0x38000000) >>> 13);
  word[0] = m;
  real[0] += 0.5;
  return sign | (word[0] - 0x3f000000);
};
const fromBfloat16 = (h) => ((word[0] = h << 16), real[0]);
const pow2 = (n) => ((word[0] = (n + 127) << 23), real[0]);
const toBfloat16 = (x) => {
  real[0] = x;
  if (x !== x) return 0x7fc0;
  return (word[0] + 0x7fff + ((word[0] >>> 16) & 1)) >>> 16;
};
`;

/** What few kernels need, by what stands in their text. */
const extras: Readonly<Record<string, string>> = {
  "U[": "const U = new Uint32Array(memory);",
  "exponent(": "const exponent = (x) => ((real[0] = x), ((word[0] >>> 23) & 255) - 127);",
  "fraction(":
    "const fraction = (x) => ((real[0] = x), (word[0] = (word[0] & 0x7fffff) | 0x3f800000), real[0]);",
  "hash(": `const hash = (key, index) => {
  let x = key ^ index;
  x = (Math.imul(x ^ (x >>> 16), 0x85ebca6b) + key) | 0;
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
};`,
};

function integer(value: Int): string {
  if (typeof value === "number") return String(value);
  if (typeof value === "string") return value;
  switch (value.op) {
    case "add":
      return `(${integer(value.a)} + ${integer(value.b)})`;
    case "mul":
      return `(${integer(value.a)} * ${value.by})`;
    case "div":
      return `Math.floor(${integer(value.a)} / ${value.by})`;
    default:
      return `Math.${value.op}(${integer(value.a)}, ${integer(value.b)})`;
  }
}

function element(
  at: { readonly pointer: string; readonly offset: number },
  format: Format,
): string {
  const address = at.offset ? `${at.pointer} + ${at.offset}` : at.pointer;
  if (format === "float16" || format === "bfloat16") return `H[(${address}) / 2]`;
  return `${format === "word" ? "U" : "F"}[(${address}) / 4]`;
}

const readers = { float16: "fromFloat16", bfloat16: "fromBfloat16" } as const;
const writers = { float16: "toFloat16", bfloat16: "toBfloat16" } as const;

function loadText(n: Node & { op: "load" }): string {
  const stored = element(n.at, n.format);
  return n.format === "float16" || n.format === "bfloat16"
    ? `${readers[n.format]}(${stored})`
    : stored;
}

function expression(n: Node, value: (n: Node) => string): string {
  switch (n.op) {
    case "const":
      return n.value < 0 ? `(${n.value})` : String(n.value);
    case "load":
      return loadText(n);
    case "neg":
      return `(-${value(n.a)})`;
    case "nearest":
      return `Math.round(${value(n.a)})`;
    case "pow2":
    case "exponent":
    case "fraction":
      return `${n.op}(${value(n.a)})`;
    case "sqrt":
      return `Math.sqrt(${value(n.a)})`;
    case "word":
      return String(n.value);
    case "counter":
      return `((${n.name} + ${n.ahead}) >>> 0)`;
    case "register":
      return n.name;
    case "hash":
      return `hash(${value(n.a)}, ${value(n.b)})`;
    case "float":
      return value(n.a);
    case "uniform":
      return `(${value(n.a)} >>> 8) * 2 ** -24`;
    case "min":
    case "max":
      return `Math.${n.op}(${value(n.a)}, ${value(n.b)})`;
    case "div":
      return `(${value(n.a)} / ${value(n.b)})`;
    case "add":
      return `(${value(n.a)} + ${value(n.b)})`;
    case "sub":
      return `(${value(n.a)} - ${value(n.b)})`;
    case "mul":
      return `(${value(n.a)} * ${value(n.b)})`;
    case "fma":
      return `(${value(n.a)} * ${value(n.b)} + ${value(n.c)})`;
    case "fnma":
      return `(${value(n.c)} - ${value(n.a)} * ${value(n.b)})`;
    case "select":
      return `(${value(n.a)} > 0 ? ${value(n.b)} : ${value(n.c)})`;
    default:
      throw new Error(`the one-lane target has no ${n.op}: generate the module with lanes = 1`);
  }
}

class Printer {
  readonly #held = new Map<Node, string>();
  readonly #declared = new Set<string>();
  #names = 0;

  print(f: KernelFunction): string {
    const body = f.body.flatMap((s) => this.#statement(s));
    const variables = [...this.#declared].filter((v) => !f.parameters.includes(v));
    const declare = variables.length ? [`let ${variables.join(", ")};`] : [];
    return `function ${f.name}(${f.parameters.join(", ")}) {\n${[...declare, ...body].join("\n")}\n}`;
  }

  #fresh(): string {
    this.#names++;
    return `v${this.#names}`;
  }

  #statement(s: Statement): string[] {
    switch (s.op) {
      case "let":
        this.#declared.add(s.name);
        return [`${s.name} = ${integer(s.value)};`];
      case "call":
        return [`${s.name}(${s.arguments.map(integer).join(", ")});`];
      case "hold":
        return s.nodes.map((n) => {
          const name = this.#held.get(n) ?? this.#fresh();
          this.#held.set(n, name);
          this.#declared.add(name);
          return `${name} = ${expression(n, () => "")};`;
        });
      case "block":
        return this.#block(s.stores, s.registers ?? []);
      case "copy": {
        const from = integer(s.from);
        return [`B.copyWithin(${integer(s.to)}, ${from}, ${from} + ${integer(s.bytes)});`];
      }
      case "clear":
        return [`B.fill(0, ${integer(s.at)}, ${integer(s.at)} + ${integer(s.bytes)});`];
      case "loop": {
        const end = this.#fresh();
        for (const name of [s.variable, ...s.also.map((a) => a.name)]) this.#declared.add(name);
        const init = s.also.map((a) => `${a.name} = ${integer(a.from)};`);
        const step = [{ name: s.variable, step: s.step }, ...s.also].map(
          (a) => `${a.name} += ${a.step};`,
        );
        return [
          `const ${end} = ${integer(s.end)};`,
          ...init,
          `for (${s.variable} = ${integer(s.from)}; ${s.variable} < ${end};) {`,
          ...s.body.flatMap((b) => this.#statement(b)),
          ...step,
          "}",
        ];
      }
    }
  }

  #block(stores: readonly Store[], registers: readonly Register[]): string[] {
    const roots = [...stores, ...registers].map((s) => s.value);
    const uses = useCounts(roots, this.#held);
    const lines: string[] = ["{"];
    const names = new Map<Node, string>();
    const value = (n: Node): string => {
      const known = this.#held.get(n) ?? names.get(n);
      return known ?? expression(n, value);
    };
    // Every load, and everything used twice, before the first store.
    for (const n of [...uses.keys()].sort((a, b) => a.id - b.id)) {
      if (n.op !== "load" && (uses.get(n)! < 2 || isFree(n))) continue;
      const text = expression(n, value);
      const name = this.#fresh();
      names.set(n, name);
      lines.push(`const ${name} = ${text};`);
    }
    const values = roots.map((root) => {
      const name = this.#fresh();
      lines.push(`const ${name} = ${value(root)};`);
      return name;
    });
    stores.forEach((s, i) => {
      const text = s.format === "float32" ? values[i]! : `${writers[s.format]}(${values[i]!})`;
      lines.push(`${element(s.at, s.format)} = ${text};`);
    });
    registers.forEach(({ name }, i) => {
      this.#declared.add(name);
      lines.push(`${name} = ${values[stores.length + i]!};`);
    });
    return [...lines, "}"];
  }
}

/** The text of a factory body: parameter `memory` (an ArrayBuffer), result an object of the exported kernels. */
export function printJavaScript(module: KernelModule): string {
  if (module.lanes !== 1) throw new Error("JavaScript kernels have one lane");
  const functions = module.functions.map((f) => new Printer().print(f));
  const exported = module.functions.filter((f) => f.exported).map((f) => f.name);
  const text = functions.join("\n");
  const used = Object.entries(extras).flatMap(([name, extra]) =>
    text.includes(name) ? [`${extra}\n`] : [],
  );
  return `${prelude}${used.join("")}${text}\nreturn { ${exported.join(", ")} };\n`;
}
