/** Parts of the channels of a sequence, as tensors of their own. */
import type { TapeTensor } from "../tape.ts";
import { checkShape, misshapen } from "../tensor.ts";
import { Rows } from "./rows.ts";

/**
 * The channels in equal parts, one after another.
 * @param x (B, count · D, L)
 * @returns `count` of (B, D, L)
 */
export function split(x: TapeTensor, count: number): TapeTensor[] {
  const { tape } = x;
  const place = tape.place || "split";
  checkShape(place, x, [-1, -1, -1]);
  const [batch, channels, length] = x.shape as [number, number, number];
  if (channels % count !== 0) throw misshapen(place, `a multiple of ${count} channels`, channels);
  const width = (channels / count) * length;
  const part = (i: number) => ({ stride: count * width, offset: i * width });
  const copy = (each: (rows: Rows, i: number) => void): void => {
    const rows = new Rows(tape, { rows: batch, columns: width });
    for (let i = 0; i < count; i++) each(rows, i);
    rows.run();
  };
  const parts = Array.from({ length: count }, () =>
    tape.tensor([batch, channels / count, length], x.storage),
  );
  copy((rows, i) => rows.store(parts[i]!, rows.cell(x, part(i))));
  tape.operation({
    inputs: [x],
    outputs: parts,
    gradient: (upstream) => {
      const dx = tape.tensor(x.shape, x.storage);
      // A step for each part: results of one step are buffers of their own.
      upstream.forEach((d, i) => {
        const rows = new Rows(tape, { rows: batch, columns: width });
        rows.store(dx, d ? rows.cell(d) : rows.g.constant(0), part(i));
        rows.run();
      });
      return [dx];
    },
  });
  return parts;
}
