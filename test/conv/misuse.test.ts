/** Every public method called wrong in every way: a typed error that names the call, and nothing is written. */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import {
  convolve,
  FlashDepthwiseConv1d,
  FlashFFTConv,
  FlashFFTConvStream,
  FlashHyenaProjections,
  PreparedKernel,
  sparsifyKernel,
  tune,
} from "../../src/index.ts";
import { describeBackends } from "../support/backends.ts";
import { expectSameBits } from "../support/close.ts";
import {
  any,
  badProblem,
  badRuntime,
  badShort,
  integers,
  notEncoders,
  notOptions,
  notSamples,
  refused,
} from "../support/misuse.ts";

const samples = (count: number) => Float32Array.from({ length: count }, (_, i) => Math.sin(i + 1));
/** What stands in arrays for results: still there after a refusal. */
const mark = 7;
const marked = (count: number) => new Float32Array(count).fill(mark);

describeBackends(
  "called wrong",
  (_, { options: selected }) => {
    const long = { length: 8, ...selected };
    const short = { channels: 2, kernelLength: 3, ...selected };
    const k = samples(16);

    /** Calls that take options, right but for these. */
    const makers: readonly {
      readonly call: string;
      readonly make: (options: unknown) => unknown;
      readonly right: object;
      readonly bad: Readonly<Record<string, readonly unknown[]>>;
    }[] = [
      {
        call: "FlashFFTConv.create",
        make: (options) => FlashFFTConv.create(any(options)),
        right: long,
        bad: {
          ...badRuntime,
          ...badProblem,
          length: [...integers, undefined],
          plan: [null, 0, ""],
        },
      },
      {
        call: "FlashDepthwiseConv1d.create",
        make: (options) => FlashDepthwiseConv1d.create(any(options)),
        right: short,
        bad: { ...badRuntime, ...badShort, activation: [null, "swish", 0] },
      },
      {
        call: "FlashHyenaProjections.create",
        make: (options) => FlashHyenaProjections.create(any(options)),
        right: short,
        bad: { ...badRuntime, ...badShort, pregate: [null, "third", 0] },
      },
      {
        call: "FlashFFTConvStream.create",
        make: (options) => FlashFFTConvStream.create(k, any(options)),
        right: { kernelLength: 8, channels: 2, blockLength: 16, ...selected },
        bad: {
          ...badRuntime,
          ...{ mode: [null, "circular"], dtype: badProblem.dtype!, blockLength: [...integers, 17] },
          ...{ kernelLength: integers, frequencies: [{ band: [0, 0.1] }] },
          skip: [...notSamples.map(([, value]) => value), samples(3)],
        },
      },
      {
        call: "convolve",
        make: (options) => convolve(samples(8), k, any(options)),
        right: { channels: 2, ...selected },
        bad: {
          ...{ ...badRuntime, mode: badProblem.mode!, dtype: badProblem.dtype! },
          frequencies: badProblem.frequencies!,
          // Lists of numbers are what newcomers convolve.
          pregate: notSamples.map(([, value]) => value).filter((v) => !(v instanceof Float64Array)),
          ...{ out: [marked(8)], plan: [null, 0] },
        },
      },
      {
        call: "sparsifyKernel",
        make: (options) => sparsifyKernel(k, any(options)),
        right: { length: 8, frequencies: { band: [0, 0.1] } },
        bad: {
          ...badProblem,
          length: [...integers, undefined],
          frequencies: [undefined, ...badProblem.frequencies!],
        },
      },
    ];

    describe.each(makers)("$call", ({ call, make, right, bad }) => {
      test.each(notOptions)("options: %s", async (name, value) => {
        await refused(() => make(value), call, name);
      });
      test("an option that there is not", async () => {
        const message = await refused(() => make({ ...right, lenght: 8 }), call, "lenght");
        expect(message).toMatch(/options may have .*got "lenght"/);
      });
      test.each(Object.entries(bad))("%s", async (name, values) => {
        for (const value of values)
          await refused(() => make({ ...right, [name]: value }), call, `${name} ${String(value)}`);
      });
    });

    test.each(makers.filter(({ bad }) => "device" in bad))(
      "$call: a device beside backend 'cpu'",
      async ({ call, make, right }) => {
        const message = await refused(
          () => make({ ...right, backend: "cpu", device: {} }),
          call,
          "a device",
        );
        expect(message).toContain("device belongs to a GPU");
      },
    );

    test("a stream says what K is where its kernel does not", async () => {
      const create = () => FlashFFTConvStream.create(k, any({ channels: 3, ...selected }));
      const message = await refused(create, "FlashFFTConvStream.create", "no kernelLength");
      expect(message).toContain("k must divide into 3 rows of equal length");
    });

    /** Operands of one method: the positional ones in their order, and those in options. */
    interface Method {
      readonly call: string;
      readonly arguments: Readonly<Record<string, unknown>>;
      readonly options: Readonly<Record<string, unknown>>;
      /** Options of other methods, which this one has no use for. */
      readonly foreign: readonly string[];
    }

    /** Call a method on an object with every operand replaced by what is none, and look that it wrote nothing. */
    async function misuse(object: object, method: Method): Promise<void> {
      const name = method.call.split(".")[1]!;
      const run = (given: Method["arguments"], options: unknown): unknown =>
        (object as Record<string, (...operands: unknown[]) => unknown>)[name]!(
          ...Object.values(given),
          options,
        );
      const results = Object.entries(method.options).flatMap(([key, value]) =>
        value instanceof Float32Array
          ? [value]
          : Object.values(key === "out" ? (value as object) : {}),
      ) as Float32Array[];
      const before = results.map((r) => r.slice());
      for (const [what, value] of notOptions)
        await refused(() => run(method.arguments, value), method.call, `options: ${what}`);
      for (const key of Object.keys(method.arguments)) {
        for (const [what, value] of notSamples) {
          const given = { ...method.arguments, [key]: value };
          await refused(() => run(given, method.options), method.call, `${key}: ${what}`);
        }
      }
      const replaced = async (key: string, values: typeof notSamples): Promise<void> => {
        for (const [what, value] of values) {
          const options = { ...method.options, [key]: value };
          await refused(() => run(method.arguments, options), method.call, `${key}: ${what}`);
        }
      };
      const { out } = method.options;
      const several = !(out instanceof Float32Array);
      // Where a call has several results, any of them may be left out.
      const notResults = notSamples.filter(([what]) => !several || what !== "an empty object");
      for (const key of Object.keys(method.options))
        await replaced(key, key === "out" ? notResults : notSamples);
      await replaced("encoder", notEncoders);
      for (const key of [...method.foreign, "pregat", "outt"])
        await replaced(key, [["one of another method", marked(8)]]);
      if (several) {
        for (const key of Object.keys(out as object)) {
          for (const [what, value] of notSamples) {
            const options = { ...method.options, out: { ...(out as object), [key]: value } };
            await refused(() => run(method.arguments, options), method.call, `out.${key}: ${what}`);
          }
        }
        await replaced("out", [["one that there is not", { ...(out as object), dz: marked(8) }]]);
      }
      for (const [i, r] of results.entries()) expectSameBits(r, before[i]!, "a result");
    }

    test("conv.forward and conv.backward", async () => {
      using conv = await FlashFFTConv.create(long);
      const [u, taps, dy] = [samples(16), samples(16), samples(16)];
      const gates = { pregate: samples(16), postgate: samples(16), skip: samples(2) };
      const before = await conv.forward(u, taps, gates);
      const foreign = ["du", "bias", "state", "stateOut", "dskip"];
      const forward = { call: "conv.forward", arguments: { u, k: taps }, foreign };
      await misuse(conv, { ...forward, options: { ...gates, out: marked(16) } });
      const out = {
        ...{ du: marked(16), dk: marked(16), dpregate: marked(16), dpostgate: marked(16) },
        dskip: marked(2),
      };
      const backward = { call: "conv.backward", arguments: { dy, u, k: taps }, foreign };
      await misuse(conv, { ...backward, options: { ...gates, out } });
      for (const [what, value] of notSamples)
        await refused(() => conv.prepareKernel(any(value)), "conv.prepareKernel", what);
      expectSameBits(await conv.forward(u, taps, gates), before);
    });

    test("depthwise.forward and depthwise.backward", async () => {
      using conv = await FlashDepthwiseConv1d.create(short);
      const [x, weight, dy] = [samples(16), samples(6), samples(16)];
      const operands = { bias: samples(2), state: samples(4) };
      const before = await conv.forward(x, weight, operands);
      const forward = {
        call: "depthwise.forward",
        arguments: { x, weight },
        foreign: ["dstateOut", "skip"],
      };
      const results = { stateOut: marked(4), out: marked(16) };
      await misuse(conv, { ...forward, options: { ...operands, ...results } });
      const backward = {
        call: "depthwise.backward",
        arguments: { dy, x, weight },
        foreign: ["stateOut", "skip"],
      };
      const gradients = { dx: marked(16), dweight: marked(6), dbias: marked(2), dstate: marked(4) };
      const behind = { dstateOut: samples(4), out: gradients };
      await misuse(conv, { ...backward, options: { ...operands, ...behind } });
      expectSameBits(await conv.forward(x, weight, operands), before);
    });

    test("projections.forward and projections.backward", async () => {
      using projections = await FlashHyenaProjections.create(short);
      const [x, weight] = [samples(48), samples(18)];
      const operands = { bias: samples(6), state: samples(12) };
      const before = await projections.forward(x, weight, operands);
      const out = { gated: marked(16), postgate: marked(16) };
      await misuse(projections, {
        ...{ call: "projections.forward", arguments: { x, weight }, foreign: ["dstateOut"] },
        options: { ...operands, stateOut: marked(12), out },
      });
      const upstream = { dgated: samples(16), dpostgate: samples(16) };
      await misuse(projections, {
        ...{
          call: "projections.backward",
          arguments: { upstream, x, weight },
          foreign: ["stateOut"],
        },
        options: {
          ...{ ...operands, dstateOut: samples(12) },
          out: { dx: marked(48), dweight: marked(18), dbias: marked(6), dstate: marked(12) },
        },
      });
      for (const name of ["dgated", "dpostgate"]) {
        for (const [what, value] of notSamples) {
          const wrong = () => projections.backward(any({ ...upstream, [name]: value }), x, weight);
          await refused(wrong, "projections.backward", `${name}: ${what}`);
        }
      }
      expectSameBits(await projections.forward(x, weight, operands), before);
    });

    test("a state of one tap, which is empty", async () => {
      using conv = await FlashDepthwiseConv1d.create({ ...short, kernelLength: 1 });
      const [x, weight] = [samples(16), samples(2)];
      for (const [what, value] of notSamples.filter(([name]) => name !== "no samples")) {
        const state = any(value);
        for (const options of [{ state }, { stateOut: state }])
          await refused(() => conv.forward(x, weight, options), "depthwise.forward", what);
        for (const options of [{ state }, { dstateOut: state }])
          await refused(
            () => conv.backward(x, x, weight, any(options)),
            "depthwise.backward",
            what,
          );
      }
      const state = conv.createState(1);
      const shaped = { data: state, shape: [1, 2, 0] };
      const y = await conv.forward(x, weight);
      expectSameBits(await conv.forward(x, weight, { state, stateOut: state }), y);
      expectSameBits(await conv.forward(x, weight, { state: shaped }), y);
    });

    test("allocations, states and lengths", async () => {
      using conv = await FlashFFTConv.create(long);
      using filter = await FlashDepthwiseConv1d.create(short);
      using projections = await FlashHyenaProjections.create(short);
      for (const value of integers) {
        for (const name of ["allocateInput", "allocateOutput"] as const) {
          for (const [object, of] of [
            ["conv", conv],
            ["depthwise", filter],
            ["projections", projections],
          ] as const) {
            await refused(() => of[name](any(value), 1), `${object}.${name}`, String(value));
            await refused(() => of[name](1, any(value)), `${object}.${name}`, String(value));
          }
        }
        for (const [object, of] of [
          ["depthwise", filter],
          ["projections", projections],
        ] as const) {
          await refused(() => of.createState(any(value)), `${object}.createState`, String(value));
          await refused(() => of.outputLength(any(value)), `${object}.outputLength`, String(value));
        }
      }
    });

    test("a stream", async () => {
      const create = { kernelLength: 8, channels: 2, blockLength: 16, ...selected };
      const stream = await FlashFFTConvStream.create(k, create);
      for (const [what, value] of notSamples.filter(([name]) => name !== "no samples")) {
        await refused(() => stream.process(any(value)), "stream.process", what);
        await refused(() => stream.process({ u: any(value) }), "stream.process", `u: ${what}`);
        for (const gate of ["pregate", "postgate"]) {
          const piece = { u: samples(4), [gate]: any(value) };
          await refused(() => stream.process(piece), "stream.process", `${gate}: ${what}`);
        }
      }
      const piece = any({ u: samples(4), skip: samples(4) });
      await refused(() => stream.process(piece), "stream.process", "skip");
      for (const [what, value] of notOptions.filter(([name]) => !/array|Map|Set/.test(name))) {
        const drain = async () => {
          for await (const _ of stream.convolve(any(value)));
        };
        await refused(drain, "stream.convolve", what);
      }
      for (const [what, value] of notSamples)
        await refused(
          () => FlashFFTConvStream.create(any(value), create),
          "FlashFFTConvStream.create",
          what,
        );
      stream.dispose();
    });

    test("samples of calls that have no object", async () => {
      const frequencies = { band: [0, 0.1] } as const;
      for (const [what, value] of notSamples.filter(([name]) => !name.includes("array"))) {
        const sparsify = () => sparsifyKernel(any(value), { length: 8, frequencies });
        await refused(sparsify, "sparsifyKernel", what);
        if (value instanceof Float64Array) continue;
        await refused(() => convolve(any(value), k, selected), "convolve", `u: ${what}`);
        await refused(() => convolve(k, any(value), selected), "convolve", `k: ${what}`);
      }
    });

    test("anything after dispose", async () => {
      const conv = await FlashFFTConv.create(long);
      const filter = await FlashDepthwiseConv1d.create(short);
      const projections = await FlashHyenaProjections.create(short);
      const stream = await FlashFFTConvStream.create(k, {
        kernelLength: 16,
        blockLength: 16,
        ...selected,
      });
      const calls: [string, () => unknown][] = [
        ["conv.forward", () => conv.forward(k, k)],
        ["conv.backward", () => conv.backward(k, k, k)],
        ["conv.prepareKernel", () => conv.prepareKernel(k)],
        ["conv.allocateInput", () => conv.allocateInput(1, 1)],
        ["conv.allocateOutput", () => conv.allocateOutput(1, 1)],
        ["conv.submitted", () => conv.submitted()],
        ...(
          [
            ["depthwise", filter],
            ["projections", projections],
          ] as const
        ).flatMap(([name, object]): [string, () => unknown][] => [
          [`${name}.forward`, () => (object as FlashDepthwiseConv1d).forward(k, k)],
          [
            `${name}.backward`,
            () => (object as FlashDepthwiseConv1d).backward(any({ dgated: k, dpostgate: k }), k, k),
          ],
          [`${name}.allocateInput`, () => object.allocateInput(1, 1)],
          [`${name}.allocateOutput`, () => object.allocateOutput(1, 1)],
          [`${name}.createState`, () => object.createState(1)],
          [`${name}.submitted`, () => object.submitted()],
        ]),
        ["stream.process", () => stream.process(k)],
        ["stream.flush", () => stream.flush()],
        ["stream.reset", () => stream.reset()],
      ];
      for (const object of [conv, filter, projections, stream]) object.dispose();
      for (const [call, action] of calls) {
        expect(await refused(action, call, "a disposed object")).toContain("disposed");
      }
    });

    test("what an object says of itself cannot be written to", async () => {
      const blocks = { digits: [4, 8], dropped: [0, 1] };
      using conv = await FlashFFTConv.create({ ...long, frequencies: blocks });
      using banded = await FlashFFTConv.create({
        ...long,
        frequencies: { band: [0, 0.2], period: 32 },
      });
      using filter = await FlashDepthwiseConv1d.create(short);
      using kernel = await conv.prepareKernel(k);
      using stream = await FlashFFTConvStream.create(k, {
        kernelLength: 16,
        blockLength: 16,
        ...selected,
      });
      const kept = conv.problem.frequencies as {
        digits: readonly number[];
        dropped: readonly number[];
      };
      const { band } = banded.problem.frequencies as { band: readonly number[] };
      const writes: [object, string][] = [
        ...([conv.problem, filter.problem].map((p) => [p, "kernelLength"]) as [object, string][]),
        ...([
          [conv, "problem"],
          [filter, "problem"],
          [kernel, "channels"],
        ] as [object, string][]),
        ...([
          [stream, "blockLength"],
          [stream, "latency"],
          [kept, "period"],
        ] as [object, string][]),
        ...([kept.digits, kept.dropped, band].map((list) => [list, "0"]) as [object, string][]),
      ];
      for (const [object, field] of writes) {
        const before = Reflect.get(object, field);
        expect(Reflect.set(object, field, 3), field).toBe(false);
        expect(Reflect.get(object, field)).toBe(before);
      }
      // The options are the caller's, and stay so.
      blocks.digits[0] = 5;
      expect(kept.digits[0]).toBe(4);
      // A checked pattern, which says its period, is one that may be asked for.
      using again = await FlashFFTConv.create({ ...long, frequencies: conv.problem.frequencies! });
      expect(again.problem).toEqual(conv.problem);
    });
  },
  { threads: 1, instructions: ["simd"] },
);

