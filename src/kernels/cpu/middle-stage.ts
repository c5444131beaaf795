/**
 * The middle of a convolution: last forward stage, multiplication of spectra, first inverse stage, on one group of
 * `lanes` blocks of 4 points at a time. With four lanes the 4×4 points are transposed in registers, so that a vector
 * holds the same point of four blocks and the radix-4 butterfly needs no lane crossing. The spectrum stays in this
 * transposed, digit-reversed order for ever: nothing needs it in any other.
 */
import { dft } from "../../math/codelet.ts";
import type { Complex } from "../../math/expr.ts";
import { Graph } from "../../math/expr.ts";
import type { BatchPlace } from "./function-names.ts";
import type { Store } from "./ir.ts";
import { keptInputs, loadComplex, storeComplex } from "./load-store.ts";

/** What the middle does with the transforms z and w, the kernel's spectrum k and the sum s. */
export type MiddleKind =
  /** z ← z·k */
  | "multiply"
  /** z ← spectrum of z, times a factor (how kernels are kept) */
  | "spectrum"
  /** k ← the kept points of that spectrum, one after the other (how frequency-sparse kernels are kept) */
  | "compact"
  /**
   * z ← z·conj(k), the gradient of u, and s ← s + z·conj(w), that of k; after the last row s comes back as a sequence.
   * Gated: also w ← w·k, the forward result, for the gradient of the gate behind it.
   */
  | `gradients_${BatchPlace}`
  /** z ← z + w, two sums over blocks */
  | "add"
  /** z ← the sequence of the spectrum z: how a sum over blocks comes back */
  | "back"
  /** s ← w·k */
  | "product"
  /** s ← s + w·k */
  | "accumulate"
  | `gradients_${BatchPlace}_gated`;

type Pointer = "z" | "w" | "k" | "s";

/** What a kind transforms and in which direction. */
export interface MiddleShape {
  /** Transforms that run forward before the middle. */
  readonly forward: readonly Pointer[];
  /** Those that run back after it. */
  readonly inverse: readonly Pointer[];
  /** All buffers, by pointer name, in the order of the parameters. */
  readonly pointers: readonly Pointer[];
}

/** The shape of a kind. */
export function middleShape(kind: MiddleKind): MiddleShape {
  if (kind === "multiply") return { forward: ["z"], inverse: ["z"], pointers: ["z", "k"] };
  if (kind === "spectrum") return { forward: ["z"], inverse: [], pointers: ["z"] };
  if (kind === "compact") return { forward: ["z"], inverse: [], pointers: ["z", "k"] };
  if (kind === "add") return { forward: [], inverse: [], pointers: ["z", "w"] };
  if (kind === "back") return { forward: [], inverse: ["z"], pointers: ["z"] };
  if (kind === "product" || kind === "accumulate")
    return { forward: [], inverse: [], pointers: ["s", "w", "k"] };
  const { gated, ends } = gradientParts(kind);
  const inverse: Pointer[] = [
    "z",
    ...(gated ? (["w"] as const) : []),
    ...(ends ? (["s"] as const) : []),
  ];
  return { forward: ["z", "w"], inverse, pointers: ["z", "w", "k", "s"] };
}

function gradientParts(kind: MiddleKind): {
  readonly gated: boolean;
  readonly starts: boolean;
  readonly ends: boolean;
} {
  const [, place, gated] = kind.split("_");
  return {
    gated: gated === "gated",
    starts: place === "first" || place === "only",
    ends: place === "last" || place === "only",
  };
}

type Quad = [Complex, Complex, Complex, Complex];

function transpose(g: Graph, v: Quad, lanes: 1 | 4): Quad {
  if (lanes === 1) return v;
  const re = g.transpose4([v[0].re, v[1].re, v[2].re, v[3].re]);
  const im = g.transpose4([v[0].im, v[1].im, v[2].im, v[3].im]);
  return [0, 1, 2, 3].map((i) => ({ re: re[i]!, im: im[i]! })) as Quad;
}

/** Kinds whose result a mask applies to: the kernel's spectrum, and the gradient that comes back to its taps. */
export function isMasked(kind: MiddleKind): boolean {
  return kind === "compact" || (middleShape(kind).inverse as string[]).includes("s");
}

/** What a group of the middle consists of. */
export interface GroupShape {
  /** Outputs of the radix-4 stage that are computed. */
  readonly kept: readonly number[];
  /** Where the blocks of a group lie, in blocks from its first. */
  readonly blocks: readonly number[];
  /** Whether there are factors, at pointer mm, for what a mask applies to. */
  readonly masked: boolean;
}

