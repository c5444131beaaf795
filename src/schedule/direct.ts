/**
 * Calls in the time domain as lists of steps: which kernels, on which pieces of which buffers. Forward is one launch, besides
 * the one that lays out the taps. Backward is one that reads every tensor once, where a kernel may bind them all and the taps
 * are few enough to be met at once, and one that adds up the sums of its workgroups.
 */
import type { Dtype } from "../dtype.ts";
import { bytesPerSample } from "../dtype.ts";
import { directBytes } from "../kernels/cpu/direct-program.ts";
import type { DirectKernel, LagFilter, LagSums } from "../kernels/gpu/filter/direct.ts";
import {
  directKernel,
  directTapsAtOnce,
  lagRuns,
  layOutTaps,
  sumBlocks,
} from "../kernels/gpu/filter/direct.ts";
import type { Lines } from "../kernels/gpu/filter/samples.ts";
import { widthFor } from "../kernels/gpu/filter/samples.ts";
import type { Kernel } from "../kernels/gpu/kernel.ts";
import type { TensorName } from "../kernels/gpu/storage.ts";
import type { Output } from "../kernels/gpu/transform/spec.ts";
import type { Part } from "../plan/geometry.ts";
import type { Problem } from "../plan/problem.ts";
import type { Bound, CallPiece, CallPlaces, PieceOperand, Span } from "./pieces.ts";
import { roundUp } from "./pieces.ts";
import type { PieceRuns } from "./run-steps.ts";
import { RunSteps } from "./run-steps.ts";
import type { CallScheduler, GpuCall, GpuLimits, Schedule } from "./schedule.ts";

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
    const call = { batch: 1, channels, ...rest, offsets: { k: offset } };
    return new DirectScheduleBuilder(this, call, this.#kernels).spectra(taps);
  }

  forward(call: GpuCall): Schedule {
    return new DirectScheduleBuilder(this, call, this.#kernels).forward();
  }

  backward(call: GpuCall): Schedule {
    return new DirectScheduleBuilder(this, call, this.#kernels).backward();
  }
}

/** A schedule under construction. */
class DirectScheduleBuilder {
  readonly #scheduler: DirectScheduler;
  readonly #call: GpuCall;
  readonly #steps: RunSteps;
  readonly #places: CallPlaces;
  /** Channels whose taps are laid out. */
  #laidOut: { readonly from: number; readonly count: number } | undefined;

  constructor(scheduler: DirectScheduler, call: GpuCall, kernels: Map<string, Kernel>) {
    this.#scheduler = scheduler;
    this.#call = call;
    const { problem, part, taps, limits } = scheduler;
    const { behind } = part.blocks!;
    // Rows and their neighbours are those of a short convolution whose outputs begin `behind` positions into them.
    const right = problem.outputLength - problem.length - behind + taps - 1;
    const shape = { layout: "BHL", form: "linear", left: behind, right } as const;
    this.#steps = new RunSteps(
      kernels,
      { ...shape, channels: call.channels, kernelLength: taps, dtype: problem.dtype },
      limits,
      {
        ...{ name: "FlashFFTConv", batch: call.batch, length: problem.length, bias: false },
        ...{ state: false, stateOut: "none", dstateOut: false, offsets: call.offsets },
        add: call.add ?? false,
      },
    );
    this.#places = this.#steps.places;
  }

  /** The taps of all channels, to be kept. */
  spectra(dtype: Dtype): Schedule {
    this.#layOut(0, this.#call.channels, dtype);
    return this.#steps.finish();
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
    return this.#steps.finish();
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
    return this.#steps.finish();
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
    this.#layOut(wanted.from, wanted.count, taps);
    this.#laidOut = wanted;
    this.#places.need("spectrum", wanted.count * this.#scheduler.spectrumBytes);
  }

  /** Taps of channels [from, from + count) in the order of their lags, at the beginning of the buffer for spectra. */
  #layOut(from: number, count: number, dtype: Dtype): void {
    const { problem, part, spectrumBytes, limits } = this.#scheduler;
    const { kernelLength } = problem;
    const tapBytes = kernelLength * bytesPerSample(dtype);
    const room = limits.bindingBytes - limits.alignment - 64;
    const most = Math.max(1, Math.floor(room / Math.max(tapBytes, spectrumBytes)));
    const pitch = spectrumBytes / 4;
    const kernel = this.#steps.kernel({ taps: dtype }, () =>
      layOutTaps(part, kernelLength, pitch, dtype),
    );
    for (let c = 0; c < count; c += most) {
      const n = Math.min(most, count - c);
      const tiles = n * pitch;
      this.#steps.push(kernel, tiles, [
        { ranges: {}, parameters: { tiles } },
        this.#places.values("u", "k", (from + c) * tapBytes, n * tapBytes, bytesPerSample(dtype)),
        this.#places.values("taps", "spectrum", c * spectrumBytes, n * spectrumBytes, 4),
      ]);
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

  /** A tensor as its kernel sees it, and where it goes on in its period. */
  #lines(operand: PieceOperand): Lines {
    const wraps = sides[operand.name as TensorName];
    const around = this.#scheduler.problem.period > 0 && !operand.writes && wraps;
    return { ...this.#steps.lines(operand), ...(around && { wraps }) };
  }

  /** How positions of a piece's rows go to threads. */
  #runs(piece: CallPiece, span: Span, sums: boolean): PieceRuns {
    const { dtype } = this.#scheduler.problem;
    // Along a row, runs of eight float32 meet the ends of their windows half as often.
    const run = sums || dtype !== "float32" ? 8 : 4;
    return this.#steps.runs(piece, span, run, (sums ? sumSamples : filterSamples) / run);
  }

  #launch(piece: CallPiece, span: Span, launch: Launch): void {
    const { problem, part, taps, spectrumBytes } = this.#scheduler;
    const { behind, ahead } = part.blocks!;
    const { reads, writes } = tensorsOf(launch);
    const runs = this.#runs(piece, span, launch.sums !== undefined);
    const { spread, begin } = runs;
    const end = begin + runs.runs * spread.run;
    const operands = [
      ...reads.map((name) => this.#tensor(name, false)),
      ...writes.map((name) => this.#tensor(name, true)),
    ];
    const spec: DirectKernel = {
      ...{ spread, machine: this.#steps.machine, taps, ahead, pitch: spectrumBytes / 4 },
      ...{ tensors: operands.map((o) => this.#lines(o)), ...launch },
      whole: operands.every((o) => !o.writes || (o.size - begin) % spread.run === 0),
    };
    const kernel = this.#steps.kernel(spec, directKernel);
    // Accesses reach as far around a run as its window, and end at multiples of their own width.
    const reach = Math.max(behind, ahead) + 8;
    const around = (size: number): Span =>
      problem.period > 0 ? [0, size] : [begin - reach, end + reach];
    const bound = operands.map((o) => this.#places.bind(o, piece, around(o.size)));
    const { channelFrom, channels } = piece;
    const first = (channelFrom - (this.#laidOut?.from ?? 0)) * spectrumBytes;
    const given: Bound[] = [
      ...bound,
      this.#places.values("taps", "spectrum", first, channels * spectrumBytes, 16),
      this.#ofChannels("skip", piece, 1),
      { ranges: {}, parameters: { period: problem.period } },
    ];
    if (launch.sums) given.push(this.#sumsOf(piece));
    this.#steps.launch(kernel, piece, runs, given, launch.sums ? sumBlocks(taps) : 1);
  }

  /** Values of a piece's channels, `each` for a channel. */
  #ofChannels(buffer: "skip" | "dk" | "dskip", piece: CallPiece, each: number): Bound {
    const { channelFrom, channels } = piece;
    return this.#places.values(buffer, buffer, channelFrom * each * 4, channels * each * 4, 4);
  }

  #sumBytes(piece: CallPiece): number {
    return this.#steps.sumBytes(piece, this.#sumRuns(piece), this.#each);
  }

  #sumRuns(piece: CallPiece): PieceRuns {
    return this.#runs(piece, [piece.from, piece.to], true);
  }

  /** Sums of a channel in each workgroup: those of its taps, and of its skip weight. */
  get #each(): number {
    return this.#scheduler.taps + (this.#call.skip ? 1 : 0);
  }

  #sumsOf(piece: CallPiece): Bound {
    const size = roundUp(this.#sumBytes(piece), 8);
    this.#places.need("sums", size);
    return { ranges: { sums: { buffer: "sums", offset: 0, size } }, parameters: {} };
  }

  /** Sums of a piece's workgroups, added up. */
  #totals(piece: CallPiece): void {
    const { problem, part } = this.#scheduler;
    const taps = problem.kernelLength;
    const spec = { taps, runs: lagRuns(part), each: this.#each, thirds: 1 };
    const results = [this.#ofChannels("dk", piece, taps)];
    if (this.#call.skip) results.push(this.#ofChannels("dskip", piece, 1));
    const isFirst = piece.batchFrom === 0 && piece.from === 0;
    const sums = this.#sumsOf(piece);
    this.#steps.totals(spec, piece, this.#sumRuns(piece), isFirst, results, sums);
  }
}
