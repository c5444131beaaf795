/**
 * The cost model: the paper's Eq. 2, C = Σ_i [16·N·N_i/γ(N_i) + 4·N/ω(i)], in its general form. The first term is the
 * arithmetic of stage i, forward and inverse; the second moves its points through the memory where they live. Here the
 * arithmetic is that of butterflies, counted from the generated codelets, and the bytes of a point, the memory
 * levels and their bandwidths are the device's.
 */
import { dft } from "../../math/codelet.ts";
import { countOps, Graph } from "../../math/expr.ts";
import type { DeviceSpec } from "../device.ts";
import { heldTaps, sweepSeconds } from "../device.ts";
import type { TransformPlan } from "./plan.ts";
import { keptOutputs, lastOutputs, layout } from "./plan.ts";

/** Predicted seconds of one row, and what they are made of. */
export interface Cost {
  /** The sum of the three parts, in seconds. */
  readonly seconds: number;
  /** Seconds of arithmetic, data at hand. */
  readonly arithmetic: number;
  /** Seconds of traffic through the memory levels. */
  readonly memory: number;
  /** Seconds of calls and loop entries. */
  readonly overhead: number;
  /** Floating-point operations; a fused multiply-add counts as two. */
  readonly flops: number;
}

/** FLOP of one stage of butterflies over N points, forward and inverse. */
export function stageFlops(points: number, radix: number): number {
  return 2 * (points / radix) * butterflyFlops(radix);
}

const known = new Map<number, number>();

/** FLOP of a radix-r butterfly with its r − 1 twiddles, counted from the codelet; a fused multiply-add counts as two. */
export function butterflyFlops(radix: number): number {
  let flops = known.get(radix);
  if (flops === undefined) {
    const g = new Graph();
    const input = (
      pointer: string,
      j: number,
    ): { re: ReturnType<Graph["load"]>; im: ReturnType<Graph["load"]> } => ({
      re: g.load({ pointer, offset: 8 * j }, "float32"),
      im: g.load({ pointer, offset: 8 * j + 4 }, "float32"),
    });
    const x = Array.from({ length: radix }, (_, j) =>
      j === 0 ? input("x", 0) : g.cmul(input("x", j), input("t", j)),
    );
    const ops = countOps(dft(g, x, 1).flatMap((v) => [v.re, v.im]));
    flops = ops.add + ops.sub + ops.mul + ops.neg + 2 * (ops.fma + ops.fnma);
    known.set(radix, flops);
  }
  return flops;
}

/** Seconds to move so many float32 samples through memory, there and back. */
export function copySeconds(device: DeviceSpec, samples: number): number {
  return (8 * samples) / device.memory.at(-1)!.bandwidth;
}

/** Seconds of a block of `outputs` outputs in the time domain, each of which is a sum over `taps` products. */
export function directCost(outputs: number, taps: number, device: DeviceSpec): Cost {
  const { block, output, tap, loadedTap } = device.directSeconds!;
  const arithmetic = outputs * taps * (taps <= heldTaps.one ? tap : loadedTap);
  const memory = outputs * output;
  const seconds = arithmetic + memory + block;
  return { seconds, arithmetic, memory, overhead: block, flops: 2 * outputs * taps };
}

/** Seconds per point of one butterfly stage, forward and inverse: measured, or from its operations. */
function butterflySeconds(radix: number, device: DeviceSpec): number {
  return device.butterflySeconds[radix] ?? stageFlops(1, radix) / device.generalFlops;
}

/**
 * Share of a stage's work that is left where only `outputs` of its radix are wanted, forward and inverse: it still reads,
 * or writes, all of the radix on one side.
 */
export function stageShare(radix: number, outputs: number): number {
  return (radix + outputs) / (2 * radix);
}

/** Seconds per point of one stage, data at hand, of which only `outputs` are wanted. */
export function stageSeconds(radix: number, outputs: number, device: DeviceSpec): number {
  return butterflySeconds(radix, device) * stageShare(radix, outputs);
}

/** Bytes per point that the middle reads besides the transform: the spectrum and three twiddles for four points. */
const middleBytes = 8 + 6;

/** Share of `pointSeconds` that is the middle's; the rest loads and stores samples. */
const middleShare = 0.6;

/**
 * Seconds of one row under a butterfly plan: Eq. 2 stage by stage, each stage reading and writing its points once each
 * way; the stages of a tiled level share one trip. Every level's first trip comes from where its parent lives. Of a
 * sparse plan, stages work on the sub-blocks that are left.
 */
export function planCost(plan: TransformPlan, device: DeviceSpec): Cost {
  const points = plan.points;
  const levels = layout(plan);
  const trip = 4 * points * device.bytesPerPoint;
  let arithmetic = points * device.pointSeconds * (1 - middleShare);
  let flops = 0;
  let memory = 0;
  let overhead = device.rowSeconds;
  // Spectrum and twiddles stream past with the data.
  const stream = 1 + middleBytes / (2 * device.bytesPerPoint);
  let left = 1;
  levels.forEach((level, i) => {
    const home = sweepSeconds(device, level.bytes * (i === levels.length - 1 ? stream : 1));
    const tileBytes = level.tile ? level.rows * level.tile * device.bytesPerPoint : level.bytes;
    const tile = sweepSeconds(device, tileBytes);
    const kept = keptOutputs(plan, i);
    let run = level.rows;
    level.radices.forEach((radix, j) => {
      const outputs = kept[j]!.length;
      const share = left * stageShare(radix, outputs);
      flops += left * stageFlops(points, radix) * stageShare(radix, outputs);
      arithmetic += left * points * stageSeconds(radix, outputs, device);
      memory += share * trip * (level.tile && j > 0 ? tile : home);
      run /= radix;
      const vectors = level.tile ? level.tile / 4 : (run * level.columns) / 4;
      const loops = (left * points) / radix / 4 / Math.max(1, vectors);
      overhead += 2 * loops * device.loopSeconds;
      left *= outputs / radix;
    });
  });
  const last = levels.at(-1)!;
  // The middle: a radix-4 stage each way and one complex product.
  const outputs = lastOutputs(plan).length;
  const share = left * stageShare(4, outputs);
  left *= outputs / 4;
  flops += share * stageFlops(points, 4) + left * 8 * points;
  arithmetic += share * points * device.pointSeconds * middleShare;
  const bytes = share * 4 * device.bytesPerPoint + left * middleBytes;
  memory += points * bytes * sweepSeconds(device, last.bytes * stream);
  if (levels.length > 1)
    memory += left * points * middleBytes * sweepSeconds(device, levels[0]!.bytes * stream);
  return { seconds: arithmetic + memory + overhead, arithmetic, memory, overhead, flops };
}

/** Bytes that the stages of a row read and write and that its middle streams past, whatever memory they come from. */
export function planBytes(plan: TransformPlan, device: DeviceSpec): number {
  let left = 1;
  let bytes = 0;
  plan.levels.forEach((level, i) => {
    const kept = keptOutputs(plan, i);
    level.radices.forEach((radix, j) => {
      bytes += left * stageShare(radix, kept[j]!.length) * 4 * plan.points * device.bytesPerPoint;
      left *= kept[j]!.length / radix;
    });
  });
  const outputs = lastOutputs(plan).length;
  const points = left * plan.points;
  return (
    bytes +
    points * (stageShare(4, outputs) * 4 * device.bytesPerPoint + (outputs / 4) * middleBytes)
  );
}
