/** The planner alone: problems, geometry, plans, cost model. Pure functions, no device. */
export * from "./cost.ts";
export * from "./device.ts";
export * from "./frequencies.ts";
export * from "./geometry.ts";
export type { Intervals } from "./intervals.ts";
export * from "./plan.ts";
export * from "./planner.ts";
export * from "./problem.ts";
export * from "./stream.ts";
