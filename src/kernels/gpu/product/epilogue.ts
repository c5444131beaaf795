/** What becomes of sums: bias, activation or its slope, residual, rounding and the store, for neighbours of a row of C at a time. */
import { activations } from "../../../math/activation.ts";
import type { Node } from "../../../math/expr.ts";
import { Graph } from "../../../math/expr.ts";
import type { Binding } from "../dialect/wgsl.ts";
import {
  atomic,
  floats,
  longFunction,
  unpackHalves,
  vectorOfWords,
  when,
} from "../dialect/wgsl.ts";
import { roundingFunctions } from "../storage.ts";
import { nameNode, partText, printValues, Text } from "../text.ts";
import { partsOf, vectorType } from "./operand.ts";
import type { ProductCells, ProductKernel } from "./spec.ts";

type Spec = Pick<ProductKernel, "c" | "epilogue" | "edges" | "machine">;

/** What kernels bind for an epilogue, and the functions that they call. */
export interface Epilogue {
  readonly bindings: readonly Binding[];
  readonly functions: readonly string[];
}

/** Half words that two threads share are written by atomic operations. */
const shares = ({ dtype, width }: ProductCells): boolean => dtype === "float16" && width === 1;

/** Elements of the bindings of C and of what lies as C does. */
function elementOf(cells: ProductCells, writes: boolean): string {
  if (cells.dtype === "float32") return vectorType("f32", cells.width);
  return shares(cells) && writes ? "atomic<u32>" : vectorType("u32", Math.ceil(cells.width / 2));
}

/** Names of the cells of a matrix at `at`, as float32. */
function read(text: Text, name: string, { dtype, width }: ProductCells, writes: boolean): string[] {
  if (dtype === "float32") return partsOf(text.hold("q", `${name}[at]`), width);
  if (width === 1) {
    const word = writes ? atomic.load(`${name}[at >> 1u]`) : `${name}[at >> 1u]`;
    return [text.hold("q", `${unpackHalves(`${word} >> ((at & 1u) * 16u)`)}.x`)];
  }
  const words = partsOf(text.hold("q", `${name}[at]`), width / 2);
  return words
    .map((word) => text.hold("q", unpackHalves(word)))
    .flatMap((pair) => [`${pair}.x`, `${pair}.y`]);
}

function write(
  text: Text,
  name: string,
  { dtype, width }: ProductCells,
  values: readonly string[],
): void {
  if (dtype === "float32") {
    text.line(`${name}[at] = ${width === 1 ? values[0] : floats(values)};`);
  } else if (width === 1) {
    const shift = text.hold("shift", "(at & 1u) * 16u");
    const word = `pack_pair(${floats([values[0]!, "0.0f"])}) << ${shift}`;
    text.line(atomic.and(`${name}[at >> 1u]`, `~(0xffffu << ${shift})`));
    text.line(atomic.or(`${name}[at >> 1u]`, word));
  } else {
    const words = values.flatMap((x, i) =>
      i % 2 ? [] : [`pack_pair(${floats([x, values[i + 1]!])})`],
    );
    text.line(`${name}[at] = ${vectorOfWords(words)};`);
  }
}

/** The function `finish(item, row, column, x0, …)`: sums of neighbours, those outside C left out. */
export function epilogueOf({ c, epilogue, edges, machine }: Spec): Epilogue {
  const { bias, activation, keeps, slope, residual, accumulate } = epilogue;
  const text = new Text(!machine.slowFma);
  const g = new Graph();
  const names = Array.from({ length: c.width }, (_, i) => `x${i}`);
  const print = (values: readonly Node[]): string[] =>
    printValues(
      text,
      values.map((re) => ({ re, im: g.constant(0) })),
    ).map(({ re }) => partText(re));
  const nodesOf = (from: readonly string[]): Node[] => from.map((name) => nameNode(g, name));
  const plus = (values: readonly Node[], more: readonly string[]): Node[] =>
    values.map((v, i) => g.add(v, nameNode(g, more[i % more.length]!)));
  text.constant("at", `item * p.c_batch + row * p.c_stride + column / ${c.width}u`);
  let values = nodesOf(names);
  if (bias === "rows") values = plus(values, [text.hold("d", "bias[row]")]);
  if (bias === "columns")
    values = plus(
      values,
      names.map((_, i) => text.hold("d", `bias[column + ${i}u]`)),
    );
  if (activation) {
    values = nodesOf(print(values));
    if (keeps) write(text, "sum", c, print(values));
    values = values.map((v) => activations[activation].value(g, v));
  }
  if (slope) {
    const z = nodesOf(read(text, "z", c, false));
    values = values.map((v, i) => g.mul(v, activations[slope].slope(g, z[i]!)));
  }
  if (residual) values = plus(values, read(text, "residual", c, false));
  if (accumulate) values = plus(values, read(text, "c", c, true));
  write(text, "c", c, print(values));
  const parameters = ["item", "row", "column"].map((name) => `${name}: u32`);
  const inside = edges.cells ? when("row < p.m && column < p.n", text.lines) : text.lines;
  const given = [...parameters, ...names.map((name) => `${name}: f32`)].join(", ");
  const like = (name: string, access: Binding["access"]): Binding => {
    return { name, access, element: elementOf(c, access === "read_write") };
  };
  return {
    bindings: [
      like("c", "read_write"),
      ...(bias ? [{ name: "bias", access: "read", element: "f32" } as const] : []),
      ...(slope ? [like("z", "read")] : []),
      ...(residual ? [like("residual", "read")] : []),
      ...(activation && keeps ? [like("sum", "read_write")] : []),
    ],
    functions: [
      ...roundingFunctions(c.dtype, machine.packs),
      longFunction("finish", given, undefined, inside),
    ],
  };
}

/** Statements that hand neighbours of a row to `finish`, as many at a time as C is written in. */
export function finished(
  { width }: ProductCells,
  row: string,
  column: string,
  values: readonly string[],
): string[] {
  const calls: string[] = [];
  for (let i = 0; i < values.length; i += width) {
    const given = values.slice(i, i + width).join(", ");
    calls.push(`finish(item, ${row}, ${column} + ${i}u, ${given});`);
  }
  return calls;
}
