/**
 * CPU programs as bytes: every function of every kind of program, printed for each target, and the tables that they read
 * change only when somebody means it to. Plans are named, so that the cost model has no say in it.
 */
import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import type { CpuBackend } from "../../../src/backend/cpu/backend.ts";
import type { PartTransform } from "../../../src/conv/cpu-parts.ts";
import { planCode } from "../../../src/conv/cpu-transforms.ts";
import { dtypes } from "../../../src/dtype.ts";
import { programSource } from "../../../src/kernels/cpu/dense-program.ts";
import { depthwiseSource } from "../../../src/kernels/cpu/depthwise/program.ts";
import { printJavaScript } from "../../../src/kernels/cpu/print/javascript.ts";
import { printWasm } from "../../../src/kernels/cpu/print/wasm.ts";
import { productSource } from "../../../src/kernels/cpu/product/program.ts";
import type { ProgramSource } from "../../../src/kernels/cpu/program-source.ts";
import { namedCandidate } from "../../../src/plan/cpu/cyclic-planner.ts";
import { registerTiles } from "../../../src/plan/cpu/product.ts";
import { streamLevels, streamPart } from "../../../src/plan/cpu/stream-levels.ts";
import { createProblem } from "../../../src/plan/create-problem.ts";
import { createDepthwiseProblem, type Form, layouts } from "../../../src/plan/depthwise.ts";
import { defaultCpu } from "../../../src/plan/device.ts";
import { modes, type ProblemOptions } from "../../../src/plan/problem.ts";
import type { ProductEpilogue } from "../../../src/plan/product.ts";

function hash(data: string | NodeJS.ArrayBufferView): string {
  return createHash("sha256").update(data).digest("hex").slice(0, 12);
}

/** A hash of a program on each target, and of the table that it reads. */
function hashesOf(source: ProgramSource): string {
  const vectors = source.build(4);
  const parts = [
    `simd ${hash(printWasm(vectors, { relaxed: false, sharedPages: undefined }))}`,
    `relaxed ${hash(printWasm(vectors, { relaxed: true, sharedPages: 65_536 }))}`,
    `javascript ${hash(printJavaScript(source.build(1)))}`,
  ];
  const table = new Float32Array(source.table?.size ?? 0);
  source.table?.write(table, 4);
  return [...parts, ...(table.length > 0 ? [`table ${hash(table)}`] : [])].join(" ");
}

/** The parts of a convolution under a named plan. */
async function partsOf(plan: string, options: ProblemOptions): Promise<PartTransform[]> {
  const problem = createProblem(options, "test");
  const candidate = namedCandidate(plan, problem, defaultCpu, { rows: 1, threads: 1 })!;
  const { transforms } = await planCode(candidate);
  return transforms(problem, candidate, { lanes: 4 } as CpuBackend, 1, defaultCpu);
}

const convolutions: readonly (readonly [plan: string, options: ProblemOptions])[] = [
  // Rows that are transformed whole: every mode and type; one stage, several, several levels, tiles and padding.
  ...dtypes.map((dtype) => ["16: 4", { length: 9, kernelLength: 9, dtype }] as const),
  ...modes.map((mode) => ["80: 5·4", { mode, length: 50, kernelLength: 50 }] as const),
  ["128: 2·4·4", { length: 101, kernelLength: 7 }],
  ["512: 8 | 4·4", { length: 500 }],
  ["1024: 4·4 /16 +8 | 4 | 4", { length: 1000, kernelLength: 900, dtype: "float16" }],
  // Several parts, of which all but the first add to its results.
  ["48: 3·4 & 96: 2·3·4", { mode: "circular", length: 192 }],
  // Blocks.
  ...modes.map((mode) => ["64: 4·4 @50", { mode, length: 400, kernelLength: 40 }] as const),
  ["64: 4·4 @100", { length: 400, kernelLength: 20, dtype: "bfloat16" }],
  // The time domain: taps that are held, and those that are not.
  ...modes.map((mode) => ["direct 8 @64", { mode, length: 400, kernelLength: 8 }] as const),
  ["direct 1 @300", { length: 300, kernelLength: 1 }],
  ...dtypes.map((dtype) => ["direct 20 @52", { length: 300, kernelLength: 20, dtype }] as const),
  // Factors of a cyclic transform: all of their points, and some.
  ["cyclic 64: 4·4 & 128: 2·4·4", { mode: "circular", length: 256 }],
  ["cyclic 240: 3 | 5·4 & 480: 2·3·5·4", { mode: "circular", length: 960, dtype: "float16" }],
  [
    "cyclic 64: 4·4 & 128: 2·4·4",
    { mode: "circular", length: 256, frequencies: { band: [0, 0.2] } },
  ],
];

