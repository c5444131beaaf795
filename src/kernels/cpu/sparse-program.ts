/**
 * Programs of frequency-sparse convolutions: the factors of an exact cyclic transform behind the same functions that one
 * part's program exports, so that backends run both alike. A row enters the longest factor, which folds it and leaves what
 * remains to the next one; on the way back each factor adds its own to what the ones after it have come to.
 */
import type { Dtype } from "../../dtype.ts";
import type { TransformPlan } from "../../plan/cpu/plan.ts";
import {
  formatPlan,
  keptOutputs,
  lastOutputs,
  pointsLeft,
  transformBytes,
} from "../../plan/cpu/plan.ts";
import { ringMask } from "../../plan/cpu/sparse.ts";
import { keptRuns } from "../../plan/frequencies.ts";
import type { Part } from "../../plan/geometry.ts";
import type { Problem } from "../../plan/problem.ts";
import type { TransformFunctions } from "./convolution-functions.ts";
import { backwardFunctions, forwardFunctions } from "./convolution-functions.ts";
import type { HeadId, TailId } from "./function-names.ts";
import { exported } from "./function-names.ts";
import type { Sequence } from "./gapped-sequence.ts";
import { sequenceBetween, sequenceBytes, wholeLines } from "./gapped-sequence.ts";
import type { Int, KernelFunction, KernelModule, Statement } from "./ir.ts";
import { call, plus } from "./ir.ts";
import type { RowSink, RowSource } from "./load-store.ts";
import { sinkParameters } from "./load-store.ts";
import type { MiddleKind } from "./middle-stage.ts";
import { middleShape } from "./middle-stage.ts";
import type { ProgramSource } from "./program-source.ts";
import { TransformCode } from "./stages.ts";
import { stageTwiddles, writeTwiddles } from "./twiddles.ts";

/** What determines a program's text. */
export interface CyclicSpec {
  readonly kind: "forward" | "backward";
  readonly problem: Problem;
  /** The factors, longest first, and their transforms. */
  readonly parts: readonly Part[];
  readonly plans: readonly TransformPlan[];
  /** Storage of k as given; its gradient is float32. */
  readonly kernelDtype: Dtype;
}

/** One factor: its transform, its place in work memory and tables, and how its functions are told apart. */
interface FactorCode {
  readonly part: Part;
  readonly code: TransformCode;
  readonly prefix: string;
  /** Bytes from the start of a transform's memory to this one's points. */
  readonly points: number;
  /** The sequence that it leaves to the next factor, so many bytes on; undefined for the last one. */
  readonly fold: (Sequence & { readonly at: number }) | undefined;
  /** Bytes to its twiddles. */
  readonly table: number;
  /** Bytes to its points in the kernel's spectrum. */
  readonly spectrum: number;
}

/** Bytes of a factor's mask, after its twiddles: one float32 a point that is left. */
function maskBytes(plan: TransformPlan): number {
  return plan.sparse?.masked ? 4 * pointsLeft(plan) : 0;
}

function factorsOf(
  { parts, plans }: Pick<CyclicSpec, "parts" | "plans">,
  lanes: 1 | 4,
): {
  readonly factors: readonly FactorCode[];
  readonly bytes: number;
  readonly spectrumBytes: number;
} {
  let points = 0;
  let spectrum = 0;
  let fold = plans.reduce((sum, plan) => sum + wholeLines(transformBytes(plan)), 0);
  let table = 0;
  const factors = parts.map((part, i): FactorCode => {
    const plan = plans[i]!;
    const next = plans[i + 1];
    const sequence = next && { at: fold, ...sequenceBetween(plan, next) };
    const prefix = `f${i}_`;
    const code = new TransformCode(plan, part.scale, lanes);
    const factor = { part, code, prefix, points, table, spectrum, fold: sequence };
    points += wholeLines(transformBytes(plan));
    if (sequence) fold += wholeLines(sequenceBytes(sequence, part.positions));
    spectrum += wholeLines(8 * pointsLeft(plan));
    table += stageTwiddles(plan).bytes + maskBytes(plan);
    return factor;
  });
  return { factors, bytes: fold, spectrumBytes: spectrum };
}

