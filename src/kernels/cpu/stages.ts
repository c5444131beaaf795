/**
 * Stages over levels of memory. Level 0 runs over the whole row, in tiles of columns where the row outgrows the caches;
 * every deeper level is a function that takes one block through its forward stages, its sub-blocks, and its inverse
 * stages, so that a block is read once while it is in the cache that its level is meant for.
 */
import type { LevelLayout, TransformPlan } from "../../plan/cpu/plan.ts";
import { lastOutputs, layout, pointsLeft } from "../../plan/cpu/plan.ts";
import type { Axis, Walker } from "./block-loops.ts";
import { keptRows, nest, sublattice } from "./block-loops.ts";
import type { Direction } from "./butterflies.ts";
import { levelStages, stageName, tileColumns } from "./butterflies.ts";
import type { HeadId, TailId } from "./function-names.ts";
import { exported } from "./function-names.ts";
import type { Int, KernelFunction, Statement } from "./ir.ts";
import { plus, times } from "./ir.ts";
import type { RowSink, RowSource } from "./load-store.ts";
import { firstStage, lastStage, sinkParameters } from "./load-store.ts";
import type { MiddleKind } from "./middle-stage.ts";
import { isMasked, middleBlock, middleShape, wholeGroup } from "./middle-stage.ts";
import { stageTwiddles } from "./twiddles.ts";

/** Calls of a level's stages from stage `first` on, in the order of the direction, at pointer `z`. */
function callStages(
  plan: TransformPlan,
  index: number,
  first: number,
  direction: Direction,
  z: Int,
  block: Int,
): Statement[] {
  const calls = plan.levels[index]!.radices.map(
    (_, i): Statement => ({
      op: "call",
      name: stageName(index, i, direction),
      arguments: [z, "table", block],
    }),
  ).slice(first);
  return direction === "forward" ? calls : calls.reverse();
}

/** Pointers of a kind from place to place: the kernel's spectrum has only the points that are left, one after the other. */
function sparseWalkers(
  kind: MiddleKind,
  suffix: string,
  pitch: number,
  leftBytes: number,
): Walker[] {
  return middleShape(kind).pointers.map((p) => ({
    name: p + suffix,
    from: p,
    ...(p === "k" ? { step: leftBytes, dense: true } : { step: pitch }),
  }));
}

/** Where the sub-blocks of 4 points lie in groups of `lanes`: the groups, and the sub-blocks of one. */
function groupsOf(axes: readonly Axis[], lanes: 1 | 4): { groups: Axis[]; blocks: number[] } {
  const inner = axes.at(-1)!;
  const parents = Math.max(1, lanes / inner.count);
  const upper = axes.slice(0, -1);
  if (parents > 1) {
    // Too few of one parent: a group takes those of several.
    const outer = upper.pop()!;
    const { rows } = outer;
    return {
      groups: [...upper, { count: outer.count / parents, rows: rows * parents }],
      blocks: Array.from(
        { length: lanes },
        (_, i) => Math.floor(i / inner.count) * rows + (i % inner.count),
      ),
    };
  }
  return {
    groups: [...upper, { count: inner.count / lanes, rows: lanes }],
    blocks: wholeGroup(lanes).blocks.slice(),
  };
}

/** The middle over what is left of a block of a sparse plan, whose first point is the `block`-th that is computed. */
function sparseMiddle(
  plan: TransformPlan,
  index: number,
  kind: MiddleKind,
  block: Int,
  scale: number,
  lanes: 1 | 4,
): Statement[] {
  const { stages, bytes } = stageTwiddles(plan);
  const axes = sublattice(plan, index, layout(plan)[index]!);
  const kept = lastOutputs(plan);
  const rows = keptRows(axes);
  const masked = plan.sparse!.masked && isMasked(kind);
  const { groups, blocks } = groupsOf(axes, lanes);
  const from = (offset: number, perRow: number): Int =>
    plus("table", plus(times(block, rows * perRow), offset));
  const mask: Walker = {
    ...{ name: "mm", from: from(bytes, 4 * kept.length) },
    ...{ step: 4 * lanes * kept.length, dense: true },
  };
  return nest(
    groups,
    [
      ...sparseWalkers(kind, "m", 32, 8 * lanes * kept.length),
      { name: "t", from: from(stages.at(-1)!.offset, 24), step: 24 * lanes, dense: true },
      ...(masked ? [mask] : []),
    ],
    [{ op: "block", stores: middleBlock(kind, scale, lanes, { kept, blocks, masked }) }],
  );
}

