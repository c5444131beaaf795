/** The error bars: float32, gradients, half precision, at every length; and every combination of options once. */
import { describe, test } from "vitest";
import { type Dtype, dtypes } from "../../src/dtype.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { type Mode, modes, type ProblemOptions } from "../../src/plan/problem.ts";
import { describeBackends, share, whereThingsGo } from "../support/backends.ts";
import {
  type CallShape,
  checkBackward,
  checkForward,
  drawInputs,
  gateCombinations,
  type Inputs,
} from "../support/cases.ts";

/** Inputs shared by all configurations, so that the oracle works once. */
function prepare(
  options: ProblemOptions,
  shape: CallShape,
  seed: number,
): [ProblemOptions, Inputs] {
  return [options, drawInputs(createProblem(options, "test"), shape, seed)];
}

const everyGate = (mode: Mode) => ({ pregate: true, postgate: true, skip: mode !== "full" });
const tiny = [1, 2, 3, 4, 5, 7, 8, 13, 16, 33, 64, 100, 127, 255].map((length) =>
  prepare({ length }, { batch: 4, channels: 8 }, length),
);
const small = [256, 257, 500, 1000, 1009, 1024, 2187, 3125, 4000, 4096].map((length) =>
  prepare({ length }, { batch: 2, channels: 3 }, length),
);
const medium = [4099, 5000, 8192, 12_345, 16_384, 30_030, 32_768, 65_536, 65_537, 100_000].map(
  (length) => prepare({ length }, { batch: 2, channels: 1 }, length),
);

const everyMode = modes.flatMap((mode) =>
  [1000, 4096, 20_000].map((length): [Mode, number, ProblemOptions, Inputs] => [
    mode,
    length,
    ...prepare({ mode, length }, { batch: 2, channels: 2, ...everyGate(mode) }, length),
  ]),
);
const manyRows = prepare({ length: 200 }, { batch: 1024 }, 3);

describeBackends("float32 at unit scale", (open) => {
  test.each(share(tiny))("$length samples, 32 rows together", async (options, inputs) => {
    using conv = await open(options);
    await checkForward(conv, inputs, "all");
    await checkBackward(conv, inputs, "all");
    await checkForward(conv, inputs);
    await checkBackward(conv, inputs);
  });

  test.each(share(small))("$length samples, row by row", async (options, inputs) => {
    using conv = await open(options);
    await checkForward(conv, inputs, "rows");
    await checkBackward(conv, inputs, "rows");
  });
});

describeBackends("float32 at unit scale, longer, in every mode", (open, { options }) => {
  // Plain JavaScript compiles for longer than it runs: half of them, in every mode.
  const some = <T>(cases: readonly T[]) =>
    options.instructions === "javascript" ? cases.filter((_, n) => n % 2 === 0) : cases;
  test.each(some(share(medium)))("$length samples, row by row", async (options, inputs) => {
    using conv = await open(options);
    await checkForward(conv, inputs, "rows");
    await checkBackward(conv, inputs, "rows");
  });

  test.each(some(share(everyMode)))(
    "%s, %i samples, gates and skip",
    async (_m, _n, options, inputs) => {
      using conv = await open({ ...options, batch: 2 });
      await checkForward(conv, inputs, "rows");
      await checkBackward(conv, inputs, "rows");
    },
  );

  test("dk of 1024 rows keeps to its law", async () => {
    const [options, inputs] = manyRows;
    using conv = await open(options);
    await checkBackward(conv, inputs, "rows");
  });
});

const large = [262_144, 1_000_003, 1_048_576].map((length) =>
  prepare({ length }, { pregate: true, postgate: true }, length),
);

describeBackends(
  "at unit scale, long rows",
  (open) => {
    test.each(share(large))("$length samples with gates", async (options, inputs) => {
      using conv = await open(options);
      await checkForward(conv, inputs, "rows");
      await checkBackward(conv, inputs, "rows");
    });

    test.each(share(largeHalves))(
      "%s, 100,000 samples with gates",
      async (_dtype, options, inputs) => {
        using conv = await open(options);
        await checkForward(conv, inputs, "rows");
        await checkBackward(conv, inputs, "rows");
      },
    );
  },
  { threads: 2 },
);

