/**
 * The work memory's end of a first pass whose points hold neighbours of one row. The pass transforms two columns of real samples
 * at once, a + i·b, whose blocks come out mixed; a block Z of frequency j and its mirror M of R − j give 2A = Z + conj M and
 * 2B = (Z − conj M)/i, so that A and B, the columns' own, are real columns' transforms, and those beyond R/2 their conjugates.
 * A spectrum carries what the factor 2 of both comes to.
 */
import type { Complex } from "../../../math/expr.ts";
import { Graph } from "../../../math/expr.ts";
import { product } from "../../../plan/cpu/plan.ts";
import { mirrorPlaces } from "../../../plan/gpu/passes.ts";
import { choice, zero } from "../dialect/wgsl.ts";
import type { WorkBuffer } from "../kernel.ts";
import type { Value } from "../text.ts";
import { nodes, partText, printValues, valueIn } from "../text.ts";
import { isLeft } from "./frequency-mask.ts";
import type { KernelContext } from "./kernel-context.ts";
import { neighbourElement, readNeighbours, writeNeighbours } from "./point-formats.ts";
import { sum } from "./tile.ts";
import type { WorkEnd } from "./work-points.ts";

/** One block of both columns: Z, its mirror M, and the slot of work memory where A and B lie together. */
interface Slot {
  /** Butterfly and output of Z. */
  readonly at: readonly [number, number];
  /** Those of M: `ownMirror`, in the same butterfly, where `own` holds; else `mirror`, in the other one of the thread's pair. */
  readonly mirror: readonly [number, number];
  readonly ownMirror: readonly [number, number];
  /** Whether blocks of this butterfly are their own mirrors: known, or the text of a condition. */
  readonly own: boolean | string;
  /** Text of the slot's number. */
  readonly number: string;
  /** Only blocks that are their own mirrors have it: that of frequency R/2. */
  readonly middle: boolean;
}

export class RealColumns implements WorkEnd {
  readonly #context: KernelContext;
  /** How many rows the pass takes apart. */
  readonly #rows: number;

  constructor(context: KernelContext) {
    this.#context = context;
    this.#rows = product(context.pass.radices);
  }

  /** The slots that this thread takes apart, or puts together. */
  #slots(): Slot[] {
    const stage = this.#context.tile.stages.at(-1)!;
    const { radix, mirrored, each } = stage;
    const mirrors = mirrorPlaces(radix);
    const slots: Slot[] = [];
    for (let i = 0; i < each; i++) {
      const { block } = this.#context.tile.butterfly(stage, i);
      const second = mirrored !== undefined && i % 2 === 1;
      const other = mirrored ? i ^ 1 : i;
      const own = mirrored ? this.#ownMirrors(i) : true;
      for (let k = 0; k < radix; k += 2) {
        slots.push({
          at: [i, k],
          mirror: [other, radix - 1 - k],
          ownMirror: [i, second ? radix - 1 - k : mirrors[k]!],
          own,
          number: this.#context.tile.held("b", `(${sum(block)}) * ${radix / 2}u + ${k / 2}u`),
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
    const { rest, mirrored } = this.#context.tile.stages.at(-1)!;
    if (i > 1) return false;
    return mirrored!.across === 1 ? true : this.#context.tile.held("o", `t < ${rest}u`);
  }

  /** Index of a slot's points of both columns. */
  #slotIndex({ at: [i], number }: Slot): string {
    const { tile, workPoints, pass } = this.#context;
    const stage = tile.stages.at(-1)!;
    const { at } = tile.butterfly(stage, i);
    const unit = tile.held("m", `slot * ${workPoints / 2}u + column`);
    const column = stage.mirrored ? `t % ${stage.rest}u` : sum(at);
    return `${tile.held("m", `${unit} + ${column}`)} + ${number} * ${pass.rest}u`;
  }

  /** Whether a slot keeps a frequency; undefined where all do. */
  #slotKept({ number }: Slot): string | undefined {
    const section = this.#context.spec.pattern?.sections[1];
    if (!section || section.count === this.#rows / 2 + 1) return undefined;
    this.#context.bindPattern();
    return this.#context.tile.held("l", isLeft(section, number));
  }

  #bind(name: WorkBuffer, access: "read" | "read_write"): void {
    this.#context.bind({ name, access, element: neighbourElement[this.#context.spec.format] });
  }

  /** Stores both columns' points of the blocks that are kept. */
  store(buffer: WorkBuffer, values: readonly Value[][]): void {
    const { text, spec } = this.#context;
    this.#bind(buffer, "read_write");
    for (const slot of this.#slots()) {
      const g = new Graph();
      const [i, q] = slot.at;
      const [a, b] = [values[i]![q]!, this.#mirror(slot, values)].map((v) => nodes(g, v)) as [
        Complex,
        Complex,
      ];
      const columns: Complex[] = [
        { re: g.add(a.re, b.re), im: g.sub(a.im, b.im) },
        { re: g.add(a.im, b.im), im: g.sub(b.re, a.re) },
      ];
      const [first, second] = printValues(text, columns);
      const index = text.hold("n", this.#slotIndex(slot));
      const stored = `${buffer}[${index}] = ${writeNeighbours(spec.format, first!, second!)};`;
      const own = slot.middle && typeof slot.own === "string" && slot.own;
      const conditions = [own, this.#slotKept(slot)].filter(Boolean).join(" && ");
      text.line(conditions ? `if (${conditions}) { ${stored} }` : stored);
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
        ? partText(a)
        : this.#context.text.hold("x", choice(condition, partText(a), partText(b)));
    return { re: part(yes.re, no.re), im: part(yes.im, no.im) };
  }

  /** Loads both columns' points of the blocks that are kept, and mixes them: values at the last stage's places. */
  load(buffer: WorkBuffer): Value[][] {
    const { text, tile, spec } = this.#context;
    const { radix, each, mirrored } = tile.stages.at(-1)!;
    this.#bind(buffer, "read");
    // By butterfly and output: what is there in any case, where blocks are their own mirrors, and where they are not.
    const known = new Map<string, Value>();
    const owned = new Map<string, Value>();
    const others = new Map<string, Value>();
    for (const slot of this.#slots()) {
      const { at, mirror, ownMirror, middle } = slot;
      const kept = this.#slotKept(slot);
      const loaded = text.hold("z", `${buffer}[${this.#slotIndex(slot)}]`);
      const g = new Graph();
      const [x, y] = readNeighbours(spec.format, loaded)
        .map((point) => text.hold("z", kept ? choice(kept, point, zero("vec2f")) : point))
        .map((point) => nodes(g, valueIn(point))) as [Complex, Complex];
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
