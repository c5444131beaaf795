/** The text of a kernel, put together for one pass of a plan: loads, stages, product, stages, stores. */
import { Graph } from "../../../math/expr.ts";
import {
  choice,
  constant,
  constants,
  floats,
  kernelText,
  loopHead,
  wordOf,
  workgroup,
  zero,
} from "../dialect/wgsl.ts";
import { fitFunction, roundingFunctions, scaleFunctions } from "../dialect/wgsl-functions.ts";
import type { Kernel } from "../kernel.ts";
import { parameterNames, rowFunctions } from "../kernel.ts";
import { tensorFunctions } from "../storage.ts";
import type { Value } from "../text.ts";
import { nodes, printValues, vectorOf } from "../text.ts";
import type { Scales, UserEnd } from "./kernel-context.ts";
import { KernelContext } from "./kernel-context.ts";
import { NeighbourRows } from "./neighbour-rows.ts";
import { PlainRows } from "./plain-rows.ts";
import { pointFunctions } from "./point-formats.ts";
import { RealColumns } from "./real-columns.ts";
import { RowSamples } from "./row-samples.ts";
import { accumulators, prescales, squares } from "./row-scales.ts";
import type { Gradient, KernelSpec, PassSink, PassSource, Path, Scaling } from "./spec.ts";
import { SpectrumEnd } from "./spectrum-end.ts";
import type { WorkEnd } from "./work-points.ts";
import { WorkPoints } from "./work-points.ts";

/**
 * Loops of gradients over a chunk of the batch rows of a channel, or of the blocks of its rows. All threads of a workgroup
 * take as many turns, as barriers ask; a turn beyond the chunk counts for nothing.
 */
const rowLoop = (blocks: number): readonly string[] => [
  constant("each", "(p.end - p.begin + p.chunks - 1u) / p.chunks"),
  loopHead("i", "0u", "i < each", "i++"),
  ...constants({
    wanted_item: "p.begin + chunk * each + i",
    live: "live_unit && wanted_item < p.end",
    item: "min(wanted_item, p.end - 1u)",
    row: `item / ${blocks}u * p.channels + h`,
    slot: "channel_unit * (p.end - p.begin) + item - p.begin",
  }),
];
const pairLoop: readonly string[] = [
  constant("units_each", "(p.end - p.begin + 1u) / 2u"),
  constant("each", "(units_each + p.chunks - 1u) / p.chunks"),
  loopHead("i", "0u", "i < each", "i++"),
  ...constants({
    wanted_pair: "chunk * each + i",
    live: "live_unit && wanted_pair < units_each",
    pair: "min(wanted_pair, units_each - 1u)",
    b: "p.begin + 2u * pair",
    row: "b * p.channels + h",
    partner: "min(b + 1u, p.end - 1u) * p.channels + h",
    partnered: "partner != row",
    slot: "channel_unit * units_each + pair",
  }),
];

/** Builds the text of one kernel from what stands at the ends of its tile. */
class KernelWriter {
  readonly #context: KernelContext;
  readonly #user: UserEnd;
  readonly #work: WorkEnd;
  readonly #spectrum: SpectrumEnd;

  constructor(spec: KernelSpec) {
    const context = new KernelContext(spec);
    this.#context = context;
    this.#user = context.splits ? new NeighbourRows(context) : new PlainRows(context);
    this.#work = context.splits ? new RealColumns(context) : new WorkPoints(context);
    this.#spectrum = new SpectrumEnd(context);
  }

