/** One-line convolutions: numbers as they are typed, small ones summed term by term, the others planned. */
import fc from "fast-check";
import { afterEach, describe, expect, test, vi } from "vitest";
import { decode, dtypes, encode, type SampleArray } from "../../src/dtype.ts";
import { type ConvolveOptions, convolve, InvalidArgumentError } from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { modes } from "../../src/plan/problem.ts";
import { oracleForward } from "../../src/reference/convolution.ts";
import { problemsUpTo } from "../support/arbitraries.ts";
import { onGpu } from "../support/backends.ts";
import { drawInputs, gateCombinations, type Inputs } from "../support/cases.ts";
import { expectClose } from "../support/close.ts";

/** Options with which plans compute; without them small problems are summed. */
const planned = onGpu ? ({ backend: "webgpu" } as const) : ({ threads: 1 } as const);

const calls = (inputs: Inputs, options: object): Promise<SampleArray> => {
  const { mode, dtype, period } = inputs.problem;
  const { batch, channels } = inputs.exact;
  const given = { ...options, ...inputs.options, mode, dtype, batch, channels };
  const all = { ...given, ...(mode === "circular" && { period }) } as ConvolveOptions;
  return convolve(inputs.u, inputs.k, all);
};

afterEach(() => {
  vi.restoreAllMocks();
});

test("a worker is looked at, however small the problem", async () => {
  const call = convolve([1, 2], [1], { worker: 3 as never });
  await expect(call).rejects.toThrow("convolve: worker must be a Worker");
});

describe("small convolutions", () => {
  test("of lists of numbers come out whole", async () => {
    expect(await convolve([1, 2, 3], [1, 1])).toEqual(Float32Array.of(1, 3, 5, 3));
    expect(await convolve([1, 2, 3], [1, 1], { mode: "same" })).toEqual(Float32Array.of(1, 3, 5));
    const squares = Float64Array.from({ length: 300 }, (_, i) => i * i);
    const y = await convolve(squares, [1, -2, 1], { mode: "causal" });
    expect(y).toEqual(Float32Array.from({ length: 300 }, (_, i) => Math.min(i, 2)));
    // Sums and products of primes near the last whole number that float32 holds.
    expect(await convolve([4093, 2], [4091, 1])).toEqual(Float32Array.of(16_744_463, 12_275, 2));
  });

  test("compile nothing and start no threads", async () => {
    const compile = vi.spyOn(WebAssembly, "compile");
    const memory = vi.spyOn(WebAssembly, "Memory");
    await convolve(new Float32Array(512), new Float32Array(256), { mode: "same" });
    await convolve([1, 2, 3, 4], [1, 1], { mode: "causal", channels: 2, skip: [1, 2] });
    expect(compile).not.toHaveBeenCalled();
    expect(memory).not.toHaveBeenCalled();
    if (onGpu) return;
    await convolve([1, 2, 3], [1, 1], { threads: 1, instructions: "simd" });
    expect(compile).toHaveBeenCalled();
  });

  describe.each(modes)("%s", (mode) => {
    test.each(dtypes)("%s: every gate, beside float64 and beside a plan", async (dtype) => {
      const kernelLength = mode === "bidirectional" ? 26 : 21;
      const problem = createProblem({ mode, dtype, length: 40, kernelLength }, "test");
      for (const shape of gateCombinations(problem)) {
        const inputs = drawInputs(problem, { ...shape, batch: 2, channels: 3 }, 5);
        const y = await calls(inputs, {});
        const exact = oracleForward(problem, { ...inputs.exact, method: "direct" });
        // Rounded once: the bits of the exact values, but where float64 sums in another order fall on a tie.
        expectClose(y, exact, { rowLength: exact.length, bound: 4e-8, dtype });
        expect(y.constructor).toBe(inputs.u.constructor);
        const rowLength = exact.length;
        expectClose(await calls(inputs, planned), exact, { rowLength, bound: 1e-6, dtype });
      }
    });
  });

  test("of any problem agree with float64, as those that are too large do", async () => {
    const shape = fc.record({ batch: fc.constantFrom(1, 2), channels: fc.constantFrom(1, 3) });
    await fc.assert(
      fc.asyncProperty(problemsUpTo(400), shape, fc.nat(1000), async (options, rows, seed) => {
        const problem = createProblem(options, "test");
        const inputs = drawInputs(problem, { ...rows, pregate: true }, seed);
        const exact = oracleForward(problem, inputs.exact);
        const { dtype } = problem;
        const y = await calls(inputs, onGpu ? planned : {});
        const bound = 6e-7;
        expectClose(y, exact, { rowLength: exact.length, bound, dtype, scale: terms(inputs) });
      }),
      { numRuns: 60 },
    );
  });
});

