/**
 * The functions of one transform: stages over levels of memory. Level 0 runs over the whole row, in tiles of columns where the
 * row outgrows the caches; every deeper level is a function that takes one block through its forward stages, its sub-blocks, and
 * its inverse stages, so that a block is read once while it is in the cache that its level is meant for.
 */
import type { LevelLayout, TransformPlan } from "../../plan/cpu/plan.ts";
import { lastOutputs, layout, pointsLeft } from "../../plan/cpu/plan.ts";
import type { BlockAxis, LoopPointer } from "./block-loops.ts";
import { blockAxes, keptRows, nestedLoops } from "./block-loops.ts";
import type { Direction } from "./butterflies.ts";
import { levelStages, stageFunctions, stageName, tileColumns } from "./butterflies.ts";
import type { TransformFunctions } from "./convolution-functions.ts";
import type { HeadId, TailId } from "./function-names.ts";
import { exported } from "./function-names.ts";
import type { Int, KernelFunction, Statement } from "./ir.ts";
import { call, loop, plus, times } from "./ir.ts";
import type { RowSink, RowSource } from "./load-store.ts";
import { firstStage, lastStage, sinkParameters } from "./load-store.ts";
import type { MiddleKind } from "./middle-stage.ts";
import { isMasked, middleBlock, middleShape, wholeGroup } from "./middle-stage.ts";
import { stageTwiddles } from "./twiddles.ts";

/** Tiles of level 0: the units in which threads share the ends of one long row. */
export function tileCount(plan: TransformPlan): number {
  const top = layout(plan)[0]!;
  return top.columns / tileColumns(top);
}

/** Units in which threads share the body of one row: blocks of level 1, or groups of the middle in a one-level plan. */
export function bodyCount(plan: TransformPlan, lanes: 1 | 4): number {
  return plan.levels.length > 1 ? layout(plan)[0]!.rows : plan.points / (4 * lanes);
}

/** A loop over the column tiles [from, to) of a level; `body` works on the tile at pointer offset "tile". */
function overTiles(level: LevelLayout, from: Int, to: Int, body: readonly Statement[]): Statement {
  const step = tileColumns(level) * 8;
  return loop("tile", times(from, step), times(to, step), step, body, [], false);
}

