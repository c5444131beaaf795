/**
 * The tensors of a short convolution in its kernels. A lane holds cells: one sample in layout BHL, up to four channels of one
 * position in BLH. Loads and stores are as wide as rows and offsets allow: several positions of a row, or a cell.
 */
import type { Dtype } from "../../../dtype.ts";
import { bytesPerSample } from "../../../dtype.ts";
import type { Layout } from "../../../plan/depthwise.ts";
import type { Binding } from "../storage.ts";
import { halfReaders } from "../storage.ts";
import type { Text } from "../text.ts";

/** Buffers of a call of a short convolution by name. */
export type DepthwiseBuffer =
  | "x"
  | "dx"
  | "state"
  | "stateOut"
  | "dstate"
  | "dstateOut"
  | "weight"
  | "bias"
  | "dweight"
  | "dbias"
  | "dz"
  | "carried";

/** Samples that one access takes. */
export type Width = 1 | 2 | 4 | 8;

/** How a kernel sees a tensor with samples for each position of a line. */
export interface Lines {
  readonly name: string;
  readonly dtype: Dtype;
  readonly layout: Layout;
  /** Of positions in layout BHL, of channels in BLH. */
  readonly width: Width;
  readonly writes?: boolean;
  /** Whether items have three times the channels of a call, and which third is meant cannot be said by the offset alone. */
  readonly packed?: boolean;
  /** Which positions outside a line are those of the period that lies `p.period` positions further on, or back. */
  readonly wraps?: "before" | "behind" | undefined;
}

/** Widest access: 16 bytes, and in layout BLH no more channels than a cell has. */
export function widest(dtype: Dtype, layout: Layout): Width {
  return layout === "BHL" && dtype !== "float32" ? 8 : 4;
}

/** The widest access to rows of `samples` samples that begin `offset` bytes into a buffer. */
export function widthFor(dtype: Dtype, layout: Layout, samples: number, offset: number): Width {
  let width = widest(dtype, layout);
  while (width > 1 && (samples % width !== 0 || offset % (width * bytesPerSample(dtype)) !== 0)) {
    width = (width / 2) as Width;
  }
  return width;
}

/** A float32 cell of so many channels. */
export const cellType = (channels: Width): string => ["f32", "vec2f", "", "vec4f"][channels - 1]!;

/** What one access loads: the samples as stored. */
function storedType({ dtype, width }: Lines): string {
  if (dtype === "float32") return cellType(width);
  return width <= 2 ? "u32" : `vec${width / 2}u`;
}

/** Two halves share a word: where rows begin at any of them, writers of one must leave the other alone. */
export const sharesWords = ({ dtype, width, writes }: Lines): boolean =>
  dtype !== "float32" && width === 1 && writes === true;

/** The buffer that a tensor is bound to. */
export function linesBinding(lines: Lines): Binding {
  const access = lines.writes ? "read_write" : "read";
  const element = sharesWords(lines) ? "atomic<u32>" : storedType(lines);
  return { name: lines.name, access, element };
}

/**
 * Parameters of a tensor. NAME: index of the element at line 0, position 0; NAME_from: its first position; NAME_size: positions;
 * NAME_line: elements from line to line; NAME_step, in layout BLH: from position to position.
 */
export const linesParameters = ({ name, layout }: Lines): string[] => [
  ...[name, `${name}_from`, `${name}_size`, `${name}_line`],
  ...(layout === "BLH" ? [`${name}_step`] : []),
];

/** Element of a position: `at` is that of the line's (and channels') position 0. */
function element({ name, layout, width }: Lines, at: string, position: string): string {
  if (layout === "BLH") return `${at} + ${position} * p.${name}_step`;
  return width === 1 ? `${at} + ${position}` : `${at} + ${position} / ${width}u`;
}

/** Where a line begins, from the names of the line and, in layout BLH, the cell; of packed channels, in that third. */
export function lineStart(
  { name, layout, packed }: Lines,
  line: string,
  cell: string,
  third = 0,
): string {
  if (layout === "BLH") {
    const beside = packed ? ` + ${third}u * p.third` : "";
    return `${line} * p.${name}_line + p.${name} + ${cell}${beside}`;
  }
  // An item's other two thirds lie between its lines and those of the next one.
  const among = packed ? `(${line} + (${line} / p.span * 2u + ${third}u) * p.third)` : line;
  return `${among} * p.${name}_line + p.${name}`;
}

