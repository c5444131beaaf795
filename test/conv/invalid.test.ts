/** Bad input: each is refused by a typed error that names the call, the requirement, the value and the remedy. */
import { describe, expect, test } from "vitest";
import {
  BackendError,
  type BackwardOptions,
  convolve,
  FlashDepthwiseConv1d,
  FlashFFTConv,
  FlashFFTConvError,
  type FlashFFTConvOptions,
  FlashFFTConvStream,
  type ForwardOptions,
  sparsifyKernel,
} from "../../src/index.ts";
import { describeBackends } from "../support/backends.ts";
import { expectClose, expectSameBits } from "../support/close.ts";
import { any, refusal } from "../support/misuse.ts";

const notIntegers = [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, "2", null, {}];

describe("FlashFFTConv.create refuses", () => {
  const cases: [string, unknown, RegExp][] = [
    ...notIntegers.map((length): [string, unknown, RegExp] => [
      `length ${length}`,
      { length },
      /length/,
    ]),
    ...notIntegers.map((threads): [string, unknown, RegExp] => [
      `threads ${threads}`,
      { length: 8, threads },
      /threads/,
    ]),
    ...["kernelLength", "batch", "channels"].flatMap((name) =>
      [0, 1.5, Number.NaN, Number.POSITIVE_INFINITY].map((value): [string, unknown, RegExp] => [
        `${name} ${value}`,
        { length: 8, [name]: value },
        new RegExp(name),
      ]),
    ),
    ["a period below L", { length: 8, mode: "circular", period: 7 }, /period/],
    ["period NaN", { length: 8, mode: "circular", period: Number.NaN }, /period/],
    ["a period without circular", { length: 8, period: 8 }, /period/],
    [
      "a bidirectional kernel of more than 2L taps",
      { length: 8, mode: "bidirectional", kernelLength: 18 },
      /16/,
    ],
    ["an unknown mode", { length: 8, mode: "valid" }, /mode.*"valid"/],
    ["an unknown dtype", { length: 8, dtype: "float64" }, /dtype.*"float64"/],
    ["an unknown backend", { length: 8, backend: "gpu" }, /backend.*"gpu"/],
    ["unknown instructions", { length: 8, instructions: "avx" }, /instructions.*"avx"/],
    ["no options", undefined, /options/],
    ["workspaceBytes NaN", { length: 8, workspaceBytes: Number.NaN }, /workspaceBytes/],
    ["device null", { length: 8, device: null }, /device.*null/],
    ["a device on the CPU", { length: 8, backend: "cpu", device: {} }, /device belongs to a GPU/],
    ["a misspelt length", { len: 64 }, /may have mode, length.*got "len"/],
    ["an option that there is not", { length: 8, lenght: 9 }, /may have mode.*got "lenght"/],
  ];
  test.each(cases)("%s", async (_, options, message) => {
    const error = await refusal(() => FlashFFTConv.create(options as FlashFFTConvOptions));
    expect(error.call).toContain("FlashFFTConv.create");
    expect(error.message).toMatch(message);
  });
});

describe("convolve refuses", () => {
  const [u, k] = [new Float32Array(8), new Float32Array(3)];
  const cases: [string, () => unknown][] = [
    ["an empty input", () => convolve(new Float32Array(0), k)],
    ["an empty kernel", () => convolve(u, new Float32Array(0))],
    ["channels that do not divide", () => convolve(u, k, { channels: 2 })],
    ["channels NaN", () => convolve(u, k, { channels: Number.NaN })],
    ["a list in a list", () => convolve(any([[1, 2, 3]]), k)],
    ["a hole in a list", () => convolve(any([1, undefined, 3]), k)],
    ["an array of bytes", () => convolve(any(new Uint8Array(8)), k)],
    ["an unknown mode", () => convolve(u, k, { mode: any("valid") })],
    ["options null", () => convolve(u, k, any(null))],
    ["skip in mode full", () => convolve(u, k, { skip: new Float32Array(1) })],
    ["an array for the result", () => convolve(u, k, any({ out: new Float32Array(10) }))],
    ["an input with a shape", () => convolve(any({ data: u, shape: [1, 8] }), k)],
  ];
  test.each(cases)("%s", async (_, action) => {
    expect((await refusal(action)).call).toContain("convolve");
  });
});

