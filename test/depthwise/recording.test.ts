/** Calls of short convolutions that are recorded in the middle of other work. */
import { describe, expect, test } from "vitest";
import type { SampleArray } from "../../src/dtype.ts";
import {
  FlashDepthwiseConv1d,
  FlashFFTConv,
  FlashHyenaProjections,
  type GpuRecorder,
  InvalidArgumentError,
  UnsupportedError,
} from "../../src/index.ts";
import { onGpu } from "../support/backends.ts";
import { checkForward, drawInputs } from "../support/cases.ts";
import { expectClose } from "../support/close.ts";
import {
  checkGradients,
  checkOutputs,
  type DepthwiseCase,
  drawCase,
} from "../support/depthwise.ts";
import { openDevice } from "../support/gpu.ts";
import { lendScratch, onBuffers } from "../support/recording.ts";

const base: DepthwiseCase = {
  ...{ form: "silu", layout: "BHL", dtype: "float32", storedTaps: false, batch: 2 },
  ...{ channels: 4, length: 40, kernelLength: 4, padding: "causal", bias: true, state: true },
  ...{ pregate: "second", dstateOut: true },
};

/** An object of either class. */
async function openFor(c: DepthwiseCase, device: GPUDevice) {
  const { channels, kernelLength, padding, layout, dtype, pregate, form } = c;
  const options = { channels, kernelLength, padding, layout, dtype, device };
  if (form === "projections") return FlashHyenaProjections.create({ ...options, pregate });
  const activation = form === "silu" ? "silu" : "none";
  return FlashDepthwiseConv1d.create({ ...options, activation });
}

const zeros = (values: SampleArray): SampleArray =>
  new (values.constructor as Float32ArrayConstructor)(values.length);

describe.skipIf(!onGpu)("a recorded call gives what is right, at offsets", () => {
  test.each([
    ["silu", base],
    ["channels innermost, halves", { ...base, form: "linear", layout: "BLH", dtype: "float16" }],
    ["projections", { ...base, form: "projections", kernelLength: 3 }],
    ["projections in BLH", { ...base, form: "projections", layout: "BLH", dtype: "bfloat16" }],
  ] as readonly (readonly [string, DepthwiseCase])[])("%s", async (_, c) => {
    const device = await openDevice();
    using conv = await openFor(c, device);
    const inputs = drawCase(c, 1);
    const { x, weight, dy, options, behind } = inputs;
    const shape = { batch: c.batch, length: c.length, bias: c.bias, state: c.state };
    const forward = await conv.recorder("forward", { ...shape, stateOut: "apart" });
    const backward = await conv.recorder("backward", { ...shape, dstateOut: true, add: true });
    const scratch = lendScratch(device, forward, backward);
    const packed = c.form === "projections";
    const upstream = packed ? { dgated: dy[0], dpostgate: dy[1] } : { dy: dy[0] };
    const given = { x, weight, ...options };
    const there = onBuffers(device, forward, scratch(forward), given);
    const one = (values: SampleArray) => new Float32Array(values.length).fill(1);
    const ones = { dweight: one(weight), dbias: one(options.bias!) };
    const operands = { ...there.ranges, ...upstream, ...behind, ...ones };
    const back = onBuffers(device, backward, scratch(backward), operands);
    const encoder = device.createCommandEncoder();
    for (const { bound } of [there, back]) bound.encode(encoder);
    await forward.submit(encoder);
    const names = packed ? ["gated", "postgate"] : ["y"];
    checkOutputs(
      inputs,
      await Promise.all(names.map((name, o) => there.read(name, zeros(dy[o]!)))),
    );
    // Sums join what was there.
    const less = (values: SampleArray) => (values as Float32Array).map((v) => v - 1);
    checkGradients(inputs, {
      ...{ dx: await back.read("dx", x), dstate: await back.read("dstate", options.state!) },
      dweight: less(await back.read("dweight", weight)) as Float32Array,
      dbias: less(await back.read("dbias", options.bias!)) as Float32Array,
    } as never);
    device.destroy();
  });

  test("block by block, with a state that stays where it is", async () => {
    const device = await openDevice();
    const c = { ...base, length: 30 };
    using conv = await openFor(c, device);
    const whole = drawCase(c, 2);
    const { x, weight, options } = whole;
    const block = 10;
    const rows = c.batch * c.channels;
    const shape = { batch: c.batch, length: block, bias: true };
    const forward = await conv.recorder("forward", { ...shape, stateOut: "same" });
    expect(forward.operands.state!.access).toBe("read-write");
    const scratch = lendScratch(device, forward)(forward);
    const state = onBuffers(device, forward, scratch, options).ranges.state!;
    const blocks = [0, 1, 2].map((b) => {
      const part = new Float32Array(rows * block);
      for (let r = 0; r < rows; r++) {
        const at = r * c.length + b * block;
        part.set((x as Float32Array).subarray(at, at + block), r * block);
      }
      return onBuffers(device, forward, scratch, { x: part, weight, bias: options.bias, state });
    });
    const encoder = device.createCommandEncoder();
    for (const { bound } of blocks) bound.encode(encoder);
    await forward.submit(encoder);
    const y = new Float32Array(rows * c.length);
    for (const [b, { read }] of blocks.entries()) {
      const part = await read("y", new Float32Array(rows * block));
      for (let r = 0; r < rows; r++)
        y.set(part.subarray(r * block, (r + 1) * block), r * c.length + b * block);
    }
    checkOutputs(whole, [y]);
    device.destroy();
  });

  test("in turns with a long convolution, whose input it writes", async () => {
    const device = await openDevice();
    const c = { ...base, form: "projections", state: false } as const;
    using short = await openFor(c, device);
    using long = await FlashFFTConv.create({ length: c.length, device });
    const { x, weight, options, expectedOutputs } = drawCase(c, 3);
    const drawn = drawInputs(long.problem, { batch: c.batch, channels: c.channels }, 4);
    const projected = await short.recorder("forward", {
      batch: c.batch,
      length: c.length,
      bias: true,
    });
    const rows = { batch: c.batch, channels: c.channels, postgate: true };
    const convolved = await long.recorder("forward", rows);
    const scratch = lendScratch(device, projected, convolved);
    const first = onBuffers(device, projected, scratch(projected), { x, weight, ...options });
    const { gated, postgate } = first.ranges;
    const operands = { u: gated, postgate, k: drawn.k };
    const second = onBuffers(device, convolved, scratch(convolved), operands);
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    first.bound.encode(pass);
    second.bound.encode(pass);
    pass.end();
    await projected.submit(encoder);
    const y = await second.read("y", drawn.u as Float32Array);
    const [u, gate] = expectedOutputs().exact;
    using reference = await FlashFFTConv.create({ length: c.length, backend: "cpu", threads: 1 });
    const wide = [u!, gate!].map((values) => Float32Array.from(values));
    const exact = await reference.forward(wide[0]!, drawn.k, { postgate: wide[1]! });
    expectClose(y, Float64Array.from(exact), { rowLength: y.length, bound: 2e-6 });
    await checkForward(long, drawn);
    device.destroy();
  });
});

