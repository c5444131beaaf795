/** Calls of short convolutions as lists of steps: which kernels, on which pieces of which buffers. */
import type { DepthwiseProblem } from "../../plan/depthwise.ts";
import type { Filter, Gradient, Spread } from "./depthwise.ts";
import {
  biasShift,
  depthwiseThreads,
  filterKernel,
  gradientKernel,
  sumsBeside,
  tapsAtOnce,
  totalsKernel,
} from "./depthwise.ts";
import type { Lines } from "./depthwise-cells.ts";
import type { Bound, DepthwiseGpuCall, Operand, Piece, Span } from "./depthwise-places.ts";
import { Places, pieceStep, roundUp } from "./depthwise-places.ts";
import type { Kernel } from "./kernels.ts";
import type { BufferRange, GpuLimits, Schedule, Step } from "./steps.ts";

/** Filters of so many taps have their gradients in one pass; others keep dz in work memory and take taps in turns. */
const fusedTaps = 8;
/** Outputs of a thread, forward, and samples of one that sums gradients. */
const forwardSamples = 16;
const gradientSamples = 64;
/** Threads that keep a large GPU busy. */
const enoughThreads = 2 ** 17;
const powerOver = (n: number): number => 2 ** Math.ceil(Math.log2(Math.max(1, n)));

/** Lanes side by side along the channels, so that few are idle: as many as have a whole line of memory each. */
function lanesAcross(cells: number): number {
  const waste = (lanes: number): number => roundUp(cells, lanes);
  return [16, 32].reduce(
    (best, lanes) => (waste(lanes) <= waste(best) ? lanes : best),
    Math.min(8, powerOver(cells)),
  );
}

/** Makes schedules for one short convolution, and remembers kernels. */
export class DepthwiseScheduler {
  readonly problem: DepthwiseProblem;
  readonly limits: GpuLimits;
  readonly #kernels = new Map<string, Kernel>();

  constructor(problem: DepthwiseProblem, limits: GpuLimits) {
    this.problem = problem;
    this.limits = limits;
  }

  /** y, and the state that the call leaves behind. */
  forward(call: DepthwiseGpuCall): Schedule {
    return new Call(this, call).forward();
  }

  /** dx, dstate, dweight and dbias. */
  backward(call: DepthwiseGpuCall): Schedule {
    return new Call(this, call).backward();
  }

  /** The kernel of a specification, which its text tells from all others. */
  remembered<Spec>(spec: Spec, make: (spec: Spec) => Kernel): Kernel {
    const key = JSON.stringify(spec);
    const kernel = this.#kernels.get(key) ?? make(spec);
    this.#kernels.set(key, kernel);
    return kernel;
  }
}

/** A schedule under construction. */
class Call {
  readonly #scheduler: DepthwiseScheduler;
  readonly #places: Places;
  readonly #steps: Step[] = [];

  constructor(scheduler: DepthwiseScheduler, call: DepthwiseGpuCall) {
    this.#scheduler = scheduler;
    this.#places = new Places(scheduler.problem, scheduler.limits, call);
  }

