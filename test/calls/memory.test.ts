/** Memory: how much is taken above inputs and outputs, and that none is lost. */
import { describe, expect, test, vi } from "vitest";
import type { CpuSettings } from "../../src/backend/cpu/backend.ts";
import { openCpu } from "../../src/backend/cpu/backend.ts";
import { Arena } from "../../src/backend/cpu/memory.ts";
import { bytesPerSample, type Dtype } from "../../src/dtype.ts";
import type { FlashFFTConv } from "../../src/index.ts";
import type { Problem, ProblemOptions } from "../../src/plan/problem.ts";
import { describeBackends, onCpu } from "../support/backends.ts";
import { checkForward, drawInputs } from "../support/cases.ts";
import { normal } from "../support/signals.ts";

const megabyte = 2 ** 20;

/**
 * Rows of arrays outside the backend's memory pass through it: on several threads, at least this much at a time for
 * each, so that short rows do not meet a barrier every few microseconds.
 */
const stagingFloor = megabyte;

/** Bytes of one transform: 8 for each of its complex points, of which it has no more than the next power of two asks for. */
function largestTransform({ mode, length, kernelLength, outputLength }: Problem): number {
  const taps = mode === "causal" ? Math.min(length, kernelLength) : kernelLength;
  const positions = Math.max(outputLength + taps, 2 * length);
  return 8 * Math.max(16, 2 ** (Math.ceil(Math.log2(positions)) - 1));
}

/** Counts every allocation in the memory that a configuration's objects share. */
function countAllocations({
  instructions,
  threads,
}: Pick<CpuSettings, "instructions"> & { readonly threads: number }) {
  const { arena } = openCpu({ instructions, shared: threads > 1 }, "test");
  const before = arena.used;
  let most = before;
  const spy = vi.spyOn(arena, "allocate").mockImplementation((...request) => {
    const block = Arena.prototype.allocate.apply(arena, request);
    most = Math.max(most, arena.used);
    return block;
  });
  return {
    /** Most bytes in use at any time since the count began, beyond those in use then. */
    peak: () => most - before,
    /** Bytes in use now, beyond those in use when the count began. */
    now: () => arena.used - before,
    [Symbol.dispose]: () => spy.mockRestore(),
  };
}

const problems = [
  { length: 1024 },
  { length: 1000, mode: "circular" },
  { length: 16_000 },
  { length: 30_030, mode: "full", kernelLength: 500 },
  { length: 65_536, dtype: "bfloat16" },
  { length: 65_500, mode: "bidirectional" },
  { length: 1_000_000, mode: "same", kernelLength: 48_000 },
  { length: 1_048_570 },
] satisfies ProblemOptions[];

const calls = problems.flatMap((options: ProblemOptions) =>
  [[1, 1], options.length > 500_000 ? [3, 2] : [8, 3]].map(
    ([batch, channels]): [string, ProblemOptions, number, number] => [
      `${options.mode ?? "causal"}, ${options.dtype ?? "float32"}, (${batch}, ${channels}, ${options.length})`,
      options,
      batch!,
      channels!,
    ],
  ),
);

describe("above inputs and outputs: the spectrum of k and four transforms a thread", () => {
  describeBackends(
    "at most",
    (open, configuration) => {
      const setting = onCpu(configuration);
      const { threads } = setting;

      /** The bar for a call, with `rows` bytes of staging granted to each thread. */
      const bar = (conv: FlashFFTConv<Dtype>, channels: number, rows: number) => {
        const { transformBytes } = conv.memory();
        // The bar's own unit is checked first: a transform declared too large would buy room for anything.
        expect(transformBytes).toBeGreaterThan(0);
        expect(transformBytes).toBeLessThanOrEqual(1.05 * largestTransform(conv.problem));
        // A cache line for each array's alignment.
        return (channels + 4 * threads) * transformBytes + threads * rows + 4096;
      };

      /** What staging may take of short rows, where four transforms are less than it needs to be quick. */
      const shortRows = (conv: FlashFFTConv<Dtype>) =>
        4 * conv.memory().transformBytes < stagingFloor ? stagingFloor : 0;

      // One thread lends from another, shared memory, to which the object moves: counted below by itself.
      test.skipIf(threads === 1).each(calls)(
        "arrays of its own: %s",
        async (_, options, batch, channels) => {
          using count = countAllocations(setting);
          using conv = await open(options);
          const k = new Float32Array(channels * conv.problem.kernelLength).fill(1);
          const before = count.now();
          const u = conv.allocateInput(batch, channels);
          const pregate = conv.allocateInput(batch, channels);
          const postgate = conv.allocateOutput(batch, channels);
          const out = conv.allocateOutput(batch, channels);
          const lent = count.now() - before;
          await conv.forward(u, k, { pregate, postgate, out });
          expect(count.peak() - lent).toBeLessThanOrEqual(bar(conv, channels, 0));
        },
      );

      // Longest rows once: one thread and plain JavaScript share all of this but the speed.
      const affordable = calls.filter(([, { length }]) => threads > 1 || length < 100_000);
      test.each(affordable)("any arrays: %s", async (_, options, batch, channels) => {
        using count = countAllocations(setting);
        using conv = await open(options);
        const { length, outputLength, kernelLength, dtype } = conv.problem;
        const Samples = dtype === "float32" ? Float32Array : Uint16Array;
        const input = () => new Samples(batch * channels * length);
        const output = () => new Samples(batch * channels * outputLength);
        const k = new Float32Array(channels * kernelLength);
        await conv.forward(input(), k);
        expect(count.peak()).toBeLessThanOrEqual(bar(conv, channels, shortRows(conv)));
        // Gates and gradients are more arrays: of each, the row that a thread works on is staged too.
        const gates = { pregate: input(), postgate: output() };
        const bytes = bytesPerSample(dtype);
        await conv.forward(input(), k, gates);
        const forwardRows = bytes * 2 * (length + outputLength);
        expect(count.peak()).toBeLessThanOrEqual(
          bar(conv, channels, Math.max(shortRows(conv), forwardRows)),
        );
        await conv.backward(output(), input(), k, gates);
        const backwardRows = bytes * (4 * length + 3 * outputLength) + 4 * kernelLength;
        expect(count.peak()).toBeLessThanOrEqual(
          bar(conv, channels, Math.max(shortRows(conv), backwardRows)),
        );
      });

      test("taps that never act are not staged", async () => {
        using conv = await open({ length: 5000, kernelLength: 500_000 });
        // From here on: programs of earlier objects may go at any time.
        using count = countAllocations(setting);
        const k = new Float32Array(2 * 500_000).fill(1);
        await conv.forward(new Float32Array(2 * 5000), k);
        expect(count.peak()).toBeLessThanOrEqual(bar(conv, 2, shortRows(conv)));
      });

      test("a kept spectrum is counted until it is disposed", async () => {
        using conv = await open({ length: 5000 });
        const k = new Float32Array(3 * 5000);
        const { transformBytes } = conv.memory();
        const kernel = await conv.prepareKernel(k);
        expect(conv.memory().spectrumBytes).toBe(3 * transformBytes);
        const { backendBytes } = conv.memory();
        kernel.dispose();
        expect(conv.memory().spectrumBytes).toBe(0);
        expect(conv.memory().backendBytes).toBeLessThanOrEqual(backendBytes - 3 * transformBytes);
      });
    },
    { threads: "any", instructions: ["simd", "javascript"] },
  );
});

