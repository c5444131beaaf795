/** Gradient of the skip weights: dskip[h] = Σ_b Σ_n dy[b,h,n]·u[b,h,n]. */
import type { Dtype } from "../../../dtype.ts";
import { constant, kernelText, loopHead, variable, when, workgroup } from "../dialect/wgsl.ts";
import type { Kernel } from "../kernel.ts";
import { parameterNames, reduction } from "../kernel.ts";
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
  const code = kernelText({
    ...{ bindings, parameters: parameterNames, threads },
    shared: [{ name: "partial", element: "f32", count: threads }],
    functions: tensors.flatMap(tensorFunctions),
    body: [
      constant("h", workgroup),
      variable("sum", "0.0f"),
      variable("lost", "0.0f"),
      "if (h < p.tiles) {",
      loopHead("b", "p.begin", "b < p.end", "b++"),
      constant("row", `(b * p.channels + h) * ${length}u`),
      loopHead("n", "lane", `n < ${length}u`, `n += ${threads}u`),
      constant("term", "dy_get(row + n + p.dy) * u_get(row + n + p.u) - lost"),
      constant("next", "sum + term"),
      "lost = (next - sum) - term;",
      "sum = next;",
      "}",
      "}",
      "}",
      ...reduction(threads),
      ...when("lane == 0u && h < p.tiles", [
        constant("at", "p.y + h"),
        ...when("p.clear == 1u", ["y[at] = partial[0];"], ["y[at] += partial[0];"]),
      ]),
    ],
  });
  return { code, bindings, tiles: 1, tilesPerUnit: 1 };
}