/** Where the sub-blocks of 4 points lie in groups of `lanes`: the groups, and the sub-blocks of one. */
function groupsOf(
  axes: readonly BlockAxis[],
  lanes: 1 | 4,
): { groups: BlockAxis[]; blocks: number[] } {
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

/** Byte range of a run of the middle, relative to its pointers, and its first twiddle in the last stage's table. */
interface MiddleRun {
  readonly from: Int;
  readonly to: Int;
  readonly twiddle: Int;
}

/** Makes the functions of a transform whose round trip has the factor `scale`. */
export class TransformCode implements TransformFunctions {
  readonly plan: TransformPlan;
  readonly tiles: number;
  readonly bodies: number;
  readonly #scale: number;
  readonly #lanes: 1 | 4;
  readonly #levels: readonly LevelLayout[];

  constructor(plan: TransformPlan, scale: number, lanes: 1 | 4) {
    this.plan = plan;
    this.tiles = tileCount(plan);
    this.bodies = bodyCount(plan, lanes);
    this.#scale = scale;
    this.#lanes = lanes;
    this.#levels = layout(plan);
  }

  /** What the others call. */
  stages(): KernelFunction[] {
    return stageFunctions(this.plan, this.#lanes);
  }

  /** head_{id}(x, gate, z[, fold], table, from, to): samples through level 0's forward stages, tiles [from, to). */
  head(id: HeadId, source: RowSource): KernelFunction[] {
    const fold = source.fold ? ["fold"] : [];
    const body = overTiles(this.#levels[0]!, "from", "to", [
      ...this.#callEnd(`first_${id}`, ["x", "gate"], fold),
      ...this.#callStages(0, 1, "forward", plus("z", "tile"), 0),
    ]);
    return [
      firstStage(this.plan, source, this.#lanes, `first_${id}`),
      exported(`head_${id}`, ["x", "gate", "z", ...fold, "table", "from", "to"], [body]),
    ];
  }

  /**
   * tail_{id}(z, …sinkParameters[, rest], table, from, to): level 0's inverse stages to samples, tiles [from, to); without the
   * stages but the last where another sink's have run in place.
   */
  tail(id: TailId, sink: RowSink, again = false): KernelFunction[] {
    const rows = [...sinkParameters, ...(sink.rest ? ["rest"] : [])];
    const body = overTiles(this.#levels[0]!, "from", "to", [
      ...(again ? [] : this.#callStages(0, 1, "inverse", plus("z", "tile"), 0)),
      ...this.#callEnd(`last_${id}`, [], rows),
    ]);
    return [
      lastStage(this.plan, sink, this.#lanes, `last_${id}`),
      exported(`tail_${id}`, ["z", ...rows, "table", "from", "to"], [body]),
    ];
  }

  /**
   * body_{kind}(…pointers, table, from, to): units [from, to) of bodyCount, after level 0's forward stages; all that is left
   * of a sparse plan.
   */
  body(kind: MiddleKind, scale: number = this.#scale): KernelFunction[] {
    const { levels, sparse } = this.plan;
    const inner = levels.slice(1).map((_, i) => this.#level(i + 1, kind, scale));
    const group = 32 * this.#lanes;
    const body = (): Statement[] => {
      if (levels.length > 1) return sparse ? this.#blocks(0, kind, 0) : [this.#someBlocks(kind)];
      if (sparse) return this.#sparseMiddle(0, kind, 0, scale);
      const [from, to] = [times("from", group), times("to", group)];
      const twiddle = times("from", (group / 4) * 3);
      return [this.#middle(kind, { from, to, twiddle }, scale)];
    };
    const parameters = [...middleShape(kind).pointers, "table", "from", "to"];
    return [...inner.reverse(), exported(`body_${kind}`, parameters, body())];
  }

  /** Calls of a level's stages from stage `first` on, in the order of the direction, at pointer `z`. */
  #callStages(index: number, first: number, direction: Direction, z: Int, block: Int): Statement[] {
    const calls = this.plan.levels[index]!.radices.map((_, i) =>
      call(stageName(index, i, direction), z, "table", block),
    ).slice(first);
    return direction === "forward" ? calls : calls.reverse();
  }

  /** Call of an end's stage for the columns of one tile, row by row where rows are padded or tiled. */
  #callEnd(name: string, before: readonly Int[], after: readonly Int[]): Statement[] {
    const lanes = this.#lanes;
    const { level, slotRows } = levelStages(this.plan, 0)[0]!;
    if (level.tile === 0 && level.pad === 0)
      return [call(name, ...before, "z", ...after, 0, (slotRows * level.columns) / lanes)];
    const column = plus("column", "firstColumn");
    const end = plus(column, tileColumns(level) / lanes);
    const row = call(name, ...before, "rowp", ...after, column, end);
    const also = [
      { name: "rowp", from: plus("z", "tile"), step: level.pitch },
      { name: "column", from: 0, step: level.columns / lanes },
    ];
    return [
      { op: "let", name: "firstColumn", value: { op: "div", a: "tile", by: 8 * lanes } },
      loop("row", 0, slotRows, 1, [row], also),
    ];
  }

  /** level{i}_{kind}(…pointers, table, block): one block through its stages, sub-blocks and inverse stages. */
  #level(index: number, kind: MiddleKind, scale: number): KernelFunction {
    const { pointers, forward, inverse } = middleShape(kind);
    const level = this.#levels[index]!;
    const tiles = level.columns / tileColumns(level);
    const sweep = (transforms: readonly string[], direction: Direction): Statement[] =>
      transforms.map((z) =>
        overTiles(level, 0, tiles, this.#callStages(index, 0, direction, plus(z, "tile"), "block")),
      );
    const middle = (): Statement[] => {
      if (index < this.plan.levels.length - 1) return this.#blocks(index, kind, "block");
      if (this.plan.sparse) return this.#sparseMiddle(index, kind, "block", scale);
      const twiddle = times("block", level.size * 6);
      return [this.#middle(kind, { from: 0, to: level.bytes, twiddle }, scale)];
    };
    return {
      name: `level${index}_${kind}`,
      parameters: [...pointers, "table", "block"],
      exported: false,
      body: [...sweep(forward, "forward"), ...middle(), ...sweep(inverse, "inverse")],
    };
  }

  /** Calls of the next level for all sub-blocks of block number `block`. */
  #blocks(index: number, kind: MiddleKind, block: Int): Statement[] {
    const level = this.#levels[index]!;
    const axes = blockAxes(this.plan, index, level);
    const left = this.plan.sparse ? 8 * pointsLeft(this.plan, index + 1) : level.pitch;
    const pointers: LoopPointer[] = [
      ...sparsePointers(kind, "s", level.pitch, left),
      { name: "sub", from: times(block, keptRows(axes)), step: 1, dense: true },
    ];
    return nestedLoops(axes, pointers, [callLevel(index + 1, kind, "sub")]);
  }

  /** Calls of level 1 for blocks [from, to), which threads share. */
  #someBlocks(kind: MiddleKind): Statement {
    const step = this.#levels[0]!.pitch;
    const also = middleShape(kind).pointers.map((p) => {
      return { name: `${p}s`, from: plus(p, times("from", step)), step };
    });
    return loop("sub", "from", "to", 1, [callLevel(1, kind, "sub")], also, false);
  }

  /** The middle over a contiguous run of points at the pointers of `kind`. */
  #middle(kind: MiddleKind, run: MiddleRun, scale: number): Statement {
    const lanes = this.#lanes;
    const { stages } = stageTwiddles(this.plan);
    const step = 32 * lanes;
    const [first, ...others] = middleShape(kind).pointers.map((p) => {
      return { name: `${p}m`, from: plus(p, run.from), end: plus(p, run.to), step };
    });
    const also = others.map(({ end: _, ...pointer }) => pointer);
    const t = plus("table", plus(run.twiddle, stages.at(-1)!.offset));
    also.push({ name: "t", from: t, step: (step / 4) * 3 });
    const stores = middleBlock(kind, scale / this.plan.points, lanes, wholeGroup(lanes));
    return loop(first!.name, first!.from, first!.end, step, [{ op: "block", stores }], also, false);
  }

  /** The middle over what is left of a block of a sparse plan, whose first point is the `block`-th that is computed. */
  #sparseMiddle(index: number, kind: MiddleKind, block: Int, scale: number): Statement[] {
    const { plan } = this;
    const lanes = this.#lanes;
    const { stages, bytes } = stageTwiddles(plan);
    const axes = blockAxes(plan, index, this.#levels[index]!);
    const kept = lastOutputs(plan);
    const rows = keptRows(axes);
    const masked = plan.sparse!.masked && isMasked(kind);
    const { groups, blocks } = groupsOf(axes, lanes);
    const from = (offset: number, perRow: number): Int =>
      plus("table", plus(times(block, rows * perRow), offset));
    const mask: LoopPointer = {
      ...{ name: "mm", from: from(bytes, 4 * kept.length) },
      ...{ step: 4 * lanes * kept.length, dense: true },
    };
    const pointers: LoopPointer[] = [
      ...sparsePointers(kind, "m", 32, 8 * lanes * kept.length),
      { name: "t", from: from(stages.at(-1)!.offset, 24), step: 24 * lanes, dense: true },
      ...(masked ? [mask] : []),
    ];
    const stores = middleBlock(kind, scale / plan.points, lanes, { kept, blocks, masked });
    return nestedLoops(groups, pointers, [{ op: "block", stores }]);
  }
}

function callLevel(index: number, kind: MiddleKind, block: Int): Statement {
  const pointers = middleShape(kind).pointers.map((p) => `${p}s`);
  return call(`level${index}_${kind}`, ...pointers, "table", block);
}

/** Pointers of a kind from place to place: the kernel's spectrum has only the points that are left, one after the other. */
function sparsePointers(
  kind: MiddleKind,
  suffix: string,
  pitch: number,
  leftBytes: number,
): LoopPointer[] {
  return middleShape(kind).pointers.map((p) => ({
    ...{ name: p + suffix, from: p },
    ...(p === "k" ? { step: leftBytes, dense: true } : { step: pitch }),
  }));
}
