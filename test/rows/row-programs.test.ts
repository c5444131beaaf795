/** Row programs against float64 on every backend: operations of layers, over few and many rows and columns. */
import { describe, test } from "vitest";
import type { RowShape } from "../../src/math/row-program.ts";
import { describeBackends, onCpu, onGpu } from "../support/backends.ts";
import { expectSameBits } from "../support/close.ts";
import { rowOperations } from "../support/row-operations.ts";
import { checkOperation, runOnCpu, tensorsOf } from "../support/row-programs.ts";

/** Fewer columns than lanes, tails of each length, and more than one vector of each; one row, some, and more than one unit. */
const shapes: readonly RowShape[] = [
  ...[1, 3, 4, 63, 768, 1000].flatMap((columns) => [1, 5].map((rows) => ({ rows, columns }))),
  ...[1, 3, 63, 768].map((columns) => ({ rows: 300, columns })),
];
const names = rowOperations({ rows: 1, columns: 1 }).map((o) => o.name);

/** Cells of many units, in rows and in one row. */
const large: readonly RowShape[] = [
  { rows: 1500, columns: 260 },
  { rows: 1, columns: 400_003 },
];

describe.skipIf(onGpu)("on the CPU", () => {
  describeBackends(
    "operations as row programs",
    (_, configuration) => {
      const options = onCpu(configuration);
      test.each(names.map((name, i) => [name, i] as const))("%s", async (_name, i) => {
        for (const shape of shapes) {
          const operation = rowOperations(shape)[i]!;
          for (const dtype of ["float32", "float16"] as const) {
            const program = operation.build(dtype);
            const tensors = tensorsOf(operation, shape, dtype);
            const found = await runOnCpu(options, program, shape, tensors, options.threads);
            checkOperation(operation, shape, dtype, found);
          }
        }
      });
    },
    { threads: "any" },
  );

  describeBackends(
    "the same bits",
    (_, configuration) => {
      const options = onCpu(configuration);
      test.each(names.map((name, i) => [name, i] as const))(
        "on one thread, on two and once more: %s",
        async (_name, i) => {
          for (const shape of large) {
            const operation = rowOperations(shape)[i]!;
            const program = operation.build("float32");
            const tensors = tensorsOf(operation, shape, "float32");
            const run = (threads: number) => runOnCpu(options, program, shape, tensors, threads);
            const one = await run(1);
            expectSameBits(await run(2), one);
            expectSameBits(await run(2), one);
            if (shape.rows > 1) checkOperation(operation, shape, "float32", one);
          }
        },
      );
    },
    { threads: 2, instructions: ["simd"] },
  );
});
