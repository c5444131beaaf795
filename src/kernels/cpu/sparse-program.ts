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
import type { Part, Run } from "../../plan/geometry.ts";
import type { Problem } from "../../plan/problem.ts";
import { stageFunctions } from "./butterflies.ts";
import { rowName, suffix } from "./function-names.ts";
import type { Sequence } from "./gapped-sequence.ts";
import { sequenceBetween, sequenceBytes } from "./gapped-sequence.ts";
import type { Int, KernelFunction, KernelModule, Statement } from "./ir.ts";
import { plus } from "./ir.ts";
import type { RowSink, RowSource } from "./load-store.ts";
import { sinkParameters } from "./load-store.ts";
import type { MiddleKind } from "./middle-stage.ts";
import { batchPlaces, middleShape } from "./middle-stage.ts";
import type { ProgramSource } from "./program-source.ts";
import { bodyFunctions, headFunctions, tailFunctions, tileCount } from "./stages.ts";
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
  readonly plan: TransformPlan;
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

const lines = (bytes: number): number => Math.ceil(bytes / 64) * 64;

/** Bytes of a factor's mask, after its twiddles: one float32 a point that is left. */
function maskBytes(plan: TransformPlan): number {
  return plan.sparse?.masked ? 4 * pointsLeft(plan) : 0;
}

function factorsOf({ parts, plans }: Pick<CyclicSpec, "parts" | "plans">): {
  readonly factors: readonly FactorCode[];
  readonly bytes: number;
  readonly spectrumBytes: number;
} {
  let points = 0;
  let spectrum = 0;
  let fold = plans.reduce((sum, plan) => sum + lines(transformBytes(plan)), 0);
  let table = 0;
  const factors = parts.map((part, i): FactorCode => {
    const plan = plans[i]!;
    const next = plans[i + 1];
    const sequence = next && { at: fold, ...sequenceBetween(plan, next) };
    const prefix = `f${i}_`;
    const factor = { part, plan, prefix, points, table, spectrum, fold: sequence };
    points += lines(transformBytes(plan));
    if (sequence) fold += lines(sequenceBytes(sequence, part.positions));
    spectrum += lines(8 * pointsLeft(plan));
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
  const { bytes, spectrumBytes } = factorsOf(spec);
  return { bytes, spectrumBytes };
}

const flags = [false, true] as const;

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

/** Builds the functions of all factors and those that call them in turn. */
class Composer {
  readonly functions: KernelFunction[] = [];
  readonly #factors: readonly FactorCode[];
  readonly #lanes: 1 | 4;

  constructor(factors: readonly FactorCode[], lanes: 1 | 4) {
    this.#factors = factors;
    this.#lanes = lanes;
    for (const factor of factors) this.#add(factor, stageFunctions(factor.plan, lanes));
    // Between factors go whole float32 sequences, whatever enters and leaves the first one.
    factors.slice(1).forEach((factor, i) => {
      const dtype = "float32" as const;
      const row = { pieces: factor.part.inputs, dtype, sequence: factors[i]!.fold! };
      const source: RowSource = { ...row, gated: false, fold: factor.fold };
      this.#add(factor, headFunctions(factor.plan, source, "chain", lanes));
      const plain = { gated: false, skip: false, second: false, accumulate: false };
      const sink: RowSink = { ...row, ...plain, rest: factor.fold };
      this.#add(factor, tailFunctions(factor.plan, sink, "chain", lanes));
    });
  }

  #add(factor: FactorCode, functions: readonly KernelFunction[]): void {
    this.functions.push(...within(factor, functions));
  }

  #export(name: string, parameters: readonly string[], body: readonly Statement[]): void {
    this.functions.push({ name, parameters, body, exported: true });
  }

  /** head_{id}(x, gate, z, table, from, to): a row into the transforms of all factors. */
  head(id: string, pieces: readonly Run[], dtype: Dtype, gated: boolean): void {
    const [first] = this.#factors;
    const source: RowSource = { pieces, dtype, gated, fold: first!.fold };
    this.#add(first!, headFunctions(first!.plan, source, id, this.#lanes));
    let x: Int = "x";
    const calls = this.#factors.map((factor, i): Statement => {
      const own = plus("z", factor.points);
      const fold = factor.fold ? [plus("z", factor.fold.at)] : [];
      const table = plus("table", factor.table);
      const to = tileCount(factor.plan);
      const name = `${factor.prefix}head_${i === 0 ? id : "chain"}`;
      const from = x;
      x = fold[0] ?? 0;
      return { op: "call", name, arguments: [from, "gate", own, ...fold, table, 0, to] };
    });
    this.#export(`head_${id}`, ["x", "gate", "z", "table", "from", "to"], calls);
  }

  /** body_{kind}(…pointers, table, from, to): the middles of all factors. */
  body(kind: MiddleKind): void {
    const { pointers } = middleShape(kind);
    const calls = this.#factors.map((factor): Statement => {
      const { plan, part } = factor;
      this.#add(factor, bodyFunctions(plan, kind, part.scale, this.#lanes));
      const own = pointers.map((p) => plus(p, p === "k" ? factor.spectrum : factor.points));
      const table = plus("table", factor.table);
      return { op: "call", name: `${factor.prefix}body_${kind}`, arguments: [...own, table, 0, 0] };
    });
    this.#export(`body_${kind}`, [...pointers, "table", "from", "to"], calls);
  }

  /** tail_{id}(z, …sinkParameters, table, from, to): the transforms of all factors back to a row. */
  tail(id: string, given: Omit<RowSink, "rest">): void {
    const [first] = this.#factors;
    const sink: RowSink = { ...given, rest: first!.fold };
    this.#add(first!, tailFunctions(first!.plan, sink, id, this.#lanes));
    const idle = sinkParameters.slice(1).map(() => 0);
    const calls = this.#factors.map((factor, i): Statement => {
      const own = plus("z", factor.points);
      const rest = factor.fold ? [plus("z", factor.fold.at)] : [];
      // A factor's result and all after it make up what the one before it left.
      const rows = i === 0 ? sinkParameters : [plus("z", this.#factors[i - 1]!.fold!.at), ...idle];
      const name = `${factor.prefix}tail_${i === 0 ? id : "chain"}`;
      const table = plus("table", factor.table);
      const to = tileCount(factor.plan);
      return { op: "call", name, arguments: [own, ...rows, ...rest, table, 0, to] };
    });
    const parameters = ["z", ...sinkParameters, "table", "from", "to"];
    this.#export(`tail_${id}`, parameters, calls.reverse());
  }

  /** row{u-suffix}{y-suffix}(u, pregate, z, k, y, postgate, skip, table): a whole row in one call. */
  row(pregate: boolean, postgate: boolean, skip: boolean): void {
    const [head, tail] = [`head_u${suffix(pregate)}`, `tail_y${suffix(postgate, skip)}`];
    const rows = ["y", "postgate", "u", "skip", 0, 0];
    const body: Statement[] = [
      { op: "call", name: head, arguments: ["u", "pregate", "z", "table", 0, 0] },
      { op: "call", name: "body_multiply", arguments: ["z", "k", "table", 0, 0] },
      { op: "call", name: tail, arguments: ["z", ...rows, "table", 0, 0] },
    ];
    const parameters = ["u", "pregate", "z", "k", "y", "postgate", "skip", "table"];
    this.#export(rowName(pregate, postgate, skip), parameters, body);
  }
}