/** Bytes of work memory that the factors of a row take, with the sequences between them, and of a kernel's spectrum. */
export function cyclicBytes(spec: Pick<CyclicSpec, "parts" | "plans">): {
  readonly bytes: number;
  readonly spectrumBytes: number;
} {
  const { bytes, spectrumBytes } = factorsOf(spec, 4);
  return { bytes, spectrumBytes };
}

/** Functions of one factor: names and the calls among them with its prefix, for this module only. */
function within({ prefix }: FactorCode, functions: readonly KernelFunction[]): KernelFunction[] {
  const rename = (s: Statement): Statement => {
    if (s.op === "call") return { ...s, name: prefix + s.name };
    return s.op === "loop" ? { ...s, body: s.body.map(rename) } : s;
  };
  return functions.map((f) => ({
    ...f,
    name: prefix + f.name,
    exported: false,
    body: f.body.map(rename),
  }));
}

/** The functions of all factors, and those that call them in turn. They do all of a transform: ranges are ignored. */
class FactorFunctions implements TransformFunctions {
  readonly tiles = 0;
  readonly bodies = 0;
  readonly #factors: readonly FactorCode[];

  constructor(factors: readonly FactorCode[]) {
    this.#factors = factors;
  }

  /** Stages, and the ends between factors: there go whole float32 sequences, whatever enters and leaves the first one. */
  shared(): KernelFunction[] {
    const stages = this.#factors.flatMap((f) => within(f, f.code.stages()));
    const chains = this.#factors.slice(1).flatMap((factor, i) => {
      const { code, part, fold } = factor;
      const sequence = this.#factors[i]!.fold!;
      const row = { pieces: part.inputs, dtype: "float32", gated: false, sequence } as const;
      const sink = { ...row, skip: false, second: false, accumulate: false, rest: fold };
      return within(factor, [...code.head("chain", { ...row, fold }), ...code.tail("chain", sink)]);
    });
    return [...stages, ...chains];
  }

  /** Calls of each factor's own function: the first factor's is named after `id`. */
  #calls(
    name: (id: string) => string,
    id: string,
    pointers: (factor: FactorCode, before: FactorCode | undefined) => readonly Int[],
    tiles: (factor: FactorCode) => number,
  ): Statement[] {
    return this.#factors.map((factor, i) => {
      const own = factor.prefix + name(i === 0 ? id : "chain");
      const rows = pointers(factor, this.#factors[i - 1]);
      return call(own, ...rows, plus("table", factor.table), 0, tiles(factor));
    });
  }

  /** head_{id}(x, gate, z, table, from, to): a row into the transforms of all factors. */
  head(id: HeadId, source: RowSource): KernelFunction[] {
    const first = this.#factors[0]!;
    const pointers = (factor: FactorCode, before: FactorCode | undefined): Int[] => [
      before ? foldOf(before)[0]! : "x",
      ...["gate", plus("z", factor.points), ...foldOf(factor)],
    ];
    const calls = this.#calls(
      (n) => `head_${n}`,
      id,
      pointers,
      ({ code }) => code.tiles,
    );
    return [
      ...within(first, first.code.head(id, { ...source, fold: first.fold })),
      exported(`head_${id}`, ["x", "gate", "z", "table", "from", "to"], calls),
    ];
  }

  /** body_{kind}(…pointers, table, from, to): the middles of all factors. */
  body(kind: MiddleKind): KernelFunction[] {
    const { pointers } = middleShape(kind);
    const own = this.#factors.flatMap((factor) => within(factor, factor.code.body(kind)));
    const places = ({ spectrum, points }: FactorCode): Int[] =>
      pointers.map((p) => plus(p, p === "k" ? spectrum : points));
    const calls = this.#calls(
      () => `body_${kind}`,
      "",
      places,
      () => 0,
    );
    return [...own, exported(`body_${kind}`, [...pointers, "table", "from", "to"], calls)];
  }

  /** tail_{id}(z, …sinkParameters, table, from, to): the transforms of all factors back to a row. */
  tail(id: TailId, sink: RowSink): KernelFunction[] {
    const first = this.#factors[0]!;
    const idle = sinkParameters.slice(1).map(() => 0);
    // A factor's result and all after it make up what the one before it left.
    const pointers = (factor: FactorCode, before: FactorCode | undefined): Int[] => [
      plus("z", factor.points),
      ...(before ? [...foldOf(before), ...idle] : sinkParameters),
      ...foldOf(factor),
    ];
    const calls = this.#calls(
      (n) => `tail_${n}`,
      id,
      pointers,
      ({ code }) => code.tiles,
    );
    const parameters = ["z", ...sinkParameters, "table", "from", "to"];
    return [
      ...within(first, first.code.tail(id, { ...sink, rest: first.fold })),
      exported(`tail_${id}`, parameters, calls.reverse()),
    ];
  }
}

