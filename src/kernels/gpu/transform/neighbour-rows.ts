/** The user's end of passes whose points hold neighbours of one row: sample 2n in the real part, 2n + 1 in the imaginary one. */
import { choice, floats, zero } from "../dialect/wgsl.ts";
import type { TensorName } from "../storage.ts";
import type { Value } from "../text.ts";
import { valueIn, vectorOf } from "../text.ts";
import type { KernelContext, UserEnd } from "./kernel-context.ts";
import type { Coverage } from "./row-samples.ts";
import { RowSamples } from "./row-samples.ts";
import type { PassSink, PassSource } from "./spec.ts";
import { tapsAt } from "./taps.ts";
import type { Place } from "./tile.ts";
import { sum } from "./tile.ts";

export class NeighbourRows implements UserEnd {
  readonly #context: KernelContext;
  readonly #samples: RowSamples;

  constructor(context: KernelContext) {
    this.#context = context;
    this.#samples = new RowSamples(context);
  }

  load(source: PassSource & { kind: "samples" | "taps" }): Value[][] {
    return this.#context.points("first", (place, _, q) => {
      if (source.kind === "taps") return this.#tapsAt(source, place, q);
      const { factors, width } = source;
      const coverage = this.#coverage(place, q, width);
      if (coverage === "none") return { re: 0, im: 0 };
      return width % 2 === 0
        ? this.#loadWord(factors, place, width, coverage)
        : this.#loadSingly(factors, place, width, coverage);
    });
  }

  #loadWord(
    factors: readonly TensorName[],
    place: Place,
    width: number,
    coverage: Coverage,
  ): Value {
    const { text, tile } = this.#context;
    const both = factors.map((f) => this.#pair(f, place, width, coverage)).join(" * ");
    const inside = coverage === "some" && tile.held("l", `${sum(place)} < ${width / 2}u`);
    const x = text.hold("s", inside ? choice(inside, both, zero("vec2f")) : both);
    return valueIn(x);
  }

  #loadSingly(
    factors: readonly TensorName[],
    place: Place,
    width: number,
    coverage: Coverage,
  ): Value {
    const first = this.#first(place);
    const one = (n: string): string => {
      const read = factors.map((f) => this.#one(f, n, width, coverage)).join(" * ");
      const inside = coverage === "some" && `${n} < ${width}u`;
      return this.#context.text.hold("s", inside ? choice(inside, read, "0.0f") : read);
    };
    return { re: one(first), im: one(`${first} + 1u`) };
  }

  #tapsAt(source: PassSource & { kind: "taps" }, place: Place, q: number): Value {
    const { spec, tile } = this.#context;
    const first = this.#first(place);
    const run = spec.plan.points / tile.stages[0]!.radix;
    const tap = (n: string): string | 0 => tapsAt(tile, source, n, { first: q * run, run });
    return { re: tap(first), im: tap(`${first} + 1u`) };
  }

  #coverage(place: Place, q: number, width: number): Coverage {
    return this.#samples.at(place, q, 0, width).row;
  }

  /** The first sample of a place, in its row. */
  #first(place: Place): string {
    return this.#context.tile.held("n", `2u * (${sum(place)})`);
  }

  /** Where a row begins: its first word where rows have an even number of samples, else its first sample. */
  #rowStart(tensor: TensorName, width: number): string {
    const row = `row * ${width}u + p.${tensor}`;
    return this.#context.tile.held("i", width % 2 === 0 ? `(${row}) >> 1u` : row);
  }

  /** Index of a place's word in a row of an even number of samples. */
  #word(place: Place, rowStart: string): string {
    const base = this.#context.tile.held("i", `${rowStart} + ${place.base}`);
    return sum({ base, offset: place.offset });
  }

  /** Both samples of a place; anything of the row where they lie beyond it. */
  #pair(tensor: TensorName, place: Place, width: number, coverage: Coverage): string {
    const row = this.#rowStart(tensor, width);
    if (width % 2 === 0) {
      const word = this.#word(place, row);
      const index = coverage === "all" ? word : `${row} + min(${sum(place)}, ${width / 2 - 1}u)`;
      return `${tensor}_pair(${this.#context.tile.held("r", `${tensor}[${index}]`)})`;
    }
    const first = this.#first(place);
    return floats([first, `${first} + 1u`].map((n) => this.#one(tensor, n, width, coverage)));
  }

  /** Sample n of a row of an odd number of samples. */
  #one(tensor: TensorName, n: string, width: number, coverage: Coverage): string {
    const inside = coverage === "all" ? n : `min(${n}, ${width - 1}u)`;
    return `${tensor}_get(${this.#rowStart(tensor, width)} + ${inside})`;
  }

  gatesAhead({ outputs, width }: PassSink & { kind: "samples" }): void {
    for (const { gates, skipped } of outputs) {
      for (const name of [...gates, ...(skipped ? [skipped] : [])]) {
        this.#context.points("first", (place, _, q) => {
          const coverage = this.#coverage(place, q, width);
          if (coverage === "all") this.#pair(name, place, width, coverage);
        });
      }
    }
  }

  store({ outputs, width }: PassSink & { kind: "samples" }, values: readonly Value[][]): void {
    for (const { tensor, gates, skipped } of outputs) {
      if (skipped) this.#context.bind({ name: "skip", access: "read", element: "f32" });
      this.#context.points("first", (place, i, q) => {
        const coverage = this.#coverage(place, q, width);
        if (coverage === "none") return;
        const read = (name: TensorName): string => this.#pair(name, place, width, coverage);
        const gated = [vectorOf(values[i]![q]!), ...gates.map(read)].join(" * ");
        const whole = skipped ? `${gated} + skip_value * ${read(skipped)}` : gated;
        this.#put(tensor, place, width, coverage, whole);
      });
    }
  }

  #put(tensor: TensorName, place: Place, width: number, coverage: Coverage, value: string): void {
    const { text } = this.#context;
    const row = this.#rowStart(tensor, width);
    const guard = (condition: string, store: string): void =>
      text.line(coverage === "all" ? store : `if (${condition}) { ${store} }`);
    if (width % 2 === 0) {
      const word = this.#word(place, row);
      const rounded = this.#samples.rounded(tensor, value);
      guard(`${sum(place)} < ${width / 2}u`, `${tensor}[${word}] = ${rounded};`);
      return;
    }
    const both = text.hold("y", value);
    const first = this.#first(place);
    guard(`${first} < ${width}u`, `${tensor}_put(${row} + ${first}, ${both}.x);`);
    guard(`${first} + 1u < ${width}u`, `${tensor}_put(${row} + ${first} + 1u, ${both}.y);`);
  }
}