describe("a first mistake with samples is told its remedy:", () => {
  const cases: [string, unknown, string][] = [
    ["a promise", Promise.resolve(new Float32Array(8)), "got Promise. Await it first."],
    ["nothing", undefined, "got undefined. Pass one."],
    ["numbers", [1, 2], "got [1, 2]. Convert it: Float32Array.from(numbers)."],
    ["an Int16Array", new Int16Array(8), "Convert it: Float32Array.from(numbers)."],
    ["bits of float16", new Uint16Array(8), "Convert it, or set another dtype."],
    ["no samples", new Float32Array(0), "Pass samples of shape (H, K)"],
  ];
  test.each(cases)("%s", async (_, k, message) => {
    using conv = await FlashFFTConv.create({ length: 8 });
    expect((await refusal(() => conv.prepareKernel(any(k)))).message).toContain(message);
  });
});

const length = 16;
const [batch, channels] = [2, 3];
const samples = (count = batch * channels * length) => new Float32Array(count).fill(1);
const taps = () => samples(channels * length);

function detached(): Float32Array {
  const array = samples();
  structuredClone(array.buffer, { transfer: [array.buffer] });
  return array;
}

/** Arrays of one buffer: `a` and `b` share `shared` samples at the end of a and the start of b. */
function overlapping(a: number, b: number, shared: number): [Float32Array, Float32Array] {
  const buffer = new ArrayBuffer(4 * (a + b));
  return [new Float32Array(buffer, 0, a), new Float32Array(buffer, 4 * (a - shared), b)];
}

/** What may be wrong with any tensor of (batch, channels, length) float32 samples. */
const badTensors: [string, () => unknown, RegExp][] = [
  ["a lost sample", () => samples(95), /95/],
  ["a lost row", () => samples(80), /\b80\b|\b5 rows/],
  ["nothing in it", () => new Float32Array(0), /0/],
  ["a plain array", () => new Array(96).fill(1), /Float32Array/],
  ["a Float64Array", () => new Float64Array(96), /Float64Array/],
  ["the bits of another dtype", () => new Uint16Array(96), /Uint16Array/],
  ["an ArrayBuffer", () => new ArrayBuffer(4 * 96), /ArrayBuffer/],
  ["a DataView", () => new DataView(new ArrayBuffer(4 * 96)), /DataView/],
  ["null", () => null, /null/],
  ["a number", () => 96, /96/],
  ["a detached buffer", detached, /detached/],
  ["rank 2", () => ({ data: samples(), shape: [6, 16] }), /\[6, 16\]/],
  ["rank 4", () => ({ data: samples(), shape: [1, 2, 3, 16] }), /\[1, 2, 3, 16\]/],
  ["a shape larger than its data", () => ({ data: samples(), shape: [2, 4, 16] }), /\[2, 4, 16\]/],
  ["a shape smaller than its data", () => ({ data: samples(), shape: [1, 3, 16] }), /\[1, 3, 16\]/],
  ["a shape of other rows", () => ({ data: samples(), shape: [2, 6, 8] }), /\[2, 6, 8\]/],
  ["batch and channels swapped", () => ({ data: samples(), shape: [3, 2, 16] }), /\[3, 2, 16\]/],
  ["a shape with NaN", () => ({ data: samples(), shape: [2, Number.NaN, 16] }), /NaN/],
  ["a shape with a fraction", () => ({ data: samples(), shape: [4, 1.5, 16] }), /1\.5/],
  ["a shape that is no array", () => ({ data: samples(), shape: "2,3,16" }), /"2,3,16"/],
];

const badOutputs: [string, () => unknown, RegExp][] = [
  ["too small", () => samples(95), /95/],
  ["too large", () => samples(97), /97/],
  ["of another dtype", () => new Uint16Array(96), /Uint16Array/],
  ["a plain array", () => new Array(96).fill(0), /./],
  ["detached", () => detached(), /detached/],
  ["null", () => null, /null/],
  ["0", () => 0, /0/],
  ["of other rows", () => ({ data: samples(), shape: [3, 2, 16] }), /\[3, 2, 16\]/],
];

const badKernels: [string, () => unknown, RegExp][] = [
  ["a lost tap", () => samples(47), /47/],
  ["nothing in it", () => new Float32Array(0), /0/],
  ["channels that do not divide the input's rows", () => samples(4 * length), /./],
  ["a plain array", () => new Array(48).fill(1), /./],
  ["a Float64Array", () => new Float64Array(48), /Float64Array/],
  ["the bits of another dtype", () => new Uint16Array(48), /Uint16Array/],
  ["a detached buffer", () => detached(), /detached/],
  ["undefined", () => undefined, /undefined/],
  ["rank 3", () => ({ data: taps(), shape: [1, 3, 16] }), /\[1, 3, 16\]/],
  ["a shape of other taps", () => ({ data: taps(), shape: [6, 8] }), /\[6, 8\]/],
];

