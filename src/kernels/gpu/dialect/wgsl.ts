/**
 * WGSL: what a kernel's text owes to its language. Whoever writes kernels takes statements, declarations and all but the
 * simplest expressions from here; names, operators, indices, parts (`.x`), calls and literals (`3u`, `0.5f`) are written out,
 * since C++ writes them alike. A second language is a second file with these names, and one with the functions of wgsl-functions.ts.
 */

/** A storage buffer of a kernel. */
export interface Binding {
  readonly name: string;
  readonly access: "read" | "read_write";
  /** Type of the elements. */
  readonly element: string;
}

/** An array that the threads of a workgroup share. */
export interface SharedArray {
  readonly name: string;
  readonly element: string;
  readonly count: number;
}

/** What a kernel consists of. */
export interface KernelParts {
  readonly bindings: readonly Binding[];
  /** Words of the uniform parameters, which the text calls `p.NAME`. */
  readonly parameters: readonly string[];
  readonly shared?: readonly SharedArray[];
  /** Texts of functions. */
  readonly functions?: readonly string[];
  /** Threads of a workgroup. */
  readonly threads: number;
  /** Whether the text has `shuffled` values. */
  readonly shuffles?: boolean;
  /** Whether it has numbers in half precision (`halfZero` and the like). */
  readonly halves?: boolean;
  /** Whether subgroups multiply matrices (`matrices`). */
  readonly matrices?: boolean;
  readonly body: readonly string[];
}

/** The whole text of a kernel. Its body knows the numbers `group` and `groups`, vectors of three, and `lane`, the thread's own. */
export function kernelText(parts: KernelParts): string {
  const { bindings, parameters, shared = [], functions = [], threads, body } = parts;
  return [
    ...(parts.shuffles ? ["enable subgroups;"] : []),
    ...(parts.halves ? ["enable f16;"] : []),
    // Which matrices a subgroup takes is the same for all of its threads; the analysis cannot see it.
    ...(parts.matrices
      ? [
          "enable chromium_experimental_subgroup_matrix;",
          "diagnostic(off, chromium.subgroup_matrix_uniformity);",
        ]
      : []),
    `struct Parameters {\n${parameters.map((n) => `  ${n}: u32,`).join("\n")}\n}`,
    "@group(0) @binding(0) var<uniform> p: Parameters;",
    ...bindings.map(
      (b, i) =>
        `@group(0) @binding(${i + 1}) var<storage, ${b.access}> ${b.name}: array<${b.element}>;`,
    ),
    ...shared.map((s) => `var<workgroup> ${s.name}: array<${s.element}, ${s.count}>;`),
    ...functions,
    `@compute @workgroup_size(${threads})`,
    "fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {",
    ...body,
    "}",
    "",
  ].join("\n");
}

/** The workgroup's number. */
export const workgroup = "group.y * groups.x + group.x";

/** A function that returns what an expression of its parameters, `name: type`, comes to. */
export function shortFunction(
  name: string,
  parameters: string,
  result: string,
  value: string,
): string {
  return `fn ${name}(${parameters}) -> ${result} { return ${value}; }`;
}

/** A function of several statements; `result` is the type of what it returns, if anything. */
export function longFunction(
  name: string,
  parameters: string,
  result: string | undefined,
  body: readonly string[],
): string {
  return [`fn ${name}(${parameters})${result ? ` -> ${result}` : ""} {`, ...body, "}"].join("\n");
}

/** A type of several float32 by name, and the value of that type with these. */
export const recordType = (name: string, fields: readonly string[]): string =>
  `struct ${name} { ${fields.map((f) => `${f}: f32`).join(", ")} }`;
export const recordOf = (name: string, values: readonly string[]): string =>
  `${name}(${values.join(", ")})`;

/** A statement that ends a function with a value. */
export const result = (value: string): string => `return ${value};`;

/** An array of float32 that a thread has for itself. */
export const ownArray = (name: string, count: number): string =>
  `var ${name}: array<f32, ${count}>;`;

/** A name for a value that stays. */
export const constant = (name: string, value: string): string => `let ${name} = ${value};`;

/** A name for a value that changes. */
export const variable = (name: string, value: string): string => `var ${name} = ${value};`;

/** Names for values, each of which may have those before it. */
export const constants = (values: Readonly<Record<string, string>>): string[] =>
  Object.entries(values).map(([name, value]) => constant(name, value));

/** Statements under a condition, and others where it does not hold. */
export const when = (
  condition: string,
  then: readonly string[],
  otherwise: readonly string[] = [],
): string[] => [
  `if (${condition}) {`,
  ...then,
  ...(otherwise.length > 0 ? ["} else {", ...otherwise] : []),
  "}",
];

