/**
 * Short depthwise convolutions and fused projections on a GPU, with everything in GPU buffers, against the time that their tensors need to be
 * copied once and against PyTorch's Conv1d(groups = D), for the layout that it has.
 */
import type { Dtype } from "../src/dtype.ts";
import {
  FlashDepthwiseConv1d,
  FlashHyenaProjections,
  type GpuTensor,
  type Layout,
} from "../src/index.ts";
import { checkShortGradients, checkShortOutputs, shortStarts } from "./gpu-check-short.ts";
import { empty, fill } from "./gpu-data.ts";
import { round } from "./records.ts";
import { compared, deviceTimes, type GpuRecord, type GpuRun, median } from "./webgpu.ts";

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
  readonly encoder?: GPUCommandEncoder | undefined;
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
      async backward(x, [dgated, dpostgate], { weight, out, ...rest }) {
        const upstream = { dgated: dgated!, dpostgate: dpostgate! };
        const options = { ...rest, out: { dx: out! } };
        const { dweight, dbias } = await conv.backward(upstream, x, weight, options);
        return [dweight, dbias!];
      },
      dispose: () => conv.dispose(),
    };
  }
  const conv = await FlashDepthwiseConv1d.create(options);
  return {
    problem: conv.problem,
    forward: (x, [out], { weight, ...rest }) => conv.forward(x, weight, { ...rest, out }),
    async backward(x, [dy], { weight, out, ...rest }) {
      const options = { ...rest, out: { dx: out! } };
      const { dweight, dbias } = await conv.backward(dy!, x, weight, options);
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
  const packed = c.form === "projections" ? 3 : 1;
  const outputs = packed === 3 ? 2 : 1;
  const row = packed * length * each;
  const B = Math.max(1, Math.min(batch, Math.floor(run.mostBytes / (c.channels * row))));
  const most = Math.floor(run.mostBytes / row);
  const channels = B > 1 ? c.channels : Math.max(1, Math.min(c.channels, most));
  const actual = { ...c, channels };
  const conv = await openShort(actual, device, B);
  const shape = (count: number): number[] =>
    layout === "BHL" ? [B, count, length] : [B, length, count];
  const x = fill(device, shape(packed * channels), dtype, shortStarts.x);
  const dy = shortStarts.dy
    .slice(0, pass === "backward" ? outputs : 0)
    .map((start) => fill(device, shape(channels), dtype, start));
  const y =
    pass === "forward"
      ? Array.from({ length: outputs }, () => empty(device, shape(channels), dtype))
      : [];
  const dx = dy.length > 0 ? [empty(device, shape(packed * channels), dtype)] : [];
  const weight = fill(device, [packed * channels, kernelLength], "float32", shortStarts.weight);
  const bias = fill(device, [packed * channels], "float32", shortStarts.bias);
  const results: GpuTensor[] = [];
  try {
    const record = async (encoder?: GPUCommandEncoder): Promise<GpuTensor[]> => {
      if (pass === "forward") await conv.forward(x, y, { weight, bias, encoder });
      else results.push(...(await conv.backward(x, dy, { weight, bias, encoder, out: dx[0]! })));
      return results;
    };
    const [dweight, dbias] = await record();
    const checked = { problem: conv.problem, batch: B, length, dtype };
    const rel = dweight
      ? await checkShortGradients(device, checked, { dx: dx[0]!, dweight, dbias: dbias! })
      : await checkShortOutputs(device, checked, y);
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
    const alone = {
      ...{ peer: null, peer_ms: null, peer_rel_error: null, peer_workspace_bytes: null },
      ratio: null,
    };
    if (typeof torch === "string" || layout !== "BHL" || c.form !== "linear")
      return [{ ...ours, ...alone }];
    const peer = "conv1d";
    const answer = await torch.measure({
      ...{ peer, B, H: channels, L: length, N: kernelLength },
      ...{ dtype, gated: false, pass, rounds },
    });
    return [{ ...ours, ...(answer.ms ? compared(answer, peer, dtype, ms) : alone) }];
  } finally {
    conv.dispose();
    for (const t of [x, ...y, ...dy, ...dx, weight, bias, ...results])
      (t.data as GPUBuffer).destroy();
  }
}
