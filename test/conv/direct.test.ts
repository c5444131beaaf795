/** Plans in the time domain: any of them gives what the oracle gives, forward and backward. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decode, dtypes, encode } from "../../src/dtype.ts";
import { InvalidArgumentError } from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { modes, type ProblemOptions } from "../../src/plan/problem.ts";
import { oracleBackward, oracleForward } from "../../src/reference/convolution.ts";
import { describeBackends, onGpu, randomCases, whereThingsGo } from "../support/backends.ts";
import { checkBackward, checkForward, drawInputs, gateCombinations } from "../support/cases.ts";
import { expectClose, expectSameBits } from "../support/close.ts";
import { normal } from "../support/signals.ts";

/** Blocks of about `hop` outputs; a GPU's threads have none. */
function directPlan(options: ProblemOptions, hop: number): string {
  const { kernelLength, outputLength } = createProblem(options, "test");
  if (onGpu) return `direct ${kernelLength}`;
  return `direct ${kernelLength} @${4 * Math.ceil(Math.min(hop, outputLength) / 4)}`;
}

const anyDirect = fc
  .record({
    mode: fc.constantFrom(...modes),
    dtype: fc.constantFrom(...dtypes),
    length: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 1500 })),
    taps: fc.oneof(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 64 })),
    extra: fc.constantFrom(0, 0, 1, 5, 300),
    hop: fc.oneof(fc.integer({ min: 4, max: 300 }), fc.constant(4096)),
  })
  .map(({ mode, dtype, length, taps, extra, hop }) => {
    const bidirectional = mode === "bidirectional";
    const kernelLength = bidirectional ? 2 * Math.min(length, Math.ceil(taps / 2)) : taps;
    const options = {
      ...{ mode, dtype, length, kernelLength },
      ...(mode === "circular" && { period: Math.max(length, kernelLength) + extra }),
    };
    return { ...options, plan: directPlan(options, Math.max(hop, length / 50)) };
  });

const anyShape = fc.record({
  batch: fc.integer({ min: 1, max: 3 }),
  channels: fc.integer({ min: 1, max: 3 }),
  pregate: fc.boolean(),
  postgate: fc.boolean(),
  skip: fc.boolean(),
});

describe("random plans in the time domain", () => {
  describeBackends("agree with the oracle, forward and backward", (open, configuration) => {
    const numRuns = 40;
    test(`${numRuns} problems`, async () => {
      await fc.assert(
        fc.asyncProperty(anyDirect, anyShape, fc.nat(1_000_000), async (options, shape, seed) => {
          const problem = createProblem(options, "test");
          const skip = shape.skip && problem.outputLength === problem.length;
          const inputs = drawInputs(problem, { ...shape, skip }, seed);
          using conv = await open(options);
          expect(conv.explain().chosen.plan).toBe(options.plan);
          await checkForward(conv, inputs);
          await checkBackward(conv, inputs);
        }),
        randomCases(configuration, numRuns, 20_261_122),
      );
    });
  });
});

