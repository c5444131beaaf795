/** Loops over the sub-blocks that a plan computes: nested where the others leave gaps, one loop where there are none. */
import type { LevelLayout, TransformPlan } from "../../plan/cpu/plan.ts";
import { keptOutputs, product } from "../../plan/cpu/plan.ts";
import type { Int, Statement } from "./ir.ts";
import { plus } from "./ir.ts";

/** `count` places, so many rows of their level apart. */
export interface Axis {
  readonly count: number;
  readonly rows: number;
}

/** Where the first `stages` stages of a level leave sub-blocks, outermost first: each stage packs its outputs to the front. */
export function sublattice(
  plan: TransformPlan,
  index: number,
  level: LevelLayout,
  stages: number = level.radices.length,
): Axis[] {
  let rows = level.rows;
  const axes = keptOutputs(plan, index)
    .slice(0, stages)
    .map((kept, i): Axis => {
      rows /= level.radices[i]!;
      return { count: kept.length, rows };
    });
  return merged(axes);
}

/** The same places along fewer axes. */
function merged(axes: readonly Axis[]): Axis[] {
  const out: Axis[] = [];
  for (const axis of axes) {
    const before = out.at(-1);
    if (before && before.rows === axis.count * axis.rows) {
      out[out.length - 1] = { count: before.count * axis.count, rows: axis.rows };
    } else out.push(axis);
  }
  return out;
}

/** A variable that runs with a nest of loops. */
export interface Walker {
  readonly name: string;
  readonly from: Int;
  /** Step from row to row, or, of a `dense` one, from place to place, gaps or not. */
  readonly step: number;
  readonly dense?: boolean;
}

/** Loops over all places; the first walker, which must not be dense, counts. */
export function nest(
  axes: readonly Axis[],
  walkers: readonly Walker[],
  body: readonly Statement[],
): Statement[] {
  const name = (w: Walker, depth: number): string =>
    depth === axes.length - 1 ? w.name : `${w.name}${depth}`;
  const stepOf = (w: Walker, depth: number): number =>
    w.step * (w.dense ? product(axes.slice(depth + 1).map((a) => a.count)) : axes[depth]!.rows);
  const loop = (depth: number): Statement[] => {
    if (depth === axes.length) return [...body];
    const [first, ...others] = walkers;
    const from = (w: Walker): Int => (depth === 0 ? w.from : name(w, depth - 1));
    const step = stepOf(first!, depth);
    return [
      {
        op: "loop",
        variable: name(first!, depth),
        from: from(first!),
        end: plus(from(first!), axes[depth]!.count * step),
        step,
        also: others.map((w) => ({
          name: name(w, depth),
          from: from(w),
          step: stepOf(w, depth),
        })),
        body: loop(depth + 1),
        nonempty: true,
      },
    ];
  };
  return loop(0);
}

/** Rows of a level that are computed. */
export function keptRows(axes: readonly Axis[]): number {
  return product(axes.map((a) => a.count));
}
