/**
 * The two ends of a convolution, where samples become transform points and back. The first stage is fused with
 * load–gate–widen–pad, the last inverse stage with narrow–gate–skip–store; what is zero is neither read nor computed.
 */

import type { Dtype } from "../../dtype.ts";
import { bytesPerSample } from "../../dtype.ts";
import { dft } from "../../math/codelet.ts";
import type { Complex, Node } from "../../math/expr.ts";
import { Graph } from "../../math/expr.ts";
import { root } from "../../math/roots.ts";
import type { TransformPlan } from "../../plan/cpu/plan.ts";
import { keptOutputs, layout } from "../../plan/cpu/plan.ts";
import type { Run } from "../../plan/geometry.ts";
import type { Sequence } from "./gapped-sequence.ts";
import { commonDivisor, gap, sequenceOffset } from "./gapped-sequence.ts";
import type { Int, KernelFunction, Statement, Store } from "./ir.ts";
import { loop, plus, times } from "./ir.ts";
import type { Feed, Segment } from "./placement.ts";
import { segments } from "./placement.ts";
import { quarterOf } from "./twiddles.ts";

/** A row that enters the transform: samples (times a gate) at their places. */
export interface RowSource {
  readonly pieces: readonly Run[];
  readonly dtype: Dtype;
  readonly gated: boolean;
  /** The sequence in work memory that the row is, where it is one. */
  readonly sequence?: Sequence;
  /** Also store what remains of the row modulo x^2M − 1, for the next factor of a cyclic transform. */
  readonly fold?: Sequence | undefined;
}

/** A row that leaves it. */
export interface RowSink {
  readonly pieces: readonly Run[];
  readonly dtype: Dtype;
  /** Multiply by a gate row. */
  readonly gated: boolean;
  /** Add skip · row, after the gate. */
  readonly skip: boolean;
  /** Also store the ungated value times another row: the gradient of a gate beside that of what it gates. */
  readonly second: boolean;
  /** Add to what is there, for samples that sit at two positions. */
  readonly accumulate: boolean;
  /** The sequence in work memory that the row is, where it is one. */
  readonly sequence?: Sequence;
  /** Add what the other factors of a cyclic transform come to, a sequence with the factor's period. */
  readonly rest?: Sequence | undefined;
}

/** Powers 1 … r−1 of the first stage's twiddle, e^{2πi·quarter/(4r)}, as constants: it has one block. */
function firstTwiddles(g: Graph, { radix, quarter }: EndStage): Complex[] {
  return Array.from({ length: radix - 1 }, (_, j) => {
    const w = root(quarter * (j + 1), 4 * radix);
    return { re: g.constant(w.re), im: g.constant(w.im) };
  });
}

/** Inputs of an inverse butterfly: those that are kept, from the first slots; zeros for the others. */
export function keptInputs(
  g: Graph,
  radix: number,
  kept: readonly number[],
  load: (slot: number) => Complex,
): Complex[] {
  return Array.from({ length: radix }, (_, j) => {
    const slot = kept.indexOf(j);
    return slot < 0 ? { re: g.constant(0), im: g.constant(0) } : load(slot);
  });
}

/** The first forward stage, which is also the last inverse one. */
interface EndStage {
  readonly radix: number;
  readonly quarter: 0 | 1;
  /** Outputs of the butterfly that are computed. */
  readonly kept: readonly number[];
  /** Columns of a slot. */
  readonly columns: number;
  readonly lanes: 1 | 4;
  /** Bytes between slots of the butterfly in the transform's memory. */
  readonly stride: number;
  readonly segments: readonly Segment[];
}

function endStage(plan: TransformPlan, pieces: readonly Run[], lanes: 1 | 4): EndStage {
  const top = layout(plan)[0]!;
  const radix = top.radices[0]!;
  return {
    radix,
    lanes,
    quarter: quarterOf(plan),
    kept: keptOutputs(plan, 0)[0]!,
    columns: plan.points / radix,
    stride: (top.rows / radix) * top.pitch,
    segments: segments(pieces, plan.points, radix, lanes),
  };
}

/** Whether any sample enters or leaves through a segment. */
function isFed(s: Segment): boolean {
  return s.slots.some((feeds) => feeds.length > 0);
}

/** Smallest sample offset used in a segment: pointers start there, so that all offsets are positive. */
function leastDelta(s: Segment): number {
  return Math.min(...s.slots.flat().map((f) => f.delta));
}

