/** How a call of a short convolution is cut where arrays pass through staging, and what of each array a piece touches. */
import type { DepthwiseJob as Job } from "../backend/cpu/job.ts";
import { jobKinds } from "../backend/cpu/job.ts";

/** Tensors with a sample for each position of a line, by how they lie: in steps of inputs or of outputs. */
export type LineKind = "x" | "dx" | "y" | "dy";

/** Lines [lineFrom, lineTo) whole, or chunks [chunkFrom, chunkTo) of one line. */
export interface Slab {
  readonly lineFrom: number;
  readonly lineTo: number;
  readonly chunkFrom: number;
  readonly chunkTo: number;
}

/** Bytes that the sums of one job may take before they are added up. */
const partialsBudget = 4 * 1024 * 1024;

/** Cut `lines` lines into slabs of at most so many bytes, `positionBytes` a position, and of the sums allowed. */
export function slabs(job: Job, lines: number, positionBytes: number, budget: number): Slab[] {
  const { chunks } = job;
  const summed = job.kind === jobKinds.depthwiseBackward;
  const units = summed
    ? Math.max(1, Math.floor(partialsBudget / job.partialBytes))
    : lines * chunks;
  const lineBytes = Math.max(job.length, job.outputLength) * positionBytes;
  const fit = positionBytes === 0 ? lines : Math.floor(budget / lineBytes);
  const whole = Math.min(fit, Math.floor(units / chunks));
  if (whole >= 1) {
    return Array.from({ length: Math.ceil(lines / whole) }, (_, i) => {
      const lineFrom = i * whole;
      return { lineFrom, lineTo: Math.min(lines, lineFrom + whole), chunkFrom: 0, chunkTo: chunks };
    });
  }
  const chunkBytes = job.chunk * positionBytes;
  const some = Math.max(
    1,
    Math.min(units, positionBytes === 0 ? units : Math.floor(budget / chunkBytes)),
  );
  const perLine = Math.ceil(chunks / some);
  return Array.from({ length: lines * perLine }, (_, i) => {
    const lineFrom = Math.floor(i / perLine);
    const chunkFrom = (i % perLine) * some;
    const chunkTo = Math.min(chunks, chunkFrom + some);
    return { lineFrom, lineTo: lineFrom + 1, chunkFrom, chunkTo };
  });
}

/** Positions [from, to) of a tensor that the chunks of a slab touch. */
export function touched(job: Job, kind: LineKind, slab: Slab): readonly [from: number, to: number] {
  const limit = kind === "x" || kind === "dx" ? job.length : job.outputLength;
  if (slab.chunkFrom === 0 && slab.chunkTo === job.chunks) return [0, limit];
  const history = job.kernelLength - 1;
  const backward = job.kind === jobKinds.depthwiseBackward;
  const [from, to] = [slab.chunkFrom * job.chunk, slab.chunkTo * job.chunk];
  const ranges: Record<LineKind, readonly [number, number]> = {
    x: [from - job.left - (backward ? history : 0), to - job.left + history],
    dx: [from - job.left, to - job.left],
    y: [from, to],
    dy: [from - history, to],
  };
  const low = Math.min(limit, Math.max(0, ranges[kind][0]));
  return [low, Math.max(low, Math.min(limit, ranges[kind][1]))];
}