describeBackends(
  "conv refuses",
  (open) => {
    describe.each(["forward", "backward"] as const)("in %s", (method) => {
      /** Call with everything right but what is replaced. */
      const attempt = async (change: {
        u?: unknown;
        k?: unknown;
        dy?: unknown;
        options?: unknown;
      }): Promise<{ message: string }> => {
        using conv = await open({ length });
        const pick = (name: "u" | "k" | "dy", right: Float32Array) =>
          any(name in change ? change[name] : right);
        const [u, k, dy] = [pick("u", samples()), pick("k", taps()), pick("dy", samples())];
        const { options } = change;
        const error = await refusal(() =>
          method === "forward"
            ? conv.forward(u, k, options as ForwardOptions)
            : conv.backward(dy, u, k, options as BackwardOptions),
        );
        expect(error.call).toContain(method);
        // The object is none the worse.
        expectClose(await conv.forward(samples(), taps()), ramps(), {
          rowLength: length,
          bound: 3e-7,
        });
        return error;
      };
      const ramps = () => Float64Array.from({ length: 96 }, (_, n) => 1 + (n % length));

      test.each(badTensors)("u: %s", async (_, make, value) => {
        expect((await attempt({ u: make() })).message).toMatch(value);
      });
      test.each(badTensors)("pregate: %s", async (_, make, value) => {
        const pregate = make();
        expect((await attempt({ options: { pregate } })).message).toMatch(value);
      });
      test.each(badTensors)("postgate: %s", async (_, make, value) => {
        const postgate = make();
        expect((await attempt({ options: { postgate } })).message).toMatch(value);
      });
      test.each(badKernels)("k: %s", async (_, make, value) => {
        expect((await attempt({ k: make() })).message).toMatch(value);
      });
      test.each([
        ["too short", () => samples(2), /2/],
        ["one a row", () => samples(6), /6/],
        ["a Float64Array", () => new Float64Array(3), /Float64Array/],
        ["a number", () => 1, /1/],
      ])("skip: %s", async (_, make, value) => {
        expect((await attempt({ options: { skip: make() } })).message).toMatch(value);
      });
      test.each(method === "backward" ? badTensors : [])("dy: %s", async (_, make, value) => {
        expect((await attempt({ dy: make() })).message).toMatch(value);
      });
      test.each(method === "forward" ? badOutputs : [])("out: %s", async (_, make, value) => {
        expect((await attempt({ options: { out: make() } })).message).toMatch(value);
      });
      test.each([null, 5, "fast", new Float32Array(96)])("options %s", async (options) => {
        expect((await attempt({ options })).message).toMatch(/options must be an object/);
      });
      test("an option that there is not: it would be left out without a word", async () => {
        const error = await attempt({ options: { pregat: samples() } });
        expect(error.message).toMatch(/pregate, postgate, skip, out, encoder; got "pregat"/);
      });
      test.each(method === "backward" ? [null, { dU: samples() }] : [])("out %s", async (out) => {
        expect((await attempt({ options: { out } })).message).toMatch(/out may have|out must be/);
      });
      test.each(method === "forward" ? ["u", "pregate", "postgate", "k"] : [])(
        "out over %s, wholly or by one sample",
        async (name) => {
          const count = name === "k" ? 48 : 96;
          for (const shared of [count, 1]) {
            const [input, out] = overlapping(count, 96, shared);
            input.fill(1);
            const error = await attempt(
              name === "u" || name === "k"
                ? { [name]: input, options: { out } }
                : { options: { [name]: input, out } },
            );
            expect(error.message).toMatch(/overlap/);
          }
        },
      );
    });

    test("out, or an array for a gradient, over skip", async () => {
      using conv = await open({ length });
      const [skip, out] = overlapping(3, 96, 1);
      const error = await refusal(() => conv.forward(samples(), taps(), { skip, out }));
      expect(error.message).toMatch(/out must not overlap skip/);
      const gradients = { skip, out: { du: out } };
      const other = await refusal(() => conv.backward(samples(), samples(), taps(), gradients));
      expect(other.message).toMatch(/du must not overlap skip/);
    });

    test("nothing where out is an array with the shape of the result", async () => {
      using conv = await open({ length });
      const data = samples();
      const out = { data, shape: [batch, channels, length] };
      expect(await conv.forward(samples(), taps(), { out })).toBe(data);
    });

    test("an array for the gradient of a gate that the call does not have", async () => {
      using conv = await open({ length });
      for (const gate of ["pregate", "postgate"]) {
        const out = { [`d${gate}`]: samples() };
        const error = await refusal(() => conv.backward(samples(), samples(), taps(), { out }));
        expect(error.message).toMatch(`out.d${gate} needs a ${gate}`);
      }
      const out = any(samples());
      await refusal(() => conv.backward(samples(), samples(), taps(), { out }));
    });

    const transfer = (array: Float32Array) =>
      structuredClone(array.buffer, { transfer: [array.buffer] });
    test.each(["u", "k", "pregate", "skip", "out"])(
      "%s detached while the call waits for its turn",
      async (name) => {
        using conv = await open({ length });
        const arrays = { u: samples(), k: taps(), pregate: samples(), skip: samples(3) };
        const out = samples();
        const { u, k, ...options } = { ...arrays, out };
        const before = conv.backward(samples(), samples(), taps());
        const waiting = refusal(() => conv.forward(u, k, options));
        transfer({ ...arrays, out }[name]!);
        expect((await waiting).message).toMatch(`${name} must keep its buffer`);
        await before;
        expect(await conv.forward(samples(), taps())).toHaveLength(96);
      },
    );

    test("gradients into an array detached while the call waits", async () => {
      using conv = await open({ length });
      const out = { du: samples(), dk: taps() };
      for (const name of ["du", "dk"] as const) {
        const given = { [name]: out[name] };
        const before = conv.prepareKernel(taps());
        const waiting = refusal(() => conv.backward(samples(), samples(), taps(), { out: given }));
        transfer(out[name]);
        expect((await waiting).message).toMatch(`${name} must keep its buffer`);
        await before;
      }
    });

    test("float16: numbers where bits are meant", async () => {
      using conv = await open({ length, dtype: "float16" });
      const bits = new Uint16Array(96).fill(0x3c00);
      await refusal(() => conv.forward(samples(), taps()));
      await refusal(() => conv.forward(new Int16Array(96) as never, taps()));
      await refusal(() => conv.forward(bits, taps(), { pregate: samples() }));
      await refusal(() => conv.forward(bits, taps(), { out: samples() }));
      await refusal(() => conv.backward(samples(), bits, taps()));
      expect(await conv.forward(bits, taps())).toBeInstanceOf(Uint16Array);
    });

    test("skip in mode full, whose outputs are longer than its inputs", async () => {
      using conv = await open({ length, mode: "full" });
      const skip = samples(3);
      expect((await refusal(() => conv.forward(samples(), taps(), { skip }))).message).toMatch(
        /full/,
      );
      const dy = samples(6 * 31);
      await refusal(() => conv.backward(dy, samples(), taps(), { skip }));
    });

    test("mode full: a postgate or dy of the input's length", async () => {
      using conv = await open({ length, mode: "full" });
      await refusal(() => conv.forward(samples(), taps(), { postgate: samples() }));
      await refusal(() => conv.backward(samples(), samples(), taps()));
    });

    test("a kernel of another object, or one disposed", async () => {
      using conv = await open({ length });
      using other = await open({ length });
      const foreign = await other.prepareKernel(taps());
      await refusal(() => conv.forward(samples(), foreign));
      await refusal(() => conv.backward(samples(), samples(), foreign));
      const own = await conv.prepareKernel(taps());
      own.dispose();
      expect((await refusal(() => conv.forward(samples(), own))).message).toMatch(/dispose/);
      expect((await refusal(() => conv.backward(samples(), samples(), own))).message).toMatch(
        /dispose/,
      );
      foreign.dispose();
    });

    test.each(badKernels.filter(([name]) => !name.includes("divide")))(
      "a kernel to prepare: %s",
      async (_, make, value) => {
        using conv = await open({ length });
        const error = await refusal(() => conv.prepareKernel(any(make())));
        expect(error.call).toContain("prepareKernel");
        expect(error.message).toMatch(value);
      },
    );

    test.each(notIntegers)("allocations of %s rows", async (count) => {
      using conv = await open({ length });
      for (const name of ["allocateInput", "allocateOutput"] as const) {
        expect((await refusal(() => conv[name](any(count), 1))).call).toContain(name);
        expect((await refusal(() => conv[name](1, any(count)))).call).toContain(name);
      }
    });

    test("everything once disposed, and a second dispose is nothing", async () => {
      const conv = await open({ length });
      const kernel = await conv.prepareKernel(taps());
      conv.dispose();
      conv.dispose();
      kernel.dispose();
      const actions: Record<string, () => unknown> = {
        forward: () => conv.forward(samples(), taps()),
        backward: () => conv.backward(samples(), samples(), taps()),
        prepareKernel: () => conv.prepareKernel(taps()),
        allocateInput: () => conv.allocateInput(1, 1),
        allocateOutput: () => conv.allocateOutput(1, 1),
      };
      for (const [name, action] of Object.entries(actions)) {
        const error = await refusal(action);
        expect(error.call).toContain(name);
        expect(error.message).toMatch(/dispose/);
      }
    });

    test("by rejection, not by throwing, from what returns promises", async () => {
      using conv = await open({ length });
      const promises = [
        conv.forward(any(null), any(null)),
        conv.backward(any(null), any(null), any(null)),
        conv.prepareKernel(any(null)),
        FlashFFTConv.create(any(null)),
        convolve(any(null), any(null)),
      ];
      for (const { status } of await Promise.allSettled(promises)) expect(status).toBe("rejected");
    });

    test("NaN in the data is no error", async () => {
      using conv = await open({ length });
      const y = await conv.forward(samples().fill(Number.NaN), taps());
      expect((y as Float32Array).every(Number.isNaN)).toBe(true);
    });
  },
  { threads: 1, instructions: ["simd", "javascript"] },
);

