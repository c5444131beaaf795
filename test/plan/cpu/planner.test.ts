/** The planner: the paper's orders from the paper's constants, plans as text, geometry of the modes. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { candidatePlans, candidateSizes } from "../../../src/plan/cpu/candidates.ts";
import { butterflyFlops, directCost, planCost, stageFlops } from "../../../src/plan/cpu/cost.ts";
import { candidates, namedCandidate } from "../../../src/plan/cpu/cyclic-planner.ts";
import {
  formatDirect,
  formatPlan,
  layout,
  parsePlan,
  parseTransform,
  product,
} from "../../../src/plan/cpu/plan.ts";
import { createProblem } from "../../../src/plan/create-problem.ts";
import { defaultCpu, sweepSeconds } from "../../../src/plan/device.ts";
import { apartBySample, covered, geometries, onePart } from "../../../src/plan/geometry.ts";
import { anyProblem, sparseProblems } from "../../support/arbitraries.ts";
import { a100, bestOrder } from "../../support/paper-model.ts";

describe("cost model", () => {
  // Fu et al. 2023, Figure 4 and §3.2: order 2 up to 2K, 3 for 4K–32K, 4 from 64K on.
  test.each([
    [[256, 512, 1024, 2048], 2],
    [[4096, 8192, 16_384, 32_768], 3],
    [[65_536, 131_072, 262_144, 524_288, 1_048_576, 2_097_152, 4_194_304], 4],
  ])("the paper's constants give the paper's orders: %j → %i", (lengths, order) => {
    for (const n of lengths) expect([n, bestOrder(n, a100)]).toEqual([n, order]);
  });

  test("a device without a cliff at its matrix tile has other orders", () => {
    expect(bestOrder(256, { ...a100, matrixTile: 1 })).not.toBe(bestOrder(4096, a100) - 2);
    expect(bestOrder(2048, { ...a100, matrixTile: 1 })).toBeGreaterThan(2);
  });

  test("butterflies cost what their codelets count", () => {
    // Radix 4: 16 additions and three products of 6.
    expect(butterflyFlops(4)).toBe(16 + 3 * 6);
    expect(stageFlops(1024, 4)).toBe(2 * 256 * 34);
  });

  test("sweeps slow down with the working set, without a jump", () => {
    const at = (bytes: number): number => sweepSeconds(defaultCpu, bytes);
    let last = 0;
    for (let bytes = 1024; bytes < 2 ** 30; bytes *= 1.1) {
      expect(at(bytes)).toBeGreaterThanOrEqual(last);
      if (last > 0) expect(at(bytes)).toBeLessThan(8 * last);
      last = at(bytes);
    }
  });

  test("the sum of a plan's parts is its price", () => {
    const plan = parseTransform("1024: 4·4·4·4")!;
    const cost = planCost(plan, defaultCpu);
    expect(cost.seconds).toBeCloseTo(cost.arithmetic + cost.memory + cost.overhead, 15);
    expect(planCost(parseTransform("4096: 4·4·4·4·4")!, defaultCpu).seconds).toBeGreaterThan(
      4 * cost.seconds,
    );
  });
});

describe("plans", () => {
  test("print on one line and parse back", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 300_000 }), (positions) => {
        const part = { ...onePart(createProblem({ length: 8 }, "test"))[0]!, positions };
        for (const points of candidateSizes(part)) {
          expect(points % 16).toBe(0);
          expect(2 * points).toBeGreaterThanOrEqual(positions);
          for (const plan of candidatePlans(points)) {
            expect(product(plan.levels.flatMap((l) => l.radices)) * 4).toBe(points);
            expect(parsePlan(formatPlan([plan]))).toEqual({ plan: [plan], hop: 0 });
            const text = formatPlan([plan], { hop: 1 + (positions % 1000) });
            expect(parsePlan(text)).toEqual({ plan: [plan], hop: 1 + (positions % 1000) });
          }
        }
      }),
      { numRuns: 50 },
    );
  });

  test.each([
    ...["", "64", "64: 4", "64: 4·4·4", "64: 4·x", "64: 4·4 & ", "63: 4·4"],
    ...["direct", "direct 0", "direct @16", "direct 0 @16", "direct 16 @0", "direct 16 @8 @8"],
    ...["64: 4·4 @", "64: 4·4 @0", "64: 4·4 @1 @2", "64: 4·4 & 64: 4·4 @8"],
    ...["cyclic", "cyclic 64: 4·4 @8", "cyclic direct 16", "cyclic cyclic 64: 4·4"],
  ])("%j is no plan", (text) => {
    expect(parsePlan(text)).toBeUndefined();
  });

  test("every candidate's text is its own, and names it again", () => {
    const workload = { rows: 4, threads: 2 };
    fc.assert(
      fc.property(fc.oneof(anyProblem, sparseProblems), (options) => {
        const problem = createProblem(options, "test");
        const all = candidates(problem, defaultCpu, workload);
        const texts = all.map(({ text }) => text);
        expect(new Set(texts).size).toBe(texts.length);
        for (const candidate of all)
          expect(namedCandidate(candidate.text, problem, defaultCpu, workload)).toEqual(candidate);
      }),
      { numRuns: 100, examples: [[{ length: 16, kernelLength: 2, mode: "circular" }]] },
    );
  });

  test("of a circular row of 16: 31 positions, or the 16 of its period", () => {
    const problem = createProblem({ length: 16, kernelLength: 2, mode: "circular" }, "test");
    const positions = (text: string) =>
      namedCandidate(text, problem, defaultCpu, { rows: 1, threads: 1 })!.geometry[0]!.positions;
    expect(positions("16: 4")).toBe(31);
    expect(positions("cyclic 16: 4")).toBe(16);
  });

  test.each([
    ["padding after the last level", "16: 4 +64"],
    ["padding in a deeper level", "1024: 4 | 4 +64 | 4·4"],
    ["padding that splits a point", "256: 4 +62 | 4·4"],
    ["a tile that splits a vector", "256: 4 /2 | 4·4"],
    ["a tile that leaves a rest", "256: 4 /12 | 4·4"],
    ["a tile wider than its row", "256: 4 /128 | 4·4"],
    ["a radix of 1", "16: 4·1"],
    ["a radix without a codelet", "256: 64"],
  ])("%s cannot be carried out", (_, text) => {
    expect(parsePlan(text)).toBeUndefined();
  });

  test("levels tile the transform", () => {
    const [top, inner] = layout(parseTransform("65536: 4·4 /64 +64 | 4·4·4·4·4")!);
    expect(top).toMatchObject({ rows: 16, columns: 4096, pitch: 4096 * 8 + 64, blocks: 1 });
    expect(inner).toMatchObject({ rows: 1024, columns: 4, pitch: 32, blocks: 16, bytes: 32_768 });
  });

  test("a named plan must fit the problem", () => {
    const problem = createProblem({ length: 1000 }, "test");
    const workload = { rows: 1, threads: 1 };
    expect(namedCandidate("1024: 4·4·4·4", problem, defaultCpu, workload)?.text).toBe(
      "1024: 4·4·4·4",
    );
    expect(namedCandidate("256: 4·4·4", problem, defaultCpu, workload)).toBeUndefined();
    expect(namedCandidate("nonsense", problem, defaultCpu, workload)).toBeUndefined();
  });

  test("a plan in the time domain is named by its taps and the outputs of a block", () => {
    expect(formatDirect(16, 512)).toBe("direct 16 @512");
    expect(parsePlan("direct 16 @512")).toEqual({ plan: [], hop: 512, taps: 16 });
    const problem = createProblem({ length: 1000, kernelLength: 16, mode: "same" }, "test");
    const workload = { rows: 4, threads: 1 };
    const found = namedCandidate("direct 16 @512", problem, defaultCpu, workload)!;
    expect(found).toMatchObject({ plan: [], blocks: 2, text: "direct 16 @512" });
    expect(found.geometry[0]).toMatchObject({ positions: 527, blocks: { behind: 8, ahead: 7 } });
    const cost = directCost(512, 16, defaultCpu);
    expect(cost.flops).toBe(2 * 512 * 16);
    expect(cost.seconds).toBeCloseTo(cost.arithmetic + cost.memory + cost.overhead, 15);
    expect(found.cost.arithmetic).toBeCloseTo(2 * cost.arithmetic, 15);
    // Without outputs a block, rows are cut as the planner cuts them.
    expect(parsePlan("direct 16")).toEqual({ plan: [], hop: 0, taps: 16 });
    expect(namedCandidate("direct 16", problem, defaultCpu, workload)?.text).toBe(
      "direct 16 @1000",
    );
    for (const wrong of ["direct 15 @512", "direct 15", "direct 16 @510", "direct 16 @1004"])
      expect(namedCandidate(wrong, problem, defaultCpu, workload)).toBeUndefined();
  });

  // Measured on an EPYC 7003, Node 20: 12 taps gain a third and more with either instruction set, 24 lose.
  test.each([
    [1, true],
    [8, true],
    [12, true],
    [24, false],
    [64, false],
  ])("%i taps in the time domain: %s", (kernelLength, direct) => {
    for (const length of [4096, 65_536]) {
      const problem = createProblem({ length, kernelLength }, "test");
      const [best] = candidates(problem, defaultCpu, { rows: 16, threads: 1 });
      expect(best!.text.startsWith("direct")).toBe(direct);
    }
  });

  test("candidates come cheapest first, and a power of two runs as it is", () => {
    const list = candidates(createProblem({ length: 4096 }, "test"), defaultCpu, {
      rows: 64,
      threads: 1,
    });
    expect(list.map((c) => c.seconds)).toEqual(list.map((c) => c.seconds).sort((a, b) => a - b));
    expect(list[0]!.plan[0]!.points).toBe(4096);
  });

  test("a circular convolution of a smooth even period needs half the points of a padded one", () => {
    const problem = createProblem({ length: 8192, mode: "circular" }, "test");
    const [best] = candidates(problem, defaultCpu, { rows: 64, threads: 1 });
    const points = best!.plan.reduce((sum, p) => sum + p.points, 0);
    expect(points).toBeLessThan(1.1 * 4096);
  });
});

/** The convolution that a geometry describes, by its definition: a sum of negacyclic convolutions of placed samples. */
function byGeometry(
  problem: ReturnType<typeof createProblem>,
  index: number,
  u: number[],
  k: number[],
): number[] {
  const y = new Array<number>(problem.outputLength).fill(0);
  for (const part of geometries(problem)[index]!) {
    const P = part.positions + (part.exact ? 0 : 3);
    const place = (runs: typeof part.inputs, x: number[]): number[] => {
      const out = new Array<number>(P).fill(0);
      for (const r of runs) {
        for (let i = 0; i < r.count; i++) {
          const at = r.position + i;
          out[(at + P) % P]! += (at < 0 ? -1 : 1) * r.sign * x[r.index + i]!;
        }
      }
      return out;
    };
    const [a, b] = [place(part.inputs, u), place(part.taps, k)];
    const c = new Array<number>(P).fill(0);
    for (let i = 0; i < P; i++) {
      for (let j = 0; j < P; j++) c[(i + j) % P]! += (i + j >= P ? -1 : 1) * a[i]! * b[j]!;
    }
    for (const r of part.outputs) {
      for (let i = 0; i < r.count; i++) y[r.index + i]! += part.scale * r.sign * c[r.position + i]!;
    }
  }
  return y;
}

