/** How plans run that are not of dense transforms of whole rows. Loaded with the first of them. */
export { blockRuns } from "./cpu-blocks.ts";
export { inTime } from "./cpu-direct.ts";
export { together } from "./cpu-sparse.ts";
