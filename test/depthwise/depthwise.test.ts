/** Short depthwise convolutions against the oracle: every form, layout, padding, storage, forward and backward. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Dtype, dtypes, type SampleArray } from "../../src/dtype.ts";
import { FlashDepthwiseConv1d, FlashFFTConv } from "../../src/index.ts";
import { type ActivationName, activations } from "../../src/math/activation.ts";
import { type Form, layouts, type Padding } from "../../src/plan/depthwise.ts";
import { describeBackends, onGpu, randomCases, share, whereThingsGo } from "../support/backends.ts";
import { expectClose, expectSameBits } from "../support/close.ts";
import {
  checkGradients,
  checkOutputs,
  type DepthwiseCase,
  drawCase,
  openCase,
} from "../support/depthwise.ts";
import { normal } from "../support/signals.ts";

const activationNames = Object.keys(activations) as ActivationName[];
const forms: readonly Form[] = ["linear", "projections", ...activationNames];

/** Random cases, of which each compiles kernels. */
const numRuns = onGpu ? 10 : 30;

const anyPadding: fc.Arbitrary<Padding> = fc.oneof(
  fc.constantFrom<Padding>("causal", "same"),
  fc.tuple(fc.integer({ min: 0, max: 40 }), fc.integer({ min: 0, max: 40 })),
);

/** Taps of all magnitudes, and the few that models have more often than others. */
const anyTaps = fc.oneof(
  fc.integer({ min: 1, max: 9 }),
  fc.integer({ min: 1, max: 70 }),
  fc.constantFrom(128, 255, 256),
);

const anyCase: fc.Arbitrary<DepthwiseCase> = fc
  .record({
    form: fc.constantFrom(...forms),
    layout: fc.constantFrom(...layouts),
    dtype: fc.constantFrom(...dtypes),
    storedTaps: fc.boolean(),
    batch: fc.integer({ min: 1, max: 3 }),
    channels: fc.oneof(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 60, max: 70 })),
    length: fc.oneof(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 200 })),
    kernelLength: anyTaps,
    padding: anyPadding,
    bias: fc.boolean(),
    state: fc.boolean(),
    dstateOut: fc.boolean(),
    pregate: fc.constantFrom("first" as const, "second" as const),
  })
  .map((c) => {
    const streams = c.padding === "causal";
    return { ...c, state: c.state && streams, dstateOut: c.dstateOut && streams };
  })
  .filter(({ padding, length, kernelLength, channels, batch }) => {
    const zeros = typeof padding === "string" ? kernelLength - 1 : padding[0] + padding[1];
    return (
      length + zeros >= kernelLength && batch * channels * (length + zeros) * kernelLength < 300_000
    );
  });

const anySeed = fc.integer({ min: 0, max: 1_000_000 });

describe("random short convolutions", () => {
  describeBackends("agree with the oracle", (_, configuration) => {
    const { options } = configuration;
    test(`${numRuns} cases, forward and backward`, async () => {
      await fc.assert(
        fc.asyncProperty(anyCase, anySeed, async (c, seed) => {
          const inputs = drawCase(c, seed);
          using conv = await openCase(c, options);
          checkOutputs(inputs, await conv.forward(inputs));
          checkGradients(inputs, await conv.backward(inputs));
        }),
        randomCases(configuration, numRuns, 31),
      );
    });
  });
});

const base: DepthwiseCase = {
  ...{ form: "linear", layout: "BHL", dtype: "float32", storedTaps: false, batch: 1 },
  ...{ channels: 1, length: 1, kernelLength: 4, padding: "causal", bias: true, state: false },
  pregate: "second",
};

