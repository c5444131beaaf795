/** Sums of gradients: of two, onto what is there, and down to what all rows share. */
import type { GradientSums, TapeTensor } from "../tape.ts";
import { Rows, rowsOver } from "./rows.ts";

/** How gradients that meet are added up. */
export const gradientSums: GradientSums = {
  add(a, b) {
    const rows = rowsOver(a);
    const sum = a.tape.tensor(a.shape, a.storage);
    rows.store(sum, rows.g.add(rows.cell(a), rows.cell(b)));
    rows.run();
    return sum;
  },
  addTo(target, gradient) {
    const rows = rowsOver(target);
    rows.store(target, rows.cell(gradient), {}, true);
    rows.run();
  },
};

/**
 * The gradient of a vector that every row had added: the sum of all rows of (…, N), or of all positions and items of (B, N, L).
 * @returns what its rule returns: nothing where the vector is a parameter, whose gradient is added up elsewhere.
 */
export function sumDown(
  dy: TapeTensor,
  vector: TapeTensor,
  layout: "rows" | "channels",
): TapeTensor | undefined {
  const { tape } = dy;
  const { tensor, accumulate, result } = tape.sink(vector, "float32");
  if (layout === "rows") {
    const rows = rowsOver(dy);
    rows.columnSum(tensor, rows.cell(dy), accumulate);
    rows.run();
    return result;
  }
  const [batch = 1, channels = 1] = dy.shape;
  const sums = tape.tensor([batch, channels], "float32");
  const lines = rowsOver(dy);
  lines.storeRow(sums, lines.along.sum(lines.cell(dy)));
  lines.run();
  const items = new Rows(tape, { rows: batch, columns: channels });
  items.columnSum(tensor, items.cell(sums), accumulate);
  items.run();
  return result;
}
