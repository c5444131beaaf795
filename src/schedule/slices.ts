/** Slices of a call: how much work fits the memory that a schedule may take, and the steps of one slice after another. */
import { bytesPerSample } from "../dtype.ts";
import type { Kernel, Parameters, ScaleBuffer, WorkBuffer } from "../kernels/gpu/kernel.ts";
import type { TensorName } from "../kernels/gpu/storage.ts";
import { normBytes } from "../kernels/gpu/transform/row-scales.ts";
import type { Cut } from "../kernels/gpu/transform/spec.ts";
import { blockMargins } from "../plan/geometry.ts";
import type { PointFormat, SpectrumFormat } from "../plan/gpu/passes.ts";
import {
  passLayouts,
  pointBytes,
  pointFormat,
  spectrumBytes,
  spectrumFormat,
  workPoints,
} from "../plan/gpu/passes.ts";
import { blocksOf } from "../plan/gpu/planner.ts";
import type {
  BufferName,
  BufferRange,
  GpuCall,
  GpuConvolution,
  Schedule,
  ScheduleStep,
} from "./schedule.ts";

/** Most of the work memory that sums of chunks take. */
const chunksShare = 0.25;

/** Threads that keep a large GPU busy: 132 multiprocessors with about a thousand each. */
const enoughThreads = 2 ** 17;

/** Most chunks of a batch. */
const mostChunks = 16;

/** Rows that are bound together. */
export interface Slice {
  readonly batchFrom: number;
  readonly batch: number;
  readonly channelFrom: number;
  readonly channels: number;
}

/** Slices of `rows` transforms that channels of so many each come to, where none has parts of two channels or more. */
function wholeSlices(channels: number, each: number, rows: number): number {
  if (rows < each) return channels * Math.ceil(each / rows);
  return Math.ceil(channels / Math.floor(rows / each));
}

/** The sum of what parts of at most `size` out of `total` come to: whole ones are alike. */
function inParts(total: number, size: number, of: (part: number) => number): number {
  const whole = Math.floor(total / size);
  const rest = total - whole * size;
  return (whole > 0 ? whole * of(size) : 0) + (rest > 0 ? of(rest) : 0);
}

/**
 * Launches for each set of rows of a slice that work memory has room for: of plain convolutions, one after the other, and of gradients
 * with their sums; 0 where a call has none.
 */
export interface GroupWork {
  readonly convolutions: number;
  readonly gradients: number;
}

/** Steps under construction, and the arithmetic of slices and bindings. */
export class Build {
  readonly call: GpuCall;
  readonly #convolution: GpuConvolution;
  readonly #steps: ScheduleStep[] = [];
  readonly #bytes: Partial<Record<BufferName, number>> = {};

  readonly #workBuffers: 1 | 2 | 3;

  /** `workBuffers`: how many work memories there are at once, each as large as the others. */
  constructor(convolution: GpuConvolution, call: GpuCall, workBuffers: 1 | 2 | 3) {
    this.#convolution = convolution;
    this.call = call;
    this.#workBuffers = workBuffers;
  }

