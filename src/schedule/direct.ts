/**
 * Calls in the time domain as lists of steps: which kernels, on which pieces of which buffers. Forward is one launch, besides
 * the one that lays out the taps. Backward is one that reads every tensor once, where a kernel may bind them all and the taps
 * are few enough to be met at once, and one that adds up the sums of its workgroups.
 */
import type { Dtype } from "../dtype.ts";
import { bytesPerSample } from "../dtype.ts";
import { directBytes } from "../kernels/cpu/direct-program.ts";
import { sumsBeside } from "../kernels/gpu/filter/depthwise.ts";
import type { DirectKernel, LagFilter, LagSums } from "../kernels/gpu/filter/direct.ts";
import {
  directKernel,
  directTapsAtOnce,
  directTotals,
  layOutTaps,
  sumBlocks,
  sumsEach,
} from "../kernels/gpu/filter/direct.ts";
import type { RunSpread } from "../kernels/gpu/filter/runs.ts";
import { depthwiseThreads } from "../kernels/gpu/filter/runs.ts";
import type { Lines } from "../kernels/gpu/filter/samples.ts";
import { widthFor } from "../kernels/gpu/filter/samples.ts";
import type { Kernel } from "../kernels/gpu/kernel.ts";
import type { TensorName } from "../kernels/gpu/storage.ts";
import type { Output } from "../kernels/gpu/transform/spec.ts";
import type { Part } from "../plan/geometry.ts";
import type { Problem } from "../plan/problem.ts";
import type { CallPiece, PieceOperand, Span } from "./pieces.ts";
import { CallPlaces, roundUp } from "./pieces.ts";
import type {
  BufferName,
  BufferRange,
  CallScheduler,
  GpuCall,
  GpuLimits,
  Schedule,
  ScheduleStep,
} from "./schedule.ts";

/** Outputs of a thread that only filters, and samples of one that sums gradients. */
const filterSamples = 16;
const sumSamples = 64;

/** What one launch does. */
interface Launch {
  readonly filters: readonly LagFilter[];
  readonly sums?: LagSums | undefined;
}

/** Tensors that a launch reads, and those that it writes. */
function tensorsOf({ filters, sums }: Launch): { reads: TensorName[]; writes: TensorName[] } {
  const outputs = filters.flatMap((f) => f.outputs);
  const reads = [
    ...filters.flatMap((f) => f.factors),
    ...outputs.flatMap(({ gates, skipped }) => [...gates, ...(skipped ? [skipped] : [])]),
    ...(sums ? [...sums.x, ...sums.g] : []),
  ];
  return { reads: [...new Set(reads)], writes: outputs.map((o) => o.tensor) };
}

/** Storage buffers that a launch binds. */
function bindingsOf(launch: Launch): number {
  const { reads, writes } = tensorsOf(launch);
  const { filters, sums } = launch;
  const skipped = filters.some((f) => f.outputs.some((o) => o.skipped));
  const others = [filters.length > 0, skipped, sums !== undefined].filter(Boolean);
  return reads.length + writes.length + others.length;
}

/** Which side of a row its neighbours of a circular row are read on: taps reach back, those of gradients ahead. */
const sides: Partial<Record<TensorName, "before" | "behind">> = {
  ...({ u: "before", pregate: "before", dy: "behind", postgate: "behind" } as const),
};

/** Rows of outputs; all others are as long as u. */
const outputRows: ReadonlySet<string> = new Set<TensorName>(["y", "dy", "postgate", "dpostgate"]);

const powerOver = (n: number): number => 2 ** Math.ceil(Math.log2(Math.max(1, n)));

/** Makes schedules for one convolution in the time domain, and remembers kernels. */
export class DirectScheduler implements CallScheduler {
  readonly problem: Problem;
  readonly part: Part;
  readonly limits: GpuLimits;
  /** Lags that taps act at, from −ahead on. */
  readonly taps: number;
  readonly spectrumBytes: number;
  readonly transformBytes: number;
  readonly #kernels = new Map<string, Kernel>();

  /** `part`: a row as one block (plan/geometry.ts). */
  constructor(problem: Problem, part: Part, limits: GpuLimits) {
    this.problem = problem;
    this.part = part;
    this.limits = limits;
    const { behind, ahead } = part.blocks!;
    this.taps = behind + ahead + 1;
    this.spectrumBytes = directBytes(part).taps;
    this.transformBytes = this.spectrumBytes;
  }

