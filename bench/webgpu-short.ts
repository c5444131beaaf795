/**
 * Short depthwise convolutions on a GPU, with everything in GPU buffers, against the time that their tensors need to be
 * copied once and against PyTorch's Conv1d(groups = D), for the layout that it has.
 */
import { type Dtype, decode } from "../src/dtype.ts";
import { FlashDepthwiseConv1d, type GpuTensor, type Layout } from "../src/index.ts";
import { depthwiseOracleForward } from "../src/math/depthwise-oracle.ts";
import { relativeError } from "../src/math/oracle.ts";
import { round } from "./records.ts";
import { deviceTimes, fill, type GpuRecord, type GpuRun, median, storedPool } from "./webgpu.ts";

/** One measurement: B = 16, bias, no activation. */
export interface GpuShortCase {
  readonly layout: Layout;
  readonly dtype: Dtype;
  readonly pass: "forward" | "backward";
  readonly channels: number;
  readonly length: number;
  readonly kernelLength: number;
}

const batch = 16;

/** K = 3 and 5, D and L at both ends and between, both layouts, both types; backward at K = 3 in half precision too. */
export function gpuShortCases(): GpuShortCase[] {
  const shapes = [
    { channels: 768, length: 8192 },
    { channels: 2048, length: 4096 },
    { channels: 8192, length: 1024 },
  ];
  return shapes.flatMap((shape) =>
    (["BHL", "BLH"] as const).flatMap((layout) =>
      (["float16", "float32"] as const).flatMap((dtype) =>
        [
          { kernelLength: 3, pass: "forward" } as const,
          { kernelLength: 5, pass: "forward" } as const,
          { kernelLength: 3, pass: "backward" } as const,
        ].map((rest) => ({ ...shape, layout, dtype, ...rest })),
      ),
    ),
  );
}

export function shortName(c: GpuShortCase): string {
  const { layout, dtype, pass, channels, length, kernelLength } = c;
  return `short ${layout} ${pass} D=${channels} L=${length} K=${kernelLength} ${dtype}`;
}

/** Wrong answers have no speed: twice what rounding once errs. */
const largestError = { float32: 1e-6, float16: 2 ** -11, bfloat16: 2 ** -8 } as const;

/** The first channel's outputs of the first batch item. */
async function firstRow(device: GPUDevice, y: GpuTensor, c: GpuShortCase): Promise<Float64Array> {
  const { layout, length, channels, dtype } = c;
  const each = storedPool(dtype).BYTES_PER_ELEMENT;
  const stride = layout === "BHL" ? 1 : channels;
  const size = Math.ceil(((length - 1) * stride + 1) * (each / 4)) * 4;
  const staging = device.createBuffer({ size, usage: 0x9 });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(y.data as GPUBuffer, 0, staging, 0, size);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(1);
  const copy = staging.getMappedRange().slice(0);
  staging.destroy();
  const stored = dtype === "float32" ? new Float32Array(copy) : new Uint16Array(copy);
  const row = stored.filter((_, i) => i % stride === 0).subarray(0, length);
  return decode(row, dtype);
}

/** That row in float64, of tensors that are filled from the pool. */
function exactRow(conv: FlashDepthwiseConv1d, c: GpuShortCase): Float64Array {
  const { layout, length, channels, dtype, kernelLength } = c;
  const pool = decode(storedPool(dtype), dtype);
  const taps = storedPool("float32");
  const stride = layout === "BHL" ? 1 : channels;
  const x = Float64Array.from({ length }, (_, n) => pool[(n * stride) % pool.length]!);
  const problem = { ...conv.problem, channels: 1, layout: "BHL" as const };
  const weight = Float64Array.from(taps.subarray(0, kernelLength));
  const inputs = { batch: 1, length, x, weight, bias: Float64Array.of(taps[0]!) };
  return depthwiseOracleForward(problem, inputs)[0]!;
}

/** Measure one case: ours, and PyTorch where it is there. */
export async function runGpuShort(c: GpuShortCase, run: GpuRun): Promise<GpuRecord[]> {
  const { device, rounds, torch } = run;
  const { layout, dtype, pass, length, kernelLength } = c;
  const each = dtype === "float32" ? 4 : 2;
  const B = Math.max(1, Math.min(batch, Math.floor(run.mostBytes / (c.channels * length * each))));
  const most = Math.floor(run.mostBytes / (length * each));
  const channels = B > 1 ? c.channels : Math.max(1, Math.min(c.channels, most));
  const shape = layout === "BHL" ? [B, channels, length] : [B, length, channels];
  const problem = { layout, dtype, channels, kernelLength };
  const conv = await FlashDepthwiseConv1d.create({ ...problem, device, batch: B });
  const tensors = {
    x: fill(device, shape, dtype),
    y: fill(device, shape, dtype),
    weight: fill(device, [channels, kernelLength], "float32"),
    bias: fill(device, [channels], "float32"),
    ...(pass === "backward" && { dy: fill(device, shape, dtype) }),
  };
  const { x, y, weight, bias } = tensors;
  const results: GpuTensor[] = [];
  try {
    await conv.forward(x, weight, { bias, out: y });
    const actual = { ...c, channels };
    const rel = relativeError(
      Float32Array.from(await firstRow(device, y, actual)),
      exactRow(conv, actual),
    );
    if (!(rel < largestError[dtype])) throw new Error(`the answer is wrong, relative error ${rel}`);
    const record = async (encoder: GPUCommandEncoder): Promise<void> => {
      if (pass === "forward") await conv.forward(x, weight, { bias, out: y, encoder });
      else {
        const all = await conv.backward(tensors.dy!, x, weight, { bias, out: y, encoder });
        results.push(all.dweight, all.dbias!);
      }
    };
    const times = await deviceTimes(device, record, rounds);
    const ms = median(times);
    const floor =
      (((pass === "forward" ? 2 : 3) * B * channels * length * each) / run.bandwidth) * 1e3;
    const ours = {
      ...{ case: shortName(c), mode: layout, pass, gated: false },
      ...{ B, H: channels, L: length, K: kernelLength, N: length, dtype },
      ...{ ours_ms: round(ms), ours_min_ms: round(times[0]!), scaled_ms: round(ms) },
      ...{ floor_ms: round(floor), over_floor: round(ms / floor) },
      copy_gb_per_s: round(run.bandwidth / 1e9),
      ...{ rel_error: round(rel), plan: "short", predicted_ms: round(floor), workspace_bytes: 0 },
      ...{ rounds, adapter: run.adapter, node: process.version },
    };
    const answer =
      typeof torch === "string" || layout !== "BHL"
        ? {}
        : await torch.measure({
            ...{ peer: "conv1d", B, H: channels, L: length, N: kernelLength },
            ...{ dtype, gated: false, pass, rounds },
          });
    const peerMs = answer.ms ? median(answer.ms) : null;
    return [
      {
        ...ours,
        peer: peerMs === null ? null : "conv1d",
        peer_ms: peerMs && round(peerMs),
        peer_rel_error: answer.error === undefined ? null : round(answer.error),
        peer_workspace_bytes: answer.bytes ?? null,
        ratio: peerMs && round(peerMs / ms),
      },
    ];
  } finally {
    await conv.dispose();
    for (const t of [...Object.values(tensors), ...results]) (t.data as GPUBuffer).destroy();
  }
}
