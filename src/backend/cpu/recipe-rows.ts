/** Recipes for rows that are transformed whole: spectra of kernels, forward, backward. */
import type {
  DenseBackward,
  DenseForward,
  SparseForward,
} from "../../kernels/cpu/function-names.ts";
import { batchPlaces, rowName, suffix } from "../../kernels/cpu/function-names.ts";
import type { Job, Jobs } from "./job.ts";
import { jobKinds } from "./job.ts";
import type { MakeRecipe, Recipe, RecipeContext, RecipeStep } from "./recipe.ts";
import { fusedInto, tapTails, wholeUnits } from "./recipe.ts";

type SpectraJob = Jobs["spectra"];
type ForwardJob = Jobs["forward"];
type BackwardJob = Jobs["backward"];

/** A step whose parts are the tiles of a transform's ends, or the units of its body. */
const tiles = <J extends Job>(run: RecipeStep<J>["run"]): RecipeStep<J> => ({ over: "tiles", run });
const bodies = <J extends Job>(run: RecipeStep<J>["run"]): RecipeStep<J> => ({
  over: "bodies",
  run,
});

function spectraRecipe({ head_k: head, body_spectrum: body }: DenseForward): Recipe<SpectraJob> {
  const at = (job: SpectraJob, unit: number): number =>
    job.spectra + (unit - job.first) * job.spectrumBytes;
  const row: RecipeStep<SpectraJob>[] = [
    tiles(({ job }, unit, _b, from, to) => {
      const k = job.k + (unit - job.first) * job.kernelBytes;
      head(k, 0, at(job, unit), job.table, from, to);
    }),
    bodies(({ job }, unit, _b, from, to) => body(at(job, unit), job.table, from, to)),
  ];
  return { row, after: [] };
}

/** Spectra of which only some points are kept: made in work memory. */
function compactSpectraRecipe({
  head_k: head,
  body_compact: body,
}: SparseForward): Recipe<SpectraJob> {
  return wholeUnits(({ job, work }, unit) => {
    const row = unit - job.first;
    head(job.k + row * job.kernelBytes, 0, work, job.table, 0, job.tiles);
    body(work, job.spectra + row * job.spectrumBytes, job.table, 0, job.bodies);
  });
}

function forwardRecipe(e: DenseForward | SparseForward, flags: ForwardJob): Recipe<ForwardJob> {
  const { pre, post, skip } = fusedInto(flags);
  const head = e[`head_u${suffix(pre)}`];
  const body = e.body_multiply;
  const tail = e[`tail_y${suffix(post, skip)}`];
  const whole = e[rowName(pre, post, skip)];
  const channelOf = (job: ForwardJob, unit: number): number =>
    job.batch === 1 ? unit : Math.floor(unit / job.batch);
  const rowOf = (job: ForwardJob, unit: number): number =>
    job.packed ? unit - job.first : (unit % job.batch) * job.channels + channelOf(job, unit);
  const row: RecipeStep<ForwardJob>[] = [
    tiles(({ job, work }, unit, _b, from, to) => {
      const at = rowOf(job, unit) * job.inputBytes;
      head(job.u + at, job.pregate + at, work, job.table, from, to);
    }),
    bodies(({ job, work }, unit, _b, from, to) => {
      body(work, job.spectra + channelOf(job, unit) * job.spectrumBytes, job.table, from, to);
    }),
    tiles(({ job, work }, unit, _b, from, to) => {
      const at = rowOf(job, unit);
      const y = at * job.outputBytes;
      const u = job.u + at * job.inputBytes;
      const weight = job.skip + 4 * channelOf(job, unit);
      tail(work, job.y + y, job.postgate + y, u, weight, 0, 0, job.table, from, to);
    }),
  ];
  const unit = ({ job, work }: RecipeContext<ForwardJob>, unit: number): void => {
    const channel = channelOf(job, unit);
    const at = rowOf(job, unit);
    const [u, y] = [at * job.inputBytes, at * job.outputBytes];
    const k = job.spectra + channel * job.spectrumBytes;
    const weight = job.skip + 4 * channel;
    whole(job.u + u, job.pregate + u, work, k, job.y + y, job.postgate + y, weight, job.table);
  };
  return { row, after: [], unit };
}

/** Work memory holds three transforms: that of dy, which becomes du; that of u, which becomes dpostgate; and the sum that is dk. */
function backwardRecipe(e: DenseBackward, flags: BackwardJob): Recipe<BackwardJob> {
  const { pre, post, skip } = fusedInto(flags);
  const headU = e[`head_u${suffix(pre)}`];
  const headDy = e[`head_dy${suffix(post)}`];
  const tailDu = e[`tail_du${suffix(pre, skip)}`];
  const [first, inner, last, only] = batchPlaces.map(
    (place) => e[`body_gradients_${place}${post ? "_gated" : ""}`],
  );
  const bodyAt = (job: BackwardJob, b: number): NonNullable<typeof only> => {
    if (job.batch === 1) return only!;
    return b === 0 ? first! : b === job.batch - 1 ? last! : inner!;
  };
  const rowOf = (job: BackwardJob, channel: number, b: number): number =>
    job.packed
      ? (channel - job.first) * (job.batchTo - job.batchFrom) + (b - job.batchFrom)
      : b * job.channels + channel;
  const row: RecipeStep<BackwardJob>[] = [
    tiles(({ job, work }, h, b, from, to) => {
      const at = rowOf(job, h, b) * job.outputBytes;
      headDy(job.dy + at, job.postgate + at, work, job.table, from, to);
    }),
    tiles(({ job, work }, h, b, from, to) => {
      const at = rowOf(job, h, b) * job.inputBytes;
      headU(job.u + at, job.pregate + at, work + job.transformBytes, job.table, from, to);
    }),
    bodies(({ job, work }, h, b, from, to) => {
      const w = work + job.transformBytes;
      const k = job.spectra + h * job.spectrumBytes;
      bodyAt(job, b)(work, w, k, w + job.transformBytes, job.table, from, to);
    }),
    tiles(({ job, work }, h, b, from, to) => {
      const r = rowOf(job, h, b);
      const at = r * job.inputBytes;
      const [du, gate, second, u] = [job.du + at, job.pregate + at, job.dpregate + at, job.u + at];
      const dy = job.dy + r * job.outputBytes;
      tailDu(work, du, gate, dy, job.skip + 4 * h, second, u, job.table, from, to);
    }),
  ];
  if (post) {
    row.push(
      tiles(({ job, work }, h, b, from, to) => {
        const at = rowOf(job, h, b) * job.outputBytes;
        const [w, gate] = [work + job.transformBytes, job.dy + at];
        e.tail_dpostgate(w, job.dpostgate + at, gate, 0, 0, 0, 0, job.table, from, to);
      }),
    );
  }
  const after = tapTails(e, flags).map((tail, i): RecipeStep<BackwardJob> => {
    const clears = flags.clearTaps !== 0 && i === 0;
    return {
      over: clears ? "once" : "tiles",
      run: (c, h, _b, from, to) => tail(c, h, c.work + 2 * c.job.transformBytes, from, to),
    };
  });
  return { row, after };
}

export const rowRecipes: Readonly<Record<number, MakeRecipe>> = {
  [jobKinds.spectra]: spectraRecipe,
  [jobKinds.compactSpectra]: compactSpectraRecipe,
  [jobKinds.forward]: forwardRecipe,
  [jobKinds.backward]: backwardRecipe,
};
