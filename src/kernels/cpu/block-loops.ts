/** Loops over the sub-blocks that a plan computes: nested where the others leave gaps, one loop where there are none. */
import type { LevelLayout, TransformPlan } from "../../plan/cpu/plan.ts";
import { keptOutputs, product } from "../../plan/cpu/plan.ts";
import type { Int, Statement } from "./ir.ts";
import { loop, plus } from "./ir.ts";

/** `count` places, so many rows of their level apart. */
export interface BlockAxis {
  readonly count: number;
  readonly rows: number;
}

/** Where the first `stages` stages of a level leave sub-blocks, outermost first: each stage packs its outputs to the front. */
export function blockAxes(
  plan: TransformPlan,
  index: number,
  level: LevelLayout,
  stages: number = level.radices.length,
): BlockAxis[] {
  let rows = level.rows;
  const axes = keptOutputs(plan, index)
    .slice(0, stages)
    .map((kept, i): BlockAxis => {
      rows /= level.radices[i]!;
      return { count: kept.length, rows };
    });
  return merged(axes);
}

/** The same places along fewer axes. */
function merged(axes: readonly BlockAxis[]): BlockAxis[] {
  const out: BlockAxis[] = [];
  for (const axis of axes) {
    const before = out.at(-1);
    if (before && before.rows === axis.count * axis.rows) {
      out[out.length - 1] = { count: before.count * axis.count, rows: axis.rows };
    } else out.push(axis);
  }
  return out;
}

/** A pointer, or a count, that runs with nested loops. */
export interface LoopPointer {
  readonly name: string;
  readonly from: Int;
  /** Step from row to row, or, of a `dense` one, from place to place, gaps or not. */
  readonly step: number;
  readonly dense?: boolean;
}

/** Loops over all places; the first pointer, which must not be dense, counts. */
export function nestedLoops(
  axes: readonly BlockAxis[],
  pointers: readonly LoopPointer[],
  body: readonly Statement[],
  depth = 0,
): Statement[] {
  if (depth === axes.length) return [...body];
  const inner = product(axes.slice(depth + 1).map((a) => a.count));
  const { count, rows } = axes[depth]!;
  const name = (p: LoopPointer, d: number): string =>
    d === axes.length - 1 ? p.name : `${p.name}${d}`;
  const [first, ...others] = pointers.map((p) => ({
    name: name(p, depth),
    from: depth === 0 ? p.from : name(p, depth - 1),
    step: p.step * (p.dense ? inner : rows),
  }));
  const end = plus(first!.from, count * first!.step);
  const deeper = nestedLoops(axes, pointers, body, depth + 1);
  return [loop(first!.name, first!.from, end, first!.step, deeper, others)];
}

/** Rows of a level that are computed. */
export function keptRows(axes: readonly BlockAxis[]): number {
  return product(axes.map((a) => a.count));
}
