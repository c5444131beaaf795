/** Plans that cut rows into blocks (overlap-save): any block plan gives what whole rows give, forward and backward. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { dtypes } from "../../src/dtype.ts";
import { type FlashFFTConvOptions, InvalidArgumentError } from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { blockOverlap } from "../../src/plan/geometry.ts";
import { passPlans } from "../../src/plan/gpu/candidates.ts";
import { formatPasses } from "../../src/plan/gpu/passes.ts";
import { modes, type ProblemOptions } from "../../src/plan/problem.ts";
import { describeBackends, onGpu, randomCases, whereThingsGo } from "../support/backends.ts";
import { checkBackward, checkForward, drawInputs, gateCombinations } from "../support/cases.ts";
import { expectSameBits } from "../support/close.ts";

/** One transform of 2^bits complex points, in blocks of `hop` outputs; on WebGPU of an even number. */
function blockPlan(bits: number, hop: number): string {
  if (onGpu) {
    const plans = passPlans(
      2 ** bits,
      "halves",
      { sharedBytes: 16_384, threads: 256, values: 8 },
      { finest: 512, pairs: false },
    );
    return formatPasses({ ...plans[0]!, hop: 2 * Math.ceil(hop / 2) });
  }
  const stages = bits - 2;
  const radices = [...(stages % 2 ? [2] : []), ...new Array<number>(stages >> 1).fill(4)];
  return `${2 ** bits}: ${radices.join("·")} @${hop}`;
}

/** Positions that no block of these options outputs; on WebGPU both sides are even. */
function overlapOf(options: ProblemOptions): number {
  return blockOverlap(createProblem(options, "test")) + (onGpu ? 2 : 0);
}

/** The smallest power of two, as its exponent, whose positions hold a block of at least `hop` outputs. */
function bitsFor(options: ProblemOptions, hop: number): number {
  return Math.max(onGpu ? 5 : 4, Math.ceil(Math.log2((overlapOf(options) + hop + 1) / 2)));
}

interface Cut {
  readonly options: ProblemOptions;
  readonly plan: string;
}

/** Random problems with random block plans: hops from one sample to all that the transform has room for. */
const anyCut: fc.Arbitrary<Cut> = fc
  .record({
    // On WebGPU a circular convolution is computed whole.
    mode: fc.constantFrom(...modes.filter((mode) => !onGpu || mode !== "circular")),
    dtype: fc.constantFrom(...dtypes),
    length: fc.integer({ min: 1, max: 1500 }),
    taps: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 700 })),
    extra: fc.constantFrom(0, 0, 1, 5, 300),
    hop: fc.integer({ min: 1, max: 300 }),
    whole: fc.boolean(),
  })
  .map(({ mode, dtype, length, taps, extra, hop, whole }) => {
    const bidirectional = mode === "bidirectional";
    const kernelLength = bidirectional ? 2 * Math.min(length, Math.ceil(taps / 2)) : taps;
    const options = {
      ...{ mode, dtype, length, kernelLength },
      ...(mode === "circular" && { period: Math.max(length, kernelLength) + extra }),
    };
    // A block of few outputs makes many of them: no more than some hundred, for the time that the test takes.
    const least = Math.max(hop, Math.ceil(length / 100));
    const bits = bitsFor(options, least);
    const most = 2 ** (bits + 1) - overlapOf(options);
    return { options, plan: blockPlan(bits, whole ? most : least) };
  });

const anyShape = fc.record({
  batch: fc.integer({ min: 1, max: 3 }),
  channels: fc.integer({ min: 1, max: 3 }),
  pregate: fc.boolean(),
  postgate: fc.boolean(),
  skip: fc.boolean(),
});

describe("random block plans", () => {
  describeBackends("agree with the oracle, forward and backward", (open, configuration) => {
    const numRuns = onGpu ? 16 : 25;
    test(`${numRuns} problems`, async () => {
      await fc.assert(
        fc.asyncProperty(
          anyCut,
          anyShape,
          fc.nat(1_000_000),
          async ({ options, plan }, shape, seed) => {
            const problem = createProblem(options, "test");
            const skip = shape.skip && problem.outputLength === problem.length;
            const inputs = drawInputs(problem, { ...shape, skip }, seed);
            using conv = await open({ ...options, plan });
            expect(conv.explain().chosen.plan).toBe(plan);
            await checkForward(conv, inputs);
            await checkBackward(conv, inputs);
          },
        ),
        randomCases(configuration, numRuns, 20_240_301),
      );
    });
  });
});

