/** A GPU that runs out of memory, at every buffer that a call asks for: a typed error, nothing leaks, and the object goes on. */
import { describe, expect, test } from "vitest";
import { BackendError, FlashFFTConv } from "../../src/index.ts";
import { createProblem } from "../../src/plan/problem.ts";
import { onGpu } from "../support/backends.ts";
import { checkBackward, checkForward, drawInputs } from "../support/cases.ts";
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

/** What `work` throws with each buffer refused in turn, until none is; `held` must be the same after each. */
async function refuseEach(device: GPUDevice, held: () => number, work: () => Promise<unknown>) {
  const before = held();
  for (let n = 0; ; n++) {
    const refusal = refuse(device, n);
    const error = await work().then(
      () => undefined,
      (e: unknown) => e,
    );
    const reached = refusal.asked() > n;
    refusal.undo();
    if (!reached) {
      expect(error).toBeUndefined();
      return n;
    }
    expect(error).toBeInstanceOf(BackendError);
    expect(String(error)).toMatch(/GPU memory for the call.*no room.*fewer rows or channels/s);
    await expect.poll(held).toBe(before);
  }
}

describe.skipIf(!onGpu)("no room on the GPU", () => {
  test("for the tables of an object: create gives back what it has", async () => {
    const device = await openDevice();
    using witness = await FlashFFTConv.create({ length: 64, device });
    const plan = "halves 256: 4·8·8 ×32·2 split; gradients halves 256: 8·8·4 ×32·2 split";
    const refused = await refuseEach(
      device,
      () => witness.memory().backendBytes,
      async () => (await FlashFFTConv.create({ ...options, plan, device })).dispose(),
    );
    // A table for each plan.
    expect(refused).toBe(2);
    device.destroy();
  });

  test("for a kept kernel, forward and backward: the object goes on", async () => {
    const device = await openDevice();
    const held = async (work: (conv: FlashFFTConv) => Promise<unknown>) => {
      for (let n = 0; ; n++) {
        using conv = await FlashFFTConv.create({ ...options, device });
        const refusal = refuse(device, n);
        const error = await work(conv).then(
          () => undefined,
          (e: unknown) => e,
        );
        const reached = refusal.asked() > n;
        refusal.undo();
        if (reached) expect(error).toBeInstanceOf(BackendError);
        else expect(error).toBeUndefined();
        await checkForward(conv, inputs);
        if (n === 0) await checkBackward(conv, inputs);
        if (!reached) return n;
      }
    };
    expect(await held((conv) => conv.prepareKernel(k))).toBeGreaterThan(0);
    expect(await held((conv) => conv.forward(u, k, inputs.options))).toBeGreaterThan(2);
    expect(await held((conv) => conv.backward(dy, u, k, inputs.options))).toBeGreaterThan(4);
    using witness = await FlashFFTConv.create({ length: 64, device });
    const alone = witness.memory().backendBytes;
    witness.dispose();
    await expect.poll(() => witness.memory().backendBytes).toBe(0);
    expect(alone).toBeGreaterThan(0);
    device.destroy();
  });
});
