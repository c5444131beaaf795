/** Matrix products on the CPU against float64: random shapes, all forms and epilogues; what lies between rows of C stays as it was; threads change no bit. */
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { type CpuBackend, openCpu } from "../../src/backend/cpu/backend.ts";
import { type Block, guardWorkMemory } from "../../src/backend/cpu/memory.ts";
import { compileProduct, runProduct } from "../../src/calls/cpu-product.ts";
import type { ActivationName } from "../../src/math/activation.ts";
import type { Matrix, ProductEpilogue, ProductProblem } from "../../src/plan/product.ts";
import { normalSource } from "../../src/reference/random.ts";
import { describeBackends, onCpu, randomCases } from "../support/backends.ts";

const sigmoid = (z: number): number => 1 / (1 + Math.exp(-z));
const scalars: Readonly<
  Partial<Record<ActivationName, { value: (z: number) => number; slope: (z: number) => number }>>
> = {
  silu: { value: (z) => z * sigmoid(z), slope: (z) => sigmoid(z) * (1 + z * (1 - sigmoid(z))) },
  relu: { value: (z) => Math.max(0, z), slope: (z) => (z > 0 ? 1 : 0) },
};

/** What is between the rows of C, and must stay. */
const untouched = 12345;

const names = ["a", "b", "c", "bias", "residual", "z", "sum"] as const;
type Operands = Record<(typeof names)[number], Float32Array>;

/** Elements that a matrix reaches over. */
function extent(
  { stride, batchStride, transposed }: Matrix,
  items: number,
  rows: number,
  columns: number,
): number {
  const [down, across] = transposed ? [columns, rows] : [rows, columns];
  return (items - 1) * batchStride + (down - 1) * stride + across;
}

const results = ({ sumsBatch, batch }: ProductProblem): number => (sumsBatch ? 1 : batch);

/** Place of a cell of C. */
function* cellsOf(
  p: ProductProblem,
): Generator<readonly [at: number, item: number, i: number, j: number]> {
  for (let item = 0; item < results(p); item++)
    for (let i = 0; i < p.m; i++)
      for (let j = 0; j < p.n; j++) yield [item * p.c.batchStride + i * p.c.stride + j, item, i, j];
}

/** Random operands; the sums are of unit scale. */
function draw(p: ProductProblem, seed: number): Operands {
  const source = normalSource(seed);
  const fill = (count: number, scale = 1): Float32Array =>
    Float32Array.from({ length: count }, () => scale * source());
  const like = (): Float32Array => {
    const all = new Float32Array(extent(p.c, results(p), p.m, p.n)).fill(untouched);
    for (const [at] of cellsOf(p)) all[at] = source();
    return all;
  };
  const terms = p.k * (p.sumsBatch ? p.batch : 1);
  return {
    a: fill(extent(p.a, p.batch, p.m, p.k)),
    b: fill(extent(p.b, p.batch, p.k, p.n), 1 / Math.sqrt(terms)),
    bias: fill(p.epilogue.bias === "rows" ? p.m : p.n),
    ...{ c: like(), residual: like(), z: like(), sum: like() },
  };
}

/** C and, where it is kept, the sum before the activation, in float64. */
function exact(p: ProductProblem, x: Operands): { c: Float64Array; sum: Float64Array } {
  const { bias, activation, slope, keeps, residual, accumulate } = p.epilogue;
  const at = (m: Matrix, item: number, i: number, j: number): number =>
    item * m.batchStride + (m.transposed ? j * m.stride + i : i * m.stride + j);
  const [aStep, bStep] = [p.a.transposed ? p.a.stride : 1, p.b.transposed ? 1 : p.b.stride];
  const c = Float64Array.from(x.c);
  const kept = Float64Array.from(x.sum);
  for (const [cell, item, i, j] of cellsOf(p)) {
    let value = 0;
    const end = p.sumsBatch ? p.batch : item + 1;
    for (let of = item; of < end; of++) {
      const [a0, b0] = [at(p.a, of, i, 0), at(p.b, of, 0, j)];
      for (let l = 0; l < p.k; l++) value += x.a[a0 + l * aStep]! * x.b[b0 + l * bStep]!;
    }
    if (bias) value += x.bias[bias === "rows" ? i : j]!;
    if (keeps) kept[cell] = value;
    if (activation) value = scalars[activation]!.value(value);
    if (slope) value *= scalars[slope]!.slope(x.z[cell]!);
    if (residual) value += x.residual[cell]!;
    if (accumulate) value += x.c[cell]!;
    c[cell] = value;
  }
  return { c, sum: kept };
}

