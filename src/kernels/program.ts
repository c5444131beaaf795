/**
 * Problem and plan → the functions that a backend compiles: one program for spectra and forward calls, one for
 * backward calls. Gates and skip are variants of the ends by name; everything between the ends is shared.
 */
import type { Dtype } from "../dtype.ts";
import type { Geometry } from "../plan/geometry.ts";
import type { TransformPlan } from "../plan/plan.ts";
import type { Sink, Source } from "./ends.ts";
import type { KernelFunction, KernelModule } from "./ir.ts";
import { batchPlaces } from "./middle.ts";
import type { Piece } from "./placement.ts";
import { suffix } from "./suffix.ts";
import { bodyFunctions, headFunctions, stageFunctions, tailFunctions } from "./transform.ts";

/** What a program does. */
export type ProgramKind = "forward" | "backward";

/** What determines a program's text. */
export interface ProgramSpec {
  readonly kind: ProgramKind;
  readonly geometry: Geometry;
  readonly plan: TransformPlan;
  /** Storage of u, y and the gates. */
  readonly dtype: Dtype;
  /** Storage of k as given; its gradient is float32. */
  readonly kernelDtype: Dtype;
  readonly lanes: 1 | 4;
}

const flags = [false, true] as const;

/** Where the taps lie among 2·points positions. */
export function tapPieces(geometry: Geometry, points: number): Piece[] {
  return geometry.taps.map(({ index, count, lag }) =>
    lag < 0
      ? { index, count, position: 2 * points + lag, sign: -1 }
      : { index, count, position: lag, sign: 1 },
  );
}

/**
 * The taps in as few sinks as their gradient needs: one, or two where a circular tap acts both back and ahead and its
 * two contributions are added one after the other.
 */
export function tapSinks(geometry: Geometry, points: number): Piece[][] {
  const pieces = tapPieces(geometry, points);
  const [a, b] = pieces;
  const apart = !a || !b || a.index + a.count <= b.index || b.index + b.count <= a.index;
  return apart ? [pieces] : [[a], [b]];
}

function forwardFunctions(spec: ProgramSpec): KernelFunction[] {
  const { geometry, plan, dtype, lanes } = spec;
  const u: Piece = { index: 0, count: geometry.length, position: 0, sign: 1 };
  const y: Piece = { index: 0, count: geometry.outputLength, position: 0, sign: 1 };
  const taps: Source = {
    pieces: tapPieces(geometry, plan.points),
    dtype: spec.kernelDtype,
    gated: false,
  };
  const heads = flags.flatMap((gated) =>
    headFunctions(plan, { pieces: [u], dtype, gated }, `u${suffix(gated)}`, lanes),
  );
  const tails = flags.flatMap((gated) =>
    flags.flatMap((skip) => {
      const sink: Sink = { pieces: [y], dtype, gated, skip, second: false, accumulate: false };
      return tailFunctions(plan, sink, `y${suffix(gated, skip)}`, lanes);
    }),
  );
  return [
    ...headFunctions(plan, taps, "k", lanes),
    ...bodyFunctions(plan, "spectrum", lanes),
    ...heads,
    ...bodyFunctions(plan, "multiply", lanes),
    ...tails,
  ];
}

function backwardFunctions(spec: ProgramSpec): KernelFunction[] {
  const { geometry, plan, dtype, lanes } = spec;
  const u: Piece = { index: 0, count: geometry.length, position: 0, sign: 1 };
  const dy: Piece = { index: 0, count: geometry.outputLength, position: 0, sign: 1 };
  const heads = flags.flatMap((gated) => [
    ...headFunctions(plan, { pieces: [u], dtype, gated }, `u${suffix(gated)}`, lanes),
    ...headFunctions(plan, { pieces: [dy], dtype, gated }, `dy${suffix(gated)}`, lanes),
  ]);
  const du = flags.flatMap((gated) =>
    flags.flatMap((skip) => {
      const sink: Sink = { pieces: [u], dtype, gated, skip, second: gated, accumulate: false };
      return tailFunctions(plan, sink, `du${suffix(gated, skip)}`, lanes);
    }),
  );
  const plain = { dtype, gated: true, skip: false, second: false, accumulate: false };
  const dk = tapSinks(geometry, plan.points).flatMap((pieces, i) => {
    const sink: Sink = { ...plain, pieces, dtype: "float32", gated: false, accumulate: i > 0 };
    return tailFunctions(plan, sink, `dk${i}`, lanes, i === 0);
  });
  return [
    ...heads,
    ...batchPlaces.flatMap((place) => [
      ...bodyFunctions(plan, `gradients_${place}`, lanes),
      ...bodyFunctions(plan, `gradients_${place}_gated`, lanes),
    ]),
    ...du,
    ...tailFunctions(plan, { ...plain, pieces: [dy] }, "dpostgate", lanes),
    ...dk,
  ];
}

/** All functions of a program, callees first. */
export function buildProgram(spec: ProgramSpec): KernelModule {
  const ends = spec.kind === "forward" ? forwardFunctions(spec) : backwardFunctions(spec);
  return { lanes: spec.lanes, functions: [...stageFunctions(spec.plan, spec.lanes), ...ends] };
}