/** Position of a sequence that part `slot` of a butterfly has in column 0. */
function slotPosition(e: EndStage, slot: number): number {
  return ((slot >> 1) + (slot & 1) * e.radix) * e.columns;
}

/** A pointer to samples that runs with the columns of a segment. */
interface SamplePointer {
  readonly name: string;
  readonly bytes: number;
  readonly sequence?: Sequence | undefined;
  /** Position that column 0 has, at pointer offset 0. */
  readonly first: number;
}

/** Byte offset of sample `delta` from where the pointer starts. */
function sampleOffset({ bytes, sequence, first }: SamplePointer, delta: number): number {
  return sequence
    ? sequenceOffset(sequence, delta) - sequenceOffset(sequence, first)
    : (delta - first) * bytes;
}

/** A block over the columns of a segment that are among vectors [from, to) of the caller, at pointers that run with them. */
function overColumns(
  e: EndStage,
  s: Segment,
  rows: readonly SamplePointer[],
  block: Statement,
): Statement[] {
  const step = e.lanes * 8;
  const chunks = rows.map((r) => r.sequence?.chunk ?? 0);
  const piece = chunks.reduce(commonDivisor, 0) / e.lanes;
  const broken = piece > 0;
  const start: Int = broken ? "piece" : "from";
  const end: Int = broken ? { op: "min", a: plus("piece", piece), b: "to" } : "to";
  const low: Int = { op: "max", a: start, b: s.from };
  const high: Int = { op: "min", a: end, b: s.to };
  const at = (column: Int): Int => plus("z", times(plus(column, times("from", -1)), step));
  const begin = (r: SamplePointer): Int => {
    const column = plus(r.name, times("low", e.lanes * r.bytes));
    const chunk = r.sequence?.chunk ?? 0;
    const gaps: Int = chunk ? times({ op: "div", a: "low", by: chunk / e.lanes }, gap) : 0;
    return plus(plus(column, gaps), sampleOffset({ ...r, first: 0 }, r.first));
  };
  const pointers = rows.map((r) => ({
    ...{ name: `${r.name}p`, from: begin(r), step: e.lanes * r.bytes },
  }));
  const columns: Statement[] = [
    { op: "let", name: "low", value: low },
    { op: "let", name: "high", value: { op: "max", a: high, b: "low" } },
    loop("zp", at("low"), at("high"), step, [block], pointers, false),
  ];
  return broken ? [loop("piece", "from", "to", piece, columns, [], false)] : columns;
}

/** first(x, gate, z[, fold], from, to): columns [from, to) of the first forward stage; z is where column `from` of slot 0 lies. */
export function firstStage(
  plan: TransformPlan,
  source: RowSource,
  lanes: 1 | 4,
  name: string,
): KernelFunction {
  const e = endStage(plan, source.pieces, lanes);
  const bytes = bytesPerSample(source.dtype);
  const { fold, sequence } = source;
  const body = e.segments.flatMap((s) => {
    const g = new Graph();
    const x: SamplePointer = { name: "x", bytes, sequence, first: leastDelta(s) };
    const rows = [
      ...[x, ...(source.gated ? [{ ...x, name: "gate" }] : [])].filter(() => isFed(s)),
      ...(fold ? [{ name: "fold", bytes: 4, sequence: fold, first: 0 }] : []),
    ];
    const load = (f: Feed): Node => {
      const offset = sampleOffset(x, f.delta);
      const sample = g.load({ pointer: "xp", offset }, source.dtype, f.first, f.last);
      const gate = source.gated
        ? g.load({ pointer: "gatep", offset }, source.dtype, f.first, f.last)
        : g.constant(1);
      return g.mul(sample, gate);
    };
    const sum = (terms: readonly Node[]): Node =>
      terms.reduce((a, b) => g.add(a, b), g.constant(0));
    const part = (feeds: readonly Feed[]): Node =>
      sum(feeds.map((f) => (f.sign > 0 ? load(f) : g.neg(load(f)))));
    const w = firstTwiddles(g, e);
    const inputs = Array.from({ length: e.radix }, (_, j) => {
      const a = { re: part(s.slots[2 * j]!), im: part(s.slots[2 * j + 1]!) };
      return j === 0 ? a : g.cmul(a, w[j - 1]!);
    });
    const outputs = dft(g, inputs, 1);
    const folds = fold
      ? s.slots.map((feeds, slot): Store => {
          const at = { pointer: "foldp", offset: sequenceOffset(fold, slotPosition(e, slot)) };
          return { at, format: "float32", value: sum(feeds.map(load)), first: 0, last: lanes };
        })
      : [];
    const stores = e.kept.flatMap((j, slot) =>
      storeComplex("zp", slot * e.stride, outputs[j]!, lanes),
    );
    return overColumns(e, s, rows, { op: "block", stores: [...stores, ...folds] });
  });
  const parameters = ["x", "gate", "z", ...(fold ? ["fold"] : []), "from", "to"];
  return { name, parameters, exported: false, body };
}

