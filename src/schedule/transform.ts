/**
 * Which kernels run, in which order, on which parts of which buffers: a call as a list of steps. Pure: buffers have names
 * here and become real in the backend.
 *
 * Rows go in slices: channels in groups whose spectra and sums fit the workspace, batches in groups whose tensors can be
 * bound at once, and within those as many rows at a time as the work memory holds; so memory is bounded whatever the batch,
 * and what one pass writes is still in the cache when the next reads it.
 */
import type { Dtype } from "../dtype.ts";
import { bytesPerSample } from "../dtype.ts";
import type { Kernel, ScaleBuffer, WorkBuffer } from "../kernels/gpu/kernel.ts";
import type { TensorName } from "../kernels/gpu/storage.ts";
import type { PatternTable } from "../kernels/gpu/transform/frequency-mask.ts";
import { patternTable } from "../kernels/gpu/transform/frequency-mask.ts";
import { partialNorms, rowScales } from "../kernels/gpu/transform/row-scales.ts";
import { skipGradientKernel } from "../kernels/gpu/transform/skip-gradient.ts";
import type {
  Gradient,
  Output,
  PassSink,
  PassSource,
  Path,
  Scaling,
} from "../kernels/gpu/transform/spec.ts";
import { collectTaps, wrapped } from "../kernels/gpu/transform/taps.ts";
import { twiddleValues } from "../kernels/gpu/transform/twiddles.ts";
import { generateKernel } from "../kernels/gpu/transform/write-kernel.ts";
import type { PointFormat } from "../plan/gpu/passes.ts";
import {
  pointBytes,
  pointFormat,
  spectrumBytes,
  spectrumFormat,
  workPoints,
} from "../plan/gpu/passes.ts";
import { blocksOf } from "../plan/gpu/planner.ts";
import type { CallScheduler, GpuCall, GpuConvolution, Schedule } from "./schedule.ts";
import type { GroupWork, Slice } from "./slices.ts";
import { Build } from "./slices.ts";

/** Transforms [first, first + units) of a slice. */
interface Units {
  readonly build: Build;
  readonly slice: Slice;
  readonly first: number;
  readonly units: number;
}

/** Makes schedules for one convolution, and remembers kernels. */
export class Scheduler implements CallScheduler {
  readonly convolution: GpuConvolution;
  /** The table that kernels of masked frequencies read. */
  readonly pattern: PatternTable | undefined;
  readonly #kernels = new Map<string, Kernel>();

  constructor(convolution: GpuConvolution) {
    this.convolution = convolution;
    const { plan, problem } = convolution;
    this.pattern = problem.frequencies && patternTable(plan, problem.frequencies);
  }

  get transformBytes(): number {
    return workPoints(this.convolution.plan) * pointBytes.float32;
  }

  get spectrumBytes(): number {
    const { keeper, problem } = this.convolution;
    return spectrumBytes(keeper, spectrumFormat(keeper, problem.dtype));
  }

  tables(): { readonly twiddles: Float32Array; readonly pattern?: Uint32Array } {
    return {
      twiddles: twiddleValues(this.convolution.plan),
      ...(this.pattern && { pattern: this.pattern.words }),
    };
  }

