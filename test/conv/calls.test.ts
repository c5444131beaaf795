/** What users may do with the object: kept kernels, arrays of their own, shapes, calls in parallel, disposal. */
import { describe, expect, test } from "vitest";
import { type Dtype, decode, dtypes, encode } from "../../src/dtype.ts";
import {
  convolve,
  FlashFFTConv,
  FlashFFTConvError,
  InvalidArgumentError,
} from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { oracleForward } from "../../src/reference/convolution.ts";
import { describeBackends, onGpu, whereThingsGo } from "../support/backends.ts";
import { checkForward, drawInputs } from "../support/cases.ts";
import { expectClose, expectSameBits } from "../support/close.ts";

const everything = { batch: 2, channels: 3, pregate: true, postgate: true, skip: true };
const lengths = [1, 100, 1024, 30_000];
const draw = (length: number, dtype: (typeof dtypes)[number] = "float32") =>
  drawInputs(createProblem({ length, dtype }, "test"), everything, length);

describe("the kernel", () => {
  describeBackends(
    "kept",
    (open) => {
      test.each(lengths)("gives the bits of the kernel passed: %i samples", async (length) => {
        const { u, k, dy, options } = draw(length);
        using conv = await open({ length });
        const kernel = await conv.prepareKernel(k);
        expect(kernel.channels).toBe(3);
        const y = await conv.forward(u, k, options);
        const gradients = await conv.backward(dy, u, k, options);
        for (let round = 0; round < 2; round++) {
          expectSameBits(await conv.forward(u, kernel, options), y);
          expectSameBits(await conv.backward(dy, u, kernel, options), gradients);
        }
        kernel.dispose();
      });

      test("is a copy: changing the taps afterwards changes nothing", async () => {
        const { u, k } = draw(100);
        using conv = await open({ length: 100 });
        const taps = k.slice();
        const kernel = await conv.prepareKernel(taps);
        const y = await conv.forward(u, kernel);
        taps.fill(0);
        expectSameBits(await conv.forward(u, kernel), y);
        kernel.dispose();
      });

      test("several at once, disposed in any order", async () => {
        using conv = await open({ length: 100 });
        const inputs = [1, 2, 3].map((seed) =>
          drawInputs(conv.problem, { batch: 2, channels: seed }, seed),
        );
        const kernels = await Promise.all(inputs.map(({ k }) => conv.prepareKernel(k)));
        kernels[1]!.dispose();
        for (const index of [2, 0]) {
          expectClose(await conv.forward(inputs[index]!.u, kernels[index]!), inputs[index]!.y(), {
            rowLength: 100,
            bound: 3e-7,
          });
        }
        await expect(conv.forward(inputs[1]!.u, kernels[1]!)).rejects.toThrow(InvalidArgumentError);
        kernels[0]!.dispose();
        kernels[2]!.dispose();
        kernels[2]!.dispose();
      });

      test.each(["float16", "bfloat16"] as const)("may be stored in %s", async (dtype) => {
        const { u, k, problem } = draw(500, dtype);
        const stored = encode(k, dtype);
        const exact = { batch: 2, channels: 3, u: decode(u, dtype), k: decode(stored, dtype) };
        using conv = await open({ length: 500, dtype });
        expectClose(await conv.forward(u, stored), oracleForward(problem, exact), {
          rowLength: 500,
          bound: 3e-7,
          dtype,
        });
      });
    },
    whereThingsGo,
  );
});