/** Longer than a chunk, wider than a tile, more than staging holds. */
const large: readonly Partial<DepthwiseCase>[] = [
  { length: 40_000 },
  { length: 40_000, layout: "BLH" },
  { length: 40_000, dtype: "float16", form: "silu" },
  { length: 3000, batch: 2, channels: 40, form: "relu" },
  { length: 3000, batch: 2, channels: 40, layout: "BLH", padding: "same", kernelLength: 5 },
  { length: 400, channels: 300, layout: "BLH", form: "silu", dtype: "bfloat16" },
  { length: 300, channels: 261, layout: "BLH", dtype: "float16", padding: [9, 2] },
  { length: 2500, channels: 12, form: "projections", kernelLength: 3 },
  { length: 300, channels: 258, form: "projections", layout: "BLH", kernelLength: 3 },
  { length: 20_000, channels: 2, kernelLength: 20, padding: [30, 3], form: "silu" },
  { length: 1500, channels: 3, kernelLength: 256, form: "silu", state: true },
  { length: 1500, channels: 5, kernelLength: 256, layout: "BLH", state: true },
];

describeBackends(
  "larger than one piece",
  (_, configuration) => {
    const { options } = configuration;
    test.each(share(large, 2))("%o", async (part) => {
      const c = { ...base, ...part };
      const inputs = drawCase(c, 7);
      using conv = await openCase(c, options);
      const outputs = await conv.forward(inputs);
      checkOutputs(inputs, outputs);
      checkGradients(inputs, await conv.backward(inputs));
      // Arrays of the backend's memory, used where they are, give the same bits.
      const x = conv.allocateInput(c.batch, c.length);
      (x as Float32Array).set(inputs.x as Float32Array);
      const out = outputs.map(() => conv.allocateOutput(c.batch, c.length));
      expectSameBits(await conv.forward({ ...inputs, x }, out), outputs);
      expectSameBits(await conv.backward({ ...inputs, x }), await conv.backward(inputs));
    });
  },
  whereThingsGo,
);

/** Positions [from, to) of a tensor of a case. */
function cut(
  tensor: SampleArray,
  { layout, batch }: DepthwiseCase,
  channels: number,
  [from, to]: readonly [number, number],
): SampleArray {
  const Kind = tensor.constructor as new (n: number) => SampleArray;
  const positions = tensor.length / (batch * channels);
  const result = new Kind((tensor.length / positions) * (to - from));
  const [items, step] = layout === "BHL" ? [batch * channels, 1] : [batch, channels];
  for (let item = 0; item < items; item++) {
    for (let i = 0; i < (to - from) * step; i++)
      result[item * (to - from) * step + i] = tensor[(item * positions + from) * step + i]!;
  }
  return result;
}