describe("blocks of rows", () => {
  const plans = (length: number, kernelLength: number) =>
    candidates(createProblem({ length, kernelLength }, "test"), defaultCpu, {
      rows: 16,
      threads: 1,
    });

  test("are chosen where the filter is short and the row long, and compared wherever they fit", () => {
    const long = plans(2 ** 22, 1024);
    expect(long[0]!.blocks).toBeGreaterThan(100);
    expect(long[0]!.plan[0]!.points).toBeLessThanOrEqual(16_384);
    expect(long.some((c) => c.blocks === 1)).toBe(true);
    expect(plans(4096, 4096)[0]!.blocks).toBe(1);
    const kernelLengths = [65_536, 16_384, 4096, 1024, 256];
    const seconds = kernelLengths.map((K) => plans(65_536, K)[0]!.seconds);
    for (let i = 1; i < seconds.length; i++) expect(seconds[i]).toBeLessThan(seconds[i - 1]!);
  });

  test("every candidate's text names it", () => {
    const problem = createProblem({ length: 100_000, kernelLength: 500, mode: "same" }, "test");
    const workload = { rows: 4, threads: 2 };
    for (const c of candidates(problem, defaultCpu, workload)) {
      const found = namedCandidate(c.text, problem, defaultCpu, workload);
      expect(found).toEqual(c);
    }
  });
});