const cases: readonly FlashFFTConvOptions[] = [
  { length: 3000, kernelLength: 100, plan: blockPlan(7, 157) },
  { length: 3000, kernelLength: 100, mode: "same", plan: blockPlan(7, 120) },
  { length: 3000, kernelLength: 100, mode: "full", plan: blockPlan(7, 99) },
  { length: 3000, kernelLength: 100, mode: "bidirectional", plan: blockPlan(7, 140) },
  { length: 3000, kernelLength: 100, mode: "circular", plan: blockPlan(7, 157) },
  { length: 300, kernelLength: 200, mode: "circular", period: 310, plan: blockPlan(8, 50) },
  { length: 2000, kernelLength: 33, dtype: "float16", plan: blockPlan(6, 96) },
  { length: 3000, kernelLength: 7, plan: "direct 7 @512" },
  { length: 3000, kernelLength: 18, mode: "same", plan: "direct 18 @512" },
  { length: 300, kernelLength: 20, mode: "circular", period: 310, plan: "direct 20 @52" },
  { length: 2000, kernelLength: 40, dtype: "bfloat16", plan: "direct 40 @96" },
];

describe("blocks", () => {
  describeBackends(
    "that do not fit",
    (open) => {
      test("are refused", async () => {
        const base = { length: 1000, kernelLength: 100 };
        const others = onGpu
          ? ["halves 128: 4·4·8 ×16, hop 0", "halves 128: 4·4·8 ×16, hop 21"]
          : ["128: 2·4·4 @0", "128: 2·4·4 @x", "100: 5·5 @1"];
        for (const plan of [blockPlan(7, 158), ...others]) {
          await expect(open({ ...base, plan })).rejects.toThrow(InvalidArgumentError);
        }
      });
    },
    whereThingsGo,
  );
});

describe.skipIf(onGpu)("blocks", () => {
  describeBackends(
    "of arrays that the object lends and of any others",
    (open) => {
      test.each(cases)("give the same bits: $mode $plan", async (options) => {
        using conv = await open(options);
        const [batch, channels] = [2, 2];
        for (const gates of gateCombinations(conv.problem)) {
          const inputs = drawInputs(conv.problem, { batch, channels, ...gates }, 3);
          const y = await checkForward(conv, inputs);
          const gradients = await checkBackward(conv, inputs);
          const lend = (a: ArrayLike<number> | undefined, output: boolean) => {
            if (!a) return undefined;
            const array = output
              ? conv.allocateOutput(batch, channels)
              : conv.allocateInput(batch, channels);
            array.set(a as Float32Array);
            return array;
          };
          const lent = {
            pregate: lend(inputs.options.pregate, false),
            postgate: lend(inputs.options.postgate, true),
            skip: inputs.options.skip,
          };
          const u = lend(inputs.u, false)!;
          const out = conv.allocateOutput(batch, channels);
          expectSameBits(
            ((await conv.forward(u, inputs.k, { ...lent, out })) as Float32Array).slice(),
            y,
          );
          const dy = lend(inputs.dy, true)!;
          const again = await conv.backward(dy, u, inputs.k, {
            ...lent,
            out: {
              du: conv.allocateInput(batch, channels),
              ...(lent.pregate && { dpregate: conv.allocateInput(batch, channels) }),
              ...(lent.postgate && { dpostgate: conv.allocateOutput(batch, channels) }),
            },
          });
          const copies = Object.entries(again).map(([name, a]) => [
            name,
            (a as Float32Array).slice(),
          ]);
          expectSameBits(Object.fromEntries(copies), gradients);
        }
      });
    },
    whereThingsGo,
  );

  test("give the kernel's gradient in an order that does not depend on the threads", async () => {
    const { FlashFFTConv } = await import("../../src/index.ts");
    const options = { length: 20_000, kernelLength: 65, plan: blockPlan(6, 60) };
    using one = await FlashFFTConv.create({ ...options, threads: 1 });
    using several = await FlashFFTConv.create({ ...options, threads: 3 });
    const inputs = drawInputs(one.problem, { batch: 2, channels: 1 }, 9);
    const gradients = await checkBackward(one, inputs);
    expectSameBits(await several.backward(inputs.dy, inputs.u, inputs.k), gradients);
  });
});

describe("work memory", () => {
  describeBackends(
    "of a block plan does not grow with L",
    (open, { options: { instructions } }) => {
      const plans: [string, number][] = [
        [blockPlan(11, 3070), 1024],
        ...(onGpu ? [] : [["direct 16 @4096", 16] as [string, number]]),
      ];
      test.each(plans)("forward and backward, gated: %s", async (plan, kernelLength) => {
        // On WebGPU gradients of the kernel are summed in as many chunks as there are blocks, up to 16.
        const powers = instructions === "javascript" ? [15, 17] : [onGpu ? 18 : 16, 20];
        const used: number[][] = [];
        for (const length of powers.map((n) => 2 ** n)) {
          using conv = await open({ length, kernelLength, plan });
          const rows = () => new Float32Array(length).fill(1);
          const k = new Float32Array(kernelLength).fill(1);
          const gates = { pregate: rows(), postgate: rows() };
          const kernel = await conv.prepareKernel(k);
          await conv.forward(rows(), kernel, gates);
          const forward = conv.memory().workspaceBytes;
          await conv.backward(rows(), rows(), kernel, gates);
          used.push([forward, conv.memory().workspaceBytes]);
        }
        expect(used[0]![1]).toBeGreaterThan(0);
        expect(used[1]).toEqual(used[0]);
      });
    },
    { instructions: ["simd", "javascript"] },
  );
});
