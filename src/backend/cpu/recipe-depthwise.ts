/**
 * Short depthwise convolutions as recipes: a unit is a chunk of a line (a row of layout BHL, a batch item of BLH). Windows
 * of float32 are filled from zeros, carried state and samples; the filters run over them, or over the user's own samples
 * where those will do. Positions count from the line's first sample, outputs from its first output.
 */
import type { FilterFunctions, FilterGradientFunctions } from "../../kernels/cpu/function-names.ts";
import type { Jobs } from "./job.ts";
import { jobKinds } from "./job.ts";
import type { MakeRecipe, Recipe, RecipeContext } from "./recipe.ts";
import { wholeUnits } from "./recipe.ts";

type ForwardJob = Jobs["depthwiseForward"];
type BackwardJob = Jobs["depthwiseBackward"];
type LineJob = ForwardJob | BackwardJob;

/** Fields of a job that point into its tensors, by branch. */
export const branchFields = {
  x: ["x0", "x1", "x2"],
  weight: ["w0", "w1", "w2"],
  bias: ["b0", "b1", "b2"],
  y: ["y0", "y1"],
  dy: ["dy0", "dy1"],
  dx: ["dx0", "dx1", "dx2"],
  state: ["state0", "state1", "state2"],
  dstate: ["dstate0", "dstate1", "dstate2"],
  dstateOut: ["dstateOut0", "dstateOut1", "dstateOut2"],
} as const;
const { x: xs, weight: ws, bias: bs, dy: dys, dx: dxs } = branchFields;
const { state: states, dstate: dstates, dstateOut: dstateOuts } = branchFields;

/** Positions cleared behind a window of a backward job: its sums look at whole vectors. */
const slack = 4;

function clamp(value: number, low: number, high: number): number {
  return Math.max(low, Math.min(high, value));
}

/** Byte offsets of a line in the tensors of its job. */
interface Line {
  readonly input: number;
  readonly output: number;
  readonly state: number;
  /** Of its channel in the taps and in the biases; 0 in layout BLH. */
  readonly taps: number;
  readonly bias: number;
}

function lineOf(job: LineJob, line: number): Line {
  const b = Math.floor(line / job.linesPerBatch);
  const l = line - b * job.linesPerBatch;
  return {
    input: b * job.inputBatchBytes + l * job.inputLineBytes,
    output: b * job.outputBatchBytes + l * job.outputLineBytes,
    state: b * job.stateBatchBytes + l * job.stateLineBytes,
    taps: l * job.tapBytes,
    bias: l * 4,
  };
}

/** Samples of a line: `length` of them from `start` on, `step` bytes apart, and those of `state` before them. */
interface JobSamples {
  readonly start: number;
  readonly length: number;
  readonly step: number;
  /** Address of position `past`; 0 where zeros come before the first sample. */
  readonly state: number;
  readonly past: number;
}

/** Fills windows with positions [from, from + count) of lines, as float32. */
class Filler {
  readonly #zero: FilterFunctions["zero"];
  readonly #fill: FilterFunctions["fill"];

  constructor({ zero, fill }: Pick<FilterFunctions, "zero" | "fill">) {
    this.#zero = zero;
    this.#fill = fill;
  }

  /** `extra` positions behind the window are cleared too. */
  window(
    { start, length, step, state, past }: JobSamples,
    [from, count]: readonly [number, number],
    [window, windowStep]: readonly [number, number],
    width: number,
    extra: number,
  ): void {
    const to = from + count;
    const first = clamp(state === 0 ? 0 : past, from, to);
    const begin = clamp(0, first, to);
    const end = clamp(length, begin, to);
    const at = (position: number): number => window + (position - from) * windowStep;
    if (first > from) this.#zero(window, first - from, width);
    if (begin > first) this.#fill(state + (first - past) * step, at(first), begin - first, width);
    if (end > begin) this.#fill(start + begin * step, at(begin), end - begin, width);
    if (to + extra > end) this.#zero(at(end), to + extra - end, width);
  }
}

/** Branch i's samples of a line, from channel tile `tile` on. */
function inputs(job: LineJob, line: Line, i: number, tile: number): JobSamples {
  const across = tile * job.tileChannels * job.sampleBytes;
  const state = job[states[i]!];
  return {
    start: job[xs[i]!] + line.input + across,
    length: job.length,
    step: job.inputStep,
    state: state === 0 ? 0 : state + line.state + across,
    past: 1 - job.kernelLength,
  };
}

