/**
 * Frequency-sparse convolutions against their definition: equal to the dense operation on the masked kernel, forward and
 * backward, whatever the pattern, the mode, the lengths, the storage and the gates.
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { dtypes } from "../../src/dtype.ts";
import { FlashFFTConv, InvalidArgumentError } from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import type { Frequencies } from "../../src/plan/frequencies.ts";
import { modes, type ProblemOptions } from "../../src/plan/problem.ts";
import { oracleForward } from "../../src/reference/convolution.ts";
import {
  describeBackends,
  type Open,
  onGpu,
  randomCases,
  share,
  whereThingsGo,
} from "../support/backends.ts";
import {
  type CallShape,
  checkBackward,
  checkForward,
  drawInputs,
  forwardBar,
  gateCombinations,
} from "../support/cases.ts";
import { expectClose, norm } from "../support/close.ts";
import { normal } from "../support/signals.ts";

/** Samples that transforms come in, and are long enough for any of the lengths below. */
const anyPeriod = onGpu
  ? fc.constantFrom(512, 640, 768, 1024, 2048, 2560)
  : fc.constantFrom(512, 768, 1000 - 40, 1008, 1024, 1344, 2048, 2560, 4096);

/** The factors of n in a random order, joined at random: digits of a bin's number. */
function digitsOf(n: number, draw: () => number): number[] {
  const digits: number[] = [];
  let rest = n;
  while (rest > 1) {
    const divisors = Array.from({ length: Math.min(rest, 64) }, (_, d) => d + 1).filter(
      (d) => d > 1 && rest % d === 0,
    );
    const digit = divisors[Math.floor(draw() * divisors.length)] ?? rest;
    digits.push(digit);
    rest /= digit;
  }
  return digits;
}

const anyPattern: fc.Arbitrary<Frequencies> = fc
  .record({
    period: anyPeriod,
    kind: fc.constantFrom("band", "blocks"),
    numbers: fc.array(fc.double({ min: 0, max: 0.999, noNaN: true }), {
      minLength: 24,
      maxLength: 24,
    }),
  })
  .map(({ period, kind, numbers }) => {
    let at = 0;
    const draw = (): number => numbers[at++ % numbers.length]!;
    if (kind === "band") {
      const from = draw() * 0.4;
      return { band: [from, from + 2 / period + draw() * (0.6 - from)] as const, period };
    }
    const digits = digitsOf(period, draw);
    const dropped = digits.map((n) => Math.floor(Math.max(0, 2 * draw() - 1) * n));
    return { digits, dropped };
  });

const anyProblem: fc.Arbitrary<ProblemOptions> = fc
  .record({
    mode: fc.constantFrom(...modes),
    dtype: fc.constantFrom(...dtypes),
    frequencies: anyPattern,
    a: fc.double({ min: 0.001, max: 1, noNaN: true }),
    b: fc.double({ min: 0.001, max: 1, noNaN: true }),
  })
  .map(({ mode, dtype, frequencies, a, b }): ProblemOptions => {
    const period =
      "band" in frequencies ? frequencies.period! : frequencies.digits.reduce((x, y) => x * y, 1);
    const part = (share: number, of: number): number => Math.max(1, Math.floor(share * of));
    const common = { mode, dtype, frequencies };
    if (mode === "circular")
      return { ...common, length: part(a, period), kernelLength: part(b, period), period };
    // Every other mode fits where inputs and taps take half of the period each.
    const length = part(a, period / 2);
    const kernelLength = 2 * part(b, Math.min(length, period / 4));
    return { ...common, length, kernelLength };
  });

const anyShape: fc.Arbitrary<Required<Omit<CallShape, "sizes">>> = fc.record({
  batch: fc.integer({ min: 1, max: 4 }),
  channels: fc.integer({ min: 1, max: 3 }),
  pregate: fc.boolean(),
  postgate: fc.boolean(),
  skip: fc.boolean(),
});

async function check(open: Open, options: ProblemOptions, shape: CallShape, seed: number) {
  const problem = createProblem(options, "test");
  const skip = (shape.skip ?? false) && problem.outputLength === problem.length;
  const inputs = drawInputs(problem, { ...shape, skip }, seed);
  using conv = await open(options);
  await checkForward(conv, inputs);
  await checkBackward(conv, inputs);
}

