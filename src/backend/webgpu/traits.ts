/** What a device does beyond the letter of WebGPU, found out once by a small kernel: faster kernels may rely on it. */
import { toFloat16 } from "../../dtype.ts";
import type { Machine } from "../../kernels/gpu/kernel.ts";

/** Values around every rule of rounding to float16: ties, subnormals, overflow, signs, infinities. */
const samples: Float32Array<ArrayBuffer> = new Float32Array([
  ...[0, -0, 1, -1, 1 + 2 ** -11, 1 + 3 * 2 ** -11, 1 + 2 ** -11 + 2 ** -20, 1 + 2 ** -10],
  ...[-1 - 2 ** -11, -1 - 3 * 2 ** -11, 2 ** -14, 2 ** -14 - 2 ** -26, 2 ** -15, 2 ** -24],
  ...[2 ** -25, 3 * 2 ** -25, 5 * 2 ** -25, 2 ** -26, -(2 ** -25), -3 * 2 ** -25, 1e-30, -1e-30],
  ...[65_504, 65_519, 65_520, -65_519, -65_520, 1e6, -1e9, 3e38, Number.POSITIVE_INFINITY],
  ...[Number.NEGATIVE_INFINITY, Number.NaN, 1 / 3, -2 / 3, 1000.123, 0.1, -0.7, 12_345.6, 2047.5],
  ...[2048.5, 2049.5, 4097, 4099, 6e4, -6e4, 1e-3, -1e-5, 6e-5, 6.1e-5, 3.05e-5, 5.96e-8],
  ...[8.9e-8, 8.95e-8, 2.98e-8, 2.99e-8, 0.333_374, 0.333_252, 7.77, -8.88, 9.99, -1.11],
  ...Array.from({ length: 58 }, (_, i) => Math.sin(i + 1) * 10 ** ((i % 12) - 7)),
]).slice(0, 128);

const threads = 64;
/** Distances that lanes are asked to shuffle over. */
const distances = [1, 2, 4, 8, 16, 32] as const;

const text = (subgroups: boolean): string => `${subgroups ? "enable subgroups;\n" : ""}
@group(0) @binding(0) var<storage, read> x: array<vec2f>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(${threads})
fn main(@builtin(local_invocation_index) lane: u32) {
  y[lane] = pack2x16float(x[lane]);
${distances.map((d, i) => (subgroups ? `  y[lane + ${(i + 1) * threads}u] = subgroupShuffleXor(lane, ${d}u);` : "")).join("\n")}
}
`;

/** How many threads in a row are lanes of one subgroup in their order, by what each thread got over each distance. */
function lanesOf(got: Uint32Array, smallest: number): number {
  let lanes = 1;
  distances.forEach((d, i) => {
    const words = got.subarray(i * threads, (i + 1) * threads);
    // Over a distance beyond the smallest subgroup threads may get anything, the right number too.
    const right = 2 * d <= smallest && words.every((other, lane) => other === (lane ^ d));
    if (right && lanes === d) lanes = 2 * d;
  });
  return lanes;
}

/** Runs the kernel; a device that fails at it has none of the traits. */
export async function findTraits(
  device: GPUDevice,
): Promise<Pick<Machine, "packs" | "shuffles" | "lanes">> {
  const none = { packs: false, shuffles: false, lanes: 1 };
  const subgroups = device.features.has("subgroups" as GPUFeatureName);
  // Any device with subgroups has at least four lanes to each.
  const { subgroupMinSize = 4 } = (device.adapterInfo ?? {}) as { subgroupMinSize?: number };
  const bytes = 4 * threads * (1 + distances.length);
  const buffers = [0x80 | 0x8, 0x80 | 0x4, 0x1 | 0x8].map((usage) =>
    device.createBuffer({ size: bytes, usage }),
  );
  const [input, output, result] = buffers as [GPUBuffer, GPUBuffer, GPUBuffer];
  try {
    device.queue.writeBuffer(input, 0, samples);
    const pipeline = await device.createComputePipelineAsync({
      layout: "auto",
      compute: { module: device.createShaderModule({ code: text(subgroups) }), entryPoint: "main" },
    });
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    const entries = [input, output].map((buffer, binding) => ({ binding, resource: { buffer } }));
    pass.setBindGroup(
      0,
      device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }),
    );
    pass.dispatchWorkgroups(1);
    pass.end();
    encoder.copyBufferToBuffer(output, 0, result, 0, bytes);
    device.queue.submit([encoder.finish()]);
    await result.mapAsync(0x1);
    const words = new Uint32Array(result.getMappedRange());
    const halves = new Uint16Array(words.buffer, words.byteOffset, 2 * threads);
    const isNaN16 = (h: number): boolean => (h & 0x7fff) > 0x7c00;
    const packs = samples.every((x, i) =>
      Number.isNaN(x) ? isNaN16(halves[i]!) : halves[i] === toFloat16(x),
    );
    const lanes = subgroups ? lanesOf(words.subarray(threads), subgroupMinSize) : 1;
    result.unmap();
    return { packs, shuffles: lanes > 1, lanes };
  } catch {
    return none;
  } finally {
    for (const b of buffers) b.destroy();
  }
}

/** A product of matrices, as Dawn says that an adapter has it. */
interface MatrixConfig {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly componentType: string;
  readonly resultComponentType: string;
}

/**
 * The matrices that subgroups multiply. A device does not say, only its adapter does; and NVIDIA's does to those alone that ask for
 * half precision as the library does.
 */
export function matrixConfigs(info: GPUAdapterInfo | undefined): MatrixConfig[] {
  const dawn = info as { readonly subgroupMatrixConfigs?: Iterable<MatrixConfig> } | undefined;
  return [...(dawn?.subgroupMatrixConfigs ?? [])];
}

/** What kernels may do in half precision; subgroups multiply where all have the threads that were found in a row. */
export function matrixTraits(
  { features }: GPUDevice,
  info: GPUAdapterInfo | undefined,
  lanes: number | undefined,
): Pick<Machine, "halves" | "matrices"> {
  const halves = features.has("shader-f16");
  const multiplies = features.has("chromium-experimental-subgroup-matrix" as GPUFeatureName);
  const sized = info?.subgroupMinSize === lanes && info?.subgroupMaxSize === lanes;
  if (!halves || !multiplies || !sized) return { halves };
  const found = matrixConfigs(info).filter(
    (c) => c.componentType === "f16" && c.resultComponentType === "f32",
  );
  return { halves, matrices: found.map(({ M: m, N: n, K: k }) => ({ m, n, k })) };
}
