/**
 * The two ends of a convolution, where samples become transform points and back. The first stage is fused with
 * load–gate–widen–pad, the last inverse stage with narrow–gate–skip–store; what is zero is neither read nor computed.
 */

import type { Dtype } from "../dtype.ts";
import { bytesPerSample } from "../dtype.ts";
import { dft } from "../math/codelet.ts";
import type { Complex, Node } from "../math/expr.ts";
import { Graph } from "../math/expr.ts";
import { root } from "../math/twiddle.ts";
import type { TransformPlan } from "../plan/plan.ts";
import { keptOutputs, layout } from "../plan/plan.ts";
import type { Int, KernelFunction, Statement, Store } from "./ir.ts";
import { plus, times } from "./ir.ts";
import type { Feed, Piece, Segment } from "./placement.ts";
import { segments } from "./placement.ts";
import { quarterOf } from "./tables.ts";

/** A row that enters the transform: samples (times a gate) at their places. */
export interface Source {
  readonly pieces: readonly Piece[];
  readonly dtype: Dtype;
  readonly gated: boolean;
  /** Also store what remains of the row modulo x^2M − 1, float32, for the next factor of a cyclic transform. */
  readonly fold?: boolean;
}

/** A row that leaves it. */
export interface Sink {
  readonly pieces: readonly Piece[];
  readonly dtype: Dtype;
  /** Multiply by a gate row. */
  readonly gated: boolean;
  /** Add skip · row, after the gate. */
  readonly skip: boolean;
  /** Also store the ungated value times another row: the gradient of a gate beside that of what it gates. */
  readonly second: boolean;
  /** Add to what is there, for samples that sit at two positions. */
  readonly accumulate: boolean;
  /** Add what the other factors of a cyclic transform come to, a float32 sequence with the factor's period. */
  readonly rest?: boolean;
}

/** Powers 1 … r−1 of the first stage's twiddle, e^{2πi·quarter/(4r)}, as constants: it has one block. */
function firstTwiddles(g: Graph, { radix, quarter }: End): Complex[] {
  return Array.from({ length: radix - 1 }, (_, j) => {
    const w = root(quarter * (j + 1), 4 * radix);
    return { re: g.constant(w.re), im: g.constant(w.im) };
  });
}

/** Inputs of an inverse butterfly: those that are kept, from the first slots; zeros for the others. */
export function spread(
  g: Graph,
  radix: number,
  kept: readonly number[],
  load: (slot: number) => Complex,
): Complex[] {
  const zero = { re: g.constant(0), im: g.constant(0) };
  const inputs = new Array<Complex>(radix).fill(zero);
  kept.forEach((j, slot) => {
    inputs[j] = load(slot);
  });
  return inputs;
}