/** Channels of a tile. */
function widthOf(job: LineJob, tile: number): number {
  return Math.min(job.tileChannels, job.channels - tile * job.tileChannels);
}

/** Forward: outputs of a chunk. */
function depthwiseForward(e: FilterFunctions): Recipe<ForwardJob> {
  const filler = new Filler(e);
  const { filter, direct = filter } = e;

  /** Outputs [from, from + count) by filters over windows at `s`, `apart` bytes from branch to branch. */
  const apply = (
    run: FilterFunctions["filter"],
    job: ForwardJob,
    line: Line,
    s: readonly [number, number, number],
    [across, from, count, width]: readonly [number, number, number, number],
  ): void => {
    const [t, b] = [line.taps + 4 * across, line.bias + 4 * across];
    const y = line.output + from * job.outputStep + across * job.sampleBytes;
    const [w0, b0, y0] = [job.w0 + t, job.b0 + b, job.y0 + y];
    if (job.branches === 1) return run(s[0], w0, b0, y0, count, width);
    const [w1, w2, b1, b2] = [job.w1 + t, job.w2 + t, job.b1 + b, job.b2 + b];
    run(...s, w0, w1, w2, b0, b1, b2, y0, job.y1 + y, count, width);
  };

  const windows = (
    { job, work }: RecipeContext<ForwardJob>,
    line: Line,
    from: number,
    to: number,
  ): void => {
    for (let tile = 0; tile < job.channelTiles; tile++) {
      const width = widthOf(job, tile);
      for (let n = from; n < to; n += job.tile) {
        const count = Math.min(job.tile, to - n);
        const range = [n - job.left, count + job.kernelLength - 1] as const;
        for (let i = 0; i < job.branches; i++) {
          const window = work + i * job.windowBytes;
          filler.window(inputs(job, line, i, tile), range, [window, job.windowStep], width, 0);
        }
        const s = [work, work + job.windowBytes, work + 2 * job.windowBytes] as const;
        apply(filter, job, line, s, [tile * job.tileChannels, n, count, width]);
      }
    }
  };

  return wholeUnits((context, index) => {
    const { job } = context;
    const chunk = index % job.chunks;
    const line = lineOf(job, (index - chunk) / job.chunks);
    const from = chunk * job.chunk;
    const to = Math.min(job.outputLength, from + job.chunk);
    if (!job.direct) return windows(context, line, from, to);
    // Outputs [near, far) look at samples of the line only.
    const near = clamp(job.left, from, to);
    const far = clamp(job.length + job.left - job.kernelLength + 1, near, to);
    if (near > from) windows(context, line, from, near);
    if (far > near) {
      const at = line.input + (near - job.left) * job.inputStep;
      const s = [job.x0 + at, job.x1 + at, job.x2 + at] as const;
      apply(direct, job, line, s, [0, near, far - near, job.channels]);
    }
    if (to > far) windows(context, line, far, to);
  });
}

/**
 * Backward. A chunk is a range [from, to) of output numbers, which may reach beyond the last output. Its windows hold dz
 * for outputs from − (K−1) … to − 1 and x for all samples that those and their gradients see. It stores dx at the
 * positions from − left … to − left − 1 that exist, and sums dw over its outputs.
 */