test("more memory than there is is an error of the backend, where none is shared too", async () => {
  using conv = await FlashFFTConv.create({ length, instructions: "javascript" });
  expect(() => conv.allocateInput(2 ** 31, 2 ** 31)).toThrow(BackendError);
});

describe("tensors of other libraries", () => {
  // As tf.Tensor has them: samples come from methods, the shape from a property.
  const tensorflow = {
    ...{ shape: [batch, channels, length], data: async () => samples(), dataSync: () => samples() },
    dataToGPU: () => ({ buffer: {} }),
  };
  // As ort.Tensor on a GPU: `data` throws.
  const onGpu = {
    ...{ dims: [batch, channels, length], location: "gpu-buffer", gpuBuffer: {} },
    get data(): Float32Array {
      throw new Error("The data is not on CPU.");
    },
  };
  const refused: [string, unknown, RegExp][] = [
    ["a tf.Tensor", tensorflow, /got a tf\.Tensor\. .*tensor\.data\(\).*tensor\.dataToGPU\(\)/],
    ["a tensor of ONNX Runtime on a GPU", onGpu, /"gpu-buffer"\. .*getData\(\).*gpuBuffer/],
  ];
  test.each(refused)("%s is refused in one line that says what to pass", async (_, given, said) => {
    using conv = await FlashFFTConv.create({ length, threads: 1 });
    using short = await FlashDepthwiseConv1d.create({ channels, kernelLength: 4, threads: 1 });
    using stream = await FlashFFTConvStream.create(samples(5), { threads: 1 });
    const calls = [
      () => conv.forward(any(given), taps()),
      () => conv.forward(samples(), any(given)),
      () => conv.prepareKernel(any(given)),
      () => conv.forward(samples(), taps(), { pregate: any(given) }),
      () => conv.forward(samples(), taps(), { out: any(given) }),
      () => conv.backward(any(given), samples(), taps()),
      () => convolve(any(given), taps()),
      () => short.forward(any(given), samples(12)),
      () => short.forward(samples(), any(given)),
      () => stream.process(any(given)),
      () => FlashFFTConvStream.create(any(given)),
      () => sparsifyKernel(any(given), { length, frequencies: { band: [0, 0.1] } }),
    ];
    for (const call of calls) {
      const { message } = await refusal(call);
      expect(message).toMatch(said);
      expect(message).not.toContain("\n");
    }
  });

  test("{ data, dims } of ONNX Runtime is { data, shape }", async () => {
    using conv = await FlashFFTConv.create({ length, threads: 1 });
    const u = Float32Array.from({ length: 96 }, (_, i) => Math.sin(i));
    const k = { type: "float32", data: taps(), dims: [channels, length], location: "cpu" };
    const x = { type: "float32", data: u, dims: [batch, channels, length], location: "cpu" };
    expectSameBits(await conv.forward(x, k), await conv.forward(u, taps()));
    const wrong = { data: u, dims: [channels, batch, length] };
    expect((await refusal(() => conv.forward(wrong, k))).message).toContain("[3, 2, 16]");
    using short = await FlashDepthwiseConv1d.create({ channels, kernelLength: 4, threads: 1 });
    const weight = { data: samples(12), dims: [channels, 1, 4] };
    const y = await short.forward(x, weight);
    expect(y.length).toBe(96);
  });
});

test("errors are told apart by class, and all are of one family", async () => {
  await expect(FlashFFTConv.create({ length: 0 })).rejects.toBeInstanceOf(FlashFFTConvError);
});
