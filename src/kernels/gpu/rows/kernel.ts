/**
 * Row programs as kernels. Some threads share a row, several rows a workgroup; each thread takes a few neighbouring columns at a
 * time. A pass over the columns is a function of one cell, which the threads call for each of theirs; what passes end with, sums and
 * maxima, meets in workgroup memory. Cells are read again in every pass: the second time they come from a cache.
 */
import type { Node } from "../../../math/expr.ts";
import { operands } from "../../../math/expr.ts";
import type {
  RowBuffer,
  RowLeaf,
  RowOperand,
  RowOutput,
  RowProgram,
} from "../../../math/row-program.ts";
import { lowest } from "../../../math/row-program.ts";
import type { Binding } from "../dialect/wgsl.ts";
import {
  barrier,
  choice,
  constant,
  kernelText,
  literal,
  longFunction,
  loopHead,
  ownArray,
  recordOf,
  recordType,
  result,
  shortFunction,
  unpackHalves,
  variable,
  when,
  workgroup,
} from "../dialect/wgsl.ts";
import { hashFunction, roundingFunctions } from "../dialect/wgsl-functions.ts";
import type { Kernel, Machine } from "../kernel.ts";
import { partText, printValues, Text } from "../text.ts";

/** Threads of a workgroup. */
export const rowThreads = 256;

/** How a kernel goes over its rows. */
export interface RowSpread {
  /** Neighbouring columns that a thread takes at once: 1, 2 or 4. */
  readonly width: 1 | 2 | 4;
  /** Threads that share a row: a power of two. */
  readonly across: number;
  /** Times that they go along it. */
  readonly turns: number;
}

/** What rows a kernel that sums columns adds up, and where its sums go: a column of each result for every row at once of every workgroup. */
export const partialName = (operand: RowOperand): string => `partial_${operand.name}`;

const lanesOf = { 1: [""], 2: [".x", ".y"], 4: [".x", ".y", ".z", ".w"] } as const;

/** Whether an output is a sum over rows, which a second kernel finishes. */
export const isSum = ({ how }: Pick<RowOutput, "how">): boolean => how !== "store";

/** The kernel of a program. */
export function rowKernel(
  program: RowProgram,
  spread: RowSpread,
  machine: Pick<Machine, "packs" | "slowFma">,
): Kernel {
  return new RowKernel(program, spread, machine).kernel();
}

class RowKernel {
  readonly #program: RowProgram;
  readonly #spread: RowSpread;
  readonly #fuses: boolean;
  readonly #packs: boolean | undefined;
  readonly #functions: string[] = [];
  readonly #body: string[] = [];
  readonly #lanes: readonly string[];

  constructor(
    program: RowProgram,
    spread: RowSpread,
    { packs, slowFma }: Pick<Machine, "packs" | "slowFma">,
  ) {
    this.#program = program;
    this.#spread = spread;
    this.#fuses = slowFma !== true;
    this.#packs = packs;
    this.#lanes = lanesOf[spread.width];
  }

