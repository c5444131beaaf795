/**
 * Kernels as data, and their text. A path takes a tile from a source, through the pass's stages, to a sink; what it does
 * on the way (forward stages, the product with the kernel's spectrum, inverse stages) is a property. Gradients combine two
 * paths. Whatever a kernel is for, its text is put together from the same pieces.
 */
import type { Packing } from "../../plan/gpu/passes.ts";
import type { Binding } from "./storage.ts";

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
  /** Whether pack2x16float rounds to the nearest, ties to even, and overflows to infinity, as it need not. */
  readonly packs?: boolean;
  /** Whether there are subgroups, and threads 2n and 2n + 1 of a workgroup are lanes 2m and 2m + 1 of one. */
  readonly shuffles?: boolean;
  /** How many threads of a workgroup, from any multiple of this on, are lanes of one subgroup in their order; or 1. */
  readonly lanes?: number;
  /** Whether fma is worse than a product and a sum, as where a processor plays the GPU: twice the time to compile. */
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

/** The declarations of a kernel: its uniform parameters, by default those that all transforms have, and its bindings. */
export function declarations(
  bindings: readonly Binding[],
  parameters: readonly string[] = parameterNames,
): string[] {
  return [
    `struct Parameters {\n${parameters.map((n) => `  ${n}: u32,`).join("\n")}\n}`,
    "@group(0) @binding(0) var<uniform> p: Parameters;",
    ...bindings.map(
      (b, i) =>
        `@group(0) @binding(${i + 1}) var<storage, ${b.access}> ${b.name}: array<${b.element}>;`,
    ),
  ];
}

/** The first line of every kernel's entry. */
export const entry =
  "fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {";

/** Adds up the sums of all threads, to `partial[0]`: by shuffles as far as `lanes` reach (see Machine), then in `partial`. */
export function reduction(threads: number, lanes = 1): readonly string[] {
  const shuffles: string[] = [];
  for (let d = 1; d < lanes; d *= 2) shuffles.push(`sum += subgroupShuffleXor(sum, ${d}u);`);
  return [
    ...shuffles,
    lanes === 1
      ? "partial[lane] = sum;"
      : `if (lane % ${lanes}u == 0u) { partial[lane / ${lanes}u] = sum; }`,
    "workgroupBarrier();",
    `for (var half = ${threads / lanes / 2}u; half > 0u; half /= 2u) {`,
    "if (lane < half) { partial[lane] += partial[lane + half]; }",
    "workgroupBarrier();",
    "}",
  ];
}

/** The user's rows of a unit: units of a channel stand one after the other; a pair may lack its second row. */
export function rowFunctions(packing: Packing, blocks = 1): readonly string[] {
  if (packing !== "rows") {
    const row = blocks === 1 ? "(p.first + unit)" : `((p.first + unit) / ${blocks}u)`;
    return [
      `fn channel_of(unit: u32) -> u32 { return ${row} / p.batch; }`,
      `fn row_of(unit: u32) -> u32 { return ${row} % p.batch * p.channels + channel_of(unit); }`,
    ];
  }
  return [
    "fn pairs() -> u32 { return (p.batch + 1u) / 2u; }",
    "fn channel_of(unit: u32) -> u32 { return (p.first + unit) / pairs(); }",
    "fn row_of(unit: u32) -> u32 { return (p.first + unit) % pairs() * 2u * p.channels + channel_of(unit); }",
    "fn partner_of(unit: u32) -> u32 { return min((p.first + unit) % pairs() * 2u + 1u, p.batch - 1u) * p.channels + channel_of(unit); }",
  ];
}
