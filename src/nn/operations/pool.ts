/** The mean of a sequence, as a product with a row of 1/L. */
import type { TapeTensor } from "../tape.ts";
import { checkShape } from "../tensor.ts";
import { multiply } from "./multiply.ts";

/**
 * The mean over the positions of each item.
 * @param x (B, L, D)
 * @returns (B, D)
 */
export function meanPool(x: TapeTensor): TapeTensor {
  const { tape } = x;
  checkShape(tape.place || "meanPool", x, [-1, -1, -1]);
  const [batch, length, width] = x.shape as [number, number, number];
  const share = tape.constant(`1/${length}`, [length], () =>
    new Float32Array(length).fill(1 / length),
  );
  const ones = { tensor: share, rows: 1, columns: length, transposed: false, batch: 1 };
  const sequence = (tensor: TapeTensor) => ({
    ...{ tensor, rows: length, columns: width, transposed: false, batch },
  });
  const item = (tensor: TapeTensor) => ({
    tensor,
    rows: 1,
    columns: width,
    transposed: false,
    batch,
  });
  const y = tape.tensor([batch, width], x.storage);
  multiply(ones, sequence(x), item(y));
  tape.operation({
    inputs: [x],
    outputs: [y],
    gradient: ([dy]) => {
      const dx = tape.tensor(x.shape, x.storage);
      const column = { ...ones, rows: length, columns: 1 };
      multiply(column, item(dy!), sequence(dx));
      return [dx];
    },
  });
  return y;
}
