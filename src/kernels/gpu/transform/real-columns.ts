/**
 * The user's end of a first pass whose points hold neighbours of one row: sample 2n in the real part, 2n + 1 in the imaginary
 * one. The pass transforms two columns of real samples at once, a + i·b, whose blocks come out mixed; a block Z of frequency
 * j and its mirror M of R − j give 2A = Z + conj M and 2B = (Z − conj M)/i, so that A and B, the columns' own, are real
 * columns' transforms, and those beyond R/2 their conjugates. A spectrum carries what the factor 2 of both comes to.
 */
import type { Complex } from "../../../math/expr.ts";
import { Graph } from "../../../math/expr.ts";
import { product } from "../../../plan/cpu/plan.ts";
import { mirrorPlaces } from "../../../plan/gpu/passes.ts";
import type { WorkBuffer } from "../kernel.ts";
import type { TensorName } from "../storage.ts";
import type { Value } from "../text.ts";
import { nodes, printValues } from "../text.ts";
import { isLeft } from "./frequency-mask.ts";
import { neighbourElement, readNeighbours, writeNeighbours } from "./point-formats.ts";
import type { PassSink, PassSource } from "./spec.ts";
import { tapsAt } from "./taps.ts";
import type { Place } from "./tile.ts";
import { sum } from "./tile.ts";
import type { Share } from "./user-rows.ts";
import { UserRows } from "./user-rows.ts";

/** A block of both columns: a value of the last stage, its mirror, and where both columns' points lie together. */
interface Slot {
  /** Butterfly and output of the value. */
  readonly at: readonly [number, number];
  /** Those of its mirror: in the thread's other butterfly of the pair, or, where `own` says so, in `ownMirror`. */
  readonly mirror: readonly [number, number];
  readonly ownMirror: readonly [number, number];
  /** Whether blocks of this butterfly are their own mirrors: known, or the text of a condition. */
  readonly own: boolean | string;
  /** Text of the slot's number. */
  readonly number: string;
  /** Only blocks that are their own mirrors have it: that of frequency R/2. */
  readonly middle: boolean;
}

