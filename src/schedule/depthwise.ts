/** Calls of short convolutions as lists of steps: which kernels, on which pieces of which buffers. */
import type { Filter, FilterGradient } from "../kernels/gpu/filter/depthwise.ts";
import {
  biasShift,
  filterKernel,
  gradientKernel,
  tapsAtOnce,
} from "../kernels/gpu/filter/depthwise.ts";
import type { Kernel } from "../kernels/gpu/kernel.ts";
import type { ActivationName } from "../math/activation.ts";
import type { DepthwiseProblem } from "../plan/depthwise.ts";
import { activationOf, widths } from "../plan/depthwise.ts";
import type {
  Bound,
  CallPiece,
  CallPlaces,
  DepthwiseGpuCall,
  PackedThird,
  PieceOperand,
  Span,
} from "./pieces.ts";
import { pieceStep, roundUp } from "./pieces.ts";
import type { PieceRuns } from "./run-steps.ts";
import { powerOver, RunSteps } from "./run-steps.ts";
import type { BufferRange, GpuLimits, Schedule } from "./schedule.ts";

/** Filters of so many taps have their gradients in one pass; others keep dz in work memory and take taps in turns. */
const fusedTaps = 8;
/** The same for two filters whose outputs are multiplied: what both hold must fit a thread's registers. */
const pairedTaps = { BHL: 8, BLH: 4 } as const;
/** Outputs of a thread, forward, and samples of one that sums gradients. */
const forwardSamples = 16;
/** The same where channels are innermost, in half precision: five taps took 1.28 times a copy with 16 outputs on an H200, 1.12 with 32. */
const acrossSamples = 32;
const gradientSamples = 64;
/** Threads that keep a large GPU busy. */
const enoughThreads = 2 ** 17;

/** One filter in a backward call: where its output's gradient comes from. */
interface Branch {
  /** The third of packed channels that it filters. */
  readonly part: PackedThird | undefined;
  readonly upstream: "dy" | "dpostgate";
  /** What dz is: the upstream gradient itself, times the activation's slope, or times the output of another third's filter. */
  readonly dz: "upstream" | "slope" | { readonly times: PackedThird };
}

/** Makes schedules for one short convolution, and remembers kernels. */
export class DepthwiseScheduler {
  readonly problem: DepthwiseProblem;
  readonly limits: GpuLimits;
  /** Of packed channels, the thirds that are the gate before, the gate behind, and v. */
  readonly order: readonly number[];
  readonly #kernels = new Map<string, Kernel>();

  constructor(problem: DepthwiseProblem, limits: GpuLimits, order: readonly number[] = [0]) {
    this.problem = problem;
    this.limits = limits;
    this.order = order;
  }

  /** y, and the state that the call leaves behind. */
  forward(call: DepthwiseGpuCall): Schedule {
    return this.#builder(call).forward();
  }

  /** dx, dstate, dweight and dbias. */
  backward(call: DepthwiseGpuCall): Schedule {
    return this.#builder(call).backward();
  }

  #builder(call: DepthwiseGpuCall): DepthwiseScheduleBuilder {
    const steps = new RunSteps(this.#kernels, this.problem, this.limits, call);
    return new DepthwiseScheduleBuilder(steps, this.order);
  }
}

/** A schedule under construction. */
class DepthwiseScheduleBuilder {
  readonly #steps: RunSteps;
  readonly #places: CallPlaces;
  readonly #order: readonly number[];

  constructor(steps: RunSteps, order: readonly number[]) {
    this.#steps = steps;
    this.#places = steps.places;
    this.#order = order;
  }

