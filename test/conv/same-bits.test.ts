/**
 * Threads, prices, where arrays lie and whether the caller waits decide how a call is cut, not what comes out: one plan gives the same bits, forward
 * and backward, whatever they are. Work memory has guards between its regions, and a call that writes to one fails.
 * `npm run fuzz` tries 10,000 problems on each instruction set; 60, a third on each, are tried with the other tests.
 */
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { guardWorkMemory, PlainMemory, WorkLayout } from "../../src/backend/cpu/memory.ts";
import { type Dtype, dtypes, encode, type SampleArray } from "../../src/dtype.ts";
import { FlashFFTConv } from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import type { Problem, ProblemOptions } from "../../src/plan/problem.ts";
import { anySeed, anyShape, problemsUpTo, sparseProblems } from "../support/arbitraries.ts";
import { describeBackends, onGpu, randomCases } from "../support/backends.ts";
import { type CallShape, drawInputs } from "../support/cases.ts";
import { expectSameBits } from "../support/close.ts";
import { anyDevice, slowDispatch, withDevice } from "../support/devices.ts";
import { normal } from "../support/signals.ts";

const cases = Number(process.env.FUZZ_CASES ?? 20);
const seed = Number(process.env.FUZZ_SEED ?? 479);

beforeAll(() => guardWorkMemory(true));
afterAll(() => guardWorkMemory(false));

/** Rows of up to some thousands of samples, and a few so long that one row outgrows staging. */
const anyLongProblem: fc.Arbitrary<ProblemOptions> = fc.oneof(
  { weight: 6, arbitrary: problemsUpTo(3000) },
  { weight: 3, arbitrary: problemsUpTo(20_000) },
  { weight: 1, arbitrary: problemsUpTo(150_000) },
  { weight: 3, arbitrary: sparseProblems },
);

const anyPrices = fc.oneof(
  anyDevice,
  fc.double({ min: -7, max: 0, noNaN: true }).map((power) => slowDispatch(10 ** power)),
);

/** Long noise of each storage, of which tests take pieces: drawing all that they need takes longer than convolving it. */
const noise = Object.fromEntries(
  dtypes.map((dtype) => [dtype, encode(normal(2 ** 20, 1), dtype)]),
) as Record<Dtype, SampleArray>;

/** `count` samples of noise from `at` on, round and round. */
function piece(dtype: Dtype, at: number, count: number): SampleArray {
  const all = noise[dtype] as Float32Array;
  const out = new (all.constructor as Float32ArrayConstructor)(count);
  for (let done = 0, from = at % all.length; done < count; from = 0) {
    const some = all.subarray(from, from + count - done);
    out.set(some, done);
    done += some.length;
  }
  return out;
}

/** What calls of a problem are given. */
function inputsOf(
  { length, outputLength, kernelLength, dtype }: Problem,
  { batch, channels, pregate, postgate, skip }: Required<Omit<CallShape, "sizes">>,
  seed: number,
) {
  const rows = batch * channels;
  const draw = (part: number, width: number) =>
    piece(dtype, 101 * seed + 3001 * part, rows * width);
  return {
    u: draw(0, length),
    dy: draw(1, outputLength),
    k: piece("float32", 7 * seed, channels * kernelLength),
    options: {
      ...(pregate && { pregate: draw(2, length) }),
      ...(postgate && { postgate: draw(3, outputLength) }),
      ...(skip &&
        length === outputLength && { skip: piece("float32", seed, channels) as Float32Array }),
    },
  };
}

/** The inputs in memory that the object lends. */
function lent(
  conv: FlashFFTConv<Dtype>,
  { u, dy, options }: ReturnType<typeof inputsOf>,
  batch: number,
  channels: number,
) {
  const copied = (array: SampleArray, of: "allocateInput" | "allocateOutput"): SampleArray => {
    const own = conv[of](batch, channels);
    (own as Float32Array).set(array as Float32Array);
    return own;
  };
  const { pregate, postgate } = options;
  return {
    u: copied(u, "allocateInput"),
    out: conv.allocateOutput(batch, channels),
    options: {
      ...options,
      ...(pregate && { pregate: copied(pregate, "allocateInput") }),
      ...(postgate && { postgate: copied(postgate, "allocateOutput") }),
    },
    gradients: {
      du: conv.allocateInput(batch, channels),
      ...(pregate && { dpregate: conv.allocateInput(batch, channels) }),
      ...(postgate && { dpostgate: conv.allocateOutput(batch, channels) }),
    },
    dy: copied(dy, "allocateOutput"),
  };
}

