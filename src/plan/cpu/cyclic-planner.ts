/** Plans of every problem, those of exact cyclic convolutions among them: loaded for problems that may have some. */
import type { DeviceSpec } from "../device.ts";
import { isProduct } from "../geometry.ts";
import type { Problem } from "../problem.ts";
import { planCost } from "./cost.ts";
import { parsePlan } from "./plan.ts";
import type { Candidate, Planner, Planning, Work, Workload } from "./planner.ts";
import { densePlanner, isCyclic, priced, workOf } from "./planner.ts";
import { cyclicFactors, sparsePlan, sparsePlans, suits } from "./sparse.ts";

/** Candidates for an exact cyclic convolution: the longest factor has any plan, the others have their cheapest. */
function cyclicCandidates(what: Planning): Candidate[] {
  const { problem, device } = what;
  const factors = cyclicFactors(problem);
  const geometry = factors.map(({ part }) => part);
  const [longest, ...others] = factors.map((factor) =>
    sparsePlans(factor, device)
      .map((plan) => ({ plan, seconds: planCost(plan, device).seconds }))
      .sort((a, b) => a.seconds - b.seconds)
      .map(({ plan }) => plan),
  );
  const rest = others.map((plans) => plans[0]!);
  const texts = new Set<string>();
  return longest!
    .map((plan) => priced(geometry, [plan, ...rest], what))
    .filter(({ text }) => !texts.has(text) && texts.add(text));
}

/** What the same transforms would do for one row if a frequency-sparse problem kept all its frequencies. */
export function wholeWork(what: Planning): Work {
  const { problem, device } = what;
  const frequencies = { band: [0, 1], period: problem.frequencies!.period } as const;
  const [whole] = cyclicCandidates({ ...what, problem: { ...problem, frequencies } });
  return workOf(whole!, device);
}

/** All candidates, cheapest first. */
function allCandidates(what: Planning): Candidate[] {
  const { problem } = what;
  if (problem.frequencies) return cyclicCandidates(what);
  const dense = densePlanner.candidates(what);
  if (!isCyclic(problem.period) || isProduct(problem)) return dense;
  return [...dense, ...cyclicCandidates(what)].sort((a, b) => a.seconds - b.seconds);
}

/** The plan that a text names, for the geometry that it fits; undefined where it fits none. */
function named(text: string, what: Planning): Candidate | undefined {
  const { problem } = what;
  const parsed = parsePlan(text);
  if (!parsed?.cyclic) return densePlanner.named(text, what);
  if (!problem.frequencies && !isCyclic(problem.period)) return undefined;
  const { plan } = parsed;
  const factors = cyclicFactors(problem);
  const fits = plan.length === factors.length && plan.every((p, i) => suits(factors[i]!, p));
  if (!fits) return undefined;
  const geometry = factors.map(({ part }) => part);
  const sparse = plan.map((p, i) => sparsePlan(factors[i]!, p));
  return priced(geometry, sparse, what);
}

/** Finds them all. */
export const cyclicPlanner: Planner = { candidates: allCandidates, named, wholeWork };

/** All candidates for a problem, cheapest first. */
export function candidates(problem: Problem, device: DeviceSpec, workload: Workload): Candidate[] {
  return allCandidates({ problem, device, workload });
}

/** The plan that a text names, for the geometry that it fits; undefined where it fits none. */
export function namedCandidate(
  text: string,
  problem: Problem,
  device: DeviceSpec,
  workload: Workload,
): Candidate | undefined {
  return named(text, { problem, device, workload });
}
