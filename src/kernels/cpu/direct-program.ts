/**
 * A block of a row in the time domain → functions of the names that a block's transform has, so that jobs need not know
 * which of the two they run: a head widens samples times their gate to float32 in work memory, the body filters them
 * there, a tail gates, adds the skip term and stores. What is kept of a kernel, its "spectrum", are its taps as float32 in
 * the order of their lags. The filters and sums are those of short depthwise convolutions (kernels/depthwise).
 */
import type { Dtype } from "../../dtype.ts";
import { bytesPerSample } from "../../dtype.ts";
import type { Node } from "../../math/expr.ts";
import { Graph } from "../../math/expr.ts";
import type { Part } from "../../plan/geometry.ts";
import { gradientPart } from "../../plan/geometry.ts";
import {
  gateVariants,
  moveFunctions,
  rowSink,
  sinkVariants,
  wholeRowFunctions,
} from "./convolution-functions.ts";
import type { Frame } from "./depthwise/addressing.ts";
import { eachCell, filterWalk, frame, sampleNode, storeCell } from "./depthwise/addressing.ts";
import { foldFunction, sumFunction } from "./depthwise/gradients.ts";
import type { Cells, Moving } from "./depthwise/loops.ts";
import { walk } from "./depthwise/loops.ts";
import { exported, suffix } from "./function-names.ts";
import { wholeLines } from "./gapped-sequence.ts";
import type { Int, KernelFunction, KernelModule, Statement, Store } from "./ir.ts";
import { call, plus } from "./ir.ts";
import { sinkParameters } from "./load-store.ts";
import type { ProgramSource } from "./program-source.ts";

/** What determines a program's text. */
export interface DirectSpec {
  readonly kind: "forward" | "backward";
  /** A block of a row. */
  readonly part: Part;
  /** Storage of u, y and the gates. */
  readonly dtype: Dtype;
  /** Storage of k as given; its gradient is float32. */
  readonly kernelDtype: Dtype;
  readonly lanes: 1 | 4;
}

/** Lags of a block's taps: from −ahead to behind, without a gap. */
function tapCount({ blocks }: Part): number {
  return blocks!.behind + blocks!.ahead + 1;
}

/** Bytes of the sums of products for a channel's taps, before the lanes of a vector are added up. */
function sumBytes(part: Part): number {
  return 64 * Math.ceil(tapCount(part) / 4);
}

/** Bytes of a window of float32 that vectors may run over by three samples. */
function windowBytes(part: Part): number {
  return wholeLines(4 * (part.positions + 4));
}

/** Bytes of work memory: a window with the sums of its own behind it; and of a channel's taps. */
export function directBytes(part: Part): { readonly work: number; readonly taps: number } {
  return { work: windowBytes(part) + sumBytes(part), taps: wholeLines(4 * tapCount(part)) };
}

/** A pointer along rows of a storage type. */
const along = (name: string, dtype: Dtype): Moving => ({
  ...{ name, position: bytesPerSample(dtype), channel: 0 },
});

/** A walk over `count` samples, in blocks of up to `rows` vectors. */
function overSamples(
  f: Frame,
  count: number,
  rows: number,
  pointers: readonly Moving[],
  block: (cells: Cells) => readonly Statement[],
): Statement[] {
  const { lanes } = f.spec;
  return [
    { op: "let", name: "count", value: count },
    ...walk({ layout: "BHL", lanes, rows, vectors: 1, pointers, overrun: true, block }),
  ];
}

/** head_{name}(x, gate, z): `count` samples from place `first` of a block on, times their gate, to float32. */
function headFunction(
  f: Frame,
  name: "u" | "dy",
  gated: boolean,
  { index, count }: { readonly index: number; readonly count: number },
): KernelFunction {
  const { dtype } = f.spec.problem;
  const names = gated ? ["x", "gate"] : ["x"];
  const { lanes } = f.spec;
  const block = eachCell((g, cell) => {
    const offset = cell[0] * lanes * f.bytes;
    const load = (p: string): Node => g.load({ pointer: `${p}0p`, offset }, dtype, 0, lanes);
    const value = gated ? g.mul(load("x"), load("gate")) : load("x");
    return [storeCell(f, "z", f.window, "float32", cell, value, lanes)];
  });
  const pointers = [...names.map((n) => along(`${n}0`, dtype)), along("z", "float32")];
  return exported(
    `head_${name}${suffix(gated)}`,
    ["x", "gate", "z"],
    [...placesFrom(f, names, index), ...overSamples(f, count, 4, pointers, block)],
  );
}

