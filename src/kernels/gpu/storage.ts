/**
 * The user's tensors in a kernel: rows of samples in one of three storage types, read and written one at a time or as
 * neighbours in one access. Half precision lies two samples to a word.
 */
import type { Dtype } from "../../dtype.ts";
import type { Binding } from "./dialect/wgsl.ts";
import {
  atomic,
  constant,
  floats,
  longFunction,
  shortFunction,
  unpackBfloats,
  unpackHalves,
} from "./dialect/wgsl.ts";

export type { Binding } from "./dialect/wgsl.ts";
export { roundingFunctions } from "./dialect/wgsl-functions.ts";

/** Tensors by the name they have in kernels. */
export type TensorName =
  | "u"
  | "pregate"
  | "postgate"
  | "y"
  | "dy"
  | "du"
  | "dpregate"
  | "dpostgate";

/** How a kernel sees one tensor. */
export interface TensorAccess {
  readonly name: TensorName;
  readonly dtype: Dtype;
  readonly writes: boolean;
  /** Rows begin at even samples, so that neighbours come in one access. */
  readonly paired: boolean;
}

/** Two samples of a word. */
export const halfReaders: Readonly<
  Record<Exclude<Dtype, "float32">, { readonly pair: (word: string) => string }>
> = { float16: { pair: unpackHalves }, bfloat16: { pair: unpackBfloats } };

/** The buffer that a tensor is bound to. */
export function tensorBinding({ name, dtype, writes, paired }: TensorAccess): Binding {
  const access = writes ? "read_write" : "read";
  if (dtype === "float32") return { name, access, element: paired ? "vec2f" : "f32" };
  // Rows of odd length share words with their neighbours: writers of one half must leave the other alone.
  return { name, access, element: writes && !paired ? "atomic<u32>" : "u32" };
}

/**
 * Functions of a tensor, as far as the access allows: `NAME_word` loads what is stored at an index, `NAME_pair` and `NAME_one`
 * make samples of it, `NAME_get` does both; `NAME_put` stores one. Stores of pairs need no function.
 */
export function tensorFunctions({ name, dtype, writes, paired }: TensorAccess): string[] {
  const fn = (of: string, parameters: string, result: string, value: string): string =>
    shortFunction(`${name}_${of}`, parameters, result, value);
  if (writes) {
    if (paired) return [];
    const statements =
      dtype === "float32"
        ? [`${name}[i] = x;`]
        : [
            constant("shift", "(i & 1u) * 16u"),
            atomic.and(`${name}[i >> 1u]`, "~(0xffffu << shift)"),
            atomic.or(`${name}[i >> 1u]`, `pack_pair(${floats(["x", "0.0f"])}) << shift`),
          ];
    return [longFunction(`${name}_put`, "i: u32, x: f32", undefined, statements)];
  }
  if (dtype === "float32")
    return paired
      ? [
          fn("word", "i: u32", "vec2f", `${name}[i >> 1u]`),
          fn("pair", "w: vec2f", "vec2f", "w"),
          fn("get", "i: u32", "f32", `${name}[i >> 1u][i & 1u]`),
        ]
      : [
          fn("word", "i: u32", "f32", `${name}[i]`),
          fn("one", "w: f32, i: u32", "f32", "w"),
          fn("get", "i: u32", "f32", `${name}[i]`),
        ];
  return [
    fn("word", "i: u32", "u32", `${name}[i >> 1u]`),
    fn("pair", "w: u32", "vec2f", halfReaders[dtype].pair("w")),
    fn("one", "w: u32, i: u32", "f32", `${name}_pair(w >> ((i & 1u) * 16u)).x`),
    fn("get", "i: u32", "f32", `${name}_one(${name}_word(i), i)`),
  ];
}