  /** Columns side by side in one element of a buffer. */
  #isWide({ kind }: Pick<RowOperand, "kind">): boolean {
    return kind === "cell" || kind === "column";
  }

  #element(buffer: Pick<RowBuffer, "kind" | "dtype">): string {
    if (!this.#isWide(buffer)) return buffer.dtype === "uint32" ? "u32" : "f32";
    const { width } = this.#spread;
    if (buffer.dtype === "float16") return width === 4 ? "vec2u" : "u32";
    return width === 1 ? "f32" : `vec${width}f`;
  }

  #bindings(): Binding[] {
    const { buffers, outputs } = this.#program;
    const written = new Set(outputs.filter((o) => !isSum(o)).map((o) => o.operand.name));
    const used = buffers.filter(({ name, reads }) => reads || written.has(name));
    return [
      ...used.map(
        (b): Binding => ({
          ...{ name: b.name, element: this.#element(b) },
          access: written.has(b.name) ? "read_write" : "read",
        }),
      ),
      ...outputs.filter(isSum).map(
        ({ operand }): Binding => ({
          ...{ name: partialName(operand), element: "f32", access: "read_write" },
        }),
      ),
    ];
  }

  /** Index of an operand's element at row r and column c, the latter a multiple of the width. */
  #index({ kind, stride, offset = 0, period }: RowOperand): string {
    if (kind === "scalar") return `${offset}u`;
    if (kind === "row") return `r + ${offset}u`;
    const before = offset ? ` + ${offset}u` : "";
    if (kind === "column") return `(c${before}) / ${this.#spread.width}u`;
    const row = period ? `r % ${period}u` : "r";
    const step = stride === undefined ? "p.columns" : `${stride}u`;
    return `(${row} * ${step} + c${before}) / ${this.#spread.width}u`;
  }

  /** A thread's columns of a tensor, as a vector. */
  #load(operand: RowOperand): string {
    const at = `${operand.name}[${this.#index(operand)}]`;
    if (operand.dtype !== "float16" || !this.#isWide(operand)) return at;
    if (this.#spread.width === 2) return unpackHalves(at);
    return `halves_of(${at})`;
  }

  /** Leaves that some values need. */
  #leavesOf(values: readonly Node[]): readonly (readonly [Node, RowLeaf])[] {
    const found = new Map<Node, RowLeaf>();
    const seen = new Set<Node>();
    const visit = (n: Node): void => {
      if (seen.has(n)) return;
      seen.add(n);
      const leaf = this.#program.leaves.get(n);
      if (leaf) found.set(n, leaf);
      else for (const m of operands(n)) visit(m);
    };
    for (const value of values) visit(value);
    return [...found];
  }

  /** A function of one cell that returns values of the pass; what a thread calls it with, for each of its columns. */
  #cells(name: string, values: readonly Node[], written: string[]): string[][] {
    const leaves = this.#leavesOf(values);
    const type = `${name[0]!.toUpperCase()}${name.slice(1)}`;
    const text = new Text(this.#fuses);
    const names = new Map(leaves.map(([n], i) => [n, `x${i}`]));
    const isWord = (leaf: RowLeaf): boolean =>
      leaf.from === "operand" ? leaf.operand.dtype === "uint32" : leaf.from !== "reduction";
    const zero = values[0]!;
    const printed = printValues(
      text,
      values.map((re) => ({ re, im: zero })),
      names,
    );
    const fields = values.map((_, i) => `a${i}`);
    const parameters = leaves.map(([, leaf], i) => `x${i}: ${isWord(leaf) ? "u32" : "f32"}`);
    this.#functions.push(
      recordType(type, fields),
      longFunction(name, parameters.join(", "), type, [
        ...text.lines,
        result(
          recordOf(
            type,
            printed.map(({ re }) => partText(re)),
          ),
        ),
      ]),
    );
    const held = leaves.map(([, leaf], i) => {
      if (leaf.from !== "operand") return "";
      const held = `${name}${i}`;
      written.push(constant(held, this.#load(leaf.operand)));
      return held;
    });
    return this.#lanes.map((lane, l) => {
      const given = leaves.map(([, leaf], i) => {
        if (leaf.from === "operand") return held[i]! + (this.#isWide(leaf.operand) ? lane : "");
        if (leaf.from === "reduction")
          return `reduced${this.#program.reductions.indexOf(leaf.reduction)}`;
        if (leaf.from === "row") return "r";
        return leaf.from === "column" ? `(c + ${l}u)` : `(r * p.columns + c + ${l}u)`;
      });
      const called = `${name}_${l}`;
      written.push(constant(called, `${name}(${given.join(", ")})`));
      return fields.map((f) => `${called}.${f}`);
    });
  }

  /** A loop over a thread's columns. */
  #along(body: readonly string[]): string[] {
    const { width, across, turns } = this.#spread;
    return [
      loopHead("turn", "0u", `turn < ${turns}u`, "turn++"),
      constant("c", `(turn * ${across}u + t) * ${width}u`),
      ...when("c < p.columns", body),
      "}",
    ];
  }

  /** The sums and maxima at the end of a pass. */
  #pass(pass: number): void {
    const { reductions } = this.#program;
    const own = reductions.flatMap((r, index) => (r.pass === pass ? [{ ...r, index }] : []));
    if (own.length === 0) return;
    const { across } = this.#spread;
    const written: string[] = [];
    const cells = this.#cells(
      `pass${pass}`,
      own.map((r) => r.value),
      written,
    );
    const join = (op: "sum" | "max", a: string, b: string): string =>
      op === "sum" ? `${a} + ${b}` : `max(${a}, ${b})`;
    own.forEach(({ op, index }, i) => {
      this.#body.push(variable(`mine${index}`, literal(op === "sum" ? 0 : lowest)));
      for (const cell of cells)
        written.push(`mine${index} = ${join(op, `mine${index}`, cell[i]!)};`);
    });
    this.#body.push(...this.#along(written));
    if (across > 1) {
      this.#body.push(...own.map(({ index }) => `meet${index}[lane] = mine${index};`), barrier);
      this.#body.push(loopHead("half", `${across / 2}u`, "half > 0u", "half /= 2u"));
      const meet = own.map(({ op, index }) => {
        const at = `meet${index}[lane]`;
        return `${at} = ${join(op, at, `meet${index}[lane + half]`)};`;
      });
      this.#body.push(...when("t < half", meet), barrier, "}");
    }
    for (const { index } of own) {
      const met = across > 1 ? `meet${index}[lane - t]` : `mine${index}`;
      this.#body.push(constant(`reduced${index}`, met));
    }
    // What was met is read by all before the next row's replaces it.
    if (across > 1) this.#body.push(barrier);
  }

  /** Store cells, and add to a thread's sums of columns. */
  #stores(): void {
    const { outputs } = this.#program;
    const along = outputs.filter((o) => o.operand.kind === "cell" || o.how === "columnSum");
    const once = outputs.filter((o) => !along.includes(o));
    if (along.length > 0) {
      const written: string[] = [];
      const cells = this.#cells(
        "stored",
        along.map((o) => o.value),
        written,
      );
      const stores = along.flatMap(({ how, operand }, i) => {
        const values = cells.map((cell) => cell[i]!);
        return how === "store"
          ? [`${operand.name}[${this.#index(operand)}] = ${this.#packed(operand, values)};`]
          : values.map(
              (x, l) => `sums_${operand.name}[turn * ${this.#spread.width}u + ${l}u] += ${x};`,
            );
      });
      written.push(...when("inside", stores));
      this.#body.push(...this.#along(written));
    }
    if (once.length === 0) return;
    const written: string[] = [constant("c", "0u")];
    const [cell] = this.#cells(
      "kept",
      once.map((o) => o.value),
      written,
    );
    const stores = once.map(({ how, operand }, i) =>
      how === "store"
        ? `${operand.name}[${this.#index(operand)}] = ${cell![i]!};`
        : `sums_${operand.name}[0] += ${cell![i]!};`,
    );
    this.#body.push(...when("inside && t == 0u", [...written, ...stores]));
  }

  #packed({ dtype }: RowOperand, values: readonly string[]): string {
    const { width } = this.#spread;
    if (dtype === "float16") {
      const pairs = [0, 2]
        .slice(0, width / 2)
        .map((i) => `pack_pair(vec2f(${values[i]}, ${values[i + 1]}))`);
      return pairs.length === 1 ? pairs[0]! : `vec2u(${pairs.join(", ")})`;
    }
    return width === 1 ? values[0]! : `vec${width}f(${values.join(", ")})`;
  }

  /** Sums of a thread go where those of its rows stand. */
  #partials(): void {
    const { width, across } = this.#spread;
    const place = `(index * ${rowThreads / across}u + local)`;
    for (const { how, operand } of this.#program.outputs) {
      if (how === "total") {
        const put = `${partialName(operand)}[${place}] = sums_${operand.name}[0];`;
        this.#body.push(...when("t == 0u", [put]));
      } else if (how === "columnSum") {
        const puts = this.#lanes.map(
          (_, l) =>
            `${partialName(operand)}[${place} * p.columns + c + ${l}u] = sums_${operand.name}[turn * ${width}u + ${l}u];`,
        );
        this.#body.push(...this.#along(puts));
      }
    }
  }

  kernel(): Kernel {
    const { reductions, outputs, buffers } = this.#program;
    const { width, across, turns } = this.#spread;
    const halves = buffers.some((b) => b.dtype === "float16");
    for (let pass = 0; pass < this.#program.passes; pass++) this.#pass(pass);
    this.#stores();
    const sums = outputs.filter(isSum);
    const rows = this.#body.splice(0);
    this.#partials();
    const body = [
      constant("index", workgroup),
      constant("t", `lane % ${across}u`),
      constant("local", `lane / ${across}u`),
      ...sums.map(({ how, operand }) =>
        ownArray(`sums_${operand.name}`, how === "total" ? 1 : turns * width),
      ),
      loopHead("i", "0u", "i < p.share", "i++"),
      constant("row", `(index * p.share + i) * ${rowThreads / across}u + local`),
      constant("inside", "row < p.rows"),
      constant("r", choice("inside", "row", "0u")),
      ...rows,
      "}",
      ...this.#body,
    ];
    const bindings = this.#bindings();
    const parameters = ["rows", "columns", "share"];
    const random = this.#functions.some((f) => f.includes("hash_of("));
    const code = kernelText({
      ...{ bindings, parameters, threads: rowThreads, body },
      shared:
        across > 1
          ? reductions.map((_, i) => ({ name: `meet${i}`, element: "f32", count: rowThreads }))
          : [],
      functions: [
        ...(halves ? roundingFunctions("float16", this.#packs) : []),
        ...(halves && width === 4 ? [halvesFunction] : []),
        ...(random ? [hashFunction] : []),
        ...this.#functions,
      ],
    });
    return { code, bindings, parameters, tiles: 1, tilesPerUnit: 1 };
  }
}

/** Four float16 as float32. */
const halvesFunction = shortFunction(
  "halves_of",
  "w: vec2u",
  "vec4f",
  `vec4f(${unpackHalves("w.x")}, ${unpackHalves("w.y")})`,
);

/** Columns that a workgroup of the second kernel adds up side by side. */
export const columnsBeside = 32;

/** Sums of columns from those of all workgroups, in an order that the number of them decides. */
export function rowSumsKernel(accumulate: boolean): Kernel {
  const strips = rowThreads / columnsBeside;
  const bindings: Binding[] = [
    { name: "partials", access: "read", element: "f32" },
    { name: "sums", access: "read_write", element: "f32" },
  ];
  const parameters = ["parts", "columns", "offset"];
  const code = kernelText({
    ...{ bindings, parameters, threads: rowThreads },
    shared: [{ name: "partial", element: "f32", count: rowThreads }],
    body: [
      constant("column", `(${workgroup}) * ${columnsBeside}u + lane % ${columnsBeside}u`),
      variable("sum", "0.0f"),
      variable("lost", "0.0f"),
      ...when("column < p.columns", [
        loopHead("part", `lane / ${columnsBeside}u`, "part < p.parts", `part += ${strips}u`),
        // Kahan 1965: what an addition rounds away is taken along.
        constant("term", "partials[part * p.columns + column] - lost"),
        constant("next", "sum + term"),
        "lost = (next - sum) - term;",
        "sum = next;",
        "}",
      ]),
      "partial[lane] = sum;",
      barrier,
      loopHead("half", `${rowThreads / 2}u`, `half >= ${columnsBeside}u`, "half /= 2u"),
      ...when("lane < half", ["partial[lane] += partial[lane + half];"]),
      barrier,
      "}",
      ...when(`lane < ${columnsBeside}u && column < p.columns`, [
        `sums[p.offset + column] ${accumulate ? "+=" : "="} partial[lane];`,
      ]),
    ],
  });
  return { code, bindings, parameters, tiles: 1, tilesPerUnit: 1 };
}