/** Memory of the process outside and inside the heap, after a collection. */
async function settledMemory(): Promise<{ rss: number; external: number }> {
  // Freeing a WebAssembly.Memory or a worker takes a turn of the loop and a collection each.
  for (let round = 0; round < 4; round++) {
    globalThis.gc?.();
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const { rss, external, arrayBuffers } = process.memoryUsage();
  return { rss, external: external + arrayBuffers };
}

describe("nothing is lost", () => {
  describeBackends(
    "over",
    (open) => {
      test("10,000 calls of mixed shapes, then dispose", async () => {
        expect(globalThis.gc, "node must run with --expose-gc").toBeTypeOf("function");
        const handles = process.getActiveResourcesInfo().length;
        const convs = await Promise.all([
          open({ length: 16 }),
          open({ length: 100, kernelLength: 7 }),
          open({ length: 256, mode: "circular" }),
          open({ length: 333, mode: "full" }),
          open({ length: 1024, dtype: "float16" }),
          open({ length: 2048, dtype: "bfloat16", mode: "same" }),
        ]);
        const cases = convs.map((conv) =>
          [1, 2, 3].map((rows) => drawInputs(conv.problem, { batch: rows, channels: rows }, rows)),
        );
        const calls = async (count: number) => {
          for (let call = 0; call < count; call++) {
            const index = call % convs.length;
            const conv = convs[index]!;
            const { u, k, dy } = cases[index]![call % 3]!;
            if (call % 10 === 9) await conv.backward(dy, u, k);
            else if (call % 10 === 5) {
              const kernel = await conv.prepareKernel(k);
              await conv.forward(u, kernel);
              kernel.dispose();
            } else await conv.forward(u, k);
          }
        };
        await calls(2000);
        const before = await settledMemory();
        const inside = convs.map((conv) => conv.memory());
        await calls(8000);
        const after = await settledMemory();
        for (const [index, conv] of convs.entries()) {
          const { backendBytes, ...own } = conv.memory();
          expect(inside[index]).toMatchObject(own);
          // Less where what other tests took has been given back meanwhile.
          expect(backendBytes).toBeLessThanOrEqual(inside[index]!.backendBytes);
        }
        expect(after.external - before.external).toBeLessThan(megabyte);
        expect(after.rss - before.rss).toBeLessThan(48 * megabyte);
        for (const [index, conv] of convs.entries()) {
          await checkForward(conv, cases[index]![2]!);
          conv.dispose();
        }
        await expect
          .poll(() => process.getActiveResourcesInfo().length)
          .toBeLessThanOrEqual(handles);
      });

      test("200 rounds of create, call and dispose", async () => {
        const u = Float32Array.from(normal(20_000, 1));
        const round = async (length: number) => {
          using conv = await open({ length });
          await conv.forward(u.subarray(0, length), u.subarray(0, length));
        };
        for (let n = 0; n < 50; n++) await round(1000 + 100 * (n % 10));
        const before = await settledMemory();
        for (let n = 0; n < 150; n++) await round(1000 + 100 * (n % 10));
        const after = await settledMemory();
        expect(after.external - before.external).toBeLessThan(4 * megabyte);
        expect(after.rss - before.rss).toBeLessThan(96 * megabyte);
      });

      test("allocations disposed with the object", async () => {
        const before = await settledMemory();
        for (let n = 0; n < 40; n++) {
          using conv = await open({ length: 65_536 });
          conv.allocateInput(4, 8);
          conv.allocateOutput(4, 8);
        }
        const after = await settledMemory();
        // 16 MiB a round: 640 MiB if they stayed.
        expect(after.rss - before.rss).toBeLessThan(160 * megabyte);
      });
    },
    { instructions: ["simd", "javascript"] },
  );
});
