import type { PassLayout } from "../../../plan/gpu/passes.ts";
import { passLayouts, widened, workPoints } from "../../../plan/gpu/passes.ts";
import type { Binding, TensorAccess, TensorName } from "../storage.ts";
import { tensorBinding } from "../storage.ts";
import type { Value } from "../text.ts";
import { Text } from "../text.ts";
import { accumulators } from "./row-scales.ts";
import type { Cut, KernelSpec, PassSink, PassSource } from "./spec.ts";
import { sourcesAndSinks, tensorsOf } from "./spec.ts";
import type { Place, Stage } from "./tile.ts";
import { stagesOf, sum, Tile } from "./tile.ts";
import type { TileSums } from "./tile-sums.ts";
import { tileSums } from "./tile-sums.ts";
import { rootQuarters, stageTables } from "./twiddles.ts";

/** How many of the samples of all threads. */
export type Share = "all" | "some" | "none";

/** Samples that stand at one place of each thread. */
interface SampleRange {
  readonly shift: number;
  readonly row: Share;
  readonly own: Share;
}

/** A word of the user's samples that is loaded into a variable. */
interface Fetch {
  readonly name: string;
  readonly tensor: TensorName;
  readonly place: Place;
  /** The part of the points that it belongs to. */
  readonly which: 0 | 1;
}

/** A place of one result or of two neighbours, and the text of their values. */
interface Spot {
  readonly place: Place;
  /** Those that it is one of; its place has their shift already. */
  readonly samples: SampleRange;
  /** The part of the points, and with packed rows the row, that it is. */
  readonly which: 0 | 1;
  readonly value: (values: readonly Value[][]) => string;
}

/** Names of the scales of the rows that share a transform. */
export type Scales = readonly [string, string];

/** Statements on a condition, or others; the others alone where it never holds. */
function branch(
  condition: string | undefined,
  then: readonly string[],
  otherwise: readonly string[],
): string[] {
  if (!condition) return [...otherwise];
  return [`if (${condition}) {`, ...then, "} else {", ...otherwise, "}"];
}

/** What a kernel does with the user's rows: which samples lie where, how they are loaded and stored. */
export class UserRows {
  readonly spec: KernelSpec;
  readonly pass: PassLayout;
  readonly text: Text;
  readonly tile: Tile;
  readonly tensors: Map<TensorName, TensorAccess> = new Map();
  readonly bindings: Map<string, Binding> = new Map();
  /** How threads add up the norms of rows that are packed in pairs, or the size of taps; and how many elements of shared memory a tile has. */
  readonly norms: TileSums;
  /** Names of words that are fetched before they are asked for, by tensor and place. */
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
    const ends = sourcesAndSinks(work);
    const tensors = ends.flatMap(tensorsOf);
    this.cut = ends.flatMap((end) => (end.kind === "samples" && end.cut ? [end.cut] : []))[0];
    const pairs = spec.format === "pair" && !this.apart;
    const tables = stageTables(plan)[spec.pass]!;
    const together = {
      first: (tensors.length > 0 && !this.apart) || pairs,
      last: pairs,
      apart: this.apart,
    };
    const stages = stagesOf(pass, tables, rootQuarters(plan) / 4, together);
    this.tile = new Tile(this.text, pass, stages, spec.machine.sharedBytes);
    const points = this.tile.shared.stride;
    const parts = this.fitted ? 1 : this.paired ? 2 * accumulators(spec.dtype) : 0;
    this.norms = tileSums(parts, pass, points, spec.machine);
    this.#neighbours = stages[0]!.vector === 2;
    this.meets =
      !this.#neighbours && !this.apart && tensors.length > 0 && this.#lanesMeet(stages[0]!);
    for (const { name, writes, width } of tensors) {
      const paired = (this.#neighbours || this.meets || this.apart) && width % 2 === 0;
      const access = { name, dtype: spec.dtype, writes, paired };
      this.tensors.set(name, access);
      this.bind(tensorBinding(access));
    }
    if (stages.some((s) => s.table))
      this.bind({ name: "twiddles", access: "read", element: "vec4f" });
    // Tiles of all passes but the first look up their blocks.
    if (spec.pattern && spec.pass > 0) this.bindPattern();
  }

