/**
 * The functions that programs of transforms export, and in which order: for spectra and forward calls, for backward calls.
 * Gates and skip are variants of the ends by name; everything between the ends is shared.
 */
import type { Dtype } from "../../dtype.ts";
import type { Part } from "../../plan/geometry.ts";
import { apartBySample, gradientPart } from "../../plan/geometry.ts";
import type { HeadId, TailId } from "./function-names.ts";
import { batchPlaces, exported, rowName, suffix } from "./function-names.ts";
import type { Int, KernelFunction, Statement } from "./ir.ts";
import { call } from "./ir.ts";
import type { RowSink, RowSource } from "./load-store.ts";
import type { MiddleKind } from "./middle-stage.ts";

/** Makes the functions of one transform, or of several that work as one. */
export interface TransformFunctions {
  head(id: HeadId, source: RowSource): KernelFunction[];
  body(kind: MiddleKind): KernelFunction[];
  /** `again`: the same transform has gone through its inverse stages for another sink. */
  tail(id: TailId, sink: RowSink, again?: boolean): KernelFunction[];
  /** Tiles of its ends and units of its bodies. */
  readonly tiles: number;
  readonly bodies: number;
}

/** What a program is of. */
export interface ConvolutionTypes {
  readonly part: Part;
  /** Storage of u, y and the gates. */
  readonly dtype: Dtype;
  /** Storage of k as given; its gradient is float32. */
  readonly kernelDtype: Dtype;
  /** Results are added to what is there: those of a convolution's first part. */
  readonly adds: boolean;
}

/** Variants of what goes in: without a gate and with one. */
export const gateVariants: readonly boolean[] = [false, true];
/** Variants of what comes out. */
export const sinkVariants: readonly { readonly gated: boolean; readonly skip: boolean }[] =
  gateVariants.flatMap((gated) => [false, true].map((skip) => ({ gated, skip })));

/** copy(to, from, bytes) and clear(at, bytes): for blocks that reach over an end of their row. */
export const moveFunctions: readonly KernelFunction[] = [
  exported(
    "copy",
    ["to", "from", "bytes"],
    [{ op: "copy", to: "to", from: "from", bytes: "bytes" }],
  ),
  exported("clear", ["at", "bytes"], [{ op: "clear", at: "at", bytes: "bytes" }]),
];

/**
 * A whole row in one call, of what its variants call. From JavaScript the three calls and what stands between them cost
 * 0.3 µs, a tenth of a row of 1,024 samples.
 */
export function wholeRowFunctions(
  body: (pregate: boolean, postgate: boolean, skip: boolean) => readonly Statement[],
): KernelFunction[] {
  const parameters = ["u", "pregate", "z", "k", "y", "postgate", "skip", "table"];
  return gateVariants.flatMap((pregate) =>
    sinkVariants.map(({ gated, skip }) =>
      exported(rowName(pregate, gated, skip), parameters, body(pregate, gated, skip)),
    ),
  );
}

/** Where a row's own pointers go in a tail: see sinkParameters. */
export const rowSink: readonly Int[] = ["y", "postgate", "u", "skip", 0, 0];

/** Functions of a program for spectra, kept by the body `keep`, and forward calls. */
export function forwardFunctions(
  make: TransformFunctions,
  { part, dtype, kernelDtype, adds }: ConvolutionTypes,
  keep: "spectrum" | "compact",
): KernelFunction[] {
  const { inputs, taps, outputs } = part;
  const plain = { pieces: outputs, dtype, second: false, accumulate: adds };
  return [
    ...make.head("k", { pieces: taps, dtype: kernelDtype, gated: false }),
    ...make.body(keep),
    ...gateVariants.flatMap((gated) =>
      make.head(`u${suffix(gated)}`, { pieces: inputs, dtype, gated }),
    ),
    ...make.body("multiply"),
    ...sinkVariants.flatMap((v) => make.tail(`y${suffix(v.gated, v.skip)}`, { ...plain, ...v })),
    ...(part.blocks ? moveFunctions : []),
    ...wholeRowFunctions((pregate, postgate, skip) => [
      call(`head_u${suffix(pregate)}`, "u", "pregate", "z", "table", 0, make.tiles),
      call("body_multiply", "z", "k", "table", 0, make.bodies),
      call(`tail_y${suffix(postgate, skip)}`, "z", ...rowSink, "table", 0, make.tiles),
    ]),
  ];
}

/**
 * Bodies of a backward program. Blocks add to a sum of their own, and sums meet before they come back, so that blocks
 * may go to any thread; the gradient of a gate behind blocks is a forward call.
 */
function gradientKinds({ blocks }: Part): MiddleKind[] {
  if (blocks) return ["gradients_first", "gradients_inner", "add", "back"];
  return batchPlaces.flatMap((at) => [
    `gradients_${at}` as const,
    `gradients_${at}_gated` as const,
  ]);
}

/** Functions of a program for backward calls. */
export function backwardFunctions(
  make: TransformFunctions,
  { part, dtype, adds }: ConvolutionTypes,
): KernelFunction[] {
  const { inputs, taps, outputs, blocks } = gradientPart(part);
  const plain = { dtype, gated: false, skip: false, second: false, accumulate: adds };
  const dk = apartBySample(taps).flatMap((pieces, i) => {
    const accumulate = adds || i > 0;
    return make.tail(`dk${i}`, { ...plain, pieces, dtype: "float32", accumulate }, i > 0);
  });
  return [
    ...gateVariants.flatMap((gated) => [
      ...make.head(`u${suffix(gated)}`, { pieces: inputs, dtype, gated }),
      ...make.head(`dy${suffix(gated)}`, { pieces: outputs, dtype, gated }),
    ]),
    ...gradientKinds(part).flatMap((kind) => make.body(kind)),
    ...(blocks ? moveFunctions : []),
    ...sinkVariants.flatMap((v) =>
      make.tail(`du${suffix(v.gated, v.skip)}`, {
        ...plain,
        ...v,
        pieces: inputs,
        second: v.gated,
      }),
    ),
    ...(blocks ? [] : make.tail("dpostgate", { ...plain, pieces: outputs, gated: true })),
    ...dk,
  ];
}