function depthwiseBackward(e: FilterGradientFunctions): Recipe<BackwardJob> {
  const { zero, fill, upstream, transpose, transposeOnto, sum, fold } = e;
  const xFiller = new Filler(e);
  const dyFiller = new Filler({ zero, fill: e.fillUpstream });

  /** Windows of x and dz of a chunk. */
  const open = (
    { job, work }: RecipeContext<BackwardJob>,
    line: Line,
    tile: number,
    from: number,
    n: number,
  ): void => {
    const history = job.kernelLength - 1;
    const width = widthOf(job, tile);
    const across = tile * job.tileChannels;
    for (let i = 0; i < job.branches; i++) {
      const range = [from - job.left - history, n + 2 * history] as const;
      const window = [work + i * job.windowBytes, job.windowStep] as const;
      xFiller.window(inputs(job, line, i, tile), range, window, width, slack);
    }
    const dz = work + job.branches * job.windowBytes;
    for (let o = 0; o < job.outputs; o++) {
      const start = job[dys[o]!] + line.output + across * job.sampleBytes;
      const samples = { start, length: job.outputLength, step: job.outputStep, state: 0, past: 0 };
      const window = [dz + o * job.windowBytes, job.windowStep] as const;
      dyFiller.window(samples, [from - history, n + history], window, width, slack);
    }
    if (!upstream) return;
    const [t, b] = [line.taps + 4 * across, line.bias + 4 * across];
    const count = n + history;
    if (job.branches === 1) return upstream(work, job.w0 + t, job.b0 + b, dz, count, width);
    // The third branch's dz is made from the first output's dy, and has no slack of its own yet.
    zero(dz + 2 * job.windowBytes + count * job.windowStep, slack, width);
    const at = [0, 1, 2].map((i) => i * job.windowBytes);
    const s = at.map((offset) => work + offset);
    const d = at.map((offset) => dz + offset);
    const w = ws.map((name) => job[name] + t);
    upstream(...s, ...w, ...bs.map((name) => job[name] + b), ...d, count, width);
  };

  /**
   * dx, and the state's gradient before it, from a window of dz. The last K − 1 samples of both are in the state that the call
   * left behind: its gradient joins theirs by way of `spare`, memory for a window of so many.
   */
  const store = (
    job: BackwardJob,
    line: Line,
    i: number,
    tile: number,
    from: number,
    n: number,
    dz: number,
    spare: number,
  ) => {
    const across = tile * job.tileChannels;
    const width = widthOf(job, tile);
    const taps = job[ws[i]!] + line.taps + 4 * across;
    const behind = job[dstateOuts[i]!];
    const kept = job.length - (job.kernelLength - 1);
    const range = (low: number, high: number, base: number): void => {
      const first = clamp(low, from - job.left, from + n - job.left);
      const last = clamp(high, first, from + n - job.left);
      const turn = behind === 0 ? last : clamp(kept, first, last);
      const window = (m: number): number => dz + (m + job.left - from) * job.windowStep;
      const at = (m: number): number => base + (m - low) * job.inputStep + across * job.sampleBytes;
      if (turn > first) transpose(window(first), taps, at(first), turn - first, width);
      if (last === turn) return;
      const r = behind + line.state + (turn - kept) * job.inputStep + across * job.sampleBytes;
      fill(r, spare, last - turn, width);
      transposeOnto(window(turn), taps, spare, at(turn), last - turn, width);
    };
    range(0, job.length, job[dxs[i]!] + line.input);
    const dstate = job[dstates[i]!];
    if (dstate !== 0) range(1 - job.kernelLength, 0, dstate + line.state);
  };

  return wholeUnits((context, index) => {
    const { job, work } = context;
    const chunk = index % job.chunks;
    const line = lineOf(job, (index - chunk) / job.chunks);
    const from = chunk * job.chunk;
    const n = Math.min(job.chunk, Math.max(job.outputLength, job.length + job.left) - from);
    const result = job.partials + (index - job.first) * job.partialBytes;
    const seen = (job.kernelLength - 1) * job.windowStep;
    const across = job.channelTiles > 1 || job.windowStep > 4;
    for (let tile = 0; tile < job.channelTiles; tile++) {
      const width = widthOf(job, tile);
      open(context, line, tile, from, n);
      for (let i = 0; i < job.branches; i++) {
        const x = work + i * job.windowBytes;
        const dz = x + job.branches * job.windowBytes;
        // Sums have K + 1 places: until they begin, one more window of K − 1 positions.
        const sums = work + 2 * job.branches * job.windowBytes;
        store(job, line, i, tile, from, n, dz, sums);
        zero(sums, job.sumBytes / job.windowStep, width);
        sum(x + seen, dz + seen, sums, n, width);
        const to = result + i * job.branchPartialBytes + 4 * tile * job.tileChannels;
        fold(sums, to, across ? job.kernelLength + 1 : job.branchPartialBytes / 16, width);
      }
    }
  });
}

export const depthwiseRecipes: Readonly<Record<number, MakeRecipe>> = {
  [jobKinds.depthwiseForward]: depthwiseForward,
  [jobKinds.depthwiseBackward]: depthwiseBackward,
};
