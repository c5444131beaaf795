/** The end of a last pass: spectra of kernels made, stored and multiplied with, and sums over the batch for their gradients. */
import { Graph } from "../../../math/expr.ts";
import { choice, floatOf, unpackHalves, wordOf, zero } from "../dialect/wgsl.ts";
import type { Value } from "../text.ts";
import { nodes, printValues, valueIn, vectorOf } from "../text.ts";
import type { KernelContext } from "./kernel-context.ts";
import { spectrumElement, spectrumPlace, spectrumStride } from "./spectrum-layout.ts";
import { inverseScale } from "./taps.ts";
import type { Place } from "./tile.ts";
import { sum } from "./tile.ts";

/** Points of the spectrum that a thread may load before it needs them. */
const mostAhead = 16;

export class SpectrumEnd {
  readonly #context: KernelContext;
  /** Elements of a channel's spectrum. */
  readonly #stride: number;
  /** The name of the powers of two with which a spectrum in float16 is written and read. */
  #fit = "";

  constructor(context: KernelContext) {
    this.#context = context;
    this.#stride = spectrumStride(context.spec.plan, context.spec.spectra);
  }

  /** Where output q of the last stage's butterfly i lies in its spectrum. */
  #place(i: number, q: number): Place {
    const { spec, pass, tile } = this.#context;
    const stage = tile.stages.at(-1)!;
    const place = tile.position(tile.places(stage)[i]![q]!, "column");
    return spectrumPlace(spec.plan, pass, place, (text) => tile.held("k", text));
  }

  /** Index of output q of the last stage's butterfly i in the `which`-th of some spectra. */
  #index(which: string, stride: number, i: number, q: number): string {
    const { base, offset } = this.#place(i, q);
    const from = this.#context.tile.held("k", `(${which}) * ${stride}u + ${base}`);
    return sum({ base: from, offset });
  }

  #element(i: number, q: number): string {
    return `spectrum[${this.#index("h + p.channel", this.#stride, i, q)}]`;
  }

  /** The scale of a channel's spectrum: behind its points. */
  get #scale(): string {
    return `spectrum[(h + p.channel) * ${this.#stride}u + ${this.#context.workPoints}u]`;
  }

  #bind(access: "read" | "read_write"): void {
    const element = spectrumElement[this.#context.spec.spectra];
    this.#context.bind({ name: "spectrum", access, element });
  }

  /** A point of the spectrum: loaded where it is first asked for. */
  #point(i: number, q: number): string {
    const { tile, spec } = this.#context;
    this.#bind("read");
    const point = this.#element(i, q);
    if (spec.spectra === "float32") return tile.held("k", point);
    const scale = tile.held("k", floatOf(this.#scale));
    return tile.held("k", `${unpackHalves(point)} * ${scale}`);
  }

  /** Loads the spectrum, ahead of `multiply`, where a thread holds few points. */
  loadAhead(): void {
    const { each, radix } = this.#context.tile.stages.at(-1)!;
    if (each * radix > mostAhead) return;
    for (let i = 0; i < each; i++) for (let q = 0; q < radix; q++) this.#point(i, q);
  }

  /** Values at the last stage's places times the spectrum, or its conjugate. */
  multiply(values: readonly Value[][], product: "kernel" | "conjugate"): Value[][] {
    return values.map((row, i) => {
      const g = new Graph();
      const products = row.map((v, q) => {
        const k = this.#point(i, q);
        const w = nodes(g, valueIn(k));
        return product === "kernel" ? g.cmul(nodes(g, v), w) : g.cmulConj(nodes(g, v), w);
      });
      return printValues(this.#context.text, products);
    });
  }

  /** Fits a spectrum in float16 to the taps that it is made of. */
  fitTo(taps: readonly Value[][]): void {
    const { text } = this.#context;
    const sizes = taps
      .flat()
      .flatMap(({ re, im }) => [re, im].flatMap((x) => (x ? [`abs(${x})`] : [])));
    const size = text.hold("n", sizes.join(" + ") || "0.0f");
    this.#fit = text.hold("c", `fit_to(${this.#context.addUp([size])[0]})`);
  }

  /** Stores a spectrum with its factor 1/M; frequencies that are not kept as zeros. */
  store(values: readonly Value[][]): void {
    const { text, spec } = this.#context;
    const { plan, spectra } = spec;
    this.#bind("read_write");
    const factor = `${inverseScale(plan)}f`;
    this.#context.points("last", (place, i, q) => {
      const element = this.#element(i, q);
      const point = vectorOf(values[i]![q]!);
      const kept = this.#context.keeps(place);
      const stored =
        spectra === "float32" ? `${point} * ${factor}` : `pack_pair(${point} * ${this.#fit}.x)`;
      const none = zero(spectrumElement[spectra]);
      text.line(`${element} = ${kept ? choice(kept, stored, none) : stored};`);
    });
    if (spectra === "float16")
      text.line(`if (t == 0u) { ${this.#scale} = ${wordOf(`${this.#fit}.y * ${factor}`)}; }`);
  }

  /** Sums of a channel over the chunks of the batch, in their order. */
  loadSums(): Value[][] {
    const { text, tile, workPoints } = this.#context;
    this.#context.bind({ name: "sums", access: "read", element: "vec2f" });
    const { each, radix } = tile.stages.at(-1)!;
    const names = Array.from({ length: each }, () =>
      Array.from({ length: radix }, () => text.fresh("z")),
    );
    for (const name of names.flat()) text.variable(name, zero("vec2f"));
    const adds = names.flatMap((row, i) =>
      row.map((name, q) => `${name} += sums[at + ${sum(this.#place(i, q))}];`),
    );
    text.loop("c", "0u", "c < p.chunks", "c++", () => {
      text.constant("at", `(unit * p.chunks + c) * ${workPoints}u`);
      text.line(...adds);
    });
    // Frequencies that are not kept have no gradient.
    return this.#context.points("last", (place, i, q) => {
      const kept = this.#context.keeps(place);
      const sum = names[i]![q]!;
      return valueIn(kept ? text.hold("z", choice(kept, sum, zero("vec2f"))) : sum);
    });
  }

  /** Sums of products over turns, by butterfly and output: variables that begin with what the sums are, stored at the end. */
  sums(): { readonly names: readonly string[][]; readonly store: () => void } {
    const { text, tile, workPoints } = this.#context;
    this.#context.bind({ name: "sums", access: "read_write", element: "vec2f" });
    const { each, radix } = tile.stages.at(-1)!;
    const elements = Array.from({ length: each }, (_, i) =>
      Array.from({ length: radix }, (_, q) => `sums[${this.#index("unit", workPoints, i, q)}]`),
    );
    const names = elements.map((row) =>
      row.map((element) => {
        const name = text.variable(text.fresh("sum"), zero("vec2f"));
        text.line(`if (p.clear == 0u) { ${name} = ${element}; }`);
        return name;
      }),
    );
    const store = (): void =>
      text.when("live_unit", () =>
        names.forEach((row, i) => {
          row.forEach((name, q) => {
            text.line(`${elements[i]![q]} = ${name};`);
          });
        }),
      );
    return { names, store };
  }
}
