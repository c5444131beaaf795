/** The K − 1 samples that a causal short convolution carries from call to call. */
import { raw } from "../calls/cpu-staging.ts";
import type { SampleArray } from "../dtype.ts";
import type { DepthwiseProblem } from "../plan/depthwise.ts";
import { widths } from "../plan/depthwise.ts";

/** How state and x lie: `lines` lines of positions, each of `step` samples. */
function shapeOf({ channels, layout, form }: DepthwiseProblem, batch: number) {
  const packed = channels * widths(form).branches;
  return layout === "BHL" ? { lines: batch * packed, step: 1 } : { lines: batch, step: packed };
}

/** stateOut ← the last K − 1 positions of state (zeros where there is none) followed by x. They may be one array. */
export function carryState(
  problem: DepthwiseProblem,
  x: SampleArray,
  state: SampleArray | undefined,
  stateOut: SampleArray,
  batch: number,
  length: number,
): void {
  const { lines, step } = shapeOf(problem, batch);
  const size = (problem.kernelLength - 1) * step;
  const [from, to] = [raw(x), raw(stateOut)];
  const before = state && raw(state);
  const fresh = Math.min(size, length * step);
  for (let line = 0; line < lines; line++) {
    const at = line * size;
    if (before) to.set(before.subarray(at + fresh, at + size), at);
    else to.fill(0, at, at + size - fresh);
    const end = (line + 1) * length * step;
    to.set(from.subarray(end - fresh, end), at + size - fresh);
  }
}
