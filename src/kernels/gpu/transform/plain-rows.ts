/** The user's end of passes whose points hold samples P/2 apart, or samples of two rows: rows loaded, gated and stored. */
import { choice, floats, shuffled, when, workgroup, zero } from "../dialect/wgsl.ts";
import type { TensorName } from "../storage.ts";
import type { Value } from "../text.ts";
import { Branches, partText } from "../text.ts";
import type { KernelContext, Scales, UserEnd } from "./kernel-context.ts";
import type { Coverage, SamplePlace } from "./row-samples.ts";
import { RowSamples } from "./row-samples.ts";
import type { PassSink, PassSource } from "./spec.ts";
import { tapsAt } from "./taps.ts";
import type { Place } from "./tile.ts";
import { sum } from "./tile.ts";

type SampleSource = PassSource & { kind: "samples" };
type SampleSink = PassSink & { kind: "samples" };

/** A word of the user's samples that is loaded into a variable. */
interface Fetch {
  readonly name: string;
  readonly tensor: TensorName;
  readonly place: Place;
  readonly component: 0 | 1;
}

/** Where a thread stores one result, or two neighbours, and the text of their values. */
interface Spot extends SamplePlace {
  readonly value: (values: readonly Value[][]) => string;
}

export class PlainRows implements UserEnd {
  readonly #context: KernelContext;
  readonly #samples: RowSamples;
  /** Names of words that are fetched before they are asked for, by tensor and place. */
  readonly #fetched = new Map<string, string>();

  constructor(context: KernelContext) {
    this.#context = context;
    this.#samples = new RowSamples(context);
  }

  load(source: PassSource & { kind: "samples" | "taps" }): Value[][] {
    if (source.kind === "taps") return this.#loadTaps(source);
    if (this.#context.cut && !this.#fetchesAhead) {
      const fetches = this.#fetches(source);
      this.#declare(fetches);
      this.#fetchBlock(fetches, source.width, "row", "start");
    }
    const re = this.#loadPart(source, 0);
    const im = this.#loadPart(source, 1);
    return re.map((row, i) => row.map((x, q) => ({ re: x, im: im[i]![q]! })));
  }