function stored({ name, dtype, width }: Lines, index: string): string {
  if (dtype === "float32" || width > 1) return `${name}[${index}]`;
  return `(${name}[(${index}) >> 1u] >> (((${index}) & 1u) * 16u)) & 0xffffu`;
}

/** The position that stands for one outside a line that goes on periodically, a period at most away from it. */
const wrapped = {
  before: "let n = select(m, m + i32(p.period), m < 0);",
  behind: "let n = select(m, m - i32(p.period), m >= i32(p.period));",
} as const;

/**
 * `NAME_load`: what is stored from a position on, zeros outside the line, or what a periodic one has there. With a history,
 * the positions before the first come from the carried state, whose last one is position −1.
 */
export function loadFunctions(lines: Lines, history?: Lines): string[] {
  const { name, wraps } = lines;
  const type = storedType(lines);
  const inside = [
    `fn ${name}_load(at: u32, ${history ? "past: u32, " : ""}${wraps ? "m" : "n"}: i32) -> ${type} {`,
    ...(wraps ? [wrapped[wraps]] : []),
    `let i = u32(n - i32(p.${name}_from));`,
    `if (i < p.${name}_size) { let e = ${element(lines, "at", "u32(n)")}; return ${stored(lines, "e")}; }`,
  ];
  if (!history) return [[...inside, `return ${type}();`, "}"].join("\n")];
  // A vector of positions is put together from single ones: rows of the state begin anywhere.
  const single = storedType(history);
  const one = (k: number): string => `state_load(past, n + ${k})`;
  const pair = (k: number): string => `${one(k)} | (${one(k + 1)} << 16u)`;
  const each =
    lines.layout === "BLH" || lines.width === 1
      ? [one(0)]
      : lines.dtype === "float32"
        ? Array.from({ length: lines.width }, (_, k) => one(k))
        : Array.from({ length: lines.width / 2 }, (_, k) => pair(2 * k));
  return [
    [
      `fn state_load(at: u32, n: i32) -> ${single} {`,
      "let i = u32(n + i32(p.state_size));",
      `if (i < p.state_size) { let e = ${element(history, "at", "i")}; return ${stored(history, "e")}; }`,
      `return ${single}();`,
      "}",
    ].join("\n"),
    [
      ...inside,
      `if (n < 0) { return ${type}(${each.join(", ")}); }`,
      `return ${type}();`,
      "}",
    ].join("\n"),
  ];
}

/** Float32 cells of what was loaded: several positions in layout BHL, one in BLH. */
export function cells(text: Text, lines: Lines, raw: string): string[] {
  const { dtype, width, layout } = lines;
  const axes = "xyzw".slice(0, width);
  if (dtype === "float32") {
    return layout === "BLH" || width === 1 ? [raw] : [...axes].map((a) => `${raw}.${a}`);
  }
  const { pair } = halfReaders[dtype];
  const words = width <= 2 ? [raw] : [..."xyzw"].slice(0, width / 2).map((a) => `${raw}.${a}`);
  const pairs = words.map((w) => text.hold("h", pair(w)));
  if (width === 1) return [`${pairs[0]}.x`];
  if (layout === "BHL") return pairs.flatMap((h) => [`${h}.x`, `${h}.y`]);
  return width === 2 ? pairs : [text.hold("h", `vec4f(${pairs.join(", ")})`)];
}

/** The window of cells at positions `from` + shift … of a tensor; `from` is a multiple of the access's width. */
export function window(
  text: Text,
  lines: Lines,
  at: string,
  from: string,
  shift: number,
  count: number,
): string[] {
  const step = lines.layout === "BHL" ? lines.width : 1;
  const begin = Math.floor(shift / step) * step;
  const found: string[] = [];
  for (let n = begin; n < shift + count; n += step) {
    const raw = text.hold("q", `${lines.name}_load(${at}, ${from} + ${n})`.replace("+ -", "- "));
    found.push(...cells(text, lines, raw));
  }
  return found.slice(shift - begin, shift - begin + count);
}

