/** The planner of the CPU alone: problems, plans, what they cost. Pure functions, no device. */
export type { Cost } from "./cpu/cost.ts";
export { planCost } from "./cpu/cost.ts";
export { candidates, namedCandidate } from "./cpu/cyclic-planner.ts";
export type { Level, Plan, PlanText, Sparse, TransformPlan } from "./cpu/plan.ts";
export { formatPlan, parsePlan } from "./cpu/plan.ts";
export type { Candidate, Workload } from "./cpu/planner.ts";
export type { StreamLevel } from "./cpu/stream-levels.ts";
export { formatStream, levelSeconds, streamLevels } from "./cpu/stream-levels.ts";
export { createProblem } from "./create-problem.ts";
export type { DeviceSpec, DirectSeconds, MemoryLevel } from "./device.ts";
export { defaultCpu } from "./device.ts";
export type {
  Frequencies,
  FrequencyBand,
  FrequencyBlocks,
  KeptFrequencies,
} from "./frequencies.ts";
export { keptBins } from "./frequencies.ts";
export type { Blocks, Geometry, Part, Ring, Run } from "./geometry.ts";
export type { Intervals } from "./intervals.ts";
export type { Mode, Problem, ProblemOptions } from "./problem.ts";
export { maxLength, modes } from "./problem.ts";