/** Head of a loop whose variable begins at `from`; a brace closes it. */
export const loopHead = (index: string, from: string, condition: string, step: string): string =>
  `for (var ${index} = ${from}; ${condition}; ${step}) {`;

/** All threads of a workgroup wait for one another, and see what the others stored. */
export const barrier = "workgroupBarrier();";

/** One of two values; both are computed. */
export const choice = (condition: string, yes: string, no: string): string =>
  `select(${no}, ${yes}, ${condition})`;

/** What 0 is in a type. */
export const zero = (type: string): string => ({ f32: "0.0f", u32: "0u" })[type] ?? `${type}()`;

/** Vectors of float32, and of 32-bit words. */
export const floats = (parts: readonly string[]): string =>
  `vec${parts.length}f(${parts.join(", ")})`;
export const words = (parts: readonly string[]): string =>
  `vec${parts.length}u(${parts.join(", ")})`;

/** The same of as many words as there are, one of which is no vector. */
export const vectorOfWords = (parts: readonly string[]): string =>
  parts.length === 1 ? parts[0]! : words(parts);

/** The bits of a float32 as a number, and the float32 of some bits. */
export const wordOf = (x: string): string => `bitcast<u32>(${x})`;
export const floatOf = (word: string): string => `bitcast<f32>(${word})`;

/** The two float16 of a word as float32, and two float32 rounded into a word (see `packs` of Machine). */
export const unpackHalves = (word: string): string => `unpack2x16float(${word})`;
export const packHalves = (pair: string): string => `pack2x16float(${pair})`;

/** The two bfloat16 of a word as float32. */
export const unpackBfloats = (word: string): string =>
  `bitcast<vec2f>(vec2u(${word} << 16u, ${word} & 0xffff0000u))`;

/** What a thread's neighbour has for `x`: the one whose number in the subgroup differs in the bit `distance`. */
export const shuffled = (x: string, distance: number): string =>
  `subgroupShuffleXor(${x}, ${distance}u)`;

/** The parts of a 32-bit word, or of several, as numbers in half precision: a vector, or the part of it that `index` names. */
export const halvesOf = (word: string): string => `bitcast<vec2<f16>>(${word})`;

/** Leave a function. */
export const leave = "return;";

/** Element type in half precision of arrays that threads share. */
export const halfType = "f16";

/** Sides of matrices that a subgroup multiplies: m×k by k×n. */
interface MatrixSides {
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

/** Where a matrix lies in an array: from which element on, in rows or columns of which distance. */
interface MatrixPlace {
  readonly array: string;
  readonly at: string;
  readonly stride: string;
  /** Whether neighbours in the array are neighbours in a column. */
  readonly byColumns?: boolean;
}

const order = ({ byColumns = false }: MatrixPlace): string =>
  byColumns ? "col_major" : "row_major";

/** Matrices of subgroups: two factors in half precision, and sums of their products in float32. */
export const matrices = {
  /** Statement: `name` begins as zeros. */
  zeros: (name: string, { m, n }: MatrixSides): string =>
    variable(name, `subgroup_matrix_result<f32, ${n}, ${m}>()`),
  /** A factor on one side or the other, as a value. */
  load: (side: "left" | "right", { m, n, k }: MatrixSides, from: MatrixPlace): string => {
    const sides = side === "left" ? `${k}, ${m}` : `${n}, ${k}`;
    const type = `subgroup_matrix_${side}<f16, ${sides}>`;
    return `subgroupMatrixLoad<${type}, ${order(from)}>(&${from.array}, ${from.at}, ${from.stride})`;
  },
  /** Statement: a product joins `sums`. */
  multiply: (sums: string, left: string, right: string): string =>
    `${sums} = subgroupMatrixMultiplyAccumulate(${left}, ${right}, ${sums});`,
  /** Statement: sums are stored. */
  store: (sums: string, to: MatrixPlace): string =>
    `subgroupMatrixStore<${order(to)}>(&${to.array}, ${to.at}, ${sums}, ${to.stride});`,
} as const;

/** The place of the lowest bit of a word that is set. */
export const lowestBit = (word: string): string => `firstTrailingBit(${word})`;

/** Statements that change an element of an array of words, which other threads change too; `load` is what it holds. */
export const atomic = {
  load: (element: string): string => `atomicLoad(&${element})`,
  and: (element: string, word: string): string => `atomicAnd(&${element}, ${word});`,
  or: (element: string, word: string): string => `atomicOr(&${element}, ${word});`,
  store: (element: string, word: string): string => `atomicStore(&${element}, ${word});`,
} as const;

/** A float32 literal. */
export function literal(value: number): string {
  const rounded = Math.fround(value);
  const text = String(rounded);
  return `${/[.e]/.test(text) ? text : `${text}.0`}f`.replace(/^-.*$/, "($&)");
}