describe("geometry", () => {
  const arbitrary = fc
    .record({
      length: fc.integer({ min: 1, max: 24 }),
      kernelLength: fc.integer({ min: 1, max: 40 }),
      mode: fc.constantFrom(
        "causal" as const,
        "full" as const,
        "same" as const,
        "bidirectional" as const,
      ),
    })
    .map((o) =>
      createProblem(o.mode === "bidirectional" ? { ...o, kernelLength: 2 * o.length } : o, "test"),
    );

  test("places every mode's samples so that negacyclic wrap-around misses the outputs", () => {
    fc.assert(
      fc.property(arbitrary, (problem) => {
        const u = Array.from({ length: problem.length }, (_, i) => i * i + 1);
        const k = Array.from({ length: problem.kernelLength }, (_, i) => 3 * i + 2);
        expect(byGeometry(problem, 0, u, k)).toEqual(direct(problem, u, k));
      }),
    );
  });

  test.each([
    [64, 64, 64],
    [128, 128, 128],
    [100, 128, 128],
    [70, 20, 192],
    [192, 192, 192],
  ])("splits circular convolutions exactly: L %i, K %i, N %i", (length, kernelLength, period) => {
    const problem = createProblem({ length, kernelLength, period, mode: "circular" }, "test");
    const u = Array.from({ length }, (_, i) => ((i * 7) % 11) - 5);
    const k = Array.from({ length: kernelLength }, (_, i) => ((i * 5) % 13) - 6);
    const all = geometries(problem);
    expect(all.length).toBeGreaterThan(1);
    all.forEach((_, i) => {
      expect(byGeometry(problem, i, u, k)).toEqual(direct(problem, u, k));
    });
  });

  test("half precision is never summed in its own storage", () => {
    expect(
      geometries(createProblem({ length: 4096, mode: "circular", dtype: "float16" }, "test")),
    ).toHaveLength(1);
  });

  test("groups runs so that no sample occurs twice in one", () => {
    const run = (index: number, count: number) => ({ index, count, position: 0, sign: 1 as const });
    expect(apartBySample([run(0, 4), run(4, 4), run(2, 3)])).toEqual([
      [run(0, 4), run(4, 4)],
      [run(2, 3)],
    ]);
    expect(covered([run(0, 4), run(2, 3)], 10)).toBe(5);
    expect(covered([run(6, 4), run(0, 5), run(1, 2)], 8)).toBe(7);
    // Counted by run: a flag for each would be refused.
    expect(covered([run(2 ** 52, 7), run(3, 4)], 2 ** 53)).toBe(11);
  });
});

/** The definition of each mode. */
function direct(problem: ReturnType<typeof createProblem>, u: number[], k: number[]): number[] {
  const { mode, length: L, kernelLength: K, period: N, outputLength } = problem;
  const tap = (n: number, m: number): number => {
    if (mode === "same") return n - m + ((K - 1) >> 1);
    if (mode === "circular") return (((n - m) % N) + N) % N;
    return mode === "bidirectional" ? (n - m + 2 * L) % (2 * L) : n - m;
  };
  return Array.from({ length: outputLength }, (_, n) =>
    u.reduce((sum, x, m) => sum + x * (k[tap(n, m)] ?? 0), 0),
  );
}
