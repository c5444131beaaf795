/** Kernels on a GPU: compiled before the first call asks for them, and given back when nobody needs them. */
import { describe, expect, test } from "vitest";
import { backendFor } from "../../src/calls/gpu-open.ts";
import {
  FlashDepthwiseConv1d,
  FlashFFTConv,
  FlashFFTConvStream,
  FlashHyenaProjections,
  InvalidArgumentError,
} from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import type { ProblemOptions } from "../../src/plan/problem.ts";
import { onGpu } from "../support/backends.ts";
import { drawInputs } from "../support/cases.ts";
import { openDevice } from "../support/gpu.ts";
import { normal } from "../support/signals.ts";

/** Counts the pipelines that a device is asked for from here on. */
function counting(device: GPUDevice): () => number {
  let count = 0;
  const create = device.createComputePipelineAsync.bind(device);
  device.createComputePipelineAsync = (descriptor) => {
    count++;
    return create(descriptor);
  };
  return () => {
    const before = count;
    count = 0;
    return before;
  };
}

const float32 = (count: number, seed: number) => Float32Array.from(normal(count, seed));

/** One pass, several, blocks of rows, the time domain, masked frequencies. */
const problems: readonly ProblemOptions[] = [
  { length: 300 },
  { length: 9000, dtype: "float16", mode: "same" },
  { length: 3000, kernelLength: 100 },
  { length: 500, kernelLength: 3, mode: "circular" },
  { length: 2048, mode: "circular", frequencies: { band: [0, 0.25] } },
];

describe.skipIf(!onGpu)("the first call of an object has nothing to compile", () => {
  test.each(problems)("forward, and with a kept kernel: %o", async (options) => {
    const device = await openDevice();
    const made = counting(device);
    using conv = await FlashFFTConv.create({ ...options, device });
    expect(made()).toBeGreaterThan(0);
    const { u, k, dy } = drawInputs(conv.problem, { batch: 3, channels: 2 }, 1);
    await conv.forward(u, k);
    await conv.forward(u, await conv.prepareKernel(k));
    expect(made()).toBe(0);
    // Gradients are compiled for who asks for them.
    await conv.backward(dy, u, k);
    expect(made()).toBeGreaterThan(0);
    device.destroy();
  });

  test("with gates, skip and gradients, after warmUp", async () => {
    const device = await openDevice();
    const made = counting(device);
    const operands = { pregate: true, postgate: true, skip: true };
    const { u, k, dy, options } = drawInputs(
      createProblem({ length: 300 }, "test"),
      { batch: 2, channels: 2, ...operands },
      2,
    );
    using conv = await FlashFFTConv.create({ length: 300, device });
    await conv.warmUp(operands);
    await conv.warmUp({ ...operands, backward: true });
    expect(made()).toBeGreaterThan(0);
    await conv.forward(u, k, options);
    await conv.backward(dy, u, k, options);
    expect(made()).toBe(0);
    device.destroy();
  });

  test("of a stream", async () => {
    const device = await openDevice();
    const made = counting(device);
    const stream = await FlashFFTConvStream.create(float32(50, 1), {
      ...{ kernelLength: 50, blockLength: 1024, device },
    });
    expect(made()).toBeGreaterThan(0);
    await stream.process(float32(3000, 2));
    expect(made()).toBe(0);
    stream.dispose();
    device.destroy();
  });

  test("of a short convolution, after warmUp", async () => {
    const device = await openDevice();
    const made = counting(device);
    using conv = await FlashDepthwiseConv1d.create({ channels: 4, kernelLength: 3, device });
    using packed = await FlashHyenaProjections.create({ channels: 4, kernelLength: 3, device });
    await conv.warmUp({ length: 77, batch: 2, bias: true, state: true });
    await conv.warmUp({ length: 77, batch: 2, bias: true, backward: true });
    await packed.warmUp({ length: 77, batch: 2 });
    expect(made()).toBeGreaterThan(0);
    const [x, weight] = [{ data: float32(2 * 4 * 77, 1), shape: [2, 4, 77] }, float32(12, 2)];
    const bias = float32(4, 3);
    const [state, stateOut] = [conv.createState(2), conv.createState(2)];
    await conv.forward(x, weight, { bias, state, stateOut });
    await conv.backward(x, x, weight, { bias });
    await packed.forward({ data: float32(2 * 12 * 77, 1), shape: [2, 12, 77] }, float32(36, 2));
    expect(made()).toBe(0);
    device.destroy();
  });
});

describe("warmUp", () => {
  test("says what it does not take", async () => {
    const onDevice = onGpu ? { device: await openDevice() } : {};
    using conv = await FlashFFTConv.create({ length: 300, mode: "full", ...onDevice });
    await conv.warmUp({ backward: true });
    for (const calls of [{ skip: true }, { gates: true }, { backward: 1 }, null])
      await expect(conv.warmUp(calls as object)).rejects.toThrow(InvalidArgumentError);
    using short = await FlashDepthwiseConv1d.create({
      ...{ channels: 4, kernelLength: 3, padding: "same", ...onDevice },
    });
    await short.warmUp({ length: 8, backward: true });
    for (const calls of [{}, { length: 0 }, { length: 8, state: true }, { length: 8, bias: 0 }])
      await expect(short.warmUp(calls as { length: number })).rejects.toThrow(InvalidArgumentError);
  });
});

describe.skipIf(!onGpu)("kernels that nobody needs", () => {
  test("are kept to the latest few, and compiled again where they are gone", async () => {
    const device = await openDevice();
    const made = counting(device);
    const backend = await backendFor(device, "test");
    const run = async (length: number): Promise<void> => {
      using conv = await FlashFFTConv.create({ length, device });
      await conv.forward(float32(length, 1), float32(length, 2));
    };
    using live = await FlashFFTConv.create({ length: 64, device });
    const own = backend.compiled;
    // Two kernels each.
    for (let length = 128; length <= 4096; length *= 2) await run(length);
    for (let length = 192; length <= 3072; length *= 2) await run(length);
    for (let length = 160; length <= 2560; length *= 2) await run(length);
    expect(made()).toBeGreaterThan(own + 20);
    await expect.poll(() => backend.compiled).toBe(own + 16);
    // The last one's are still there, the first one's are not; a live object's always are.
    await run(2560);
    expect(made()).toBe(0);
    await live.forward(float32(64, 1), float32(64, 2));
    expect(made()).toBe(0);
    await run(128);
    expect(made()).toBeGreaterThan(0);
    device.destroy();
  });
});
