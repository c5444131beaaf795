/** The ends of a kernel's tile: which samples, taps or points each thread loads and stores, and the product with the spectrum. */
import { Graph } from "../../../math/expr.ts";
import type { Value } from "../text.ts";
import { nodes, printValues } from "../text.ts";
import { isLeft } from "./frequency-mask.ts";
import { pointElement, pointsEach, readPoints, writePoints } from "./point-formats.ts";
import { Neighbours } from "./real-columns.ts";
import type { PassSink, PassSource } from "./spec.ts";
import { spectrumElement, spectrumPlace, spectrumStride } from "./spectrum-layout.ts";
import { inverseScale, tapsAt } from "./taps.ts";
import type { Place } from "./tile.ts";
import { sum } from "./tile.ts";
import type { Scales } from "./user-rows.ts";

/** Points of the spectrum that a thread may load before it needs them. */
const mostAhead = 16;

/** What a kernel does at both ends of a tile: places, loads, the product with the spectrum, stores. */
export class Ends extends Neighbours {
  /** Index of the element of work memory that begins with a place's point. */
  #workIndex(place: Place): string {
    const base = this.tile.held(
      "m",
      `${place.base} + slot * ${this.workPoints}u + block * ${this.pass.size}u`,
    );
    if (pointsEach[this.spec.format] === 1) return sum({ base, offset: place.offset });
    return sum({ base: this.tile.held("m", `${base} >> 1u`), offset: place.offset / 2 });
  }

  /** Where output q of the last stage's butterfly i lies in its spectrum. */
  #inSpectrum(i: number, q: number): Place {
    const place = this.ends(true)[i]![q]!;
    return spectrumPlace(this.spec.plan, this.pass, place, (text) => this.tile.held("k", text));
  }

  /** Index of output q of the last stage's butterfly i in the `which`-th of some spectra, or of sums of them. */
  spectrumIndex(which: string, i: number, q: number, stride: number = this.workPoints): string {
    const { base, offset } = this.#inSpectrum(i, q);
    const from = this.tile.held("k", `(${which}) * ${stride}u + ${base}`);
    return sum({ base: from, offset });
  }

  get #stride(): number {
    return spectrumStride(this.spec.plan, this.spec.spectra);
  }

  /** Where the scale of a channel's spectrum lies: behind its points. */
  get #scaleIndex(): string {
    return `(h + p.channel) * ${this.#stride}u + ${this.workPoints}u`;
  }

  /** Taps at their positions. */
  #loadTaps(source: PassSource & { kind: "taps" }): Value[][] {
    const { plan } = this.spec;
    const run = plan.points / this.tile.stages[0]!.radix;
    const part = (place: Place, q: number, shift: number): string | 0 =>
      tapsAt(this.tile, source, sum({ ...place, offset: place.offset + shift }), {
        first: shift + q * run,
        run,
      });
    return this.ends(false).map((row) =>
      row.map((place, q) => ({
        re: part(place, q, 0),
        im: plan.packing === "halves" ? part(place, q, plan.points) : 0,
      })),
    );
  }

  /** Values at the first stage's places, or at the last one's for a path that has inverse stages alone. */
  load(source: PassSource, forward: boolean): Value[][] {
    if (this.apart) return this.loadMixed(source);
    if (source.kind === "samples") return this.loadSamples(source);
    if (source.kind === "taps") return this.#loadTaps(source);
    if (source.buffer === "sums") return this.#loadSums();
    const { format } = this.spec;
    const together = pointsEach[format];
    this.bind({ name: source.buffer, access: "read", element: pointElement[format] });
    return this.ends(!forward).flatMap((row, i) => {
      if (i % together > 0) return [];
      const loaded = row.map((place) => {
        const left = forward ? undefined : this.#subBlockLeft(place);
        const index = this.#workIndex(place);
        // What was never stored is not fetched either: all of it is read from one place.
        const near =
          left && `select(${this.#workIndex({ base: "t", offset: 0 })}, ${index}, ${left})`;
        const points = readPoints(format, `${source.buffer}[${near ?? index}]`);
        const none = `vec${2 * together}f()`;
        return this.text.hold("z", left ? `select(${none}, ${points}, ${left})` : points);
      });
      const parts = [["x", "y"] as const, ["z", "w"] as const].slice(0, together);
      return parts.map(([re, im]) => loaded.map((x) => ({ re: `${x}.${re}`, im: `${x}.${im}` })));
    });
  }

  /** Whether the sub-block that a place of the pass's last stage belongs to keeps a frequency; undefined where all do. */
  #subBlockLeft(place: Place): string | undefined {
    const section = this.spec.pattern?.sections[this.spec.pass + 1];
    const { rest, size } = this.pass;
    const blocks = size / rest;
    if (!section || section.count === this.pass.blocks * blocks) return undefined;
    this.bindPattern();
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
    text.line(`let at = (unit * p.chunks + c) * ${this.workPoints}u;`);
    for (const line of adds) text.line(line);
    text.line("}");
    // Frequencies that are not kept have no gradient.
    const places = this.ends(true);
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
    const { spectra } = this.spec;
    this.bind({ name: "spectrum", access: "read", element: spectrumElement[spectra] });
    const point = `spectrum[${this.spectrumIndex("h + p.channel", i, q, this.#stride)}]`;
    if (spectra === "float32") return this.tile.held("k", point);
    const scale = this.tile.held("k", `bitcast<f32>(spectrum[${this.#scaleIndex}])`);
    return this.tile.held("k", `unpack2x16float(${point}) * ${scale}`);
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

  /** Stores, for live tiles alone. */
  store(sink: PassSink, values: readonly Value[][], inverse: boolean, scales?: Scales): void {
    const { text } = this;
    if (sink.kind === "spectrum") return this.#storeSpectrum(values);
    if (sink.kind === "samples" || this.apart) {
      // Indices are held outside of the condition, where later code sees them too.
      const inner = this.text.lines.length;
      if (this.apart) this.storeApart(sink, values);
      else if (sink.kind === "samples") this.storeSamples(sink, values, scales);
      const stores = this.text.lines.splice(inner);
      const isStore = (l: string): boolean => !l.startsWith("let ");
      for (const l of stores.filter((l) => !isStore(l))) text.line(l);
      text.line("if (live) {");
      for (const l of stores.filter(isStore)) text.line(l);
      text.line("}");
      return;
    }
    const name = sink.buffer;
    const { format } = this.spec;
    this.bind({ name, access: "read_write", element: pointElement[format] });
    const together = pointsEach[format];
    const lines: string[] = [];
    const apart = new Map<string, string[]>();
    this.ends(!inverse).forEach((row, i) => {
      if (i % together > 0) return;
      row.forEach((place, q) => {
        const index = this.#workIndex(place);
        const neighbours = values.slice(i, i + together).map((of) => of[q]!);
        const parts = neighbours.flatMap(({ re, im }) => [re || "0.0f", im || "0.0f"]);
        const left = inverse ? undefined : this.#subBlockLeft(place);
        const write = `${name}[${index}] = ${writePoints(format, parts)};`;
        if (left) apart.set(left, [...(apart.get(left) ?? []), write]);
        else lines.push(write);
      });
    });
    text.line("if (live) {");
    for (const l of lines) text.line(l);
    for (const [left, writes] of apart) text.line(`if (${left}) { ${writes.join(" ")} }`);
    text.line("}");
  }

  /** Powers of two to write and to read a spectrum in float16 with: the name of both. */
  #fit = "";

  /** Fits a spectrum in float16 to the taps that it is made of. */
  fitTaps(taps: readonly Value[][]): void {
    const sizes = taps
      .flat()
      .flatMap(({ re, im }) => [re, im].flatMap((x) => (x ? [`abs(${x})`] : [])));
    const size = this.text.hold("n", sizes.join(" + ") || "0.0f");
    this.#fit = this.text.hold("c", `fit_to(${this.addUp([size])[0]})`);
  }

  /** Stores a spectrum with its factor 1/M; frequencies that are not kept as zeros. */
  #storeSpectrum(values: readonly Value[][]): void {
    const { text } = this;
    const { plan, spectra } = this.spec;
    this.bind({ name: "spectrum", access: "read_write", element: spectrumElement[spectra] });
    const factor = `${inverseScale(plan)}f`;
    const lines = this.ends(true).flatMap((row, i) =>
      row.map((place, q) => {
        const index = this.spectrumIndex("h + p.channel", i, q, this.#stride);
        const { re, im } = values[i]![q]!;
        const point = `vec2f(${re || "0.0f"}, ${im || "0.0f"})`;
        const left = this.#subBlockLeft(place);
        const [none, stored] =
          spectra === "float32"
            ? ["vec2f()", `${point} * ${factor}`]
            : ["0u", `pack_pair(${point} * ${this.#fit}.x)`];
        return `spectrum[${index}] = ${left ? `select(${none}, ${stored}, ${left})` : stored};`;
      }),
    );
    if (spectra === "float16") {
      const scale = `bitcast<u32>(${this.#fit}.y * ${factor})`;
      lines.push(`if (t == 0u) { spectrum[${this.#scaleIndex}] = ${scale}; }`);
    }
    text.line("if (live) {");
    for (const l of lines) text.line(l);
    text.line("}");
  }
}
