/** Embeddings on a GPU: rows by number, and sums of rows into a table, with the same bits in every run. */
import { describe, expect, test } from "vitest";
import { type GatherProblem, gatherSchedule } from "../../src/schedule/gather.ts";
import type { GpuLimits } from "../../src/schedule/schedule.ts";
import { onGpu } from "../support/backends.ts";
import { distance, expectSameBits, norm } from "../support/close.ts";
import { type CaseTensor, tensor } from "../support/row-operations.ts";
import { runScheduleOnGpu, valuesOf } from "../support/row-programs.ts";
import { normal, uniform } from "../support/signals.ts";

type Sizes = Omit<GatherProblem, "kind">;

/** Odd columns, more than a workgroup has threads; few entries, whose rows several workgroups share, and many; one that all rows have. */
const cases: readonly (Sizes & { readonly hot?: number })[] = [
  { rows: 1, columns: 1, entries: 1, table: "float32", cells: "float32" },
  { rows: 300, columns: 63, entries: 5, table: "float32", cells: "float32" },
  { rows: 5000, columns: 32, entries: 7, table: "float32", cells: "float32" },
  { rows: 1500, columns: 300, entries: 40, table: "float32", cells: "float16" },
  { rows: 700, columns: 16, entries: 1000, table: "float16", cells: "float16", hot: 999 },
];

/** Numbers, a table and rows. */
function draw({ rows, columns, entries, table, cells, hot }: (typeof cases)[number]) {
  const next = uniform(5);
  const numbers = Float64Array.from({ length: rows }, (_, r) =>
    hot !== undefined && r % 2 === 0 ? hot : Math.floor(next() * entries),
  );
  return {
    ids: tensor(numbers, "uint32"),
    table: tensor(normal(entries * columns, 1), table),
    cells: tensor(normal(rows * columns, 2), cells),
  };
}

describe.runIf(onGpu)("on a GPU", () => {
  const run = (
    problem: GatherProblem,
    tensors: Readonly<Record<string, CaseTensor>>,
    less: Partial<GpuLimits> = {},
  ) => runScheduleOnGpu((limits) => gatherSchedule(problem, limits), tensors, less);

  test.each(cases)("gather %o", async (c) => {
    const { ids, table, cells } = draw(c);
    const found = await run({ ...c, kind: "gather" }, { ids, table, y: cells });
    const { columns } = c;
    const y = valuesOf(found.y!, cells);
    const want = cells.values.map((_, i) => {
      const entry = ids.values[Math.floor(i / columns)]!;
      return table.values[entry * columns + (i % columns)]!;
    });
    if (c.table === "float32" && c.cells === "float16")
      expect(distance(y, want) / norm(want)).toBeLessThan(4e-4);
    else expect(y).toEqual(want);
  });

  test("odd columns of float16, and more than a device binds, are refused", async () => {
    const c = { ...cases[3]!, columns: 3 };
    const { ids, table, cells } = draw(c);
    const odd = run({ ...c, kind: "gather" }, { ids, table, y: cells });
    await expect(odd).rejects.toThrow("an even width for float16; got 3");
    const large = run({ ...cases[1]!, kind: "scatterAdd" }, {}, { bindingBytes: 1000 });
    await expect(large).rejects.toThrow("ids of 1200 bytes");
  });

  test.each(cases)("scatterAdd %o", async (c) => {
    const { ids, cells } = draw(c);
    const table = draw({ ...c, table: "float32" }).table;
    const problem: GatherProblem = { ...c, table: "float32", kind: "scatterAdd" };
    const want = Float64Array.from(table.values);
    cells.values.forEach((v, i) => {
      const at = ids.values[Math.floor(i / c.columns)]! * c.columns + (i % c.columns);
      want[at] = want[at]! + v;
    });
    for (const less of [{}, { sharedBytes: 16_384 }]) {
      const found = await run(problem, { ids, dy: cells, table }, less);
      const error = (v: Float64Array): number => distance(v, want) / norm(want);
      expect(error(valuesOf(found.table!, table))).toBeLessThan(3e-7);
      expectSameBits(await run(problem, { ids, dy: cells, table }, less), found);
      // What is compared with: a table that nothing was added to, and one that lacks the last row.
      expect(error(table.values)).toBeGreaterThan(1e-2);
      const lost = Float64Array.from(want);
      const last = ids.values.at(-1)! * c.columns;
      for (let i = 0; i < c.columns; i++)
        lost[last + i] = lost[last + i]! - cells.values.at(i - c.columns)!;
      expect(error(lost)).toBeGreaterThan(1e-4);
    }
  });
});
