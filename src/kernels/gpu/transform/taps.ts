/** Between a kernel's taps and the positions of its transform: where they stand, and collecting their gradients. */
import type { Part, Run } from "../../../plan/geometry.ts";
import type { Packing, PassPlan } from "../../../plan/gpu/passes.ts";
import type { Kernel } from "../kernel.ts";
import { declarations, entry } from "../kernel.ts";
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
    return [`select(0.0f, ${sign > 0 ? "" : "-"}${read}, ${inside})`];
  });
  return terms.length > 0 ? tile.text.hold("s", terms.join(" + ")) : 0;
}

/** What a spectrum carries, so that there and back changes nothing: 1/M, and what taking neighbours apart leaves to it. */
export function inverseScale({ packing, points }: PassPlan): number {
  return 1 / (packing === "neighbours" ? 4 * points : points);
}

const main = [
  `@compute @workgroup_size(${threads})`,
  entry,
  `let index = (group.y * groups.x + group.x) * ${threads}u + lane;`,
  "if (index >= p.tiles) { return; }",
];

/** Where a position of the transform lies in `work`: in points, or, of neighbours, in rows of samples. */
const positionIn: Record<Packing, (at: string, points: number) => string> = {
  halves: (at, points) =>
    `select(work[base + ${at} % ${points}u].x, work[base + ${at} % ${points}u].y, ${at} >= ${points}u)`,
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
  const sums = part.taps.map((r) => {
    const { index, count, position, sign } = wrapped(r, plan);
    return `if (tap >= ${index}u && tap < ${index + count}u) { let at = tap - ${index}u + ${position}u; x ${sign > 0 ? "+" : "-"}= ${value("at")}; }`;
  });
  const code = [
    ...declarations(bindings),
    ...main,
    `let row = index / ${taps}u;`,
    `let tap = index % ${taps}u;`,
    `let base = row * ${plan.points}u;`,
    "var x = 0.0f;",
    ...sums,
    // The spectrum carries its factor; sums of gradients do not.
    `y[p.y + index] ${add ? "+=" : "="} x * ${inverseScale(plan)}f;`,
    "}",
    "",
  ].join("\n");
  return { code, bindings, tiles: threads, tilesPerUnit: taps };
}
