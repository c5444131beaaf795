/** The ends of a kernel's tile: which samples, taps or points each thread loads and stores, and how. */
import { Graph } from "../../math/expr.ts";
import type { PassLayout } from "../../plan/passes.ts";
import { passLayouts, widened } from "../../plan/passes.ts";
import type { Cut, KernelSpec, Sink, Source } from "./kernels.ts";
import { endsOf, tensorsOf } from "./kernels.ts";
import { accumulators } from "./norms.ts";
import { isLeft } from "./pattern.ts";
import { pointElement, readPoint, writePoint } from "./points.ts";
import type { Value } from "./print.ts";
import { nodes, printValues, Text } from "./print.ts";
import { spectrumPlace } from "./spectra.ts";
import type { TileSums } from "./sums.ts";
import { tileSums } from "./sums.ts";
import type { Binding, TensorAccess, TensorName } from "./tensors.ts";
import { tensorBinding } from "./tensors.ts";
import type { Place, Stage } from "./tile.ts";
import { stagesOf, sum, Tile } from "./tile.ts";
import { rootQuarters, stageTables } from "./twiddles.ts";

/** How many of the samples of all threads. */
type Share = "all" | "some" | "none";

/** Samples that stand at one place of each thread. */
interface Samples {
  readonly shift: number;
  readonly row: Share;
  readonly own: Share;
}

/** A place of one result or of two neighbours, and the text of their values. */
interface Spot {
  readonly place: Place;
  /** Those that it is one of; its place has their shift already. */
  readonly samples: Samples;
  /** The part of the points, and with packed rows the row, that it is. */
  readonly which: 0 | 1;
  readonly value: (values: readonly Value[][]) => string;
}

/** Names of the scales of the rows that share a transform. */
export type Scales = readonly [string, string];

/** Points of the spectrum that a thread may load before it needs them. */
const mostAhead = 16;

/** What a kernel does at both ends of a tile: places, loads, the product with the spectrum, stores. */
export class Ends {
  readonly spec: KernelSpec;
  readonly pass: PassLayout;
  readonly text: Text;
  readonly tile: Tile;
  readonly vector: number;
  readonly tensors: Map<TensorName, TensorAccess> = new Map();
  readonly bindings: Map<string, Binding> = new Map();
  /** How threads add up the norms of rows that are packed in pairs; and how many elements of shared memory a tile has. */
  readonly norms: TileSums;
  /** Names of samples that are fetched ahead, by tensor and place. */
  readonly #fetched = new Map<string, string>();
  /** Code before the loop over turns. */
  readonly before: string[] = [];
  /** Whether a thread holds neighbours at the ends of the pass. */
  readonly #neighbours: boolean;
  /** Whether two threads next to each other do, and can swap them so that each stores a whole word. */
  readonly meets: boolean;

  constructor(spec: KernelSpec) {
    this.spec = spec;
    this.text = new Text(!spec.machine.slowFma);
    const { plan, work } = spec;
    const layout = passLayouts(plan)[spec.pass]!;
    this.pass = work.kind === "gradient" ? widened(layout, spec.machine.threads) : layout;
    const { pass } = this;
    const ends = endsOf(work);
    const tensors = ends.flatMap(tensorsOf);
    this.cut = ends.flatMap((end) => (end.kind === "samples" && end.cut ? [end.cut] : []))[0];
    this.vector = tensors.length > 0 ? 2 : 1;
    const tables = stageTables(plan)[spec.pass]!;
    const stages = stagesOf(pass, tables, rootQuarters(plan) / 4, this.vector);
    this.tile = new Tile(this.text, pass, stages, spec.machine.sharedBytes);
    const points = pass.threads > 1 ? this.tile.shared.stride : 0;
    const parts = this.paired ? 2 * accumulators(spec.dtype) : 0;
    this.norms = tileSums(parts, pass, points, spec.machine);
    this.#neighbours = stages[0]!.vector === 2;
    this.meets = !this.#neighbours && tensors.length > 0 && this.#lanesMeet(stages[0]!);
    for (const { name, writes, width } of tensors) {
      const paired = (this.#neighbours || this.meets) && width % 2 === 0;
      const access = { name, dtype: spec.dtype, writes, paired };
      this.tensors.set(name, access);
      this.bind(tensorBinding(access));
    }
    if (stages.some((s) => s.table))
      this.bind({ name: "twiddles", access: "read", element: "vec4f" });
    // Tiles of all passes but the first look up their blocks.
    if (spec.pattern && spec.pass > 0) this.#bindPattern();
  }

  /** How rows are cut into blocks where this kernel has samples of them. */
  readonly cut: Cut | undefined;

  /** Whether two rows share a transform. */
  get paired(): boolean {
    return this.spec.plan.packing === "rows";
  }

  /** The row that a part of the points belongs to. */
  #row(which: 0 | 1): string {
    return this.paired && which === 1 ? "partner" : "row";
  }

