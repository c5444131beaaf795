/**
 * Twiddle factors. In the ring view a stage's twiddles belong to its blocks, not to positions: block b with ring
 * x^m − c needs t, t², …, t^{r−1} with t^r = c. Phases are exact fractions of a turn: the root ring x^M − i has phase
 * 1/4, and child j of a block of phase f under radix r has phase (f + j)/r.
 */
import { root } from "../../math/roots.ts";
import type { TransformPlan } from "../../plan/cpu/plan.ts";
import { keptOutputs, lastOutputs } from "../../plan/cpu/plan.ts";

/** One stage in the order of execution; the last one has radix 4 and works on transposed vectors. */
export interface StageTwiddles {
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
export function stageTwiddles(plan: TransformPlan): {
  readonly stages: StageTwiddles[];
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

/** Roots of unity of several blocks, side by side. */
interface Roots {
  readonly re: Float64Array;
  readonly im: Float64Array;
}

/** e^{2πi·n/d} for each numerator n. */
function rootsOf(numerators: readonly number[], denominator: number): Roots {
  const re = new Float64Array(numerators.length);
  const im = new Float64Array(numerators.length);
  numerators.forEach((n, i) => {
    const w = root(n, denominator);
    re[i] = w.re;
    im[i] = w.im;
  });
  return { re, im };
}

/** Numerators of the blocks that stages leave, in the order of memory: each stage's outputs j add j times its step. */
function numeratorsOf(
  first: number,
  stages: readonly { readonly kept: readonly number[]; readonly step: number }[],
): number[] {
  return stages.reduce(
    (numerators, { kept, step }) => numerators.flatMap((n) => kept.map((j) => n + step * j)),
    [first],
  );
}

/**
 * Write the twiddle table of a plan: per stage and block the float32 pairs of t, …, t^{r−1}; for the last stage `lanes`
 * blocks together, real parts then imaginary parts of each power. The phase of a block is the sum of what the outer and
 * the inner half of the stages before add to it, so that sines are taken for some thousand roots, of millions of blocks:
 * the others are their float64 products, whose error float32 does not see.
 */
export function writeTwiddles(table: Float32Array, plan: TransformPlan, lanes: 1 | 4): void {
  const before: { readonly kept: readonly number[]; readonly step: number }[] = [];
  let splits = 1;
  for (const { radix, offset, blocks, kept, last } of stageTwiddles(plan).stages) {
    let half = 0;
    for (let n = 1; n * n < blocks; half++) n *= before[half]!.kept.length;
    const denominator = 4 * splits * radix;
    const outer = rootsOf(numeratorsOf(quarterOf(plan), before.slice(0, half)), denominator);
    const inner = rootsOf(numeratorsOf(0, before.slice(half)), denominator);
    writePowers(table, offset / 4, last ? lanes : 1, radix, outer, inner);
    before.push({ kept, step: 4 * splits });
    splits *= radix;
  }
}

/**
 * w, w², …, w^{r−1} of each product w of an outer and an inner root, inner ones first, from `base` on: `width` blocks side
 * by side.
 */
function writePowers(
  table: Float32Array,
  base: number,
  width: number,
  radix: number,
  outer: Roots,
  inner: Roots,
): void {
  const [{ re: outerRe, im: outerIm }, { re: innerRe, im: innerIm }] = [outer, inner];
  const step = 2 * width;
  const powers = step * (radix - 1);
  let at = base;
  let lane = 0;
  for (let a = 0; a < outerRe.length; a++) {
    const c = outerRe[a]!;
    const s = outerIm[a]!;
    for (let b = 0; b < innerRe.length; b++) {
      const p = innerRe[b]!;
      const q = innerIm[b]!;
      const re = c * p - s * q;
      const im = c * q + s * p;
      let x = re;
      let y = im;
      const end = at + powers;
      for (let k = at; k < end; k += step) {
        table[k] = x;
        table[k + width] = y;
        const next = x * re - y * im;
        y = x * im + y * re;
        x = next;
      }
      at++;
      if (++lane === width) {
        at += powers - width;
        lane = 0;
      }
    }
  }
}