/** What becomes of filtered samples, as a sink of a transform. */
interface DirectSink {
  readonly gated: boolean;
  readonly skip: boolean;
  /** Also store the ungated value times another row. */
  readonly second: boolean;
}

/** Stores of one vector of results from place `at` of rows on. */
function sinkStores(
  f: Frame,
  g: Graph,
  { gated, skip, second }: DirectSink,
  at: number,
  value: Node,
): Store[] {
  const { lanes, problem } = f.spec;
  const offset = at * f.bytes;
  const load = (name: string): Node =>
    g.load({ pointer: `${name}0p`, offset }, problem.dtype, 0, lanes);
  const store = (name: string, v: Node): Store => ({
    ...{ at: { pointer: `${name}0p`, offset }, format: problem.dtype, value: v },
    ...{ first: 0, last: lanes },
  });
  const whole = gated ? g.mul(value, load("gate")) : value;
  const weight = g.load({ pointer: "skip", offset: 0 }, "splat", 0, lanes);
  const sum = skip ? g.fma(load("u"), weight, whole) : whole;
  return [store("y", sum), ...(second ? [store("y2", g.mul(value, load("gate2")))] : [])];
}

/** Rows that a sink reads and writes. */
function sinkRows({ gated, skip, second }: DirectSink): string[] {
  return [
    "y",
    ...(gated ? ["gate"] : []),
    ...(skip ? ["u"] : []),
    ...(second ? ["y2", "gate2"] : []),
  ];
}

/** {name}0: pointers to place `first` of rows. */
function placesFrom(f: Frame, names: readonly string[], first: number): Statement[] {
  return names.map((name) => ({ op: "let", name: `${name}0`, value: plus(name, first * f.bytes) }));
}

/** tail_{name}(z, …sinkParameters): results in work memory to rows, at places `first` … of a block. */
function tailFunction(
  f: Frame,
  name: "y" | "du",
  sink: DirectSink,
  { index, count }: { readonly index: number; readonly count: number },
): KernelFunction {
  const block = eachCell((g, cell) => {
    const value = sampleNode(f, g, "z", f.window, cell, 0);
    return sinkStores(f, g, sink, cell[0] * f.spec.lanes, value);
  });
  const pointers = [
    along("z", "float32"),
    ...sinkRows(sink).map((n) => along(`${n}0`, f.spec.problem.dtype)),
  ];
  return exported(
    `tail_${name}${suffix(sink.gated, sink.skip)}`,
    ["z", ...sinkParameters],
    [...placesFrom(f, sinkRows(sink), index), ...overSamples(f, count, 2, pointers, block)],
  );
}

/**
 * The filter of a block, at every one of `count` places n: Σ_j taps[j]·s[n + j], or with the taps from last to first.
 * Blocks of results lie before all samples that later ones need, so they may take the place of the samples.
 */
function filterBody(
  f: Frame,
  reversed: boolean,
  count: number,
  pointers: readonly Moving[],
  store: (g: Graph, cell: readonly [number, number], value: Node) => readonly Store[],
): Statement[] {
  const filters = { window: f.window, branches: [0], reversed, unbiased: true };
  return [
    { op: "let", name: "count", value: count },
    ...filterWalk(f, filters, pointers, true, (g, cell, z) => store(g, cell, z(0))),
  ];
}

/** filter_{name}(s0, w0, z): from float32 to float32. */
function plainFilter(f: Frame, name: string, reversed: boolean, count: number): KernelFunction {
  return {
    name,
    parameters: ["s0", "w0", "z"],
    exported: false,
    body: filterBody(f, reversed, count, [along("z", "float32")], (_, cell, value) => [
      storeCell(f, "z", f.window, "float32", cell, value, f.spec.lanes),
    ]),
  };
}

