/** Gradient of the skip weights: dskip[h] = Σ_b Σ_n dy[b,h,n]·u[b,h,n]. */
import type { Dtype } from "../../../dtype.ts";
import type { Kernel } from "../kernel.ts";
import { declarations, entry, reduction } from "../kernel.ts";
import { tensorBinding, tensorFunctions } from "../storage.ts";

/** Threads that share a channel. */
const threads = 256;

/**
 * One workgroup for each channel: every thread sums every 256th sample of a row, with the rounding error of each addition
 * carried along (Kahan 1965), so that the sum is as exact as its terms whatever the batch.
 */
export function skipGradientKernel(length: number, dtype: Dtype): Kernel {
  const tensors = (["dy", "u"] as const).map((name) => ({
    ...{ name, dtype, writes: false, paired: false },
  }));
  const bindings = [
    ...tensors.map(tensorBinding),
    { name: "y", access: "read_write", element: "f32" } as const,
  ];
  const code = [
    ...declarations(bindings),
    `var<workgroup> partial: array<f32, ${threads}>;`,
    ...tensors.flatMap(tensorFunctions),
    `@compute @workgroup_size(${threads})`,
    entry,
    "let h = group.y * groups.x + group.x;",
    "var sum = 0.0f;",
    "var lost = 0.0f;",
    "if (h < p.tiles) {",
    "for (var b = p.begin; b < p.end; b++) {",
    `let row = (b * p.channels + h) * ${length}u;`,
    `for (var n = lane; n < ${length}u; n += ${threads}u) {`,
    "let term = dy_get(row + n + p.dy) * u_get(row + n + p.u) - lost;",
    "let next = sum + term;",
    "lost = (next - sum) - term;",
    "sum = next;",
    "}",
    "}",
    "}",
    ...reduction(threads),
    "if (lane == 0u && h < p.tiles) {",
    "let at = p.y + h;",
    "if (p.clear == 1u) { y[at] = partial[0]; } else { y[at] += partial[0]; }",
    "}",
    "}",
    "",
  ].join("\n");
  return { code, bindings, tiles: 1, tilesPerUnit: 1 };
}
