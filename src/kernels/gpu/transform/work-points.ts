/** The end of a pass at work memory: points stored for the next pass, and loaded from the one before. */
import type { WorkBuffer } from "../kernel.ts";
import type { Value } from "../text.ts";
import { Branches } from "../text.ts";
import type { KernelContext } from "./kernel-context.ts";
import { pointElement, pointsEach, readPoints, writePoints } from "./point-formats.ts";
import type { Place } from "./tile.ts";
import { sum } from "./tile.ts";

/** One side of a pass in work memory. */
export interface WorkEnd {
  /** Values at the first stage's places, or, where the path has inverse stages alone, at the last one's. */
  load(buffer: WorkBuffer, end: "first" | "last"): Value[][];
  store(buffer: WorkBuffer, values: readonly Value[][], end: "first" | "last"): void;
}

export class WorkPoints implements WorkEnd {
  readonly #context: KernelContext;

  constructor(context: KernelContext) {
    this.#context = context;
  }

  /** Index of the element that begins with a place's point. */
  #index(place: Place): string {
    const { tile, spec, pass, workPoints } = this.#context;
    const base = tile.held("m", `${place.base} + slot * ${workPoints}u + block * ${pass.size}u`);
    if (pointsEach[spec.format] === 1) return sum({ base, offset: place.offset });
    return sum({ base: tile.held("m", `${base} >> 1u`), offset: place.offset / 2 });
  }

  load(buffer: WorkBuffer, end: "first" | "last"): Value[][] {
    const { spec, text } = this.#context;
    const { format } = spec;
    const together = pointsEach[format];
    this.#context.bind({ name: buffer, access: "read", element: pointElement[format] });
    return this.#context.places(end).flatMap((row, i) => {
      if (i % together > 0) return [];
      const loaded = row.map((place) => {
        const kept = end === "first" ? undefined : this.#context.keeps(place);
        const index = this.#index(place);
        // What was never stored is not fetched either: all of it is read from one place.
        const near = kept && `select(${this.#index({ base: "t", offset: 0 })}, ${index}, ${kept})`;
        const points = readPoints(format, `${buffer}[${near ?? index}]`);
        const none = `vec${2 * together}f()`;
        return text.hold("z", kept ? `select(${none}, ${points}, ${kept})` : points);
      });
      const parts = [["x", "y"] as const, ["z", "w"] as const].slice(0, together);
      return parts.map(([re, im]) => loaded.map((x) => ({ re: `${x}.${re}`, im: `${x}.${im}` })));
    });
  }

  store(buffer: WorkBuffer, values: readonly Value[][], end: "first" | "last"): void {
    const { spec, text } = this.#context;
    const { format } = spec;
    this.#context.bind({ name: buffer, access: "read_write", element: pointElement[format] });
    const together = pointsEach[format];
    const stores = new Branches();
    this.#context.places(end).forEach((row, i) => {
      if (i % together > 0) return;
      row.forEach((place, q) => {
        const index = this.#index(place);
        const neighbours = values.slice(i, i + together).map((of) => of[q]!);
        const parts = neighbours.flatMap(({ re, im }) => [re || "0.0f", im || "0.0f"]);
        const condition = end === "first" ? "" : this.#context.keeps(place);
        const write = `${buffer}[${index}] = ${writePoints(format, parts)};`;
        stores.add(condition ?? "", write);
      });
    });
    text.line(...stores.lines);
  }
}