/** A group of which nothing is left out. */
export function wholeGroup(lanes: 1 | 4): GroupShape {
  const blocks = Array.from({ length: lanes }, (_, i) => i);
  return { kept: [0, 1, 2, 3], blocks, masked: false };
}

/**
 * The block of one group, factor for what is scaled, at pointers zm, wm, km, sm and twiddles t. Of what is left out of a
 * sparse group the kernel's spectrum has no points; the sum s keeps its own in the group's first places.
 */
export function middleBlock(
  kind: MiddleKind,
  factor: number,
  lanes: 1 | 4,
  { kept, blocks, masked }: GroupShape,
): Store[] {
  const g = new Graph();
  const step = 8 * lanes;
  const offsets = [0, step, 2 * step, 3 * step];
  const places = lanes === 1 ? offsets : blocks.map((b) => 32 * b);
  // The inverse loads its twiddles again: keeping them over the block would only spill other values.
  const twiddles = (copy: number): Complex[] =>
    offsets.slice(0, 3).map((o) => loadComplex(g, "t", o, lanes, copy));
  const at = (p: Pointer): readonly number[] => (p === "k" ? offsets : places);
  const load = (p: Pointer): Complex[] =>
    kept.map((_, i) => loadComplex(g, `${p}m`, at(p)[i]!, lanes));
  const store = (p: Pointer, v: readonly Complex[]): Store[] =>
    v.flatMap((c, i) => storeComplex(`${p}m`, at(p)[i]!, c, lanes));
  const forward = (p: Pointer): Complex[] => {
    const points = places.map((o) => loadComplex(g, `${p}m`, o, lanes)) as Quad;
    const v = transpose(g, points, lanes);
    const w = twiddles(0);
    const outputs = dft(
      g,
      v.map((a, j) => (j === 0 ? a : g.cmul(a, w[j - 1]!))),
      1,
    );
    return kept.map((j) => outputs[j]!);
  };
  const inverse = (v: readonly Complex[]): Quad => {
    const w = twiddles(1);
    const inputs = keptInputs(g, 4, kept, (i) => v[i]!);
    const a = dft(g, inputs, -1).map((c, j) => (j === 0 ? c : g.cmulConj(c, w[j - 1]!))) as Quad;
    return transpose(g, a, lanes);
  };
  const scales = kept.map((_, i) => {
    const scale = g.constant(factor);
    if (!masked) return scale;
    return g.mul(g.load({ pointer: "mm", offset: 4 * lanes * i }, "float32", 0, lanes), scale);
  });
  const scaled = (v: readonly Complex[]): Complex[] =>
    v.map((c, i) => ({ re: g.mul(c.re, scales[i]!), im: g.mul(c.im, scales[i]!) }));
  const each = (
    a: readonly Complex[],
    b: readonly Complex[],
    f: (x: Complex, y: Complex) => Complex,
  ): Complex[] => a.map((x, i) => f(x, b[i]!));
  const mul = (x: Complex, y: Complex): Complex => g.cmul(x, y);
  const conj = (x: Complex, y: Complex): Complex => g.cmulConj(x, y);
  if (kind === "multiply") return store("z", inverse(each(forward("z"), load("k"), mul)));
  if (kind === "spectrum") return store("z", scaled(forward("z")));
  if (kind === "compact") return store("k", scaled(forward("z")));
  if (kind === "add")
    return store(
      "z",
      each(load("z"), load("w"), (x, y) => g.cadd(x, y)),
    );
  if (kind === "back") return store("z", inverse(scaled(load("z"))));
  if (kind === "product") return store("s", each(load("w"), load("k"), mul));
  if (kind === "accumulate") {
    const k = load("k");
    const w = load("w");
    const sum = load("s").map((c, i) => ({
      re: g.fnma(w[i]!.im, k[i]!.im, g.fma(w[i]!.re, k[i]!.re, c.re)),
      im: g.fma(w[i]!.im, k[i]!.re, g.fma(w[i]!.re, k[i]!.im, c.im)),
    }));
    return store("s", sum);
  }
  const { gated, starts, ends } = gradientParts(kind);
  const z = forward("z");
  const w = forward("w");
  const product = each(z, w, conj);
  const sum = starts ? product : each(load("s"), product, (x, y) => g.cadd(x, y));
  return [
    ...store("s", ends ? inverse(scaled(sum)) : sum),
    ...store("z", inverse(each(z, load("k"), conj))),
    ...(gated ? store("w", inverse(each(w, load("k"), mul))) : []),
  ];
}