describe.skipIf(!onGpu)("refusals", () => {
  test("name what is wrong with options and ranges", async () => {
    const device = await openDevice();
    using conv = await openFor({ ...base, padding: "same" }, device);
    const shape = { batch: 2, length: 40 };
    const cases: [() => Promise<GpuRecorder>, RegExp][] = [
      [() => conv.recorder("sideways" as "forward", shape), /the recorded call must be/],
      [() => conv.recorder("forward", { ...shape, state: true }), /carried state needs padding/],
      [() => conv.recorder("forward", { ...shape, stateOut: "same" }), /carried state needs/],
      [() => conv.recorder("backward", { ...shape, stateOut: "same" }), /options may have batch/],
      [() => conv.recorder("forward", { ...shape, add: true }), /options may have batch, length/],
      [() => conv.recorder("forward", { ...shape, batch: 0 }), /batch must be an integer/],
      [() => conv.recorder("forward", { batch: 1 } as typeof shape), /length must be an integer/],
    ];
    for (const [make, message] of cases) {
      await expect(make()).rejects.toThrow(InvalidArgumentError);
      await expect(make()).rejects.toThrow(message);
    }
    const forward = await conv.recorder("forward", shape);
    const make = (size: number) => ({ buffer: device.createBuffer({ size, usage: 0x8c }) });
    const ranges = { x: make(2048), weight: make(2048), y: make(2048) };
    const short = { ...ranges, weight: make(32) };
    expect(() => forward.bind(short)).toThrow(/range of weight must have 64 bytes/);
    const shared = { ...ranges, y: ranges.x };
    expect(() => forward.bind(shared)).toThrow(/y must not overlap x/);
    const bound = forward.bind(ranges);
    conv.dispose();
    const encoder = device.createCommandEncoder();
    expect(() => bound.encode(encoder)).toThrow(/that has not been disposed/);
    device.destroy();
  });
});

test("calls on the CPU are not recorded", async () => {
  const options = { channels: 4, kernelLength: 3, backend: "cpu", threads: 1 } as const;
  using conv = await FlashDepthwiseConv1d.create(options);
  const made = conv.recorder("forward", { batch: 1, length: 8 });
  await expect(made).rejects.toThrow(UnsupportedError);
  await expect(made).rejects.toThrow(/depthwise\.recorder.*recorded on a GPU/s);
});