  /** Gradients have a loop of their own. */
  get turns(): number {
    return this.spec.work.kind === "path" ? (this.pass.turns ?? 1) : 1;
  }

  #lanesMeet({ vector, rest, radix }: Stage): boolean {
    const { threads, columns } = this.pass;
    const even = (n: number): boolean => n % 2 === 0;
    return (
      (this.spec.machine.shuffles ?? false) &&
      this.spec.dtype !== "float32" &&
      vector === 1 &&
      [rest, threads, radix].every(even) &&
      rest % threads === 0 &&
      (columns === 1 || even(columns))
    );
  }

  bind(binding: Binding): void {
    const known = this.bindings.get(binding.name);
    if (known?.access !== "read_write") this.bindings.set(binding.name, binding);
  }

  /** Positions of this thread's points at the ends of the pass: butterfly i, input q. */
  #ends(last: boolean): Place[][] {
    const stage = last ? this.tile.stages.at(-1)! : this.tile.stages[0]!;
    return this.tile.places(stage).map((row) => row.map((at) => this.tile.position(at, "column")));
  }

  #workIndex(place: Place): string {
    const base = this.tile.held(
      "m",
      `${place.base} + slot * ${this.spec.plan.points}u + block * ${this.pass.size}u`,
    );
    return sum({ base, offset: place.offset });
  }

  /** Where output q of the last stage's butterfly i lies in its spectrum. */
  #inSpectrum(i: number, q: number): Place {
    const place = this.#ends(true)[i]![q]!;
    return spectrumPlace(this.spec.plan, this.pass, place, (text) => this.tile.held("k", text));
  }

  /** Index of output q of the last stage's butterfly i in the `which`-th of some spectra. */
  spectrumIndex(which: string, i: number, q: number): string {
    const { base, offset } = this.#inSpectrum(i, q);
    const from = this.tile.held("k", `(${which}) * ${this.spec.plan.points}u + ${base}`);
    return sum({ base: from, offset });
  }

  /**
   * Which samples a part of a point holds: complex part 0 or 1, of input q of the first stage; whether all or none of them
   * lie in the row, and in the block's own.
   */
  #samples(part: 0 | 1, q: number, width: number): Samples {
    const { plan } = this.spec;
    const shift = plan.packing === "halves" ? part * plan.points : 0;
    const run = plan.points / this.tile.stages[0]!.radix;
    const first = shift + q * run;
    const within = (from: number, to: number): Share => {
      if (from <= first && first + run <= to) return "all";
      return first + run <= from || to <= first ? "none" : "some";
    };
    if (!this.cut) return { shift, row: within(0, width), own: "all" };
    // Where a block begins is known at run time alone.
    const { lead, hop } = this.cut;
    return { shift, row: "some", own: within(lead, lead + hop) };
  }

  #sampleIndex(
    tensor: TensorName,
    place: Place,
    at: { shift: number; width: number; which: 0 | 1 },
  ): string {
    const row = this.#row(at.which);
    const start = this.cut ? " + start" : "";
    const base = this.tile.held("i", `${place.base} + ${row} * ${at.width}u + p.${tensor}${start}`);
    return sum({ base, offset: place.offset + at.shift });
  }

  /** Which sample of its row a position holds; below the row's first, a huge number. */
  #sampleAt(place: Place, shift: number): string {
    const position = sum({ ...place, offset: place.offset + shift });
    return this.cut ? `${position} + start` : position;
  }

  /** Conditions that a position lies in the row, and is one of the block's own, where that is not known. */
  #conditions(place: Place, { shift, row, own }: Samples, width: number): string[] {
    const { lead, hop } = this.cut ?? { lead: 0, hop: 0 };
    return [
      ...(row === "some" ? [`${this.#sampleAt(place, shift)} < ${width}u`] : []),
      ...(own === "some"
        ? [`${sum({ ...place, offset: place.offset + shift })} - ${lead}u < ${hop}u`]
        : []),
    ];
  }

  /** An index that never leaves the row, for samples that may lie beyond its end and are left out then. */
  #clampedIndex(
    tensor: TensorName,
    place: Place,
    at: { shift: number; width: number; which: 0 | 1 },
    samples: 1 | 2,
  ): string {
    const position = this.#sampleAt(place, at.shift);
    const inside = this.tile.held("n", `min(${position}, ${at.width - samples}u)`);
    const row = this.tile.held("i", `${this.#row(at.which)} * ${at.width}u + p.${tensor}`);
    return `${inside} + ${row}`;
  }

  #loadSamples(source: Source & { kind: "samples" }): Value[][] {
    const part = (which: 0 | 1): (string | 0)[][] => {
      const values: (string | 0)[][] = [];
      const places = this.#ends(false);
      for (let i = 0; i < places.length; i += 1) values.push([]);
      places.forEach((row, i) => {
        row.forEach((place, q) => {
          if (values[i]![q] !== undefined) return;
          const samples = this.#samples(which, q, source.width);
          const { shift, row: inRow } = samples;
          const own = source.own ? samples.own : "all";
          if (inRow === "none" || own === "none") {
            values[i]![q] = 0;
            return;
          }
          const pair = this.#neighbours && source.width % 2 === 0;
          const read = source.factors
            .map((f) => {
              const at = { shift, width: source.width, which };
              const index =
                inRow === "all"
                  ? this.#sampleIndex(f, place, at)
                  : this.#clampedIndex(f, place, at, pair ? 2 : 1);
              const word = this.#fetched.get(`${f} ${i} ${q} ${which}`) ?? `${f}_word(${index})`;
              if (pair) return `${f}_pair(${word})`;
              // Which half of its word a sample is depends on the thread alone.
              const half = this.meets && source.width % 2 === 0 ? "t" : index;
              return `${f}_one(${word}, ${half})`;
            })
            .join(" * ");
          const guard = this.#conditions(place, { ...samples, own }, source.width).join(" && ");
          const zero = pair ? "vec2f()" : "0.0f";
          const value = this.text.hold("s", guard ? `select(${zero}, ${read}, ${guard})` : read);
          values[i]![q] = pair ? `${value}.x` : value;
          if (pair) values[i + 1]![q] = `${value}.y`;
        });
      });
      return values;
    };
    const re = part(0);
    const im = part(1);
    return re.map((row, i) => row.map((x, q) => ({ re: x, im: im[i]![q]! })));
  }

  /**
   * Where tiles come in turn, a tile's samples are fetched, as they are stored, while the one before is on its way back.
   * Returns the code that fetches those of the next tile; the first tile's are fetched before the loop.
   */
  fetchAhead(source: Source): () => void {
    const { pass, tile, text } = this;
    if (this.turns === 1 || this.spec.plan.passes.length > 1 || source.kind !== "samples")
      return () => {};
    const fetches: { name: string; word: (rows: readonly [string, string]) => string }[] = [];
    const neighbours = this.#neighbours && source.width % 2 === 0;
    const mark = text.lines.length;
    this.#ends(false).forEach((row, i) => {
      if (neighbours && i % 2 === 1) return;
      row.forEach((place, q) => {
        for (const which of [0, 1] as const) {
          const { row, shift } = this.#samples(which, q, source.width);
          if (row !== "all") continue;
          for (const f of source.factors) {
            const name = text.fresh("f");
            this.#fetched.set(`${f} ${i} ${q} ${which}`, name);
            const offset = place.offset + shift;
            const word = (rows: readonly [string, string]): string => {
              const row = rows[this.paired ? which : 0];
              const base = tile.held("i", `${place.base} + ${row} * ${source.width}u + p.${f}`);
              return `${f}_word(${sum({ base, offset })})`;
            };
            fetches.push({ name, word });
          }
        }
      });
    });
    const first = `(group.y * groups.x + group.x) * ${this.turns * pass.tiles}u + sub`;
    const rowsOf = (unit: string): [string, string] => {
      const row = tile.held("n", `row_of(${unit})`);
      return [row, this.paired ? tile.held("n", `partner_of(${unit})`) : row];
    };
    const firstRows = rowsOf(`min(${first}, p.tiles - 1u)`);
    for (const { name, word } of fetches) text.line(`var ${name} = ${word(firstRows)};`);
    this.before.push(...text.lines.splice(mark));
    return () => {
      const last = `turn == ${this.turns - 1}u`;
      const next = `wanted + select(${pass.tiles}u, 0u, ${last})`;
      const rows = rowsOf(`min(${next}, p.tiles - 1u)`);
      for (const { name, word } of fetches) text.line(`${name} = ${word(rows)};`);
    };
  }

  /** Taps at their positions: sums over the runs that reach a place. */
  #loadTaps({ runs, taps }: Source & { kind: "taps" }): Value[][] {
    const { plan } = this.spec;
    const run = plan.points / this.tile.stages[0]!.radix;
    const part = (place: Place, q: number, shift: number): string | 0 => {
      const first = shift + q * run;
      const terms = runs.flatMap(({ index, count, position, sign }) => {
        if (first >= position + count || first + run <= position) return [];
        const n = sum({ ...place, offset: place.offset + shift });
        const at = this.text.hold("n", `${n} - ${position}u`);
        const base = this.tile.held("i", `row * ${taps}u + p.u`);
        // Below the position, the difference is a huge number.
        const inside = `${at} < ${count}u`;
        const read = `u_get(${base} + ${index}u + min(${at}, ${count - 1}u))`;
        return [`select(0.0f, ${sign > 0 ? "" : "-"}${read}, ${inside})`];
      });
      return terms.length > 0 ? this.text.hold("s", terms.join(" + ")) : 0;
    };
    return this.#ends(false).map((row) =>
      row.map((place, q) => ({
        re: part(place, q, 0),
        im: plan.packing === "halves" ? part(place, q, plan.points) : 0,
      })),
    );
  }

  /** Values at the first stage's places, or at the last one's for a path that has inverse stages alone. */
  load(source: Source, forward: boolean): Value[][] {
    if (source.kind === "samples") return this.#loadSamples(source);
    if (source.kind === "taps") return this.#loadTaps(source);
    if (source.buffer === "sums") return this.#loadSums();
    const { format } = this.spec;
    this.bind({ name: source.buffer, access: "read", element: pointElement[format] });
    return this.#ends(!forward).map((row) =>
      row.map((place) => {
        const left = forward ? undefined : this.#subBlockLeft(place);
        const index = this.#workIndex(place);
        // What was never stored is not fetched either: all of it is read from one place.
        const near =
          left && `select(${this.#workIndex({ base: "t", offset: 0 })}, ${index}, ${left})`;
        const point = readPoint(format, `${source.buffer}[${near ?? index}]`);
        const x = this.text.hold("z", left ? `select(vec2f(), ${point}, ${left})` : point);
        return { re: `${x}.x`, im: `${x}.y` };
      }),
    );
  }

  #bindPattern(): void {
    this.bind({ name: "pattern", access: "read", element: "u32" });
  }

  /** Whether the sub-block that a place of the pass's last stage belongs to keeps a frequency; undefined where all do. */
  #subBlockLeft(place: Place): string | undefined {
    const section = this.spec.pattern?.sections[this.spec.pass + 1];
    const { rest, size } = this.pass;
    const blocks = size / rest;
    if (!section || section.count === this.pass.blocks * blocks) return undefined;
    this.#bindPattern();
    const local = this.tile.held("b", rest === 1 ? sum(place) : `(${sum(place)}) / ${rest}u`);
    const block = this.tile.held("b", `block * ${blocks}u + ${local}`);
    return this.tile.held("l", isLeft(section, block));
  }

  /** Sums of a channel over the chunks of the batch, in their order. */
  #loadSums(): Value[][] {
    const { text } = this;
    this.bind({ name: "sums", access: "read", element: "vec2f" });
    const last = this.tile.stages.at(-1)!;
    const names = Array.from({ length: last.each }, () =>
      Array.from({ length: last.radix }, () => text.fresh("z")),
    );
    for (const name of names.flat()) text.line(`var ${name} = vec2f();`);
    const adds = names.flatMap((row, i) =>
      row.map((name, q) => `${name} += sums[at + ${sum(this.#inSpectrum(i, q))}];`),
    );
    text.line("for (var c = 0u; c < p.chunks; c++) {");
    text.line(`let at = (unit * p.chunks + c) * ${this.spec.plan.points}u;`);
    for (const line of adds) text.line(line);
    text.line("}");
    // Frequencies that are not kept have no gradient.
    const places = this.#ends(true);
    return names.map((row, i) =>
      row.map((name, q) => {
        const left = this.#subBlockLeft(places[i]![q]!);
        const x = left ? text.hold("z", `select(vec2f(), ${name}, ${left})`) : name;
        return { re: `${x}.x`, im: `${x}.y` };
      }),
    );
  }

  /** A point of the spectrum: loaded where it is first asked for. */
  #spectrum(i: number, q: number): string {
    this.bind({ name: "spectrum", access: "read", element: "vec2f" });
    return this.tile.held("k", `spectrum[${this.spectrumIndex("h + p.channel", i, q)}]`);
  }

  /** Loads the spectrum, ahead of `multiply`, where a thread holds few points. */
  spectrumAhead(): void {
    const { each, radix } = this.tile.stages.at(-1)!;
    if (each * radix > mostAhead) return;
    for (let i = 0; i < each; i++) for (let q = 0; q < radix; q++) this.#spectrum(i, q);
  }

  /** Values at the last stage's places times the spectrum, or its conjugate. */
  multiply(values: Value[][], product: "kernel" | "conjugate"): Value[][] {
    return values.map((row, i) => {
      const g = new Graph();
      const products = row.map((v, q) => {
        const k = this.#spectrum(i, q);
        const w = nodes(g, { re: `${k}.x`, im: `${k}.y` });
        return product === "kernel" ? g.cmul(nodes(g, v), w) : g.cmulConj(nodes(g, v), w);
      });
      return printValues(this.text, products);
    });
  }

  /** Loads the gates of outputs, ahead of `store`. */
  gatesAhead(sink: Sink & { kind: "samples" }): void {
    for (const { tensor, gates, skipped } of sink.outputs) {
      for (const name of [...gates, ...(skipped ? [skipped] : [])]) {
        for (const { place, samples, which } of this.#spots(tensor, sink.width)) {
          const at = { ...sink, shift: 0, which };
          if (samples.row === "all") this.#word(name, this.#sampleIndex(name, place, at));
        }
      }
    }
  }

  /** What a tensor holds at an index, as it is stored: one load, where it is first asked for. */
  #word(name: TensorName, index: string): string {
    return this.tile.held("r", `${name}_word(${index})`);
  }

  /** Where this thread stores results: one sample at a time, or two. */
  #spots(tensor: TensorName, width: number): Spot[] {
    const { paired } = this.tensors.get(tensor)!;
    const ends = this.#ends(false);
    const spots: Spot[] = [];
    for (const which of [0, 1] as const) {
      const part = (v: Value): string => (which === 0 ? v.re : v.im) || "0.0f";
      const singles: Spot[] = [];
      ends.forEach((row, i) => {
        if (paired && this.#neighbours && i % 2 === 1) return;
        row.forEach((at, q) => {
          const samples = this.#samples(which, q, width);
          if (samples.row === "none" || samples.own === "none") return;
          const value = (values: readonly Value[][]): string =>
            paired && this.#neighbours
              ? `vec2f(${part(values[i]![q]!)}, ${part(values[i + 1]![q]!)})`
              : part(values[i]![q]!);
          const place = { ...at, offset: at.offset + samples.shift };
          singles.push({ place, samples: { ...samples, shift: 0 }, which, value });
        });
      });
      spots.push(...(paired && this.meets ? this.#met(singles) : singles));
    }
    return spots;
  }

  /**
   * Samples of two threads next to each other, two by two: the even thread stores both samples of the first word, the odd
   * one those of the second, and one value goes each way.
   */
  #met(singles: readonly Spot[]): Spot[] {
    const odd = this.tile.held("o", "(t & 1u) == 1u");
    return singles.flatMap((a, m): Spot[] => {
      if (m % 2 === 1) return [];
      // The last of an odd number meets itself: both threads store the same word.
      const b = singles[m + 1] ?? a;
      // Places have a base each where bit fields meet, as with an odd radix.
      const [p, q] = [a.place, b.place];
      const either =
        p.base === q.base
          ? `${p.base} + select(${p.offset}u, ${q.offset}u, ${odd})`
          : `select(${sum(p)}, ${sum(q)}, ${odd})`;
      const offset = this.tile.held("n", `${either} - (t & 1u)`);
      const value = (values: readonly Value[][]): string => {
        const [x, y] = [a.value(values), b.value(values)];
        const got = this.text.hold("g", `subgroupShuffleXor(select(${y}, ${x}, ${odd}), 1u)`);
        return `select(vec2f(${x}, ${got}), vec2f(${got}, ${y}), ${odd})`;
      };
      const { which, samples } = a;
      const both = (x: Share, y: Share): Share => (x === y ? x : "some");
      const shares = {
        row: both(samples.row, b.samples.row),
        own: both(samples.own, b.samples.own),
      };
      return [
        { place: { base: offset, offset: 0 }, samples: { shift: 0, ...shares }, which, value },
      ];
    });
  }

  #storeSamples(
    sink: Sink & { kind: "samples" },
    values: readonly Value[][],
    scales: Scales | undefined,
  ): void {
    // What is stored on the same condition is stored together: SwiftShader compiles kernels of many branches for seconds.
    const stores = new Map<string, string[]>();
    for (const { tensor, gates, skipped } of sink.outputs) {
      const { paired } = this.tensors.get(tensor)!;
      if (skipped) this.bind({ name: "skip", access: "read", element: "f32" });
      for (const { place, samples, which, value } of this.#spots(tensor, sink.width)) {
        const at = { shift: 0, width: sink.width, which };
        const read = (name: TensorName): string => {
          const index = this.#sampleIndex(name, place, at);
          const word = samples.row === "all" ? this.#word(name, index) : `${name}_word(${index})`;
          return `${name}_${paired ? `pair(${word})` : `one(${word}, ${index})`}`;
        };
        const own = scales ? [`${scales[which]}.y`] : [];
        const gated = [value(values), ...own, ...gates.map(read)].join(" * ");
        const whole = skipped ? `${gated} + skip_value * ${read(skipped)}` : gated;
        const index = this.#sampleIndex(tensor, place, at);
        const condition = [
          ...(this.paired && which === 1 ? ["partnered"] : []),
          ...this.#conditions(place, samples, sink.width),
        ].join(" && ");
        const alike = stores.get(condition) ?? [];
        alike.push(`${tensor}_put${paired ? "_pair" : ""}(${index}, ${whole});`);
        stores.set(condition, alike);
      }
    }
    for (const [condition, alike] of stores) {
      this.text.line(condition ? `if (${condition}) { ${alike.join(" ")} }` : alike.join("\n"));
    }
  }

  /** Stores, for live tiles alone. */
  store(sink: Sink, values: readonly Value[][], inverse: boolean, scales?: Scales): void {
    const { text } = this;
    if (sink.kind === "samples") {
      // Indices are held outside of the condition, where later code sees them too.
      const inner = this.text.lines.length;
      this.#storeSamples(sink, values, scales);
      const stores = this.text.lines.splice(inner);
      const isStore = (l: string): boolean => !l.startsWith("let ");
      for (const l of stores.filter((l) => !isStore(l))) text.line(l);
      text.line("if (live) {");
      for (const l of stores.filter(isStore)) text.line(l);
      text.line("}");
      return;
    }
    const name = sink.kind === "spectrum" ? "spectrum" : sink.buffer;
    const format = sink.kind === "spectrum" ? "float32" : this.spec.format;
    this.bind({ name, access: "read_write", element: pointElement[format] });
    const scale = sink.kind === "spectrum" ? ` * ${1 / this.spec.plan.points}f` : "";
    const lines: string[] = [];
    const apart = new Map<string, string[]>();
    this.#ends(!inverse).forEach((row, i) => {
      row.forEach((place, q) => {
        const index =
          sink.kind === "spectrum"
            ? this.spectrumIndex("h + p.channel", i, q)
            : this.#workIndex(place);
        const { re, im } = values[i]![q]!;
        const point = `vec2f(${re || "0.0f"}, ${im || "0.0f"})${scale}`;
        const left = inverse ? undefined : this.#subBlockLeft(place);
        if (sink.kind === "spectrum" && left)
          lines.push(`${name}[${index}] = select(vec2f(), ${point}, ${left});`);
        else {
          const write = `${name}[${index}] = ${writePoint(format, point)};`;
          if (left) apart.set(left, [...(apart.get(left) ?? []), write]);
          else lines.push(write);
        }
      });
    });
    text.line("if (live) {");
    for (const l of lines) text.line(l);
    for (const [left, writes] of apart) text.line(`if (${left}) { ${writes.join(" ")} }`);
    text.line("}");
  }
}