/** filter_y{suffix}(s0, w0, …sinkParameters): from float32 to what the caller gets. */
function storingFilter(f: Frame, sink: DirectSink, index: number, count: number): KernelFunction {
  const pointers = sinkRows(sink).map((n) => along(`${n}0`, f.spec.problem.dtype));
  return {
    name: `filter_y${suffix(sink.gated, sink.skip)}`,
    parameters: ["s0", "w0", ...sinkParameters],
    exported: false,
    body: [
      ...placesFrom(f, sinkRows(sink), index),
      ...filterBody(f, true, count, pointers, (g, cell, value) =>
        sinkStores(f, g, sink, cell[0] * f.spec.lanes, value),
      ),
    ],
  };
}

/** Runs of taps as places in the list of all lags. */
function* tapPlaces(part: Part, lanes: number): Generator<[place: number, tap: number, n: number]> {
  for (const { index, count, position } of part.taps) {
    for (let i = 0; i < count; i += lanes) {
      yield [part.blocks!.ahead + position + i, index + i, Math.min(lanes, count - i)];
    }
  }
}

/** Numbers at a pointer: one for each tap, or for each lag. */
interface TapList {
  readonly pointer: string;
  readonly format: Dtype;
  readonly by: "tap" | "lag";
}

/** Copies what belongs to taps from one list to another. */
function moveTaps({ part, lanes }: DirectSpec, from: TapList, to: TapList): Statement[] {
  return [...tapPlaces(part, lanes)].map(([lag, tap, last]) => {
    const address = ({ pointer, format, by }: TapList) => ({
      ...{ pointer, offset: (by === "tap" ? tap : lag) * bytesPerSample(format) },
    });
    const value = new Graph().load(address(from), from.format, 0, last);
    const store: Store = { at: address(to), format: to.format, value, first: 0, last };
    return { op: "block", stores: [store] };
  });
}

/** head_k(k, gate, z): taps in the order of their lags, as float32. */
function tapsFunction(spec: DirectSpec): KernelFunction {
  const k = { pointer: "k", format: spec.kernelDtype, by: "tap" } as const;
  const z = { pointer: "z", format: "float32", by: "lag" } as const;
  return exported("head_k", ["k", "gate", "z"], moveTaps(spec, k, z));
}

/** tail_dk0(z, dk): sums in the order of lags to the taps that they belong to. */
function tapSinkFunction(spec: DirectSpec): KernelFunction {
  const z = { pointer: "z", format: "float32", by: "lag" } as const;
  const dk = { pointer: "dk", format: "float32", by: "tap" } as const;
  return exported("tail_dk0", ["z", "dk"], moveTaps(spec, z, dk));
}

/** A block in one call. Samples that are float32 as they are need no head. */
function blockRows(f: Frame): KernelFunction[] {
  const float = f.spec.problem.dtype === "float32";
  return wholeRowFunctions((pregate, postgate, skip) => {
    const filter = `filter_y${suffix(postgate, skip)}`;
    if (float && !pregate) return [call(filter, "u", "k", ...rowSink)];
    return [
      call(`head_u${suffix(pregate)}`, "u", "pregate", "z"),
      call(filter, "z", "k", ...rowSink),
    ];
  });
}

/**
 * join(k, skip, w): where one tap acts, its sum with the skip weight, for calls without gates. Two products of a sample that
 * cancel would leave their rounding errors.
 */
function joinFunctions(f: Frame): KernelFunction[] {
  if (f.spec.problem.kernelLength > 1) return [];
  const g = new Graph();
  const load = (pointer: string): Node => g.load({ pointer, offset: 0 }, "float32", 0, 1);
  const at = { pointer: "w", offset: 0 };
  const value = g.add(load("k"), load("skip"));
  const store: Store = { at, format: "float32", value, first: 0, last: 1 };
  const body: Statement[] = [{ op: "block", stores: [store] }];
  return [exported("join", ["k", "skip", "w"], body)];
}

