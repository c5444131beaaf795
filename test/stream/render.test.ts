/** stream.render: blocks convolved at once, without a promise, with the bits of process. */
import { describe, expect, test, vi } from "vitest";
import { CpuBackend } from "../../src/backend/cpu/backend.ts";
import { type Jobs, jobKinds } from "../../src/backend/cpu/job.ts";
import { BackendError, FlashFFTConvStream, InvalidArgumentError } from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { cpuConfigurations, describeBackends, onGpu } from "../support/backends.ts";
import { drawInputs, type Inputs } from "../support/cases.ts";
import { expectSameBits } from "../support/close.ts";
import { expectRight, joined, streamed } from "../support/streams.ts";

const [length, kernelLength, hop] = [12_000, 11_000, 16];
const problem = createProblem({ length, kernelLength }, "test");
const inputs = drawInputs(problem, { batch: 2, channels: 2, skip: true }, 1);
const rows = 4;
const skip = inputs.options.skip as Float32Array;
const options = { kernelLength, blockLength: hop, batch: 2, channels: 2, skip };

/** Samples [from, to) of every row of the input, each in an array of its own. */
function rowsOf({ u }: Inputs, from: number, to: number): Float32Array[] {
  const all = u as Float32Array;
  return Array.from({ length: rows }, (_, r) => all.slice(r * length + from, r * length + to));
}

/** Rows one after the other, as process has them. */
function flat(list: readonly Float32Array[]): Float32Array {
  return Float32Array.from(list.flatMap((row) => [...row]));
}

const empty = (): Float32Array[] =>
  Array.from({ length: rows }, () => new Float32Array(hop).fill(Number.NaN));

if (!onGpu) {
  describeBackends("render", (_, { options: setting }) => {
    const open = () => FlashFFTConvStream.create(inputs.k, { ...options, ...setting });

    test("gives the bits of process, a block at a time, several, in place, and in turn with it", async () => {
      using stream = await open();
      // Three levels: the last one's first output comes after 2 · 256 blocks.
      expect(stream.plan.split(" ; ")).toHaveLength(3);
      const whole = await streamed(stream, inputs, [length]);
      expectRight(whole, inputs);
      const pieces: Float32Array[] = [];
      for (let at = 0; at < length; ) {
        const turn = (at / hop) % 7;
        const size = Math.min(length - at, turn === 2 ? 3 * hop : hop);
        const block = rowsOf(inputs, at, at + size);
        if (turn === 0) {
          pieces.push((await stream.process(flat(block))) as Float32Array);
        } else if (turn < 3) {
          stream.render(block, block);
          pieces.push(flat(block));
        } else {
          const out = empty();
          stream.render(block, out);
          pieces.push(flat(out));
        }
        at += size;
      }
      expect(await stream.flush()).toHaveLength(0);
      expectSameBits(joined(pieces, rows), whole);
    });

    test("the first outputs of a new stream have the bits of those after reset", async () => {
      using stream = await open();
      const first = rowsOf(inputs, 0, 640 * hop);
      stream.render(first, first);
      await stream.reset();
      const again = rowsOf(inputs, 0, 640 * hop);
      stream.render(again, again);
      expectSameBits(flat(first), flat(again));
    });

    test("create runs what blocks will run, so that it is compiled", async () => {
      const run = vi.spyOn(CpuBackend.prototype, "run");
      using stream = await open();
      const jobs = run.mock.calls.filter(([, { kind }]) => kind === jobKinds.stream);
      run.mockRestore();
      expect(jobs).toHaveLength(stream.plan.split(" ; ").length);
      expect(new Set(jobs.map(([program]) => program.id)).size).toBe(jobs.length);
      for (const [, job] of jobs) {
        const { analyse, termFrom, termTo, partitions, synthesise } = job as Jobs["stream"];
        expect([analyse, termFrom, termTo, synthesise]).toEqual([1, 0, partitions, 1]);
      }
    });

    test("silence comes out of a new stream, whatever its memory held before", async () => {
      const dirty = await open();
      const noise = rowsOf(inputs, 0, 640 * hop);
      dirty.render(noise, noise);
      dirty.dispose();
      using stream = await open();
      const silence = Array.from({ length: rows }, () => new Float32Array(640 * hop));
      stream.render(silence, silence);
      expect(flat(silence).every((x) => x === 0)).toBe(true);
    });
  });

  test("answers while another stream on the same backend is being made", async () => {
    const one = { ...options, threads: 1 };
    using stream = await FlashFFTConvStream.create(inputs.k, one);
    const making = FlashFFTConvStream.create(inputs.k.subarray(0, 4 * 900) as Float32Array, {
      ...one,
      ...{ kernelLength: 1800, blockLength: 48 },
    });
    const block = rowsOf(inputs, 0, hop);
    stream.render(block, block);
    expect(block[0]!.some((x) => x !== 0)).toBe(true);
    (await making).dispose();
  });
}

