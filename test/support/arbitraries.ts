/** Random problems, calls and seeds for property tests. */
import fc from "fast-check";
import { dtypes } from "../../src/dtype.ts";
import { modes, type ProblemOptions } from "../../src/plan/problem.ts";
import type { CallShape } from "./cases.ts";

/** Lengths of all magnitudes, powers of two and their neighbours among them. */
export const anyLength = (most: number): fc.Arbitrary<number> =>
  fc.oneof(
    fc.integer({ min: 1, max: 20 }),
    fc.integer({ min: 1, max: most }),
    fc
      .tuple(fc.integer({ min: 0, max: Math.floor(Math.log2(most)) }), fc.constantFrom(-1, 0, 1))
      .map(([power, step]) => Math.max(1, Math.min(most, 2 ** power + step))),
  );

/** Problems of any mode and storage, rows of up to `most` samples. */
export const problemsUpTo = (most: number): fc.Arbitrary<ProblemOptions> =>
  fc
    .record({
      mode: fc.constantFrom(...modes),
      dtype: fc.constantFrom(...dtypes),
      length: anyLength(most),
      kernelLength: anyLength(2 * most),
      extra: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: most })),
    })
    .map(({ mode, dtype, length, kernelLength, extra }) => {
      if (mode === "bidirectional")
        return { mode, dtype, length, kernelLength: 2 * Math.min(length, kernelLength) };
      if (mode !== "circular") return { mode, dtype, length, kernelLength };
      return { mode, dtype, length, kernelLength, period: Math.max(length, kernelLength) + extra };
    });

export const anyProblem: fc.Arbitrary<ProblemOptions> = problemsUpTo(3000);

/** Causal or circular problems of which only some frequencies are kept. */
export const sparseProblems: fc.Arbitrary<ProblemOptions> = fc
  .record({
    digits: fc
      .array(fc.constantFrom(2, 4, 8, 16, 32, 64, 128), { minLength: 1, maxLength: 3 })
      .filter(
        (digits) =>
          digits.reduce((a, b) => a * b, 1) >= 64 && digits.reduce((a, b) => a * b, 1) <= 65_536,
      ),
    share: fc.array(fc.double({ min: 0, max: 0.99, noNaN: true }), { minLength: 3, maxLength: 3 }),
    mode: fc.constantFrom("causal" as const, "circular" as const),
    dtype: fc.constantFrom(...dtypes),
    size: fc.double({ min: 0.01, max: 1, noNaN: true }),
    taps: fc.double({ min: 0.001, max: 1, noNaN: true }),
  })
  .map(({ digits, share, mode, dtype, size, taps }) => {
    const period = digits.reduce((a, b) => a * b, 1);
    const dropped = digits.map((n, i) => Math.floor(n * share[i]!));
    const most = mode === "causal" ? period / 2 : period;
    const length = mode === "causal" ? Math.max(1, Math.floor(most * size)) : period;
    const kernelLength = Math.max(1, Math.floor(most * taps));
    const frequencies = { digits, dropped };
    return {
      mode,
      dtype,
      length,
      kernelLength,
      frequencies,
      ...(mode === "circular" && { period }),
    };
  });

export const anyShape: fc.Arbitrary<Required<Omit<CallShape, "sizes">>> = fc.record({
  batch: fc.integer({ min: 1, max: 5 }),
  channels: fc.integer({ min: 1, max: 6 }),
  pregate: fc.boolean(),
  postgate: fc.boolean(),
  skip: fc.boolean(),
});

export const anySeed: fc.Arbitrary<number> = fc.integer({ min: 0, max: 1_000_000 });
