/** Kernels as data: their text, what must be bound, and the parameters and functions that those of transforms share. */
import type { Packing } from "../../plan/gpu/passes.ts";
import type { MatrixShape } from "../../plan/gpu/product.ts";
import type { Binding } from "./dialect/wgsl.ts";
import { barrier, loopHead, shortFunction, shuffled } from "./dialect/wgsl.ts";

/** Work memory of transforms between passes. */
export type WorkBuffer = "work" | "other" | "again";

/** Memory of rows' scales. */
export type ScaleBuffer = "scales" | "otherScales";

/** What a device lends kernels. */
export interface Machine {
  /** Bytes of workgroup memory. */
  readonly sharedBytes: number;
  /** Threads of a workgroup. */
  readonly threads: number;
  /** The device's own rounding to float16 is to the nearest, ties to even, and overflows to infinity (probed). */
  readonly packs?: boolean;
  /** Adjacent threads are adjacent lanes of a subgroup (probed when the device is opened). */
  readonly shuffles?: boolean;
  /** Threads n·lanes … n·lanes + lanes − 1 are lanes of one subgroup, in their order; 1 where that is not known. */
  readonly lanes?: number;
  /** Kernels may compute in half precision. */
  readonly halves?: boolean;
  /** Products of matrices that a subgroup of `lanes` threads computes from half precision to float32. */
  readonly matrices?: readonly MatrixShape[];
  /** A product and a sum are better than fma: where a processor emulates the GPU, fma takes twice as long to compile. */
  readonly slowFma?: boolean;
}

/** A generated kernel: text, and what the backend must bind. */
export interface Kernel {
  readonly code: string;
  readonly bindings: readonly Binding[];
  /** Words of the uniform parameters, in order, where they are not `parameterNames`. */
  readonly parameters?: readonly string[];
  /** Tiles that one workgroup takes. */
  readonly tiles: number;
  /** Tiles of one transform. */
  readonly tilesPerUnit: number;
}

/** Words of the uniform parameters, in order; every kernel of a transform has the same. */
export const parameterNames = [
  "tiles",
  "first",
  "batch",
  "channels",
  "channel",
  "begin",
  "end",
  "clear",
  "chunks",
  "skip",
  "u",
  "pregate",
  "postgate",
  "y",
  "dy",
  "du",
  "dpregate",
  "dpostgate",
] as const;

/** Values of the parameters; 0 where left out. */
export type Parameters = Partial<Record<(typeof parameterNames)[number], number>>;

/** The same for a kernel with parameters of its own. */
export type OwnParameters = Readonly<Record<string, number>>;

/** Adds up the sums of all threads, to `partial[0]`: by shuffles as far as `lanes` reach (see Machine), then in `partial`. */
export function reduction(threads: number, lanes = 1): readonly string[] {
  const shuffles: string[] = [];
  for (let d = 1; d < lanes; d *= 2) shuffles.push(`sum += ${shuffled("sum", d)};`);
  return [
    ...shuffles,
    lanes === 1
      ? "partial[lane] = sum;"
      : `if (lane % ${lanes}u == 0u) { partial[lane / ${lanes}u] = sum; }`,
    barrier,
    loopHead("half", `${threads / lanes / 2}u`, "half > 0u", "half /= 2u"),
    "if (lane < half) { partial[lane] += partial[lane + half]; }",
    barrier,
    "}",
  ];
}

/** The user's rows of a unit: units of a channel stand one after the other; a pair may lack its second row. */
export function rowFunctions(packing: Packing, blocks = 1): readonly string[] {
  const ofUnit = (name: string, value: string): string =>
    shortFunction(name, "unit: u32", "u32", value);
  if (packing !== "rows") {
    const row = blocks === 1 ? "(p.first + unit)" : `((p.first + unit) / ${blocks}u)`;
    return [
      ofUnit("channel_of", `${row} / p.batch`),
      ofUnit("row_of", `${row} % p.batch * p.channels + channel_of(unit)`),
    ];
  }
  return [
    shortFunction("pairs", "", "u32", "(p.batch + 1u) / 2u"),
    ofUnit("channel_of", "(p.first + unit) / pairs()"),
    ofUnit("row_of", "(p.first + unit) % pairs() * 2u * p.channels + channel_of(unit)"),
    ofUnit(
      "partner_of",
      "min((p.first + unit) % pairs() * 2u + 1u, p.batch - 1u) * p.channels + channel_of(unit)",
    ),
  ];
}
