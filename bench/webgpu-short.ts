/**
 * Short depthwise convolutions and fused projections on a GPU, with everything in GPU buffers, against the time that their tensors need to be
 * copied once and against PyTorch's Conv1d(groups = D), for the layout that it has.
 */
import { type Dtype, decode } from "../src/dtype.ts";
import {
  FlashDepthwiseConv1d,
  FlashHyenaProjections,
  type GpuTensor,
  type Layout,
} from "../src/index.ts";
import { depthwiseOracleForward } from "../src/math/depthwise-oracle.ts";
import { relativeError } from "../src/math/oracle.ts";
import { readBytes } from "./gpu-device.ts";
import { round } from "./records.ts";
import { deviceTimes, fill, type GpuRecord, type GpuRun, median, storedPool } from "./webgpu.ts";

/** One measurement: B = 16, bias, no activation; D channels of an output, of which the projections read three times as many. */
export interface GpuShortCase {
  readonly form: "linear" | "projections";
  readonly layout: Layout;
  readonly dtype: Dtype;
  readonly pass: "forward" | "backward";
  readonly channels: number;
  readonly length: number;
  readonly kernelLength: number;
}

const batch = 16;

/**
 * K = 3 and 5, D and L at both ends and between, both layouts, both types; backward at K = 3 in half precision too. Beside
 * them, in half precision, the projections of a Hyena operator.
 */
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
          { kernelLength: 3, pass: "forward", form: "linear" } as const,
          { kernelLength: 5, pass: "forward", form: "linear" } as const,
          { kernelLength: 3, pass: "backward", form: "linear" } as const,
          { kernelLength: 3, pass: "forward", form: "projections" } as const,
          { kernelLength: 3, pass: "backward", form: "projections" } as const,
        ]
          .filter(({ form }) => form === "linear" || dtype === "float16")
          .map((rest) => ({ ...shape, layout, dtype, ...rest })),
      ),
    ),
  );
}

export function shortName(c: GpuShortCase): string {
  const { form, layout, dtype, pass, channels, length, kernelLength } = c;
  return `${form === "linear" ? "short" : "projections"} ${layout} ${pass} D=${channels} L=${length} K=${kernelLength} ${dtype}`;
}

/** Wrong answers have no speed: twice what rounding once errs. */
const largestError = { float32: 1e-6, float16: 2 ** -11, bfloat16: 2 ** -8 } as const;

/** The first channel's outputs of the first batch item. */
async function firstRow(device: GPUDevice, y: GpuTensor, c: GpuShortCase): Promise<Float64Array> {
  const { layout, length, channels, dtype } = c;
  const each = storedPool(dtype).BYTES_PER_ELEMENT;
  const stride = layout === "BHL" ? 1 : channels;
  const size = Math.ceil(((length - 1) * stride + 1) * (each / 4)) * 4;
  const copy = await readBytes(device, y.data as GPUBuffer, size);
  const stored = dtype === "float32" ? new Float32Array(copy) : new Uint16Array(copy);
  const row = stored.filter((_, i) => i % stride === 0).subarray(0, length);
  return decode(row, dtype);
}

/** Channels of x for one of an output. */
const packing = ({ form }: GpuShortCase): number => (form === "projections" ? 3 : 1);

/** That row in float64, of tensors that are filled from the pool. */
function exactRow({ problem }: Opened, c: GpuShortCase): Float64Array {
  const { layout, length, channels, dtype, kernelLength } = c;
  const pool = decode(storedPool(dtype), dtype);
  const taps = storedPool("float32");
  const packed = packing(c);
  const [step, third] = layout === "BHL" ? [1, channels * length] : [packed * channels, channels];
  const from = (values: Float64Array | Float32Array, count: number, each: number, apart: number) =>
    Float64Array.from({ length: packed * count }, (_, i) => {
      const at = Math.floor(i / count) * apart + (i % count) * each;
      return values[at % values.length]!;
    });
  const inputs = {
    ...{ batch: 1, length, x: from(pool, length, step, third) },
    weight: from(taps as Float32Array, kernelLength, 1, channels * kernelLength),
    bias: from(taps as Float32Array, 1, 1, channels),
  };
  const alone = { ...problem, channels: 1, layout: "BHL" as const };
  return depthwiseOracleForward(alone, inputs)[0]!;
}