function composeForward(c: Composer, { problem, parts, kernelDtype }: CyclicSpec): void {
  const { inputs, taps, outputs } = parts[0]!;
  const { dtype } = problem;
  c.head("k", taps, kernelDtype, false);
  c.body("compact");
  c.body("multiply");
  for (const gated of flags) c.head(`u${suffix(gated)}`, inputs, dtype, gated);
  const plain = { pieces: outputs, dtype, second: false, accumulate: false };
  for (const gated of flags)
    for (const skip of flags) c.tail(`y${suffix(gated, skip)}`, { ...plain, gated, skip });
  for (const pregate of flags)
    for (const postgate of flags) for (const skip of flags) c.row(pregate, postgate, skip);
}

function composeBackward(c: Composer, { problem, parts }: CyclicSpec): void {
  const { inputs, taps, outputs } = parts[0]!;
  const { dtype } = problem;
  for (const gated of flags) {
    c.head(`u${suffix(gated)}`, inputs, dtype, gated);
    c.head(`dy${suffix(gated)}`, outputs, dtype, gated);
  }
  for (const place of batchPlaces) {
    c.body(`gradients_${place}`);
    c.body(`gradients_${place}_gated`);
  }
  const plain = { gated: false, skip: false, second: false, accumulate: false };
  for (const gated of flags)
    for (const skip of flags) {
      const sink = { ...plain, pieces: inputs, dtype, gated, skip, second: gated };
      c.tail(`du${suffix(gated, skip)}`, sink);
    }
  c.tail("dpostgate", { ...plain, pieces: outputs, dtype, gated: true });
  c.tail("dk0", { ...plain, pieces: taps, dtype: "float32" });
}

/** All functions of a program, callees first. */
export function buildCyclic(spec: CyclicSpec, lanes: 1 | 4): KernelModule {
  const composer = new Composer(factorsOf(spec).factors, lanes);
  const compose = { forward: composeForward, backward: composeBackward };
  compose[spec.kind](composer, spec);
  return { lanes, functions: composer.functions };
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