/** Patterns of every kind: bands, combs, low passes, both, one bin alone. */
const patterns: Record<string, Frequencies> = {
  "all of them": { band: [0, 1], period: 2048 },
  "a low pass": { band: [0, 0.125], period: 2048 },
  "a band": { band: [0.11, 0.23], period: 2048 },
  "a high pass": { band: [0.4, 1], period: 2048 },
  "the mean alone": { band: [0, 1e-4], period: 2048 },
  "the highest frequency alone": { band: [0.5, 1], period: 2048 },
  "one bin": { band: [301 / 2048, 302 / 2048], period: 2048 },
  "a comb": { digits: [32, 64], dropped: [16, 0] },
  "the paper's 75 %": { digits: [8, 8, 8, 4], dropped: [4, 4, 0, 0] },
  "the paper's 91 %": { digits: [8, 8, 8, 4], dropped: [4, 4, 4, 1] },
  "odd teeth": { digits: [16, 128], dropped: [11, 37] },
  "a period with all factors": { digits: [3, 16, 35], dropped: [1, 8, 6] },
};

describe("frequency-sparse convolutions", () => {
  describeBackends("agree with their definition", (open) => {
    // On WebGPU there are no transforms of 1,680 points.
    const names = Object.keys(patterns);
    test.each(onGpu ? names.slice(0, -1) : names)("%s", async (name) => {
      const frequencies = patterns[name]!;
      const options = { length: 800, kernelLength: 700, frequencies } as const;
      await check(open, options, { batch: 2, channels: 3 }, 1);
    });
  });

  describeBackends(
    "every mode, dtype and gate",
    (open) => {
      for (const mode of modes) {
        for (const dtype of dtypes) {
          test(`${mode}, ${dtype}`, async () => {
            const frequencies = { digits: [16, 8, 16], dropped: [8, 4, 3] };
            const period = mode === "circular" ? { period: 2048 } : {};
            const options = { mode, dtype, length: 700, kernelLength: 500, frequencies, ...period };
            // Storage changes the ends of a row, where gates are, by other code than float32: some of them each.
            const all = gateCombinations({ mode });
            const some = dtype === "float32" ? all : all.filter((_, i) => i % 3 === 1 || i === 7);
            for (const [i, gates] of share(some, 8).entries())
              await check(open, options, { batch: 2, channels: 2, ...gates }, 10 + i);
          });
        }
      }
    },
    whereThingsGo,
  );

  describeBackends("random problems", (open, configuration) => {
    const numRuns = onGpu ? 6 : 25;
    test(`${numRuns} problems`, async () => {
      await fc.assert(
        fc.asyncProperty(anyProblem, anyShape, fc.integer({ min: 0, max: 1e6 }), (o, s, seed) =>
          check(open, o, s, seed),
        ),
        randomCases(configuration, numRuns, 20_240_229),
      );
    });
  });

  describeBackends(
    "rows beyond a cache",
    (open) => {
      test.each([
        ["64K", 65_536, [16, 16, 16, 16], [8, 8, 0, 0]],
        ["64K", 65_536, [16, 16, 16, 16], [8, 8, 8, 4]],
        ["256K", 262_144, [16, 16, 32, 32], [8, 8, 4, 0]],
      ] as const)("%s: adjoint, and linear in the pattern", async (_, period, digits, dropped) => {
        const length = period / 2;
        const u = Float32Array.from(normal(length, 1));
        const k = Float32Array.from(normal(length, 2));
        const dy = Float32Array.from(normal(length, 3));
        using sparse = await open({ length, frequencies: { digits, dropped } });
        const y = (await sparse.forward(u, k)) as Float32Array;
        const { du, dk } = await sparse.backward(dy, u, k);
        const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
          Array.prototype.reduce.call(a, (sum, v, i) => Number(sum) + v * b[i]!, 0) as number;
        const size = norm(Float64Array.from(y)) * norm(Float64Array.from(dy));
        expect(Math.abs(dot(y, dy) - dot(u, du as Float32Array)) / size).toBeLessThan(1e-6);
        expect(Math.abs(dot(y, dy) - dot(k, dk)) / size).toBeLessThan(1e-6);
        // One plan skips nothing, the other what it can: the same mask, the same result.
        const named = sparse.explain().candidates.at(-1)!.plan;
        using other = await open({ length, frequencies: { digits, dropped }, plan: named });
        expectClose(await other.forward(u, k), Float64Array.from(y), {
          rowLength: length,
          bound: 2 * forwardBar(sparse.problem),
        });
      });
    },
    { instructions: ["simd"] },
  );

  test.skipIf(onGpu)(
    "the check refuses zeros, a shift, a lost tail, and the kernel with all its frequencies",
    async () => {
      const frequencies = { digits: [16, 64], dropped: [8, 16] };
      const problem = createProblem({ length: 512, frequencies }, "test");
      const inputs = drawInputs(problem, {}, 5);
      using conv = await FlashFFTConv.create({ length: 512, frequencies });
      const y = Float32Array.from((await checkForward(conv, inputs)) as Float32Array);
      const { frequencies: _, ...whole } = problem;
      const wrong: Record<string, Float32Array> = {
        zeros: new Float32Array(512),
        shift: Float32Array.from(y, (_v, n) => y[n - 1] ?? 0),
        tail: Float32Array.from(y, (v, n) => (n < 256 ? v : 0)),
        last: Float32Array.from(y, (v, n) => (n < 511 ? v : 0)),
        dense: Float32Array.from(oracleForward(whole, inputs.exact)),
      };
      const scale = Float64Array.of(norm(inputs.exact.u) * norm(inputs.exact.k));
      for (const values of Object.values(wrong)) {
        const rule = { rowLength: 512, bound: forwardBar(problem), scale };
        expect(() => expectClose(values, inputs.y(), rule)).toThrow("relative L2 error");
      }
    },
  );

  test.skipIf(onGpu)("prepared kernels, and rows on two threads, give the same bits", async () => {
    const frequencies = { digits: [16, 16, 16], dropped: [8, 4, 2] };
    const shape = { batch: 3, channels: 5 };
    const inputs = drawInputs(createProblem({ length: 2048, frequencies }, "test"), shape, 6);
    const results: Float32Array[] = [];
    for (const threads of [1, 2]) {
      using conv = await FlashFFTConv.create({ length: 2048, frequencies, threads });
      using kernel = await conv.prepareKernel(inputs.k);
      results.push((await conv.forward(inputs.u, kernel)) as Float32Array);
      results.push((await conv.forward(inputs.u, inputs.k)) as Float32Array);
    }
    for (const result of results) expect(result).toEqual(results[0]);
  });
});