describe("streams", () => {
  const anyStream = fc
    .tuple(anyCase, fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 5 }))
    .map(([c, blocks]) => ({
      c: { ...c, padding: "causal" as const, length: blocks.reduce((a, b) => a + b, 0) },
      blocks,
    }));

  describeBackends(
    "cut anywhere",
    (_, configuration) => {
      const { options } = configuration;
      test(`${numRuns / 2} cuttings give the bits of the whole`, async () => {
        await fc.assert(
          fc.asyncProperty(anyStream, anySeed, async ({ c, blocks }, seed) => {
            const inputs = drawCase(c, seed);
            const packed = c.channels * (c.form === "projections" ? 3 : 1);
            using conv = await openCase(c, options);
            const history = packed * (c.kernelLength - 1) * c.batch;
            const Kind = inputs.x.constructor as new (n: number) => SampleArray;
            const end = new Kind(history);
            const whole = await conv.forward({
              ...inputs,
              options: { ...inputs.options, stateOut: end } as never,
            });
            const state = new Kind(history);
            if (inputs.options.state)
              (state as Float32Array).set(inputs.options.state as Float32Array);
            let at = 0;
            for (const block of blocks) {
              const x = cut(inputs.x, c, packed, [at, at + block]);
              const carried = { ...inputs.options, state, stateOut: state };
              const y = await conv.forward({ ...inputs, x, options: carried as never });
              const same = whole.map((w) => cut(w, c, c.channels, [at, at + block]));
              expectSameBits(y, same, `block of ${block} at ${at}`);
              at += block;
            }
            if (history > 0) expectSameBits(state, end, "state");
          }),
          randomCases(configuration, numRuns / 2, 5),
        );
      });
    },
    whereThingsGo,
  );

  describeBackends(
    "gradients through the state",
    (_, configuration) => {
      const { options } = configuration;
      test.each(
        (["silu", "projections"] as const).flatMap((form) =>
          layouts.map((layout) => [layout, form] as const),
        ),
      )(
        "%s %s: block by block, last to first, they are those of the whole",
        async (layout, form) => {
          const c: DepthwiseCase = {
            ...{ ...base, layout, form, channels: 5, batch: 2 },
            ...{ length: 23, kernelLength: form === "silu" ? 8 : 4, state: true },
          };
          const inputs = drawCase(c, 3);
          using conv = await openCase(c, options);
          const { x, weight, dy } = inputs;
          const { bias, state } = inputs.options;
          const whole = await conv.backward(inputs);
          const packed = form === "silu" ? 5 : 15;
          const edges = [0, 3, 16, 21, 23];
          const states = [state!];
          for (let i = 1; i < edges.length; i++) {
            const stateOut = new Float32Array(state!.length);
            const block = cut(x, c, packed, [edges[i - 1]!, edges[i]!]);
            const carried = { bias, state: states[i - 1]!, stateOut };
            await conv.forward({ ...inputs, x: block, options: carried as never });
            states.push(stateOut);
          }
          let dstateOut: SampleArray | undefined;
          const dweight = new Float64Array(weight.length);
          for (let i = edges.length - 1; i > 0; i--) {
            const range = [edges[i - 1]!, edges[i]!] as const;
            const carried = { bias, state: states[i - 1]!, dstateOut };
            const part = await conv.backward({
              ...{ ...inputs, x: cut(x, c, packed, range), options: carried as never },
              dy: dy.map((d) => cut(d, c, 5, range)),
            });
            dstateOut = part.dstate!;
            part.dweight.forEach((v, n) => {
              dweight[n] = dweight[n]! + v;
            });
            const want = Float64Array.from(cut(whole.dx, c, packed, range) as Float32Array);
            expectClose(part.dx, want, { rowLength: want.length, bound: 6e-7 });
          }
          const exact = Float64Array.from(whole.dstate as Float32Array);
          expectClose(dstateOut!, exact, { rowLength: exact.length, bound: 6e-7 });
          expectClose(Float32Array.from(dweight), Float64Array.from(whole.dweight), {
            ...{ rowLength: dweight.length, bound: 6e-7 },
          });
        },
      );
    },
    whereThingsGo,
  );
});

describeBackends(
  "gradients of the state that a call leaves behind",
  (_, configuration) => {
    const halves = (["float16", "bfloat16"] as const).flatMap((dtype) =>
      layouts.flatMap((layout) =>
        (["linear", "silu", "projections"] as const).map((form) => [dtype, layout, form] as const),
      ),
    );
    // x shorter than the state, longer, as long; held taps and taps that advance together; a chunk that ends in the state.
    const all: readonly (readonly [length: number, taps: number])[] = [
      [3, 6],
      [70, 9],
      [40, 41],
      [1030, 12],
    ];
    const few = onGpu || configuration.options.instructions === "javascript";
    const shapes = all.slice(0, few ? 2 : 4);
    test.each(halves)("%s %s %s: rounded once", async (dtype, layout, form) => {
      for (const [length, kernelLength] of shapes) {
        const c: DepthwiseCase = {
          ...{ ...base, form, layout, dtype, length, kernelLength, batch: 2, channels: 6 },
          ...{ state: true, dstateOut: true },
        };
        const inputs = drawCase(c, 12);
        using conv = await openCase(c, configuration.options);
        const found = await conv.backward(inputs);
        checkGradients(inputs, found);
        const { exact } = inputs.expectedGradients();
        const packed = exact.dx.length / (2 * length);
        const history = kernelLength - 1;
        // Only what the state holds may have been rounded twice.
        const last = [Math.max(0, length - history), length] as const;
        const early = [Math.min(length, history), history] as const;
        for (const [name, range] of [
          ["dx", last],
          ["dstate", early],
        ] as const) {
          if (range[0] === range[1]) continue;
          const from = name === "dx" ? c : { ...c, length: history };
          const want = Float64Array.from(cut(exact[name] as never, from, packed, range));
          const bits = cut(found[name]!, from, packed, range);
          expectClose(bits, want, { name, rowLength: want.length, bound: 0, dtype });
        }
      }
    });
  },
  whereThingsGo,
);