const largeHalves = (["float16", "bfloat16"] as const).map(
  (dtype): [Dtype, ProblemOptions, Inputs] => [
    dtype,
    ...prepare({ length: 100_000, dtype }, { pregate: true, postgate: true }, 9),
  ],
);

const longest = prepare({ length: 4_194_304 }, {}, 4);

describeBackends(
  "at unit scale, the longest bar",
  (open) => {
    test("4,194,304 samples", async () => {
      const [options, inputs] = longest;
      using conv = await open(options);
      await checkForward(conv, inputs, "rows");
      await checkBackward(conv, inputs, "rows");
    });
  },
  { threads: 2, instructions: ["relaxed-simd", "simd"] },
);

const halves = (["float16", "bfloat16"] as const).flatMap((dtype) =>
  [64, 500, 1024, 4096, 10_007].flatMap((length) =>
    [{}, everyGate("causal")].map((gates) => {
      const [options, inputs] = prepare({ length, dtype }, { batch: 2, ...gates }, length);
      const label = "pregate" in gates ? "gated" : "ungated";
      return [dtype, length, label, options, inputs] as const;
    }),
  ),
);

describeBackends("half precision errs at most 1.1 × what rounding once errs", (open) => {
  test.each(share(halves))(
    "%s, %i samples, %s",
    async (_dtype, _length, _gates, options, inputs) => {
      using conv = await open(options);
      await checkForward(conv, inputs, "rows");
      await checkBackward(conv, inputs, "rows");
    },
  );
});

/** Awkward lengths: one, primes, powers of small primes, kernels shorter and longer than the input by little or much. */
const shapes: readonly (readonly [length: number, kernelLength: number])[] = [
  [1, 1],
  [1, 7],
  [2, 3],
  [3, 2],
  [7, 7],
  [17, 5],
  [48, 200],
  [127, 128],
  [243, 241],
  [509, 3],
  [1000, 1],
  [1021, 1777],
];

function problemsOf(mode: Mode, dtype: Dtype): ProblemOptions[] {
  return shapes.flatMap(([length, kernelLength], index): ProblemOptions[] => {
    if (mode === "bidirectional") return [{ mode, dtype, length }];
    if (mode !== "circular") return [{ mode, dtype, length, kernelLength }];
    // The least period, one above it, and one that leaves a gap: in turn, and all for one shape.
    const least = Math.max(length, kernelLength);
    const gaps = [0, 1, 13];
    const chosen = length === 1000 ? gaps : [gaps[index % gaps.length]!];
    return chosen.map((gap) => ({ mode, dtype, length, kernelLength, period: least + gap }));
  });
}

/** Each shape with one combination of gates, going round; one shape with all of them. */
const grid = modes.flatMap((mode) =>
  dtypes.map((dtype) => {
    const combinations = gateCombinations({ mode });
    // Storage changes the ends of a row, not its middle: half precision takes every other shape.
    const chosenShapes = problemsOf(mode, dtype).filter(
      (_, n) => dtype === "float32" || n % 2 === 0,
    );
    const cases = chosenShapes.flatMap((options, index) => {
      const chosen =
        options.length === 243 ? combinations : [combinations[index % combinations.length]!];
      return chosen.map((gates, round) => {
        const rows = { batch: 1 + (index % 3), channels: 1 + ((index + round) % 4) };
        return prepare(options, { ...rows, ...gates }, 100 * index + round);
      });
    });
    return [mode, dtype, cases] as const;
  }),
);

describe("every mode, storage, gate and awkward shape", () => {
  describeBackends(
    "forward and backward",
    (open) => {
      test.each(share(grid, 5))("%s, %s", async (_mode, _dtype, cases) => {
        for (const [options, inputs] of share(cases, 8)) {
          using conv = await open(options);
          await checkForward(conv, inputs);
          await checkBackward(conv, inputs);
        }
      });
    },
    whereThingsGo,
  );
});
