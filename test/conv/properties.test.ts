/** Random problems against the oracle, shrunk to the smallest that fails. The seed is fixed: every run tries the same. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createProblem } from "../../src/plan/create-problem.ts";
import { anyLength, anyProblem, anySeed, anyShape } from "../support/arbitraries.ts";
import { describeBackends, randomCases } from "../support/backends.ts";
import { checkBackward, checkForward, drawInputs } from "../support/cases.ts";
import { expectClose, norm } from "../support/close.ts";
import { normal } from "../support/signals.ts";

describe("random problems", () => {
  describeBackends("agree with the oracle, forward and backward", (open, configuration) => {
    test("30 problems", async () => {
      await fc.assert(
        fc.asyncProperty(anyProblem, anyShape, anySeed, async (options, shape, seed) => {
          const problem = createProblem(options, "test");
          const skip = shape.skip && problem.outputLength === problem.length;
          const inputs = drawInputs(problem, { ...shape, skip }, seed);
          using conv = await open(options);
          await checkForward(conv, inputs);
          await checkBackward(conv, inputs);
        }),
        randomCases(configuration, 30, 20_240_229),
      );
    });
  });
});

describe("laws", () => {
  describeBackends("of the operation", (open, configuration) => {
    test("the full convolution commutes", async () => {
      await fc.assert(
        fc.asyncProperty(anyLength(2000), anyLength(2000), anySeed, async (a, b, seed) => {
          const u = Float32Array.from(normal(a, seed));
          const k = Float32Array.from(normal(b, seed + 1));
          using one = await open({ mode: "full", length: a, kernelLength: b });
          using other = await open({ mode: "full", length: b, kernelLength: a });
          const terms = norm(Float64Array.from(u)) * norm(Float64Array.from(k));
          expectClose(await one.forward(u, k), Float64Array.from(await other.forward(k, u)), {
            rowLength: a + b - 1,
            bound: 6e-7,
            scale: Float64Array.of(terms),
          });
        }),
        randomCases(configuration, 10, 10),
      );
    });

    test("a batch gives each row what the row gives alone", async () => {
      await fc.assert(
        fc.asyncProperty(anyProblem, anyShape, anySeed, async (options, shape, seed) => {
          const problem = createProblem({ ...options, dtype: "float32" }, "test");
          const { length, kernelLength, outputLength } = problem;
          const { batch, channels } = shape;
          const { u, k } = drawInputs(problem, { batch, channels }, seed);
          using conv = await open({ ...options, dtype: "float32" });
          const y = (await conv.forward(u, k)) as Float32Array;
          for (let row = 0; row < batch * channels; row++) {
            const h = row % channels;
            const input = (u as Float32Array).slice(row * length, (row + 1) * length);
            const taps = k.slice(h * kernelLength, (h + 1) * kernelLength);
            const terms = norm(Float64Array.from(input)) * norm(Float64Array.from(taps));
            const alone = (await conv.forward(input, taps)) as Float32Array;
            expectClose(
              y.slice(row * outputLength, (row + 1) * outputLength),
              Float64Array.from(alone),
              { rowLength: outputLength, bound: 6e-7, scale: Float64Array.of(terms) },
            );
          }
        }),
        randomCases(configuration, 8, 20),
      );
    });

    test("causal: no output knows a later input", async () => {
      await fc.assert(
        fc.asyncProperty(anyLength(2000), anySeed, async (length, seed) => {
          using conv = await open({ length });
          const u = Float32Array.from(normal(length, seed));
          const k = Float32Array.from(normal(length, seed + 1));
          const cut = Math.floor(length / 2);
          const y = (await conv.forward(u, k)) as Float32Array;
          const before = (await conv.forward(
            u.map((v, n) => (n < cut ? v : 0)),
            k,
          )) as Float32Array;
          if (cut === 0) return;
          const terms = norm(Float64Array.from(u)) * norm(Float64Array.from(k));
          expectClose(before.slice(0, cut), Float64Array.from(y.slice(0, cut)), {
            rowLength: cut,
            bound: 6e-7,
            scale: Float64Array.of(terms),
          });
          expect(y.length).toBe(length);
        }),
        randomCases(configuration, 8, 30),
      );
    });
  });
});
