/** What only a GPU has: tensors in buffers, commands in the caller's encoder, lost devices, buffers that must not leak. */
import { describe, expect, test } from "vitest";
import {
  BackendError,
  FlashFFTConv,
  type GpuTensor,
  InvalidArgumentError,
} from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { onGpu } from "../support/backends.ts";
import { checkForward, drawInputs, forwardBar, gradientBar } from "../support/cases.ts";
import { expectClose, expectSameBits } from "../support/close.ts";
import { download, openAdapter, openDevice } from "../support/gpu.ts";

function upload(device: GPUDevice, values: Float32Array, shape: number[], offset = 0): GpuTensor {
  const data = device.createBuffer({ size: offset + values.byteLength, usage: 0x8c });
  device.queue.writeBuffer(data, offset, values as Float32Array<ArrayBuffer>);
  return { data, shape, offset };
}

const problem = createProblem({ length: 100 }, "test");
const shape = [2, 3, 100];
const inputs = drawInputs(
  problem,
  { batch: 2, channels: 3, pregate: true, postgate: true, skip: true },
  1,
);
const { u, k, dy, options } = inputs as typeof inputs & { u: Float32Array; dy: Float32Array };
const rowBound = { rowLength: 100, bound: 2 * forwardBar(problem) };

describe.skipIf(!onGpu)("tensors in GPU buffers", () => {
  test("forward and backward, at offsets, with a kernel of either kind", async () => {
    const device = await openDevice();
    using conv = await FlashFFTConv.create({ length: 100, device });
    expect(conv.device).toBe(device);
    const on = {
      u: upload(device, u, shape, 8),
      dy: upload(device, dy, shape, 264),
      k: upload(device, k, [3, 100], 16),
      pregate: upload(device, options.pregate as Float32Array, shape),
      postgate: upload(device, options.postgate as Float32Array, shape, 256),
    };
    const skip = upload(device, options.skip!, [3], 264);
    const gates = { pregate: on.pregate, postgate: on.postgate, skip };
    const kept = await conv.prepareKernel(on.k);
    for (const kernel of [on.k, k, kept]) {
      const y = await conv.forward(on.u, kernel, gates);
      expect(y.shape).toEqual(shape);
      expectClose(await download(device, y, u), inputs.y(), rowBound);
    }
    const out = upload(device, new Float32Array(602), [602]);
    const target = { data: out.data, shape, offset: 8 };
    expect(await conv.forward(on.u, kept, { ...gates, out: target })).toEqual(target);
    const whole = await download(device, { data: out.data, shape: [602] }, u);
    expectClose(whole.slice(2), inputs.y(), rowBound);
    expect([...whole.slice(0, 2)]).toEqual([0, 0]);

    const exact = inputs.gradients();
    const dskip = upload(device, Float32Array.of(7, 7, 7, 7), [3], 8);
    const into = { ...gates, out: { dskip } };
    const gradients = await conv.backward(on.dy, on.u, kept, into);
    expect(gradients.dskip).toEqual(dskip);
    const beside = { ...dskip, shape: [6], offset: 0 };
    const around = await download(device, beside, u);
    expect([around[0], around[1], around[5]]).toEqual([0, 0, 7]);
    for (const name of ["du", "dk", "dpregate", "dpostgate", "dskip"] as const) {
      const values = await download(device, gradients[name]!, u);
      const bound = { rowLength: values.length, bound: gradientBar, name };
      expectClose(values, exact[name]!, bound);
    }
    kept.dispose();
    device.destroy();
  });

  test("arrays and buffers in one call", async () => {
    const device = await openDevice();
    using conv = await FlashFFTConv.create({ length: 100, device });
    const pregate = upload(device, options.pregate as Float32Array, shape);
    expectClose(await conv.forward(u, k, { ...options, pregate }), inputs.y(), rowBound);
    device.destroy();
  });

  test("commands in the caller's encoder, twice in one submission", async () => {
    const device = await openDevice();
    using conv = await FlashFFTConv.create({ length: 100, device });
    const [x, kernel] = [upload(device, u, shape), await conv.prepareKernel(k)];
    const encoder = device.createCommandEncoder();
    const once = await conv.forward(x, kernel, { encoder });
    const twice = await conv.forward(once, kernel, { encoder });
    expect([...(await download(device, once, u))].every((v) => v === 0)).toBe(true);
    device.queue.submit([encoder.finish()]);
    const first = await conv.forward(u, kernel);
    const second = await conv.forward(first, kernel);
    expect([...(await download(device, once, u))]).toEqual([...(first as Float32Array)]);
    expect([...(await download(device, twice, u))]).toEqual([...(second as Float32Array)]);
    device.destroy();
  });
});

