/**
 * A convolution on the GPU, without copies in between: u is filtered twice by commands that are submitted together, and
 * only the result comes back. In Node it needs the package `webgpu` (npm install webgpu).
 *
 *     node examples/webgpu.js
 */
import { FlashFFTConv, UnsupportedError } from "flashfftconv";
// The float64 reference is inside the package, not part of its public names.
import { oracleForward, relativeError } from "../dist/reference/convolution.js";
import { noiseSource } from "./demo/random.js";

const [batch, channels, length] = [2, 4, 4096];
const shape = [batch, channels, length];

// The library opens the adapter; a program with a GPUDevice of its own passes it as `device`.
const options = /** @type {const} */ ({ length, batch, channels, backend: "webgpu" });
const conv = await FlashFFTConv.create(options).catch((error) => {
  if (!(error instanceof UnsupportedError)) throw error;
  // Without an adapter, or without the package webgpu, the error says what is missing.
  console.error(error.message);
  process.exit(1);
});
// What a browser has by itself: GPUBufferUsage and other names.
Object.assign(globalThis, (await import("webgpu")).globals);
const device = conv.device;
if (!device) throw new Error("an object on WebGPU has a device");
console.log(String(conv.explain()).split("\n").slice(0, 2).join("\n"));

const noise = noiseSource(1);
const u = Float32Array.from({ length: batch * channels * length }, noise);
const decay = (/** @type {number} */ n) => Math.exp(-n / 200) / 10;
const k = Float32Array.from({ length: channels * length }, (_, i) => noise() * decay(i % length));

const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST;
const x = { data: device.createBuffer({ size: u.byteLength, usage }), shape };
device.queue.writeBuffer(x.data, 0, u);
const kernel = await conv.prepareKernel(k);

const encoder = device.createCommandEncoder();
const once = await conv.forward(x, kernel, { encoder });
const twice = await conv.forward(once, kernel, { encoder });
const result = device.createBuffer({
  size: u.byteLength,
  usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
});
encoder.copyBufferToBuffer(twice.data, 0, result, 0, u.byteLength);
device.queue.submit([encoder.finish()]);
await result.mapAsync(GPUMapMode.READ);
const y = new Float32Array(result.getMappedRange().slice(0));
result.unmap();
for (const buffer of [x.data, once.data, twice.data, result]) buffer.destroy();
conv.dispose();

const taps = Float64Array.from(k);
const first = oracleForward(conv.problem, { batch, channels, u: Float64Array.from(u), k: taps });
const exact = oracleForward(conv.problem, { batch, channels, u: first, k: taps });
console.log(`relative error of the result: ${relativeError(y, exact).toExponential(1)}`);