describe.skipIf(onGpu)("frequencies are refused", () => {
  const cases: [string, object, RegExp][] = [
    ["a string", { frequencies: "low" }, /band/],
    ["null", { frequencies: null }, /band/],
    ["both kinds", { frequencies: { band: [0, 1], digits: [16], dropped: [0] } }, /band/],
    ["a band that ends before it begins", { frequencies: { band: [0.2, 0.1] } }, /f0 < f1/],
    ["a band of Hz", { frequencies: { band: [0, 4000] } }, /cycles per sample/],
    ["NaN", { frequencies: { band: [0, Number.NaN] } }, /cycles per sample/],
    ["digits of fractions", { frequencies: { digits: [1.5, 64], dropped: [0, 0] } }, /digits/],
    ["too few dropped", { frequencies: { digits: [16, 16], dropped: [8] } }, /dropped/],
    ["all of a digit dropped", { frequencies: { digits: [16, 16], dropped: [16, 0] } }, /dropped/],
    ["an empty band", { frequencies: { band: [0.3001, 0.3002] } }, /at least one bin/],
    ["too short an N", { frequencies: { digits: [16, 4], dropped: [8, 0] } }, /at least 199/],
    ["a prime in N", { frequencies: { band: [0, 0.2], period: 16 * 11 * 2 } }, /multiple of 16/],
    ["an odd N", { frequencies: { band: [0, 0.2], period: 243 } }, /multiple of 16/],
    [
      "another period than the circular one",
      { mode: "circular", period: 128, frequencies: { digits: [16, 16], dropped: [8, 0] } },
      /period 128/,
    ],
    ["a period that no transform has", { mode: "circular", frequencies: { band: [0, 1] } }, /100/],
  ];
  test.each(cases)("%s", async (_, options, message) => {
    const create = FlashFFTConv.create({ length: 100, ...options } as never);
    const error = await create.then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(InvalidArgumentError);
    expect((error as Error).message).toMatch(message);
  });

  test("in plans of other problems", async () => {
    const frequencies = { band: [0, 0.1] } as const;
    for (const plan of ["128: 2·4·4", "1024: 4·4·4·4 @512", "64: 4·4"]) {
      await expect(FlashFFTConv.create({ length: 100, frequencies, plan })).rejects.toThrow(
        InvalidArgumentError,
      );
    }
  });
});
