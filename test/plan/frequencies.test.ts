/** Patterns, what the planner makes of them, and what it says they save. */
import { describe, expect, test } from "vitest";
import { planCost } from "../../src/plan/cpu/cost.ts";
import { candidates, namedCandidate, wholeWork } from "../../src/plan/cpu/cyclic-planner.ts";
import { parsePlan, pointsLeft, product } from "../../src/plan/cpu/plan.ts";
import { workOf } from "../../src/plan/cpu/planner.ts";
import { cyclicFactors, ringPoints } from "../../src/plan/cpu/sparse.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { defaultCpu } from "../../src/plan/device.ts";
import { type Frequencies, keptBins, keptRuns } from "../../src/plan/frequencies.ts";
import { countOf, digitValues, flagsOf, type Intervals } from "../../src/plan/intervals.ts";
import type { ProblemOptions } from "../../src/plan/problem.ts";
import { keepsBin } from "../support/frequencies.ts";

const workload = { rows: 16, threads: 1 };

function problemOf(frequencies: Frequencies, length = 32_768) {
  return createProblem({ length, frequencies }, "test");
}

/** The integers of a set, one by one. */
const listOf = (intervals: Intervals): number[] =>
  [...flagsOf(intervals, intervals.at(-1) ?? 0)].flatMap((flag, n) => (flag ? [n] : []));

describe("patterns", () => {
  test.each([
    [{ band: [0, 0.125], period: 1024 }],
    [{ band: [0.1, 0.3], period: 1008 }],
    [{ digits: [32, 32], dropped: [16, 0] }],
    [{ digits: [32, 32], dropped: [0, 24] }],
    [{ digits: [7, 9, 16], dropped: [3, 4, 5] }],
  ] as [Frequencies][])("%j: every bin as the definition has it", (frequencies) => {
    const { frequencies: kept } = problemOf(frequencies, 400);
    const bins = keptBins(kept!);
    expect(bins.length).toBe(kept!.period / 2 + 1);
    expect([...bins]).toEqual([...bins].map((_, f) => Number(keepsBin(kept!, f))));
  });

  test("runs of bins neither touch nor overlap", () => {
    for (const dropped of [
      [0, 0, 0],
      [1, 0, 15],
      [15, 15, 15],
      [3, 8, 1],
    ]) {
      const { frequencies } = problemOf({ digits: [16, 16, 16], dropped }, 1000);
      const runs = keptRuns(frequencies!);
      runs.forEach((edge, i) => {
        if (i > 0) expect(edge).toBeGreaterThan(runs[i - 1]!);
      });
      expect(countOf(runs)).toBe(keptBins(frequencies!).reduce((a, b) => a + b, 0));
    }
  });

  test("the first digit makes a comb, the last a low pass", () => {
    const list = (frequencies: Frequencies): number[] =>
      [...keptBins(problemOf(frequencies, 32).frequencies!)].flatMap((v, f) => (v ? [f] : []));
    expect(list({ digits: [8, 8], dropped: [4, 0] })).toEqual([
      0, 1, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 32,
    ]);
    expect(list({ digits: [8, 8], dropped: [0, 4] })).toEqual(
      Array.from({ length: 16 }, (_, f) => f),
    );
    expect(list({ band: [0.25, 0.5] })).toEqual(Array.from({ length: 16 }, (_, f) => 16 + f));
    expect(list({ band: [0.5, 1] })).toEqual([32]);
  });

  test.each([
    [[16, 0, 0, 0], 0.5],
    [[16, 16, 0, 0], 0.75],
    [[16, 16, 16, 8], 0.91],
  ])("the paper's %j of 32⁴ drops %f", (dropped, share) => {
    const bins = keptBins(problemOf({ digits: [32, 32, 32, 32], dropped }, 524_288).frequencies!);
    const kept = bins.reduce((a, b) => a + b, 0) / bins.length;
    expect(Math.abs(1 - kept - share)).toBeLessThan(0.04);
  });

  test("N: the period, the digits' product, or a power of two that nothing wraps around in", () => {
    const band = { band: [0, 0.1] as const };
    const periodOf = (options: object): number =>
      createProblem({ length: 1000, frequencies: band, ...options }, "test").frequencies!.period;
    expect(periodOf({})).toBe(2048);
    expect(periodOf({ length: 1024 })).toBe(2048);
    expect(periodOf({ kernelLength: 20 })).toBe(1024);
    expect(periodOf({ mode: "full", kernelLength: 1100 })).toBe(4096);
    expect(periodOf({ mode: "same" })).toBe(2048);
    expect(periodOf({ mode: "circular", period: 1008 })).toBe(1008);
    expect(periodOf({ frequencies: { ...band, period: 3024 } })).toBe(3024);
  });
});