/** L2 error over the cells of C, relative to them, or to their terms where they cancel; infinite where anything else was written. */
function errorOf(p: ProductProblem, got: Float32Array, want: Float64Array): number {
  let [difference, size] = [0, 0];
  const cells = new Set<number>();
  for (const [at] of cellsOf(p)) {
    cells.add(at);
    difference += (got[at]! - want[at]!) ** 2;
    size += want[at]! ** 2;
  }
  const spoiled = got.some((value, at) => !cells.has(at) && value !== untouched);
  return spoiled ? Number.POSITIVE_INFINITY : Math.sqrt(difference / Math.max(size, cells.size));
}

// A kernel that writes past its work memory fails.
guardWorkMemory(true);

/** Run a product; what C and `sum` are then. */
async function run(
  backend: CpuBackend,
  p: ProductProblem,
  x: Operands,
  threads: number,
): Promise<{ c: Float32Array; sum: Float32Array }> {
  const blocks: Block[] = [];
  try {
    return await backend.exclusive(async () => {
      const product = await compileProduct(backend, p, threads, "test");
      for (const name of names) blocks.push(backend.allocate(4 * x[name].length, "test"));
      // Allocating may move an unshared memory.
      const view = (name: (typeof names)[number]): Float32Array =>
        new Float32Array(
          backend.arena.buffer,
          blocks[names.indexOf(name)]!.address,
          x[name].length,
        );
      for (const name of names) view(name).set(x[name]);
      const [a, b, c, bias, residual, z, sum] = blocks.map(({ address }) => address) as [
        number,
        number,
        number,
        number,
        number,
        number,
        number,
      ];
      await runProduct(backend, product, { a, b, c, bias, residual, z, sum }, "test");
      backend.releaseProgram(product.program);
      return { c: view("c").slice(), sum: view("sum").slice() };
    });
  } finally {
    for (const block of blocks) backend.arena.free(block);
  }
}

/** A problem whose operands lie close together, with more elements between rows and items if asked for. */
function problem(
  [m, n, k]: readonly [number, number, number],
  form: "NN" | "NT" | "TN" | "TT" = "NN",
  epilogue: ProductEpilogue = {},
  { batch = 1, sumsBatch = false, apart = 0, shared = "" } = {},
): ProductProblem {
  const matrix = (name: string, transposed: boolean, rows: number, columns: number): Matrix => {
    const [down, across] = transposed ? [columns, rows] : [rows, columns];
    const stride = across + apart;
    return {
      transposed,
      stride,
      batchStride: shared === name ? 0 : down * stride + apart,
      dtype: "float32",
    };
  };
  return {
    ...{ batch, m, n, k, sumsBatch, epilogue },
    a: matrix("a", form[0] === "T", m, k),
    b: matrix("b", form[1] === "T", k, n),
    c: matrix("c", false, m, n),
  };
}

const forms = ["NN", "NT", "TN", "TT"] as const;
const activation = fc.constantFrom("silu", "relu");
const epilogues: fc.Arbitrary<ProductEpilogue> = fc
  .tuple(
    fc.record(
      {
        bias: fc.constantFrom("columns", "rows"),
        residual: fc.boolean(),
        accumulate: fc.boolean(),
      },
      { requiredKeys: [] },
    ),
    fc.oneof(
      fc.constant({}),
      fc.record({ activation, keeps: fc.boolean() }),
      fc.record({ slope: activation }),
    ),
  )
  .map(([ends, middle]) => ({ ...ends, ...middle }) as ProductEpilogue);
