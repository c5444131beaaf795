/** Where the user's samples lie: which of them stand at a place of the first stage, and the words of tensors that hold them. */
import { zero } from "../dialect/wgsl.ts";
import type { TensorName } from "../storage.ts";
import type { KernelContext } from "./kernel-context.ts";
import type { Place, Tile } from "./tile.ts";
import { sum } from "./tile.ts";

/** Which threads have their sample inside: all (no bounds check), some (a select), or none (constant 0). */
export type Coverage = "all" | "some" | "none";

/** The samples that stand at one place of each thread. */
export interface SamplePlace {
  readonly place: Place;
  /** Whether they lie in the row. */
  readonly row: Coverage;
  /** Whether they are the block's own, not those of its neighbours. */
  readonly own: Coverage;
  /** 0 where they are real parts of points, 1 where imaginary ones; with two rows in a transform, which row. */
  readonly component: 0 | 1;
}

/** Indices and conditions of the samples of one kernel, whose rows have `width` samples. */
export class RowSamples {
  readonly #context: KernelContext;
  readonly #tile: Tile;

  constructor(context: KernelContext) {
    this.#context = context;
    this.#tile = context.tile;
  }

  /** The samples that are real (or imaginary) parts of the points at input q of the first stage. */
  at(place: Place, q: number, component: 0 | 1, width: number): SamplePlace {
    const { spec, cut } = this.#context;
    const { points, packing } = spec.plan;
    const shift = packing === "halves" ? component * points : 0;
    const run = points / this.#tile.stages[0]!.radix;
    const first = shift + q * run;
    const within = (from: number, to: number): Coverage => {
      if (from <= first && first + run <= to) return "all";
      return first + run <= from || to <= first ? "none" : "some";
    };
    const shifted = { place: { base: place.base, offset: place.offset + shift }, component };
    if (!cut) return { ...shifted, row: within(0, width), own: "all" };
    // Where a block begins is known at run time alone.
    return { ...shifted, row: "some", own: within(cut.lead, cut.lead + cut.hop) };
  }

  #row(component: 0 | 1): string {
    return this.#context.twoRows && component === 1 ? "partner" : "row";
  }

  /** Index of the first sample of a row; `row` is the name of its number. */
  rowStart(tensor: TensorName, width: number, row = "row"): string {
    return this.#tile.held("i", `${row} * ${width}u + p.${tensor}`);
  }

  /** Index of a sample. */
  index(tensor: TensorName, { place, component }: SamplePlace, width: number): Place {
    const start = this.#context.cut ? " + start" : "";
    const row = this.#row(component);
    const base = this.#tile.held("i", `${place.base} + ${row} * ${width}u + p.${tensor}${start}`);
    return { base, offset: place.offset };
  }

  /** An index that never leaves the row, for samples that may lie beyond its end and are left out then. */
  clamped(tensor: TensorName, at: SamplePlace, width: number, samples: 1 | 2): string {
    const inside = this.#tile.held("n", `min(${sum(at.place)}, ${width - samples}u)`);
    return `${inside} + ${this.rowStart(tensor, width, this.#row(at.component))}`;
  }

  /** Conditions that a sample lies in the row, and is one of the block's own, where that is not known. */
  conditions({ place, row, own }: SamplePlace, width: number): string[] {
    const { cut } = this.#context;
    const position = sum(place);
    return [
      ...(row === "some" ? [`${cut ? `${position} + start` : position} < ${width}u`] : []),
      ...(own === "some" ? [`${position} - ${cut!.lead}u < ${cut!.hop}u`] : []),
    ];
  }

  /** The word that a tensor has for zeros. */
  noWord(tensor: TensorName): string {
    const { dtype, paired } = this.#context.tensors.get(tensor)!;
    return zero(dtype !== "float32" ? "u32" : paired ? "vec2f" : "f32");
  }

  /**
   * The word that has a sample. Words of two samples have one base, which is halved once and must not be below 0, and
   * constants beside it: halving every index took a tenth of a kernel's instructions.
   */
  word(tensor: TensorName, { base, offset }: Place, most?: string): string {
    const { paired } = this.#context.tensors.get(tensor)!;
    const half = (x: string): string => (paired ? this.#tile.held("i", `${x} >> 1u`) : x);
    const index = sum({ base: half(base), offset: paired ? offset / 2 : offset });
    const safe = most ? `min(${index}, ${half(most)})` : index;
    return paired ? `${tensor}[${safe}]` : `${tensor}_word(${safe})`;
  }

  /** The word of a sample of a block that begins at sample `start` of a row: where that lies beyond the row, some other word. */
  safeWord(tensor: TensorName, position: Place, rowStart: string, width: number): string {
    return `${tensor}_word(min(${sum(position)}, ${width - 1}u) + ${rowStart})`;
  }

  /** Position in its row of a place of a block. */
  inRow(place: Place, start: string): Place {
    return { base: this.#tile.held("n", `${place.base} + ${start}`), offset: place.offset };
  }

  /** Where the block of a unit begins in its row: below 0, as a huge number, where it begins before the row. */
  blockStart(unit: string): string {
    const { spec, cut } = this.#context;
    return `${unit} % ${spec.blocks}u * ${cut!.hop}u - ${cut!.lead}u`;
  }

  /** The first of a block's own samples: never before the row. */
  #ownStart(): string {
    return this.#tile.held("n", `start + ${this.#context.cut!.lead}u`);
  }

  /** A condition: all of a block's own samples lie in the row, as in most blocks; undefined where they never do. */
  ownInside(width: number): string | undefined {
    const { hop } = this.#context.cut!;
    return width < hop ? undefined : this.#tile.held("l", `${this.#ownStart()} <= ${width - hop}u`);
  }

  /** Index of one of a block's own samples, from a base that is no less than 0, so that it may be halved. */
  ownIndex(tensor: TensorName, { place }: SamplePlace, width: number): Place {
    const rowStart = this.rowStart(tensor, width);
    const base = this.#tile.held("i", `${place.base} + ${this.#ownStart()} + ${rowStart}`);
    return { base, offset: place.offset - this.#context.cut!.lead };
  }

  /**
   * The word of a gate at a place of a block. What lies beyond the row is not used: something in the row is loaded for it, on no
   * condition, so that these loads may wait beside those of the next tile.
   */
  blockWord(tensor: TensorName, at: SamplePlace, width: number): string {
    const rowStart = this.rowStart(tensor, width);
    if (at.own === "all") {
      // A block's own samples never lie before the row.
      const most = this.#tile.held("i", `${rowStart} + ${width - 1}u`);
      return this.#tile.held("r", this.word(tensor, this.ownIndex(tensor, at, width), most));
    }
    return this.#tile.held(
      "r",
      this.safeWord(tensor, this.inRow(at.place, "start"), rowStart, width),
    );
  }

  /** What is stored for a sample, or for two of a word. */
  rounded(tensor: TensorName, value: string): string {
    const { dtype, paired } = this.#context.tensors.get(tensor)!;
    return paired && dtype !== "float32" ? `pack_pair(${value})` : value;
  }
}
