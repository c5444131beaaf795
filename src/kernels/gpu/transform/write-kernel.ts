/** The text of a kernel, put together for one pass of a plan: loads, stages, product, stages, stores. */
import { Graph } from "../../../math/expr.ts";
import type { Kernel } from "../kernel.ts";
import { declarations, entry, rowFunctions } from "../kernel.ts";
import { roundingFunctions, tensorFunctions } from "../storage.ts";
import type { Value } from "../text.ts";
import { nodes, printValues } from "../text.ts";
import { Ends } from "./load-store.ts";
import { pointFunctions } from "./point-formats.ts";
import { accumulators, scaleFunctions, squares } from "./row-scales.ts";
import type { Gradient, KernelSpec, PassSource, Path, Scaling } from "./spec.ts";
import { fitFunction } from "./spectrum-layout.ts";
import type { Scales } from "./user-rows.ts";

/**
 * Loops of gradients over a chunk of the batch rows of a channel, or of the blocks of its rows. All threads of a workgroup
 * take as many turns, as barriers ask; a turn beyond the chunk counts for nothing.
 */
const rowLoop = (blocks: number): readonly string[] => [
  "let each = (p.end - p.begin + p.chunks - 1u) / p.chunks;",
  "for (var i = 0u; i < each; i++) {",
  "let wanted_item = p.begin + chunk * each + i;",
  "let live = live && wanted_item < p.end;",
  "let item = min(wanted_item, p.end - 1u);",
  `let row = item / ${blocks}u * p.channels + h;`,
  "let slot = channel_unit * (p.end - p.begin) + item - p.begin;",
];
const pairLoop = [
  "let units_each = (p.end - p.begin + 1u) / 2u;",
  "let each = (units_each + p.chunks - 1u) / p.chunks;",
  "for (var i = 0u; i < each; i++) {",
  "let wanted_pair = chunk * each + i;",
  "let live = live && wanted_pair < units_each;",
  "let pair = min(wanted_pair, units_each - 1u);",
  "let b = p.begin + 2u * pair;",
  "let row = b * p.channels + h;",
  "let partner = min(b + 1u, p.end - 1u) * p.channels + h;",
  "let partnered = partner != row;",
  "let slot = channel_unit * units_each + pair;",
];

