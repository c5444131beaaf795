import { describe, expect, test } from "vitest";
import { InvalidArgumentError } from "../../src/errors.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { modes, type Problem, type ProblemOptions } from "../../src/plan/problem.ts";
import {
  oracleBackward,
  oracleBoth,
  oracleForward,
  relativeError,
} from "../../src/reference/convolution.ts";
import { drawInputs, gateCombinations } from "../support/cases.ts";
import { expectSameBits } from "../support/close.ts";
import { normal } from "../support/signals.ts";

const lengths = [1, 2, 3, 4, 5, 7, 8, 13, 16, 31];

/** All modes with kernels shorter than, as long as and longer than L, and periods from the least up. */
const problems: Problem[] = lengths.flatMap((length) =>
  modes.flatMap((mode): Problem[] => {
    const make = (options: Partial<ProblemOptions>) =>
      createProblem({ length, mode, ...options }, "test");
    if (mode === "bidirectional") {
      const halves = [...new Set([1, 2, Math.ceil(length / 2), length])].filter((r) => r <= length);
      return halves.map((half) => make({ kernelLength: 2 * half }));
    }
    const kernelLengths = [1, 2, 3, length, length + 1, 2 * length + 3];
    return [...new Set(kernelLengths)].flatMap((kernelLength) => {
      if (mode !== "circular") return [make({ kernelLength })];
      const least = Math.max(length, kernelLength);
      return [least, least + 1, length + kernelLength - 1, 2 * least + 5]
        .filter((period) => period >= least)
        .map((period) => make({ kernelLength, period }));
    });
  }),
);

const forward = (
  options: ProblemOptions,
  u: readonly number[],
  k: readonly number[],
  more: { pregate?: number[]; postgate?: number[]; skip?: number[] } = {},
) =>
  Array.from(
    oracleForward(createProblem(options, "test"), {
      batch: 1,
      channels: 1,
      u: Float64Array.from(u),
      k: Float64Array.from(k),
      ...Object.fromEntries(
        Object.entries(more).map(([name, values]) => [name, Float64Array.from(values)]),
      ),
      method: "direct",
    }),
  );

describe("the definition", () => {
  const u = [1, 2, 3, 4];
  test("causal, kernel shorter, as long, longer", () => {
    expect(forward({ length: 4, kernelLength: 2 }, u, [1, 10])).toEqual([1, 12, 23, 34]);
    expect(forward({ length: 4 }, u, [1, 0, 0, 1])).toEqual([1, 2, 3, 5]);
    expect(forward({ length: 4, kernelLength: 6 }, u, [1, 0, 0, 0, 7, 9])).toEqual(u);
  });
  test("circular, period L and above", () => {
    expect(forward({ mode: "circular", length: 4 }, u, [0, 1, 0, 0])).toEqual([4, 1, 2, 3]);
    expect(forward({ mode: "circular", length: 4, period: 5 }, u, [0, 1, 0, 0])).toEqual([
      0, 1, 2, 3,
    ]);
    expect(
      forward({ mode: "circular", length: 4, kernelLength: 5, period: 5 }, u, [0, 0, 0, 0, 1]),
    ).toEqual([2, 3, 4, 0]);
  });
  test("bidirectional: tap j back, tap 2L − j ahead, tap L never", () => {
    const reach = (taps: number[]) => forward({ mode: "bidirectional", length: 4 }, u, taps);
    expect(reach([0, 1, 0, 0, 0, 0, 0, 0])).toEqual([0, 1, 2, 3]);
    expect(reach([0, 0, 0, 0, 0, 0, 0, 1])).toEqual([2, 3, 4, 0]);
    expect(reach([0, 0, 0, 0, 1, 0, 0, 0])).toEqual([0, 0, 0, 0]);
    const short = { mode: "bidirectional", length: 4, kernelLength: 4 } as const;
    expect(forward(short, u, [1, 0, 0, 0])).toEqual([1, 2, 3, 4]);
    expect(forward(short, u, [0, 1, 0, 0])).toEqual([0, 1, 2, 3]);
    expect(forward(short, u, [0, 0, 1, 0])).toEqual([0, 0, 0, 0]);
    expect(forward(short, u, [0, 0, 0, 1])).toEqual([2, 3, 4, 0]);
  });
  test("full and same, as scipy.signal.fftconvolve and numpy.convolve", () => {
    const options = { length: 3, kernelLength: 3 };
    expect(forward({ ...options, mode: "full" }, [1, 2, 3], [0, 1, 0.5])).toEqual([
      0, 1, 2.5, 4, 1.5,
    ]);
    expect(forward({ ...options, mode: "same" }, [1, 2, 3], [0, 1, 0.5])).toEqual([1, 2.5, 4]);
    // An even kernel: scipy's centre is at (K − 1) div 2.
    expect(forward({ length: 4, kernelLength: 4, mode: "same" }, u, [1, 10, 100, 1000])).toEqual([
      12, 123, 1234, 2340,
    ]);
  });
  test("gates and skip", () => {
    expect(
      forward({ length: 4, kernelLength: 2 }, u, [1, 10], {
        pregate: [1, -1, 0, 2],
        postgate: [2, 1, 1, -1],
        skip: [100],
      }),
    ).toEqual([102, 208, 280, 392]);
  });
});