interface End {
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

function end(plan: TransformPlan, pieces: readonly Piece[], lanes: 1 | 4): End {
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

/** Smallest sample offset used in a segment: pointers start there, so that all offsets are positive. */
function leastDelta(s: Segment): number {
  return Math.min(...s.slots.flat().map((f) => f.delta));
}

/** Sequence position, in float32 bytes, that part `slot` of a butterfly has in column 0. */
function slotBytes(e: End, slot: number): number {
  return 4 * ((slot >> 1) + (slot & 1) * e.radix) * e.columns;
}

/** Pointers that run with the columns of a segment, clipped to vectors [from, to) of the caller. */
function clipped(
  e: End,
  s: Segment,
  rows: readonly { readonly name: string; readonly bytes: number }[],
  /** Sequences whose position is the column, whatever samples the segment takes. */
  sequences: readonly string[],
  block: Statement,
): Statement[] {
  const step = e.lanes * 8;
  const least = s.slots.some((f) => f.length > 0) ? leastDelta(s) : 0;
  const low: Int = { op: "max", a: "from", b: s.from };
  const high: Int = { op: "min", a: "to", b: s.to };
  const at = (column: Int): Int => plus("z", times(plus(column, times("from", -1)), step));
  return [
    { op: "let", name: "low", value: low },
    { op: "let", name: "high", value: { op: "max", a: high, b: "low" } },
    {
      op: "loop",
      variable: "zp",
      from: at("low"),
      end: at("high"),
      step,
      nonempty: false,
      also: [
        ...rows.map((r) => ({
          name: `${r.name}p`,
          from: plus(r.name, plus(times("low", e.lanes * r.bytes), least * r.bytes)),
          step: e.lanes * r.bytes,
        })),
        ...sequences.map((name) => ({
          name: `${name}p`,
          from: plus(name, times("low", e.lanes * 4)),
          step: e.lanes * 4,
        })),
      ],
      body: [block],
    },
  ];
}

/** first(x, gate, z[, fold], from, to): columns [from, to) of the first forward stage; z is where column `from` of slot 0 lies. */
export function firstStage(
  plan: TransformPlan,
  source: Source,
  lanes: 1 | 4,
  name: string,
): KernelFunction {
  const e = end(plan, source.pieces, lanes);
  const bytes = bytesPerSample(source.dtype);
  const rows = [{ name: "x", bytes }, ...(source.gated ? [{ name: "gate", bytes }] : [])];
  const fold = source.fold ? ["fold"] : [];
  const body = e.segments.flatMap((s) => {
    const g = new Graph();
    const least = leastDelta(s);
    const load = (f: Feed): Node => {
      const offset = (f.delta - least) * bytes;
      const x = g.load({ pointer: "xp", offset }, source.dtype, f.first, f.last);
      const gate = source.gated
        ? g.load({ pointer: "gatep", offset }, source.dtype, f.first, f.last)
        : g.constant(1);
      return g.mul(x, gate);
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
    const folds = source.fold
      ? s.slots.map((feeds, slot): Store => {
          const at = { pointer: "foldp", offset: slotBytes(e, slot) };
          return { at, format: "float32", value: sum(feeds.map(load)), first: 0, last: lanes };
        })
      : [];
    const stores = e.kept.flatMap((j, slot) =>
      storeComplex("zp", slot * e.stride, outputs[j]!, lanes),
    );
    return clipped(e, s, rows, fold, { op: "block", stores: [...stores, ...folds] });
  });
  return { name, parameters: ["x", "gate", "z", ...fold, "from", "to"], exported: false, body };
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
  sink: Sink,
  lanes: 1 | 4,
  name: string,
): KernelFunction {
  const e = end(plan, sink.pieces, lanes);
  const bytes = bytesPerSample(sink.dtype);
  const rows = [
    { name: "y", bytes },
    ...(sink.gated ? [{ name: "gate", bytes }] : []),
    ...(sink.skip ? [{ name: "u", bytes }] : []),
    ...(sink.second ? ["y2", "gate2"].map((name) => ({ name, bytes })) : []),
  ];
  const rest = sink.rest ? ["rest"] : [];
  const body = e.segments.flatMap((s) => {
    if (s.slots.every((f) => f.length === 0)) return [];
    const g = new Graph();
    const least = leastDelta(s);
    const w = firstTwiddles(g, e);
    const inputs = spread(g, e.radix, e.kept, (slot) =>
      loadComplex(g, "zp", slot * e.stride, lanes),
    );
    const outputs = dft(g, inputs, -1).map((v, j) => (j === 0 ? v : g.cmulConj(v, w[j - 1]!)));
    const stores = s.slots.flatMap((feeds, slot) =>
      feeds.flatMap((f): Store[] => {
        const offset = (f.delta - least) * bytes;
        const v = outputs[slot >> 1]!;
        const part = slot & 1 ? v.im : v.re;
        const own = f.sign > 0 ? part : g.neg(part);
        const at = { pointer: "restp", offset: slotBytes(e, slot) };
        const whole = sink.rest ? g.add(own, g.load(at, "float32", 0, lanes)) : own;
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
    return clipped(e, s, rows, rest, { op: "block", stores });
  });
  const parameters = ["z", ...sinkParameters, ...rest, "from", "to"];
  return { name, parameters, exported: false, body };
}