describeBackends(
  "beside the long convolution",
  (open, configuration) => {
    const { options } = configuration;
    test.each([1, 3, 64, 255])(
      "%i taps, reversed, zero-padded to L: the causal and the same mode",
      async (taps) => {
        const length = 500;
        const x = Float32Array.from(normal(4 * length, 1));
        const weight = Float32Array.from(normal(4 * taps, 2));
        const reversed = new Float32Array(4 * taps);
        weight.forEach((w, i) => {
          const [h, j] = [Math.floor(i / taps), i % taps];
          reversed[h * taps + (taps - 1 - j)] = w;
        });
        // With an even number of taps the long convolution's `same` has its middle one sample further on.
        const modes = taps % 2 === 1 ? (["causal", "same"] as const) : (["causal"] as const);
        for (const mode of modes) {
          using short = await FlashDepthwiseConv1d.create({
            ...{ channels: 4, kernelLength: taps, padding: mode },
            ...options,
          });
          using long = await open({ mode, length, kernelLength: taps });
          const y = await long.forward(x, reversed);
          expectClose(await short.forward(x, weight), Float64Array.from(y as Float32Array), {
            ...{ rowLength: length, bound: 6e-7 },
          });
        }
      },
    );

    test("projections feed it: the Hyena operator in two calls", async () => {
      const [channels, length] = [3, 100];
      const c: DepthwiseCase = { ...base, form: "projections", channels, length, kernelLength: 3 };
      const inputs = drawCase(c, 11);
      using projections = await openCase(c, options);
      using long = await open({ length });
      const [gated, postgate] = await projections.forward(inputs);
      const k = Float32Array.from(normal(channels * length, 12));
      const y = await long.forward(gated!, k, { postgate: postgate! });
      // x₀ ⊙ ((v ⊙ x₁) ∗ k) in three short filters, two products and one long convolution.
      using filter = await FlashDepthwiseConv1d.create({
        ...{ channels: 3 * channels, kernelLength: 3 },
        ...options,
      });
      const [x, weight, bias] = [inputs.x, inputs.weight, inputs.options.bias] as Float32Array[];
      const z = await filter.forward(x!, weight!, { bias });
      const third = (i: number) => z.slice(i * channels * length, (i + 1) * channels * length);
      const separate = await long.forward(third(2), k, { pregate: third(1), postgate: third(0) });
      expectClose(y, Float64Array.from(separate as Float32Array), {
        ...{ rowLength: length, bound: 1e-6 },
      });
    });
  },
  whereThingsGo,
);