/** An object of either class, with its outputs and their gradients as lists. */
interface Opened {
  readonly problem: FlashDepthwiseConv1d["problem"];
  forward(x: GpuTensor, y: readonly GpuTensor[], options: Recorded): Promise<unknown>;
  /** @returns the new buffers. */
  backward(x: GpuTensor, dy: readonly GpuTensor[], options: Recorded): Promise<GpuTensor[]>;
  dispose(): void;
}

interface Recorded {
  readonly weight: GpuTensor;
  readonly bias: GpuTensor;
  readonly encoder?: GPUCommandEncoder;
  /** Where dx goes. */
  readonly out?: GpuTensor;
}

async function openShort(c: GpuShortCase, device: GPUDevice, batch: number): Promise<Opened> {
  const { form, layout, dtype, channels, kernelLength } = c;
  const options = { layout, dtype, channels, kernelLength, device, batch };
  if (form === "projections") {
    const conv = await FlashHyenaProjections.create(options);
    return {
      problem: conv.problem,
      forward: (x, [gated, postgate], { weight, ...rest }) =>
        conv.forward(x, weight, { ...rest, out: { gated: gated!, postgate: postgate! } }),
      async backward(x, [dgated, dpostgate], { weight, ...rest }) {
        const upstream = { dgated: dgated!, dpostgate: dpostgate! };
        const { dweight, dbias } = await conv.backward(upstream, x, weight, rest);
        return [dweight, dbias!];
      },
      dispose: () => conv.dispose(),
    };
  }
  const conv = await FlashDepthwiseConv1d.create(options);
  return {
    problem: conv.problem,
    forward: (x, [out], { weight, ...rest }) => conv.forward(x, weight, { ...rest, out }),
    async backward(x, [dy], { weight, ...rest }) {
      const { dweight, dbias } = await conv.backward(dy!, x, weight, rest);
      return [dweight, dbias!];
    },
    dispose: () => conv.dispose(),
  };
}

/** Measure one case: ours, and PyTorch where it is there. */
export async function runGpuShort(c: GpuShortCase, run: GpuRun): Promise<GpuRecord[]> {
  const { device, rounds, torch } = run;
  const { layout, dtype, pass, length, kernelLength } = c;
  const each = dtype === "float32" ? 4 : 2;
  const packed = packing(c);
  const outputs = packed === 3 ? 2 : 1;
  const row = packed * length * each;
  const B = Math.max(1, Math.min(batch, Math.floor(run.mostBytes / (c.channels * row))));
  const most = Math.floor(run.mostBytes / row);
  const channels = B > 1 ? c.channels : Math.max(1, Math.min(c.channels, most));
  const actual = { ...c, channels };
  const conv = await openShort(actual, device, B);
  const tensor = (count: number): GpuTensor =>
    fill(device, layout === "BHL" ? [B, count, length] : [B, length, count], dtype);
  const several = (): GpuTensor[] => Array.from({ length: outputs }, () => tensor(channels));
  const x = tensor(packed * channels);
  const y = several();
  const dy = pass === "backward" ? several() : [];
  const dx = pass === "backward" ? [tensor(packed * channels)] : [];
  const weight = fill(device, [packed * channels, kernelLength], "float32");
  const bias = fill(device, [packed * channels], "float32");
  const results: GpuTensor[] = [];
  try {
    await conv.forward(x, y, { weight, bias });
    const rel = relativeError(
      Float32Array.from(await firstRow(device, y[0]!, actual)),
      exactRow(conv, actual),
    );
    if (!(rel < largestError[dtype])) throw new Error(`the answer is wrong, relative error ${rel}`);
    const record = async (encoder: GPUCommandEncoder): Promise<void> => {
      if (pass === "forward") await conv.forward(x, y, { weight, bias, encoder });
      else results.push(...(await conv.backward(x, dy, { weight, bias, encoder, out: dx[0]! })));
    };
    const times = await deviceTimes(device, record, rounds);
    const ms = median(times);
    // What is read and written once: x and the outputs, or x, their gradients and dx.
    const moved = pass === "forward" ? packed + outputs : 2 * packed + outputs;
    const floor = ((moved * B * channels * length * each) / run.bandwidth) * 1e3;
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
      typeof torch === "string" || layout !== "BHL" || c.form !== "linear"
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
    conv.dispose();
    for (const t of [x, ...y, ...dy, ...dx, weight, bias, ...results])
      (t.data as GPUBuffer).destroy();
  }
}
