/** Row programs against float64 on every backend: operations of layers, over few and many rows and columns. */
import { describe, expect, test } from "vitest";
import type { RowShape } from "../../src/math/row-program.ts";
import { describeBackends, onCpu, onGpu, share } from "../support/backends.ts";
import { expectSameBits } from "../support/close.ts";
import { rowOperations } from "../support/row-operations.ts";
import { checkOperation, runOnCpu, runOnGpu, tensorsOf } from "../support/row-programs.ts";

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
      test.each(names.map((name, i) => [name, i] as const))("%s", async (_name, i) => {
        const options = onCpu(configuration);
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
      test.each(names.map((name, i) => [name, i] as const))(
        "on one thread, on two and once more: %s",
        async (_name, i) => {
          const options = onCpu(configuration);
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

/** Kernels that a GPU has and a processor that plays one has not: turns written out, cells held, with and without shuffles. */
const likeGpus = [{ slowFma: false }, { slowFma: false, lanes: 1 }];
const heldShapes: readonly RowShape[] = [
  { rows: 5, columns: 40 },
  { rows: 9, columns: 768 },
  { rows: 3, columns: 5000 },
];

describe.runIf(onGpu)("on a GPU", () => {
  const each = names.map((name, i) => [name, i] as const);

  test.each(each)("%s", async (_name, i) => {
    for (const shape of share(shapes, 2)) {
      const operation = rowOperations(shape)[i]!;
      for (const dtype of ["float32", "float16"] as const) {
        if (dtype === "float16" && shape.columns % 2 > 0) continue;
        const program = operation.build(dtype);
        const found = await runOnGpu(program, shape, tensorsOf(operation, shape, dtype));
        checkOperation(operation, shape, dtype, found);
      }
    }
  });

  test.each(each)("%s as large GPUs do it, with the same bits once more", async (_name, i) => {
    for (const [s, shape] of heldShapes.entries()) {
      const operation = rowOperations(shape)[i]!;
      const dtype = s === 1 ? "float16" : "float32";
      const program = operation.build(dtype);
      for (const limits of likeGpus) {
        const run = () => runOnGpu(program, shape, tensorsOf(operation, shape, dtype), limits);
        const found = await run();
        checkOperation(operation, shape, dtype, found);
        expectSameBits(await run(), found);
      }
    }
  });

  test("what a device cannot bind is refused", async () => {
    const shape = { rows: 3, columns: 63 };
    const add = rowOperations(shape)[0]!;
    const run = (dtype: "float32" | "float16", limits = {}) =>
      runOnGpu(add.build(dtype), shape, tensorsOf(add, shape, dtype), limits);
    await expect(run("float16")).rejects.toThrow("an even width for float16; got 63");
    await expect(run("float32", { bindings: 2 })).rejects.toThrow("at most 2 buffers");
    await expect(run("float32", { bindingBytes: 700 })).rejects.toThrow("a of 756 bytes");
  });
});