  tables(): Record<string, never> {
    return {};
  }

  spectra(channels: number, taps: Dtype, offset: number): Schedule {
    const rest = { pregate: false, postgate: false, skip: false, taps };
    const call = new DirectScheduleBuilder(this, {
      batch: 1,
      channels,
      ...rest,
      offsets: { k: offset },
    });
    call.layOut(0, channels, taps);
    return call.finish();
  }

  forward(call: GpuCall): Schedule {
    return new DirectScheduleBuilder(this, call).forward();
  }

  backward(call: GpuCall): Schedule {
    return new DirectScheduleBuilder(this, call).backward();
  }

  /** The kernel of that key. */
  remembered(key: string, make: () => Kernel): Kernel {
    const kernel = this.#kernels.get(key) ?? make();
    this.#kernels.set(key, kernel);
    return kernel;
  }
}

/** A schedule under construction. */
class DirectScheduleBuilder {
  readonly #scheduler: DirectScheduler;
  readonly #call: GpuCall;
  readonly #places: CallPlaces;
  readonly #steps: ScheduleStep[] = [];
  /** Channels whose taps are laid out. */
  #laidOut: { readonly from: number; readonly count: number } | undefined;

  constructor(scheduler: DirectScheduler, call: GpuCall) {
    this.#scheduler = scheduler;
    this.#call = call;
    const { problem, part, taps, limits } = scheduler;
    const { behind } = part.blocks!;
    // Rows and their neighbours are those of a short convolution whose outputs begin `behind` positions into them.
    const right = problem.outputLength - problem.length - behind + taps - 1;
    const shape = { layout: "BHL", form: "linear", left: behind, right } as const;
    this.#places = new CallPlaces(
      { ...shape, channels: call.channels, kernelLength: taps, dtype: problem.dtype },
      limits,
      {
        ...{ name: "FlashFFTConv", batch: call.batch, length: problem.length, bias: false },
        ...{ state: false, stateOut: "none", dstateOut: false, offsets: call.offsets },
      },
    );
  }

  finish(): Schedule {
    return { steps: this.#steps, bytes: this.#places.bytes };
  }

  get #x(): readonly TensorName[] {
    return ["u", ...(this.#call.pregate ? (["pregate"] as const) : [])];
  }

  get #g(): readonly TensorName[] {
    return ["dy", ...(this.#call.postgate ? (["postgate"] as const) : [])];
  }

  forward(): Schedule {
    const { postgate, skip } = this.#call;
    const output: Output = {
      ...{ tensor: "y", gates: postgate ? ["postgate"] : [] },
      ...(skip && { skipped: "u" }),
    };
    const filters = [{ transposed: false, factors: this.#x, outputs: [output] }];
    const { outputLength } = this.#scheduler.problem;
    for (const piece of this.#places.pieces(0, outputLength, (p) => this.#tapBytes(p))) {
      this.#tapsFor(piece);
      this.#launch(piece, [piece.from, piece.to], { filters });
    }
    return this.finish();
  }

  backward(): Schedule {
    const { length, outputLength } = this.#scheduler.problem;
    const end = Math.max(length, outputLength);
    const work = (piece: CallPiece): number =>
      Math.max(this.#tapBytes(piece), this.#sumBytes(piece));
    const launches = this.#gradientLaunches();
    for (const piece of this.#places.pieces(0, end, work)) {
      this.#tapsFor(piece);
      for (const launch of launches) this.#launch(piece, [piece.from, piece.to], launch);
      this.#totals(piece);
    }
    return this.finish();
  }

  /** What backward launches for a piece: as few as bindings allow, and as tensors are read but once with few taps alone. */
  #gradientLaunches(): Launch[] {
    const { pregate, postgate, skip } = this.#call;
    const { taps, limits } = this.#scheduler;
    const [x, g] = [this.#x, this.#g];
    const dpostgate: LagFilter = {
      ...{ transposed: false, factors: x },
      outputs: [{ tensor: "dpostgate", gates: ["dy"] }],
    };
    const du: LagFilter = {
      ...{ transposed: true, factors: g },
      outputs: [
        { tensor: "du", gates: pregate ? ["pregate"] : [], ...(skip && { skipped: "dy" }) },
        ...(pregate ? [{ tensor: "dpregate", gates: ["u"] } as const] : []),
      ],
    };
    const sums: LagSums = { x, g, skip };
    const behind = postgate ? [dpostgate] : [];
    const apart = behind.map((filter) => ({ filters: [filter] }));
    const ways: Launch[][] = [
      [{ filters: [...behind, du], sums }],
      [...apart, { filters: [du], sums }],
      [...apart, { filters: [du] }, { filters: [], sums }],
    ];
    const few = taps <= directTapsAtOnce;
    const fits = (way: Launch[]): boolean => way.every((l) => bindingsOf(l) <= limits.bindings);
    return ways.slice(few ? 0 : 2).find(fits) ?? ways[2]!;
  }

  /** Whether there is room for the taps of all channels of a call at once. */
  get #allTaps(): boolean {
    const { workspaceBytes, bindingBytes } = this.#scheduler.limits;
    const bytes = this.#call.channels * this.#scheduler.spectrumBytes;
    return bytes <= Math.min(workspaceBytes / 2, bindingBytes);
  }

  /** Bytes of what is laid out for a piece of its own. */
  #tapBytes({ channels }: CallPiece): number {
    const own = this.#call.taps !== undefined && !this.#allTaps;
    return own ? channels * this.#scheduler.spectrumBytes : 0;
  }

  /** Lay out the taps of a piece's channels, unless that is done or they are kept. */
  #tapsFor({ channelFrom, channels }: CallPiece): void {
    const { taps, channels: all } = this.#call;
    if (!taps) return;
    const wanted = this.#allTaps ? { from: 0, count: all } : { from: channelFrom, count: channels };
    const known = this.#laidOut;
    if (known?.from === wanted.from && known.count === wanted.count) return;
    this.layOut(wanted.from, wanted.count, taps);
    this.#laidOut = wanted;
    this.#places.need("spectrum", wanted.count * this.#scheduler.spectrumBytes);
  }

  /** Taps of channels [from, from + count) in the order of their lags, at the beginning of the buffer for spectra. */
  layOut(from: number, count: number, dtype: Dtype): void {
    const { problem, part, spectrumBytes, limits } = this.#scheduler;
    const { kernelLength } = problem;
    const tapBytes = kernelLength * bytesPerSample(dtype);
    const room = limits.bindingBytes - limits.alignment - 64;
    const most = Math.max(1, Math.floor(room / Math.max(tapBytes, spectrumBytes)));
    const pitch = spectrumBytes / 4;
    const kernel = this.#scheduler.remembered(`taps ${dtype}`, () =>
      layOutTaps(part, kernelLength, pitch, dtype),
    );
    for (let c = 0; c < count; c += most) {
      const n = Math.min(most, count - c);
      const k = this.#places.range("k", (from + c) * tapBytes, n * tapBytes, bytesPerSample(dtype));
      const taps = this.#places.range("spectrum", c * spectrumBytes, n * spectrumBytes, 4);
      this.#steps.push({
        kernel,
        tiles: n * pitch,
        parameters: { tiles: n * pitch, u: k.first, taps: taps.first },
        ranges: { u: k.range, taps: taps.range },
      });
    }
  }

  /** A tensor as accesses see it: of a circular row they fit its period too. */
  #tensor(name: TensorName, writes: boolean): PieceOperand {
    const { length, outputLength, period, dtype } = this.#scheduler.problem;
    const size = outputRows.has(name) ? outputLength : length;
    const tensor = this.#places.tensor(name, name, size, writes);
    if (!period || writes) return tensor;
    const around = widthFor(dtype, "BHL", period, this.#places.offset(name));
    return around < tensor.width ? { ...tensor, width: around } : tensor;
  }

  #lines({ name, dtype, width, writes }: PieceOperand): Lines {
    const { period } = this.#scheduler.problem;
    const wraps = period > 0 && !writes ? sides[name as TensorName] : undefined;
    return {
      name,
      dtype,
      layout: "BHL",
      width,
      ...(writes && { writes }),
      ...(wraps && { wraps }),
    };
  }

  /** How positions [from, to) of a piece's rows go to threads. */
  #spread([from, to]: Span, sums: boolean): { spread: RunSpread; runs: number; chunks: number } {
    const { dtype } = this.#scheduler.problem;
    // Along a row, runs of eight float32 meet the ends of their windows half as often.
    const run = sums || dtype !== "float32" ? 8 : 4;
    const strips = (sums ? sumSamples : filterSamples) / run;
    const runs = Math.ceil((to - from) / run);
    const lanes = Math.min(depthwiseThreads, powerOver(Math.ceil(runs / strips)));
    const spread = { layout: "BHL", cell: 1, run, lanes, strips } as const;
    return { spread, runs, chunks: Math.ceil(runs / (lanes * strips)) };
  }

  #launch(piece: CallPiece, span: Span, launch: Launch): void {
    const { problem, part, taps, limits, spectrumBytes } = this.#scheduler;
    const { behind, ahead } = part.blocks!;
    const { reads, writes } = tensorsOf(launch);
    const { spread, runs, chunks } = this.#spread(span, launch.sums !== undefined);
    const [begin] = span;
    const end = begin + runs * spread.run;
    const operands = [
      ...reads.map((name) => this.#tensor(name, false)),
      ...writes.map((name) => this.#tensor(name, true)),
    ];
    const { packs = false, slowFma = false } = limits;
    const spec: DirectKernel = {
      ...{ spread, machine: { packs, slowFma }, taps, ahead, pitch: spectrumBytes / 4 },
      ...{ tensors: operands.map((o) => this.#lines(o)), ...launch },
      whole: operands.every((o) => !o.writes || (o.size - begin) % spread.run === 0),
    };
    const kernel = this.#scheduler.remembered(JSON.stringify(spec), () => directKernel(spec));
    // Accesses reach as far around a run as its window, and end at multiples of their own width.
    const reach = Math.max(behind, ahead) + 8;
    const around = (size: number): Span =>
      problem.period > 0 ? [0, size] : [begin - reach, end + reach];
    const bound = operands.map((o) => this.#places.bind(o, piece, around(o.size)));
    const { channelFrom, channels, batch } = piece;
    const first = channelFrom - (this.#laidOut?.from ?? 0);
    const w = this.#places.range("spectrum", first * spectrumBytes, channels * spectrumBytes, 16);
    const skip = this.#places.range("skip", channelFrom * 4, channels * 4, 4);
    const named: Record<string, BufferRange> = { taps: w.range, skip: skip.range };
    if (launch.sums) named.sums = this.#sumsRange(piece);
    for (const { ranges } of bound) Object.assign(named, ranges);
    const lines = batch * channels;
    const groups = Math.ceil(lines / (depthwiseThreads / spread.lanes));
    this.#steps.push({
      kernel,
      tiles: chunks * groups * (launch.sums ? sumBlocks(taps) : 1),
      parameters: Object.assign(
        { begin, runs, chunks, lines, span: channels, period: problem.period },
        { taps: w.first, skip: skip.first },
        ...bound.map((b) => b.parameters),
      ),
      ranges: Object.fromEntries(kernel.bindings.map(({ name }) => [name, named[name]!])),
    });
  }

  /** Workgroups that have sums of the same channels. */
  #parts(piece: CallPiece): number {
    return piece.batch * this.#spread([piece.from, piece.to], true).chunks;
  }

  #sumBytes(piece: CallPiece): number {
    const each = sumsEach(this.#scheduler.taps, this.#call.skip);
    return this.#parts(piece) * each * piece.channels * 4;
  }

  #sumsRange(piece: CallPiece): BufferRange {
    const size = roundUp(this.#sumBytes(piece), 8);
    this.#places.need("sums", size);
    return { buffer: "sums", offset: 0, size };
  }

  /** Sums of a piece's workgroups, added up; later pieces of the same channels add theirs. */
  #totals(piece: CallPiece): void {
    const { problem, part, taps } = this.#scheduler;
    const { kernelLength } = problem;
    const { skip, add = false } = this.#call;
    const { channelFrom, channels, batchFrom, from } = piece;
    const parts = this.#parts(piece);
    const items = sumsEach(kernelLength, skip) * channels;
    const found = (buffer: BufferName, each: number) =>
      this.#places.range(buffer, channelFrom * each * 4, channels * each * 4, 4);
    const [dk, dskip] = [found("dk", kernelLength), found("dskip", 1)];
    this.#steps.push({
      kernel: this.#scheduler.remembered(`totals ${skip}`, () =>
        directTotals(part, taps, kernelLength, skip),
      ),
      tiles: Math.ceil(items / sumsBeside),
      parameters: {
        ...{ parts, items, span: channels, clear: !add && batchFrom === 0 && from === 0 ? 1 : 0 },
        ...{ dk: dk.first, dskip: dskip.first },
      },
      ranges: { sums: this.#sumsRange(piece), dk: dk.range, ...(skip && { dskip: dskip.range }) },
    });
  }
}