  /** Taps at their positions. */
  #loadTaps(source: PassSource & { kind: "taps" }): Value[][] {
    const { spec, tile } = this.#context;
    const { points, packing } = spec.plan;
    const run = points / tile.stages[0]!.radix;
    const tap = ({ base, offset }: Place, q: number, shift: number): string | 0 =>
      tapsAt(tile, source, sum({ base, offset: offset + shift }), { first: shift + q * run, run });
    return this.#context.points("first", (place, _, q) => ({
      re: tap(place, q, 0),
      im: packing === "halves" ? tap(place, q, points) : 0,
    }));
  }

  #loadPart(source: SampleSource, component: 0 | 1): (string | 0)[][] {
    const pairs = this.#context.neighbours && source.width % 2 === 0;
    const loaded = this.#context.points("first", (place, i, q) =>
      pairs && i % 2 === 1 ? 0 : this.#loadOne(source, place, i, q, component),
    );
    if (!pairs) return loaded;
    return loaded.map((_, i) => loaded[i - (i % 2)]!.map((x) => x && `${x}.${"xy"[i % 2]}`));
  }

  /** The product of a source's tensors at one place: a sample, or two neighbours in a vector; 0 where no thread has any. */
  #loadOne(source: SampleSource, place: Place, i: number, q: number, component: 0 | 1): string | 0 {
    const { cut, neighbours, swaps, text } = this.#context;
    const { factors, width } = source;
    const at = this.#samples.at(place, q, component, width);
    // Words of blocks have been fetched, as zeros where they lie beyond the row.
    const row = cut ? "all" : at.row;
    const own = source.own ? at.own : "all";
    if (row === "none" || own === "none") return 0;
    const pair = neighbours && width % 2 === 0;
    const read = factors.map((f) => {
      const index = this.#samples.index(f, at, width);
      const clamped = row === "all" ? undefined : this.#samples.clamped(f, at, width, pair ? 2 : 1);
      const word =
        this.#fetched.get(`${f} ${i} ${q} ${component}`) ??
        (clamped ? `${f}_word(${clamped})` : this.#samples.word(f, index));
      if (pair) return `${f}_pair(${word})`;
      // Which half of its word a sample is depends on the thread alone.
      const half = swaps && width % 2 === 0 ? "t" : (clamped ?? sum(index));
      return `${f}_one(${word}, ${half})`;
    });
    const guard = this.#samples.conditions({ ...at, row, own }, width).join(" && ");
    const all = read.join(" * ");
    return text.hold("s", guard ? choice(guard, all, zero(pair ? "vec2f" : "f32")) : all);
  }

  /**
   * Names for the words of a source: of whole rows those that lie in the row for all threads, of blocks all that a thread
   * may have samples in.
   */
  #fetches(source: SampleSource): Fetch[] {
    const { cut, neighbours, text } = this.#context;
    const pairs = neighbours && source.width % 2 === 0;
    const fetches: Fetch[] = [];
    this.#context.points("first", (place, i, q) => {
      if (pairs && i % 2 === 1) return;
      for (const component of [0, 1] as const) {
        const at = this.#samples.at(place, q, component, source.width);
        if (cut ? source.own && at.own === "none" : at.row !== "all") continue;
        for (const tensor of source.factors) {
          const name = text.fresh("f");
          this.#fetched.set(`${tensor} ${i} ${q} ${component}`, name);
          fetches.push({ name, tensor, place: at.place, component });
        }
      }
    });
    return fetches;
  }

  #declare(fetches: readonly Fetch[]): void {
    for (const { name, tensor } of fetches)
      this.#context.text.variable(name, this.#samples.noWord(tensor));
  }

  /**
   * Fetches words of the block that begins at sample `start` of a row. Most blocks lie wholly inside of their rows, which
   * one look tells: they are loaded without a condition for each word.
   */
  #fetchBlock(fetches: readonly Fetch[], width: number, row: string, start: string): void {
    const { tile, text, spec } = this.#context;
    const plain: string[] = [];
    const guarded: string[] = [];
    for (const { name, tensor, place } of fetches) {
      const rowStart = this.#samples.rowStart(tensor, width, row);
      const at = this.#samples.inRow(place, start);
      const base = tile.held("i", `${at.base} + ${rowStart}`);
      plain.push(`${name} = ${this.#samples.word(tensor, { base, offset: at.offset })};`);
      const word = this.#samples.safeWord(tensor, at, rowStart, width);
      // Before the row's beginning, positions are huge numbers.
      const none = this.#samples.noWord(tensor);
      guarded.push(`${name} = ${choice(`${sum(at)} < ${width}u`, word, none)};`);
    }
    const room = width - 2 * spec.plan.points;
    const inside = room >= 0 && tile.held("l", `${start} <= ${room}u`);
    text.line(...(inside ? when(inside, plain, guarded) : guarded));
  }

  get #fetchesAhead(): boolean {
    return this.#context.turns > 1 && this.#context.spec.plan.passes.length === 1;
  }

  /** Where tiles come in turn, a tile's words are fetched while the one before is on its way back. */
  fetchAhead(source: PassSource): (() => void) | undefined {
    const { pass, tile, text, cut, twoRows, turns, before } = this.#context;
    if (!this.#fetchesAhead || source.kind !== "samples") return undefined;
    let fetches: Fetch[] = [];
    const fetch = (unit: string, declares: boolean): void => {
      const row = tile.held("n", `row_of(${unit})`);
      if (cut) {
        const start = tile.held("n", this.#samples.blockStart(`(p.first + ${unit})`));
        this.#fetchBlock(fetches, source.width, row, start);
        return;
      }
      const rows = [row, twoRows ? tile.held("n", `partner_of(${unit})`) : row];
      for (const { name, tensor, place, component } of fetches) {
        const start = `${rows[component]} * ${source.width}u + p.${tensor}`;
        const base = tile.held("i", `${place.base} + ${start}`);
        const word = this.#samples.word(tensor, { base, offset: place.offset });
        if (declares) text.variable(name, word);
        else text.line(`${name} = ${word};`);
      }
    };
    const first = `(${workgroup}) * ${turns * pass.tiles}u + sub`;
    before.push(
      ...text.taken(() => {
        fetches = this.#fetches(source);
        if (cut) this.#declare(fetches);
        fetch(`min(${first}, p.tiles - 1u)`, true);
      }),
    );
    return () => {
      const next = `wanted + ${choice(`turn == ${turns - 1}u`, "0u", `${pass.tiles}u`)}`;
      fetch(`min(${next}, p.tiles - 1u)`, false);
    };
  }

  gatesAhead({ outputs, width }: SampleSink): void {
    for (const { tensor, gates, skipped } of outputs) {
      for (const name of [...gates, ...(skipped ? [skipped] : [])]) {
        for (const spot of this.#spots(tensor, width)) {
          if (this.#context.cut) this.#samples.blockWord(name, spot, width);
          else if (spot.row === "all") this.#word(name, this.#samples.index(name, spot, width));
        }
      }
    }
  }

  /** What a tensor holds at a place, as it is stored: one load, where it is first asked for. */
  #word(name: TensorName, place: Place): string {
    return this.#context.tile.held("r", this.#samples.word(name, place));
  }

  /** Where this thread stores results: one sample at a time, or two. */
  #spots(tensor: TensorName, width: number): Spot[] {
    const { tensors, neighbours, swaps } = this.#context;
    const { paired } = tensors.get(tensor)!;
    const pairs = paired && neighbours;
    return ([0, 1] as const).flatMap((component) => {
      const of = (v: Value): string => partText(component === 0 ? v.re : v.im);
      const spots: Spot[] = [];
      this.#context.points("first", (place, i, q) => {
        const at = this.#samples.at(place, q, component, width);
        if ((pairs && i % 2 === 1) || at.row === "none" || at.own === "none") return;
        const value = (values: readonly Value[][]): string =>
          pairs ? floats([of(values[i]![q]!), of(values[i + 1]![q]!)]) : of(values[i]![q]!);
        spots.push({ ...at, value });
      });
      return paired && swaps ? this.#swapped(spots) : spots;
    });
  }

  /**
   * Samples of two threads next to each other, two by two: the even thread stores both samples of the first word, the odd
   * one those of the second, and one value goes each way.
   */
  #swapped(spots: readonly Spot[]): Spot[] {
    const { tile, text } = this.#context;
    const odd = tile.held("o", "(t & 1u) == 1u");
    const both = (x: Coverage, y: Coverage): Coverage => (x === y ? x : "some");
    return spots.flatMap((a, m): Spot[] => {
      if (m % 2 === 1) return [];
      // The last of an odd number meets itself: both threads store the same word.
      const b = spots[m + 1] ?? a;
      // Places have a base each where bit fields meet, as with an odd radix.
      const [p, q] = [a.place, b.place];
      const either =
        p.base === q.base
          ? `${p.base} + ${choice(odd, `${q.offset}u`, `${p.offset}u`)}`
          : choice(odd, sum(q), sum(p));
      const base = tile.held("n", `${either} - (t & 1u)`);
      const value = (values: readonly Value[][]): string => {
        const [x, y] = [a.value(values), b.value(values)];
        const got = text.hold("g", shuffled(choice(odd, x, y), 1));
        return choice(odd, floats([got, y]), floats([x, got]));
      };
      const coverages = { row: both(a.row, b.row), own: both(a.own, b.own) };
      return [{ place: { base, offset: 0 }, ...coverages, component: a.component, value }];
    });
  }

  store(
    { outputs, width }: SampleSink,
    values: readonly Value[][],
    scales: Scales | undefined,
  ): void {
    const { cut, tensors, text, twoRows } = this.#context;
    const stores = new Branches();
    // The same for blocks whose own samples all lie in the row.
    const inside = new Branches();
    for (const { tensor, gates, skipped } of outputs) {
      const { paired } = tensors.get(tensor)!;
      if (skipped) this.#context.bind({ name: "skip", access: "read", element: "f32" });
      for (const spot of this.#spots(tensor, width)) {
        const read = (name: TensorName): string => this.#gate(name, spot, width, paired);
        const own = scales ? [`${scales[spot.component]}.y`] : [];
        const gated = [spot.value(values), ...own, ...gates.map(read)].join(" * ");
        const whole = skipped ? `${gated} + skip_value * ${read(skipped)}` : gated;
        const conditions = (row: Coverage): string =>
          [
            ...(twoRows && spot.component === 1 ? ["partnered"] : []),
            ...this.#samples.conditions({ ...spot, row }, width),
          ].join(" && ");
        const index = this.#samples.index(tensor, spot, width);
        const store = (x: string): string => {
          if (!paired) return `${tensor}_put(${sum(index)}, ${x});`;
          const word = cut ? this.#samples.ownIndex(tensor, spot, width) : index;
          return `${this.#samples.word(tensor, word)} = ${x};`;
        };
        const rounded = this.#samples.rounded(tensor, whole);
        // For both ways to store a block it is rounded once.
        const stored = store(cut ? text.hold("y", rounded) : rounded);
        stores.add(conditions(spot.row), stored);
        if (cut) inside.add(conditions("all"), stored);
      }
    }
    const whole = cut && this.#samples.ownInside(width);
    text.line(...(whole ? when(whole, inside.lines, stores.lines) : stores.lines));
  }

  /** What a gate, or what is skipped, has at a spot: a sample, or two. */
  #gate(name: TensorName, spot: Spot, width: number, paired: boolean): string {
    const index = this.#samples.index(name, spot, width);
    const word = this.#context.cut
      ? this.#samples.blockWord(name, spot, width)
      : spot.row === "all"
        ? this.#word(name, index)
        : this.#samples.word(name, index);
    return paired ? `${name}_pair(${word})` : `${name}_one(${word}, ${sum(index)})`;
  }
}