/** Split complex vector: real lanes, then imaginary lanes. */
export function storeComplex(pointer: string, offset: number, v: Complex, lanes: 1 | 4): Store[] {
  const store = (at: number, value: Node): Store => ({
    at: { pointer, offset: at },
    format: "float32",
    value,
    first: 0,
    last: lanes,
  });
  return [store(offset, v.re), store(offset + 4 * lanes, v.im)];
}

/** `copy` tells apart loads of the same place that are meant to be made twice. */
export function loadComplex(
  g: Graph,
  pointer: string,
  offset: number,
  lanes: 1 | 4,
  copy = 0,
): Complex {
  return {
    re: g.load({ pointer, offset, copy }, "float32", 0, lanes),
    im: g.load({ pointer, offset: offset + 4 * lanes, copy }, "float32", 0, lanes),
  };
}

/** Parameters of a sink's functions after z: pointers to its rows; those that a variant does not use are ignored. */
export const sinkParameters = ["y", "gate", "u", "skip", "y2", "gate2"] as const;

/** last(z, …sinkParameters[, rest], from, to): columns [from, to) of the last inverse stage, stored as samples. */
export function lastStage(
  plan: TransformPlan,
  sink: RowSink,
  lanes: 1 | 4,
  name: string,
): KernelFunction {
  const e = endStage(plan, sink.pieces, lanes);
  const bytes = bytesPerSample(sink.dtype);
  const { rest, sequence } = sink;
  const names = [
    "y",
    ...(sink.gated ? ["gate"] : []),
    ...(sink.skip ? ["u"] : []),
    ...(sink.second ? ["y2", "gate2"] : []),
  ];
  const body = e.segments.flatMap((s) => {
    if (!isFed(s)) return [];
    const g = new Graph();
    const y: SamplePointer = { name: "y", bytes, sequence, first: leastDelta(s) };
    const rows = [
      ...names.map((name) => ({ ...y, name })),
      ...(rest ? [{ name: "rest", bytes: 4, sequence: rest, first: 0 }] : []),
    ];
    const w = firstTwiddles(g, e);
    const inputs = keptInputs(g, e.radix, e.kept, (slot) =>
      loadComplex(g, "zp", slot * e.stride, lanes),
    );
    const outputs = dft(g, inputs, -1).map((v, j) => (j === 0 ? v : g.cmulConj(v, w[j - 1]!)));
    const stores = s.slots.flatMap((feeds, slot) =>
      feeds.flatMap((f): Store[] => {
        const offset = sampleOffset(y, f.delta);
        const v = outputs[slot >> 1]!;
        const part = slot & 1 ? v.im : v.re;
        const own = f.sign > 0 ? part : g.neg(part);
        const others = (at: Sequence): Node => {
          const place = sequenceOffset(at, slotPosition(e, slot));
          return g.load({ pointer: "restp", offset: place }, "float32", 0, lanes);
        };
        const whole = rest ? g.add(own, others(rest)) : own;
        let value = whole;
        const load = (pointer: string): Node =>
          g.load({ pointer, offset }, sink.dtype, f.first, f.last);
        if (sink.gated) value = g.mul(value, load("gatep"));
        if (sink.skip)
          value = g.fma(
            load("up"),
            g.load({ pointer: "skip", offset: 0 }, "splat", 0, lanes),
            value,
          );
        const store = (pointer: string, v: Node): Store => {
          const sum = sink.accumulate ? g.add(v, load(pointer)) : v;
          const { first, last } = f;
          return { at: { pointer, offset }, format: sink.dtype, value: sum, first, last };
        };
        const second = sink.second ? [store("y2p", g.mul(whole, load("gate2p")))] : [];
        return [store("yp", value), ...second];
      }),
    );
    return overColumns(e, s, rows, { op: "block", stores });
  });
  const parameters = ["z", ...sinkParameters, ...(rest ? ["rest"] : []), "from", "to"];
  return { name, parameters, exported: false, body };
}
