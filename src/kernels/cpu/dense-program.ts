/**
 * Problem and plan → the functions that a backend compiles: one program for spectra and forward calls, one for
 * backward calls. Gates and skip are variants of the ends by name; everything between the ends is shared.
 */
import type { Dtype } from "../../dtype.ts";
import type { TransformPlan } from "../../plan/cpu/plan.ts";
import { formatTransform } from "../../plan/cpu/plan.ts";
import type { Part, Run } from "../../plan/geometry.ts";
import { apartBySample, gradientPart } from "../../plan/geometry.ts";
import { stageFunctions } from "./butterflies.ts";
import { rowName, suffix } from "./function-names.ts";
import type { KernelFunction, KernelModule, Statement } from "./ir.ts";
import type { RowSink, RowSource } from "./load-store.ts";
import type { MiddleKind } from "./middle-stage.ts";
import { batchPlaces } from "./middle-stage.ts";
import type { PlacedPiece } from "./placement.ts";
import type { ProgramSource } from "./program-source.ts";
import { bodyCount, bodyFunctions, headFunctions, tailFunctions, tileCount } from "./stages.ts";
import { stageTwiddles, writeTwiddles } from "./twiddles.ts";

/** What a program does. */
export type ProgramKind = "forward" | "backward" | "stream";

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

/** copy(to, from, bytes) and clear(at, bytes): for blocks that reach over an end of their row. */
export const moveFunctions: readonly KernelFunction[] = [
  {
    ...{ name: "copy", parameters: ["to", "from", "bytes"], exported: true },
    body: [{ op: "copy", to: "to", from: "from", bytes: "bytes" }],
  },
  {
    ...{ name: "clear", parameters: ["at", "bytes"], exported: true },
    body: [{ op: "clear", at: "at", bytes: "bytes" }],
  },
];

/** Where runs lie among 2·points positions. */
function pieces(runs: readonly Run[], points: number): PlacedPiece[] {
  return runs.map((r) =>
    r.position < 0
      ? { ...r, position: 2 * points + r.position, sign: r.sign === 1 ? -1 : 1 }
      : { ...r },
  );
}

function forwardFunctions(spec: ProgramSpec): KernelFunction[] {
  const { part, plan, dtype, lanes, adds } = spec;
  const place = (runs: readonly Run[]): PlacedPiece[] => pieces(runs, plan.points);
  const u = place(part.inputs);
  const y = place(part.outputs);
  const taps: RowSource = { pieces: place(part.taps), dtype: spec.kernelDtype, gated: false };
  const heads = flags.flatMap((gated) =>
    headFunctions(plan, { pieces: u, dtype, gated }, `u${suffix(gated)}`, lanes),
  );
  const tails = flags.flatMap((gated) =>
    flags.flatMap((skip) => {
      const sink: RowSink = { pieces: y, dtype, gated, skip, second: false, accumulate: adds };
      return tailFunctions(plan, sink, `y${suffix(gated, skip)}`, lanes);
    }),
  );
  return [
    ...headFunctions(plan, taps, "k", lanes),
    ...bodyFunctions(plan, "spectrum", part.scale, lanes),
    ...heads,
    ...bodyFunctions(plan, "multiply", part.scale, lanes),
    ...tails,
    ...(part.blocks ? moveFunctions : []),
    ...rowFunctions(plan, lanes),
  ];
}

/**
 * Bodies of a backward program. Blocks add to a sum of their own, and sums meet before they come back, so that blocks
 * may go to any thread; the gradient of a gate behind blocks is a forward call.
 */
function gradientBodies({ part, plan, lanes }: ProgramSpec): KernelFunction[] {
  const kinds: MiddleKind[] = part.blocks
    ? ["gradients_first", "gradients_inner", "add", "back"]
    : batchPlaces.flatMap((at) => [`gradients_${at}` as const, `gradients_${at}_gated` as const]);
  return kinds.flatMap((kind) => bodyFunctions(plan, kind, part.scale, lanes));
}

function backwardFunctions(spec: ProgramSpec): KernelFunction[] {
  const { plan, dtype, lanes, adds } = spec;
  const part = gradientPart(spec.part);
  const place = (runs: readonly Run[]): PlacedPiece[] => pieces(runs, plan.points);
  const u = place(part.inputs);
  const dy = place(part.outputs);
  const heads = flags.flatMap((gated) => [
    ...headFunctions(plan, { pieces: u, dtype, gated }, `u${suffix(gated)}`, lanes),
    ...headFunctions(plan, { pieces: dy, dtype, gated }, `dy${suffix(gated)}`, lanes),
  ]);
  const du = flags.flatMap((gated) =>
    flags.flatMap((skip) => {
      const sink: RowSink = { pieces: u, dtype, gated, skip, second: gated, accumulate: adds };
      return tailFunctions(plan, sink, `du${suffix(gated, skip)}`, lanes);
    }),
  );
  const plain = { gated: false, skip: false, second: false, accumulate: adds };
  const dpostgate: RowSink = { ...plain, pieces: dy, dtype, gated: true };
  const dk = apartBySample(part.taps).flatMap((runs, i) => {
    const sink: RowSink = {
      ...plain,
      pieces: place(runs),
      dtype: "float32",
      accumulate: adds || i > 0,
    };
    return tailFunctions(plan, sink, `dk${i}`, lanes, i === 0);
  });
  return [
    ...heads,
    ...gradientBodies(spec),
    ...(part.blocks ? moveFunctions : []),
    ...du,
    ...(part.blocks ? [] : tailFunctions(plan, dpostgate, "dpostgate", lanes)),
    ...dk,
  ];
}

/** A level of a stream: spectra of blocks and of taps are kept as they are, and sums of products scaled on their way back. */
function streamFunctions({ part, plan, lanes }: ProgramSpec): KernelFunction[] {
  const source = (runs: readonly Run[]): RowSource => ({
    ...{ pieces: pieces(runs, plan.points), dtype: "float32", gated: false },
  });
  const plain = { gated: false, skip: false, second: false, accumulate: false };
  const y: RowSink = { ...plain, pieces: pieces(part.outputs, plan.points), dtype: "float32" };
  return [
    ...headFunctions(plan, source(part.taps), "k", lanes),
    ...headFunctions(plan, source(part.inputs), "u", lanes),
    ...bodyFunctions(plan, "spectrum", plan.points, lanes),
    ...(["product", "accumulate", "back"] as const).flatMap((kind) =>
      bodyFunctions(plan, kind, part.scale, lanes),
    ),
    ...tailFunctions(plan, y, "y", lanes),
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
  const functions = {
    forward: forwardFunctions,
    backward: backwardFunctions,
    stream: streamFunctions,
  };
  const ends = functions[spec.kind](spec);
  return { lanes: spec.lanes, functions: [...stageFunctions(spec.plan, spec.lanes), ...ends] };
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
