/** Embedding: rows of a table by number, with a gradient whose bits do not depend on the order of threads. */
import type { GatherProblem } from "../../schedule/gather.ts";
import type { TapeTensor } from "../tape.ts";
import { checkShape, misshapen } from "../tensor.ts";

/**
 * y[…, :] = table[ids[…], :].
 * @param ids (…) tokens, below the rows of the table.
 * @param table (V, D)
 * @returns (…, D)
 */
export function embedding(ids: TapeTensor, table: TapeTensor): TapeTensor {
  const { tape } = table;
  checkShape(table.label, table, [-1, -1]);
  if (ids.storage !== "uint32") throw misshapen(tape.place || "embedding", "tokens", ids.storage);
  const [entries = 0, columns = 0] = table.shape;
  const read = tape.stored(table);
  const y = tape.tensor([...ids.shape, columns]);
  const work = (kind: GatherProblem["kind"], stored: TapeTensor): GatherProblem => ({
    ...{ kind, rows: ids.size, columns, entries, cells: tape.storage },
    table: stored.storage === "float16" ? "float16" : "float32",
  });
  tape.step(work("gather", read), { ids, table: read }, { y });
  tape.operation({
    inputs: [table],
    outputs: [y],
    gradient: ([dy]) => {
      const { tensor: sum } = tape.sink(table);
      tape.step(work("scatterAdd", sum), { ids, dy: dy!, table: sum }, { table: sum });
      return [undefined];
    },
  });
  return y;
}