/** What a first pass does with neighbours. */
export class Neighbours extends UserRows {
  /** How many rows the pass takes apart. */
  get #rows(): number {
    return product(this.pass.radices);
  }

  /** Values at the first stage's places, or from work memory at the last one's. */
  protected loadMixed(source: PassSource): Value[][] {
    if (source.kind !== "work") return this.#loadSamples(source);
    if (source.buffer === "sums") throw new RangeError("no plan of one pass packs neighbours");
    return this.#loadTogether(source.buffer);
  }

  /** Both samples of each place. */
  #loadSamples(source: PassSource & { kind: "samples" | "taps" }): Value[][] {
    return this.ends(false).map((row) =>
      row.map((place, q) => {
        if (source.kind === "taps") return this.#tapsAt(source, place, q);
        const { row: share } = this.samplesOf(0, q, source.width);
        if (share === "none") return { re: 0, im: 0 };
        const factors = source.factors.map((f) => this.#pair(f, place, source.width, share));
        const inside = this.#inside(place, source.width, share);
        const both = factors.join(" * ");
        const x = this.text.hold("s", inside ? `select(vec2f(), ${both}, ${inside})` : both);
        return { re: `${x}.x`, im: `${x}.y` };
      }),
    );
  }

  /** Whether each sample of a place lies in the row; undefined where that is known. */
  #inside(place: Place, width: number, share: Share): string | undefined {
    if (share === "all") return undefined;
    if (width % 2 === 0) return this.tile.held("l", `${sum(place)} < ${width / 2}u`);
    const first = this.#first(place);
    return `vec2(${first} < ${width}u, ${first} + 1u < ${width}u)`;
  }

  /** The first sample of a place, in its row. */
  #first(place: Place): string {
    return this.tile.held("n", `2u * (${sum(place)})`);
  }

  /** Where a row begins: its first word where rows have an even number of samples, else its first sample. */
  #rowBase(tensor: TensorName, width: number): string {
    const row = `row * ${width}u + p.${tensor}`;
    return this.tile.held("i", width % 2 === 0 ? `(${row}) >> 1u` : row);
  }

  /** Both samples of a place; anything of the row where they lie beyond it. */
  #pair(tensor: TensorName, place: Place, width: number, share: Share): string {
    const row = this.#rowBase(tensor, width);
    if (width % 2 === 0) {
      const base = this.tile.held("i", `${row} + ${place.base}`);
      const index =
        share === "all"
          ? sum({ ...place, base })
          : `${row} + min(${sum(place)}, ${width / 2 - 1}u)`;
      return `${tensor}_pair(${this.tile.held("r", `${tensor}[${index}]`)})`;
    }
    const first = this.#first(place);
    const one = (n: string): string =>
      `${tensor}_get(${row} + ${share === "all" ? n : `min(${n}, ${width - 1}u)`})`;
    return `vec2f(${one(first)}, ${one(`${first} + 1u`)})`;
  }

  #tapsAt(source: PassSource & { kind: "taps" }, place: Place, q: number): Value {
    const first = this.#first(place);
    const run = this.spec.plan.points / this.tile.stages[0]!.radix;
    const tap = (n: string): string | 0 => tapsAt(this.tile, source, n, { first: q * run, run });
    return { re: tap(first), im: tap(`${first} + 1u`) };
  }

  /** Stores what is at the last stage's places in work memory, or at the first one's as samples. */
  protected storeApart(sink: PassSink, values: readonly Value[][]): void {
    if (sink.kind === "samples") this.#storeSamples(sink, values);
    else if (sink.kind === "work") this.#storeApart(sink.buffer, values);
    else throw new RangeError("no plan of one pass packs neighbours");
  }

  /** Both samples of each place, with gates and skip term. */
  #storeSamples(
    { outputs, width }: PassSink & { kind: "samples" },
    values: readonly Value[][],
  ): void {
    for (const { tensor, gates, skipped } of outputs) {
      if (skipped) this.bind({ name: "skip", access: "read", element: "f32" });
      this.ends(false).forEach((row, i) => {
        row.forEach((place, q) => {
          const { row: share } = this.samplesOf(0, q, width);
          if (share === "none") return;
          const { re, im } = values[i]![q]!;
          const read = (name: TensorName): string => this.#pair(name, place, width, share);
          const gated = [`vec2f(${re || "0.0f"}, ${im || "0.0f"})`, ...gates.map(read)].join(" * ");
          const whole = skipped ? `${gated} + skip_value * ${read(skipped)}` : gated;
          this.#put(tensor, place, width, share, whole);
        });
      });
    }
  }

  #put(tensor: TensorName, place: Place, width: number, share: Share, value: string): void {
    const row = this.#rowBase(tensor, width);
    const guard = (condition: string, store: string): void =>
      this.text.line(share === "all" ? store : `if (${condition}) { ${store} }`);
    if (width % 2 === 0) {
      const base = this.tile.held("i", `${row} + ${place.base}`);
      const rounded = this.rounded(tensor, value);
      guard(`${sum(place)} < ${width / 2}u`, `${tensor}[${sum({ ...place, base })}] = ${rounded};`);
      return;
    }
    const both = this.text.hold("y", value);
    const first = this.#first(place);
    guard(`${first} < ${width}u`, `${tensor}_put(${row} + ${first}, ${both}.x);`);
    guard(`${first} + 1u < ${width}u`, `${tensor}_put(${row} + ${first} + 1u, ${both}.y);`);
  }

  /** Loads the gates of outputs, ahead of the stores. */
  override gatesAhead(sink: PassSink & { kind: "samples" }): void {
    if (!this.apart) {
      super.gatesAhead(sink);
      return;
    }
    const { outputs, width } = sink;
    for (const name of outputs.flatMap(({ gates, skipped }) => [
      ...gates,
      ...(skipped ? [skipped] : []),
    ])) {
      for (const row of this.ends(false)) {
        row.forEach((place, q) => {
          const { row: share } = this.samplesOf(0, q, width);
          if (share === "all") this.#pair(name, place, width, share);
        });
      }
    }
  }

  /** The slots that this thread takes apart, or puts together. */
  #slots(): Slot[] {
    const stage = this.tile.stages.at(-1)!;
    const { radix, mirrored, each } = stage;
    const mirrors = mirrorPlaces(radix);
    const slots: Slot[] = [];
    for (let i = 0; i < each; i++) {
      const { block } = this.tile.butterfly(stage, i);
      const second = mirrored !== undefined && i % 2 === 1;
      const other = mirrored ? i ^ 1 : i;
      const own = mirrored ? this.#ownMirrors(i) : true;
      for (let k = 0; k < radix; k += 2) {
        slots.push({
          at: [i, k],
          mirror: [other, radix - 1 - k],
          ownMirror: [i, second ? radix - 1 - k : mirrors[k]!],
          own,
          number: this.tile.held("b", `(${sum(block)}) * ${radix / 2}u + ${k / 2}u`),
          middle: false,
        });
      }
      if (second || own === false) continue;
      const mirror = [i, 1] as const;
      const number = `${this.#rows / 2}u`;
      slots.push({ at: mirror, mirror, ownMirror: mirror, own, number, middle: true });
    }
    return slots;
  }

  /** Whether the blocks of a pair of butterflies are their own mirrors, at places 0 and 1. */
  #ownMirrors(i: number): boolean | string {
    const { rest, mirrored } = this.tile.stages.at(-1)!;
    if (i > 1) return false;
    return mirrored!.across === 1 ? true : this.tile.held("o", `t < ${rest}u`);
  }

  /** Index of a slot's points of both columns. */
  #slotIndex({ at: [i], number }: Slot): string {
    const stage = this.tile.stages.at(-1)!;
    const { at } = this.tile.butterfly(stage, i);
    const unit = this.tile.held("m", `slot * ${this.workPoints / 2}u + column`);
    const column = stage.mirrored ? `t % ${stage.rest}u` : sum(at);
    return `${this.tile.held("m", `${unit} + ${column}`)} + ${number} * ${this.pass.rest}u`;
  }

  /** Whether a slot keeps a frequency; undefined where all do. */
  #slotLeft({ number }: Slot): string | undefined {
    const section = this.spec.pattern?.sections[1];
    if (!section || section.count === this.#rows / 2 + 1) return undefined;
    this.bindPattern();
    return this.tile.held("l", isLeft(section, number));
  }

  #bindWork(buffer: WorkBuffer, access: "read" | "read_write"): void {
    this.bind({ name: buffer, access, element: neighbourElement[this.spec.format] });
  }

  /** Stores both columns' points of the blocks that are kept. */
  #storeApart(buffer: WorkBuffer, values: readonly Value[][]): void {
    const { format } = this.spec;
    this.#bindWork(buffer, "read_write");
    for (const slot of this.#slots()) {
      const z = values[slot.at[0]]![slot.at[1]]!;
      const m = this.#mirror(slot, values);
      const g = new Graph();
      const [a, b] = [nodes(g, z), nodes(g, m)];
      const columns: Complex[] = [
        { re: g.add(a.re, b.re), im: g.sub(a.im, b.im) },
        { re: g.add(a.im, b.im), im: g.sub(b.re, a.re) },
      ];
      const [first, second] = printValues(this.text, columns);
      const index = this.text.hold("n", this.#slotIndex(slot));
      const stored = `${buffer}[${index}] = ${writeNeighbours(format, first!, second!)};`;
      const conditions = [
        ...(slot.middle && typeof slot.own === "string" ? [slot.own] : []),
        ...[this.#slotLeft(slot)].filter((x) => x !== undefined),
      ];
      this.text.line(conditions.length ? `if (${conditions.join(" && ")}) { ${stored} }` : stored);
    }
  }

  #mirror({ own, mirror, ownMirror }: Slot, values: readonly Value[][]): Value {
    const of = ([i, q]: readonly [number, number]): Value => values[i]![q]!;
    if (typeof own === "boolean") return of(own ? ownMirror : mirror);
    return this.#either(of(ownMirror), of(mirror), own);
  }

  #either(yes: Value, no: Value, condition: string): Value {
    const part = (a: string | 0, b: string | 0): string =>
      a === b
        ? String(a || "0.0f")
        : this.text.hold("x", `select(${b || "0.0f"}, ${a || "0.0f"}, ${condition})`);
    return { re: part(yes.re, no.re), im: part(yes.im, no.im) };
  }

  /** Loads both columns' points of the blocks that are kept, and mixes them: values at the last stage's places. */
  #loadTogether(buffer: WorkBuffer): Value[][] {
    const { text } = this;
    const { format } = this.spec;
    const { radix, each, mirrored } = this.tile.stages.at(-1)!;
    this.#bindWork(buffer, "read");
    // By butterfly and output: what is there in any case, where blocks are their own mirrors, and where they are not.
    const known = new Map<string, Value>();
    const owned = new Map<string, Value>();
    const others = new Map<string, Value>();
    for (const slot of this.#slots()) {
      const { at, mirror, ownMirror, middle } = slot;
      const left = this.#slotLeft(slot);
      const loaded = text.hold("z", `${buffer}[${this.#slotIndex(slot)}]`);
      const [a, b] = readNeighbours(format, loaded).map((point) =>
        text.hold("z", left ? `select(vec2f(), ${point}, ${left})` : point),
      );
      const g = new Graph();
      const x = nodes(g, { re: `${a}.x`, im: `${a}.y` });
      const y = nodes(g, { re: `${b}.x`, im: `${b}.y` });
      const [z, m] = printValues(text, [
        { re: g.sub(x.re, y.im), im: g.add(x.im, y.re) },
        { re: g.add(x.re, y.im), im: g.sub(y.re, x.im) },
      ]);
      (middle ? owned : known).set(`${at}`, z!);
      if (middle) continue;
      others.set(`${mirror}`, m!);
      owned.set(`${ownMirror}`, m!);
    }
    return Array.from({ length: each }, (_, i) => {
      const own = mirrored ? this.#ownMirrors(i) : true;
      return Array.from({ length: radix }, (_, k): Value => {
        const found = known.get(`${[i, k]}`);
        if (found) return found;
        const [yes, no] = [owned.get(`${[i, k]}`)!, others.get(`${[i, k]}`)!];
        if (typeof own === "boolean") return own ? yes : no;
        return this.#either(yes, no, own);
      });
    });
  }
}
