/**
 * Recipes for blocks of rows. A unit is a block (forward), a share of a channel's blocks (backward), or a channel whose
 * shares are summed. A block within its row is read and written in place; one that reaches over an end passes through
 * the thread's scratch areas, where zeros, or the periods of a circular row, surround it.
 */
import type { BlockBackward, BlockForward } from "../../kernels/cpu/function-names.ts";
import { rowName, suffix } from "../../kernels/cpu/function-names.ts";
import { extension } from "../../plan/geometry.ts";
import type { Jobs } from "./job.ts";
import { jobKinds } from "./job.ts";
import type { MakeRecipe, Recipe, RecipeContext } from "./recipe.ts";
import { fusedInto, tapTails, wholeUnits } from "./recipe.ts";

type ForwardJob = Jobs["blockForward"];
type BackwardJob = Jobs["blockBackward"];
type BlockJob = ForwardJob | BackwardJob;
type Functions = BlockForward | BlockBackward;

/** Row b·channels + h of unit `row` of a job, whose units go through the batch of one channel after the other. */
function rowOf(job: ForwardJob, row: number): number {
  return (row % job.batch) * job.channels + Math.floor(row / job.batch);
}

/** Brings a block of a row into scratch at `to`: samples from `first` on, `length` of which the row has. */
type Gather = (
  job: BlockJob,
  to: number,
  row: number,
  first: number,
  length: number,
  period: number,
) => void;

function gatherWith({ copy, clear }: Functions): Gather {
  return ({ span, sampleBytes: bytes }, to, row, first, length, period) => {
    let done = 0;
    for (const { at, from, count } of extension(first, span, length, period)) {
      if (at > done) clear(to + done * bytes, (at - done) * bytes);
      copy(to + at * bytes, row + from * bytes, count * bytes);
      done = at + count;
    }
    if (done < span) clear(to + done * bytes, (span - done) * bytes);
  };
}

/** Bytes at the end of a transform's work memory that a joined tap takes. */
const joinedBytes = 64;

/** Where one tap acts and there are no gates, the tap joined with the skip weight (see kernels/cpu/direct-program.ts); none elsewhere. */
function joinOf(e: Functions, flags: BlockJob): Functions["join"] {
  const { pre, post, skip } = fusedInto(flags);
  return skip && !pre && !post ? e.join : undefined;
}

/** The tap of a channel that calls filter with. */
function joined(
  { job, work }: RecipeContext<BlockJob>,
  join: Functions["join"] & {},
  k: number,
  skip: number,
): number {
  const at = work + job.transformBytes - joinedBytes;
  join(k, skip, at);
  return at;
}

function blockForwardRecipe(e: BlockForward, flags: ForwardJob): Recipe<ForwardJob> {
  const { pre, post, skip } = fusedInto(flags);
  const join = joinOf(e, flags);
  const skips = skip && !join;
  const whole = e[rowName(pre, post, skips)];
  const head = e[`head_u${suffix(pre)}`];
  const body = e.body_multiply;
  const [gather, copy] = [gatherWith(e), e.copy];
  const tail = e[`tail_y${suffix(post, skips)}`];
  /** Through scratch: u, then y in the same place; the pregate, then the postgate in another. */
  const runEdge = (
    c: RecipeContext<ForwardJob>,
    row: number,
    block: number,
    k: number,
    skip: number,
  ): void => {
    const { job, work } = c;
    const { table, tiles, length, outputLength, hop, lead, sampleBytes, period } = job;
    const first = block * hop - lead;
    const a = work + job.transformBytes;
    const b = a + job.scratchBytes;
    const [input, output] = [row * job.inputBytes, row * job.outputBytes];
    gather(job, a, job.u + input, first, length, period);
    if (pre) gather(job, b, job.pregate + input, first, length, period);
    head(a, b, work, table, 0, tiles);
    body(work, k, table, 0, job.bodies);
    if (post) gather(job, b, job.postgate + output, first, outputLength, 0);
    tail(work, a, b, a, skip, 0, 0, table, 0, tiles);
    const count = Math.min(hop, outputLength - block * hop) * sampleBytes;
    copy(job.y + output + block * hop * sampleBytes, a + lead * sampleBytes, count);
  };
  return wholeUnits((c, unit) => {
    const { job, work } = c;
    const { blocks, hop, lead, span, sampleBytes } = job;
    const index = Math.floor(unit / blocks);
    const channel = Math.floor(index / job.batch);
    const skip = job.skip + 4 * channel;
    const kept = job.spectra + channel * job.spectrumBytes;
    const k = join ? joined(c, join, kept, skip) : kept;
    // Where the block's first sample lies, or would lie, from the start of u and of y.
    let input = (unit - job.first) * job.scratchBytes;
    let output = input;
    if (!job.packed) {
      const row = rowOf(job, index);
      const block = unit % blocks;
      const first = block * hop - lead;
      if (first < 0 || first + span > job.length || (block + 1) * hop > job.outputLength)
        return runEdge(c, row, block, k, skip);
      input = row * job.inputBytes + first * sampleBytes;
      output = row * job.outputBytes + first * sampleBytes;
    }
    const [pregate, postgate] = [job.pregate + input, job.postgate + output];
    whole(job.u + input, pregate, work, k, job.y + output, postgate, skip, job.table);
  });
}

