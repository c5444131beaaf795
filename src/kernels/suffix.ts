/** Names of the variants of an end: what is fused into it. */
export function suffix(gated: boolean, skip = false): string {
  return (gated ? "_gate" : "") + (skip ? "_skip" : "");
}
