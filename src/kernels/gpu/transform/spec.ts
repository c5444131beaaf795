/** What a transform's kernel computes: its pass, where its rows come from and go, gates, skip, scales and gradients. */
import type { Dtype } from "../../../dtype.ts";
import type { Run } from "../../../plan/geometry.ts";
import type { PassPlan, PointFormat, SpectrumFormat } from "../../../plan/gpu/passes.ts";
import type { Machine, ScaleBuffer, WorkBuffer } from "../kernel.ts";
import type { TensorName } from "../storage.ts";
import type { PatternTable } from "./frequency-mask.ts";

/** One result that a sink writes: convolution ⊙ gates, plus skip ⊙ another tensor. */
export interface Output {
  readonly tensor: TensorName;
  readonly gates: readonly TensorName[];
  /** Adds skip[h] · this tensor. */
  readonly skipped?: TensorName | undefined;
}

/** A row cut into blocks: block j has sample j·hop − lead at position 0, and its own samples from position `lead` on. */
export interface Cut {
  readonly hop: number;
  readonly lead: number;
}

/** Where a path begins: a product of tensors, taps at their positions (bound as `u`), or complex points in work memory. */
export type PassSource =
  | { readonly kind: "taps"; readonly runs: readonly Run[]; readonly taps: number }
  | {
      readonly kind: "samples";
      readonly factors: readonly TensorName[];
      readonly width: number;
      readonly cut?: Cut | undefined;
      /** Whether only the block's own `hop` samples count. */
      readonly own?: boolean;
    }
  | { readonly kind: "work"; readonly buffer: WorkBuffer | "sums" };

/** Where a path ends. */
export type PassSink =
  | {
      readonly kind: "samples";
      readonly outputs: readonly Output[];
      readonly width: number;
      readonly cut?: Cut | undefined;
    }
  | { readonly kind: "work"; readonly buffer: WorkBuffer }
  | { readonly kind: "spectrum" };

/**
 * Where the scales of rows lie that several passes share: a row's factor, and its inverse. `inverse` takes the inverses of
 * another tensor's, whose rows these will be multiplied with.
 */
export interface Scaling {
  readonly buffer: ScaleBuffer;
  readonly inverse: boolean;
}

/** One way through a tile. */
export interface Path {
  readonly kind: "path";
  readonly source: PassSource;
  readonly forward: boolean;
  /** Product with the spectrum, or with its conjugate. */
  readonly product: "none" | "kernel" | "conjugate";
  readonly inverse: boolean;
  readonly sink: PassSink;
  /** For rows packed in pairs, in several passes. */
  readonly scaling?: Scaling | undefined;
}

/**
 * Gradients of the batch rows of one channel: U from `u`, G from `dy`; conj(U)·G is summed over the rows, in their order,
 * by as many workgroups as the batch has chunks, each with sums of its own;
 * G·conj(K) goes to `du`, and U·K, the forward result without its gate, to `y`, where these are asked for.
 *
 * Rows packed in pairs are scaled one by one, and then conj(U)·G would weigh them differently: the sums take their G from
 * `again`, scaled by the inverse of u's scales, so that the weights are 1.
 */
export interface Gradient {
  readonly kind: "gradient";
  readonly u: PassSource;
  readonly dy: PassSource;
  readonly again?: PassSource | undefined;
  readonly y: PassSink | undefined;
  readonly du: PassSink | undefined;
}

/** Tensors that a source or sink touches. */
export function tensorsOf(
  end: PassSource | PassSink,
): { name: TensorName; writes: boolean; width: number }[] {
  if (end.kind === "taps") return [{ name: "u", writes: false, width: 1 }];
  if (end.kind !== "samples") return [];
  const { width } = end;
  if ("factors" in end) return end.factors.map((name) => ({ name, writes: false, width }));
  return end.outputs.flatMap((o) => [
    { name: o.tensor, writes: true, width },
    ...o.gates.map((name) => ({ name, writes: false, width })),
    ...(o.skipped ? [{ name: o.skipped, writes: false, width }] : []),
  ]);
}

/** Sources and sinks of a kernel. */
export const sourcesAndSinks = (work: Path | Gradient): (PassSource | PassSink)[] =>
  work.kind === "path"
    ? [work.source, work.sink]
    : [work.u, work.dy, work.again, work.y, work.du].filter((end) => end !== undefined);

/** A kernel to be generated. */
export interface KernelSpec {
  readonly plan: PassPlan;
  /** Which pass's tiles it works on. */
  readonly pass: number;
  readonly dtype: Dtype;
  /** Of the points in work memory. */
  readonly format: PointFormat;
  /** Of the kernel's spectrum. */
  readonly spectra: SpectrumFormat;
  readonly work: Path | Gradient;
  /** Blocks of a row. */
  readonly blocks: number;
  /** What is left of the blocks of each pass, where frequencies are masked. */
  readonly pattern?: PatternTable | undefined;
  readonly machine: Machine;
}
