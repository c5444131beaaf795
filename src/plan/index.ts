/** The planner alone: problems, geometry, plans, cost model. Pure functions, no device. */
export * from "./cpu/cost.ts";
export * from "./cpu/plan.ts";
export * from "./cpu/planner.ts";
export * from "./cpu/stream-levels.ts";
export * from "./create-problem.ts";
export * from "./device.ts";
export * from "./frequencies.ts";
export * from "./geometry.ts";
export type { Intervals } from "./intervals.ts";
export * from "./problem.ts";