/** The middle over a contiguous run of `points` points (a number, or a count of bytes at run time) at the pointers of `kind`. */
function runMiddle(
  plan: TransformPlan,
  kind: MiddleKind,
  run: MiddleRun,
  lanes: 1 | 4,
): Statement[] {
  const { stages } = stageTwiddles(plan);
  const [first, ...others] = middleShape(kind).pointers;
  const step = 32 * lanes;
  const from = (p: string): Int => plus(p, run.from);
  return [
    {
      op: "loop",
      variable: `${first}m`,
      from: from(first!),
      end: plus(first!, run.to),
      step,
      also: [
        ...others.map((p) => ({ name: `${p}m`, from: from(p), step })),
        {
          name: "t",
          from: plus("table", plus(run.twiddle, stages.at(-1)!.offset)),
          step: (step / 4) * 3,
        },
      ],
      body: [{ op: "block", stores: middleBlock(kind, run.scale, lanes, wholeGroup(lanes)) }],
      nonempty: false,
    },
  ];
}

/** Byte range of a run of the middle, relative to the pointers, and its first twiddle in the last stage's table. */
interface MiddleRun {
  readonly from: Int;
  readonly to: Int;
  readonly twiddle: Int;
  /** Factor of a transform there and back. */
  readonly scale: number;
}

/** A loop over the column tiles [from, to) of a level; `body` works on the tile at pointer offset "tile". */
function overTiles(
  level: LevelLayout,
  from: Int,
  to: Int,
  body: readonly Statement[],
): Statement[] {
  const step = tileColumns(level) * 8;
  return [
    {
      op: "loop",
      variable: "tile",
      from: times(from, step),
      end: times(to, step),
      step,
      also: [],
      body,
      nonempty: false,
    },
  ];
}

/** Tiles of level 0: the units in which threads share the ends of one long row. */
export function tileCount(plan: TransformPlan): number {
  const top = layout(plan)[0]!;
  return top.columns / tileColumns(top);
}

/** Units in which threads share the body of one row: blocks of level 1, or groups of the middle in a one-level plan. */
export function bodyCount(plan: TransformPlan, lanes: 1 | 4): number {
  return plan.levels.length > 1 ? layout(plan)[0]!.rows : plan.points / (4 * lanes);
}

/** level{i}_{kind}(…pointers, table, block): one block through its stages, sub-blocks and inverse stages. */
function levelFunction(
  plan: TransformPlan,
  index: number,
  kind: MiddleKind,
  scale: number,
  lanes: 1 | 4,
): KernelFunction {
  const { pointers, forward, inverse } = middleShape(kind);
  const level = layout(plan)[index]!;
  const tiles = level.columns / tileColumns(level);
  const sweep = (transforms: readonly string[], direction: Direction): Statement[] =>
    transforms.flatMap((z) =>
      overTiles(level, 0, tiles, callStages(plan, index, 0, direction, plus(z, "tile"), "block")),
    );
  const innermost = index === plan.levels.length - 1;
  const dense = (): Statement[] =>
    runMiddle(
      plan,
      kind,
      {
        from: 0,
        to: level.bytes,
        twiddle: times("block", level.size * 6),
        scale: scale / plan.points,
      },
      lanes,
    );
  const sparse = (): Statement[] =>
    sparseMiddle(plan, index, kind, "block", scale / plan.points, lanes);
  const middle = innermost
    ? plan.sparse
      ? sparse()
      : dense()
    : overBlocks(plan, index, kind, "block");
  return {
    name: `level${index}_${kind}`,
    parameters: [...pointers, "table", "block"],
    exported: false,
    body: [...sweep(forward, "forward"), ...middle, ...sweep(inverse, "inverse")],
  };
}

/** Calls of the next level for all sub-blocks of block number `block`. */
function overBlocks(plan: TransformPlan, index: number, kind: MiddleKind, block: Int): Statement[] {
  const level = layout(plan)[index]!;
  const axes = sublattice(plan, index, level);
  return nest(
    axes,
    [
      ...sparseWalkers(
        kind,
        "s",
        level.pitch,
        plan.sparse ? 8 * pointsLeft(plan, index + 1) : level.pitch,
      ),
      { name: "sub", from: times(block, keptRows(axes)), step: 1, dense: true },
    ],
    [callLevel(index + 1, kind, "sub")],
  );
}

function callLevel(index: number, kind: MiddleKind, block: Int): Statement {
  const pointers = middleShape(kind).pointers.map((p) => `${p}s`);
  return { op: "call", name: `level${index}_${kind}`, arguments: [...pointers, "table", block] };
}

