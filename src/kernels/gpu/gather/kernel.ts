/**
 * Rows of a table by number, and sums of rows into a table. A workgroup of the sum owns some entries and some columns: it goes through
 * all numbers in their order, marks those of its entries, and adds their rows one after another. So no two threads ever add to one
 * number, and the bits are the same in every run.
 */
import type { Binding } from "../dialect/wgsl.ts";
import {
  atomic,
  barrier,
  choice,
  constant,
  kernelText,
  loopHead,
  lowestBit,
  unpackHalves,
  variable,
  when,
  workgroup,
} from "../dialect/wgsl.ts";
import { roundingFunctions } from "../dialect/wgsl-functions.ts";
import { upTo } from "../filter/runs.ts";
import type { Kernel, Machine } from "../kernel.ts";

/** Threads of a workgroup; of a sum, one for each of its columns. */
export const gatherThreads = 256;
/** Numbers that a workgroup of a sum marks at a time: a word's bits say which words have marks. */
export const idsAtOnce = 1024;
/** Rows that a thread loads before it adds them up: one after the other, each would wait for memory. */
const rowsAtOnce = 8;

/** Storage of a table or of rows. */
type Stored = "float32" | "float16";

/** Columns are taken two by two, one word of float16. */
const pairType = (dtype: Stored): string => (dtype === "float16" ? "u32" : "vec2f");
const pairOf = (dtype: Stored, word: string): string =>
  dtype === "float16" ? unpackHalves(word) : word;

/** y[r] = table[ids[r]]: a thread copies two columns, or one where their number is odd. */
export function gatherKernel(
  table: Stored,
  cells: Stored,
  paired: boolean,
  { packs }: Pick<Machine, "packs">,
): Kernel {
  const element = (dtype: Stored): string => (paired ? pairType(dtype) : "f32");
  const bindings: Binding[] = [
    { name: "ids", access: "read", element: "u32" },
    { name: "table", access: "read", element: element(table) },
    { name: "y", access: "read_write", element: element(cells) },
  ];
  const found = "table[ids[at / p.columns] * p.columns + at % p.columns]";
  const value = paired ? pairOf(table, found) : found;
  const code = kernelText({
    ...{ bindings, parameters: ["columns", "all"], threads: gatherThreads },
    functions: cells === "float16" ? roundingFunctions("float16", packs) : [],
    body: [
      constant("at", `(${workgroup}) * ${gatherThreads}u + lane`),
      ...when("at < p.all", [`y[at] = ${cells === "float16" ? `pack_pair(${value})` : value};`]),
    ],
  });
  return { code, bindings, parameters: ["columns", "all"], tiles: 1, tilesPerUnit: 1 };
}

/** How a sum is cut. */
export interface ScatterSpread {
  /** Entries of a workgroup. */
  readonly entries: number;
  /** Whether the numbers are shared among workgroups, whose sums a second kernel adds up. */
  readonly shares: boolean;
}

/** table[ids[r]] += dy[r], or the sums of one share of the rows. */
export function scatterKernel(cells: Stored, { entries, shares }: ScatterSpread): Kernel {
  const target = shares ? "partials" : "table";
  const bindings: Binding[] = [
    { name: "ids", access: "read", element: "u32" },
    { name: "dy", access: "read", element: cells === "float16" ? "u32" : "f32" },
    { name: target, access: "read_write", element: "f32" },
  ];
  const parameters = ["rows", "columns", "entries", "across", "blocks", "share"];
  const words = idsAtOnce / 32;
  const at = "(row * p.columns + column)";
  const sample =
    cells === "float16" ? `${unpackHalves(`dy[${at} / 2u]`)}[${at} % 2u]` : `dy[${at}]`;
  const place = shares ? "(slice * p.entries + entry)" : "entry";
  const code = kernelText({
    ...{ bindings, parameters, threads: gatherThreads },
    shared: [
      { name: "marks", element: "atomic<u32>", count: words + 1 },
      { name: "sums", element: "f32", count: entries * gatherThreads },
    ],
    body: [
      constant("index", workgroup),
      constant("column", `(index % p.across) * ${gatherThreads}u + lane`),
      constant("first", `(index / p.across % p.blocks) * ${entries}u`),
      constant("slice", "index / p.across / p.blocks"),
      constant("last", "min(p.rows, (slice + 1u) * p.share)"),
      loopHead("e", "0u", `e < ${entries}u`, "e++"),
      `sums[e * ${gatherThreads}u + lane] = 0.0f;`,
      "}",
      loopHead("begin", "slice * p.share", "begin < last", `begin += ${idsAtOnce}u`),
      ...when(`lane <= ${words}u`, [atomic.store("marks[lane]", "0u")]),
      barrier,
      loopHead("i", "lane", `i < ${idsAtOnce}u && begin + i < last`, `i += ${gatherThreads}u`),
      ...when(`ids[begin + i] - first < ${entries}u`, [
        atomic.or("marks[i / 32u]", "1u << (i % 32u)"),
        atomic.or(`marks[${words}]`, "1u << (i / 32u)"),
      ]),
      "}",
      barrier,
      ...when("column < p.columns", [
        variable("marked", atomic.load(`marks[${words}]`)),
        "while (marked != 0u) {",
        constant("w", lowestBit("marked")),
        "marked &= marked - 1u;",
        variable("left", atomic.load("marks[w]")),
        "while (left != 0u) {",
        variable("row", `begin + w * 32u + ${lowestBit("left")}`),
        ...upTo(rowsAtOnce).flatMap((i) => [
          // Rows that there are none of are the one before, and count nothing.
          constant(`has${i}`, "left != 0u"),
          ...when(`has${i}`, [`row = begin + w * 32u + ${lowestBit("left")};`]),
          "left &= left - 1u;",
          constant(`entry${i}`, "ids[row] - first"),
          constant(`x${i}`, sample),
        ]),
        ...upTo(rowsAtOnce).map(
          (i) =>
            `sums[entry${i} * ${gatherThreads}u + lane] += ${choice(`has${i}`, `x${i}`, "0.0f")};`,
        ),
        "}",
        "}",
      ]),
      barrier,
      "}",
      ...when("column < p.columns", [
        loopHead("e", "0u", `e < ${entries}u`, "e++"),
        constant("entry", "first + e"),
        ...when("entry < p.entries", [
          `${target}[${place} * p.columns + column] ${shares ? "=" : "+="} sums[e * ${gatherThreads}u + lane];`,
        ]),
        "}",
      ]),
    ],
  });
  return { code, bindings, parameters, tiles: 1, tilesPerUnit: 1 };
}
