/** The time domain where only a GPU has something to say: buffers, encoders, pieces that can be bound, bindings, large calls. */
import { describe, expect, test } from "vitest";
import type { Dtype, SampleArray } from "../../src/dtype.ts";
import { FlashFFTConv } from "../../src/index.ts";
import type { Mode, ProblemOptions } from "../../src/plan/problem.ts";
import type { GpuLimits } from "../../src/schedule/schedule.ts";
import { onGpu } from "../support/backends.ts";
import { checkBackward, checkForward, drawInputs } from "../support/cases.ts";
import { expectSameBits } from "../support/close.ts";
import { download, openDevice, upload } from "../support/gpu.ts";
import { checkUnder } from "../support/limits.ts";
import { normal } from "../support/signals.ts";

const like = (values: SampleArray, length: number): SampleArray =>
  new (values.constructor as Float32ArrayConstructor)(length);

const shape = { batch: 2, channels: 3, pregate: true, postgate: true };

/** Rows that begin at words and such as do not, at offsets that suit every access and offsets that suit only narrow ones. */
const placed: readonly (readonly [Mode, Dtype, number, number, number])[] = [
  ["causal", "float32", 100, 8, 8],
  ["same", "float16", 96, 16, 16],
  ["circular", "float16", 99, 5, 8],
  ["bidirectional", "bfloat16", 33, 6, 264],
  ["full", "bfloat16", 64, 20, 8],
];

describe.skipIf(!onGpu)("tensors in GPU buffers", () => {
  test.each(placed)(
    "%s, %s, %i samples, %i taps, %i bytes in",
    async (...[mode, dtype, L, K, at]) => {
      const device = await openDevice();
      const options = { mode, dtype, length: L, kernelLength: K };
      using conv = await FlashFFTConv.create({ ...options, plan: `direct ${K}`, device });
      const { outputLength } = conv.problem;
      const skip = outputLength === L;
      const inputs = drawInputs(conv.problem, { ...shape, skip }, 21);
      const { u, k, dy, options: given } = inputs;
      const y = await checkForward(conv, inputs);
      const gradients = await checkBackward(conv, inputs);
      const [rows, outputs] = [L, outputLength].map((n) => [2, 3, n]);
      const on = {
        u: upload(device, u, rows!, at),
        dy: upload(device, dy, outputs!, at + 256),
        k: upload(device, k, [3, K], 16),
      };
      const gates = {
        pregate: upload(device, given.pregate!, rows!),
        postgate: upload(device, given.postgate!, outputs!, at),
        ...(skip && { skip: upload(device, given.skip!, [3], at) }),
      };
      const kept = await conv.prepareKernel(on.k);
      // What lies around a result stays.
      const size = 6 * outputLength;
      const around = like(y, 2 * size) as Float32Array;
      around.fill(1);
      for (const kernel of [on.k, k, kept]) {
        const out = { ...upload(device, around, [2 * size]), shape: outputs!, offset: at };
        expect(await conv.forward(on.u, kernel, { ...gates, out })).toEqual(out);
        const whole = await download(device, { data: out.data, shape: [2 * size] }, around);
        const first = at / y.BYTES_PER_ELEMENT;
        expectSameBits(whole.slice(first, first + size), y);
        const others = [...whole.slice(0, first), ...whole.slice(first + size)];
        expect(others.every((v) => v === around[0])).toBe(true);
      }
      const dskip = upload(device, new Float32Array(3), [3], at);
      const into = { ...gates, ...(skip && { out: { dskip } }) };
      const found = await conv.backward(on.dy, on.u, kept, into);
      expect(found.dskip).toEqual(skip ? dskip : undefined);
      for (const name of ["du", "dk", "dpregate", "dpostgate", "dskip"] as const) {
        const values = gradients[name] as SampleArray | undefined;
        expect(values === undefined).toBe(name === "dskip" && !skip);
        if (values) expectSameBits(await download(device, found[name]!, values), values, name);
      }
      device.destroy();
    },
  );

  test("commands in the caller's encoder, with taps in a buffer, twice in one submission", async () => {
    const device = await openDevice();
    using conv = await FlashFFTConv.create({ length: 100, kernelLength: 4, device });
    expect(conv.explain().chosen.plan).toBe("direct 4");
    const u = Float32Array.from(normal(600, 1));
    const taps = [2, 3].map((seed) => Float32Array.from(normal(12, seed)));
    const x = upload(device, u, [2, 3, 100]);
    const encoder = device.createCommandEncoder();
    const once = await conv.forward(x, upload(device, taps[0]!, [3, 4]), { encoder });
    const twice = await conv.forward(once, upload(device, taps[1]!, [3, 4]), { encoder });
    expect([...(await download(device, once, u))].every((v) => v === 0)).toBe(true);
    device.queue.submit([encoder.finish()]);
    const first = (await conv.forward(u, taps[0]!)) as Float32Array;
    expectSameBits(await download(device, once, u), first);
    expectSameBits(await download(device, twice, u), await conv.forward(first, taps[1]!));
    device.destroy();
  });
});