  /** How rows are cut into blocks where this kernel has samples of them. */
  readonly cut: Cut | undefined;

  /** Whether the pass's points hold neighbours of a row, which it takes apart. */
  get apart(): boolean {
    return this.spec.plan.packing === "neighbours" && this.spec.pass === 0;
  }

  /** Whether threads add up by shuffles. */
  shuffles = false;

  /** Sums of values over the threads of a tile: `norms` says how. */
  addUp(values: readonly string[]): string[] {
    this.shuffles ||= this.norms.span > 1;
    return this.tile.sums(values, this.norms);
  }

  /** Points of a transform in work memory. */
  get workPoints(): number {
    return workPoints(this.spec.plan);
  }

  /** Whether it makes spectra in float16, which it fits to the size of the taps. */
  get fitted(): boolean {
    const { work, spectra } = this.spec;
    return work.kind === "path" && work.sink.kind === "spectrum" && spectra === "float16";
  }

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

  bindPattern(): void {
    this.bind({ name: "pattern", access: "read", element: "u32" });
  }

  /** Positions of this thread's points at the ends of the pass: butterfly i, input q. */
  ends(last: boolean): Place[][] {
    const stage = last ? this.tile.stages.at(-1)! : this.tile.stages[0]!;
    return this.tile.places(stage).map((row) => row.map((at) => this.tile.position(at, "column")));
  }

  /**
   * Which samples a part of a point holds: complex part 0 or 1, of input q of the first stage; whether all or none of them
   * lie in the row, and in the block's own.
   */
  samplesOf(part: 0 | 1, q: number, width: number): SampleRange {
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

  /** Where a tensor has the sample of a place. */
  #sample(
    tensor: TensorName,
    place: Place,
    at: { shift: number; width: number; which: 0 | 1 },
  ): Place {
    const row = this.#row(at.which);
    const start = this.cut ? " + start" : "";
    const base = this.tile.held("i", `${place.base} + ${row} * ${at.width}u + p.${tensor}${start}`);
    return { base, offset: place.offset + at.shift };
  }