/** Builds the text of one kernel. */
class Writer extends Ends {
  #path(path: Path): void {
    const { source, product, sink } = path;
    const fetch = this.fetchAhead(source);
    let v = this.load(source, path.forward);
    const scales = this.#scales(path, v);
    if (scales && source.kind === "samples") v = this.#scaled(v, scales);
    if (this.fitted) this.fitTaps(v);
    if (path.forward) v = this.tile.forward(v, () => product !== "none" && this.spectrumAhead());
    if (product !== "none") v = this.multiply(v, product);
    if (path.inverse)
      v = this.tile.inverse(v, () => {
        // A branch between gates and their use would make them wait for all that is fetched in it.
        if (this.cut) fetch();
        if (sink.kind === "samples") this.gatesAhead(sink);
        if (!this.cut) fetch();
      });
    this.store(sink, v, path.inverse, scales);
  }

  #scales({ source, scaling }: Path, values: readonly Value[][]): Scales | undefined {
    if (scaling) return this.#kept(scaling);
    return this.paired && source.kind === "samples" ? this.#measured(values) : undefined;
  }

  /** Scales of the rows that these values hold, each by its own norm. */
  #measured(values: readonly Value[][]): Scales {
    const { text } = this;
    const { dtype } = this.spec;
    const samples = values.flat();
    const partial = ([(v: Value) => v.re, (v: Value) => v.im] as const).map((part) =>
      squares(dtype, text, samples.map(part)),
    );
    const sums = this.addUp(partial.flat());
    const each = accumulators(dtype);
    const own = (which: number): string =>
      `vec2f(${sums[which * each]}, ${each === 2 ? sums[which * each + 1] : "0.0f"})`;
    const scales = text.hold("c", `scales_of(${own(0)}, ${own(1)})`);
    const second = `select(vec2f(), ${scales}.zw, partnered)`;
    return [text.hold("c", `${scales}.xy`), text.hold("c", second)];
  }

  /** Scales that are kept for several passes. */
  #kept({ buffer, inverse }: Scaling): Scales {
    this.bind({ name: buffer, access: "read", element: "vec2f" });
    const scale = (which: 0 | 1): string =>
      this.text.hold("c", `${buffer}[2u * slot + ${which}u]${inverse ? ".yx" : ""}`);
    return [scale(0), scale(1)];
  }

  /** Values times their rows' scales; a scale of 0 stands for a row that must not touch the other one. */
  #scaled(values: readonly Value[][], scales: Scales): Value[][] {
    const part = (x: string | 0, scale: string): string | 0 =>
      x === 0
        ? 0
        : this.text.hold("s", `select(0.0f, ${x} * ${scale}.x, bitcast<u32>(${scale}.x) != 0u)`);
    return values.map((row) =>
      row.map(({ re, im }) => ({ re: part(re, scales[0]), im: part(im, scales[1]) })),
    );
  }

  /** A source's transform, and the scales of its rows where these begin here: the given ones, or their own. */
  #transformed(source: PassSource, given?: Scales): [Value[][], Scales | undefined] {
    const raw = this.load(source, true);
    if (!this.paired || source.kind !== "samples") return [this.tile.forward(raw), undefined];
    const scales = given ?? this.#measured(raw);
    return [this.tile.forward(this.#scaled(raw, scales)), scales];
  }

  #gradient(work: Gradient): void {
    const { text, tile } = this;
    this.bind({ name: "sums", access: "read_write", element: "vec2f" });
    const last = tile.stages.at(-1)!;
    const slots = Array.from({ length: last.each }, (_, i) =>
      Array.from({ length: last.radix }, (_, q) => this.spectrumIndex("unit", i, q)),
    );
    const sums = slots.map((row) =>
      row.map((index) => {
        const name = text.fresh("sum");
        text.line(`var ${name} = vec2f();`);
        text.line(`if (p.clear == 0u) { ${name} = sums[${index}]; }`);
        return name;
      }),
    );
    for (const line of this.paired ? pairLoop : rowLoop(this.spec.blocks)) text.line(line);
    if (this.cut) text.line(`let start = ${this.startOf("item")};`);
    tile.enterLoop();
    const [u, scales] = this.#transformed(work.u);
    if (work.y) this.store(work.y, tile.inverse(this.multiply(u, "kernel")), true, scales);
    const inverse = scales?.map((s) => text.hold("c", `${s}.yx`)) as Scales | undefined;
    const again = work.again && this.#transformed(work.again, inverse);
    const early = again ? undefined : this.#transformed(work.dy);
    (again ?? early)![0].forEach((row, i) => {
      const g = new Graph();
      const products = row.map((v, q) => g.cmulConj(nodes(g, v), nodes(g, u[i]![q]!)));
      printValues(text, products).forEach((v, q) => {
        const product = `vec2f(${v.re || "0.0f"}, ${v.im || "0.0f"})`;
        text.line(`${sums[i]![q]} += select(vec2f(), ${product}, live);`);
      });
    });
    if (work.du) {
      const [dy, own] = early ?? this.#transformed(work.dy);
      this.store(work.du, tile.inverse(this.multiply(dy, "conjugate")), true, own);
    }
    text.line("}");
    text.line("if (live) {");
    sums.forEach((row, i) => {
      row.forEach((name, q) => {
        text.line(`sums[${slots[i]![q]}] = ${name};`);
      });
    });
    text.line("}");
  }

  /** Blocks of a transform that the pass works on. */
  get #blocksLeft(): number {
    const { pattern, pass } = this.spec;
    return pattern ? pattern.sections[pass]!.count : this.pass.blocks;
  }

  /** The number of the pass's block that comes as the `index`-th. */
  #blockNumber(index: string): string {
    const { pattern, pass } = this.spec;
    if (!pattern || pass === 0) return index;
    return `pattern[${pattern.sections[pass]!.list}u + ${index}]`;
  }

  #prologue(): string[] {
    const { pass, spec } = this;
    const perUnit = this.#blocksLeft * pass.tilesPerBlock;
    const turns = this.turns;
    const lines = [
      `let t = ${pass.tiles === 1 ? "lane" : `lane % ${pass.threads}u`};`,
      `let sub = ${pass.tiles === 1 ? "0u" : `lane / ${pass.threads}u`};`,
      `let shared_base = ${pass.tiles === 1 ? "0u" : `sub * ${this.norms.elements}u`};`,
      ...(turns > 1
        ? [
            ...this.before,
            `for (var turn = 0u; turn < ${turns}u; turn++) {`,
            `let wanted = ((group.y * groups.x + group.x) * ${turns}u + turn) * ${pass.tiles}u + sub;`,
          ]
        : [`let wanted = (group.y * groups.x + group.x) * ${pass.tiles}u + sub;`]),
      "let live = wanted < p.tiles;",
      "let tile = min(wanted, p.tiles - 1u);",
      `let unit = tile / ${perUnit}u;`,
      `let block = ${this.#blockNumber(`(tile % ${perUnit}u) / ${pass.tilesPerBlock}u`)};`,
      `let column = (tile % ${pass.tilesPerBlock}u) * ${pass.columns}u;`,
    ];
    if (spec.work.kind === "gradient")
      lines.push(
        "let chunk = unit % p.chunks;",
        "let channel_unit = unit / p.chunks;",
        "let h = p.first + channel_unit;",
      );
    else {
      lines.push(
        "let h = channel_of(unit);",
        "let row = row_of(unit);",
        "let slot = unit;",
        ...(this.paired
          ? ["let partner = partner_of(unit);", "let partnered = partner != row;"]
          : []),
        ...(this.cut ? [`let start = ${this.startOf("(p.first + unit)")};`] : []),
      );
    }
    if (this.bindings.has("skip")) lines.push("let skip_value = skip[h + p.skip];");
    return lines;
  }

  finish(): Kernel {
    const { pass, spec } = this;
    const { work } = spec;
    if (this.turns > 1) this.tile.enterLoop();
    if (work.kind === "path") this.#path(work);
    else this.#gradient(work);
    const bindings = [...this.bindings.values()];
    const element = pass.exchange === "whole" ? "vec2f" : "f32";
    const shared = this.norms.elements
      ? [`var<workgroup> shared_x: array<${element}, ${this.norms.elements * pass.tiles}>;`]
      : [];
    const works = ["work", "other", "again"].some((name) => this.bindings.has(name));
    const writes = [...this.tensors.values()].some((t) => t.writes);
    const code = [
      ...(this.meets || this.shuffles ? ["enable subgroups;"] : []),
      ...declarations(bindings),
      ...shared,
      ...rowFunctions(spec.plan.packing, spec.blocks),
      ...(this.paired ? scaleFunctions(spec.dtype) : []),
      ...(works ? pointFunctions(spec.format) : []),
      ...(writes ? roundingFunctions(spec.dtype, spec.machine.packs) : []),
      ...(this.fitted ? [fitFunction, ...roundingFunctions("float16", spec.machine.packs)] : []),
      ...[...this.tensors.values()].flatMap(tensorFunctions),
      `@compute @workgroup_size(${pass.threads * pass.tiles})`,
      entry,
      ...this.#prologue(),
      ...this.text.lines,
      ...(this.turns > 1 ? ["}"] : []),
      "}",
      "",
    ].join("\n");
    return {
      code,
      bindings,
      tiles: pass.tiles * this.turns,
      tilesPerUnit: this.#blocksLeft * pass.tilesPerBlock,
    };
  }
}

/** Generate a kernel. */
export function generateKernel(spec: KernelSpec): Kernel {
  return new Writer(spec).finish();
}