/** The function that stores one half of a word, or, from runs along a row, either half or both. */
export function storeFunctions(lines: Lines): string[] {
  if (!sharesWords(lines)) return [];
  const { name, layout } = lines;
  const merged = [
    `atomicAnd(&${name}[word], keep);`,
    `atomicOr(&${name}[word], pack_pair(x) & ~keep);`,
  ];
  if (layout === "BLH") {
    return [
      [
        `fn ${name}_put(i: u32, value: f32) {`,
        "let word = i >> 1u;",
        "let x = vec2f(value);",
        "let keep = select(0xffff0000u, 0x0000ffffu, (i & 1u) == 1u);",
        ...merged,
        "}",
      ].join("\n"),
    ];
  }
  return [
    [
      `fn ${name}_put(word: u32, x: vec2f, low: bool, high: bool) {`,
      "if (low && high) {",
      `atomicStore(&${name}[word], pack_pair(x));`,
      "} else if (low || high) {",
      "let keep = select(0x0000ffffu, 0xffff0000u, low);",
      ...merged,
      "}",
      "}",
    ].join("\n"),
  ];
}

/** Cells as they are stored in one access. */
function packed({ dtype, width, layout }: Lines, values: readonly string[]): string {
  const lone = layout === "BLH" || width === 1;
  if (dtype === "float32") return lone ? values[0]! : `vec${width}f(${values.join(", ")})`;
  const [v = ""] = values;
  const halves = width === 2 ? [v] : [`${v}.xy`, `${v}.zw`];
  const pairs = (
    layout === "BLH"
      ? halves
      : Array.from({ length: width / 2 }, (_, i) => `vec2f(${values[2 * i]}, ${values[2 * i + 1]})`)
  ).map((pair) => `pack_pair(${pair})`);
  return width === 2 ? pairs[0]! : `vec${width / 2}u(${pairs.join(", ")})`;
}

/**
 * Store consecutive cells from position `from` on, those that the tensor has; `whole` says that it has all of a run or none,
 * which makes one condition of many.
 */
export function storeRun(
  text: Text,
  lines: Lines,
  at: string,
  from: string,
  values: readonly string[],
  whole: boolean,
): void {
  const { name, layout, width } = lines;
  const first = text.hold("n", `u32(${from} - i32(p.${name}_from))`);
  const inside = (k: number): string => `${first} + ${k}u < p.${name}_size`;
  const place = (k: number): string => element(lines, at, `u32(${from} + ${k})`);
  if (sharesWords(lines) && layout === "BHL") {
    storeHalves(text, lines, at, from, values, inside);
    return;
  }
  const step = layout === "BHL" ? width : 1;
  const stores = Array.from({ length: values.length / step }, (_, i) => {
    const k = i * step;
    const store = sharesWords(lines)
      ? `${name}_put(${place(k)}, ${values[k]});`
      : `${name}[${place(k)}] = ${packed(lines, values.slice(k, k + step))};`;
    return whole ? store : `if (${inside(k)}) { ${store} }`;
  });
  if (whole) text.line(`if (${inside(0)}) { ${stores.join("\n")} }`);
  else for (const store of stores) text.line(store);
}

/** A run of halves that begins at either half of a word. */
function storeHalves(
  text: Text,
  lines: Lines,
  at: string,
  from: string,
  values: readonly string[],
  inside: (k: number) => string,
): void {
  const { name } = lines;
  const e = text.hold("e", `${at} + u32(${from})`);
  const odd = text.hold("odd", `(${e} & 1u) == 1u`);
  const value = (k: number): string => values[k] ?? "0.0f";
  const has = (k: number): string => (k >= 0 && k < values.length ? inside(k) : "false");
  for (let k = 0; k <= values.length; k += 2) {
    const low = `select(${value(k)}, ${value(k - 1)}, ${odd})`;
    const high = `select(${value(k + 1)}, ${value(k)}, ${odd})`;
    const lowIn = `select(${has(k)}, ${has(k - 1)}, ${odd})`;
    const highIn = `select(${has(k + 1)}, ${has(k)}, ${odd})`;
    text.line(
      `${name}_put((${e} >> 1u) + ${k / 2}u, vec2f(${low}, ${high}), ${lowIn}, ${highIn});`,
    );
  }
}
