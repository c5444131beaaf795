/**
 * Problem and plan → the functions that a backend compiles: one program for spectra and forward calls, one for
 * backward calls. Gates and skip are variants of the ends by name; everything between the ends is shared.
 */
import type { Dtype } from "../dtype.ts";
import type { Part, Run } from "../plan/geometry.ts";
import { apartBySample } from "../plan/geometry.ts";
import type { TransformPlan } from "../plan/plan.ts";
import { formatTransform } from "../plan/plan.ts";
import type { Sink, Source } from "./ends.ts";
import type { KernelFunction, KernelModule, Statement } from "./ir.ts";
import { batchPlaces } from "./middle.ts";
import type { Piece } from "./placement.ts";
import type { ProgramSource } from "./source.ts";
import { rowName, suffix } from "./suffix.ts";
import { twiddleTable } from "./tables.ts";
import {
  bodyCount,
  bodyFunctions,
  headFunctions,
  stageFunctions,
  tailFunctions,
  tileCount,
} from "./transform.ts";

/** What a program does. */
export type ProgramKind = "forward" | "backward";

/** What determines a program's text. */
export interface ProgramSpec {
  readonly kind: ProgramKind;
  readonly part: Part;
  /** Parts after the first add their results to what the first has stored. */
  readonly adds: boolean;
  readonly plan: TransformPlan;
  /** Storage of u, y and the gates. */
  readonly dtype: Dtype;
  /** Storage of k as given; its gradient is float32. */
  readonly kernelDtype: Dtype;
  readonly lanes: 1 | 4;
}

const flags = [false, true] as const;

/** Where runs lie among 2·points positions. */
function pieces(runs: readonly Run[], points: number): Piece[] {
  return runs.map((r) =>
    r.position < 0
      ? { ...r, position: 2 * points + r.position, sign: r.sign === 1 ? -1 : 1 }
      : { ...r },
  );
}

function forwardFunctions(spec: ProgramSpec): KernelFunction[] {
  const { part, plan, dtype, lanes, adds } = spec;
  const place = (runs: readonly Run[]): Piece[] => pieces(runs, plan.points);
  const u = place(part.inputs);
  const y = place(part.outputs);
  const taps: Source = { pieces: place(part.taps), dtype: spec.kernelDtype, gated: false };
  const heads = flags.flatMap((gated) =>
    headFunctions(plan, { pieces: u, dtype, gated }, `u${suffix(gated)}`, lanes),
  );
  const tails = flags.flatMap((gated) =>
    flags.flatMap((skip) => {
      const sink: Sink = { pieces: y, dtype, gated, skip, second: false, accumulate: adds };
      return tailFunctions(plan, sink, `y${suffix(gated, skip)}`, lanes);
    }),
  );
  return [
    ...headFunctions(plan, taps, "k", lanes),
    ...bodyFunctions(plan, "spectrum", part.scale, lanes),
    ...heads,
    ...bodyFunctions(plan, "multiply", part.scale, lanes),
    ...tails,
    ...rowFunctions(plan, lanes),
  ];
}

function backwardFunctions(spec: ProgramSpec): KernelFunction[] {
  const { part, plan, dtype, lanes, adds } = spec;
  const place = (runs: readonly Run[]): Piece[] => pieces(runs, plan.points);
  const u = place(part.inputs);
  const dy = place(part.outputs);
  const heads = flags.flatMap((gated) => [
    ...headFunctions(plan, { pieces: u, dtype, gated }, `u${suffix(gated)}`, lanes),
    ...headFunctions(plan, { pieces: dy, dtype, gated }, `dy${suffix(gated)}`, lanes),
  ]);
  const du = flags.flatMap((gated) =>
    flags.flatMap((skip) => {
      const sink: Sink = { pieces: u, dtype, gated, skip, second: gated, accumulate: adds };
      return tailFunctions(plan, sink, `du${suffix(gated, skip)}`, lanes);
    }),
  );
  const plain = { gated: false, skip: false, second: false, accumulate: adds };
  const dpostgate: Sink = { ...plain, pieces: dy, dtype, gated: true };
  const dk = apartBySample(part.taps).flatMap((runs, i) => {
    const sink: Sink = {
      ...plain,
      pieces: place(runs),
      dtype: "float32",
      accumulate: adds || i > 0,
    };
    return tailFunctions(plan, sink, `dk${i}`, lanes, i === 0);
  });
  return [
    ...heads,
    ...batchPlaces.flatMap((at) => [
      ...bodyFunctions(plan, `gradients_${at}`, part.scale, lanes),
      ...bodyFunctions(plan, `gradients_${at}_gated`, part.scale, lanes),
    ]),
    ...du,
    ...tailFunctions(plan, dpostgate, "dpostgate", lanes),
    ...dk,
  ];
}

/**
 * row{u-suffix}{y-suffix}(u, pregate, z, k, y, postgate, skip, table): a whole row in one call, head, body and tail. From
 * JavaScript the three calls and what stands between them cost 0.3 µs, a tenth of a row of 1,024 samples.
 */
function rowFunctions(plan: TransformPlan, lanes: 1 | 4): KernelFunction[] {
  const tiles = tileCount(plan);
  const bodies = bodyCount(plan, lanes);
  return flags.flatMap((pregate) =>
    flags.flatMap((postgate) =>
      flags.map((skip): KernelFunction => {
        const [head, tail] = [`head_u${suffix(pregate)}`, `tail_y${suffix(postgate, skip)}`];
        const body: Statement[] = [
          { op: "call", name: head, arguments: ["u", "pregate", "z", "table", 0, tiles] },
          { op: "call", name: "body_multiply", arguments: ["z", "k", "table", 0, bodies] },
          {
            op: "call",
            name: tail,
            arguments: ["z", "y", "postgate", "u", "skip", 0, 0, "table", 0, tiles],
          },
        ];
        const parameters = ["u", "pregate", "z", "k", "y", "postgate", "skip", "table"];
        return { name: rowName(pregate, postgate, skip), parameters, exported: true, body };
      }),
    ),
  );
}

/** All functions of a program, callees first. */
export function buildProgram(spec: ProgramSpec): KernelModule {
  const ends = spec.kind === "forward" ? forwardFunctions(spec) : backwardFunctions(spec);
  return { lanes: spec.lanes, functions: [...stageFunctions(spec.plan, spec.lanes), ...ends] };
}

/** The program of a convolution's part, with the twiddles that all programs of its plan share. */
export function programSource(spec: Omit<ProgramSpec, "lanes">): ProgramSource {
  const { plan } = spec;
  const text = formatTransform(plan);
  return {
    key: JSON.stringify({ ...spec, plan: text }),
    build: (lanes) => buildProgram({ ...spec, lanes }),
    table: { key: text, values: (lanes) => twiddleTable(plan, lanes) },
  };
}
