/** Steps whose threads walk runs of positions (kernels/gpu/filter): of short convolutions, and of long ones in the time domain. */
import type { RunSpread, Walked } from "../kernels/gpu/filter/runs.ts";
import { depthwiseThreads } from "../kernels/gpu/filter/runs.ts";
import type { Lines } from "../kernels/gpu/filter/samples.ts";
import type { Totals } from "../kernels/gpu/filter/sums.ts";
import { sumsBeside, totalsKernel } from "../kernels/gpu/filter/sums.ts";
import type { Kernel } from "../kernels/gpu/kernel.ts";
import type { DepthwiseProblem } from "../plan/depthwise.ts";
import type { Bound, CallPiece, DepthwiseGpuCall, PieceOperand, Span } from "./pieces.ts";
import { CallPlaces, roundUp } from "./pieces.ts";
import type { GpuLimits, Schedule, ScheduleStep } from "./schedule.ts";

/** The runs of a piece, and how they go to threads. */
export interface PieceRuns {
  readonly spread: RunSpread;
  /** First position of the first run. */
  readonly begin: number;
  readonly runs: number;
}

export const powerOver = (n: number): number => 2 ** Math.ceil(Math.log2(Math.max(1, n)));

/** Lanes side by side along the channels, so that few are idle: as many as have a whole line of memory each. */
function lanesAcross(cells: number): number {
  const waste = (lanes: number): number => roundUp(cells, lanes);
  return [16, 32].reduce(
    (best, lanes) => (waste(lanes) <= waste(best) ? lanes : best),
    Math.min(8, powerOver(cells)),
  );
}

/** The steps of a call under construction, and the places of its tensors. */
export class RunSteps {
  readonly places: CallPlaces;
  readonly limits: GpuLimits;
  readonly #kernels: Map<string, Kernel>;
  readonly #steps: ScheduleStep[] = [];

  /** `kernels`: those that earlier calls made, by their specification. */
  constructor(
    kernels: Map<string, Kernel>,
    problem: DepthwiseProblem,
    limits: GpuLimits,
    call: DepthwiseGpuCall,
  ) {
    this.#kernels = kernels;
    this.limits = limits;
    this.places = new CallPlaces(problem, limits, call);
  }

  finish(): Schedule {
    return { steps: this.#steps, bytes: this.places.bytes };
  }

  push(kernel: Kernel, tiles: number, given: readonly Bound[]): void {
    const ranges: Bound["ranges"] = Object.assign({}, ...given.map((g) => g.ranges));
    this.#steps.push({
      kernel,
      tiles,
      parameters: Object.assign({}, ...given.map((g) => g.parameters)),
      ranges: Object.fromEntries(kernel.bindings.map(({ name }) => [name, ranges[name]!])),
    });
  }

  /** The kernel of a specification, which its text tells from all others. */
  kernel<Spec>(spec: Spec, make: (spec: Spec) => Kernel): Kernel {
    const key = JSON.stringify(spec);
    const kernel = this.#kernels.get(key) ?? make(spec);
    this.#kernels.set(key, kernel);
    return kernel;
  }

  /** The part of a device that texts depend on. */
  get machine(): Walked["machine"] {
    const { packs = false, slowFma = false } = this.limits;
    return { packs, slowFma };
  }

  /** A tensor as its kernel sees it. */
  lines({ name, dtype, width, writes, part }: PieceOperand): Lines {
    const { layout } = this.places.problem;
    const packed = this.places.apart(part);
    return { name, dtype, layout, width, ...(writes && { writes }), ...(packed && { packed }) };
  }

  /** Positions [from, to) in runs of `run`, of which a thread takes `strips`. */
  runs(piece: CallPiece, [from, to]: Span, run: number, strips: number): PieceRuns {
    const { across, cell, problem } = this.places;
    const runs = Math.ceil((to - from) / run);
    const lanes = across
      ? lanesAcross(piece.channels / cell)
      : Math.min(depthwiseThreads, powerOver(Math.ceil(runs / strips)));
    return { spread: { layout: problem.layout, cell, run, lanes, strips }, begin: from, runs };
  }

  #counts(piece: CallPiece, { spread, runs }: PieceRuns) {
    const { lanes, strips } = spread;
    const { across, cell } = this.places;
    const cells = piece.channels / cell;
    return {
      cells,
      pieces: Math.ceil(runs / strips),
      chunks: Math.ceil(across ? cells / lanes : runs / (lanes * strips)),
      lines: across ? piece.batch : piece.batch * piece.channels,
    };
  }

  /** Workgroups that have sums of the same channels. */
  #workgroups(piece: CallPiece, runs: PieceRuns): number {
    const { pieces, chunks } = this.#counts(piece, runs);
    if (!this.places.across) return piece.batch * chunks;
    return Math.ceil((piece.batch * pieces) / (depthwiseThreads / runs.spread.lanes));
  }

  /** Bytes of the sums that the workgroups of a piece store, `each` for a channel. */
  sumBytes(piece: CallPiece, runs: PieceRuns, each: number): number {
    return this.#workgroups(piece, runs) * each * piece.channels * 4;
  }

  /** Tensors as their kernel sees them, and bound at the positions that it reads or writes; those that a step lacks are left out. */
  tensors<Name extends string>(
    piece: CallPiece,
    given: Readonly<Record<Name, readonly [PieceOperand | undefined, Span]>>,
  ): { readonly lines: Partial<Record<Name, Lines>>; readonly bound: readonly Bound[] } {
    const lines: Partial<Record<Name, Lines>> = {};
    const bound: Bound[] = [];
    for (const name in given) {
      const [operand, span] = given[name];
      if (!operand) continue;
      lines[name] = this.lines(operand);
      bound.push(this.places.bind(operand, piece, span));
    }
    return { lines, bound };
  }

  /** A launch over the runs of a piece; with more than one of `blocks`, each block of taps has workgroups of its own. */
  launch(
    kernel: Kernel,
    piece: CallPiece,
    runs: PieceRuns,
    given: readonly Bound[],
    blocks = 1,
  ): void {
    const counts = this.#counts(piece, runs);
    const { chunks, lines, pieces } = counts;
    const groups = this.places.across ? lines * pieces : lines;
    const tiles = chunks * Math.ceil(groups / (depthwiseThreads / runs.spread.lanes)) * blocks;
    const own = { begin: runs.begin, runs: runs.runs, ...counts, span: piece.channels };
    this.push(kernel, tiles, [{ ranges: {}, parameters: own }, ...given]);
  }

  /**
   * The sums of a piece's workgroups, added up: those of taps to the first of `results`, those behind them to the second. They replace
   * what is there where the piece is the first of its channels, and join it elsewhere.
   */
  totals(
    spec: Omit<Totals, "results">,
    piece: CallPiece,
    runs: PieceRuns,
    isFirst: boolean,
    results: readonly Bound[],
    sums: Bound,
  ): void {
    const { channels } = piece;
    const names = results.flatMap((r) => Object.keys(r.ranges));
    const items = (spec.taps + names.length - 1) * channels;
    const tiles = Math.ceil(items / sumsBeside);
    const clear = isFirst && !this.places.call.add ? 1 : 0;
    const parts = this.#workgroups(piece, runs);
    const parameters = { parts, items, span: channels, clear, tiles };
    const kernel = this.kernel({ ...spec, results: names }, totalsKernel);
    this.push(kernel, spec.thirds * tiles, [{ ranges: {}, parameters }, sums, ...results]);
  }
}