/** Calls of level 1 for blocks [from, to), which threads share. */
function someBlocks(plan: TransformPlan, kind: MiddleKind): Statement {
  const { pitch } = layout(plan)[0]!;
  return {
    op: "loop",
    variable: "sub",
    from: "from",
    end: "to",
    step: 1,
    also: middleShape(kind).pointers.map((p) => ({
      name: `${p}s`,
      from: plus(p, times("from", pitch)),
      step: pitch,
    })),
    body: [callLevel(1, kind, "sub")],
    nonempty: false,
  };
}

/**
 * body_{kind}(…pointers, table, from, to): units [from, to) of bodyCount, after level 0's forward stages; all that is left
 * of a sparse plan.
 */
export function bodyFunctions(
  plan: TransformPlan,
  kind: MiddleKind,
  scale: number,
  lanes: 1 | 4,
): KernelFunction[] {
  const { pointers } = middleShape(kind);
  const group = 32 * lanes;
  const sparse = (): Statement[] =>
    plan.levels.length > 1
      ? overBlocks(plan, 0, kind, 0)
      : sparseMiddle(plan, 0, kind, 0, scale / plan.points, lanes);
  const dense = (): Statement[] =>
    plan.levels.length > 1
      ? [someBlocks(plan, kind)]
      : runMiddle(
          plan,
          kind,
          {
            from: times("from", group),
            to: times("to", group),
            twiddle: times("from", (group / 4) * 3),
            scale: scale / plan.points,
          },
          lanes,
        );
  const levels = plan.levels.slice(1).map((_, i) => levelFunction(plan, i + 1, kind, scale, lanes));
  return [
    ...levels.reverse(),
    exported(
      `body_${kind}`,
      [...pointers, "table", "from", "to"],
      plan.sparse ? sparse() : dense(),
    ),
  ];
}

/** Call of an end's stage for the columns of one tile, row by row where rows are padded or tiled. */
function callEnd(
  plan: TransformPlan,
  name: string,
  before: readonly Int[],
  after: readonly Int[],
  lanes: 1 | 4,
): Statement[] {
  const [s] = levelStages(plan, 0);
  const { level, slotRows } = s!;
  if (level.tile === 0 && level.pad === 0) {
    return [
      {
        op: "call",
        name,
        arguments: [...before, "z", ...after, 0, (slotRows * level.columns) / lanes],
      },
    ];
  }
  const column = plus("column", "firstColumn");
  return [
    { op: "let", name: "firstColumn", value: { op: "div", a: "tile", by: 8 * lanes } },
    {
      op: "loop",
      variable: "row",
      from: 0,
      end: slotRows,
      step: 1,
      also: [
        { name: "rowp", from: plus("z", "tile"), step: level.pitch },
        { name: "column", from: 0, step: level.columns / lanes },
      ],
      body: [
        {
          op: "call",
          name,
          arguments: [
            ...before,
            "rowp",
            ...after,
            column,
            plus(column, tileColumns(level) / lanes),
          ],
        },
      ],
      nonempty: true,
    },
  ];
}

/** head_{id}(x, gate, z[, fold], table, from, to): samples through level 0's forward stages, tiles [from, to). */
export function headFunctions(
  plan: TransformPlan,
  source: RowSource,
  id: HeadId,
  lanes: 1 | 4,
): KernelFunction[] {
  const level = layout(plan)[0]!;
  const fold = source.fold ? ["fold"] : [];
  return [
    firstStage(plan, source, lanes, `first_${id}`),
    exported(
      `head_${id}`,
      ["x", "gate", "z", ...fold, "table", "from", "to"],
      overTiles(level, "from", "to", [
        ...callEnd(plan, `first_${id}`, ["x", "gate"], fold, lanes),
        ...callStages(plan, 0, 1, "forward", plus("z", "tile"), 0),
      ]),
    ),
  ];
}

/**
 * tail_{id}(z, …sinkParameters[, rest], table, from, to): level 0's inverse stages to samples, tiles [from, to). A second sink
 * of the same transform leaves out the `stages` that the first has run in place.
 */
export function tailFunctions(
  plan: TransformPlan,
  sink: RowSink,
  id: TailId,
  lanes: 1 | 4,
  stages = true,
): KernelFunction[] {
  const level = layout(plan)[0]!;
  const rows = [...sinkParameters, ...(sink.rest ? ["rest"] : [])];
  return [
    lastStage(plan, sink, lanes, `last_${id}`),
    exported(
      `tail_${id}`,
      ["z", ...rows, "table", "from", "to"],
      overTiles(level, "from", "to", [
        ...(stages ? callStages(plan, 0, 1, "inverse", plus("z", "tile"), 0) : []),
        ...callEnd(plan, `last_${id}`, [], rows, lanes),
      ]),
    ),
  ];
}
