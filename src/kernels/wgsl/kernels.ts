/**
 * Kernels as data, and their text. A path takes a tile from a source, through the pass's stages, to a sink; what it does
 * on the way (forward stages, the product with the kernel's spectrum, inverse stages) is a property. Gradients combine two
 * paths. Whatever a kernel is for, its text is put together from the same pieces.
 */
import type { Dtype } from "../../dtype.ts";
import type { Run } from "../../plan/geometry.ts";
import type { PassPlan, PointFormat } from "../../plan/passes.ts";
import type { Binding, TensorName } from "./tensors.ts";

/** One result that a sink writes: convolution ⊙ gates, plus skip ⊙ another tensor. */
export interface Output {
  readonly tensor: TensorName;
  readonly gates: readonly TensorName[];
  /** Adds skip[h] · this tensor. */
  readonly skipped?: TensorName | undefined;
}

/** Where a path begins: a product of tensors, taps at their positions (bound as `u`), or complex points in work memory. */
export type Source =
  | { readonly kind: "taps"; readonly runs: readonly Run[]; readonly taps: number }
  | { readonly kind: "samples"; readonly factors: readonly TensorName[]; readonly width: number }
  | { readonly kind: "work"; readonly buffer: "work" | "other" | "sums" };

/** Where a path ends. */
export type Sink =
  | { readonly kind: "samples"; readonly outputs: readonly Output[]; readonly width: number }
  | { readonly kind: "work"; readonly buffer: "work" | "other" }
  | { readonly kind: "spectrum" };

/** One way through a tile. */
export interface Path {
  readonly kind: "path";
  readonly source: Source;
  readonly forward: boolean;
  /** Product with the spectrum, or with its conjugate. */
  readonly product: "none" | "kernel" | "conjugate";
  readonly inverse: boolean;
  readonly sink: Sink;
}

/**
 * Gradients of the batch rows of one channel: U from `u`, G from `dy`; conj(U)·G is summed over the rows, in their order;
 * G·conj(K) goes to `du`, and U·K, the forward result without its gate, to `y`, where these are asked for.
 */
export interface Gradient {
  readonly kind: "gradient";
  readonly u: Source;
  readonly dy: Source;
  readonly y: Sink | undefined;
  readonly du: Sink | undefined;
}

/** A kernel to be generated. */
export interface KernelSpec {
  readonly plan: PassPlan;
  /** Which pass's tiles it works on. */
  readonly pass: number;
  readonly dtype: Dtype;
  /** Of the points in work memory. */
  readonly format: PointFormat;
  readonly work: Path | Gradient;
  readonly machine: Machine;
}

/** What a device lends kernels. */
export interface Machine {
  /** Bytes of workgroup memory. */
  readonly sharedBytes: number;
  /** Whether pack2x16float rounds to the nearest, ties to even, and overflows to infinity, as it need not. */
  readonly packs?: boolean;
  /** Whether there are subgroups, and threads 2n and 2n + 1 of a workgroup are lanes 2m and 2m + 1 of one. */
  readonly shuffles?: boolean;
  /** Whether fma is worse than a product and a sum, as where a processor plays the GPU: twice the time to compile. */
  readonly slowFma?: boolean;
}

/** A generated kernel: text, and what the backend must bind. */
export interface Kernel {
  readonly code: string;
  readonly bindings: readonly Binding[];
  /** Tiles that one workgroup takes. */
  readonly tiles: number;
  /** Tiles of one transform. */
  readonly tilesPerUnit: number;
}

/** Words of the uniform parameters, in order; every kernel has the same. */
export const parameterNames = [
  "tiles",
  "first",
  "batch",
  "channels",
  "channel",
  "begin",
  "end",
  "clear",
  "skip",
  "u",
  "pregate",
  "postgate",
  "y",
  "dy",
  "du",
  "dpregate",
  "dpostgate",
] as const;

/** Values of the parameters; 0 where left out. */
export type Parameters = Partial<Record<(typeof parameterNames)[number], number>>;

/** The uniform parameters, declared. */
export const declaredParameters: string = `struct Parameters {
${parameterNames.map((n) => `  ${n}: u32,`).join("\n")}
}
@group(0) @binding(0) var<uniform> p: Parameters;`;