  /** Conditions that a position lies in the row, and is one of the block's own, where that is not known. */
  #conditions(place: Place, { shift, row, own }: SampleRange, width: number): string[] {
    const { lead, hop } = this.cut ?? { lead: 0, hop: 0 };
    const position = sum({ ...place, offset: place.offset + shift });
    return [
      ...(row === "some" ? [`${this.cut ? `${position} + start` : position} < ${width}u`] : []),
      ...(own === "some" ? [`${position} - ${lead}u < ${hop}u`] : []),
    ];
  }

  /** An index that never leaves the row, for samples that may lie beyond its end and are left out then. */
  #clampedIndex(
    tensor: TensorName,
    place: Place,
    at: { shift: number; width: number; which: 0 | 1 },
    samples: 1 | 2,
  ): string {
    const position = sum({ ...place, offset: place.offset + at.shift });
    const inside = this.tile.held("n", `min(${position}, ${at.width - samples}u)`);
    const row = this.tile.held("i", `${this.#row(at.which)} * ${at.width}u + p.${tensor}`);
    return `${inside} + ${row}`;
  }

  loadSamples(source: PassSource & { kind: "samples" }): Value[][] {
    if (this.cut && !this.#fetchesAhead) {
      const fetches = this.#fetches(source);
      this.#declare(fetches);
      this.#fetchBlock(fetches, source.width, "row", "start");
    }
    const part = (which: 0 | 1): (string | 0)[][] => {
      const values: (string | 0)[][] = [];
      const places = this.ends(false);
      for (let i = 0; i < places.length; i += 1) values.push([]);
      places.forEach((row, i) => {
        row.forEach((place, q) => {
          if (values[i]![q] !== undefined) return;
          const samples = this.samplesOf(which, q, source.width);
          const { shift } = samples;
          // Words of blocks have been fetched, as zeros where they lie beyond the row.
          const inRow = this.cut ? "all" : samples.row;
          const own = source.own ? samples.own : "all";
          if (inRow === "none" || own === "none") {
            values[i]![q] = 0;
            return;
          }
          const pair = this.#neighbours && source.width % 2 === 0;
          const read = source.factors
            .map((f) => {
              const at = { shift, width: source.width, which };
              const sample = this.#sample(f, place, at);
              const clamped =
                inRow === "all" ? undefined : this.#clampedIndex(f, place, at, pair ? 2 : 1);
              const word =
                this.#fetched.get(`${f} ${i} ${q} ${which}`) ??
                (clamped ? `${f}_word(${clamped})` : this.#wordAt(f, sample));
              if (pair) return `${f}_pair(${word})`;
              // Which half of its word a sample is depends on the thread alone.
              const half = this.meets && source.width % 2 === 0 ? "t" : (clamped ?? sum(sample));
              return `${f}_one(${word}, ${half})`;
            })
            .join(" * ");
          const guard = this.#conditions(place, { shift, row: inRow, own }, source.width).join(
            " && ",
          );
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
   * Names for the words of a source: of whole rows those that lie in the row for all threads, of blocks all that a thread
   * may have samples in.
   */
  #fetches(source: PassSource & { kind: "samples" }): Fetch[] {
    const neighbours = this.#neighbours && source.width % 2 === 0;
    const fetches: Fetch[] = [];
    this.ends(false).forEach((places, i) => {
      if (neighbours && i % 2 === 1) return;
      places.forEach((at, q) => {
        for (const which of [0, 1] as const) {
          const { row, own, shift } = this.samplesOf(which, q, source.width);
          if (this.cut ? source.own && own === "none" : row !== "all") continue;
          const place = { ...at, offset: at.offset + shift };
          for (const tensor of source.factors) {
            const name = this.text.fresh("f");
            this.#fetched.set(`${tensor} ${i} ${q} ${which}`, name);
            fetches.push({ name, tensor, place, which });
          }
        }
      });
    });
    return fetches;
  }

  /** What a word of a tensor is where there is none: its samples are zeros. */
  #noWord(tensor: TensorName): string {
    const { dtype, paired } = this.tensors.get(tensor)!;
    if (dtype !== "float32") return "0u";
    return paired ? "vec2f()" : "0.0f";
  }

  #declare(fetches: readonly Fetch[]): void {
    for (const { name, tensor } of fetches)
      this.text.line(`var ${name} = ${this.#noWord(tensor)};`);
  }

  /**
   * Where a word of a tensor lies. Words of two samples have one base, which is halved once and must not be below 0, and
   * constants beside it: halving every index took a tenth of a kernel's instructions.
   */
  #wordAt(tensor: TensorName, { base, offset }: Place, most?: string): string {
    const { paired } = this.tensors.get(tensor)!;
    const half = (x: string): string => (paired ? this.tile.held("i", `${x} >> 1u`) : x);
    const index = sum({ base: half(base), offset: paired ? offset / 2 : offset });
    const safe = most ? `min(${index}, ${half(most)})` : index;
    return paired ? `${tensor}[${safe}]` : `${tensor}_word(${safe})`;
  }

  /** An index that never leaves the row, of a sample of a block that may. `at` is its place in the row. */
  #safeIndex(at: Place, rowBase: string, width: number): string {
    return `min(${sum(at)}, ${width - 1}u) + ${rowBase}`;
  }

  /**
   * Fetches words of the block that begins at sample `start` of a row. Most blocks lie wholly inside of their rows, which
   * one look tells: they are loaded without a condition for each word.
   */
  #fetchBlock(fetches: readonly Fetch[], width: number, row: string, start: string): void {
    const { tile } = this;
    const plain: string[] = [];
    const guarded: string[] = [];
    for (const { name, tensor, place } of fetches) {
      const rowBase = tile.held("i", `${row} * ${width}u + p.${tensor}`);
      const at = { base: tile.held("n", `${place.base} + ${start}`), offset: place.offset };
      const base = tile.held("i", `${at.base} + ${rowBase}`);
      plain.push(`${name} = ${this.#wordAt(tensor, { base, offset: at.offset })};`);
      const word = `${tensor}_word(${this.#safeIndex(at, rowBase, width)})`;
      // Before the row's beginning, positions are huge numbers.
      guarded.push(`${name} = select(${this.#noWord(tensor)}, ${word}, ${sum(at)} < ${width}u);`);
    }
    const room = width - 2 * this.spec.plan.points;
    const inside = room < 0 ? undefined : tile.held("l", `${start} <= ${room}u`);
    for (const line of branch(inside, plain, guarded)) this.text.line(line);
  }

  /** Where the block of a unit begins in its row, or before it. */
  startOf(unit: string): string {
    const { hop, lead } = this.cut!;
    return `${unit} % ${this.spec.blocks}u * ${hop}u - ${lead}u`;
  }

  get #fetchesAhead(): boolean {
    return this.turns > 1 && this.spec.plan.passes.length === 1;
  }

  /**
   * Where tiles come in turn, a tile's samples are fetched, as they are stored, while the one before is on its way back.
   * Returns the code that fetches those of the next tile; the first tile's are fetched before the loop.
   */
  fetchAhead(source: PassSource): () => void {
    const { pass, tile, text } = this;
    if (!this.#fetchesAhead || source.kind !== "samples") return () => {};
    const mark = text.lines.length;
    const fetches = this.#fetches(source);
    const rowsOf = (unit: string): [string, string] => {
      const row = tile.held("n", `row_of(${unit})`);
      return [row, this.paired ? tile.held("n", `partner_of(${unit})`) : row];
    };
    const fetch = (unit: string, variable: string): void => {
      const rows = rowsOf(unit);
      if (this.cut) {
        const start = tile.held("n", this.startOf(`(p.first + ${unit})`));
        this.#fetchBlock(fetches, source.width, rows[0], start);
        return;
      }
      for (const { name, tensor, place, which } of fetches) {
        const row = rows[this.paired ? which : 0];
        const base = tile.held("i", `${place.base} + ${row} * ${source.width}u + p.${tensor}`);
        const word = this.#wordAt(tensor, { base, offset: place.offset });
        text.line(`${variable}${name} = ${word};`);
      }
    };
    const first = `(group.y * groups.x + group.x) * ${this.turns * pass.tiles}u + sub`;
    if (this.cut) this.#declare(fetches);
    fetch(`min(${first}, p.tiles - 1u)`, "var ");
    this.before.push(...text.lines.splice(mark));
    return () => {
      const last = `turn == ${this.turns - 1}u`;
      const next = `wanted + select(${pass.tiles}u, 0u, ${last})`;
      fetch(`min(${next}, p.tiles - 1u)`, "");
    };
  }

  /** Loads the gates of outputs, ahead of `store`. */
  gatesAhead(sink: PassSink & { kind: "samples" }): void {
    for (const { tensor, gates, skipped } of sink.outputs) {
      for (const name of [...gates, ...(skipped ? [skipped] : [])]) {
        for (const { place, samples, which } of this.#spots(tensor, sink.width)) {
          const at = { ...sink, shift: 0, which };
          if (this.cut) this.#blockWord(name, place, samples.own, sink.width);
          else if (samples.row === "all") this.#word(name, this.#sample(name, place, at));
        }
      }
    }
  }

  /**
   * A gate's word for a place of a block. What lies beyond the row is not used: something in the row is loaded for it, on no
   * condition, so that these loads may wait beside those of the next tile.
   */
  #blockWord(name: TensorName, place: Place, own: Share, width: number): string {
    const { tile } = this;
    const rowBase = tile.held("i", `row * ${width}u + p.${name}`);
    if (own === "all") {
      // A block's own samples never lie before the row.
      const most = tile.held("i", `${rowBase} + ${width - 1}u`);
      return tile.held("r", this.#wordAt(name, this.#ownIndex(name, place, width), most));
    }
    const at = { base: tile.held("n", `${place.base} + start`), offset: place.offset };
    return tile.held("r", `${name}_word(${this.#safeIndex(at, rowBase, width)})`);
  }

  /** The first of a block's own samples: never before the row. */
  #ownStart(): string {
    return this.tile.held("n", `start + ${this.cut!.lead}u`);
  }

  /** Whether all of a block's own samples lie in the row, as in most blocks; undefined where they never do. */
  #ownInside(width: number): string | undefined {
    const { hop } = this.cut!;
    return width < hop ? undefined : this.tile.held("l", `${this.#ownStart()} <= ${width - hop}u`);
  }

  /** Index of one of a block's own samples, from a base that is no less than 0, so that it may be halved. */
  #ownIndex(tensor: TensorName, place: Place, width: number): Place {
    const rowBase = this.tile.held("i", `row * ${width}u + p.${tensor}`);
    const base = this.tile.held("i", `${place.base} + ${this.#ownStart()} + ${rowBase}`);
    return { base, offset: place.offset - this.cut!.lead };
  }

  /** What a tensor holds at a place, as it is stored: one load, where it is first asked for. */
  #word(name: TensorName, place: Place): string {
    return this.tile.held("r", this.#wordAt(name, place));
  }

  /** Where this thread stores results: one sample at a time, or two. */
  #spots(tensor: TensorName, width: number): Spot[] {
    const { paired } = this.tensors.get(tensor)!;
    const ends = this.ends(false);
    const spots: Spot[] = [];
    for (const which of [0, 1] as const) {
      const part = (v: Value): string => (which === 0 ? v.re : v.im) || "0.0f";
      const singles: Spot[] = [];
      ends.forEach((row, i) => {
        if (paired && this.#neighbours && i % 2 === 1) return;
        row.forEach((at, q) => {
          const samples = this.samplesOf(which, q, width);
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

  storeSamples(
    sink: PassSink & { kind: "samples" },
    values: readonly Value[][],
    scales: Scales | undefined,
  ): void {
    // What is stored on the same condition is stored together: SwiftShader compiles kernels of many branches for seconds.
    const stores = new Map<string, string[]>();
    // The same for blocks whose own samples all lie in the row.
    const inside = new Map<string, string[]>();
    const add = (to: Map<string, string[]>, conditions: readonly string[], store: string): void => {
      const condition = conditions.join(" && ");
      to.set(condition, [...(to.get(condition) ?? []), store]);
    };
    for (const { tensor, gates, skipped } of sink.outputs) {
      const { paired } = this.tensors.get(tensor)!;
      if (skipped) this.bind({ name: "skip", access: "read", element: "f32" });
      for (const { place, samples, which, value } of this.#spots(tensor, sink.width)) {
        const at = { shift: 0, width: sink.width, which };
        const read = (name: TensorName): string => {
          const sample = this.#sample(name, place, at);
          const word = this.cut
            ? this.#blockWord(name, place, samples.own, sink.width)
            : samples.row === "all"
              ? this.#word(name, sample)
              : this.#wordAt(name, sample);
          return `${name}_${paired ? `pair(${word})` : `one(${word}, ${sum(sample)})`}`;
        };
        const own = scales ? [`${scales[which]}.y`] : [];
        const gated = [value(values), ...own, ...gates.map(read)].join(" * ");
        const whole = skipped ? `${gated} + skip_value * ${read(skipped)}` : gated;
        const conditions = (row: Share): string[] => [
          ...(this.paired && which === 1 ? ["partnered"] : []),
          ...this.#conditions(place, { ...samples, row }, sink.width),
        ];
        const sample = this.#sample(tensor, place, at);
        const store = (x: string): string => {
          if (!paired) return `${tensor}_put(${sum(sample)}, ${x});`;
          const word = this.cut ? this.#ownIndex(tensor, place, sink.width) : sample;
          return `${this.#wordAt(tensor, word)} = ${x};`;
        };
        const rounded = this.rounded(tensor, whole);
        // For both ways to store a block it is rounded once.
        const stored = store(this.cut ? this.text.hold("y", rounded) : rounded);
        add(stores, conditions(samples.row), stored);
        if (this.cut) add(inside, conditions("all"), stored);
      }
    }
    const lines = (all: Map<string, string[]>): string[] =>
      [...all].map(([condition, alike]) =>
        condition ? `if (${condition}) { ${alike.join(" ")} }` : alike.join("\n"),
      );
    const written = this.cut
      ? branch(this.#ownInside(sink.width), lines(inside), lines(stores))
      : lines(stores);
    for (const line of written) this.text.line(line);
  }

  /** What a place of a tensor is set to: a pair of samples as it is stored, or one sample. */
  rounded(tensor: TensorName, value: string): string {
    const { dtype, paired } = this.tensors.get(tensor)!;
    return paired && dtype !== "float32" ? `pack_pair(${value})` : value;
  }
}