  #kernel(
    { spectra }: Build,
    pass: number,
    work: Path | Gradient,
    taps?: { readonly dtype: Dtype; readonly format: PointFormat },
  ): Kernel {
    const { plan, problem, limits } = this.convolution;
    const { dtype, format, blocks } = taps
      ? { ...taps, blocks: 1 }
      : {
          dtype: problem.dtype,
          format: pointFormat(plan, problem.dtype),
          blocks: blocksOf(problem, plan),
        };
    const key = `${pass} ${dtype} ${format} ${spectra} ${blocks} ${JSON.stringify(work)}`;
    return this.#remembered(key, () =>
      generateKernel({
        ...{ plan, pass, dtype, format, spectra, work, blocks, machine: limits },
        pattern: this.pattern,
      }),
    );
  }

  #remembered(key: string, make: () => Kernel): Kernel {
    let kernel = this.#kernels.get(key);
    if (!kernel) {
      kernel = make();
      this.#kernels.set(key, kernel);
    }
    return kernel;
  }

  spectra(channels: number, taps: Dtype, offset: number): Schedule {
    const call: GpuCall = {
      ...{ batch: 1, channels, pregate: false, postgate: false, skip: false },
      ...{ taps, offsets: { k: offset } },
    };
    const build = new Build(this.convolution, call, 1);
    this.#makeSpectra(build, 0, channels);
    return build.finish();
  }

  /** Spectra of channels [from, from + count), at the beginning of the spectrum buffer: few transforms, their points between passes in float32. */
  #makeSpectra(build: Build, from: number, count: number): void {
    const { plan, part, problem } = this.convolution;
    const dtype = build.call.taps!;
    const tapBytes = problem.kernelLength * bytesPerSample(dtype);
    const group = build.tapRows(tapBytes);
    const placed: PassSource = {
      kind: "taps",
      runs: part.taps.map((run) => wrapped(run, plan)),
      taps: problem.kernelLength,
    };
    const last = plan.passes.length - 1;
    for (let c = 0; c < count; c += group) {
      const n = Math.min(group, count - c);
      const begin = (build.call.offsets.k ?? 0) + (from + c) * tapBytes;
      const taps = build.bound("k", begin, n * tapBytes, bytesPerSample(dtype));
      plan.passes.forEach((_, pass) => {
        const work: Path = {
          kind: "path",
          source: pass === 0 ? placed : { kind: "work", buffer: "work" },
          ...{ forward: true, product: "none", inverse: false },
          sink: pass === last ? { kind: "spectrum" } : { kind: "work", buffer: "work" },
        };
        const ranges = {
          ...(pass === 0 ? { u: taps.range } : {}),
          ...(last > 0 ? { work: build.work("work", n, "float32") } : {}),
          ...(pass === last ? { spectrum: build.spectrum(c, n) } : {}),
        };
        const parameters = { batch: 1, channels: n, u: taps.first };
        const kernel = this.#kernel(build, pass, work, { dtype, format: "float32" });
        build.units(kernel, n, parameters, ranges);
      });
    }
  }

  forward(call: GpuCall): Schedule {
    const build = new Build(this.convolution, call, 1);
    const work = { convolutions: this.#launches.convolution, gradients: 0 };
    for (const group of build.channelGroups(work)) {
      if (call.taps) this.#makeSpectra(build, group.from, group.count);
      for (const slice of build.slices(group)) {
        const output: Output = {
          tensor: "y",
          gates: call.postgate ? ["postgate"] : [],
          ...(call.skip ? { skipped: "u" } : {}),
        };
        this.#convolve(
          build,
          slice,
          ["u", ...(call.pregate ? (["pregate"] as const) : [])],
          "kernel",
          [output],
        );
      }
    }
    return build.finish();
  }

  /** A product of tensors, convolved or correlated with k, to outputs. */
  #convolve(
    build: Build,
    slice: Slice,
    factors: readonly TensorName[],
    product: "kernel" | "conjugate",
    outputs: readonly Output[],
  ): void {
    const { plan } = this.convolution;
    const cut = build.cut(product === "kernel" ? "forward" : "backward");
    const source: PassSource = { kind: "samples", factors, width: build.widthOf(factors[0]!), cut };
    const width = build.widthOf(outputs[0]!.tensor);
    const sink: PassSink = { kind: "samples", outputs, width, cut };
    const last = plan.passes.length - 1;
    const single = last === 0;
    const all = build.unitsOf(slice.batch * build.blocks) * slice.channels;
    const group = single ? all : build.rowsFor(build.workBytes(), 0);
    for (let first = 0; first < all; first += group) {
      const at: Units = { build, slice, first, units: Math.min(group, all - first) };
      const scaling = this.#scale(at, source, "scales");
      this.#inward(at, source, "work", scaling);
      const middle: Path = {
        kind: "path",
        source: single ? source : { kind: "work", buffer: "work" },
        ...{ forward: true, product, inverse: true },
        sink: single ? sink : { kind: "work", buffer: "work" },
      };
      this.#run(this.#kernel(build, last, middle), at);
      this.#outward(at, sink, "work", scaling);
    }
  }

  #run(kernel: Kernel, { build, slice, first, units }: Units): void {
    build.rows(kernel, slice, first, units);
  }

  /** Scales of rows that are packed in pairs, where more than one pass needs them. */
  #scale(at: Units, source: PassSource, buffer: ScaleBuffer): Scaling | undefined {
    const { plan, problem, limits } = this.convolution;
    if (plan.packing !== "rows" || plan.passes.length === 1 || source.kind !== "samples")
      return undefined;
    const { factors, width } = source;
    const { dtype } = problem;
    const partial = this.#remembered(`norms ${factors}`, () =>
      partialNorms(factors, width, dtype, limits),
    );
    this.#run(partial, at);
    this.#run(
      this.#remembered(buffer, () => rowScales(width, dtype, buffer, limits)),
      at,
    );
    return { buffer, inverse: false };
  }

  /** All forward passes but the last. */
  #inward(at: Units, source: PassSource, buffer: WorkBuffer, scaling: Scaling | undefined): void {
    for (let pass = 0; pass < this.convolution.plan.passes.length - 1; pass++) {
      const path: Path = {
        kind: "path",
        source: pass === 0 ? source : { kind: "work", buffer },
        ...{ forward: true, product: "none", inverse: false },
        sink: { kind: "work", buffer },
        ...(pass === 0 && scaling && { scaling }),
      };
      this.#run(this.#kernel(at.build, pass, path), at);
    }
  }

  /** All inverse passes but the last's. */
  #outward(
    at: Units,
    sink: PassSink | undefined,
    buffer: WorkBuffer,
    scaling: Scaling | undefined,
  ): void {
    for (let pass = this.convolution.plan.passes.length - 2; pass >= 0; pass--) {
      const path: Path = {
        kind: "path",
        source: { kind: "work", buffer },
        ...{ forward: false, product: "none", inverse: true },
        sink: pass === 0 && sink ? sink : { kind: "work", buffer },
        ...(pass === 0 && scaling && { scaling }),
      };
      this.#run(this.#kernel(at.build, pass, path), at);
    }
  }

  backward(call: GpuCall): Schedule {
    const build = new Build(
      this.convolution,
      call,
      this.convolution.plan.packing === "rows" ? 3 : 2,
    );
    const fused = 10 + (build.call.skip ? 1 : 0);
    const together = fused <= this.convolution.limits.bindings;
    for (const group of build.channelGroups(this.#gradientWork(call, together))) {
      if (call.taps) this.#makeSpectra(build, group.from, group.count);
      for (const slice of build.slices(group)) {
        this.#separately(build, slice, together);
        this.#sumAndSpread(build, slice, group.from, together);
        if (call.skip) this.#sumSkip(build, slice);
      }
      this.#collect(build, group.from, group.count);
    }
    return build.finish();
  }

  /** Launches of a convolution, of measuring rows for it, and of all passes one way but the last. */
  get #launches(): { convolution: number; scaling: number; way: number } {
    const { packing, passes } = this.convolution.plan;
    const way = passes.length - 1;
    const scaling = packing === "rows" && way > 0 ? 2 : 0;
    return { convolution: scaling + 2 * way + 1, scaling, way };
  }

  /** What a slice of gradients launches: #separately and #sumAndSpread. */
  #gradientWork({ pregate, postgate }: GpuCall, together: boolean): GroupWork {
    const { hop } = this.convolution.plan;
    const { convolution, scaling, way } = this.#launches;
    const apart = postgate && (!together || hop) ? 1 : 0;
    const alone = together ? 0 : pregate ? 2 : 1;
    const inward = scaling > 0 ? 3 : 2;
    const outward = together ? (postgate && !hop ? 2 : 1) : 0;
    return {
      convolutions: (apart + alone) * convolution,
      gradients: 2 * scaling + (inward + outward) * way + 1,
    };
  }

  #factors(build: Build): { u: TensorName[]; dy: TensorName[] } {
    const { pregate, postgate } = build.call;
    return {
      u: ["u", ...(pregate ? (["pregate"] as const) : [])],
      dy: ["dy", ...(postgate ? (["postgate"] as const) : [])],
    };
  }

  #gradientOutputs(build: Build): { du: Output[]; dpostgate: Output[] } {
    const { pregate, postgate, skip } = build.call;
    return {
      du: [
        { tensor: "du", gates: pregate ? ["pregate"] : [], ...(skip ? { skipped: "dy" } : {}) },
        ...(pregate ? [{ tensor: "dpregate", gates: ["u"] } as const] : []),
      ],
      dpostgate: postgate ? [{ tensor: "dpostgate", gates: ["dy"] }] : [],
    };
  }

  /**
   * Gradients of rows one by one, where a kernel cannot bind all tensors at once; postgate's where rows are cut: its blocks
   * reach back, those of the other gradients ahead.
   */
  #separately(build: Build, slice: Slice, together: boolean): void {
    const factors = this.#factors(build);
    const outputs = this.#gradientOutputs(build);
    if (!together || this.convolution.plan.hop) {
      for (const o of outputs.dpostgate) this.#convolve(build, slice, factors.u, "kernel", [o]);
    }
    if (together) return;
    for (const o of outputs.du) this.#convolve(build, slice, factors.dy, "conjugate", [o]);
  }

  /** Sums of conj(U)·G over a slice's batch, and, if together, the gradients of its rows. */
  #sumAndSpread(build: Build, slice: Slice, groupFrom: number, together: boolean): void {
    const { plan } = this.convolution;
    const last = plan.passes.length - 1;
    const single = last === 0;
    const paired = plan.packing === "rows";
    const factors = this.#factors(build);
    const outputs = this.#gradientOutputs(build);
    const cut = build.cut("backward");
    const from = (f: readonly TensorName[], own: boolean): PassSource => ({
      ...{ kind: "samples", factors: f, width: build.widthOf(f[0]!), cut },
      ...(cut && own && { own }),
    });
    const to = (o: readonly Output[]): PassSink | undefined =>
      together && o.length > 0
        ? { kind: "samples", outputs: o, width: build.widthOf(o[0]!.tensor), cut }
        : undefined;
    const [u, dy] = [from(factors.u, true), from(factors.dy, false)];
    const [y, du] = [cut ? undefined : to(outputs.dpostgate), to(outputs.du)];
    const inWork = (sink: PassSink | undefined, buffer: WorkBuffer): PassSink | undefined =>
      sink && (single ? sink : { kind: "work", buffer });
    const work: Gradient = {
      kind: "gradient",
      u: single ? u : { kind: "work", buffer: "work" },
      dy: single ? dy : { kind: "work", buffer: "other" },
      ...(paired && { again: single ? dy : ({ kind: "work", buffer: "again" } as const) }),
      y: inWork(y, "work"),
      du: inWork(du, "other"),
    };
    const kernel = this.#kernel(build, last, work);
    const items = slice.batch * build.blocks;
    const each = build.unitsOf(items);
    const fit = single ? each * slice.channels : build.rowsFor(build.workBytes(), 0);
    const channels = Math.max(1, Math.min(slice.channels, Math.floor(fit / each)));
    const batch = Math.min(items, fit * build.rowsEach);
    for (let h = 0; h < slice.channels; h += channels) {
      const count = Math.min(channels, slice.channels - h);
      for (let b = 0; b < items; b += batch) {
        const rows = Math.min(batch, items - b);
        const first = h * each + b / build.rowsEach;
        const units = count * build.unitsOf(rows);
        const at: Units = { build, slice, first, units };
        const scaling = this.#scale(at, u, "scales");
        const others = this.#scale(at, dy, "otherScales");
        this.#inward(at, u, "work", scaling);
        this.#inward(at, dy, "other", others);
        if (scaling) this.#inward(at, dy, "again", { ...scaling, inverse: true });
        const parameters = {
          ...{ first: h, begin: b, end: b + rows },
          clear: slice.batchFrom + b === 0 ? 1 : 0,
        };
        build.sums(kernel, slice, {
          parameters,
          count,
          from: slice.channelFrom - groupFrom + h,
          units,
        });
        if (y) this.#outward(at, y, "work", scaling);
        if (du) this.#outward(at, du, "other", others);
      }
    }
  }

  #sumSkip(build: Build, slice: Slice): void {
    const { length, dtype } = this.convolution.problem;
    const kernel = this.#remembered("skip", () => skipGradientKernel(length, dtype));
    build.channels(kernel, slice);
  }

  /** Sums → the gradient of the taps of channels [from, from + count): few transforms, all in float32. */
  #collect(build: Build, from: number, count: number): void {
    const { plan, part, problem } = this.convolution;
    const last = plan.passes.length - 1;
    const taps = problem.kernelLength;
    const neighbours = plan.packing === "neighbours";
    const taken = { dtype: "float32", format: "float32" } as const;
    const group = build.rowsFor(build.workBytes("float32"), 4 * taps);
    const add = build.call.add === true;
    const collect = this.#remembered(`collect ${add}`, () => collectTaps(plan, part, taps, add));
    // The first pass of neighbours leaves rows of samples, beside the points that it reads.
    const samples: PassSink = {
      kind: "samples",
      outputs: [{ tensor: "y", gates: [] }],
      width: plan.points,
    };
    for (let c = 0; c < count; c += group) {
      const n = Math.min(group, count - c);
      const inverse = (pass: number, buffer: "sums" | "work"): Kernel =>
        this.#kernel(
          build,
          pass,
          {
            kind: "path",
            source: { kind: "work", buffer },
            ...{ forward: false, product: "none", inverse: true },
            sink: neighbours && pass === 0 ? samples : { kind: "work", buffer: "work" },
          },
          taken,
        );
      const work = build.work("work", n, "float32");
      build.units(
        inverse(last, "sums"),
        n,
        { batch: 1, chunks: build.chunks },
        { work, sums: build.sumsRange(c, n) },
      );
      const rows = neighbours ? build.work("other", n, "float32") : work;
      for (let pass = last - 1; pass >= 0; pass--)
        build.units(inverse(pass, "work"), n, { batch: 1 }, { work, y: rows });
      const begin = (build.call.offsets.dk ?? 0) + (from + c) * taps * 4;
      const dk = build.bound("dk", begin, n * taps * 4, 4);
      build.step(collect, n * taps, { y: dk.first }, { work: rows, y: dk.range });
    }
  }
}