  finish(): Schedule {
    return { steps: this.#steps, bytes: this.#bytes };
  }

  /** Bytes of the sums of a channel's spectra. */
  get #transformBytes(): number {
    return workPoints(this.#convolution.plan) * pointBytes.float32;
  }

  /** How spectra lie in memory: those of the call as its plan makes them, kept ones as their own did. */
  get spectra(): SpectrumFormat {
    const { plan, keeper, problem } = this.#convolution;
    return spectrumFormat(this.call.taps ? plan : keeper, problem.dtype);
  }

  get #spectrumBytes(): number {
    return spectrumBytes(this.#convolution.plan, this.spectra);
  }

  /** How points lie in work memory. */
  get format(): PointFormat {
    const { plan, problem } = this.#convolution;
    return pointFormat(plan, problem.dtype);
  }

  /** Bytes of a transform in work memory. */
  workBytes(format: PointFormat = this.format): number {
    return workPoints(this.#convolution.plan) * pointBytes[format];
  }

  /** Rows that share a transform. */
  get rowsEach(): 1 | 2 {
    return this.#convolution.plan.packing === "rows" ? 2 : 1;
  }

  /** Blocks of a row. */
  get blocks(): number {
    const { problem, plan } = this.#convolution;
    return blocksOf(problem, plan);
  }

  /** How rows are cut, for sums forward or for gradients, which reach the other way. */
  cut(way: "forward" | "backward"): Cut | undefined {
    const { plan, part } = this.#convolution;
    if (!plan.hop) return undefined;
    const { behind, ahead } = blockMargins(part);
    return { hop: plan.hop, lead: way === "forward" ? behind : ahead };
  }

  /** Transforms of so many rows, or blocks of rows, of a channel. */
  unitsOf(items: number): number {
    return Math.ceil(items / this.rowsEach);
  }

  /** Samples of a tensor's row. */
  widthOf(tensor: TensorName): number {
    const { length, outputLength } = this.#convolution.problem;
    return ["y", "dy", "postgate", "dpostgate"].includes(tensor) ? outputLength : length;
  }

  /** Taps of channels whose spectra are made at once: work memory is what only several passes need. */
  tapRows(tapBytes: number): number {
    const { spectrum = 0, sums = 0 } = this.#bytes;
    return this.#tapRows(spectrum + sums, tapBytes);
  }

  #tapRows(held: number, tapBytes: number): number {
    const { limits, plan } = this.#convolution;
    if (plan.passes.length > 1) {
      return this.#rowsBeside(held, this.workBytes("float32"), tapBytes);
    }
    const bound = Math.min(
      limits.bindingBytes / this.#spectrumBytes,
      (limits.bindingBytes - limits.alignment) / tapBytes,
    );
    return Math.max(1, Math.floor(bound));
  }

  /** Rows that a work memory, `bytes` each, has room for beside spectra and sums, and whose tensors of `bound` bytes can be bound. */
  rowsFor(bytes: number, bound: number): number {
    const { spectrum = 0, sums = 0 } = this.#bytes;
    return this.#rowsBeside(spectrum + sums, bytes, bound);
  }

  #rowsBeside(held: number, bytes: number, bound = 0): number {
    const { workspaceBytes, bindingBytes, alignment } = this.#convolution.limits;
    const fit = Math.min(
      (workspaceBytes - held) / (this.#workBuffers * bytes + this.#scaleBytes),
      bindingBytes / bytes,
      bound > 0 ? (bindingBytes - alignment) / bound : Number.POSITIVE_INFINITY,
    );
    return Math.max(1, Math.floor(fit));
  }

  /** Bytes of what several passes know of a transform's rows: their norms and scales. */
  get #scaleBytes(): number {
    const { plan, problem } = this.#convolution;
    if (plan.packing !== "rows" || plan.passes.length === 1) return 0;
    const { norms, scales } = normBytes(Math.max(problem.length, problem.outputLength));
    return norms + 2 * scales;
  }

  /** Groups of channels whose spectra (and, for gradients, sums) are there at once. */
  channelGroups(work: GroupWork): { from: number; count: number }[] {
    const { taps, channels } = this.call;
    const count = this.#groupOf(work);
    const groups = [];
    for (let from = 0; from < channels; from += count) {
      groups.push({ from, count: Math.min(count, channels - from) });
    }
    if (taps) this.#need("spectrum", count * this.#spectrumBytes);
    if (work.gradients > 0) {
      this.#chunks = this.#chunksOf(count);
      this.#need("sums", count * this.chunks * this.#transformBytes);
    }
    this.#group = groups[0];
    return groups;
  }