/** Blocks of share `share` of a channel, of all its batch × blocks, in the order in which they are summed. */
export function shareOf(
  job: Pick<BackwardJob, "batch" | "blocks" | "shares">,
  share: number,
): [number, number] {
  const terms = job.batch * job.blocks;
  return [Math.floor((terms * share) / job.shares), Math.floor((terms * (share + 1)) / job.shares)];
}

/**
 * du of the blocks of a share, and their part in the sum that is dk. Each block reads dy at all its positions and u at
 * its own `hop`.
 */
function blockBackwardRecipe(e: BlockBackward, flags: BackwardJob): Recipe<BackwardJob> {
  const { pre, post, skip } = fusedInto(flags);
  const headU = e[`head_u${suffix(pre)}`];
  const headDy = e[`head_dy${suffix(post)}`];
  const join = joinOf(e, flags);
  const tailDu = e[`tail_du${suffix(pre, skip && !join)}`];
  const [gather, copy] = [gatherWith(e), e.copy];
  const [start, add] = [e.body_gradients_first, e.body_gradients_inner];
  type Context = RecipeContext<BackwardJob>;
  const runEdge = (
    c: Context,
    at: { row: number; block: number; skip: number },
    products: () => void,
  ): void => {
    const { job, work } = c;
    const { hop, lead, length, outputLength, sampleBytes, period } = job;
    const first = at.block * hop - lead;
    const [input, output] = [at.row * job.inputBytes, at.row * job.outputBytes];
    const a = work + 2 * job.transformBytes;
    const [b, d] = [a + job.scratchBytes, a + 2 * job.scratchBytes];
    gather(job, a, job.dy + output, first, outputLength, period);
    if (post) gather(job, b, job.postgate + output, first, outputLength, period);
    headDy(a, b, work, job.table, 0, job.tiles);
    gather(job, b, job.u + input, first, length, 0);
    if (pre) gather(job, d, job.pregate + input, first, length, 0);
    headU(b, d, work + job.transformBytes, job.table, 0, job.tiles);
    products();
    tailDu(work, a, d, a, at.skip, b, b, job.table, 0, job.tiles);
    const to = input + at.block * hop * sampleBytes;
    const count = Math.min(hop, length - at.block * hop) * sampleBytes;
    copy(job.du + to, a + lead * sampleBytes, count);
    if (pre) copy(job.dpregate + to, b + lead * sampleBytes, count);
  };
  const runBlock = (
    c: Context,
    channel: number,
    term: number,
    slot: number,
    products: () => void,
  ): void => {
    const { job, work } = c;
    const { blocks, hop, lead, span, sampleBytes, table, tiles } = job;
    const skip = job.skip + 4 * channel;
    let input = slot * job.scratchBytes;
    let output = input;
    if (!job.packed) {
      const block = term % blocks;
      const row = Math.floor(term / blocks) * job.channels + channel;
      const first = block * hop - lead;
      if (first < 0 || first + span > job.outputLength || (block + 1) * hop > job.length)
        return runEdge(c, { row, block, skip }, products);
      input = row * job.inputBytes + first * sampleBytes;
      output = row * job.outputBytes + first * sampleBytes;
    }
    // dy and du may share a place, u and dpregate too.
    const [dy, u, pregate] = [job.dy + output, job.u + input, job.pregate + input];
    headDy(dy, job.postgate + output, work, table, 0, tiles);
    headU(u, pregate, work + job.transformBytes, table, 0, tiles);
    products();
    tailDu(work, job.du + input, pregate, dy, skip, job.dpregate + input, u, table, 0, tiles);
  };
  return wholeUnits((c, unit) => {
    const { job, work } = c;
    const channel = Math.floor(unit / job.shares);
    const kept = job.spectra + channel * job.spectrumBytes;
    const k = join ? joined(c, join, kept, job.skip + 4 * channel) : kept;
    const sum = job.sums + (unit - job.first) * job.transformBytes;
    const [from, to] = shareOf(job, unit % job.shares);
    const begin = from + job.termFrom;
    const end = Math.min(to, from + job.termTo);
    for (let term = begin; term < end; term++) {
      const slot = (unit - job.first) * (job.termTo - job.termFrom) + term - begin;
      const body = term === from ? start : add;
      const products = (): void =>
        body(work, work + job.transformBytes, k, sum, job.table, 0, job.bodies);
      runBlock(c, channel, term, slot, products);
    }
  });
}

/** dk of a channel from the sums of its shares, in their order. */
function blockTapsRecipe(e: BlockBackward, flags: Jobs["blockTaps"]): Recipe<Jobs["blockTaps"]> {
  const store = tapTails(e, flags);
  return wholeUnits((c, unit) => {
    const { job } = c;
    const at = job.sums + (unit - job.first) * job.shares * job.transformBytes;
    for (let share = 1; share < job.shares; share++) {
      e.body_add(at, at + share * job.transformBytes, job.table, 0, job.bodies);
    }
    e.body_back(at, job.table, 0, job.bodies);
    for (const step of store) step(c, unit, at, 0, job.tiles);
  });
}

/** Recipes of blocks, by kind of job. */
export const blockRecipes: Readonly<Record<number, MakeRecipe>> = {
  [jobKinds.blockForward]: blockForwardRecipe,
  [jobKinds.blockBackward]: blockBackwardRecipe,
  [jobKinds.blockTaps]: blockTapsRecipe,
};