/** The time domain of a problem under other limits than its device's; the steps of both. */
const checkWith = (
  options: ProblemOptions & { readonly kernelLength: number },
  rows: { readonly batch: number; readonly channels: number },
  limits: Partial<GpuLimits>,
): Promise<{ forward: number; backward: number }> =>
  checkUnder(options, `direct ${options.kernelLength}`, rows, limits);

/** Problems, rows, and limits that cut them: by batch items, by channels, by positions. */
const cuts: readonly (readonly [
  ProblemOptions & { readonly kernelLength: number },
  { batch: number; channels: number },
  Partial<GpuLimits>,
])[] = [
  [{ length: 40, kernelLength: 4 }, { batch: 4, channels: 3 }, { bindingBytes: 1024 }],
  [{ length: 200, kernelLength: 40 }, { batch: 2, channels: 5 }, { bindingBytes: 2048 }],
  [
    { length: 1201, kernelLength: 9, mode: "same", dtype: "float16" },
    { batch: 1, channels: 2 },
    { bindingBytes: 1536 },
  ],
  [
    { length: 700, kernelLength: 60, mode: "full" },
    { batch: 2, channels: 1 },
    { bindingBytes: 3072 },
  ],
  [
    { length: 500, kernelLength: 12, mode: "circular", dtype: "bfloat16" },
    { batch: 3, channels: 6 },
    { workspaceBytes: 1024 },
  ],
  [{ length: 300, kernelLength: 20 }, { batch: 2, channels: 40 }, { workspaceBytes: 4096 }],
];

describe.skipIf(!onGpu)("what the adapter here does not ask for", () => {
  test.each(cuts)("in pieces: %o, %o, %o", async (options, rows, limits) => {
    const steps = await checkWith(options, rows, limits);
    expect(steps.backward).toBeGreaterThan(6);
  });

  // A kernel that computes all gradients at once binds ten.
  test.each([
    [8, 5],
    [9, 4],
    [10, 3],
  ])("%i storage buffers for a kernel", async (bindings, launches) => {
    const rows = { batch: 2, channels: 3 };
    const options = { length: 300, kernelLength: 11, dtype: "float16" } as const;
    expect((await checkWith(options, rows, { bindings })).backward).toBe(launches);
  });
});

describe.skipIf(!onGpu)("large calls", () => {
  test("more than 65,535 workgroups", async () => {
    using conv = await FlashFFTConv.create({
      ...{ length: 3, kernelLength: 2, plan: "direct 2", backend: "webgpu" },
    });
    const channels = 270_000;
    const u = Float32Array.from({ length: 3 * channels }, (_, i) => i % 13);
    const k = Float32Array.from({ length: 2 * channels }, (_, i) => i % 7);
    const y = (await conv.forward(u, k)) as Float32Array;
    const { dk } = (await conv.backward(u, u, k)) as { dk: Float32Array };
    const wrong = (h: number): boolean => {
      const [a, b, c] = u.subarray(3 * h);
      const [p, q] = k.subarray(2 * h);
      const outputs = [a! * p!, b! * p! + a! * q!, c! * p! + b! * q!];
      const taps = [a! * a! + b! * b! + c! * c!, b! * a! + c! * b!];
      return outputs.some((v, n) => v !== y[3 * h + n]) || taps.some((v, j) => v !== dk[2 * h + j]);
    };
    expect(Array.from({ length: channels }, (_, h) => h).findIndex(wrong)).toBe(-1);
  });

  test("work memory keeps to its limit, and no bit depends on it", async () => {
    const options = { length: 16, kernelLength: 8, plan: "direct 8", backend: "webgpu" } as const;
    const [workspaceBytes, channels] = [2 ** 20, 12_000];
    using small = await FlashFFTConv.create({ ...options, workspaceBytes });
    using large = await FlashFFTConv.create(options);
    const u = Float32Array.from(normal(16 * channels, 1));
    const k = Float32Array.from(normal(8 * channels, 2));
    expectSameBits(await small.forward(u, k), await large.forward(u, k));
    const [some, all] = [await small.backward(u, u, k), await large.backward(u, u, k)];
    expectSameBits([some.du, some.dk], [all.du, all.dk]);
    expect(small.memory().workspaceBytes).toBeLessThanOrEqual(workspaceBytes);
    expect(large.memory().workspaceBytes).toBeGreaterThan(workspaceBytes);
  });

  test("rounds of create, run, dispose leave no buffer", async () => {
    const device = await openDevice();
    const u = Float32Array.from(normal(64, 1));
    using witness = await FlashFFTConv.create({ length: 100, device });
    const before = witness.memory().backendBytes;
    for (let round = 0; round < 100; round++) {
      const conv = await FlashFFTConv.create({ length: 64, kernelLength: 4, device });
      const kernel = await conv.prepareKernel(Float32Array.of(1, 2, 3, 4));
      await conv.forward(u, kernel);
      if (round % 20 === 0) await conv.backward(u, u, kernel);
      expect(witness.memory().backendBytes).toBeGreaterThan(before);
      conv.dispose();
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(witness.memory().backendBytes).toBe(before);
    device.destroy();
  });
});