describe.skipIf(!onGpu)("refusals", () => {
  test("name what is wrong with a buffer", async () => {
    const device = await openDevice();
    using conv = await FlashFFTConv.create({ length: 100, device });
    const x = upload(device, u, shape);
    const storageless = device.createBuffer({ size: 2400, usage: 0x8 });
    const cases: [GpuTensor, RegExp][] = [
      [{ ...x, shape: [2, 3, 99] }, /last dimension of u must be 100/],
      [{ ...x, shape: [4, 3, 100] }, /must hold 4,800 bytes/],
      [{ ...x, shape: [600] }, /must have shape \(B, H, L\)/],
      [{ ...x, offset: 4 }, /offset of u must be a multiple of 8/],
      [{ data: storageless, shape }, /GPUBufferUsage.STORAGE/],
    ];
    for (const [tensor, message] of cases) {
      const call = conv.forward(tensor, k);
      await expect(call).rejects.toThrow(InvalidArgumentError);
      await expect(call).rejects.toThrow(message);
    }
    await expect(conv.forward(x, k, { out: x })).rejects.toThrow(/out must not overlap u/);
    const shapeless = { data: x.data } as GpuTensor;
    await expect(conv.forward(u, k, { out: shapeless })).rejects.toThrow(/out must have shape/);
    const encoder = device.createCommandEncoder();
    await expect(conv.forward(x, k, { encoder })).rejects.toThrow(/every tensor must be in a GPU/);
    await checkForward(conv, inputs);
    device.destroy();
  });

  test("name what is wrong with results that share a buffer", async () => {
    const device = await openDevice();
    using conv = await FlashFFTConv.create({ length: 100, device });
    const [x, wide] = [upload(device, u, shape), upload(device, new Float32Array(2000), [2000])];
    const at = (offset: number): GpuTensor => ({ data: wide.data, shape, offset });
    // A dispatch may not write a buffer that it reads, wherever in it.
    const beside = conv.forward(at(0), k, { out: at(4000) });
    await expect(beside).rejects.toThrow(/out must not share a buffer with u/);
    // Bindings begin at multiples of 256 bytes, and what one writes may not be bound twice.
    const gates = { pregate: x };
    const close = conv.backward(x, x, k, { ...gates, out: { du: at(0), dpregate: at(2400) } });
    await expect(close).rejects.toThrow(/dpregate must be 256 bytes apart from du/);
    const out = { du: at(0), dpregate: at(2560) };
    const gradients = await conv.backward(x, x, k, { ...gates, out });
    expectClose(
      await download(device, gradients.dpregate!, u),
      Float64Array.from((await conv.backward(u, u, k, { pregate: u })).dpregate!),
      rowBound,
    );
    device.destroy();
  });

  test("name buffers that end within a word", async () => {
    const device = await openDevice();
    using conv = await FlashFFTConv.create({ length: 33, dtype: "float16", device });
    const tensor = { data: device.createBuffer({ size: 66, usage: 0x8c }), shape: [1, 1, 33] };
    const call = conv.forward(tensor, new Float32Array(33));
    await expect(call).rejects.toThrow(/the buffer of u must hold 68 bytes/);
    device.destroy();
  });

  test("name what is no device, no plan, no skip of the channels and no encoder", async () => {
    const options = { length: 100, backend: "webgpu" } as const;
    const device = await openDevice();
    const not = (x: unknown) => x as GPUDevice & string & Float32Array & GPUCommandEncoder;
    for (const value of [5, {}, await openAdapter()]) {
      const opening = FlashFFTConv.create({ ...options, device: not(value) });
      await expect(opening).rejects.toThrow(InvalidArgumentError);
      await expect(opening).rejects.toThrow(/device must be a GPUDevice/);
    }
    const planned = FlashFFTConv.create({ ...options, device, plan: not(5) });
    await expect(planned).rejects.toThrow(/plan must be one that explain\(\) prints/);
    using conv = await FlashFFTConv.create({ ...options, device });
    const skip = upload(device, new Float32Array(4), [4]);
    await expect(conv.forward(u, k, { skip })).rejects.toThrow(/skip must hold 3 samples/);
    const [x, kernel] = [upload(device, u, shape), await conv.prepareKernel(k)];
    for (const none of [null, {}, { beginComputePass() {} }]) {
      const recorded = conv.forward(x, kernel, { encoder: not(none) });
      await expect(recorded).rejects.toThrow(/encoder must be a GPUCommandEncoder/);
    }
    const mute = { beginComputePass() {}, copyBufferToBuffer() {}, finish() {} };
    await expect(conv.forward(x, kernel, { encoder: not(mute) })).rejects.toThrow(BackendError);
    const encoder = device.createCommandEncoder();
    encoder.finish();
    const late = conv.forward(x, kernel, { encoder });
    await expect(late).rejects.toThrow(BackendError);
    await expect(late).rejects.toThrow(/already finished/);
    device.destroy();
  });

  test("take devices that do not say who made them", async () => {
    const device = await openDevice();
    Object.defineProperty(device, "adapterInfo", { value: undefined });
    using conv = await FlashFFTConv.create({ length: 100, device });
    await checkForward(conv, inputs);
    device.destroy();
  });

  test("a lost device is a typed error, and a new object works", async () => {
    const device = await openDevice();
    using conv = await FlashFFTConv.create({ length: 100, device });
    await checkForward(conv, inputs);
    device.destroy();
    await device.lost;
    await expect(conv.forward(u, k, options)).rejects.toThrow(BackendError);
    await expect(conv.forward(u, k, options)).rejects.toThrow(/a lost one \(destroyed/);
    using next = await FlashFFTConv.create({ length: 100, device: await openDevice() });
    await checkForward(next, inputs);
  });
});

describe.skipIf(!onGpu)("calls under way", () => {
  test("finish when the object or their kernel is disposed of", async () => {
    const device = await openDevice();
    const conv = await FlashFFTConv.create({ length: 100, device });
    const kernel = await conv.prepareKernel(k);
    const calls = [
      conv.forward(u, kernel, options),
      conv.forward(u, k, options),
      conv.forward(u, kernel, options),
    ];
    const gradients = conv.backward(dy, u, kernel, options);
    kernel.dispose();
    conv.dispose();
    for (const call of calls) expectClose((await call) as Float32Array, inputs.y(), rowBound);
    expect((await gradients).dk.length).toBe(300);
    expect(conv.memory().spectrumBytes).toBe(0);
    device.destroy();
  });

  test("are refused where their kernel went while a buffer was made for the result", async () => {
    const device = await openDevice();
    using conv = await FlashFFTConv.create({ length: 100, device });
    const kernel = await conv.prepareKernel(k);
    const call = conv.forward(upload(device, u, shape), kernel);
    kernel.dispose();
    await expect(call).rejects.toThrow(/a prepared kernel must be alive/);
    device.destroy();
  });

  test("take samples in memory that threads share", async () => {
    const device = await openDevice();
    using conv = await FlashFFTConv.create({ length: 100, device });
    const shared = new Float32Array(new SharedArrayBuffer(u.byteLength));
    shared.set(u);
    expectClose((await conv.forward(shared, k, options)) as Float32Array, inputs.y(), rowBound);
    device.destroy();
  });
});

describe.skipIf(!onGpu)("nothing leaks", () => {
  test("buffers made for the results of calls that fail", async () => {
    const device = await openDevice();
    using conv = await FlashFFTConv.create({ length: 100, device });
    const [x, gone] = [upload(device, u, shape), upload(device, u, shape)];
    gone.data.destroy();
    const made: GPUBuffer[] = [];
    const destroyed = new Set<GPUBuffer>();
    const create = device.createBuffer.bind(device);
    device.createBuffer = (descriptor) => {
      const buffer = create(descriptor);
      if (descriptor.usage === 0x8c) made.push(buffer);
      const destroy = buffer.destroy.bind(buffer);
      buffer.destroy = () => {
        destroyed.add(buffer);
        return destroy();
      };
      return buffer;
    };
    await expect(conv.forward(gone, k)).rejects.toThrow(/destroyed/);
    await expect(conv.backward(gone, x, k, options)).rejects.toThrow(/destroyed/);
    const kept = conv.memory().backendBytes;
    conv.dispose();
    await expect.poll(() => conv.memory().backendBytes).toBe(0);
    expect(kept).toBeGreaterThan(0);
    expect(made.filter((b) => !destroyed.has(b))).toEqual([]);
    device.destroy();
  });

  test("the caller's buffers that commands in an encoder name", async () => {
    const collect = (globalThis as { gc?: () => void }).gc!;
    const device = await openDevice();
    using conv = await FlashFFTConv.create({ length: 100, device });
    const kernel = await conv.prepareKernel(k);
    const call = async (): Promise<WeakRef<object>> => {
      const encoder = device.createCommandEncoder();
      const y = await conv.forward(upload(device, u, shape), kernel, { encoder });
      device.queue.submit([encoder.finish()]);
      await device.queue.onSubmittedWorkDone();
      return new WeakRef(y.data);
    };
    const seen = await call();
    for (let round = 0; round < 100 && seen.deref(); round++) {
      await new Promise((resolve) => setTimeout(resolve, 10));
      collect();
    }
    expect(seen.deref() === undefined).toBe(true);
    device.destroy();
  });

  test("1,000 rounds of create, run, dispose leave no buffer", async () => {
    const device = await openDevice();
    const create = () => FlashFFTConv.create({ length: 100, device });
    for (let round = 0; round < 1000; round++) {
      const conv = await create();
      const kernel = round % 3 === 0 ? await conv.prepareKernel(k) : k;
      if (round % 100 === 0) await conv.backward(dy, u, kernel, options);
      await conv.forward(u, kernel, options);
      conv.dispose();
    }
    const last = await create();
    const twiddles = last.memory().backendBytes;
    last.dispose();
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(last.memory().backendBytes).toBe(0);
    // All that one object holds before its first call is its table.
    expect(twiddles).toBeLessThan(100_000);
    device.destroy();
  }, 300_000);
});

describe.skipIf(!onGpu)("buffers that calls share", () => {
  test("what only submitted encoders name is freed, and the work done", async () => {
    const device = await openDevice();
    using conv = await FlashFFTConv.create({ length: 100, device });
    const tensor = upload(device, u, shape);
    const plain = await conv.forward(tensor, await conv.prepareKernel(k));
    const want = await download(device, plain, u);
    const bytes: number[] = [];
    for (let step = 0; step < 4; step++) {
      const kernel = await conv.prepareKernel(k);
      const encoder = device.createCommandEncoder();
      const skip = new Float32Array(3).fill(step % 2);
      await conv.forward(tensor, kernel, { encoder, skip });
      const y = await conv.forward(tensor, kernel, { encoder });
      device.queue.submit([encoder.finish()]);
      kernel.dispose();
      await conv.submitted();
      bytes.push(conv.memory().backendBytes);
      expectSameBits((await download(device, y, u)) as Float32Array, want as Float32Array);
    }
    expect(bytes[3]).toBe(bytes[1]);
    device.destroy();
  });

  test("skips of two calls in one encoder stay apart", async () => {
    const device = await openDevice();
    using conv = await FlashFFTConv.create({ length: 100, device });
    const taps = upload(device, new Float32Array(3 * 100), [3, 100]);
    const tensor = upload(device, u, shape);
    const encoder = device.createCommandEncoder();
    const scaled: GpuTensor[] = [];
    // The fourth needs a larger buffer; with taps of zeros y is skip ⊙ u.
    for (const skip of [[1, 1, 1], [2, 2, 2], [1, 1, 1], Array(6).fill(3)]) {
      const channels = skip.length;
      const wide = channels === 3 ? tensor : { ...tensor, shape: [1, 6, 100] };
      const k = channels === 3 ? taps : upload(device, new Float32Array(6 * 100), [6, 100]);
      scaled.push(await conv.forward(wide, k, { skip: Float32Array.from(skip), encoder }));
    }
    device.queue.submit([encoder.finish()]);
    for (const [i, factor] of [1, 2, 1, 3].entries()) {
      const got = await download(device, scaled[i]!, u);
      expectClose(
        got,
        Float64Array.from(u, (x) => factor * x),
        rowBound,
      );
    }
  });

  test("work memory keeps to its limit, whatever calls come one after the other", async () => {
    const length = 20_000;
    const workspaceBytes = 2 ** 22;
    using conv = await FlashFFTConv.create({ length, backend: "webgpu", workspaceBytes });
    const [many, taps] = [new Float32Array(8 * length), new Float32Array(2 * length)];
    await conv.forward(many, taps);
    expect(conv.memory().workspaceBytes).toBeLessThanOrEqual(workspaceBytes);
    await conv.backward(many, many, taps);
    expect(conv.memory().workspaceBytes).toBeLessThanOrEqual(workspaceBytes);
    await conv.forward(many, taps);
    expect(conv.memory().workspaceBytes).toBeLessThanOrEqual(workspaceBytes);
  });

  test("several objects opened at once share one device", async () => {
    const convs = await Promise.all(
      [64, 100].map((length) => FlashFFTConv.create({ length, backend: "webgpu" })),
    );
    expect(convs[0]!.device).toBe(convs[1]!.device);
    expect(convs[0]!.explain().reason).toMatch(/asked for.*processor/);
    for (const conv of convs) await conv.dispose();
  });
});
