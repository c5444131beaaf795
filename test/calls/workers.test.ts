/** Workers and work memory: when they begin, when they end, and what becomes of a call where there are none. */
import { existsSync, readdirSync } from "node:fs";
import { describe, expect, test, vi } from "vitest";
import { mostThreads, openCpu } from "../../src/backend/cpu/backend.ts";
import { features } from "../../src/backend/cpu/features.ts";
import {
  BackendError,
  convolve,
  FlashDepthwiseConv1d,
  FlashFFTConv,
  FlashFFTConvStream,
  InvalidArgumentError,
} from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { onGpu } from "../support/backends.ts";
import { checkBackward, checkForward, drawInputs } from "../support/cases.ts";

const tasks = "/proc/self/task";
const osThreads = (): number => readdirSync(tasks).length;
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const shared = () =>
  openCpu({ instructions: features().relaxedSimd ? "relaxed-simd" : "simd", shared: true }, "test");

/** Rows that are worth several threads. */
const long = createProblem({ length: 20_000 }, "test");

describe.skipIf(onGpu)("worker threads", () => {
  test.skipIf(!existsSync(tasks))("end after their last object, and memory with them", async () => {
    await pause(1500);
    const inputs = drawInputs(long, { batch: 4, channels: 4 }, 1);
    const once = async (threads: number) => {
      using conv = await FlashFFTConv.create({ length: long.length, threads });
      await checkForward(conv, inputs);
      return conv.threads;
    };
    await once(1);
    globalThis.gc?.();
    const [before, memory] = [osThreads(), process.memoryUsage.rss()];
    let most = 0;
    for (let threads = 2; threads <= 64; threads++) {
      expect(await once(threads)).toBe(Math.min(threads, mostThreads));
      most = Math.max(most, osThreads());
    }
    expect(most).toBeGreaterThan(before);
    expect(most).toBeLessThanOrEqual(before + mostThreads);
    await pause(1500);
    expect(osThreads()).toBeLessThanOrEqual(before);
    globalThis.gc?.();
    expect(process.memoryUsage.rss() - memory).toBeLessThan(100 * 2 ** 20);
  });

  test("are one set for all objects, whatever their number of threads", async () => {
    const inputs = drawInputs(long, { batch: 4, channels: 4 }, 1);
    using two = await FlashFFTConv.create({ length: long.length, threads: 2 });
    await checkForward(two, inputs);
    const { pool } = shared();
    expect(pool?.workers.length).toBe(2);
    using three = await FlashFFTConv.create({ length: long.length, threads: 3 });
    await Promise.all([checkForward(three, inputs), checkForward(two, inputs)]);
    expect(shared().pool).toBe(pool);
    expect(pool?.workers.length).toBe(3);
    await checkBackward(two, inputs);
  });

  test("end while their programs are forgotten, and calls go on", async () => {
    const inputs = drawInputs(long, { batch: 4, channels: 4 }, 1);
    // On one thread, in the memory of the others.
    using one = await FlashFFTConv.create({ length: 3000, threads: 1 });
    one.allocateInput(1, 1);
    {
      using two = await FlashFFTConv.create({ length: long.length, threads: 2 });
      await checkForward(two, inputs);
    }
    const { pool } = shared();
    expect(pool?.usable).toBe(true);
    await pause(1500);
    expect(pool?.usable).toBe(false);
    await checkForward(one, drawInputs(one.problem, {}, 1));
  });

  test("do not start for problems that one thread is done with at once", async () => {
    await pause(1500);
    expect(shared().pool).toBeUndefined();
    await convolve(Float32Array.of(1, 2, 3), Float32Array.of(1, 1), { threads: 2 });
    using conv = await FlashFFTConv.create({ length: 64, threads: 2 });
    await conv.forward(new Float32Array(128), new Float32Array(64));
    expect(shared().pool).toBeUndefined();
  });

  test("more than four a core are not started, and explain() says so", async () => {
    using conv = await FlashFFTConv.create({ length: 16, threads: 1000 });
    expect(conv.threads).toBe(mostThreads);
    expect(String(conv.explain())).toContain(
      `note: ${mostThreads} of the 1000 threads asked for: four a core`,
    );
  });
});

