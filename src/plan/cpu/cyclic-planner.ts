/** Plans of every problem, those of exact cyclic convolutions among them: loaded for problems that may have some. */
import type { DeviceSpec } from "../device.ts";
import { isProduct } from "../geometry.ts";
import type { Problem } from "../problem.ts";
import { planCost } from "./cost.ts";
import { parsePlan } from "./plan.ts";
import type { Candidate, Planner, Work, Workload } from "./planner.ts";
import { densePlanner, isCyclic, priced, workOf } from "./planner.ts";
import { cyclicFactors, sparsePlan, sparsePlans, suits } from "./sparse.ts";

/** Candidates for an exact cyclic convolution: the longest factor has any plan, the others have their cheapest. */
function cyclicCandidates(problem: Problem, device: DeviceSpec, workload: Workload): Candidate[] {
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
    .map((plan) => priced(geometry, [plan, ...rest], device, workload))
    .filter(({ text }) => !texts.has(text) && texts.add(text));
}

/** What the same transforms would do for one row if a frequency-sparse problem kept all its frequencies. */
export function wholeWork(problem: Problem, device: DeviceSpec, workload: Workload): Work {
  const frequencies = { band: [0, 1], period: problem.frequencies!.period } as const;
  const [whole] = cyclicCandidates({ ...problem, frequencies }, device, workload);
  return workOf(whole!, device);
}

/** All candidates for a problem, cheapest first. */
export function candidates(problem: Problem, device: DeviceSpec, workload: Workload): Candidate[] {
  if (problem.frequencies) return cyclicCandidates(problem, device, workload);
  const dense = densePlanner.candidates(problem, device, workload);
  if (!isCyclic(problem.period) || isProduct(problem)) return dense;
  const cyclic = cyclicCandidates(problem, device, workload);
  return [...dense, ...cyclic].sort((a, b) => a.seconds - b.seconds);
}

/** The plan that a text names, for the geometry that it fits; undefined where it fits none. */
export function namedCandidate(
  text: string,
  problem: Problem,
  device: DeviceSpec,
  workload: Workload,
): Candidate | undefined {
  const parsed = parsePlan(text);
  if (!parsed?.cyclic) return densePlanner.named(text, problem, device, workload);
  if (!problem.frequencies && !isCyclic(problem.period)) return undefined;
  const { plan } = parsed;
  const factors = cyclicFactors(problem);
  const fits = plan.length === factors.length && plan.every((p, i) => suits(factors[i]!, p));
  if (!fits) return undefined;
  const geometry = factors.map(({ part }) => part);
  const sparse = plan.map((p, i) => sparsePlan(factors[i]!, p));
  return priced(geometry, sparse, device, workload);
}

/** Finds them all. */
export const cyclicPlanner: Planner = { candidates, named: namedCandidate, wholeWork };