describe("convolutions", () => {
  test.each(convolutions)("%s of %o", async (plan, options) => {
    const hashes = (await partsOf(plan, options)).flatMap(({ source }) => [
      `forward ${hashesOf(source("forward", "float32"))}`,
      `backward ${hashesOf(source("backward", "float32"))}`,
    ]);
    expect(hashes).toMatchSnapshot();
  });

  test.each(["32: 2·4", "direct 20 @28"])("%s of taps in half precision", async (plan) => {
    const [part] = await partsOf(plan, { length: 30, kernelLength: 20 });
    const hashes = dtypes.map((dtype) => hashesOf(part!.source("forward", dtype)));
    expect(hashes).toMatchSnapshot();
  });
});

test("levels of streams", () => {
  const hashes = streamLevels(3000, 16, defaultCpu).map((level) => {
    const spec = { part: streamPart(level), adds: false, plan: level.plan };
    const types = { dtype: "float32", kernelDtype: "float32" } as const;
    return hashesOf(programSource({ kind: "stream", ...spec, ...types }));
  });
  expect(hashes).toMatchSnapshot();
});

describe("short convolutions", () => {
  const forms: readonly Form[] = ["linear", "silu", "projections"];
  const cases = layouts.flatMap((layout) => [
    ...forms.map((form) => ({ layout, form, dtype: "float32", kernelLength: 4 }) as const),
    ...dtypes.map((dtype) => ({ layout, form: "linear", dtype, kernelLength: 3 }) as const),
    { layout, form: "silu", dtype: "float16", kernelLength: 20 } as const,
  ]);

  test.each(cases)("%o", ({ form, ...options }) => {
    const problem = createDepthwiseProblem({ channels: 6, ...options }, form, "test");
    const hashes = (["forward", "backward"] as const).map(
      (kind) => `${kind} ${hashesOf(depthwiseSource({ kind, problem }))}`,
    );
    expect(hashes).toMatchSnapshot();
  });
});

describe("products", () => {
  const ends: readonly ProductEpilogue[] = [
    {},
    { bias: "columns", activation: "silu", keeps: true, residual: true },
    { bias: "rows", slope: "relu", accumulate: true },
  ];

  test.each(ends.map((epilogue, i) => [epilogue, [16, 13, 7][i]!] as const))(
    "%o",
    (epilogue, n) => {
      const matrix = { transposed: false, stride: n, batchStride: 0, dtype: "float32" } as const;
      const shape = { batch: 1, m: 5, n, k: n, sumsBatch: false } as const;
      const problem = { ...shape, a: matrix, b: matrix, c: matrix, epilogue };
      const hashes = Object.entries(registerTiles).map(([instructions, tile]) => {
        const module = productSource(problem, tile).build(tile.lanes);
        const relaxed = instructions === "relaxed-simd";
        const text =
          tile.lanes === 1
            ? printJavaScript(module)
            : printWasm(module, { relaxed, sharedPages: 1 });
        return `${instructions} ${hash(text)}`;
      });
      expect(hashes).toMatchSnapshot();
    },
  );
});

test("the check itself sees one constant that is another", () => {
  const problem = createDepthwiseProblem({ channels: 6, kernelLength: 3 }, "linear", "test");
  const source = depthwiseSource({ kind: "forward", problem });
  const other = depthwiseSource({ kind: "forward", problem: { ...problem, kernelLength: 4 } });
  expect(hashesOf(other)).not.toBe(hashesOf(source));
  const table = { key: "", size: 1, write: (t: Float32Array) => void t.fill(1) };
  const changed = { ...table, write: (t: Float32Array) => void t.fill(1 + 2 ** -23) };
  expect(hashesOf({ ...source, table })).not.toBe(hashesOf({ ...source, table: changed }));
});
