/**
 * The user's tensors in a kernel: rows of samples in one of three storage types, read and written one at a time or as
 * neighbours in one access. Half precision lies two samples to a word.
 */
import type { Dtype } from "../../dtype.ts";
import type { Binding } from "./dialect/wgsl.ts";

export type { Binding } from "./dialect/wgsl.ts";

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
> = {
  float16: {
    pair: (w: string) => `unpack2x16float(${w})`,
  },
  bfloat16: {
    pair: (w: string) => `bitcast<vec2f>(vec2u(${w} << 16u, ${w} & 0xffff0000u))`,
  },
};

/** Rounds float32 to the nearest bfloat16, ties to even; NaN stays NaN. */
const roundBfloat16 = `fn round_bfloat16(x: f32) -> u32 {
  let w = bitcast<u32>(x);
  let rounded = (w + 0x7fffu + ((w >> 16u) & 1u)) >> 16u;
  return select(rounded, 0x7fc0u, (w & 0x7fffffffu) > 0x7f800000u);
}`;

/** Two samples in a word, rounded one by one. */
const packPair = (round: string): string =>
  `fn pack_pair(x: vec2f) -> u32 { return ${round}(x.x) | (${round}(x.y) << 16u); }`;

/**
 * Rounds float32 to the nearest float16, ties to even: pack2x16float leaves values out of range undefined, and some
 * drivers round towards zero.
 */
const roundFloat16 = `fn round_float16(x: f32) -> u32 {
  let w = bitcast<u32>(x);
  let sign = (w >> 16u) & 0x8000u;
  let m = w & 0x7fffffffu;
  let normal = (m + 0xfffu + ((m >> 13u) & 1u) - 0x38000000u) >> 13u;
  let small = bitcast<u32>(bitcast<f32>(min(m, 0x38800000u)) + 0.5f) - 0x3f000000u;
  var h = select(small, normal, m >= 0x38800000u);
  h = select(h, 0x7c00u, m > 0x477fefffu);
  h = select(h, 0x7e00u, m > 0x7f800000u);
  return sign | h;
}`;

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
  if (dtype === "float32") {
    if (writes) return paired ? [] : [`fn ${name}_put(i: u32, x: f32) { ${name}[i] = x; }`];
    return paired
      ? [
          `fn ${name}_word(i: u32) -> vec2f { return ${name}[i >> 1u]; }`,
          `fn ${name}_pair(w: vec2f) -> vec2f { return w; }`,
          `fn ${name}_get(i: u32) -> f32 { return ${name}[i >> 1u][i & 1u]; }`,
        ]
      : [
          `fn ${name}_word(i: u32) -> f32 { return ${name}[i]; }`,
          `fn ${name}_one(w: f32, i: u32) -> f32 { return w; }`,
          `fn ${name}_get(i: u32) -> f32 { return ${name}[i]; }`,
        ];
  }
  if (!writes) {
    const { pair } = halfReaders[dtype];
    return [
      `fn ${name}_word(i: u32) -> u32 { return ${name}[i >> 1u]; }`,
      `fn ${name}_pair(w: u32) -> vec2f { return ${pair("w")}; }`,
      `fn ${name}_one(w: u32, i: u32) -> f32 { return ${name}_pair(w >> ((i & 1u) * 16u)).x; }`,
      `fn ${name}_get(i: u32) -> f32 { return ${name}_one(${name}_word(i), i); }`,
    ];
  }
  if (paired) return [];
  return [
    `fn ${name}_put(i: u32, x: f32) {
  let shift = (i & 1u) * 16u;
  atomicAnd(&${name}[i >> 1u], ~(0xffffu << shift));
  atomicOr(&${name}[i >> 1u], pack_pair(vec2f(x, 0.0f)) << shift);
}`,
  ];
}

/**
 * The function `pack_pair` that stores of a storage type need: two samples, rounded, in one word. `packs` says that the
 * device's own conversion rounds to nearest; ours takes fifteen instructions a sample.
 */
export function roundingFunctions(dtype: Dtype, packs: boolean | undefined): string[] {
  if (dtype === "float32") return [];
  if (dtype === "bfloat16") return [roundBfloat16, packPair("round_bfloat16")];
  if (packs) return ["fn pack_pair(x: vec2f) -> u32 { return pack2x16float(x); }"];
  return [roundFloat16, packPair("round_float16")];
}