const sizes = fc.oneof(
  fc.tuple(
    fc.integer({ min: 1, max: 40 }),
    fc.integer({ min: 1, max: 40 }),
    fc.integer({ min: 1, max: 40 }),
  ),
  fc.tuple(
    fc.integer({ min: 1, max: 300 }),
    fc.integer({ min: 1, max: 60 }),
    fc.integer({ min: 1, max: 90 }),
  ),
  fc.tuple(
    fc.integer({ min: 1, max: 30 }),
    fc.integer({ min: 1, max: 600 }),
    fc.integer({ min: 1, max: 30 }),
  ),
  fc.tuple(
    fc.integer({ min: 1, max: 12 }),
    fc.integer({ min: 1, max: 30 }),
    fc.integer({ min: 500, max: 1200 }),
  ),
);
const problems = fc
  .tuple(
    ...[sizes, fc.constantFrom(...forms), epilogues],
    fc.record({
      batch: fc.integer({ min: 1, max: 3 }),
      sumsBatch: fc.boolean(),
      apart: fc.integer({ min: 0, max: 5 }),
      shared: fc.constantFrom("", "a", "b"),
    }),
  )
  .map((parts) => problem(...parts));

describeBackends("products", (_, configuration) => {
  const { instructions, threads } = onCpu(configuration);
  const backend = openCpu({ instructions, shared: threads > 1 }, "test");
  const user = { threads, workspaceBytes: 0 };
  backend.retain(user);
  afterAll(() => backend.release(user));

  const expectRight = async (p: ProductProblem, seed: number): Promise<void> => {
    const x = draw(p, seed);
    const [got, want] = [await run(backend, p, x, threads), exact(p, x)];
    expect(errorOf(p, got.c, want.c)).toBeLessThan(1e-6);
    expect(errorOf(p, got.sum, want.sum)).toBeLessThan(1e-6);
  };

  test("random shapes, forms, batches and epilogues", async () => {
    await fc.assert(
      fc.asyncProperty(problems, fc.nat(), expectRight),
      randomCases(configuration, 120, 1),
    );
  });

  test.each(forms)("%s of several panels and rectangles", async (form) => {
    await expectRight(problem([530, 12, 7], form, { bias: "rows" }), 1);
    await expectRight(problem([7, 1100, 12], form, { bias: "columns" }), 1);
    await expectRight(problem([12, 20, 1300], form, { activation: "silu", accumulate: true }), 2);
    await expectRight(problem([140, 9, 600], form, {}, { batch: 2, sumsBatch: true }), 3);
  });

  test("one row, one column, one term", async () => {
    for (const form of forms)
      for (const shape of [
        [1, 1, 1],
        [1, 700, 300],
        [700, 1, 300],
        [40, 40, 1],
      ] as const)
        await expectRight(problem(shape, form, { bias: "columns", residual: true }), 4);
  });

  test("the check sees zeros, a shift and a lost tail", () => {
    const p = problem([17, 23, 31]);
    const { c } = exact(p, draw(p, 5));
    const good = Float32Array.from(c);
    expect(errorOf(p, good, c)).toBeLessThan(1e-7);
    expect(
      errorOf(
        p,
        good.map(() => 0),
        c,
      ),
    ).toBeGreaterThan(0.9);
    expect(errorOf(p, Float32Array.from([0, ...good.subarray(0, -1)]), c)).toBeGreaterThan(0.1);
    expect(
      errorOf(
        p,
        good.map((v, i) => (i < good.length - 1 ? v : 0)),
        c,
      ),
    ).toBeGreaterThan(1e-3);
  });
});

describe("threads", () => {
  test("change no bit", async () => {
    const backend = openCpu({ instructions: "simd", shared: true }, "test");
    const user = { threads: 3, workspaceBytes: 0 };
    backend.retain(user);
    const cases = [
      problem([333, 122, 61], "NN", { activation: "silu" }),
      problem([65, 600, 700], "TN", { accumulate: true }),
      problem([100, 90, 60], "NT", {}, { batch: 5, sumsBatch: true }),
      problem([2, 3000, 301], "NT", { bias: "columns" }),
      problem([3000, 1, 301], "NT", { bias: "rows" }),
    ];
    for (const p of cases) {
      const x = draw(p, 6);
      const alone = await run(backend, p, x, 1);
      for (const threads of [2, 3]) expect((await run(backend, p, x, threads)).c).toEqual(alone.c);
    }
    backend.release(user);
  });
});
