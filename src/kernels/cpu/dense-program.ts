/**
 * Problem and plan → the functions that a backend compiles: one program for spectra and forward calls, one for
 * backward calls, one for a level of a stream.
 */
import type { TransformPlan } from "../../plan/cpu/plan.ts";
import { formatTransform } from "../../plan/cpu/plan.ts";
import type { ConvolutionTypes } from "./convolution-functions.ts";
import { backwardFunctions, forwardFunctions } from "./convolution-functions.ts";
import type { KernelFunction, KernelModule } from "./ir.ts";
import type { ProgramSource } from "./program-source.ts";
import { TransformCode } from "./stages.ts";
import { stageTwiddles, writeTwiddles } from "./twiddles.ts";

/** What a program does. */
export type ProgramKind = "forward" | "backward" | "stream";

/** What determines a program's text. */
export interface ProgramSpec extends ConvolutionTypes {
  readonly kind: ProgramKind;
  readonly plan: TransformPlan;
  readonly lanes: 1 | 4;
}

/** A level of a stream: spectra of blocks and of taps are kept as they are, and sums of products scaled on their way back. */
function streamFunctions(code: TransformCode, { part, plan }: ProgramSpec): KernelFunction[] {
  const row = { dtype: "float32", gated: false } as const;
  const sink = { ...row, pieces: part.outputs, skip: false, second: false, accumulate: false };
  return [
    ...code.head("k", { ...row, pieces: part.taps }),
    ...code.head("u", { ...row, pieces: part.inputs }),
    ...code.body("spectrum", plan.points),
    ...(["product", "accumulate", "back"] as const).flatMap((kind) => code.body(kind)),
    ...code.tail("y", sink),
  ];
}

/** All functions of a program, callees first. */
export function buildProgram(spec: ProgramSpec): KernelModule {
  const { kind, plan, part, lanes } = spec;
  const code = new TransformCode(plan, part.scale, lanes);
  const own = {
    forward: () => forwardFunctions(code, spec, "spectrum"),
    backward: () => backwardFunctions(code, spec),
    stream: () => streamFunctions(code, spec),
  };
  return { lanes, functions: [...code.stages(), ...own[kind]()] };
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