describe("arrays", () => {
  describeBackends(
    "of the caller",
    (open) => {
      test.each(dtypes)("out is written in place and nothing beside it: %s", async (dtype) => {
        const { u, k, options } = draw(100, dtype);
        using conv = await open({ length: 100, dtype });
        const y = await conv.forward(u, k, options);
        const Samples = dtype === "float32" ? Float32Array : Uint16Array;
        const whole = new Samples(u.length + 20).fill(7);
        const out = whole.subarray(10, 10 + u.length);
        expect(await conv.forward(u, k, { ...options, out })).toBe(out);
        expectSameBits(out, y);
        const beside = [...whole.subarray(0, 10), ...whole.subarray(10 + u.length)];
        expect(beside).toEqual(new Array(20).fill(7));
      });

      test.each(dtypes)(
        "skip with its shape, its gradient in an array given: %s",
        async (dtype) => {
          const { u, k, dy, options } = draw(100, dtype);
          using conv = await open({ length: 100, dtype });
          const y = await conv.forward(u, k, options);
          const gradients = await conv.backward(dy, u, k, options);
          const skip = { data: options.skip!, shape: [3] };
          expectSameBits(await conv.forward(u, k, { ...options, skip }), y);
          const whole = new Float32Array(7).fill(7);
          const dskip = whole.subarray(2, 5);
          const found = await conv.backward(dy, u, k, { ...options, skip, out: { dskip } });
          expect(found.dskip).toBe(dskip);
          expectSameBits(found, { ...gradients, dskip: dskip.slice() });
          expectSameBits(dskip.slice(), gradients.dskip!);
          expect([...whole.subarray(0, 2), ...whole.subarray(5)]).toEqual([7, 7, 7, 7]);
          const { pregate, postgate } = options;
          const none = conv.backward(dy, u, k, { pregate, postgate, out: { dskip } });
          await expect(none).rejects.toThrow(/out.dskip needs a skip/);
        },
      );

      test("views at odd offsets of larger buffers", async () => {
        const { u, k, dy, options } = draw(101);
        const view = (a: Float32Array) => {
          const buffer = new ArrayBuffer(4 * a.length + 4 * 7);
          const inside = new Float32Array(buffer, 4 * 3, a.length);
          inside.set(a);
          return inside;
        };
        using conv = await open({ length: 101 });
        const [pregate, postgate] = [options.pregate, options.postgate] as Float32Array[];
        const views = {
          pregate: view(pregate!),
          postgate: view(postgate!),
          skip: view(options.skip!),
        };
        expectSameBits(
          await conv.forward(view(u as Float32Array), view(k), views),
          await conv.forward(u, k, options),
        );
        expectSameBits(
          await conv.backward(view(dy as Float32Array), view(u as Float32Array), view(k), views),
          await conv.backward(dy, u, k, options),
        );
      });

      test.each(dtypes)("allocated by the object: %s", async (dtype) => {
        const { u, k, dy, options } = draw(1000, dtype);
        using conv = await open({ length: 1000, dtype, mode: "causal" });
        const y = await conv.forward(u, k, options);
        const input = conv.allocateInput(2, 3);
        const out = conv.allocateOutput(2, 3);
        expect(input).toHaveLength(u.length);
        expect(out).toHaveLength(y.length);
        (input as Float32Array).set(u as Float32Array);
        expect(await conv.forward(input, k, { ...options, out })).toBe(out);
        expectSameBits(out, y);
        expectSameBits(
          await conv.backward(dy, input, k, options),
          await conv.backward(dy, u, k, options),
        );
      });

      test("allocations stay valid and apart while more are made and calls run", async () => {
        using conv = await open({ length: 1000 });
        const { u, k } = drawInputs(conv.problem, { batch: 2, channels: 3 }, 1);
        const inputs = [1, 2, 3, 4].map(() => conv.allocateInput(2, 3) as Float32Array);
        for (const [index, input] of inputs.entries()) input.fill(index + 1);
        await conv.forward(new Float32Array(64 * 3 * 1000), k);
        for (const [index, input] of inputs.entries()) {
          expect(input.every((value) => value === index + 1)).toBe(true);
        }
        inputs[2]!.set(u as Float32Array);
        expectSameBits(await conv.forward(inputs[2]!, k), await conv.forward(u, k));
      });

      test("the outputs of full are longer than its inputs", async () => {
        using conv = await open({ length: 30, kernelLength: 12, mode: "full" });
        expect(conv.problem.outputLength).toBe(41);
        expect(conv.allocateInput(2, 2)).toHaveLength(120);
        expect(conv.allocateOutput(2, 2)).toHaveLength(164);
        await checkForward(conv, drawInputs(conv.problem, { ...everything, skip: false }, 3));
      });

      test("with a shape give the same", async () => {
        const { u, k, dy, options } = draw(100);
        using conv = await open({ length: 100 });
        const shape = [2, 3, 100];
        const shaped = {
          ...options,
          pregate: { data: options.pregate!, shape },
          postgate: { data: options.postgate!, shape },
        };
        const kernel = { data: k, shape: [3, 100] };
        expectSameBits(
          await conv.forward({ data: u, shape }, kernel, shaped),
          await conv.forward(u, k, options),
        );
        expectSameBits(
          await conv.backward({ data: dy, shape }, { data: u, shape }, kernel, shaped),
          await conv.backward(dy, u, k, options),
        );
      });

      test("are left as they were", async () => {
        const { u, k, dy, options } = draw(333);
        const arrays = [u, k, dy, options.pregate!, options.postgate!, options.skip!];
        const copies = arrays.map((array) => (array as Float32Array).slice());
        using conv = await open({ length: 333 });
        await conv.forward(u, k, options);
        await conv.backward(dy, u, k, options);
        for (const [n, array] of arrays.entries()) expectSameBits(array, copies[n]!);
      });

      const Float16 = (
        globalThis as { Float16Array?: new (values: Float64Array) => ArrayLike<number> }
      ).Float16Array;
      test.skipIf(Float16 === undefined)("Float16Array, where the runtime has it", async () => {
        const { u, k, exact } = draw(100, "float16");
        using conv = await open({ length: 100, dtype: "float16" });
        const numbers = new Float16!(exact.u) as never;
        const y = await conv.forward(u, k);
        const out = new Float16!(new Float64Array(600)) as never;
        await conv.forward(numbers, k, { out });
        expectSameBits(decode(out, "float16"), decode(y, "float16"));
      });
    },
    whereThingsGo,
  );
});

