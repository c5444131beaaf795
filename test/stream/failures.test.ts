/** What a stream does about numbers that are none, calls that fail, lost devices and its memory. */
import { describe, expect, test, vi } from "vitest";
import { CpuBackend } from "../../src/backend/cpu/backend.ts";
import { WebGpuBackend } from "../../src/backend/webgpu/device.ts";
import type { Dtype } from "../../src/dtype.ts";
import {
  BackendError,
  FlashFFTConv,
  FlashFFTConvStream,
  InvalidArgumentError,
} from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { describeBackends, onGpu } from "../support/backends.ts";
import { drawInputs } from "../support/cases.ts";
import { expectSameBits } from "../support/close.ts";
import { openDevice } from "../support/gpu.ts";
import { cut, expectRight, joined, streamed } from "../support/streams.ts";

const [length, kernelLength, blockLength] = [1000, 200, 32];
const problem = createProblem({ length, kernelLength }, "test");
const inputs = drawInputs(problem, { channels: 2 }, 3);
const options = { kernelLength, blockLength, channels: 2 };

describeBackends("a stream", (_, { options: setting }) => {
  const open = () => FlashFFTConvStream.create<Dtype>(inputs.k, { ...options, ...setting });

  test.each([Number.NaN, Number.POSITIVE_INFINITY])(
    "keeps %d in its row and near its place",
    async (value) => {
      const at = 333;
      const u = (inputs.u as Float32Array).slice();
      u[at] = value;
      using stream = await open();
      const whole = await streamed(stream, inputs, [length]);
      const y = await streamed(stream, { ...inputs, u }, [length]);
      expectSameBits(y.subarray(length), whole.subarray(length));
      // Its own block at the earliest; K − 1 samples on, and the blocks that partitions of the taps are rounded up to.
      const from = at - (at % blockLength);
      const to = at + kernelLength - 1 + 3 * blockLength;
      expectSameBits(y.subarray(0, from), whole.subarray(0, from));
      expectSameBits(y.subarray(to, length), whole.subarray(to, length));
      expect(y.subarray(at, at + kernelLength).some(Number.isFinite)).toBe(false);
    },
  );

  test("refuses to go on with a sequence of which a call failed, until it begins anew", async () => {
    using stream = await open();
    const [first, second, third] = [...cut(inputs, [300])];
    await stream.process(first!);
    const failing = onGpu
      ? vi.spyOn(WebGpuBackend.prototype, "submit")
      : vi.spyOn(CpuBackend.prototype, "run");
    failing.mockImplementationOnce(() => {
      throw new RangeError("out of luck");
    });
    await expect(stream.process(second!)).rejects.toThrow("out of luck");
    failing.mockRestore();
    for (const call of [() => stream.process(third!), () => stream.flush()]) {
      await expect(call()).rejects.toBeInstanceOf(BackendError);
      await expect(call()).rejects.toThrow(/every block was computed.*reset\(\)/);
    }
    await stream.reset();
    expectRight(await streamed(stream, inputs, [111]), inputs);
  });

  test("refuses a piece that was transferred away while it waited", async () => {
    using stream = await open();
    const [first, second] = [...cut(inputs, [500])];
    const running = stream.process(first!);
    const waiting = stream.process(second!);
    structuredClone(second!.u, { transfer: [second!.u.buffer] });
    await running;
    await expect(waiting).rejects.toThrow(InvalidArgumentError);
    await expect(waiting).rejects.toThrow(/u must keep its buffer/);
  });

  test("disposed of finishes the calls that were made and refuses those after them", async () => {
    const stream = await open();
    const calls = [...cut(inputs, [500])].map((piece) => stream.process(piece));
    calls.push(stream.flush());
    stream.dispose();
    expectRight(joined(await Promise.all(calls), 2), inputs);
    await expect(stream.flush()).rejects.toThrow(/disposed/);
  });

  test("refuses taps that were transferred away while it was made", async () => {
    const k = (inputs.k as Float32Array).slice();
    const made = FlashFFTConvStream.create(k, { ...options, ...setting });
    structuredClone(k, { transfer: [k.buffer] });
    await expect(made).rejects.toThrow(InvalidArgumentError);
    await expect(made).rejects.toThrow(/k must keep its buffer/);
  });
});

describe.skipIf(!onGpu)("a stream on a device of the caller's", () => {
  test("uses it, and says so when it is lost; a new stream works", async () => {
    const device = await openDevice();
    using stream = await FlashFFTConvStream.create(inputs.k, { ...options, device });
    expect([stream.device, stream.instructions, stream.threads]).toEqual([device, "wgsl", 1]);
    expectRight(await streamed(stream, inputs, [length]), inputs);
    device.destroy();
    await device.lost;
    await expect(stream.process(inputs.u)).rejects.toBeInstanceOf(BackendError);
    await stream.reset();
    await expect(stream.process(inputs.u)).rejects.toThrow(/a lost one/);
    const another = await openDevice();
    using next = await FlashFFTConvStream.create(inputs.k, { ...options, device: another });
    expectRight(await streamed(next, inputs, [length]), inputs);
    another.destroy();
  });

  test("leaves no buffer there, whether it worked or could not be made", async () => {
    const device = await openDevice();
    using other = await FlashFFTConv.create({ length: 16, device });
    const before = other.memory().backendBytes;
    for (let round = 0; round < 5; round++) {
      const stream = await FlashFFTConvStream.create(inputs.k, { ...options, device });
      await streamed(stream, inputs, [length]);
      expect(other.memory().backendBytes).toBeGreaterThanOrEqual(before + stream.memoryBytes);
      stream.dispose();
    }
    // Buffers of more than the device allows.
    const batch = 2 ** 10;
    const tooMany = FlashFFTConvStream.create(inputs.k, {
      ...options,
      blockLength: 65_536,
      batch,
      device,
    });
    await expect(tooMany).rejects.toBeInstanceOf(BackendError);
    await expect.poll(() => other.memory().backendBytes).toBe(before);
    device.destroy();
  });

  test("takes kernels of several passes, and a past longer than many blocks", async () => {
    const device = await openDevice();
    const long = createProblem({ length: 30_000, kernelLength: 20_000, mode: "same" }, "test");
    const drawn = drawInputs(long, { pregate: true, postgate: true, skip: true }, 5);
    const shape = { kernelLength: 20_000, mode: "same", skip: drawn.options.skip! } as const;
    using stream = await FlashFFTConvStream.create(drawn.k, {
      ...shape,
      blockLength: 4096,
      device,
    });
    expect(stream.plan).toContain(" | ");
    expect(stream.latency).toBe(4095 + 9999);
    expectRight(await streamed(stream, drawn, [10_007, 1]), drawn);
    device.destroy();
  });
});