describe("gradients", () => {
  test.each(modes)("are the derivatives of the forward sums: %s", (mode) => {
    // y is linear in each input by itself, so a difference of any width is its exact derivative.
    const problem = createProblem({ length: 5, mode }, "test");
    const shape = { batch: 2, channels: 2, pregate: true, postgate: true, skip: mode !== "full" };
    const { exact } = drawInputs(problem, shape, 3);
    const loss = (inputs: typeof exact) => {
      const y = oracleForward(problem, { ...inputs, method: "direct" });
      return y.reduce((sum, value, n) => sum + value * exact.dy[n]!, 0);
    };
    const gradients = oracleBackward(problem, { ...exact, method: "direct" });
    const pairs = [
      ["u", gradients.du],
      ["k", gradients.dk],
      ["pregate", gradients.dpregate],
      ["postgate", gradients.dpostgate],
      ["skip", gradients.dskip],
    ] as const;
    for (const [name, gradient] of pairs) {
      const values = exact[name];
      expect(gradient === undefined).toBe(values === undefined);
      if (!values || !gradient) continue;
      const numeric = values.map((_, n) => {
        const moved = (step: number) => values.map((value, i) => (i === n ? value + step : value));
        return (loss({ ...exact, [name]: moved(1) }) - loss({ ...exact, [name]: moved(-1) })) / 2;
      });
      expect(relativeError(gradient, numeric)).toBeLessThan(1e-13);
    }
  });
});

describe("the FFT way", () => {
  test("gives what the sums give, in every mode, with all gates and both batch and channels", () => {
    for (const [index, problem] of problems.entries()) {
      const combinations = gateCombinations(problem);
      const gates = combinations[index % combinations.length]!;
      const { exact } = drawInputs(problem, { batch: 2, channels: 2, ...gates }, index);
      const label = JSON.stringify({ ...problem, ...gates });
      const y = oracleForward(problem, { ...exact, method: "fft" });
      const expected = oracleForward(problem, { ...exact, method: "direct" });
      expect(relativeError(y, expected), label).toBeLessThan(3e-15);
      const actual = oracleBackward(problem, { ...exact, method: "fft" });
      for (const [name, gradient] of Object.entries(
        oracleBackward(problem, { ...exact, method: "direct" }),
      )) {
        const error = relativeError(actual[name as keyof typeof actual]!, gradient);
        expect(error, `${name} of ${label}`).toBeLessThan(3e-14);
      }
    }
  });

  test("gives the same bits where forward and backward share what they need, in either order", () => {
    for (const mode of modes) {
      const problem = createProblem({ length: 300, mode }, "test");
      const shape = { batch: 2, channels: 3, pregate: true, postgate: true, skip: mode !== "full" };
      const { exact } = drawInputs(problem, shape, 7);
      const y = oracleForward(problem, exact);
      const gradients = oracleBackward(problem, exact);
      const both = oracleBoth(problem, exact);
      for (let round = 0; round < 2; round++) {
        expectSameBits(both.forward(), y);
        expectSameBits(both.backward(), gradients);
      }
      const other = oracleBoth(problem, exact);
      expectSameBits(other.backward(), gradients);
      expectSameBits(other.forward(), y);
    }
  });

  test("gives what compensated sums give at 2^20 samples", () => {
    const length = 2 ** 20;
    const problem = createProblem({ length }, "test");
    const u = normal(length, 1);
    const k = normal(length, 2);
    const y = oracleForward(problem, { batch: 1, channels: 1, u, k, method: "fft" });
    for (const n of [0, 1, 2, length / 2 - 1, length / 2, length - 1]) {
      let sum = 0;
      let lost = 0;
      for (let j = 0; j <= n; j++) {
        const term = u[n - j]! * k[j]!;
        const next = sum + term;
        lost += Math.abs(sum) >= Math.abs(term) ? sum - next + term : term - next + sum;
        sum = next;
      }
      expect(Math.abs(y[n]! - (sum + lost)) / Math.sqrt(length)).toBeLessThan(3e-15);
    }
  });
});

describe("relativeError", () => {
  test("is relative, in L2, and NaN spreads", () => {
    expect(relativeError([3, 4.5], [3, 4])).toBeCloseTo(0.1, 15);
    expect(relativeError([0, 0], [3, 4])).toBe(1);
    expect(relativeError([0, 0], [0, 0])).toBe(0);
    expect(relativeError([1, 0], [0, 0])).toBe(Number.POSITIVE_INFINITY);
    expect(relativeError([Number.NaN, 4], [3, 4])).toBeNaN();
    expect(relativeError([3, 4], [Number.NaN, 4])).toBeNaN();
  });
  test("refuses other shapes", () => {
    expect(() => relativeError([1], [1, 2])).toThrow(InvalidArgumentError);
  });
});

describe("bad input", () => {
  const problem = createProblem({ length: 4, kernelLength: 2, mode: "full" }, "test");
  const good = { batch: 1, channels: 2, u: new Float64Array(8), k: new Float64Array(4) };
  test.each([
    ["u", { u: new Float64Array(7) }],
    ["k", { k: new Float64Array(8) }],
    ["pregate", { pregate: new Float64Array(10) }],
    ["postgate", { postgate: new Float64Array(8) }],
    ["skip", { skip: new Float64Array(1) }],
    ["skip", { skip: new Float64Array(2) }],
  ])("wrong %s", (name, change) => {
    expect(() => oracleForward(problem, { ...good, ...change })).toThrow(InvalidArgumentError);
    expect(() => oracleForward(problem, { ...good, ...change })).toThrow(name);
  });
  test("wrong dy", () => {
    expect(() => oracleBackward(problem, { ...good, dy: new Float64Array(8) })).toThrow(/dy/);
  });
});