describe("the planner", () => {
  test("factors cover every kept bin once, and none that keeps nothing is begun", () => {
    for (const frequencies of [
      { band: [0, 1], period: 65_536 },
      { digits: [32, 2048], dropped: [16, 0] },
      { band: [0.25, 0.2501], period: 65_536 },
    ] as Frequencies[]) {
      const problem = problemOf(frequencies);
      const bins = keptBins(problem.frequencies!);
      const factors = cyclicFactors(problem);
      // Complex points of a factor: each inner bin of the real transform is one, or, in the last factor, two.
      const points = factors.flatMap(({ part, points }) =>
        part.ring!.wrap < 0
          ? countOf(points)
          : listOf(points).filter((b) => 2 * b <= ringPoints(part)).length,
      );
      expect(points.reduce((a, b) => a + b, 0)).toBe(bins.reduce((a, b) => a + b, 0));
      expect(factors.every(({ points }) => countOf(points) > 0)).toBe(true);
    }
  });

  test.each([
    [{ band: [0, 1], period: 5040 }],
    [{ band: [0.1, 0.3], period: 6144 }],
    [{ band: [0.5, 1], period: 4096 }],
    [{ digits: [16, 16, 16], dropped: [7, 4, 5] }],
    [{ digits: [3, 5, 7, 64], dropped: [1, 0, 3, 20] }],
  ] as [Frequencies][])("%j: points and their digits, run by run as one by one", (frequencies) => {
    const problem = problemOf(frequencies, 2000);
    const { period } = problem.frequencies!;
    const bins = keptBins(problem.frequencies!);
    for (const { part, points } of cyclicFactors(problem)) {
      const count = ringPoints(part);
      const quarter = part.ring!.wrap < 0 ? 1 : 0;
      const kept = Array.from({ length: count }, (_, b) => b).filter((b) => {
        const frequency = (period / (4 * count)) * (4 * b + quarter);
        return bins[Math.min(frequency, period - frequency)];
      });
      expect(listOf(points)).toEqual(kept);
      for (const below of [1, 3, 16, 28]) {
        for (const radix of [2, 3, 4, 7, 16]) {
          const values = new Set(kept.map((b) => Math.floor(b / below) % radix));
          const expected = [...values].sort((a, b) => a - b);
          expect(digitValues(points, below, radix)).toEqual(expected);
        }
      }
    }
  });

  test("where nothing is masked, a factor of millions of points is one run of them", () => {
    const options = { mode: "circular", length: 2 ** 24, kernelLength: 2 ** 25, period: 2 ** 25 };
    const factors = cyclicFactors(createProblem(options as ProblemOptions, "test"));
    expect(factors.length).toBeGreaterThan(10);
    for (const { part, points } of factors) expect(points).toEqual([0, ringPoints(part)]);
    expect(keptRuns({ band: [0.1, 0.2], period: 2 ** 25 })).toEqual([3_355_444, 6_710_887]);
  });

  test("what is left is no less than the pattern keeps, and little more where it fits the digits", () => {
    const problem = problemOf({ digits: [16, 16, 16, 16], dropped: [8, 8, 8, 4] });
    const [best] = candidates(problem, defaultCpu, workload);
    const factors = cyclicFactors(problem);
    best!.plan.forEach((plan, i) => {
      expect(pointsLeft(plan)).toBeGreaterThanOrEqual(countOf(factors[i]!.points));
      if (plan.points >= 4096)
        expect(pointsLeft(plan)).toBeLessThanOrEqual(4 * countOf(factors[i]!.points));
      const left = product(plan.sparse!.kept.map((k) => k.length));
      expect(plan.sparse!.masked).toBe(left > countOf(factors[i]!.points));
    });
  });

  test("it orders radices so that the first stages skip", () => {
    const problem = problemOf({ digits: [32, 2048], dropped: [16, 0] });
    const [best] = candidates(problem, defaultCpu, workload);
    const usual = namedCandidate(
      best!.text.replace(/^cyclic 16384: [^&]*/, "cyclic 16384: 4·4·4·4·4·4 "),
      problem,
      defaultCpu,
      workload,
    );
    const share = (kept: readonly (readonly number[])[], stages: number): number =>
      product(kept.slice(0, stages).map((k) => k.length));
    // Half of what the first 8 or 16 residues of b tell apart is dropped.
    expect(share(best!.plan[0]!.sparse!.kept, 2)).toBeLessThan(16);
    expect(planCost(best!.plan[0]!, defaultCpu).flops).toBeLessThan(
      planCost(usual!.plan[0]!, defaultCpu).flops,
    );
  });

  test("plans print and parse back, outputs and all", () => {
    const problem = problemOf({ digits: [16, 16, 16, 16], dropped: [8, 8, 0, 0] });
    for (const candidate of candidates(problem, defaultCpu, workload)) {
      expect(parsePlan(candidate.text)).toBeDefined();
      expect(namedCandidate(candidate.text, problem, defaultCpu, workload)?.plan).toEqual(
        candidate.plan,
      );
    }
    expect(namedCandidate("16384: 4·4·4·4·4·4", problem, defaultCpu, workload)).toBe(undefined);
    expect(namedCandidate("16384: 4·4·4·4·4·2·2", problem, defaultCpu, workload)).toBe(undefined);
  });

  test("more dropped is less work, and none dropped is all of it", () => {
    const work = (frequencies: Frequencies) => {
      const problem = problemOf(frequencies);
      return workOf(candidates(problem, defaultCpu, workload)[0]!, defaultCpu);
    };
    const digits = [16, 16, 16, 16];
    const whole = wholeWork({
      problem: problemOf({ digits, dropped: [8, 8, 0, 0] }),
      device: defaultCpu,
      workload,
    });
    expect(work({ band: [0, 1], period: 65_536 })).toEqual(whole);
    let before = whole;
    for (const dropped of [
      [8, 0, 0, 0],
      [8, 8, 0, 0],
      [8, 8, 8, 0],
      [8, 8, 8, 8],
    ]) {
      const now = work({ digits, dropped });
      expect(now.flops).toBeLessThan(before.flops);
      expect(now.bytes).toBeLessThan(before.bytes);
      before = now;
    }
    expect(before.flops).toBeLessThan(0.35 * whole.flops);
  });
});
