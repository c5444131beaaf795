/**
 * Twiddle factors. In the ring view a stage's twiddles belong to its blocks, not to positions: block b with ring
 * x^m − c needs t, t², …, t^{r−1} with t^r = c. Phases are exact fractions of a turn: the root ring x^M − i has phase
 * 1/4, and child j of a block of phase f under radix r has phase (f + j)/r.
 */
import { root } from "../math/twiddle.ts";
import type { TransformPlan } from "../plan/plan.ts";
import { keptOutputs, lastOutputs } from "../plan/plan.ts";

/** One stage in the order of execution; the last one has radix 4 and works on transposed vectors. */
export interface StageTable {
  readonly radix: number;
  /** Blocks that the stage splits; of a sparse plan, those that are left. */
  readonly blocks: number;
  /** Bytes from the start of the table. */
  readonly offset: number;
  /** Outputs of the radix that are computed. */
  readonly kept: readonly number[];
  readonly last: boolean;
}

/** Where each stage's twiddles lie, and how many bytes there are. */
export function stageTables(plan: TransformPlan): {
  readonly stages: StageTable[];
  readonly bytes: number;
} {
  const kept = [...plan.levels.flatMap((_, i) => keptOutputs(plan, i)), lastOutputs(plan)];
  const radices = [...plan.levels.flatMap((l) => l.radices), 4];
  let blocks = 1;
  let offset = 0;
  const stages = radices.map((radix, i) => {
    const last = i === radices.length - 1;
    const stage = { radix, blocks, offset, kept: kept[i]!, last };
    offset += blocks * (radix - 1) * 8;
    blocks *= kept[i]!.length;
    return stage;
  });
  return { stages, bytes: offset };
}

/** The root ring of a plan is x^M − i^quarter. */
export function quarterOf(plan: TransformPlan): 0 | 1 {
  return plan.sparse?.quarter ?? 1;
}

/**
 * The twiddle table of a plan: per stage and block the float32 pairs of t, …, t^{r−1}; for the last stage `lanes` blocks
 * together, real parts then imaginary parts of each power. Sines are taken once per parent block; its children and their
 * powers follow by float64 products, whose error float32 does not see.
 */
export function twiddleTable(plan: TransformPlan, lanes: 1 | 4): Float32Array {
  const { stages, bytes } = stageTables(plan);
  const table = new Float32Array(bytes / 4);
  // Blocks of the stage before: of how many, which outputs of what radix, numerators of their phases over 4·splits.
  let parents = {
    splits: 1,
    radix: 1,
    kept: [0] as readonly number[],
    numerators: [quarterOf(plan) as number],
  };
  for (const { radix, offset, kept, last } of stages) {
    const base = offset / 4;
    const width = last ? lanes : 1;
    const splits = parents.splits * parents.radix;
    const numerators: number[] = [];
    const turns = parents.kept.map((j) => root(j, parents.radix * radix));
    let b = 0;
    for (const numerator of parents.numerators) {
      const first = root(numerator, 4 * splits * radix);
      parents.kept.forEach((j, i) => {
        if (!last) numerators.push(numerator + 4 * parents.splits * j);
        const turn = turns[i]!;
        const re = first.re * turn.re - first.im * turn.im;
        const im = first.re * turn.im + first.im * turn.re;
        const at = base + Math.floor(b / width) * 2 * (radix - 1) * width + (b % width);
        writePowers(table, at, width, radix, re, im);
        b++;
      });
    }
    parents = { splits, radix, kept, numerators };
  }
  return table;
}

/** w, w², …, w^{r−1} at `at`: real and imaginary parts `width` apart. */
function writePowers(
  table: Float32Array,
  at: number,
  width: number,
  radix: number,
  re: number,
  im: number,
): void {
  let [x, y] = [re, im];
  for (let j = 0; j < radix - 1; j++) {
    table[at + 2 * j * width] = x;
    table[at + (2 * j + 1) * width] = y;
    [x, y] = [x * re - y * im, x * im + y * re];
  }
}
