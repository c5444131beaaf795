/** Between a kernel's taps and the positions of its transform: where they stand, and collecting their gradients. */
import type { Part, Run } from "../../../plan/geometry.ts";
import type { Packing, PassPlan } from "../../../plan/gpu/passes.ts";
import {
  choice,
  constant,
  constants,
  kernelText,
  variable,
  when,
  workgroup,
} from "../dialect/wgsl.ts";
import type { Kernel } from "../kernel.ts";
import { parameterNames } from "../kernel.ts";
import type { PassSource } from "./spec.ts";
import type { Tile } from "./tile.ts";

/** Threads of a workgroup. */
const threads = 64;

/** A run of taps with its first position in 0 … P − 1; what wraps around changes its sign with the plan's packing. */
export function wrapped(run: Run, plan: PassPlan): Run {
  if (run.position >= 0) return run;
  const halves = plan.packing === "halves";
  const positions = halves ? 2 * plan.points : plan.points;
  return {
    ...run,
    position: run.position + positions,
    sign: halves ? (-run.sign as 1 | -1) : run.sign,
  };
}

/** The text of what taps come to at position `n`, one of `run` from `first` on: sums over the runs that reach it; 0 for none. */
export function tapsAt(
  tile: Tile,
  { runs, taps }: PassSource & { kind: "taps" },
  n: string,
  { first, run }: { readonly first: number; readonly run: number },
): string | 0 {
  const terms = runs.flatMap(({ index, count, position, sign }) => {
    if (first >= position + count || first + run <= position) return [];
    const at = tile.text.hold("n", `${n} - ${position}u`);
    const base = tile.held("i", `row * ${taps}u + p.u`);
    // Below the position, the difference is a huge number.
    const inside = `${at} < ${count}u`;
    const read = `u_get(${base} + ${index}u + min(${at}, ${count - 1}u))`;
    return [choice(inside, `${sign > 0 ? "" : "-"}${read}`, "0.0f")];
  });
  return terms.length > 0 ? tile.text.hold("s", terms.join(" + ")) : 0;
}

/** What a spectrum carries, so that there and back changes nothing: 1/M, and what taking neighbours apart leaves to it. */
export function inverseScale({ packing, points }: PassPlan): number {
  return 1 / (packing === "neighbours" ? 4 * points : points);
}

/** Where a position of the transform lies in `work`: in points, or, of neighbours, in rows of samples. */
const positionIn: Record<Packing, (at: string, points: number) => string> = {
  halves: (at, points) =>
    choice(
      `${at} >= ${points}u`,
      `work[base + ${at} % ${points}u].y`,
      `work[base + ${at} % ${points}u].x`,
    ),
  rows: (at) => `work[base + ${at}].x`,
  neighbours: (at) => `work[base + ${at}]`,
};

/** Complex points, or rows of samples, in `work` → the gradient of the taps, float32: written, or added to what is there. */
export function collectTaps(plan: PassPlan, part: Part, taps: number, add = false): Kernel {
  const bindings = [
    {
      name: "work",
      access: "read",
      element: plan.packing === "neighbours" ? "f32" : "vec2f",
    } as const,
    { name: "y", access: "read_write", element: "f32" } as const,
  ];
  const value = (at: string): string => positionIn[plan.packing](at, plan.points);
  const sums = part.taps.flatMap((r) => {
    const { index, count, position, sign } = wrapped(r, plan);
    return when(`tap >= ${index}u && tap < ${index + count}u`, [
      constant("at", `tap - ${index}u + ${position}u`),
      `x ${sign > 0 ? "+" : "-"}= ${value("at")};`,
    ]);
  });
  const code = kernelText({
    ...{ bindings, parameters: parameterNames, threads },
    body: [
      constant("index", `(${workgroup}) * ${threads}u + lane`),
      "if (index >= p.tiles) { return; }",
      ...constants({
        row: `index / ${taps}u`,
        tap: `index % ${taps}u`,
        base: `row * ${plan.points}u`,
      }),
      variable("x", "0.0f"),
      ...sums,
      // The spectrum carries its factor; sums of gradients do not.
      `y[p.y + index] ${add ? "+=" : "="} x * ${inverseScale(plan)}f;`,
    ],
  });
  return { code, bindings, tiles: threads, tilesPerUnit: taps };
}
