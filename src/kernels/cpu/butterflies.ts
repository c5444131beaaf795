/** The stages of a level: one function each, of butterflies over the columns of a tile. */
import { dft } from "../../math/codelet.ts";
import type { Complex } from "../../math/expr.ts";
import { Graph } from "../../math/expr.ts";
import type { LevelLayout, TransformPlan } from "../../plan/cpu/plan.ts";
import { layout, product } from "../../plan/cpu/plan.ts";
import type { BlockAxis } from "./block-loops.ts";
import { blockAxes, keptRows, nestedLoops } from "./block-loops.ts";
import type { Int, KernelFunction, Statement } from "./ir.ts";
import { loop, plus, times } from "./ir.ts";
import { keptInputs, loadComplex, storeComplex } from "./load-store.ts";
import { stageTwiddles } from "./twiddles.ts";

export type Direction = "forward" | "inverse";

interface CpuStage {
  readonly level: LevelLayout;
  readonly radix: number;
  /** Outputs that are computed; they are packed into the first slots. */
  readonly kept: readonly number[];
  /** Blocks that earlier stages of the level have left of the level's block. */
  readonly blocks: readonly BlockAxis[];
  /** Rows of one slot. */
  readonly slotRows: number;
  /** Byte offset of the stage's twiddles in the table. */
  readonly table: number;
}

export function levelStages(plan: TransformPlan, index: number): CpuStage[] {
  const levels = layout(plan);
  const level = levels[index]!;
  const before = plan.levels.slice(0, index).reduce((n, l) => n + l.radices.length, 0);
  const { stages } = stageTwiddles(plan);
  return level.radices.map((radix, i) => ({
    level,
    radix,
    kept: stages[before + i]!.kept,
    blocks: blockAxes(plan, index, level, i),
    slotRows: level.rows / product(level.radices.slice(0, i + 1)),
    table: stages[before + i]!.offset,
  }));
}

/** Radix-r butterfly between memory slots `stride` bytes apart. */
function butterfly(
  g: Graph,
  s: CpuStage,
  w: readonly Complex[],
  direction: Direction,
  lanes: 1 | 4,
): Statement {
  const stride = s.slotRows * s.level.pitch;
  const load = (slot: number): Complex => loadComplex(g, "p", slot * stride, lanes);
  const forward = (): Complex[] => {
    const loaded = Array.from({ length: s.radix }, (_, j) => load(j));
    const outputs = dft(
      g,
      loaded.map((a, j) => (j === 0 ? a : g.cmul(a, w[j - 1]!))),
      1,
    );
    return s.kept.map((j) => outputs[j]!);
  };
  const inverse = (): Complex[] =>
    dft(g, keptInputs(g, s.radix, s.kept, load), -1).map((a, j) =>
      j === 0 ? a : g.cmulConj(a, w[j - 1]!),
    );
  const outputs = direction === "forward" ? forward() : inverse();
  return {
    op: "block",
    stores: outputs.flatMap((v, slot) => storeComplex("p", slot * stride, v, lanes)),
  };
}

/**
 * stage{level}_{i}_{direction}(z, table, block): one stage over a level block, or over one tile of its columns. A function
 * of its own: several such loops in one function cost V8 11.3 (Node 20) 1.7 times the time at 1,024 points.
 */
function stageFunction(
  s: CpuStage,
  name: string,
  direction: Direction,
  lanes: 1 | 4,
): KernelFunction {
  const { level } = s;
  const whole = level.tile === 0 && level.pad === 0;
  const run = whole ? s.slotRows * level.pitch : tileColumns(level) * 8;
  const perTwiddle = (s.radix - 1) * 8;
  const g = new Graph();
  const w = Array.from({ length: s.radix - 1 }, (_, j) => ({
    re: g.load({ pointer: "t", offset: 8 * j }, "splat", 0, lanes),
    im: g.load({ pointer: "t", offset: 8 * j + 4 }, "splat", 0, lanes),
  }));
  const once = butterfly(g, s, w, direction, lanes);
  const step = 8 * lanes;
  const columns = (from: Int): Statement[] =>
    run === step
      ? [{ op: "let", name: "p", value: from }, once]
      : [loop("p", from, plus(from, run), step, [once])];
  const rows = whole
    ? columns("q")
    : [loop("o", "q", plus("q", s.slotRows * level.pitch), level.pitch, columns("o"))];
  const single = run === step && (whole || s.slotRows === 1);
  const hold: Statement[] = single ? [] : [{ op: "hold", nodes: w.flatMap((c) => [c.re, c.im]) }];
  const t = plus("table", plus(times("block", keptRows(s.blocks) * perTwiddle), s.table));
  const blocks = s.blocks.length > 0 ? s.blocks : [{ count: 1, rows: s.radix * s.slotRows }];
  return {
    name,
    parameters: ["z", "table", "block"],
    exported: false,
    body: nestedLoops(
      blocks,
      [
        { name: "q", from: "z", step: level.pitch },
        { name: "t", from: t, step: perTwiddle, dense: true },
      ],
      [...hold, ...rows],
    ),
  };
}

export function stageName(level: number, stage: number, direction: Direction): string {
  return `stage${level}_${stage}_${direction}`;
}

/** The stage functions of a plan; level 0's first stage is in the ends. */
export function stageFunctions(plan: TransformPlan, lanes: 1 | 4): KernelFunction[] {
  return plan.levels.flatMap((_, index) =>
    levelStages(plan, index).flatMap((s, i) =>
      index === 0 && i === 0
        ? []
        : (["forward", "inverse"] as const).map((d) =>
            stageFunction(s, stageName(index, i, d), d, lanes),
          ),
    ),
  );
}

/** Columns of one tile. */
export function tileColumns(level: LevelLayout): number {
  return level.tile || level.columns;
}
