/** Chooses: every candidate is priced by the cost model, the cheapest wins, and the list says why the others lost. */

import type { DeviceSpec } from "../device.ts";
import type { Geometry, Part } from "../geometry.ts";
import { blockOverlap, blockPart, geometries, isProduct, onePart } from "../geometry.ts";
import type { Problem } from "../problem.ts";
import {
  blockPlans,
  blockSizesFor,
  candidatePlans,
  candidateSizes,
  directHop,
  isDirect,
  transformable,
} from "./candidates.ts";
import type { Cost } from "./cost.ts";
import { copySeconds, directCost, planBytes, planCost } from "./cost.ts";
import type { Plan, TransformPlan } from "./plan.ts";
import { formatDirect, formatPlan, layout, parsePlan } from "./plan.ts";

/** How much work the plan is for. */
export interface Workload {
  /** Rows of a call: batch × channels. */
  readonly rows: number;
  /** Threads that take part, the caller's included. */
  readonly threads: number;
}

/** What plans are for. */
export interface Planning {
  readonly problem: Problem;
  readonly device: DeviceSpec;
  readonly workload: Workload;
}

/** A priced plan for a geometry. */
export interface Candidate {
  /** The parts that the plan's transforms belong to. */
  readonly geometry: Geometry;
  /** One transform for each part; none in the time domain. */
  readonly plan: Plan;
  /** The plan on one line. */
  readonly text: string;
  /** Blocks that a row is cut into; 1 where it is transformed whole. */
  readonly blocks: number;
  /** One row on one thread: all parts, all blocks. */
  readonly cost: Cost;
  /** Seconds of the whole call. */
  readonly seconds: number;
}

/** Threads rarely run one row quite as well as they run rows of their own. */
const togetherEfficiency = 0.85;

/** Whether all threads can share one row: its ends must be cut into tiles. */
export function canShareRow(plan: TransformPlan, threads: number): boolean {
  const top = layout(plan)[0]!;
  return (
    !plan.sparse && plan.levels.length > 1 && top.tile > 0 && top.columns / top.tile >= 2 * threads
  );
}

/** What a plan's price depends on besides the plan. */
type For = Omit<Planning, "problem">;

/** Seconds of a call with `rows` rows on `threads` threads. */
function callSeconds(plan: TransformPlan, cost: Cost, { device, workload }: For): number {
  const { rows, threads } = workload;
  if (threads === 1) return rows * cost.seconds;
  const apart = Math.ceil(rows / threads) * cost.seconds + device.dispatchSeconds;
  if (!canShareRow(plan, threads)) return Math.min(apart, rows * cost.seconds);
  const together = (rows * cost.seconds) / (threads * togetherEfficiency) + device.dispatchSeconds;
  return Math.min(apart, together);
}

/** Price a plan for rows: the sum over its parts. */
export function priced(geometry: Geometry, plan: Plan, on: For): Candidate {
  const costs = plan.map((p) => planCost(p, on.device));
  const cost = costs.reduce((a, b) => ({
    seconds: a.seconds + b.seconds,
    arithmetic: a.arithmetic + b.arithmetic,
    memory: a.memory + b.memory,
    overhead: a.overhead + b.overhead,
    flops: a.flops + b.flops,
  }));
  const seconds = plan.reduce((sum, p, i) => sum + callSeconds(p, costs[i]!, on), 0);
  const text = formatPlan(plan, { cyclic: geometry[0]!.ring !== undefined });
  return { geometry, plan, text, blocks: 1, cost, seconds };
}

/** Blocks that reach over an end of their row pass through a copy. */
const edgeBlocks = 2;

/** Passes over a block in the time domain that reaches over an end, besides the one that filters. */
const edgeCopies = 3;

/** A plan for blocks. */
interface BlockPlan extends Pick<Candidate, "plan" | "text"> {
  /** What a block costs. */
  readonly one: Cost;
  /** Seconds more of one that reaches over an end. */
  readonly edge: number;
}

/** Price a plan for blocks of the rows of a problem. */
function pricedBlocks(part: Part, { plan, text, one, edge }: BlockPlan, what: Planning): Candidate {
  const { problem, device } = what;
  const { rows, threads } = what.workload;
  const blocks = Math.ceil(problem.outputLength / part.blocks!.hop);
  const copies = Math.min(blocks, edgeBlocks) * edge;
  const cost: Cost = {
    seconds: blocks * one.seconds + copies,
    arithmetic: blocks * one.arithmetic,
    memory: blocks * one.memory,
    overhead: blocks * one.overhead + copies,
    flops: blocks * one.flops,
  };
  const apart = (Math.ceil((rows * blocks) / threads) / blocks) * cost.seconds;
  return {
    ...{ geometry: [part], plan, text, blocks, cost },
    seconds:
      threads === 1
        ? rows * cost.seconds
        : Math.min(apart + device.dispatchSeconds, rows * cost.seconds),
  };
}

