/** A GPU that runs out of memory, at every buffer that a call asks for: a typed error, nothing leaks, and the object goes on. */
import { describe, expect, test } from "vitest";
import { storageBuffer } from "../../src/backend/webgpu/buffers.ts";
import type { Dtype } from "../../src/dtype.ts";
import { BackendError, FlashFFTConv } from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { onGpu } from "../support/backends.ts";
import { checkBackward, checkForward, drawInputs } from "../support/cases.ts";
import { expectSameBits } from "../support/close.ts";
import { openDevice } from "../support/gpu.ts";

const options = { length: 200, dtype: "float16" } as const;
const problem = createProblem(options, "test");
const inputs = drawInputs(problem, { batch: 2, channels: 3, pregate: true, postgate: true }, 9);
const { u, k, dy } = inputs;

/** Refuses the n-th storage buffer that the device is asked for, and all after it; returns what undoes that. */
function refuse(device: GPUDevice, n: number): { readonly asked: () => number; undo(): void } {
  const [create, pop] = [device.createBuffer, device.popErrorScope].map((f) => f.bind(device)) as [
    GPUDevice["createBuffer"],
    GPUDevice["popErrorScope"],
  ];
  let asked = 0;
  let refused = false;
  device.createBuffer = (descriptor) => {
    // Storage, with copies both ways.
    if (descriptor.usage === 0x8c && !descriptor.mappedAtCreation) refused = asked++ >= n;
    return create(descriptor);
  };
  device.popErrorScope = async () => {
    const error = await pop();
    const wanted = refused && !error;
    refused = false;
    return wanted ? ({ message: "no room" } as GPUError) : error;
  };
  return {
    asked: () => asked,
    undo: () => {
      device.createBuffer = create;
      device.popErrorScope = pop;
    },
  };
}

/** Refuses one storage buffer of a device, the next that it is asked for; returns whether that came. */
function refuseOnce(device: GPUDevice): () => boolean {
  const refusal = refuse(device, 0);
  const pop = device.popErrorScope;
  device.popErrorScope = async () => {
    const error = await pop();
    if (error) refusal.undo();
    return error;
  };
  return () => refusal.asked() > 0;
}

/** One attempt at a call, with a buffer refused that it asks for: what it must throw. */
type Attempt = (call: () => Promise<unknown>) => Promise<void>;

/** Does `work` with each buffer that its attempt asks for refused in turn, and once with none; returns how many there are. No object that it made may leave a buffer. */
async function refuseEach(device: GPUDevice, work: (attempt: Attempt) => Promise<void>) {
  using witness = await FlashFFTConv.create({ length: 64, device });
  const held = () => witness.memory().backendBytes;
  const before = held();
  for (let n = 0; ; n++) {
    let reached = false;
    await work(async (call) => {
      const refusal = refuse(device, n);
      const error = await call().then(
        () => undefined,
        (e: unknown) => e,
      );
      refusal.undo();
      reached = refusal.asked() > n;
      if (!reached) return expect(error).toBeUndefined();
      expect(error).toBeInstanceOf(BackendError);
      expect(String(error)).toMatch(/GPU memory for the call.*no room.*fewer rows or channels/s);
    });
    await expect.poll(held).toBe(before);
    if (!reached) return n;
  }
}

/** Calls of an object, and more buffers than these are needed for each. */
const calls: readonly (readonly [
  string,
  (conv: FlashFFTConv<Dtype>) => Promise<unknown>,
  number,
])[] = [
  ["a kept kernel", (conv) => conv.prepareKernel(k), 0],
  ["forward", (conv) => conv.forward(u, k, inputs.options), 2],
  ["backward", (conv) => conv.backward(dy, u, k, inputs.options), 4],
];

describe.skipIf(!onGpu)("no room on the GPU", () => {
  test("for the tables of an object: create gives back what it has", async () => {
    const device = await openDevice();
    const plan = "halves 256: 4·8·8 ×32·2 split; gradients halves 256: 8·8·4 ×32·2 split";
    const refused = await refuseEach(device, (attempt) =>
      attempt(async () => (await FlashFFTConv.create({ ...options, plan, device })).dispose()),
    );
    // A table for each plan.
    expect(refused).toBe(2);
    device.destroy();
  });

  test.each(calls)("for %s: the object goes on", async (_, call, least) => {
    const device = await openDevice();
    const refused = await refuseEach(device, async (attempt) => {
      using conv = await FlashFFTConv.create({ ...options, device });
      await attempt(() => call(conv));
      await checkForward(conv, inputs);
      await checkBackward(conv, inputs);
    });
    expect(refused).toBeGreaterThan(least);
    device.destroy();
  });

  test("for more than one buffer of the device holds: a remedy that helps", async () => {
    const device = await openDevice();
    const { maxBufferSize } = device.limits;
    await expect(storageBuffer(device, maxBufferSize + 1, "conv.forward")).rejects.toThrow(
      /conv\.forward.*each fit one buffer.*maxBufferSize.*greater requiredLimits\.maxBufferSize/s,
    );
    device.destroy();
  });

  test("but in what other objects keep for their next calls: they give it back, and go on", async () => {
    const device = await openDevice();
    using idle = await FlashFFTConv.create({ ...options, device });
    using busy = await FlashFFTConv.create({ ...options, device });
    await checkForward(idle, inputs);
    const gradients = await checkBackward(idle, inputs);
    await checkForward(busy, inputs);
    const kernel = await idle.prepareKernel(k);
    expect(idle.memory().workspaceBytes).toBeGreaterThan(0);
    const refused = refuseOnce(device);
    const again = await busy.backward(dy, u, k, inputs.options);
    expect(refused()).toBe(true);
    expectSameBits(again, gradients);
    expect(idle.memory().workspaceBytes).toBe(0);
    expectSameBits(
      await idle.forward(u, kernel, inputs.options),
      await busy.forward(u, k, inputs.options),
    );
    await checkBackward(idle, inputs);
    device.destroy();
  });
});