describe("calls", () => {
  describeBackends(
    "repeated and in parallel",
    (open) => {
      test.each(lengths)("give the same bits every time: %i samples", async (length) => {
        const { u, k, dy, options } = draw(length);
        using conv = await open({ length });
        const y = await conv.forward(u, k, options);
        const gradients = await conv.backward(dy, u, k, options);
        for (let round = 0; round < 3; round++) {
          expectSameBits(await conv.forward(u, k, options), y);
          expectSameBits(await conv.backward(dy, u, k, options), gradients);
        }
      });

      test("in flight together, each gets its own answer", async () => {
        using conv = await open({ length: 700 });
        const cases = Array.from({ length: 24 }, (_, index) =>
          drawInputs(
            conv.problem,
            {
              batch: 1 + (index % 4),
              channels: 1 + (index % 5),
              pregate: index % 2 === 0,
              postgate: index % 3 === 0,
              skip: index % 4 === 0,
            },
            index,
          ),
        );
        const one = ({ u, k, dy, options }: (typeof cases)[number], index: number) =>
          index % 3 === 2 ? conv.backward(dy, u, k, options) : conv.forward(u, k, options);
        const together = await Promise.all(cases.map(one));
        for (const [index, inputs] of cases.entries()) {
          expectSameBits(together[index]!, await one(inputs, index));
        }
        for (const inputs of cases.slice(0, 6)) await checkForward(conv, inputs);
      });

      test("a refused call among them harms none", async () => {
        using conv = await open({ length: 700 });
        const inputs = drawInputs(conv.problem, everything, 1);
        const results = await Promise.allSettled([
          conv.forward(inputs.u, inputs.k, inputs.options),
          conv.forward(new Float32Array(5), inputs.k),
          conv.forward(inputs.u, inputs.k, inputs.options),
        ]);
        expect(results.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
        await checkForward(conv, inputs);
      });

      test("dispose during calls: an answer or a typed error, never a hang", async () => {
        const { u, k, dy, options } = draw(5000);
        const conv = await open({ length: 5000 });
        const y = await conv.forward(u, k, options);
        const calls = [
          conv.forward(u, k, options),
          conv.backward(dy, u, k, options),
          conv.forward(u, k, options),
        ];
        conv.dispose();
        const results = await Promise.allSettled(calls);
        for (const result of results) {
          if (result.status === "rejected") expect(result.reason).toBeInstanceOf(FlashFFTConvError);
        }
        const [first] = results;
        if (first?.status === "fulfilled") expectSameBits(first.value, y);
      });
    },
    whereThingsGo,
  );
});

describe.skipIf(onGpu)("threads", () => {
  describeBackends(
    "of any number",
    (open, { options: { instructions } }) => {
      test.each(lengths)("give the same bits of dk: %i samples", async (length) => {
        const { u, k, dy, options } = drawInputs(
          createProblem({ length }, "test"),
          { ...everything, batch: 5 },
          length,
        );
        using one = await open({ length });
        const { dk, dskip } = await one.backward(dy, u, k, options);
        for (const threads of [2, 3]) {
          using more = await FlashFFTConv.create({ length, instructions, threads });
          expect(more.threads).toBe(threads);
          const gradients = await more.backward(dy, u, k, options);
          expectSameBits(gradients.dk, dk);
          expectSameBits(gradients.dskip!, dskip!);
        }
      });
    },
    { threads: 1, instructions: ["relaxed-simd", "simd"] },
  );
});

describe("the object", () => {
  describeBackends("says what it is", (open, { options: asked }) => {
    test("problem, threads and instructions", async () => {
      using conv = await open({ length: 100, mode: "same", kernelLength: 7 });
      expect(conv.problem).toEqual(
        createProblem({ length: 100, mode: "same", kernelLength: 7 }, ""),
      );
      expect(conv.threads).toBe(asked.threads);
      expect(conv.instructions).toBe(onGpu ? "wgsl" : asked.instructions);
    });

    test("explain() tells the plan, its price, and what the others would cost", async () => {
      for (const length of [64, 5000, 1_000_000]) {
        using conv = await open({ length, batch: 4, channels: 16 });
        const explanation = conv.explain();
        const { chosen, candidates } = explanation;
        expect(candidates.length).toBeGreaterThan(1);
        expect(candidates[0]).toEqual(chosen);
        const prices = candidates.map(({ predictedMs }) => predictedMs);
        expect(prices.every((price) => price > 0)).toBe(true);
        expect(prices).toEqual(prices.toSorted((a, b) => a - b));
        expect(new Set(candidates.map(({ plan }) => plan)).size).toBe(candidates.length);
        const text = String(explanation);
        expect(text).toContain(chosen.plan);
        expect(text).toContain(candidates[1]!.plan);
      }
    });

    test("await using disposes too", async () => {
      let kept: FlashFFTConv<Dtype>;
      {
        await using conv = await open({ length: 10 });
        kept = conv;
      }
      await expect(kept.forward(new Float32Array(10), new Float32Array(10))).rejects.toThrow(
        InvalidArgumentError,
      );
    });
  });

  test.skipIf(onGpu)(
    "dispose waits for the gradient of the skip weights of a call under way",
    async () => {
      const options = { length: 2 ** 20, kernelLength: 64, threads: 2 };
      const conv = await FlashFFTConv.create(options);
      using other = await FlashFFTConv.create(options);
      const [dy, u] = [0, 1].map(() => conv.allocateInput(1, 4).fill(1)) as [
        Float32Array,
        Float32Array,
      ];
      const before = other.memory().backendBytes;
      const call = conv.backward(dy, u, new Float32Array(4 * 64), { skip: new Float32Array(4) });
      conv.dispose();
      let isRunning = true;
      const ended = call.finally(() => {
        isRunning = false;
      });
      while (isRunning && other.memory().backendBytes >= before)
        await new Promise((resolve) => setImmediate(resolve));
      // Zeroed, and where dy and u were once those are given back.
      other.allocateInput(2, 4);
      expect(Array.from((await ended).dskip!)).toEqual(new Array(4).fill(2 ** 20));
    },
  );

  test("convolves once in one line, as scipy.signal.fftconvolve does", async () => {
    const u = Float32Array.of(1, 2, 3);
    const k = Float32Array.of(0, 1, 0.5);
    const close = (actual: unknown, expected: number[]) =>
      expectClose(actual as Float32Array, Float64Array.from(expected), {
        rowLength: expected.length,
        bound: 3e-7,
      });
    close(await convolve(u, k), [0, 1, 2.5, 4, 1.5]);
    close(await convolve(u, k, { mode: "same" }), [1, 2.5, 4]);
    close(await convolve(u, k, { mode: "causal" }), [0, 1, 2.5]);
    close(await convolve(u, k, { mode: "circular" }), [4, 2.5, 2.5]);
    const two = Float32Array.of(1, 2, 3, 10, 20, 30);
    close(
      await convolve(two, Float32Array.of(1, 2), { mode: "causal", channels: 2 }),
      [1, 2, 3, 20, 40, 60],
    );
  });
});