/** Price a transform for blocks of `hop` outputs. */
function transformBlocks(plan: TransformPlan, hop: number, what: Planning): Candidate {
  const part = blockPart(what.problem, 2 * plan.points, hop);
  const one = planCost(plan, what.device);
  const edge = copySeconds(what.device, 2 * part.positions);
  const block = { plan: [plan], text: formatPlan([plan], { hop }), one, edge };
  return pricedBlocks(part, block, what);
}

/** Price blocks of `hop` outputs in the time domain; none where taps are too many. */
function directBlocks(hop: number, what: Planning): Candidate[] {
  const { problem, device } = what;
  const overlap = blockOverlap(problem);
  if (!isDirect(problem.outputLength, overlap + 1, hop)) return [];
  const one = directCost(hop, overlap + 1, device);
  const part = blockPart(problem, hop + overlap, hop);
  // Its copies stay in the first-level cache: 0.15 ns an output there, where a block in place takes none.
  const edge = edgeCopies * one.memory;
  const block = { plan: [], text: formatDirect(problem.kernelLength, hop), one, edge };
  return [pricedBlocks(part, block, what)];
}

/** Candidates that cut rows into blocks. */
function blockCandidates(what: Planning): Candidate[] {
  const overlap = blockOverlap(what.problem);
  return blockSizesFor(what.problem.outputLength, overlap).flatMap((points) => {
    const hop = 2 * points - overlap;
    return blockPlans(points).map((p) => transformBlocks(p, hop, what));
  });
}

/** Candidates for one geometry: every plan of a single part, or the cheapest plan of each of several. */
function candidatesFor(geometry: Geometry, on: For): Candidate[] {
  const perPart = geometry.map((part) =>
    candidateSizes(part)
      .flatMap((points) => candidatePlans(points))
      .map((plan) => priced([part], [plan], on))
      .sort((a, b) => a.seconds - b.seconds),
  );
  if (perPart.length === 1) return perPart[0]!;
  if (perPart.some((options) => options.length === 0)) return [];
  const plan = perPart.map((options) => options[0]!.plan[0]!);
  return [priced(geometry, plan, on)];
}

/** What a row's transforms do, both ways and with the product between them: ends, gates and folding not counted. */
export interface Work {
  /** Floating-point operations; a fused multiply-add counts as two. */
  readonly flops: number;
  /** Bytes that stages read and write, spectra and twiddles. */
  readonly bytes: number;
}

/** What a plan's transforms do for one row. */
export function workOf({ plan, cost }: Candidate, device: DeviceSpec): Work {
  return { flops: cost.flops, bytes: plan.reduce((sum, p) => sum + planBytes(p, device), 0) };
}

/** Whether a period has exact factors: a multiple of 16 of the form 2^a 3^b 5^c 7^d. */
export function isCyclic(period: number): boolean {
  return period > 0 && transformable(period);
}

/** Candidates of transforms with all frequencies, and in the time domain, cheapest first. */
function denseCandidates(what: Planning): Candidate[] {
  const { problem } = what;
  const direct = directBlocks(directHop(problem.outputLength), what);
  if (isProduct(problem)) return direct;
  // Factors in one program share their folds; a split into parts of their own is for periods that have no factors.
  const own = isCyclic(problem.period) ? [onePart(problem)] : geometries(problem);
  return [
    ...own.flatMap((geometry) => candidatesFor(geometry, what)),
    ...blockCandidates(what),
    ...direct,
  ].sort((a, b) => a.seconds - b.seconds);
}

/** The one of them that a text names, for the geometry that it fits; undefined where it fits none. */
function namedDense(text: string, what: Planning): Candidate | undefined {
  const { problem } = what;
  const parsed = parsePlan(text);
  if (!parsed) return undefined;
  const { plan, hop, taps, cyclic } = parsed;
  if (cyclic || problem.frequencies) return undefined;
  if (taps !== undefined) {
    const outputs = hop || directHop(problem.outputLength);
    return taps === problem.kernelLength ? directBlocks(outputs, what)[0] : undefined;
  }
  if (hop > 0) {
    const [transform] = plan;
    const positions = 2 * transform!.points;
    if (!transformable(transform!.points) || positions < hop + blockOverlap(problem))
      return undefined;
    return transformBlocks(transform!, hop, what);
  }
  const fits = (part: Part, points: number): boolean =>
    transformable(points) &&
    (part.exact ? 2 * points === part.positions : 2 * points >= part.positions);
  const geometry = geometries(problem).find(
    (g) => g.length === plan.length && g.every((part, i) => fits(part, plan[i]!.points)),
  );
  return geometry && priced(geometry, plan, what);
}

/** How plans are found. */
export interface Planner {
  /** All candidates for a problem, cheapest first. */
  candidates(what: Planning): Candidate[];
  /** The plan that a text names, for the geometry that it fits; undefined where it fits none. */
  named(text: string, what: Planning): Candidate | undefined;
  /** What a problem's transforms would do for one row with all frequencies. */
  wholeWork?(what: Planning): Work;
}

/** Plans of problems that neither have frequencies nor a period with exact factors: most of them. */
export const densePlanner: Planner = { candidates: denseCandidates, named: namedDense };
