/** Streams: a sequence in pieces gives what it gives whole, bit for bit however it is cut, in memory that stays. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Dtype, dtypes, type SampleArray } from "../../src/dtype.ts";
import {
  FlashFFTConvStream,
  InvalidArgumentError,
  type StreamMode,
  type StreamOptions,
  type StreamPiece,
  UnsupportedError,
} from "../../src/index.ts";
import { streamLevels } from "../../src/plan/cpu/stream-levels.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { defaultCpu } from "../../src/plan/device.ts";
import type { Problem } from "../../src/plan/problem.ts";
import { describeBackends, onGpu, randomCases } from "../support/backends.ts";
import { drawInputs, type Inputs } from "../support/cases.ts";
import { expectSameBits } from "../support/close.ts";
import { cut, expectRight, joined, streamed } from "../support/streams.ts";

const modes: readonly StreamMode[] = ["causal", "full", "same", "bidirectional"];

interface Case {
  readonly problem: Problem;
  readonly options: StreamOptions;
}

const anyCase: fc.Arbitrary<Case> = fc
  .record({
    mode: fc.constantFrom(...modes),
    dtype: fc.constantFrom(...dtypes),
    length: fc.integer({ min: 1, max: 4000 }),
    taps: fc.oneof(fc.integer({ min: 1, max: 50 }), fc.integer({ min: 1, max: 5000 })),
    blockLength: fc.constantFrom(undefined, 16, 16, 48, 128),
  })
  .map(({ mode, dtype, length, taps, blockLength }) => {
    const bidirectional = mode === "bidirectional";
    const kernelLength = bidirectional ? 2 * Math.min(length, Math.ceil(taps / 2)) : taps;
    const problem = createProblem({ mode, dtype, length, kernelLength }, "test");
    const options = { mode, dtype, kernelLength, ...(blockLength && { blockLength }) };
    return { problem, options };
  });

describe("streams", () => {
  describeBackends("agree with the oracle", (_, configuration) => {
    const setting = configuration.options;
    const open = (inputs: Inputs, options: StreamOptions) => {
      const { batch, channels } = inputs.exact;
      const { skip } = inputs.options;
      const shape = { batch, channels, ...(skip && { skip }) };
      return FlashFFTConvStream.create<Dtype>(inputs.k, { ...options, ...shape, ...setting });
    };

    test("over random modes, kernels, gates, blocks and cuttings, which do not change a bit", async () => {
      await fc.assert(
        fc.asyncProperty(
          anyCase,
          fc.record({ pregate: fc.boolean(), postgate: fc.boolean(), skip: fc.boolean() }),
          fc.array(fc.integer({ min: 1, max: 700 }), { minLength: 1, maxLength: 5 }),
          fc.nat(1_000_000),
          async ({ problem, options }, gates, sizes, seed) => {
            const behind = problem.mode !== "full";
            const shape = {
              ...gates,
              postgate: gates.postgate && behind,
              skip: gates.skip && behind,
            };
            const inputs = drawInputs(problem, { batch: 2, channels: 2, ...shape }, seed);
            using stream = await open(inputs, options);
            const whole = await streamed(stream, inputs, [problem.length]);
            expectRight(whole, inputs);
            // The same object again, from the beginning.
            expectSameBits(await streamed(stream, inputs, sizes), whole);
          },
        ),
        randomCases(configuration, onGpu ? 15 : 20, 20_240_302),
      );
    });

    test("through many blocks of long kernels, block by block in and out", async () => {
      const blockLength = 16;
      const [length, kernelLength] = onGpu ? [3008, 2900] : [12_000, 11_000];
      const problem = createProblem({ length, kernelLength }, "test");
      const inputs = drawInputs(problem, { channels: 2 }, 4);
      using stream = await open(inputs, { kernelLength, blockLength });
      // Three levels on the CPU.
      expect(stream.plan.split(" ; ")).toHaveLength(onGpu ? 1 : 3);
      expect(stream.latency).toBe(15);
      const pieces: SampleArray[] = [];
      for (const piece of cut(inputs, [blockLength])) {
        const y = await stream.process(piece);
        expect(y.length).toBe(piece.u.length);
        pieces.push(y);
      }
      expect(await stream.flush()).toHaveLength(0);
      expectRight(joined(pieces, 2), inputs);
    });

    test("latency is kept: output n comes with input n + latency", async () => {
      for (const mode of ["causal", "same", "bidirectional"] as const) {
        const problem = createProblem({ mode, length: 1000, kernelLength: 200 }, "test");
        const inputs = drawInputs(problem, {}, 5);
        using stream = await open(inputs, { mode, kernelLength: 200, blockLength: 32 });
        let [fed, got] = [0, 0];
        for (const piece of cut(inputs, [1, 7, 100])) {
          got += (await stream.process(piece)).length;
          fed += piece.u.length;
          expect(got).toBeGreaterThanOrEqual(fed - stream.latency);
          expect(got).toBeLessThanOrEqual(fed);
        }
        expect(got + (await stream.flush()).length).toBe(1000);
      }
    });

    test("memory does not depend on what has passed", async () => {
      const kernelLength = 300;
      const inputs = drawInputs(createProblem({ length: 20_000, kernelLength }, "test"), {}, 6);
      using stream = await open(inputs, { kernelLength, blockLength: 64 });
      const before = stream.memoryBytes;
      expectRight(await streamed(stream, inputs, [999]), inputs);
      expect(stream.memoryBytes).toBe(before);
      expect(before).toBeLessThan(64 * 1024);
    });

    test("Web Streams carry them", async () => {
      const problem = createProblem({ length: 3000, kernelLength: 100, mode: "full" }, "test");
      const inputs = drawInputs(problem, { pregate: true }, 7);
      using stream = await open(inputs, { mode: "full", kernelLength: 100 });
      const source = new ReadableStream<StreamPiece<Dtype>>({
        start(controller) {
          for (const piece of cut(inputs, [500, 77])) controller.enqueue(piece);
          controller.close();
        },
      });
      const pieces: SampleArray[] = [];
      for await (const y of source.pipeThrough(stream.transform())) pieces.push(y);
      expectRight(joined(pieces, 1), inputs);
    });

    describe("a sequence that is given up leaves nothing to the next one", () => {
      const problem = createProblem({ length: 3000, kernelLength: 700 }, "test");
      const inputs = drawInputs(problem, {}, 9);
      const other = drawInputs(problem, {}, 10).u;
      const options = { kernelLength: 700, blockLength: 128 };

      const giveUp: readonly [string, (stream: FlashFFTConvStream<Dtype>) => Promise<void>][] = [
        [
          "break",
          async (stream) => {
            for await (const y of stream.convolve([other, other])) if (y.length > 0) break;
          },
        ],
        [
          "a source that throws",
          async (stream) => {
            const source = function* (): Generator<SampleArray> {
              yield other;
              throw new RangeError("no more");
            };
            const outputs = stream.convolve(source());
            await outputs.next();
            await expect(outputs.next()).rejects.toThrow("no more");
          },
        ],
        [
          "a piece that is refused",
          async (stream) => {
            const outputs = stream.convolve([other, new Uint16Array(3)]);
            await outputs.next();
            await expect(outputs.next()).rejects.toThrow(InvalidArgumentError);
          },
        ],
        [
          "a reader that cancels",
          async (stream) => {
            const { readable, writable } = stream.transform();
            const [reader, writer] = [readable.getReader(), writable.getWriter()];
            writer.closed.catch(() => {});
            writer.write(other).catch(() => {});
            await reader.read();
            await reader.cancel();
          },
        ],
        [
          "a writer that aborts",
          async (stream) => {
            const { readable, writable } = stream.transform();
            const [reader, writer] = [readable.getReader(), writable.getWriter()];
            writer.closed.catch(() => {});
            reader.closed.catch(() => {});
            writer.write(other).catch(() => {});
            await reader.read();
            await writer.abort();
          },
        ],
        [
          "a piece refused in a Web Stream",
          async (stream) => {
            const source = new ReadableStream<SampleArray | StreamPiece<Dtype>>({
              start(controller) {
                controller.enqueue(other);
                controller.enqueue(new Uint16Array(3));
              },
            });
            const reader = source.pipeThrough(stream.transform()).getReader();
            await reader.read();
            await expect(reader.read()).rejects.toThrow(InvalidArgumentError);
          },
        ],
      ];
      test.each(giveUp)("%s", async (_, action) => {
        using stream = await open(inputs, options);
        await action(stream);
        expectRight(await streamed(stream, inputs, [1000]), inputs);
      });

      test("one that ended does not disturb the next when its reader cancels late", async () => {
        using stream = await open(inputs, options);
        const { readable, writable } = stream.transform();
        const [reader, writer] = [readable.getReader(), writable.getWriter()];
        const written = writer.write(other);
        const closed = writer.close();
        await reader.read();
        await Promise.all([written, closed]);
        const [first, second] = [...cut(inputs, [1000, 2000])];
        const pieces = [await stream.process(first!)];
        await reader.cancel();
        pieces.push(await stream.process(second!), await stream.flush());
        expectRight(joined(pieces, 1), inputs);
      });

      test("an object disposed meanwhile stays so", async () => {
        const stream = await open(inputs, options);
        for await (const _ of stream.convolve([other])) {
          stream.dispose();
          break;
        }
        await expect(stream.process(other)).rejects.toThrow(/disposed/);
      });
    });

    test("pieces may be empty, and come with their shape", async () => {
      const problem = createProblem({ length: 600, kernelLength: 100, dtype: "float16" }, "test");
      const inputs = drawInputs(problem, { batch: 2, channels: 3, postgate: true }, 11);
      using stream = await open(inputs, { kernelLength: 100, dtype: "float16", blockLength: 64 });
      const none = new Uint16Array(0);
      expect(await stream.process(none)).toEqual(none);
      expect(await stream.process({ u: { data: none, shape: [2, 3, 0] } })).toEqual(none);
      const source = function* (): Generator<SampleArray | StreamPiece<Dtype>> {
        yield none;
        for (const { u, postgate } of cut(inputs, [250])) {
          const shape = [2, 3, u.length / 6];
          yield { u: { data: u, shape }, postgate: { data: postgate as SampleArray, shape } };
          yield none;
          yield { u: none, postgate: none };
        }
      };
      const pieces: SampleArray[] = [];
      for await (const y of stream.convolve(source())) pieces.push(y);
      expectRight(joined(pieces, 6), inputs);
    });

    test.runIf(onGpu)("render is refused: a GPU cannot answer at once", async () => {
      const inputs = drawInputs(createProblem({ length: 64, kernelLength: 9 }, "test"), {}, 12);
      using stream = await open(inputs, { kernelLength: 9, blockLength: 64 });
      const row = new Float32Array(64);
      expect(() => stream.render([row], [row])).toThrow(UnsupportedError);
      expect(() => stream.render([row], [row])).toThrow(/a GPU cannot.*backend: 'cpu'/);
    });

    test("calls in a row keep their order without waiting", async () => {
      const problem = createProblem({ length: 5000, kernelLength: 700 }, "test");
      const inputs = drawInputs(problem, { channels: 3 }, 8);
      const options = { kernelLength: 700, blockLength: 128 };
      using stream = await open(inputs, options);
      const calls = [...cut(inputs, [130, 60])].map((piece) => stream.process(piece));
      const pieces = await Promise.all([...calls, stream.flush()]);
      expectRight(joined(pieces, 3), inputs);
    });
  });

  test("levels cover every tap once and leave a block's time for its work", () => {
    for (const taps of [1, 100, 5000, 661_500, 2 ** 24]) {
      for (const block of [16, 128, 1024, undefined]) {
        let next = 0;
        for (const level of streamLevels(taps, block, defaultCpu)) {
          expect(level.first).toBe(next);
          if (next > 0) expect(level.first).toBeGreaterThanOrEqual(2 * level.hop);
          next += level.taps * level.partitions;
          expect(2 * level.plan.points).toBeGreaterThanOrEqual(level.hop + level.taps - 1);
        }
        expect(next).toBeGreaterThanOrEqual(taps);
      }
    }
  });
});

test("a stream takes K from its kernel", async () => {
  const taps = Float32Array.from({ length: 30 }, (_, i) => 1 / (i + 1));
  const u = Float32Array.from({ length: 200 }, (_, i) => Math.sin(i));
  using told = await FlashFFTConvStream.create(taps, { channels: 2, kernelLength: 15 });
  const want = [await told.process(u), await told.flush()];
  const shaped = { data: taps, shape: [2, 15] };
  for (const k of [taps, shaped, { data: taps, dims: [2, 15] }]) {
    using stream = await FlashFFTConvStream.create(k, { channels: 2 });
    expect([await stream.process(u), await stream.flush()]).toEqual(want);
  }
  using mono = await FlashFFTConvStream.create(taps);
  expect((await mono.process(u)).length + (await mono.flush()).length).toBe(200);
  const odd = FlashFFTConvStream.create(taps, { channels: 4 });
  await expect(odd).rejects.toBeInstanceOf(InvalidArgumentError);
  await expect(odd).rejects.toThrow(/k must divide into 4 rows.*Float32Array\(30\)/);
});

describe("streams refuse", () => {
  const k = new Float32Array(10);
  const bad: readonly [string, object, RegExp][] = [
    ["the circular mode", { mode: "circular" }, /mode.*"circular"/],
    ["a block of 100", { blockLength: 100 }, /multiple of 16.*100/],
    ["a block of 11 · 16", { blockLength: 176 }, /7.*176/],
    ["a block of 8", { blockLength: 8 }, /blockLength.*8/],
    ["a kernel of other length", { kernelLength: 11 }, /k must hold 11/],
    ["a skip that is too long", { skip: new Float32Array(2) }, /skip must hold 1/],
    ["a skip in mode full", { mode: "full", skip: new Float32Array(1) }, /skip.*'full'/],
    ["no channels", { channels: 0 }, /channels/],
    ["an unknown dtype", { dtype: "float64" as Dtype }, /dtype/],
    ["a misspelt option", { blocklength: 64 }, /options may have .*blockLength.*"blocklength"/],
  ];
  test.each(bad)("%s", async (_, options, message) => {
    const made = FlashFFTConvStream.create(k, { kernelLength: 10, ...options } as StreamOptions);
    await expect(made).rejects.toThrow(message);
    await expect(made).rejects.toBeInstanceOf(InvalidArgumentError);
  });

  test("options that are none", async () => {
    const made = FlashFFTConvStream.create(k, null as unknown as StreamOptions);
    await expect(made).rejects.toThrow(/options must be an object.*Pass \{ channels: H \}/);
  });

  test("taps and pieces of another shape", async () => {
    const options = { kernelLength: 5, channels: 2 };
    const taps = { data: k, shape: [5, 2] };
    const made = FlashFFTConvStream.create(taps, options);
    await expect(made).rejects.toThrow(/k must have shape \(H, K\) = \[2, 5\]; got \[5, 2\]/);
    using stream = await FlashFFTConvStream.create({ data: k, shape: [2, 5] }, options);
    const piece = { data: new Float32Array(12), shape: [1, 3, 4] };
    await expect(stream.process(piece)).rejects.toThrow(/\(B, H, n\) = \[1, 2, n\].*\[1, 3, 4\]/);
    const nothing = { data: new Float32Array(0), shape: [1, 3, 0] };
    await expect(stream.process(nothing)).rejects.toThrow(/\[1, 2, 0\].*\[1, 3, 0\]/);
  });

  test("an array that was transferred away", async () => {
    using stream = await FlashFFTConvStream.create(k, { kernelLength: 10 });
    const u = new Float32Array(4);
    structuredClone(u, { transfer: [u.buffer] });
    await expect(stream.process(u)).rejects.toThrow(/detached/);
  });

  const devices: readonly [
    string,
    object,
    typeof InvalidArgumentError | typeof UnsupportedError,
    RegExp,
  ][] = [
    ["what is no device", { device: {} }, InvalidArgumentError, /device must be a GPUDevice/],
    ["one for the CPU", { backend: "cpu", device: {} }, InvalidArgumentError, /belongs to a GPU/],
    ["an unknown backend", { backend: "gpu" }, InvalidArgumentError, /backend must be one of/],
    ["frequencies", { frequencies: { band: [0, 0.1] } }, UnsupportedError, /keep all frequencies/],
  ];
  test.each(devices)("%s", async (_, given, kind, message) => {
    const made = FlashFFTConvStream.create(k, { kernelLength: 10, ...given } as StreamOptions);
    await expect(made).rejects.toBeInstanceOf(kind);
    await expect(made).rejects.toThrow(message);
  });

  test("more taps than half of a GPU's longest transform", async () => {
    const kernelLength = 2 ** 24 + 1;
    const made = FlashFFTConvStream.create(new Float32Array(kernelLength), {
      ...{ kernelLength, backend: "webgpu" },
    });
    await expect(made).rejects.toBeInstanceOf(UnsupportedError);
    await expect(made).rejects.toThrow(/at most 16,777,216 taps.*16,777,217.*backend: 'cpu'/);
  });

  test("samples in a buffer of the GPU", async () => {
    using stream = await FlashFFTConvStream.create(k, { kernelLength: 10 });
    const buffer = { mapState: "unmapped", destroy: () => {} };
    const piece = { u: { data: buffer, shape: [1, 1, 4] } } as unknown as StreamPiece;
    await expect(stream.process(piece)).rejects.toThrow(/u must be an array.*FlashFFTConv/);
    const made = FlashFFTConvStream.create(piece.u, { kernelLength: 4, backend: "webgpu" });
    await expect(made).rejects.toThrow(/k must be an array: a stream.*Pass the samples/);
  });

  test.each([5, null, undefined, new Float32Array(4)])("%o for a source", async (source) => {
    using stream = await FlashFFTConvStream.create(k, { kernelLength: 10 });
    const outputs = stream.convolve(source as never).next();
    await expect(outputs).rejects.toBeInstanceOf(InvalidArgumentError);
    await expect(outputs).rejects.toThrow(/stream\.convolve: source must be an iterable/);
  });

  test("pieces that do not fit", async () => {
    using stream = await FlashFFTConvStream.create(k, { kernelLength: 5, channels: 2 });
    const refused = async (piece: unknown, message: RegExp) =>
      expect(stream.process(piece as StreamPiece)).rejects.toThrow(message);
    await refused(new Float32Array(5), /2 rows/);
    await refused(undefined, /the piece must be an object/);
    const rows = [new Float32Array(2), new Float32Array(2)];
    await refused(rows, /must be one typed array.*one row after the other/);
    await refused(new Uint16Array(4), /Float32Array/);
    await refused({ u: new Float32Array(4), pregate: new Float32Array(6) }, /pregate/);
    const misspelt = { u: new Float32Array(4), preGate: new Float32Array(4) };
    await refused(misspelt, /the piece may have u, pregate, postgate; got "preGate"/);
    await stream.process(new Float32Array(4));
    const gated = { u: new Float32Array(4), postgate: new Float32Array(4) };
    await refused(gated, /every piece/);
    await stream.reset();
    await stream.process(gated);
    stream.dispose();
    await refused(gated, /disposed/);
  });
});