describe("a plan in the time domain", () => {
  describeBackends(
    "in use",
    (open, { options: { threads } }) => {
      test.each(modes)("every gate and skip: %s", async (mode) => {
        const problem = { mode, length: 1030, kernelLength: 6 };
        using conv = await open({ ...problem, plan: directPlan(problem, 512) });
        for (const shape of gateCombinations(conv.problem)) {
          const inputs = drawInputs(conv.problem, { batch: 2, channels: 3, ...shape }, 17);
          await checkForward(conv, inputs, "rows");
          await checkBackward(conv, inputs, "rows");
        }
      });

      test("is what the planner takes for few taps, and not for many", async () => {
        for (const kernelLength of [1, 2, 4, 8]) {
          using conv = await open({ length: 4096, kernelLength });
          expect(conv.explain().chosen.plan).toBe(directPlan({ length: 4096, kernelLength }, 4096));
        }
        using conv = await open({ length: 4096, kernelLength: 64 });
        const { chosen, candidates } = conv.explain();
        expect(chosen.plan).not.toMatch(/^direct/);
        const direct = directPlan({ length: 4096, kernelLength: 64 }, 4096);
        expect(candidates.map((c) => c.plan)).toContain(direct);
      });

      test.each(modes.filter((mode) => mode !== "full"))(
        "one tap and a skip weight that nearly cancel err by rounding: %s",
        async (mode) => {
          for (const length of [1, 2, 63, 1000]) {
            const kernelLength = mode === "bidirectional" ? 2 : 1;
            using conv = await open({ mode, length, kernelLength });
            expect(conv.explain().chosen.plan).toMatch(new RegExp(`^direct ${kernelLength}\\b`));
            const drawn = drawInputs(conv.problem, { batch: 2, channels: 4, skip: true }, 11);
            const { u, dy, k } = drawn;
            // From channel to channel nearer to what cancels the tap, at last all of it.
            const part = [1e-1, 1e-3, 1e-6, 0];
            const skip = Float32Array.from(part, (p, h) => -k[h * kernelLength]! * (1 + p));
            const exact = { ...drawn.exact, skip: Float64Array.from(skip) };
            const y = await conv.forward(u, k, { skip });
            expectClose(y, oracleForward(conv.problem, exact), {
              rowLength: length,
              bound: 1.2e-7,
            });
            const { du } = await conv.backward(dy, u, k, { skip });
            const { du: wanted } = oracleBackward(conv.problem, exact);
            expectClose(du, wanted, { rowLength: length, bound: 1.2e-7 });
          }
        },
      );

      test("has one text for every backend", async () => {
        const options = { length: 5000, kernelLength: 3 };
        using conv = await open({ ...options, plan: "direct 3" });
        expect(conv.explain().chosen.plan).toBe(onGpu ? "direct 3" : "direct 3 @2500");
        const inputs = drawInputs(conv.problem, { batch: 1, channels: 2 }, 7);
        await checkForward(conv, inputs);
      });

      test("one tap scales and two shift, to the bit", async () => {
        const u = Float32Array.from(normal(5000, 1));
        using one = await open({ length: 5000, kernelLength: 1, plan: "direct 1" });
        expectSameBits(
          await one.forward(u, Float32Array.of(3)),
          u.map((x) => 3 * x),
        );
        using two = await open({ length: 5000, kernelLength: 2, plan: "direct 2" });
        const shifted = u.map((_, n) => u[n - 1] ?? 0);
        expectSameBits(await two.forward(u, Float32Array.of(0, 1)), shifted);
      });

      test("a kept kernel, in half precision too, gives the bits of its taps", async () => {
        for (const dtype of dtypes) {
          const problem = { length: 300, kernelLength: 7, dtype };
          using conv = await open({ ...problem, plan: directPlan(problem, 100) });
          const u = encode(normal(600, 2), dtype);
          const k = encode(normal(14, 3), dtype);
          const wide = Float32Array.from(decode(k, dtype));
          const y = await conv.forward(u, k);
          expectSameBits(await conv.forward(u, wide), y);
          const kernel = await conv.prepareKernel(k);
          expect(conv.memory().spectrumBytes).toBe(2 * 64);
          expectSameBits(await conv.forward(u, kernel), y);
          // Lent arrays move the object to other memory, its kernels too.
          const lent = conv.allocateInput(1, 2);
          lent.set(u as Uint16Array);
          expectSameBits(await conv.forward(lent, kernel), y);
          kernel.dispose();
          expect(conv.memory().spectrumBytes).toBe(0);
          await expect(conv.forward(u, kernel)).rejects.toThrow(InvalidArgumentError);
        }
      });

      test("a NaN stays in its row", async () => {
        const problem = { length: 70, kernelLength: 5, mode: "same" as const };
        using conv = await open({ ...problem, plan: directPlan(problem, 32) });
        const u = Float32Array.from(normal(4 * 70, 5));
        const k = Float32Array.from(normal(2 * 5, 6));
        const clean = (await conv.forward(u, k)) as Float32Array;
        for (const n of [0, 33, 69]) {
          const spoilt = u.slice();
          spoilt[70 + n] = Number.NaN;
          const y = (await conv.forward(spoilt, k)) as Float32Array;
          expect(y.slice(70, 140).some(Number.isNaN)).toBe(true);
          expectSameBits([y.slice(0, 70), y.slice(140)], [clean.slice(0, 70), clean.slice(140)]);
          const { du, dk } = (await conv.backward(u, spoilt, k)) as {
            du: Float32Array;
            dk: Float32Array;
          };
          expect([...du, ...dk.slice(0, 5)].some(Number.isNaN)).toBe(false);
          expect(dk.slice(5).some(Number.isNaN)).toBe(true);
        }
      });

      test("taps without effect have no gradient, whichever object of that program came before", async () => {
        const u = Float32Array.of(2, 3);
        for (const plan of onGpu ? ["direct 1"] : ["direct 1 @4", "16: 4"]) {
          using one = await open({ length: 1, kernelLength: 1, mode: "same", plan });
          // Leaves numbers where the next call's gradients go.
          const gradients = await one.backward(Float32Array.of(5, 7), u, Float32Array.of(1, 1));
          expectClose(gradients.dk, Float64Array.of(10, 21), { rowLength: 1, bound: 1e-6 });
          using two = await open({
            ...{ length: 1, kernelLength: 2, mode: "same" },
            plan: plan.replace("direct 1", "direct 2"),
          });
          const k = Float32Array.of(1, 1, 1, 1);
          const { dk } = await two.backward(Float32Array.of(5, 7), u, k);
          expect([dk[1], dk[3]]).toEqual([0, 0]);
        }
      });

      test("dk has the same bits in every run", async () => {
        const options = { length: 20_000, kernelLength: 20, plan: "direct 20" };
        using conv = await open(options);
        const inputs = drawInputs(conv.problem, { batch: 3, channels: 2, skip: true }, 10);
        const { dy, u, k, options: given } = inputs;
        const first = await conv.backward(dy, u, k, given);
        const again = await conv.backward(dy, u, k, given);
        expectSameBits([again.dk, again.dskip!], [first.dk, first.dskip!]);
      });

      test.skipIf(threads === 1)("dk does not depend on the threads", async () => {
        const options = { length: 20_000, kernelLength: 9, plan: "direct 9 @500" };
        using several = await open(options);
        using one = await open({ ...options, threads: 1 });
        const inputs = drawInputs(one.problem, { batch: 2, channels: 1 }, 9);
        const gradients = await checkBackward(one, inputs);
        expectSameBits(await several.backward(inputs.dy, inputs.u, inputs.k), gradients);
      });

      test("a plan that does not fit is refused", async () => {
        const options = { length: 1000, kernelLength: 16 };
        const unfit = [
          "direct 15",
          "direct 0",
          "direct 16 @0",
          "direct 16 @998",
          "direct 16 @1004",
        ];
        for (const plan of [
          ...unfit,
          ...(onGpu ? ["direct 16 @1000", "direct 16; gradients direct 16"] : []),
        ])
          await expect(open({ ...options, plan })).rejects.toThrow(InvalidArgumentError);
        for (const plan of ["direct 65", "direct 65 @1000"])
          await expect(open({ length: 1000, kernelLength: 65, plan })).rejects.toThrow(
            InvalidArgumentError,
          );
      });
    },
    whereThingsGo,
  );
});