function forwardFunctions(spec: DirectSpec, f: Frame): KernelFunction[] {
  const { part } = spec;
  const [input, output] = [part.inputs[0]!, part.outputs[0]!];
  const sinks = sinkVariants.map((v) => ({ ...v, second: false }));
  return [
    tapsFunction(spec),
    exported("body_spectrum", ["z"], []),
    ...gateVariants.map((gated) => headFunction(f, "u", gated, input)),
    plainFilter(f, "filter", true, output.count),
    exported("body_multiply", ["z", "k"], [call("filter", "z", "k", "z")]),
    ...sinks.map((sink) => tailFunction(f, "y", sink, output)),
    ...sinks.map((sink) => storingFilter(f, sink, output.index, output.count)),
    ...moveFunctions,
    ...joinFunctions(f),
    ...blockRows(f),
  ];
}

/** body_add(z, w): adds the sums at w to those at z. */
function addFunction(f: Frame): KernelFunction {
  const { lanes, problem } = f.spec;
  const block = eachCell((g, cell) => {
    const [z, w] = ["z", "w"].map((n) => sampleNode(f, g, n, f.window, cell, 0));
    return [storeCell(f, "z", f.window, "float32", cell, g.add(z!, w!), lanes)];
  });
  const pointers = [along("z", "float32"), along("w", "float32")];
  const body = overSamples(f, problem.kernelLength * lanes, 1, pointers, block);
  return exported("body_add", ["z", "w"], body);
}

/**
 * Gradients of a block: z holds dy and then du, w the block's own u, behind which its sums are made before they join
 * those of the blocks before it. Sums are vectors until all blocks are in: body_back adds up their lanes.
 */
function backwardFunctions(spec: DirectSpec, f: Frame): KernelFunction[] {
  const part = gradientPart(spec.part);
  const [input, output] = [part.inputs[0]!, part.outputs[0]!];
  const sinks = sinkVariants.map((v) => ({ ...v, second: v.gated }));
  const bytes = sumBytes(part);
  const parameters = ["z", "w", "k", "sums", "table", "from", "to"];
  const body = (at: Int, after: readonly Statement[]): Statement[] => [
    { op: "let", name: "at", value: at },
    { op: "clear", at: "at", bytes },
    call("sum", "z", "w", "at", input.count, 1),
    ...after,
    call("filter", "z", "k", "z"),
  ];
  return [
    ...gateVariants.flatMap((gated) => [
      headFunction(f, "u", gated, input),
      headFunction(f, "dy", gated, output),
    ]),
    sumFunction(f, f.spec.problem.kernelLength),
    plainFilter(f, "filter", false, input.count),
    addFunction(f),
    exported("body_gradients_first", parameters, body("sums", [])),
    exported(
      "body_gradients_inner",
      parameters,
      body(plus("w", windowBytes(part)), [call("body_add", "sums", "at")]),
    ),
    foldFunction(f),
    exported("body_back", ["z"], [call("fold", "z", "z", bytes / 64, 1)]),
    ...moveFunctions,
    ...joinFunctions(f),
    ...sinks.map((sink) => tailFunction(f, "du", sink, input)),
    tapSinkFunction(spec),
  ];
}

/** All functions of a program, callees first. */
export function buildDirect(spec: DirectSpec): KernelModule {
  const { kind, part, dtype, lanes } = spec;
  const shape = { layout: "BHL", form: "linear", channels: 1, left: 0, right: 0 } as const;
  const problem = { ...shape, kernelLength: tapCount(part), dtype };
  const f = frame({ kind, problem, lanes });
  const functions = kind === "forward" ? forwardFunctions(spec, f) : backwardFunctions(spec, f);
  return { lanes, functions };
}

/** The program of blocks in the time domain. */
export function directSource(spec: Omit<DirectSpec, "lanes">): ProgramSource {
  return {
    key: JSON.stringify(["direct", spec]),
    build: (lanes) => buildDirect({ ...spec, lanes }),
  };
}