describe.skipIf(onGpu)("where workers do not start", () => {
  const workerUrl = new URL("nowhere.js", import.meta.url);

  test("calls run on one thread, with one warning and a note in explain()", async () => {
    const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
    try {
      const inputs = drawInputs(long, { batch: 4, channels: 4 }, 1);
      using conv = await FlashFFTConv.create({ length: long.length, threads: 2, workerUrl });
      expect(conv.threads).toBe(2);
      await Promise.all([checkForward(conv, inputs), checkBackward(conv, inputs)]);
      expect(conv.threads).toBe(1);
      using other = await FlashFFTConv.create({ length: long.length, threads: 3, workerUrl });
      await checkForward(other, inputs);
      expect(String(other.explain())).toContain("note: one thread: workers do not start");
      using short = await FlashDepthwiseConv1d.create({
        ...{ channels: 16, kernelLength: 4, threads: 2, workerUrl },
      });
      await short.forward(new Float32Array(16 * 100_000), new Float32Array(64));
      using stream = await FlashFFTConvStream.create(new Float32Array(100_000), {
        ...{ kernelLength: 50_000, channels: 2, threads: 2, workerUrl, blockLength: 32_768 },
      });
      await stream.process(new Float32Array(200_000));
      expect([short.threads, stream.threads]).toEqual([1, 1]);
      expect(warn).toHaveBeenCalledTimes(1);
      expect(warn.mock.calls[0]![0]).toContain("worker threads do not start");
    } finally {
      warn.mockRestore();
    }
  });

  test("an address that is none is refused", async () => {
    for (const create of [
      () => FlashFFTConv.create({ length: 8, workerUrl: 3 as never }),
      () => FlashDepthwiseConv1d.create({ channels: 1, kernelLength: 1, workerUrl: {} as never }),
    ])
      await expect(create()).rejects.toThrow(InvalidArgumentError);
  });
});

describe.skipIf(onGpu)("a long call on one thread", () => {
  test.each([
    ["long rows", 2 ** 20, 8, 8, "forward"],
    ["long rows", 2 ** 20, 8, 8, "backward"],
    ["short rows", 256, 2 ** 16, 1, "forward"],
    ["short rows", 256, 2 ** 16, 1, "backward"],
  ] as const)(
    "lets other tasks run: %s, %i samples, %s",
    async (_, length, rows, channels, direction) => {
      const batch = rows / channels;
      using conv = await FlashFFTConv.create({ length, threads: 1, batch, channels });
      const [u, k] = [new Float32Array(rows * length), new Float32Array(channels * length)];
      const skip = new Float32Array(channels);
      let isRunning = true;
      const call =
        direction === "forward" ? conv.forward(u, k, { skip }) : conv.backward(u, u, k, { skip });
      const ended = call.then(() => {
        isRunning = false;
      });
      let others = 0;
      while (isRunning) {
        await new Promise((resolve) => setImmediate(resolve));
        others++;
      }
      await ended;
      // Of long rows in the pieces of a row, too: each takes some tens of milliseconds.
      expect(others).toBeGreaterThan(8);
    },
  );
});

describe.skipIf(onGpu)("work memory", () => {
  const create = (length: number) => FlashFFTConv.create({ length, threads: 2 });
  const inputsOf = (length: number) => drawInputs(createProblem({ length }, "test"), {}, 1);

  test("of a large call goes with its object, while others live", async () => {
    using small = await create(1000);
    await checkForward(small, inputsOf(1000));
    const before = small.memory().backendBytes;
    const large = await create(200_000);
    await checkForward(large, inputsOf(200_000));
    expect(small.memory().backendBytes).toBeGreaterThan(before + 2 ** 20);
    large.dispose();
    await pause(1500);
    await checkForward(small, inputsOf(1000));
    expect(small.memory().backendBytes).toBeLessThan(before + 2 ** 18);
    expect(small.memory().workspaceBytes).toBeLessThan(2 ** 20);
  });

  test("of a large call goes with its object, also where others were called after it", async () => {
    using small = await create(1000);
    const large = await create(200_000);
    await checkForward(large, inputsOf(200_000));
    await checkForward(small, inputsOf(1000));
    expect(small.memory().workspaceBytes).toBeLessThan(2 ** 20);
    expect(large.memory().workspaceBytes).toBeGreaterThan(2 ** 20);
    const before = small.memory().backendBytes;
    large.dispose();
    await pause(100);
    expect(small.memory().backendBytes).toBeLessThan(before - 2 ** 20);
    await checkForward(small, inputsOf(1000));
  });

  test("makes room where memory is full", async () => {
    using large = await create(200_000);
    await checkForward(large, inputsOf(200_000));
    using small = await create(1000);
    const { arena } = shared();
    const full = new BackendError({ call: "test", requirement: "room", value: "none", remedy: "" });
    const used = arena.used;
    const spy = vi.spyOn(arena, "allocate").mockImplementationOnce(() => {
      throw full;
    });
    try {
      using kernel = await small.prepareKernel(inputsOf(1000).k);
      expect(kernel.channels).toBe(1);
      expect(arena.used).toBeLessThan(used - 2 ** 20);
    } finally {
      spy.mockRestore();
    }
    await checkForward(large, inputsOf(200_000));
  });
});
