/** What explicit kernels pass before they are convolved with: shrinkage of their taps, and the skip. */
import type { Node } from "../../math/expr.ts";
import type { TapeTensor } from "../tape.ts";
import { checkShape } from "../tensor.ts";
import type { Rows } from "./rows.ts";
import { rowsOver } from "./rows.ts";

/**
 * relu(|k| − threshold) · sign(k): taps below the threshold are zero, the others move towards zero by it (Fu et al., "Simple
 * Hardware-Efficient Long Convolutions", arXiv 2302.06646).
 */
export function squash(k: TapeTensor, threshold: number): TapeTensor {
  const { tape } = k;
  /** `then` where a tap is beyond the threshold; how far it is there goes to it. */
  const beyond = ({ g }: Rows, tap: Node, then: (moved: Node) => Node): Node => {
    const [up, down] = [g.sub(tap, g.constant(threshold)), g.add(tap, g.constant(threshold))];
    const below = g.select(g.neg(down), then(down), g.constant(0));
    return g.select(up, then(up), below);
  };
  const y = tape.tensor(k.shape, k.storage);
  const rows = rowsOver(k);
  rows.store(
    y,
    beyond(rows, rows.cell(k), (moved) => moved),
  );
  rows.run();
  tape.operation({
    inputs: [k],
    outputs: [y],
    gradient: ([dy]) => {
      const back = rowsOver(k);
      const dk = tape.sink(k, k.storage);
      const d = back.cell(dy!);
      back.store(
        dk.tensor,
        beyond(back, back.cell(k), () => d),
        {},
        dk.accumulate,
      );
      back.run();
      return [dk.result];
    },
  });
  return y;
}

/**
 * The kernel of y = x ∗ k + skip ⊙ x: the skip is a tap more at lag 0.
 * @param k (D, K)
 * @param skip (D)
 */
export function skipTap(k: TapeTensor, skip: TapeTensor): TapeTensor {
  const { tape } = k;
  checkShape(tape.place || skip.label, k, [skip.size, -1]);
  const first = ({ g, along }: Rows, value: Node): Node =>
    g.select(g.sub(g.constant(1), along.columnIndex()), value, g.constant(0));
  const y = tape.tensor(k.shape, k.storage);
  const rows = rowsOver(k);
  rows.store(y, rows.g.add(rows.cell(k), first(rows, rows.row(skip))));
  rows.run();
  tape.operation({
    inputs: [k, skip],
    outputs: [y],
    gradient: ([dy]) => {
      const back = rowsOver(k);
      const dskip = tape.sink(skip, "float32");
      back.storeRow(dskip.tensor, back.along.sum(first(back, back.cell(dy!))), dskip.accumulate);
      back.run();
      return [dy, dskip.result];
    },
  });
  return y;
}
