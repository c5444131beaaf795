/** The end of a pass at work memory: points stored for the next pass, and loaded from the one before. */
import { choice, zero } from "../dialect/wgsl.ts";
import type { WorkBuffer } from "../kernel.ts";
import type { Value } from "../text.ts";
import { Branches, valueIn } from "../text.ts";
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
    const loaded = this.#context.points(end, (place, i) => {
      if (i % together > 0) return "";
      const kept = end === "first" ? undefined : this.#context.keeps(place);
      const index = this.#index(place);
      // What was never stored is not fetched either: all of it is read from one place.
      const near = kept && choice(kept, index, this.#index({ base: "t", offset: 0 }));
      const points = readPoints(format, `${buffer}[${near ?? index}]`);
      return text.hold("z", kept ? choice(kept, points, zero(`vec${2 * together}f`)) : points);
    });
    return loaded.map((_, i) =>
      loaded[i - (i % together)]!.map((x) => valueIn(x, i % together > 0 ? "zw" : "xy")),
    );
  }

  store(buffer: WorkBuffer, values: readonly Value[][], end: "first" | "last"): void {
    const { spec, text } = this.#context;
    const { format } = spec;
    this.#context.bind({ name: buffer, access: "read_write", element: pointElement[format] });
    const together = pointsEach[format];
    const stores = new Branches();
    this.#context.points(end, (place, i, q) => {
      if (i % together > 0) return;
      const index = this.#index(place);
      const kept = end === "last" && this.#context.keeps(place);
      const points = values.slice(i, i + together).map((of) => of[q]!);
      stores.add(kept || "", `${buffer}[${index}] = ${writePoints(format, points)};`);
    });
    text.line(...stores.lines);
  }
}