/** ‖u‖·‖k‖ of all rows: sums that cancel can't be closer than that allows. */
function terms({ exact }: Inputs): Float64Array {
  const norm = (values: Float64Array) => Math.hypot(...values);
  const gated = exact.pregate ? exact.u.map((v, i) => v * exact.pregate![i]!) : exact.u;
  return Float64Array.of(norm(gated) * norm(exact.k));
}

describe("plain numbers", () => {
  test("are rounded to the dtype, whoever computes, and come back in its array", async () => {
    const numbers = Array.from({ length: 600 }, (_, i) => Math.sin(i * i) / 3);
    for (const dtype of dtypes) {
      const u = encode(numbers, dtype);
      const taps = numbers.slice(0, 90);
      const k = Float32Array.from(taps);
      const gates = { mode: "causal", pregate: u, postgate: u, dtype } as const;
      for (const how of [{}, planned]) {
        const want = await convolve(u, k, { ...gates, skip: Float32Array.of(2), ...how });
        for (const given of [numbers, Float64Array.from(numbers)]) {
          const plain = { ...gates, pregate: given, postgate: given, skip: [2], ...how };
          expect(await convolve(given, taps, plain)).toEqual(want);
        }
      }
      expect(decode(u, dtype)).not.toEqual(Float64Array.from(numbers));
    }
  });

  const { Float16Array } = globalThis as unknown as { Float16Array?: Float32ArrayConstructor };
  test.runIf(Float16Array)("a Float16Array comes back as one", async () => {
    const y = await convolve(Float16Array!.of(1, 2, 3), [1, 1], { dtype: "float16" } as never);
    expect(y).toEqual(Float16Array!.of(1, 3, 5, 3));
  });
});

describe("what is wrong is refused, however small", () => {
  const none = undefined as never;
  const refused: [string, () => Promise<unknown>, RegExp][] = [
    [
      "text in a list",
      () => convolve([1, "2" as never], [1]),
      /u must hold numbers.*"2" at index 1/,
    ],
    [
      "nothing in a list",
      () => convolve([1, 2], [none]),
      /k must hold numbers.*undefined at index 0/,
    ],
    [
      "a list in a list",
      () => convolve([[1], [2]] as never, [1]),
      /u must hold.*\[1\].*channels: H/,
    ],
    ["an empty list", () => convolve([], [1]), /u must hold at least one row/],
    ["an unknown option", () => convolve([1], [1], { kernel: 1 } as never), /got "kernel"/],
    ["an unknown dtype", () => convolve([1], [1], { dtype: "int8" as never }), /dtype/],
    ["a period without circular", () => convolve([1], [1], { period: 3 }), /period/],
    ["threads that are none", () => convolve([1], [1], { threads: 0 }), /threads/],
    ["a device that is none", () => convolve([1], [1], { device: null as never }), /device/],
    ["a skip with the tail", () => convolve([1], [1, 2], { skip: [1] }), /skip needs outputs/],
    [
      "too many of skip",
      () => convolve([1], [1], { mode: "same", skip: [1, 2] }),
      /skip must hold 1/,
    ],
    ["a short gate", () => convolve([1, 2], [1], { pregate: [1] }), /pregate must hold 2/],
    ["a gate in words", () => convolve([1], [1], { postgate: "a" as never }), /postgate must be/],
    [
      "a gate of another shape",
      () => convolve([1, 2], [1], { pregate: { data: Float32Array.of(1, 2), shape: [2, 1, 1] } }),
      /pregate must have shape/,
    ],
  ];
  test.each(refused)("%s", async (_, call, message) => {
    await expect(call()).rejects.toThrow(message);
    await expect(call()).rejects.toThrow(/^convolve: /);
    await expect(call()).rejects.toBeInstanceOf(InvalidArgumentError);
  });
});
