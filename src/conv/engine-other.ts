/** How plans run that are not of dense transforms alone. Loaded with the first of them. */
export { together } from "./engine-cyclic.ts";
export { inTime } from "./engine-direct.ts";