test("a block is whole on return, however long it takes", async () => {
  const k = new Float32Array(4 * 1_000_000).fill(1);
  using stream = await FlashFFTConvStream.create(k, {
    ...{ kernelLength: 1_000_000, channels: 4, instructions: "javascript" },
  });
  expect(stream.blockLength).toBeGreaterThan(30_000);
  const n = stream.blockLength;
  const rows = Array.from({ length: 4 }, () => new Float32Array(n).fill(1));
  stream.render(rows, rows);
  for (const row of rows) expect(row[n - 1]! / n).toBeCloseTo(1, 5);
});

test("after mode full, flush gives the tail", async () => {
  const full = createProblem({ length: 320, kernelLength: 100, mode: "full" }, "test");
  const given = drawInputs(full, {}, 2);
  using stream = await FlashFFTConvStream.create(given.k, {
    ...{ mode: "full", kernelLength: 100, blockLength: 64 },
  });
  const y = (given.u as Float32Array).slice();
  stream.render([y], [y]);
  expectRight(joined([y, await stream.flush()], 1), given);
});

describe("render refuses", () => {
  const k = new Float32Array(10).fill(1);
  const open = (more: object = {}) =>
    FlashFFTConvStream.create(k, { kernelLength: 10, blockLength: hop, ...more });
  const row = () => new Float32Array(hop);

  test.each<[string, unknown, unknown, RegExp]>([
    ["no list", undefined, [row()], /inputs must be a list of 1 Float32Arrays.*got undefined/],
    ["an array", row(), [row()], /inputs must be a list of 1/],
    ["too few rows", [row()], [], /outputs must be a list of 1 .*got a list of 0/],
    ["rows of no block", [new Float32Array(8)], [row()], /row of inputs .* multiple of 16/],
    ["rows of other lengths", [row()], [new Float32Array(32)], /row of outputs .* multiple of 16/],
    ["rows of nothing", [new Float32Array(0)], [new Float32Array(0)], /multiple of 16/],
    ["another type", [new Float64Array(hop)], [row()], /row of inputs/],
  ])("%s", async (_, given, out, message) => {
    using stream = await open();
    const call = () => stream.render(given as Float32Array[], out as Float32Array[]);
    expect(call).toThrow(InvalidArgumentError);
    expect(call).toThrow(message);
  });

  test.each<[string, object, RegExp]>([
    ["taps that look ahead", { mode: "same" }, /no tap may look ahead.*4 samples ahead/],
    ["half precision", { dtype: "float16" }, /float32.*float16/],
  ])("a stream with %s", async (_, more, message) => {
    using stream = await open(more);
    expect(() => stream.render([row()], [row()])).toThrow(InvalidArgumentError);
    expect(() => stream.render([row()], [row()])).toThrow(message);
  });

  test("a stream that is busy, within a block, gated, disposed", async () => {
    const stream = await open();
    const refused = (message: RegExp) =>
      expect(() => stream.render([row()], [row()])).toThrow(message);
    const under = stream.process(new Float32Array(5));
    refused(/stream\.render: .*to itself.*Await its promise/);
    await under;
    refused(/begins with a block.*5 samples have come/);
    await stream.reset();
    await stream.process({ u: row(), postgate: row() });
    refused(/a postgate with every piece/);
    await stream.reset();
    stream.render([row()], [row()]);
    stream.dispose();
    refused(/disposed/);
  });

  test("to go on after a block that failed", async () => {
    using stream = await open({
      threads: 1,
      instructions: cpuConfigurations[2]!.options.instructions,
    });
    const failing = vi.spyOn(CpuBackend.prototype, "run").mockImplementationOnce(() => {
      throw new RangeError("out of luck");
    });
    expect(() => stream.render([row()], [row()])).toThrow("out of luck");
    failing.mockRestore();
    expect(() => stream.render([row()], [row()])).toThrow(BackendError);
    await stream.reset();
    stream.render([row()], [row()]);
  });
});
