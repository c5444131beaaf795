/**
 * Problem and plan → the functions that a backend compiles: one program for spectra and forward calls, one for
 * backward calls, one for a level of a stream.
 */
import type { TransformPlan } from "../../plan/cpu/plan.ts";
import { formatTransform } from "../../plan/cpu/plan.ts";
import type { Run } from "../../plan/geometry.ts";
import { stageFunctions } from "./butterflies.ts";
import type { ConvolutionTypes, TransformFunctions } from "./convolution-functions.ts";
import { backwardFunctions, forwardFunctions } from "./convolution-functions.ts";
import type { KernelFunction, KernelModule } from "./ir.ts";
import type { PlacedPiece } from "./placement.ts";
import type { ProgramSource } from "./program-source.ts";
import { bodyCount, bodyFunctions, headFunctions, tailFunctions, tileCount } from "./stages.ts";
import { stageTwiddles, writeTwiddles } from "./twiddles.ts";

/** What a program does. */
export type ProgramKind = "forward" | "backward" | "stream";

/** What determines a program's text. */
export interface ProgramSpec extends ConvolutionTypes {
  readonly kind: ProgramKind;
  readonly plan: TransformPlan;
  readonly lanes: 1 | 4;
}

/** Where runs lie among 2·points positions. */
function placed(runs: readonly Run[], points: number): PlacedPiece[] {
  return runs.map((r) =>
    r.position < 0
      ? { ...r, position: 2 * points + r.position, sign: r.sign === 1 ? -1 : 1 }
      : { ...r },
  );
}

/** The functions of one transform, whose round trip has the factor `scale`. */
function transformFunctions(plan: TransformPlan, scale: number, lanes: 1 | 4): TransformFunctions {
  const place = <T extends { readonly runs: readonly Run[] }>({ runs, ...rest }: T) => ({
    ...rest,
    pieces: placed(runs, plan.points),
  });
  return {
    head: (id, source) => headFunctions(plan, place(source), id, lanes),
    body: (kind) => bodyFunctions(plan, kind, scale, lanes),
    tail: (id, sink, again) => tailFunctions(plan, place(sink), id, lanes, !again),
    ...{ tiles: tileCount(plan), bodies: bodyCount(plan, lanes) },
  };
}

/** A level of a stream: spectra of blocks and of taps are kept as they are, and sums of products scaled on their way back. */
function streamFunctions({ part, plan, lanes }: ProgramSpec): KernelFunction[] {
  const { head, body, tail } = transformFunctions(plan, part.scale, lanes);
  const row = { dtype: "float32", gated: false } as const;
  const sink = { ...row, runs: part.outputs, skip: false, second: false, accumulate: false };
  return [
    ...head("k", { ...row, runs: part.taps }),
    ...head("u", { ...row, runs: part.inputs }),
    ...bodyFunctions(plan, "spectrum", plan.points, lanes),
    ...(["product", "accumulate", "back"] as const).flatMap(body),
    ...tail("y", sink),
  ];
}

function ownFunctions(spec: ProgramSpec): KernelFunction[] {
  if (spec.kind === "stream") return streamFunctions(spec);
  const make = transformFunctions(spec.plan, spec.part.scale, spec.lanes);
  return spec.kind === "forward"
    ? forwardFunctions(make, spec, "spectrum")
    : backwardFunctions(make, spec);
}

/** All functions of a program, callees first. */
export function buildProgram(spec: ProgramSpec): KernelModule {
  const { plan, lanes } = spec;
  return { lanes, functions: [...stageFunctions(plan, lanes), ...ownFunctions(spec)] };
}

/** The program of a convolution's part, with the twiddles that all programs of its plan share. */
export function programSource(spec: Omit<ProgramSpec, "lanes">): ProgramSource {
  const { plan } = spec;
  const text = formatTransform(plan);
  return {
    key: JSON.stringify({ ...spec, plan: text }),
    build: (lanes) => buildProgram({ ...spec, lanes }),
    table: {
      key: text,
      size: stageTwiddles(plan).bytes / 4,
      write: (table, lanes) => writeTwiddles(table, plan, lanes),
    },
  };
}