describe.skipIf(onGpu)("the same bits", () => {
  describeBackends(
    "whatever the threads, the prices and the arrays",
    (_, configuration) => {
      const { instructions } = configuration.options;
      const teams = instructions === "javascript" ? [1] : [1, 2, 3, 5];

      const property = fc.asyncProperty(
        fc.record({
          options: anyLongProblem,
          shape: anyShape,
          seed: anySeed,
          prices: anyPrices,
          isLent: fc.boolean(),
        }),
        async ({ options, shape, seed, prices, isLent }) => {
          const problem = createProblem(options, "test");
          const { batch, channels } = shape;
          const inputs = inputsOf(problem, shape, seed);
          const { u, k, dy } = inputs;
          const plan = await withDevice(instructions, prices, async () => {
            using conv = await FlashFFTConv.create({ ...options, instructions, threads: 1 });
            return conv.explain().chosen.plan;
          });
          const [y, gradients] = await withDevice(instructions, undefined, async () => {
            using conv = await FlashFFTConv.create({ ...options, plan, instructions, threads: 1 });
            return [
              await conv.forward(u, k, inputs.options),
              await conv.backward(dy, u, k, inputs.options),
            ];
          });
          await withDevice(instructions, prices, async () => {
            for (const threads of teams) {
              using conv = await FlashFFTConv.create({ ...options, plan, instructions, threads });
              const name = `${threads} thread(s), ${plan}`;
              if (!isLent) {
                expectSameBits(await conv.forward(u, k, inputs.options), y, name);
                const own = await conv.backward(dy, u, k, inputs.options);
                expectSameBits(own, gradients, name);
                if (threads > teams[1]!) continue;
                expectSameBits(conv.forwardSync(u, k, inputs.options), y, `${name}, at once`);
                const now = conv.backwardSync(dy, u, k, inputs.options);
                expectSameBits(now, gradients, `${name}, at once`);
                continue;
              }
              const there = lent(conv, inputs, batch, channels);
              const { out } = there;
              expectSameBits(await conv.forward(there.u, k, { ...there.options, out }), y, name);
              const own = await conv.backward(there.dy, there.u, k, {
                ...{ ...there.options, out: there.gradients },
              });
              expectSameBits(own, gradients, name);
              using kernel = conv.prepareKernelSync(k);
              for (let run = 0; run < 2; run++) {
                out.fill(0);
                conv.forwardSync(there.u, kernel, { ...there.options, out });
                expectSameBits(out, y, `${name}, at once, run ${run}`);
              }
            }
          });
        },
      );

      test(`${cases} problems`, async () => {
        await fc.assert(property, randomCases(configuration, cases, seed));
      }, 3_600_000);

      // Found by fuzzing: sums of channels that the batch was cut in were given one place for two of them.
      test.each([
        ["a few frequencies", { digits: [8, 16, 128], dropped: [7, 5, 56] }, undefined],
        ["all frequencies, slow threads", undefined, slowDispatch(7e-5)],
        ["all frequencies, slower threads", undefined, slowDispatch(3e-4)],
      ])("gradients of a batch in pieces: %s", async (_name, frequencies, device) => {
        const options = { length: 13_145, kernelLength: 479, instructions };
        const problem = createProblem(options, "test");
        for (const batch of [3, 12]) {
          const { dy, u, k } = drawInputs(problem, { batch, channels: 2 }, 13);
          const gradients = await withDevice(instructions, device, () =>
            Promise.all(
              teams.map(async (threads) => {
                const plan = frequencies ? {} : { plan: "16384: 4·4·4·4·4·4" };
                using conv = await FlashFFTConv.create({
                  ...{ ...options, ...plan, threads },
                  ...(frequencies && { frequencies }),
                });
                return await conv.backward(dy, u, k, { pregate: u });
              }),
            ),
          );
          for (const more of gradients.slice(1)) expectSameBits(more, gradients[0]!);
        }
      });
    },
    { threads: 1 },
  );
});

test("a guard tells which region was overrun, and by how much", () => {
  const memory = new PlainMemory();
  memory.grow(8);
  const layout = new WorkLayout();
  layout.take(1000);
  const second = layout.take(500);
  layout.seal(memory, 0);
  layout.check(memory, 0);
  new Uint8Array(memory.buffer, second).fill(0, 0, 500);
  layout.check(memory, 0);
  new Uint8Array(memory.buffer, second).fill(0, 0, 700);
  expect(() => layout.check(memory, 0)).toThrow("region 1 of work memory: written 0 bytes past");
});