  /** Channels of a group: as many as make the fewest launches, since each of these ends with a card half empty. */
  #groupOf(work: GroupWork): number {
    const { channels } = this.call;
    const counts = Array.from({ length: channels }, (_, n) => Math.ceil(channels / (n + 1)));
    let best = 1;
    let fewest = Number.POSITIVE_INFINITY;
    for (const count of new Set(counts)) {
      const launches = this.#launches(count, work);
      if (launches < fewest) [best, fewest] = [count, launches];
    }
    return best;
  }

  /** Launches of the whole call in groups of so many channels; infinitely many where these do not fit. */
  #launches(count: number, { convolutions, gradients }: GroupWork): number {
    const { limits, problem, plan } = this.#convolution;
    const passes = plan.passes.length;
    const { taps, batch, channels } = this.call;
    const sums = gradients > 0;
    const bytes = this.#transformBytes;
    const chunks = sums ? this.#chunksOf(count) : 0;
    const held = count * ((taps ? this.#spectrumBytes : 0) + chunks * bytes);
    // Spectra and the way back of sums are in float32; of one pass only the latter goes through work memory.
    const most = this.workBytes(taps || sums ? "float32" : this.format);
    const least = passes > 1 ? this.#workBuffers * most : sums ? bytes : 0;
    const bound = count * Math.max(this.#spectrumBytes, chunks * bytes);
    if (bound > limits.bindingBytes || held + least > limits.workspaceBytes) {
      return Number.POSITIVE_INFINITY;
    }
    // Without work memory all rows of a slice go together.
    const rows =
      passes === 1
        ? count * this.unitsOf(batch * this.blocks)
        : this.#rowsBeside(held, this.workBytes());
    const tapRows = taps ? this.#tapRows(held, problem.kernelLength * bytesPerSample(taps)) : 1;
    const sumRows = this.#rowsBeside(held, this.workBytes("float32"), 4 * problem.kernelLength);
    const [b, c] = this.#sliceSize(count);
    const slice = (items: number, width: number): number => {
      const each = this.unitsOf(items * this.blocks);
      const some = convolutions > 0 ? Math.ceil((each * width) / rows) : 0;
      return some * convolutions + (sums ? wholeSlices(width, each, rows) * gradients : 0);
    };
    const group = (size: number): number =>
      (taps ? Math.ceil(size / tapRows) * passes : 0) +
      (sums ? Math.ceil(size / sumRows) * (passes + 1) : 0) +
      inParts(size, c, (width) => inParts(batch, b, (items) => slice(items, width)));
    return inParts(channels, count, group);
  }

  #group: { from: number; count: number } | undefined;
  #chunks = 1;

  /** Parts of the batch whose gradients are summed apart. */
  get chunks(): number {
    return this.#chunks;
  }

  /** As many chunks as give a large GPU enough threads, if the batch and the memory for sums have them. */
  #chunksOf(channels: number): number {
    const budget = this.#convolution.limits.workspaceBytes * chunksShare;
    const most = Math.floor(budget / (channels * this.#transformBytes));
    const last = passLayouts(this.#convolution.plan).at(-1)!;
    const threads = channels * last.blocks * last.threads;
    const wanted = Math.ceil(enoughThreads / threads);
    return Math.max(
      1,
      Math.min(
        wanted,
        Math.ceil(this.unitsOf(this.call.batch * this.blocks) / 2),
        most,
        mostChunks,
      ),
    );
  }

  /** Batches and channels of the slices of so many channels: what can be bound. */
  #sliceSize(count: number): readonly [batches: number, channels: number] {
    const { problem, limits } = this.#convolution;
    const { batch, channels } = this.call;
    const rowBytes = Math.max(problem.length, problem.outputLength) * bytesPerSample(problem.dtype);
    const most = Math.max(1, Math.floor((limits.bindingBytes - limits.alignment) / rowBytes));
    // A slice of several batches spans all channels between its first and its last row.
    const batches = Math.max(1, Math.min(batch, Math.floor((most - count) / channels) + 1));
    return [batches, Math.min(count, most)];
  }

  /** The rows of a group of channels in slices that can be bound. */
  slices(group: { from: number; count: number }): Slice[] {
    this.#group = group;
    const { batch } = this.call;
    const out: Slice[] = [];
    const [batches, width] = this.#sliceSize(group.count);
    for (let c = 0; c < group.count; c += width) {
      for (let b = 0; b < batch; b += batches) {
        out.push({
          batchFrom: b,
          batch: Math.min(batches, batch - b),
          channelFrom: group.from + c,
          channels: Math.min(width, group.count - c),
        });
      }
    }
    return out;
  }

  #need(buffer: BufferName, bytes: number): void {
    this.#bytes[buffer] = Math.max(this.#bytes[buffer] ?? 0, bytes);
  }

  /** Work memory of some transforms. */
  work(buffer: WorkBuffer, units: number, format: PointFormat = this.format): BufferRange {
    const size = units * this.workBytes(format);
    this.#need(buffer, size);
    return { buffer, offset: 0, size };
  }

  /** Spectra of channels [from, from + count) of the group at hand; those made for the call begin with the group. */
  spectrum(from?: number, count?: number): BufferRange {
    const group = this.#group ?? { from: 0, count: this.call.channels };
    const bytes = this.#spectrumBytes;
    const begin = (this.call.taps ? 0 : group.from) + (from ?? 0);
    return { buffer: "spectrum", offset: begin * bytes, size: (count ?? group.count) * bytes };
  }

  /** Sums of channels of the group at hand, all chunks of one after the other. */
  sumsRange(channel: number, count: number): BufferRange {
    const bytes = this.#transformBytes * this.chunks;
    return { buffer: "sums", offset: channel * bytes, size: count * bytes };
  }

  /** A range bound at an allowed offset, and the index of its first element there. */
  bound(
    buffer: BufferName,
    begin: number,
    bytes: number,
    elementBytes: number,
  ): { range: BufferRange; first: number } {
    const offset = begin - (begin % this.#convolution.limits.alignment);
    const size = Math.ceil((begin - offset + bytes) / 8) * 8;
    return { range: { buffer, offset, size }, first: (begin - offset) / elementBytes };
  }

  step(
    kernel: Kernel,
    tiles: number,
    parameters: Parameters,
    ranges: Readonly<Record<string, BufferRange>>,
  ): void {
    this.#steps.push({ kernel, tiles, parameters: { ...parameters, tiles }, ranges });
  }

  /** A kernel over whole transforms in work memory. */
  units(
    kernel: Kernel,
    units: number,
    parameters: Parameters,
    ranges: Readonly<Record<string, BufferRange>>,
  ): void {
    this.step(kernel, units * kernel.tilesPerUnit, parameters, this.#withTables(kernel, ranges));
  }

  /** The skip weights of all channels. */
  get #skip(): { range: BufferRange; first: number } {
    const { channels, offsets } = this.call;
    return this.bound("skip", offsets.skip ?? 0, channels * 4, 4);
  }

  #withTables(
    kernel: Kernel,
    ranges: Readonly<Record<string, BufferRange>>,
  ): Readonly<Record<string, BufferRange>> {
    const all: Record<string, BufferRange> = { ...ranges };
    for (const { name } of kernel.bindings) {
      if (name === "twiddles" || name === "pattern")
        all[name] = { buffer: name, offset: 0, size: 0 };
      if (name === "skip") all[name] = this.#skip.range;
      if (name === "spectrum") all[name] ??= this.spectrum();
    }
    return all;
  }

  /** A kernel over rows [first, first + units) of a slice: batch rows of a channel one after the other. */
  rows(kernel: Kernel, slice: Slice, first: number, units: number): void {
    const { ranges, parameters } = this.#tensors(kernel, slice);
    const work = this.#workRanges(kernel, units);
    this.units(kernel, units, { ...parameters, first, batch: slice.batch }, { ...ranges, ...work });
  }

  /** A gradient kernel over channels of a slice; the sums begin at channel `from` of the group. */
  sums(
    kernel: Kernel,
    slice: Slice,
    at: { parameters: Parameters; count: number; from: number; units: number },
  ): void {
    const { ranges, parameters } = this.#tensors(kernel, slice);
    const work = this.#workRanges(kernel, at.units);
    const { chunks } = this;
    this.units(
      kernel,
      at.count * chunks,
      { ...parameters, ...at.parameters, chunks },
      { ...ranges, ...work, sums: this.sumsRange(at.from, at.count) },
    );
  }

  /** A kernel that sums over the batch of every channel of a slice, to `dskip`. */
  channels(kernel: Kernel, slice: Slice): void {
    const { ranges, parameters } = this.#tensors(kernel, slice);
    const begin = (this.call.offsets.dskip ?? 0) + slice.channelFrom * 4;
    const sums = this.bound("dskip", begin, slice.channels * 4, 4);
    const clear = slice.batchFrom === 0 && !this.call.add ? 1 : 0;
    const batch = { begin: 0, end: slice.batch, clear };
    this.step(
      kernel,
      slice.channels,
      { ...parameters, ...batch, y: sums.first },
      { ...ranges, y: sums.range },
    );
  }

  #workRanges(kernel: Kernel, units: number): Record<string, BufferRange> {
    const ranges: Record<string, BufferRange> = {};
    for (const { name } of kernel.bindings) {
      if (isWork(name)) ranges[name] = this.work(name, units);
      else if (isScale(name)) {
        const { problem } = this.#convolution;
        const width = Math.max(problem.length, problem.outputLength);
        const size = units * normBytes(width)[name === "norms" ? "norms" : "scales"];
        this.#need(name, size);
        ranges[name] = { buffer: name, offset: 0, size };
      }
    }
    return ranges;
  }

  /** The tensors that a kernel binds, from a slice's first row on. */
  #tensors(
    kernel: Kernel,
    slice: Slice,
  ): { ranges: Record<string, BufferRange>; parameters: Parameters } {
    const { problem } = this.#convolution;
    const { channels } = this.call;
    const ranges: Record<string, BufferRange> = {};
    const bytes = bytesPerSample(problem.dtype);
    const rows = (slice.batch - 1) * channels + slice.channels;
    const group = this.#group!;
    const own: Record<string, number> = {
      channels,
      channel: slice.channelFrom - group.from,
      skip: this.#skip.first + slice.channelFrom,
    };
    for (const { name } of kernel.bindings) {
      if (!tensorNames.has(name)) continue;
      const tensor = name as TensorName;
      const rowBytes = this.widthOf(tensor) * bytes;
      const row = slice.batchFrom * channels + slice.channelFrom;
      const begin = (this.call.offsets[tensor] ?? 0) + row * rowBytes;
      const { range, first } = this.bound(tensor, begin, rows * rowBytes, bytes);
      ranges[name] = range;
      own[name] = first;
    }
    return { ranges, parameters: own };
  }
}

const isWork = (name: string): name is WorkBuffer => ["work", "other", "again"].includes(name);

const isScale = (name: string): name is ScaleBuffer | "norms" =>
  ["scales", "otherScales", "norms"].includes(name);

const tensorNames: ReadonlySet<string> = new Set<TensorName>([
  "u",
  "pregate",
  "postgate",
  "y",
  "dy",
  "du",
  "dpregate",
  "dpostgate",
]);
