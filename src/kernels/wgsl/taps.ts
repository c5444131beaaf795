/** Between a kernel's taps and the positions of its transform: where they stand, and collecting their gradients. */
import type { Part, Run } from "../../plan/geometry.ts";
import type { PassPlan } from "../../plan/passes.ts";
import type { Kernel } from "./kernels.ts";
import { declarations, entry } from "./kernels.ts";

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

const main = [
  `@compute @workgroup_size(${threads})`,
  entry,
  `let index = (group.y * groups.x + group.x) * ${threads}u + lane;`,
  "if (index >= p.tiles) { return; }",
];

/** Complex points in `work` → the gradient of the taps, float32. */
export function collectTaps(plan: PassPlan, part: Part, taps: number): Kernel {
  const bindings = [
    { name: "work", access: "read", element: "vec2f" } as const,
    { name: "y", access: "read_write", element: "f32" } as const,
  ];
  const value = (at: string): string =>
    plan.packing === "halves"
      ? `select(work[base + ${at} % ${plan.points}u].x, work[base + ${at} % ${plan.points}u].y, ${at} >= ${plan.points}u)`
      : `work[base + ${at}].x`;
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
    // The spectrum carries the transform's factor 1/M; sums of gradients do not.
    `y[p.y + index] = x * ${1 / plan.points}f;`,
    "}",
    "",
  ].join("\n");
  return { code, bindings, tiles: threads, tilesPerUnit: taps };
}
