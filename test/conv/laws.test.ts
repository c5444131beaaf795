/** Laws at lengths where they say more than an oracle costs: impulse, shift, linearity and the adjoint identity. */
import { describe, expect, test } from "vitest";
import { describeBackends, type Open } from "../support/backends.ts";
import { forwardBar, gradientBar } from "../support/cases.ts";
import { expectClose } from "../support/close.ts";
import { impulse, normal } from "../support/signals.ts";

const long = { length: 1_000_003 };
const longest = { length: 16_777_216 };

const draw = (count: number, seed: number) => Float32Array.from(normal(count, seed));

/** `values` moved `by` samples later, as a causal impulse there would. */
function delayed(values: Float32Array, by: number): Float64Array {
  const result = new Float64Array(values.length);
  result.set(values.subarray(0, values.length - by), by);
  return result;
}

function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let n = 0; n < a.length; n++) sum += a[n]! * b[n]!;
  return sum;
}

async function impulseLaw(open: Open, length: number, positions: readonly number[]): Promise<void> {
  const u = draw(length, 1);
  using conv = await open({ length });
  for (const position of positions) {
    const y = await conv.forward(u, Float32Array.from(impulse(length, position, 1)));
    expectClose(y, delayed(u, position), {
      rowLength: length,
      bound: 6e-7,
      // What remains of u past a late impulse is small beside u, to which the error is relative.
      scale: Float64Array.of(Math.sqrt(length)),
    });
  }
}

async function shiftLaw(open: Open, length: number, by: number): Promise<void> {
  const u = draw(length, 2);
  const k = draw(length, 3);
  using conv = await open({ length });
  const kernel = await conv.prepareKernel(k);
  const y = (await conv.forward(u, kernel)) as Float32Array;
  const moved = await conv.forward(Float32Array.from(delayed(u, by)), kernel);
  expectClose(moved, delayed(y, by), { rowLength: length, bound: 2 * forwardBar(conv.problem) });
  kernel.dispose();
}

describe("a million samples, not a power of two", () => {
  describeBackends(
    "laws",
    (open) => {
      test("an impulse for a kernel delays", () =>
        impulseLaw(open, long.length, [0, 1, 12_345, long.length - 1]));

      test("an impulse for an input gives back the kernel", async () => {
        using conv = await open({ ...long, kernelLength: 777_777, mode: "full" });
        const k = draw(777_777, 4);
        const y = (await conv.forward(
          Float32Array.from(impulse(long.length, 222_226)),
          k,
        )) as Float32Array;
        expectClose(y.slice(222_226, 1_000_003), Float64Array.from(k), {
          rowLength: 777_777,
          bound: 6e-7,
        });
        expectClose(y.slice(0, 222_226), new Float64Array(222_226), {
          rowLength: 222_226,
          bound: 6e-7,
          scale: Float64Array.of(Math.sqrt(777_777)),
        });
      });

      test("a later input gives a later output", () => shiftLaw(open, long.length, 4321));

      test("a sum of inputs gives the sum of outputs", async () => {
        const [a, b, k] = [draw(long.length, 5), draw(long.length, 6), draw(long.length, 7)];
        using conv = await open(long);
        const kernel = await conv.prepareKernel(k);
        const ya = (await conv.forward(a, kernel)) as Float32Array;
        const yb = (await conv.forward(b, kernel)) as Float32Array;
        const both = await conv.forward(
          a.map((value, n) => value + 2 * b[n]!),
          kernel,
        );
        expectClose(
          both,
          Float64Array.from(ya, (value, n) => value + 2 * yb[n]!),
          {
            rowLength: long.length,
            bound: 2 * forwardBar(conv.problem),
          },
        );
        kernel.dispose();
      });

      test.each(["causal", "circular", "same", "full"] as const)(
        "backward is the adjoint of forward: %s",
        async (mode) => {
          // With dy = y, all three inner products are ‖y‖²: a wrong gradient cannot hide among small numbers.
          using conv = await open({ ...long, kernelLength: 500_009, mode });
          const u = draw(long.length, 8);
          const k = draw(500_009, 9);
          const y = (await conv.forward(u, k)) as Float32Array;
          const { du, dk } = await conv.backward(y, u, k);
          const power = dot(y, y);
          expect(Math.abs(dot(u, du as Float32Array) / power - 1)).toBeLessThan(gradientBar);
          expect(Math.abs(dot(k, dk) / power - 1)).toBeLessThan(gradientBar);
        },
      );
    },
    { threads: 2, instructions: ["simd"] },
  );
});

describe("16,777,216 samples, the most there can be", () => {
  describeBackends(
    "laws",
    (open) => {
      test("an impulse for a kernel delays", () => impulseLaw(open, longest.length, [9_999_999]));
      test("a later input gives a later output", () => shiftLaw(open, longest.length, 7_654_321));
    },
    { threads: 2, instructions: ["simd"] },
  );
});