test.each([
  ["FlashFFTConv", FlashFFTConv],
  ["FlashFFTConvStream", FlashFFTConvStream],
  ["FlashDepthwiseConv1d", FlashDepthwiseConv1d],
  ["FlashHyenaProjections", FlashHyenaProjections],
  ["PreparedKernel", PreparedKernel],
])("new %s says what to call instead", async (name, Class) => {
  const Open = Class as unknown as new (...given: unknown[]) => unknown;
  for (const given of [[], [{ length: 8 }], [samples(8), { kernelLength: 8 }]]) {
    const message = await refused(() => new Open(...given), `new ${name}`, `${given.length}`);
    expect(message).toMatch(/Use await \w+\.(create|prepareKernel)\(/);
  }
});

describe("tune", () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "flashfftconv-"));
    writeFileSync(join(folder, "device.json"), "kept");
    vi.stubEnv("FLASHFFTCONV_CACHE", folder);
  });
  afterEach(() => {
    vi.unstubAllEnvs();
    rmSync(folder, { recursive: true });
  });

  const problems: readonly unknown[] = [
    ...[null, 0, "8", {}, [], [null], [[]], [new Map()], [8], [{}], [{ length: "8" }]],
    ...[[{ length: 8, lenght: 8 }], [{ length: 8, gates: 1 }], [{ length: 8, batch: null }]],
    ...badProblem.frequencies!.map((frequencies) => [{ length: 8, frequencies }]),
  ];
  const wrong: readonly (readonly [string, unknown])[] = [
    ...notOptions,
    ["signal 3", { signal: 3 }],
    ["signal null", { signal: null }],
    ["signal, a foreign object", { signal: { aborted: false } }],
    ["onProgress", { onProgress: "yes" }],
    ["onProgress null", { onProgress: null }],
    ["a backend that there is not", { backend: "gpu" }],
    ["backend null", { backend: null }],
    ["a device on the CPU", { backend: "cpu", device: {} }],
    ["device null", { device: null }],
    ["an option that there is not", { problem: [] }],
    ...problems.map((given) => [`problems ${JSON.stringify(given)}`, { problems: given }] as const),
  ];
  test.each(wrong)("%s: nothing is measured, and what was kept stays", async (what, options) => {
    await refused(() => tune(any(options)), "tune", what);
    expect(readdirSync(folder)).toEqual(["device.json"]);
  });
});
