/**
 * How points wait between the passes of a GPU: what a trip costs, and float16 in three passes, whose points go in pairs and
 * keep to bars that words of 12 bits would exceed.
 */
import { describe, expect, test } from "vitest";
import { FlashFFTConv } from "../../src/index.ts";
import {
  pointElement,
  pointFunctions,
  readPoints,
  writePoints,
} from "../../src/kernels/gpu/transform/point-formats.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { parsePasses, pointFormat } from "../../src/plan/gpu/passes.ts";
import type { ProblemOptions } from "../../src/plan/problem.ts";
import { onGpu } from "../support/backends.ts";
import { checkBackward, checkForward, drawInputs } from "../support/cases.ts";
import { distance, norm } from "../support/close.ts";
import { openDevice } from "../support/gpu.ts";
import { normal } from "../support/signals.ts";

/** Every gate and gradient: an odd factor; quarters and threads that gradients double; rows in pairs; masks; blocks. */
const cases: readonly (readonly [ProblemOptions, string])[] = [
  [{ length: 1500 }, "halves 1536: 6·2 /16 ×16·4 split | 4 /16 ×8·8 | 4·8 ×4·8 split"],
  [{ length: 2000 }, "halves 2048: 4 /16 ×8·8 | 4 /16 ×8·8 | 4·8·4 ×4·8 quarter"],
  [{ length: 1024, mode: "circular" }, "rows 1024: 4 /16 ×8·8 | 4 /16 ×8·8 | 8·8 ×4·8 split"],
  [
    {
      length: 1000,
      kernelLength: 700,
      frequencies: { digits: [8, 8, 8, 4], dropped: [4, 4, 4, 1] },
    },
    "rows 2048: 4·2 /16 ×16·4 | 4 /16 ×8·8 | 8·8 ×4·8",
  ],
  [{ length: 3000, kernelLength: 100 }, "halves 512: 4 /16 ×8·8 | 4 /16 ×8·8 | 4·8 ×4·8, hop 600"],
];

describe.skipIf(!onGpu)("three passes", () => {
  test.each(cases)("%o, %s", async (options, plan) => {
    const problem = createProblem({ ...options, dtype: "float16" }, "test");
    const shape = { batch: 3, channels: 2, pregate: true, postgate: true, skip: true };
    const drawn = drawInputs(problem, shape, 12);
    expect(pointFormat(parsePasses(plan)!, "float16")).toBe("pair");
    const hints = { batch: 3, channels: 2, backend: "webgpu", dtype: "float16" } as const;
    using conv = await FlashFFTConv.create({ ...options, ...hints, plan });
    await checkForward(conv, drawn, "rows");
    const { dk } = await checkBackward(conv, drawn, "rows");
    // Stored in float32, it shows what four trips cost and nothing else.
    const exact = drawn.gradients().dk;
    const error = distance(Float64Array.from(dk), exact) / norm(exact);
    expect(error).toBeGreaterThan(5e-5);
    expect(error).toBeLessThan(2e-4);
  });
});

/** Bits of each part of a point, points that share an exponent, and the error of a trip. */
const formats = [
  ["word", 12, 1, 2.65e-4],
  ["pair", 14, 2, 8.2e-5],
] as const;

/** Parts of points, there and back. */
async function trip(
  format: "word" | "pair",
  parts: Float32Array<ArrayBuffer>,
): Promise<Float32Array> {
  const size = format === "word" ? 2 : 4;
  const device = await openDevice();
  const buffer = (usage: number) => device.createBuffer({ size: parts.byteLength, usage });
  const [from, to, staging] = [buffer(0x88), buffer(0x84), buffer(0x9)];
  const points = [
    { re: "z.x", im: "z.y" },
    { re: "z.z", im: "z.w" },
  ].slice(0, size / 2);
  const code = `@group(0) @binding(0) var<storage, read> z_in: array<vec${size}f>;
@group(0) @binding(1) var<storage, read_write> z_out: array<vec${size}f>;
${pointFunctions(format).join("\n")}
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  let z = z_in[id.x];
  let stored: ${pointElement[format]} = ${writePoints(format, points)};
  z_out[id.x] = ${readPoints(format, "stored")};
}`;
  const module = device.createShaderModule({ code });
  const pipeline = device.createComputePipeline({ layout: "auto", compute: { module } });
  const entries = [from, to].map((b, binding) => ({ binding, resource: { buffer: b } }));
  device.queue.writeBuffer(from, 0, parts);
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
  pass.dispatchWorkgroups(parts.length / size / 64);
  pass.end();
  encoder.copyBufferToBuffer(to, 0, staging, 0, parts.byteLength);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(1);
  const values = new Float32Array(staging.getMappedRange().slice(0));
  device.destroy();
  return values;
}

describe.skipIf(!onGpu)("a trip", () => {
  test.each(formats)("through a %s: half a step of %i bits, of any magnitude", async (...of) => {
    const [format, bits, points, expected] = of;
    const size = 2 * points;
    // Groups that share an exponent have powers of two from 2^-100 to 2^126 in turn; every fourth holds a part near the top.
    const parts = Float32Array.from(normal(2 ** 16, 3), (x, i) => {
      const group = Math.floor(i / size);
      const top = group % 4 === 0 && i % size === 0;
      return (top ? 1.9999999 : x / 4) * 2 ** ((group % 227) - 100);
    });
    const values = await trip(format, parts);
    for (let i = 0; i < parts.length; i += size) {
      const largest = Math.max(...parts.subarray(i, i + size).map(Math.abs));
      const step = 2 ** (Math.floor(Math.log2(largest)) + 2 - bits);
      for (let j = i; j < i + size; j++) {
        // The number beyond the last step is the last one.
        const most = parts[j]! > (2 ** (bits - 1) - 1) * step ? step : step / 2;
        expect(Math.abs(values[j]! - parts[j]!)).toBeLessThanOrEqual(most);
      }
    }
    const unit = Float32Array.from(normal(2 ** 16, 4));
    const exact = Float64Array.from(unit);
    const error = distance(Float64Array.from(await trip(format, unit)), exact) / norm(exact);
    expect(error).toBeGreaterThan(0.95 * expected);
    expect(error).toBeLessThan(1.05 * expected);
  });

  test.each(formats)("through a %s: what is not finite stays so", async (format, _, points) => {
    const size = 2 * points;
    const spoilers = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
    const parts = Float32Array.from(normal(64 * size * 12, 5), (x, i) => {
      const group = Math.floor(i / size);
      return i % size === Math.floor(group / 3) % size ? spoilers[group % 3]! : x;
    });
    const values = await trip(format, parts);
    parts.forEach((x, i) => {
      if (!Number.isFinite(x)) expect(Number.isFinite(values[i]!)).toBe(false);
    });
  });
});
