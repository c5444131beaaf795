/** Sums over rows: those of a workgroup's threads, one set for each workgroup, and the kernel that adds these up. */
import type { Binding } from "../dialect/wgsl.ts";
import {
  barrier,
  constant,
  kernelText,
  loopHead,
  variable,
  when,
  workgroup,
} from "../dialect/wgsl.ts";
import type { Kernel } from "../kernel.ts";
import type { RowSpread } from "./spec.ts";
import { rowThreads } from "./spec.ts";

/**
 * Statements that add up, team by team in `join`, what the threads of a workgroup have in `own` of the same columns, or of the rows,
 * and store it.
 */
export function teamSums(
  { width, across, turns }: RowSpread,
  index: number,
  isTotal: boolean,
): readonly string[] {
  const [columns, each, times] = isTotal ? [1, 1, 1] : [width, across * width, turns];
  const [from, to] = [`own${index}[turn * ${columns}u`, `sums${index}`];
  const added = [
    variable("sum", "0.0f"),
    loopHead("team", "0u", `team < ${rowThreads / across}u`, "team++"),
    `sum += join[team * ${across * columns}u + at];`,
    "}",
  ];
  return [
    loopHead("turn", "0u", `turn < ${times}u`, "turn++"),
    barrier,
    ...Array.from(
      { length: columns },
      (_, l) => `join[lane * ${columns}u + ${l}u] = ${from} + ${l}u];`,
    ),
    barrier,
    loopHead("at", "lane", `at < ${each}u`, `at += ${rowThreads}u`),
    ...(isTotal
      ? [...added, `${to}[index] = sum;`]
      : [
          constant("column", `turn * ${each}u + at`),
          ...when("column < p.columns", [...added, `${to}[index * p.columns + column] = sum;`]),
        ]),
    "}",
    "}",
  ];
}

/** Columns that a workgroup of the second kernel adds up side by side. */
export const columnsBeside = 32;

/** Sums of columns from those of all workgroups, in an order that the number of them decides. */
export function rowSumsKernel(accumulate: boolean): Kernel {
  const strips = rowThreads / columnsBeside;
  const bindings: Binding[] = [
    { name: "partials", access: "read", element: "f32" },
    { name: "sums", access: "read_write", element: "f32" },
  ];
  const parameters = ["parts", "columns", "offset"];
  const code = kernelText({
    ...{ bindings, parameters, threads: rowThreads },
    shared: [{ name: "partial", element: "f32", count: rowThreads }],
    body: [
      constant("column", `(${workgroup}) * ${columnsBeside}u + lane % ${columnsBeside}u`),
      variable("sum", "0.0f"),
      variable("lost", "0.0f"),
      ...when("column < p.columns", [
        loopHead("part", `lane / ${columnsBeside}u`, "part < p.parts", `part += ${strips}u`),
        // Kahan 1965: what an addition rounds away is taken along.
        constant("term", "partials[part * p.columns + column] - lost"),
        constant("next", "sum + term"),
        "lost = (next - sum) - term;",
        "sum = next;",
        "}",
      ]),
      "partial[lane] = sum;",
      barrier,
      loopHead("half", `${rowThreads / 2}u`, `half >= ${columnsBeside}u`, "half /= 2u"),
      ...when("lane < half", ["partial[lane] += partial[lane + half];"]),
      barrier,
      "}",
      ...when(`lane < ${columnsBeside}u && column < p.columns`, [
        `sums[p.offset + column] ${accumulate ? "+=" : "="} partial[lane];`,
      ]),
    ],
  });
  return { code, bindings, parameters, tiles: 1, tilesPerUnit: 1 };
}
