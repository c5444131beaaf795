/** How plans run that are not of dense transforms of whole rows. Loaded with the first of them. */
export { blockRuns } from "./blocks.ts";
export { together } from "./engine-cyclic.ts";
export { inTime } from "./engine-direct.ts";