  get #history(): Operand | undefined {
    return this.#places.call.state ? this.#places.state("state", "state") : undefined;
  }

  forward(): Schedule {
    const { length, stateOut } = this.#places.call;
    const { left, form } = this.#places.problem;
    const y = this.#places.tensor("y", "y", this.#places.outputLength, true);
    for (const piece of this.#places.pieces(
      0,
      Math.max(length, this.#places.outputLength),
      () => 0,
    )) {
      const span: Span = [piece.from, Math.min(piece.to, this.#places.outputLength)];
      this.#filter(piece, span, {
        ...{ taps: "forward", left, bias: this.#places.call.bias },
        result: form === "silu" ? "silu" : "sum",
        ...{ source: this.#places.tensor("x", "x", length), history: this.#history, target: y },
      });
      if (stateOut !== "none" && piece.to >= length) this.#carry(piece);
    }
    return this.#finish();
  }

  /** The last K − 1 samples of state and x. Where they go to the buffer that the state is read from, by way of another. */
  #carry(piece: Piece): void {
    const { length, stateOut } = this.#places.call;
    const history = this.#places.problem.kernelLength - 1;
    const target = this.#places.state("y", "stateOut", true);
    const first = length - history;
    const copy = { taps: "none", left: 0, bias: false, result: "sum" } as const;
    const x = this.#places.tensor("x", "x", length);
    const source: Operand = this.#places.across ? x : { ...x, width: 1 };
    const kept = { ...target, first };
    const own = { own: true, pitch: roundUp(history, 2) };
    const through = stateOut === "same" ? { ...kept, ...own, buffer: "carried" as const } : kept;
    const span: Span = [first, length];
    this.#filter(piece, span, { ...copy, source, history: this.#history, target: through });
    if (stateOut !== "same") return;
    const carried = { ...this.#places.state("x", "carried"), ...own };
    this.#filter(piece, [0, history], { ...copy, source: carried, target });
  }

  /** First output whose gradient a piece from position 0 on counts for dbias. */
  get #biasShift(): number {
    return biasShift({ left: this.#places.problem.left, taps: this.#tapsSummed });
  }

  /** Where the pieces of a backward call begin: before 0, where a state or padding lies that gradients are made of. */
  get #begin(): number {
    const history = this.#places.call.state ? this.#places.problem.kernelLength - 1 : 0;
    return 0 - roundUp(Math.max(this.#biasShift, history), pieceStep);
  }

  backward(): Schedule {
    const { length, state } = this.#places.call;
    const { kernelLength, form } = this.#places.problem;
    const end = Math.max(length, this.#places.outputLength - this.#biasShift);
    const slope = form === "silu";
    const fused = kernelLength <= fusedTaps;
    const pieces = this.#places.pieces(this.#begin, end, (piece) => {
      const sums = this.#sumsBytes(piece);
      return !fused && slope ? Math.max(sums, this.#workBytes(piece)) : sums;
    });
    for (const piece of pieces) {
      let d = this.#places.tensor("dy", "dy", this.#places.outputLength);
      if (slope && !fused) d = { ...this.#slopes(piece, this.#reached(piece)), name: "dy" };
      const last = this.#places.call.dstateOut && piece.to >= length - kernelLength + 1;
      const tail = last ? this.#places.state("dstateOut", "dstateOut") : undefined;
      const dx = this.#places.tensor("y", "dx", length, true);
      if (!fused) this.#transposed(piece, [Math.max(0, piece.from), piece.to], d, dx, tail);
      this.#sums(piece, d, slope && fused, fused ? dx : undefined, fused ? tail : undefined);
      // The piece with position 0 has what the state's gradient is made of.
      if (state && piece.from <= 0 && piece.to > 0) this.#stateGradient(piece, d, slope && fused);
      this.#totals(piece);
    }
    return this.#finish();
  }

  /** Gradient of the state: what the first outputs owe to it, and what is left of it in the state that was left behind. */
  #stateGradient(piece: Piece, d: Operand, slope: boolean): void {
    const history = this.#places.problem.kernelLength - 1;
    const first = Math.min(history, this.#places.outputLength);
    const source = slope ? this.#slopes(piece, [0, first]) : d;
    const target = this.#places.state("y", "dstate", true);
    const tail =
      this.#places.call.dstateOut && this.#places.call.length < history
        ? this.#places.state("dstateOut", "dstateOut")
        : undefined;
    this.#transposed(piece, [0, history], source, target, tail);
  }

  /** What of dz a piece needs: at least one position, so that there is something to bind. */
  #reached({ from, to }: Piece): Span {
    const { kernelLength, left } = this.#places.problem;
    const { outputLength } = this.#places;
    const clip = (n: number, least: number): number => Math.min(outputLength, Math.max(least, n));
    const first = Math.min(outputLength - 1, clip(from + left - (kernelLength - 1), 0));
    const aligned = first - (first % 8);
    return [aligned, clip(to + left, aligned + 1)];
  }

  #workBytes(piece: Piece): number {
    const [from, to] = this.#reached(piece);
    return piece.batch * piece.channels * roundUp(to - from, 8) * 4;
  }

  /** dz = dy times the slope, at positions of a piece, in work memory. */
  #slopes(piece: Piece, [from, to]: Span): Operand {
    const target = { ...this.#places.work("y", from, to - from), writes: true };
    this.#filter(piece, [from, to], {
      ...{
        taps: "forward",
        left: this.#places.problem.left,
        bias: this.#places.call.bias,
        result: "slope",
      },
      ...{
        source: this.#places.tensor("x", "x", this.#places.call.length),
        history: this.#history,
        target,
      },
      upstream: this.#places.tensor("dy", "dy", this.#places.outputLength),
    });
    return { ...target, name: "x", writes: false };
  }

  /** The transposed filter: dz → dx, or dstate, whose positions are K − 1 before those of x. */
  #transposed(
    piece: Piece,
    span: Span,
    d: Operand,
    target: Operand,
    tail: Operand | undefined,
  ): void {
    const { kernelLength, left } = this.#places.problem;
    const state = target.buffer === "dstate";
    this.#filter(piece, [span[0], Math.min(span[1], target.size)], {
      ...{ taps: "reversed", left: kernelLength - 1 - (state ? 0 : left), bias: false },
      ...{ result: "sum", source: { ...d, name: "x" }, target, tail },
      tailShift: (state ? 0 : kernelLength - 1) - this.#places.call.length,
    });
  }

  /** Taps whose gradients are summed at once. */
  get #tapsSummed(): number {
    return Math.min(this.#places.problem.kernelLength, fusedTaps);
  }

  #filter(
    piece: Piece,
    [from, to]: Span,
    options: Pick<Filter, "taps" | "left" | "bias" | "result"> & {
      readonly source: Operand;
      readonly history?: Operand | undefined;
      readonly upstream?: Operand | undefined;
      readonly target: Operand;
      readonly tail?: Operand | undefined;
      readonly tailShift?: number;
    },
  ): void {
    if (from >= to) return;
    const { source, history, upstream, target, tail, tailShift = 0, ...rest } = options;
    const { kernelLength, layout } = this.#places.problem;
    const few = kernelLength <= tapsAtOnce[layout];
    const run = this.#run(few ? 16 : 8, [source, target], to - from);
    const runs = Math.ceil((to - from) / run);
    const strips = this.#places.across ? 1 : forwardSamples / run;
    const spread = this.#spread(piece, run, runs, strips);
    const kernel = this.#scheduler.remembered<Filter>(
      {
        ...{ kind: "filter", ...rest, kernelLength, spread, machine: this.#machine },
        ...{ source: this.#lines(source), target: this.#lines(target) },
        ...(history && { history: this.#lines(history) }),
        ...(upstream && { upstream: this.#lines(upstream) }),
        ...(tail && { tail: this.#lines(tail) }),
        wideTaps: this.#wideTaps && few,
        whole: ((target.first ?? 0) + target.size - from) % run === 0,
      },
      filterKernel,
    );
    const end = from + runs * run;
    const reads: Span = [from - rest.left, end - rest.left + kernelLength];
    const bound = [
      this.#places.bind(source, piece, reads),
      this.#places.bind(target, piece, [from, to]),
      ...(history ? [this.#places.bind(history, piece, [0, kernelLength])] : []),
      ...(upstream ? [this.#places.bind(upstream, piece, [from, end])] : []),
      ...(tail ? [this.#places.bind(tail, piece, [0, kernelLength])] : []),
    ];
    this.#step(kernel, piece, spread, { begin: from, runs, tail_shift: tailShift }, bound);
  }

  /**
   * Positions that a thread holds at once: along a row as many as its accesses span, across the channels up to `most`; few where
   * every store is one of its own, or where a processor, which compiles long kernels slowly, plays the GPU.
   */
  #run(most: number, tensors: readonly Operand[], positions: number): number {
    const { dtype } = this.#places.problem;
    if (!this.#places.across) return dtype === "float32" ? 4 : 8;
    const single = tensors.some((t) => t.dtype !== "float32" && t.width === 1);
    const slow = single || this.#scheduler.limits.slowFma === true;
    return Math.min(slow ? 4 : most, powerOver(positions));
  }

  /** How the runs of a gradient's piece go to threads. */
  #gradientSpread(piece: Piece): { spread: Spread; runs: number; begin: number } {
    const x = this.#places.tensor("x", "x", this.#places.call.length);
    // Along a row, runs of eight float32 meet the ends of their windows half as often.
    const run = this.#places.across ? this.#run(8, [x], 8) : 8;
    const begin = piece.from;
    const runs = Math.ceil((piece.to - begin) / run);
    const most = gradientSamples / run;
    const all = (piece.batch * runs * piece.channels) / this.#places.cell;
    const strips = this.#places.across
      ? Math.min(most, powerOver(all / enoughThreads + 1) / 2) || 1
      : most;
    return { spread: this.#spread(piece, run, runs, Math.max(1, strips)), runs, begin };
  }

  /** Workgroups that have sums of the same channels. */
  #parts(piece: Piece): number {
    const { spread, runs } = this.#gradientSpread(piece);
    const { pieces, chunks } = this.#counts(piece, spread, runs);
    if (!this.#places.across) return piece.batch * chunks;
    return Math.ceil((piece.batch * pieces) / (depthwiseThreads / spread.lanes));
  }

  #sumsBytes(piece: Piece): number {
    return this.#parts(piece) * (this.#places.problem.kernelLength + 1) * piece.channels * 4;
  }

  #sums(
    piece: Piece,
    d: Operand,
    slope: boolean,
    target: Operand | undefined,
    tail: Operand | undefined,
  ): void {
    const { kernelLength, left } = this.#places.problem;
    const { spread, runs, begin } = this.#gradientSpread(piece);
    const history = this.#history;
    const x = this.#places.tensor("x", "x", this.#places.call.length);
    const taps = this.#tapsSummed;
    const kernel = this.#scheduler.remembered<Gradient>(
      {
        ...{ kind: "gradient", kernelLength, left, taps, slope, spread, machine: this.#machine },
        ...{ source: this.#lines(x), upstream: this.#lines(d) },
        ...(history && { history: this.#lines(history) }),
        ...(target && { target: this.#lines(target) }),
        ...(tail && { tail: this.#lines(tail) }),
        bias: slope && this.#places.call.bias,
        wideTaps: this.#wideTaps && kernelLength <= fusedTaps,
        whole: (x.size - begin) % spread.run === 0,
      },
      gradientKernel,
    );
    const end = begin + runs * spread.run;
    const around: Span = [begin - kernelLength, end + kernelLength];
    const bytes = this.#sumsBytes(piece);
    this.#places.need("sums", bytes);
    const bound = [
      this.#places.bind(x, piece, around),
      this.#places.bind(d, piece, [around[0] + left, end + left]),
      ...(history ? [this.#places.bind(history, piece, [0, kernelLength])] : []),
      ...(target ? [this.#places.bind(target, piece, [begin, end])] : []),
      ...(tail ? [this.#places.bind(tail, piece, [0, kernelLength])] : []),
    ];
    const sums: BufferRange = { buffer: "sums", offset: 0, size: bytes };
    const shift = kernelLength - 1 - this.#places.call.length;
    const parameters = { begin, runs, tail_shift: shift };
    const blocks = Math.ceil(kernelLength / taps);
    this.#step(kernel, piece, spread, parameters, bound, { sums }, blocks);
  }

  /** Sums of a piece's workgroups, added up; later pieces of the same channels add theirs. */
  #totals(piece: Piece): void {
    const { kernelLength } = this.#places.problem;
    const { bias } = this.#places.call;
    const parts = this.#parts(piece);
    const items = (kernelLength + 1) * piece.channels;
    const bytes = parts * items * 4;
    const w = this.#places.range(
      "dweight",
      piece.channelFrom * kernelLength * 4,
      piece.channels * kernelLength * 4,
      4,
    );
    const b = this.#places.range("dbias", piece.channelFrom * 4, piece.channels * 4, 4);
    const first = piece.batchFrom === 0 && piece.from === this.#begin;
    this.#steps.push({
      kernel: this.#scheduler.remembered({ kernelLength, bias }, totalsOf),
      tiles: Math.ceil(items / sumsBeside),
      parameters: {
        ...{ parts, items, span: piece.channels, clear: first ? 1 : 0 },
        ...{ dweight: w.first, dbias: b.first },
      },
      ranges: {
        sums: { buffer: "sums", offset: 0, size: bytes },
        dweight: w.range,
        ...(bias && { dbias: b.range }),
      },
    });
  }

  #lines({ name, dtype, width, writes }: Operand): Lines {
    const { layout } = this.#places.problem;
    return { name, dtype, layout, width, ...(writes && { writes }) };
  }

  /** The part of a device that texts depend on. */
  get #machine(): Filter["machine"] {
    const { packs = false, slowFma = false } = this.#scheduler.limits;
    return { packs, slowFma };
  }

  get #wideTaps(): boolean {
    return this.#places.cell === 4 && this.#places.offset("weight") % 16 === 0;
  }

  #spread(piece: Piece, run: number, runs: number, strips: number): Spread {
    const { layout } = this.#places.problem;
    const lanes = this.#places.across
      ? lanesAcross(piece.channels / this.#places.cell)
      : Math.min(depthwiseThreads, powerOver(Math.ceil(runs / strips)));
    return { layout, cell: this.#places.cell, run, lanes, strips };
  }

  #counts(piece: Piece, { lanes, strips }: Spread, runs: number) {
    const cells = piece.channels / this.#places.cell;
    return {
      cells,
      pieces: Math.ceil(runs / strips),
      chunks: Math.ceil(this.#places.across ? cells / lanes : runs / (lanes * strips)),
      lines: this.#places.across ? piece.batch : piece.batch * piece.channels,
    };
  }

  #step(
    kernel: Kernel,
    piece: Piece,
    spread: Spread,
    parameters: { readonly begin: number; readonly runs: number; readonly tail_shift: number },
    bound: readonly Bound[],
    more: Record<string, BufferRange> = {},
    blocks = 1,
  ): void {
    const { kernelLength } = this.#places.problem;
    const counts = this.#counts(piece, spread, parameters.runs);
    const { channelFrom, channels } = piece;
    const taps = this.#places.range(
      "weight",
      channelFrom * kernelLength * 4,
      channels * kernelLength * 4,
      kernel.bindings.some((b) => b.name === "weight" && b.element === "vec4f") ? 16 : 4,
    );
    const bias = this.#places.range("bias", channelFrom * 4, channels * 4, 4);
    const named: Record<string, BufferRange> = { weight: taps.range, bias: bias.range, ...more };
    for (const { ranges } of bound) Object.assign(named, ranges);
    const groups = this.#places.across ? counts.lines * counts.pieces : counts.lines;
    const tiles = counts.chunks * Math.ceil(groups / (depthwiseThreads / spread.lanes)) * blocks;
    this.#steps.push({
      kernel,
      tiles,
      parameters: Object.assign(
        { ...parameters, ...counts, span: channels, weight: taps.first, bias: bias.first },
        ...bound.map((b) => b.parameters),
      ),
      ranges: Object.fromEntries(kernel.bindings.map(({ name }) => [name, named[name]!])),
    });
  }

  #finish(): Schedule {
    return { steps: this.#steps, bytes: this.#places.bytes };
  }
}

/** The last step of sums, by what decides its text. */
function totalsOf(spec: { readonly kernelLength: number; readonly bias: boolean }): Kernel {
  return totalsKernel(spec.kernelLength, spec.bias);
}
