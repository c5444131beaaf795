/** Recomputation: memory for time (Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174). */
import type { TapeTensor } from "../tape.ts";

/**
 * body(x), of which only x is kept for the gradient: what lies between is computed again when it is needed.
 * @example
 * for (const p of parameters.blocks) x = recompute(x, (h) => block(h, p, config));
 */
export function recompute(x: TapeTensor, body: (x: TapeTensor) => TapeTensor): TapeTensor {
  const { tape } = x;
  if (!tape.training) return body(x);
  const { stream, place } = tape;
  const { result } = tape.apart(() => body(x));
  tape.operation({
    inputs: [x],
    outputs: [result],
    holdsParameters: true,
    gradient: ([dy], _, sums) => {
      const again = tape.within(`${place} again`, () => tape.apart(() => body(x), stream));
      const gradients = new Map([[again.result, dy!]]);
      tape.sweep(again.operations, gradients, sums);
      // The sweep has added up those of parameters.
      return [x.role === "parameter" ? undefined : gradients.get(x)];
    },
  });
  return result;
}