  get #packs(): boolean {
    return this.#places.problem.form === "projections";
  }

  get #activation(): ActivationName | undefined {
    return activationOf(this.#places.problem.form);
  }

  /** Which thirds of packed channels a step takes by itself where it cannot take all; without packed channels, what there is. */
  get #parts(): readonly (PackedThird | undefined)[] {
    return this.#packs ? [0, 1, 2] : [undefined];
  }

  #x(part: PackedThird | undefined): PieceOperand {
    return this.#places.input("x", "x", part);
  }

  #history(part: PackedThird | undefined): PieceOperand | undefined {
    return this.#places.call.state ? this.#places.state("state", "state", part) : undefined;
  }

  #output(name: string, buffer: "y" | "postgate"): PieceOperand {
    return this.#places.tensor(name, buffer, this.#places.outputLength, true);
  }

  forward(): Schedule {
    const { length, stateOut } = this.#places.call;
    const { outputLength, together } = this.#places;
    const end = Math.max(length, outputLength);
    const alone = this.#packs && !together;
    const carried = stateOut === "same" ? this.#places.problem.kernelLength - 1 : 0;
    const work = (piece: CallPiece): number =>
      Math.max(
        alone ? bytesOf(piece, piece.from, Math.min(piece.to, outputLength)) : 0,
        (alone || !this.#packs ? 1 : 3) * bytesOf(piece, 0, carried),
      );
    for (const piece of this.#places.pieces(0, end, work)) {
      const span: Span = [piece.from, Math.min(piece.to, outputLength)];
      if (span[0] < span[1]) this.#outputs(piece, span);
      if (stateOut !== "none" && piece.to >= length) this.#carry(piece);
    }
    return this.#steps.finish();
  }

  #outputs(piece: CallPiece, span: Span): void {
    const y = this.#output("y", "y");
    if (!this.#packs) {
      const result = this.#activation ? "value" : "sum";
      this.#filter(piece, span, { ...this.#forwards(undefined, y), result });
      return;
    }
    if (this.#places.together) {
      const postgate = this.#output("postgate", "postgate");
      this.#filter(piece, span, { ...this.#forwards("thirds", y), result: "gated", postgate });
      return;
    }
    // One third after the other; the first waits in work memory for the one that multiplies it.
    const [pre, post, v] = this.#order as [PackedThird, PackedThird, PackedThird];
    const z = this.#places.work("y", span[0], span[1] - span[0]);
    this.#filter(piece, span, this.#forwards(v, { ...z, writes: true }));
    const product = { result: "product", upstream: { ...z, name: "dy" } } as const;
    this.#filter(piece, span, { ...this.#forwards(pre, y), ...product });
    this.#filter(piece, span, this.#forwards(post, this.#output("y", "postgate")));
  }

  /** A filter's outputs as they are. */
  #forwards(part: PackedThird | undefined, target: PieceOperand): FilterOptions {
    return {
      ...{ taps: "forward", left: this.#places.problem.left, bias: this.#places.call.bias },
      ...{ result: "sum", source: this.#x(part), history: this.#history(part), target },
    };
  }

  /** The last K − 1 samples of state and x, of all channels at once where they can be bound. */
  #carry(piece: CallPiece): void {
    const { channels } = this.#places.problem;
    if (this.#places.together && piece.channels === channels)
      this.#carryPart({ ...piece, channels: 3 * channels }, "all");
    else for (const part of this.#parts) this.#carryPart(piece, part);
  }

  /** Where the samples go to the buffer that the state is read from, they go by way of another. */
  #carryPart(piece: CallPiece, part: PackedThird | undefined): void {
    const { length, stateOut } = this.#places.call;
    const history = this.#places.problem.kernelLength - 1;
    const target = this.#places.state("y", "stateOut", part, true);
    const first = length - history;
    const copy = { taps: "none", left: 0, bias: false, result: "sum" } as const;
    const x = this.#x(part);
    const source: PieceOperand = this.#places.across ? x : { ...x, width: 1 };
    const own = { own: true, pitch: roundUp(history, 2) };
    const carried = { ...this.#places.state("x", "carried", undefined), ...own };
    const through = { ...carried, name: "y", writes: true, first };
    const kept = stateOut === "same" ? through : { ...target, first };
    const span: Span = [first, length];
    this.#filter(piece, span, { ...copy, source, history: this.#history(part), target: kept });
    if (stateOut !== "same") return;
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

  /** Whether the two thirds that are multiplied have their gradients in one pass. */
  get #paired(): boolean {
    const { kernelLength, layout } = this.#places.problem;
    return this.#packs && this.#places.together && kernelLength <= pairedTaps[layout];
  }

  get #branches(): readonly Branch[] {
    const dz = this.#activation ? "slope" : "upstream";
    if (!this.#packs) return [{ part: undefined, upstream: "dy", dz }];
    const [pre, post, v] = this.#order as [PackedThird, PackedThird, PackedThird];
    return [
      { part: pre, upstream: "dy", dz: { times: v } },
      { part: v, upstream: "dy", dz: { times: pre } },
      { part: post, upstream: "dpostgate", dz: "upstream" },
    ];
  }

  backward(): Schedule {
    const { length, dstateOut, state } = this.#places.call;
    const { kernelLength } = this.#places.problem;
    const end = Math.max(length, this.#places.outputLength - this.#biasShift);
    const few = kernelLength <= fusedTaps;
    const branches = this.#branches;
    /** Whether the kernel that sums a branch's gradients makes dz on the way. */
    const onTheWay = ({ dz }: Branch): boolean => (dz === "slope" ? few : this.#paired);
    const stored = branches.some((b) => b.dz !== "upstream" && !onTheWay(b));
    const pieces = this.#places.pieces(this.#begin, end, (piece) => {
      const sums = branches.length * this.#sumsBytes(piece);
      return stored ? Math.max(sums, bytesOf(piece, ...this.#reached(piece))) : sums;
    });
    for (const piece of pieces) {
      const last = dstateOut && piece.to >= length - kernelLength + 1;
      const sums = (
        part: PackedThird | undefined,
        form: FilterGradient["form"],
        d: PieceOperand,
      ): void => {
        const tail = last ? this.#places.state("dstateOut", "dstateOut", part) : undefined;
        const dx = this.#places.input("y", "dx", part, true);
        if (!few) this.#transposed(piece, [Math.max(0, piece.from), piece.to], d, dx, tail);
        this.#sums(piece, part, form, d, few ? dx : undefined, few ? tail : undefined);
      };
      if (this.#paired) sums("thirds", "gated", this.#upstream("dy"));
      for (const branch of branches) {
        const { part, dz, upstream } = branch;
        const inKernel = dz !== "upstream" && onTheWay(branch);
        const d =
          dz === "upstream" || inKernel
            ? this.#upstream(upstream)
            : { ...this.#dz(piece, branch, this.#reached(piece)), name: "dy" };
        if (dz === "upstream" || !this.#paired) sums(part, inKernel ? "activated" : "linear", d);
        // The piece with position 0 has what the state's gradient is made of.
        if (state && piece.from <= 0 && piece.to > 0)
          this.#stateGradient(piece, branch, inKernel ? undefined : d);
      }
      this.#totals(piece);
    }
    return this.#steps.finish();
  }

  #upstream(buffer: "dy" | "dpostgate"): PieceOperand {
    return this.#places.tensor("dy", buffer, this.#places.outputLength);
  }

  /** Gradient of the state: what the first outputs owe to it, and what is left of it in the state that was left behind. */
  #stateGradient(piece: CallPiece, branch: Branch, d: PieceOperand | undefined): void {
    const { part } = branch;
    const history = this.#places.problem.kernelLength - 1;
    const first = Math.min(history, this.#places.outputLength);
    const source = d ?? this.#dz(piece, branch, [0, first]);
    const target = this.#places.state("y", "dstate", part, true);
    const tail =
      this.#places.call.dstateOut && this.#places.call.length < history
        ? this.#places.state("dstateOut", "dstateOut", part)
        : undefined;
    this.#transposed(piece, [0, history], source, target, tail);
  }

  /** What of dz a piece needs: at least one position, so that there is something to bind. */
  #reached({ from, to }: CallPiece): Span {
    const { kernelLength, left } = this.#places.problem;
    const { outputLength } = this.#places;
    const clip = (n: number, least: number): number => Math.min(outputLength, Math.max(least, n));
    const first = Math.min(outputLength - 1, clip(from + left - (kernelLength - 1), 0));
    const aligned = first - (first % 8);
    return [aligned, clip(to + left, aligned + 1)];
  }

  /** What dy becomes before a filter whose output went on through an activation or a product, at positions of a piece. */
  #dz(piece: CallPiece, { part, upstream, dz }: Branch, [from, to]: Span): PieceOperand {
    const target = { ...this.#places.work("y", from, to - from), writes: true };
    const [filter, result] =
      typeof dz === "object" ? ([dz.times, "product"] as const) : ([part, "slope"] as const);
    const options = { ...this.#forwards(filter, target), upstream: this.#upstream(upstream) };
    this.#filter(piece, [from, to], { ...options, result });
    return { ...target, name: "x", writes: false };
  }

  /** The transposed filter: dz → dx, or dstate, whose positions are K − 1 before those of x. */
  #transposed(
    piece: CallPiece,
    span: Span,
    d: PieceOperand,
    target: PieceOperand,
    tail: PieceOperand | undefined,
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

  #filter(piece: CallPiece, [from, to]: Span, options: FilterOptions): void {
    if (from >= to) return;
    const { source, history, upstream, target, postgate, tail, tailShift = 0, ...rest } = options;
    const { kernelLength, layout } = this.#places.problem;
    const few = kernelLength <= tapsAtOnce[layout];
    const most = few ? this.#runMost(postgate !== undefined) : 8;
    const run = this.#run(most, [source, target, ...(postgate ? [postgate] : [])], to - from);
    const strips = this.#places.across ? 1 : forwardSamples / run;
    const runs = this.#steps.runs(piece, [from, to], run, strips);
    const end = from + runs.runs * run;
    const { lines, bound } = this.#steps.tensors(piece, {
      source: [source, [from - rest.left, end - rest.left + kernelLength]],
      target: [target, [from, to]],
      postgate: [postgate, [from, to]],
      history: [history, [0, kernelLength]],
      upstream: [upstream, [from, end]],
      tail: [tail, [0, kernelLength]],
    });
    const spec = {
      ...{ kind: "filter", ...rest, ...lines, kernelLength, spread: runs.spread },
      ...{ machine: this.#steps.machine, activation: this.#activation },
      ...(postgate && { thirds: [0, 2, 1].map((i) => this.#order[i]!) }),
      wideTaps: this.#wideTaps && few,
      whole: ((target.first ?? 0) + target.size - from) % run === 0,
    } as Filter;
    const kernel = this.#steps.kernel(spec, filterKernel);
    const taps = this.#filters(piece, source.part ?? target.part, spec.wideTaps);
    const shift = { ranges: {}, parameters: { tail_shift: tailShift } };
    this.#steps.launch(kernel, piece, runs, [...bound, taps, shift]);
  }

  /**
   * Positions that a thread holds at once: along a row as many as its accesses span, across the channels up to `most`; few where
   * every store is one of its own, or where a processor, which compiles long kernels slowly, plays the GPU.
   */
  #run(most: number, tensors: readonly PieceOperand[], positions: number): number {
    const { dtype } = this.#places.problem;
    if (!this.#places.across) return dtype === "float32" ? 4 : 8;
    const single = tensors.some((t) => t.dtype !== "float32" && t.width === 1);
    const slow = single || this.#steps.limits.slowFma === true;
    return Math.min(slow ? 4 : most, powerOver(positions));
  }

  /** How the runs of a gradient's piece go to threads. */
  #gradientRuns(piece: CallPiece): PieceRuns {
    const { across, cell } = this.#places;
    const { from, to, batch, channels } = piece;
    // Along a row, runs of eight float32 meet the ends of their windows half as often.
    const run = across ? this.#run(this.#paired ? 4 : 8, [this.#x(undefined)], 8) : 8;
    const most = gradientSamples / run;
    const all = (batch * Math.ceil((to - from) / run) * channels) / cell;
    const few = Math.min(most, powerOver(all / enoughThreads + 1) / 2) || 1;
    return this.#steps.runs(piece, [from, to], run, across ? Math.max(1, few) : most);
  }

  /** Bytes of the sums of one filter for each channel; those of another third begin at the next multiple. */
  #sumsBytes(piece: CallPiece): number {
    const each = this.#places.problem.kernelLength + 1;
    const bytes = this.#steps.sumBytes(piece, this.#gradientRuns(piece), each);
    return this.#packs ? roundUp(bytes, this.#steps.limits.alignment) : bytes;
  }

  /** Where the sums of a third are, or of all. */
  #sumsRange(piece: CallPiece, part: PackedThird | undefined): BufferRange {
    const bytes = this.#sumsBytes(piece);
    return typeof part === "number"
      ? { buffer: "sums", offset: part * bytes, size: bytes }
      : { buffer: "sums", offset: 0, size: bytes * widths(this.#places.problem.form).branches };
  }

  #sums(
    piece: CallPiece,
    part: PackedThird | undefined,
    form: FilterGradient["form"],
    d: PieceOperand,
    target: PieceOperand | undefined,
    tail: PieceOperand | undefined,
  ): void {
    const { kernelLength, left } = this.#places.problem;
    const runs = this.#gradientRuns(piece);
    const { spread, begin } = runs;
    const x = this.#x(part);
    const taps = this.#tapsSummed;
    const [pre, , v] = this.#order;
    const end = begin + runs.runs * spread.run;
    const around: Span = [begin - kernelLength, end + kernelLength];
    const { lines, bound } = this.#steps.tensors(piece, {
      source: [x, around],
      upstream: [d, [around[0] + left, end + left]],
      history: [this.#history(part), [0, kernelLength]],
      target: [target, [begin, end]],
      tail: [tail, [0, kernelLength]],
    });
    const spec = {
      ...{ kind: "gradient", ...lines, kernelLength, left, taps, form, spread },
      ...{ machine: this.#steps.machine, activation: this.#activation },
      ...(form === "gated" && { thirds: [pre!, v!] }),
      bias: form !== "linear" && this.#places.call.bias,
      wideTaps: this.#wideTaps && kernelLength <= fusedTaps,
      whole: (x.size - begin) % spread.run === 0,
    } as FilterGradient;
    const kernel = this.#steps.kernel(spec, gradientKernel);
    const sums = this.#sumsRange(piece, part);
    this.#places.need("sums", sums.offset + sums.size);
    const parameters = {
      tail_shift: kernelLength - 1 - this.#places.call.length,
      sums_third: this.#sumsBytes(piece) / (4 * this.#places.cell),
    };
    const given = [...bound, this.#filters(piece, part, spec.wideTaps)];
    const blocks = Math.ceil(kernelLength / taps);
    this.#steps.launch(kernel, piece, runs, [...given, { ranges: { sums }, parameters }], blocks);
  }

  /** Sums of a piece's workgroups, added up. */
  #totals(piece: CallPiece): void {
    const { kernelLength, channels } = this.#places.problem;
    const isFirst = piece.batchFrom === 0 && piece.from === this.#begin;
    const together = this.#packs && this.#places.together;
    const spec = { taps: kernelLength, each: kernelLength + 1, thirds: together ? 3 : 1 };
    const parameters = { sums_third: this.#sumsBytes(piece) / 4, third: channels };
    for (const part of together ? (["thirds"] as const) : this.#parts) {
      const results = [this.#ofChannels("dweight", piece, part, kernelLength)];
      if (this.#places.call.bias) results.push(this.#ofChannels("dbias", piece, part, 1));
      const ranges = { sums: this.#sumsRange(piece, part) };
      const sums = { ranges, parameters };
      this.#steps.totals(spec, piece, this.#gradientRuns(piece), isFirst, results, sums);
    }
  }

  /** Values of a piece's channels, `each` for a channel. */
  #ofChannels(
    buffer: "weight" | "bias" | "dweight" | "dbias",
    piece: CallPiece,
    part: PackedThird | undefined,
    each: number,
    elementBytes = 4,
  ): Bound {
    const { first, beyond } = this.#places.channels(part);
    const begin = (first + piece.channelFrom) * each * 4;
    const bytes = (beyond + piece.channels) * each * 4;
    return this.#places.values(buffer, buffer, begin, bytes, elementBytes);
  }

  /** Taps and biases of a piece's channels. */
  #filters(piece: CallPiece, part: PackedThird | undefined, wide: boolean): Bound {
    const { kernelLength, channels } = this.#places.problem;
    const taps = this.#ofChannels("weight", piece, part, kernelLength, wide ? 16 : 4);
    const bias = this.#ofChannels("bias", piece, part, 1);
    return {
      ranges: { ...taps.ranges, ...bias.ranges },
      parameters: { ...taps.parameters, ...bias.parameters, third: channels / this.#places.cell },
    };
  }

  get #wideTaps(): boolean {
    return this.#places.cell === 4 && this.#places.offset("weight") % 16 === 0;
  }

  /** Most outputs that follow one another in a thread, of filters whose taps it holds all at once. */
  #runMost(gated: boolean): number {
    const { across, problem } = this.#places;
    if (across && problem.dtype !== "float32") return acrossSamples;
    return gated ? forwardSamples / 2 : forwardSamples;
  }
}

/** What a filter is made of: its kernel's properties, and tensors. */
type FilterOptions = Pick<Filter, "taps" | "left" | "bias" | "result"> & {
  readonly source: PieceOperand;
  readonly history?: PieceOperand | undefined;
  readonly upstream?: PieceOperand | undefined;
  readonly target: PieceOperand;
  readonly postgate?: PieceOperand | undefined;
  readonly tail?: PieceOperand | undefined;
  readonly tailShift?: number;
};

/** Bytes of work memory for positions of a piece. */
const bytesOf = ({ batch, channels }: CallPiece, from: number, to: number): number =>
  batch * channels * roundUp(Math.max(0, to - from), 8) * 4;