describeBackends(
  "channels do not disturb each other",
  (_, configuration) => {
    const { options } = configuration;
    test.each(layouts)("%s: NaN and infinity stay in theirs", async (layout) => {
      const c: DepthwiseCase = { ...base, layout, form: "silu", batch: 2, channels: 7, length: 41 };
      const inputs = drawCase(c, 6);
      using conv = await openCase(c, options);
      const loud = Float32Array.from(inputs.x as Float32Array);
      // Channel 3 of batch item 1, from its first sample to its last.
      for (let n = 0; n < 41; n++) {
        loud[layout === "BHL" ? (7 + 3) * 41 + n : (41 + n) * 7 + 3] = n % 2 ? Number.NaN : 1 / 0;
      }
      const others = (tensor: object): Float32Array =>
        (tensor as Float32Array).filter((_, i) => {
          const channel = layout === "BHL" ? Math.floor(i / 41) : Math.floor(i / 287) * 7 + (i % 7);
          return channel !== 10;
        });
      const [y, disturbed] = [
        await conv.forward(inputs),
        await conv.forward({ ...inputs, x: loud }),
      ];
      expectSameBits(others(disturbed[0]!), others(y[0]!), "y");
      const [g, noisy] = [await conv.backward(inputs), await conv.backward({ ...inputs, x: loud })];
      expectSameBits(others(noisy.dx), others(g.dx), "dx");
      const taps = (tensor: Float32Array) => tensor.filter((_, i) => Math.floor(i / 4) !== 3);
      expectSameBits(taps(noisy.dweight), taps(g.dweight), "dweight");
      expect(noisy.dweight[12]).toBeNaN();
    });
  },
  whereThingsGo,
);

describe("sums of the gradients", () => {
  const c: DepthwiseCase = {
    ...{ ...base, form: "silu", batch: 3, channels: 20, length: 2000, kernelLength: 4 },
  };

  test.each(layouts)("%s: one thread and two give the same bits", async (layout) => {
    const inputs = drawCase({ ...c, layout }, 2);
    const results = [];
    for (const threads of [1, 2]) {
      using conv = await openCase(
        { ...c, layout },
        { backend: "cpu", instructions: "simd", threads },
      );
      results.push(await conv.backward(inputs));
    }
    expectSameBits(results[0]!, results[1]!);
  });

  test.each(dtypes)("%s: two calls at once do not disturb each other", async (dtype: Dtype) => {
    const inputs = drawCase({ ...c, dtype }, 4);
    using conv = await openCase(
      { ...c, dtype },
      { backend: "cpu", instructions: "simd", threads: 2 },
    );
    const alone = [await conv.forward(inputs), await conv.backward(inputs)];
    const together = await Promise.all([conv.forward(inputs), conv.backward(inputs)]);
    expectSameBits(together, alone);
  });

  test("a hundred thousand samples a tap stay within the bar", async () => {
    const long: DepthwiseCase = { ...base, length: 200_000, kernelLength: 3, bias: true };
    const inputs = drawCase(long, 9);
    using conv = await openCase(long, { backend: "cpu", instructions: "simd", threads: 2 });
    checkGradients(inputs, await conv.backward(inputs));
  });
});

test("the checks refuse zeros, a shift by one and a lost tail", async () => {
  const c: DepthwiseCase = { ...base, length: 500, channels: 3, form: "silu" };
  const inputs = drawCase(c, 1);
  using conv = await openCase(c, { backend: "cpu", instructions: "simd", threads: 1 });
  const [y] = (await conv.forward(inputs)) as [Float32Array];
  const gradients = await conv.backward(inputs);
  const wrongs = (right: Float32Array): Float32Array[] => [
    new Float32Array(right.length),
    Float32Array.from(right, (_, n) => right[(n + 1) % right.length]!),
    right.map((v, n) => (n < right.length - 1 ? v : 0)),
  ];
  for (const wrong of wrongs(y)) expect(() => checkOutputs(inputs, [wrong])).toThrow("output 0");
  for (const name of ["dx", "dweight", "dbias"] as const) {
    for (const wrong of wrongs(gradients[name] as Float32Array)) {
      expect(() => checkGradients(inputs, { ...gradients, [name]: wrong })).toThrow(name);
    }
  }
});

test("FlashFFTConv and the short convolution share a backend", async () => {
  using long = await FlashFFTConv.create({ length: 64, threads: 2 });
  using short = await FlashDepthwiseConv1d.create({ channels: 1, kernelLength: 3, threads: 2 });
  const before = long.memory().backendBytes;
  short.allocateInput(1, 1000);
  expect(long.memory().backendBytes).toBeGreaterThanOrEqual(before + 4000);
});
