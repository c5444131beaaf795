/** Names of the variants of an end: what is fused into it. */
export function suffix(gated: boolean, skip = false): string {
  return (gated ? "_gate" : "") + (skip ? "_skip" : "");
}

/** Name of the function that takes a whole row through head, body and tail. */
export function rowName(pregate: boolean, postgate: boolean, skip: boolean): string {
  return `row${suffix(pregate)}_to${suffix(postgate, skip)}`;
}
