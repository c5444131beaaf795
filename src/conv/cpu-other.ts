/** Plans that are not of dense transforms of whole rows, and how they run. Loaded with the first problem or plan that needs it. */
export { cyclicPlanner } from "../plan/cpu/cyclic-planner.ts";
export { blockRuns } from "./cpu-blocks.ts";
export { inTime } from "./cpu-direct.ts";
export { together } from "./cpu-sparse.ts";