  #load(source: PassSource, end: "first" | "last"): Value[][] {
    if (source.kind !== "work") return this.#user.load(source);
    return source.buffer === "sums"
      ? this.#spectrum.loadSums()
      : this.#work.load(source.buffer, end);
  }

  /** Stores values, for live tiles alone. */
  #store(sink: PassSink, values: readonly Value[][], end: "first" | "last", scales?: Scales): void {
    this.#context.text.guarded("live", () => {
      if (sink.kind === "spectrum") this.#spectrum.store(values);
      else if (sink.kind === "work") this.#work.store(sink.buffer, values, end);
      else this.#user.store(sink, values, scales);
    });
  }

  #path(path: Path): void {
    const { source, product, sink } = path;
    const { tile, fitted, cut } = this.#context;
    const spectrum = this.#spectrum;
    const fetch = this.#user.fetchAhead?.(source);
    let v = this.#load(source, path.forward ? "first" : "last");
    const scales = this.#scales(path, v);
    if (scales && source.kind === "samples") v = this.#scaled(v, scales);
    if (fitted) spectrum.fitTo(v);
    if (path.forward) v = tile.forward(v, () => product !== "none" && spectrum.loadAhead());
    if (product !== "none") v = spectrum.multiply(v, product);
    if (path.inverse)
      v = tile.inverse(v, () => {
        // A branch between gates and their use would make them wait for all that is fetched in it.
        if (cut) fetch?.();
        if (sink.kind === "samples") this.#user.gatesAhead(sink);
        if (!cut) fetch?.();
      });
    this.#store(sink, v, path.inverse ? "first" : "last", scales);
  }

  #scales({ source, scaling }: Path, values: readonly Value[][]): Scales | undefined {
    if (scaling) return this.#kept(scaling);
    return this.#context.twoRows && source.kind === "samples" ? this.#measured(values) : undefined;
  }

  /** Scales of the rows that these values hold, each by its own norm. */
  #measured(values: readonly Value[][]): Scales {
    const { text, spec } = this.#context;
    const samples = values.flat();
    const partial = ([(v: Value) => v.re, (v: Value) => v.im] as const).map((part) =>
      squares(spec.dtype, text, samples.map(part)),
    );
    const sums = this.#context.addUp(partial.flat());
    const each = accumulators(spec.dtype);
    const own = (which: number): string =>
      floats([sums[which * each]!, each === 2 ? sums[which * each + 1]! : "0.0f"]);
    const scales = text.hold("c", `scales_of(${own(0)}, ${own(1)})`);
    const second = choice("partnered", `${scales}.zw`, zero("vec2f"));
    return [text.hold("c", `${scales}.xy`), text.hold("c", second)];
  }

  /** Scales that are kept for several passes. */
  #kept({ buffer, inverse }: Scaling): Scales {
    this.#context.bind({ name: buffer, access: "read", element: "vec2f" });
    const scale = (which: 0 | 1): string =>
      this.#context.text.hold("c", `${buffer}[2u * slot + ${which}u]${inverse ? ".yx" : ""}`);
    return [scale(0), scale(1)];
  }

  /** Values times their rows' scales; a scale of 0 stands for a row that must not touch the other one. */
  #scaled(values: readonly Value[][], scales: Scales): Value[][] {
    const { text } = this.#context;
    const part = (x: string | 0, scale: string): string | 0 =>
      x && text.hold("s", choice(`${wordOf(`${scale}.x`)} != 0u`, `${x} * ${scale}.x`, "0.0f"));
    return values.map((row) =>
      row.map(({ re, im }) => ({ re: part(re, scales[0]), im: part(im, scales[1]) })),
    );
  }

  /** A source's transform, and the scales of its rows where these begin here: the given ones, or their own. */
  #transformed(source: PassSource, given?: Scales): [Value[][], Scales | undefined] {
    const { tile, twoRows } = this.#context;
    const raw = this.#load(source, "first");
    if (!twoRows || source.kind !== "samples") return [tile.forward(raw), undefined];
    const scales = given ?? this.#measured(raw);
    return [tile.forward(this.#scaled(raw, scales)), scales];
  }

  #gradient(work: Gradient): void {
    const { text, tile, twoRows, spec, cut } = this.#context;
    const sums = this.#spectrum.sums();
    text.line(...(twoRows ? pairLoop : rowLoop(spec.blocks)));
    if (cut) text.constant("start", new RowSamples(this.#context).blockStart("item"));
    tile.enterLoop();
    const [u, scales] = this.#transformed(work.u);
    const back = (v: Value[][], product: "kernel" | "conjugate"): Value[][] =>
      tile.inverse(this.#spectrum.multiply(v, product));
    if (work.y) this.#store(work.y, back(u, "kernel"), "first", scales);
    const inverse = scales?.map((s) => text.hold("c", `${s}.yx`)) as Scales | undefined;
    const again = work.again && this.#transformed(work.again, inverse);
    const early = again ? undefined : this.#transformed(work.dy);
    (again ?? early)![0].forEach((row, i) => {
      const g = new Graph();
      const products = row.map((v, q) => g.cmulConj(nodes(g, v), nodes(g, u[i]![q]!)));
      printValues(text, products).forEach((v, q) => {
        const product = choice("live", vectorOf(v), zero("vec2f"));
        text.line(`${sums.names[i]![q]} += ${product};`);
      });
    });
    if (work.du) {
      const [dy, own] = early ?? this.#transformed(work.dy);
      this.#store(work.du, back(dy, "conjugate"), "first", own);
    }
    text.line("}");
    sums.store();
  }

  /** Blocks of a transform that the pass works on. */
  get #blocksKept(): number {
    const { pattern, pass } = this.#context.spec;
    return pattern ? pattern.sections[pass]!.count : this.#context.pass.blocks;
  }

  /** The number of the pass's block that comes as the `index`-th. */
  #blockNumber(index: string): string {
    const { pattern, pass } = this.#context.spec;
    if (!pattern || pass === 0) return index;
    return `pattern[${pattern.sections[pass]!.list}u + ${index}]`;
  }

  #prologue(): string[] {
    const { pass, spec, turns, twoRows, cut, bindings, sums, before } = this.#context;
    const perUnit = this.#blocksKept * pass.tilesPerBlock;
    const alone = pass.tiles === 1;
    const gradient = spec.work.kind === "gradient";
    const number = turns > 1 ? `(${workgroup}) * ${turns}u + turn` : workgroup;
    return [
      ...constants({
        t: alone ? "lane" : `lane % ${pass.threads}u`,
        sub: alone ? "0u" : `lane / ${pass.threads}u`,
        shared_base: alone ? "0u" : `sub * ${sums.elements}u`,
      }),
      ...before,
      ...(turns > 1 ? [loopHead("turn", "0u", `turn < ${turns}u`, "turn++")] : []),
      ...constants({
        wanted: `(${number}) * ${pass.tiles}u + sub`,
        // A gradient's loop has more to say about each of its turns.
        [gradient ? "live_unit" : "live"]: "wanted < p.tiles",
        tile: "min(wanted, p.tiles - 1u)",
        unit: `tile / ${perUnit}u`,
        block: this.#blockNumber(`(tile % ${perUnit}u) / ${pass.tilesPerBlock}u`),
        column: `(tile % ${pass.tilesPerBlock}u) * ${pass.columns}u`,
        ...(gradient
          ? {
              chunk: "unit % p.chunks",
              channel_unit: "unit / p.chunks",
              h: "p.first + channel_unit",
            }
          : { h: "channel_of(unit)", row: "row_of(unit)", slot: "unit" }),
        ...(twoRows && !gradient && { partner: "partner_of(unit)", partnered: "partner != row" }),
        ...(cut &&
          !gradient && { start: new RowSamples(this.#context).blockStart("(p.first + unit)") }),
        ...(bindings.has("skip") && { skip_value: "skip[h + p.skip]" }),
      }),
    ];
  }

  finish(): Kernel {
    const { pass, spec, turns, tile, tensors, text, sums, twoRows, fitted } = this.#context;
    const { work, dtype, machine } = spec;
    if (turns > 1) tile.enterLoop();
    if (work.kind === "path") this.#path(work);
    else this.#gradient(work);
    const bindings = [...this.#context.bindings.values()];
    const works = bindings.some(({ name }) => ["work", "other", "again"].includes(name));
    const writes = [...tensors.values()].some((t) => t.writes);
    const element = pass.exchange === "whole" ? "vec2f" : "f32";
    const code = kernelText({
      bindings,
      parameters: parameterNames,
      shared: sums.elements
        ? [{ name: "shared_x", element, count: sums.elements * pass.tiles }]
        : [],
      functions: [
        ...rowFunctions(spec.plan.packing, spec.blocks),
        ...(twoRows ? scaleFunctions(prescales[dtype]) : []),
        ...(works ? pointFunctions(spec.format) : []),
        ...(writes ? roundingFunctions(dtype, machine.packs) : []),
        ...(fitted ? [fitFunction, ...roundingFunctions("float16", machine.packs)] : []),
        ...[...tensors.values()].flatMap(tensorFunctions),
      ],
      threads: pass.threads * pass.tiles,
      shuffles: this.#context.shuffles,
      body: [...this.#prologue(), ...text.lines, ...(turns > 1 ? ["}"] : [])],
    });
    return {
      code,
      bindings,
      tiles: pass.tiles * turns,
      tilesPerUnit: this.#blocksKept * pass.tilesPerBlock,
    };
  }
}

/** Generate a kernel. */
export function generateKernel(spec: KernelSpec): Kernel {
  return new KernelWriter(spec).finish();
}