/** Pointer to the sequence that a factor leaves to the next one, if there is one. */
function foldOf({ fold }: FactorCode): Int[] {
  return fold ? [plus("z", fold.at)] : [];
}

/** All functions of a program, callees first. */
export function buildCyclic(spec: CyclicSpec, lanes: 1 | 4): KernelModule {
  const { kind, problem, parts, kernelDtype } = spec;
  const make = new FactorFunctions(factorsOf(spec, lanes).factors);
  const types = { part: parts[0]!, dtype: problem.dtype, kernelDtype, adds: false };
  const own =
    kind === "forward" ? forwardFunctions(make, types, "compact") : backwardFunctions(make, types);
  return { lanes, functions: [...make.shared(), ...own] };
}

/** Low digits of the frequencies of the sub-blocks of 4 points that are left, in the order of memory. */
function leftBlocks(plan: TransformPlan): Uint32Array {
  let blocks = Uint32Array.of(0);
  let splits = 1;
  plan.levels.forEach((level, i) => {
    const kept = keptOutputs(plan, i);
    level.radices.forEach((radix, s) => {
      const outputs = kept[s]!;
      const finer = new Uint32Array(blocks.length * outputs.length);
      for (let b = 0, at = 0; b < blocks.length; b++)
        for (const j of outputs) finer[at++] = blocks[b]! + splits * j;
      blocks = finer;
      splits *= radix;
    });
  });
  return blocks;
}

/** Write 1 or 0 for each point that is left, in the order of the middle: the same point of `lanes` sub-blocks side by side. */
function writeMask(table: Float32Array, plan: TransformPlan, mask: Uint8Array, lanes: 1 | 4): void {
  const blocks = leftBlocks(plan);
  const splits = plan.points / 4;
  const kept = lastOutputs(plan);
  let at = 0;
  for (let group = 0; group < blocks.length; group += lanes) {
    for (const digit of kept) {
      for (let lane = 0; lane < lanes; lane++)
        table[at++] = mask[blocks[group + lane]! + splits * digit]!;
    }
  }
}

/** The program of a frequency-sparse convolution. */
export function cyclicSource(spec: CyclicSpec): ProgramSource {
  const { parts, plans, problem } = spec;
  const text = formatPlan(plans);
  const { frequencies } = problem;
  const sizes = plans.map((plan) => (stageTwiddles(plan).bytes + maskBytes(plan)) / 4);
  const write = (table: Float32Array, lanes: 1 | 4): void => {
    const bins = frequencies ? keptRuns(frequencies) : [];
    let at = 0;
    plans.forEach((plan, i) => {
      const own = table.subarray(at, at + sizes[i]!);
      writeTwiddles(own, plan, lanes);
      if (plan.sparse?.masked) {
        const mask = ringMask(parts[i]!, bins, frequencies!.period);
        writeMask(own.subarray(stageTwiddles(plan).bytes / 4), plan, mask, lanes);
      }
      at += sizes[i]!;
    });
  };
  return {
    key: JSON.stringify({ ...spec, plans: text }),
    build: (lanes) => buildCyclic(spec, lanes),
    table: {
      key: JSON.stringify({ frequencies, text }),
      size: sizes.reduce((a, b) => a + b, 0),
      write,
    },
  };
}
