/**
 * What the cost model knows of a machine: about fifteen numbers, which `tune` measures. The defaults below were read off the
 * machine that each names.
 */

/** A level of memory that working sets live in. */
export interface MemoryLevel {
  /** As people call it: `L2`, `HBM`. */
  readonly name: string;
  /** Largest working set that stays in it, in bytes. */
  readonly bytes: number;
  /** Bytes per second, to one thread (CPU) or the whole device (GPU). */
  readonly bandwidth: number;
}

/**
 * Taps that stay in registers, or beside them, while cells of results are computed one after the other: of one filter, and
 * of all of several side by side. With more, the sums of some cells advance together, each tap loaded once for all of
 * them. 16 taps of one filter take 1.7 ns a sample when held, 2.5 ns together; 24 take 3.9 either way (EPYC 7003, Node 20).
 */
export const heldTaps = { one: 16, several: 8 } as const;

/** What a convolution in the time domain costs. */
export interface DirectSeconds {
  /** Seconds of a block besides its outputs: calls, addressing. */
  readonly block: number;
  /** Seconds of an output besides its taps; on a GPU also besides its bytes, which its memory prices. */
  readonly output: number;
  /** Seconds of one product of a tap and a sample, where taps are few enough to be held (`heldTaps`). */
  readonly tap: number;
  /** Seconds of one product where they are not. */
  readonly loadedTap: number;
}

/** Numbers about one machine. */
export interface DeviceSpec {
  /** Which machine, and in which configuration. */
  readonly name: string;
  /** Which kinds of stage there are: dense DFTs on matrix units, butterflies in registers. */
  readonly stages: readonly ("matrix" | "butterfly")[];
  /** FLOP/s of matrix units on tiles of at least `matrixTile`; 0 where there are none. */
  readonly matrixFlops: number;
  /** Smallest radix that fills a tile of the matrix units. */
  readonly matrixTile: number;
  /** FLOP/s of the general units. */
  readonly generalFlops: number;
  /**
   * Seconds per point of one butterfly stage, forward and inverse, by radix, data in the first-level cache. Measured,
   * because registers spill from radix 5 on, which no count of operations shows.
   */
  readonly butterflySeconds: Readonly<Record<number, number>>;
  /** Seconds per point of everything else a row needs: loading, the fused middle, storing. */
  readonly pointSeconds: number;
  /**
   * Seconds in the time domain: of a block besides its outputs, of an output besides its taps, of a tap of an output.
   * Absent where nothing runs there.
   */
  readonly directSeconds?: DirectSeconds;
  /** Bytes that one complex point takes when a stage hands it to the next. */
  readonly bytesPerPoint: number;
  /** Fastest and smallest first; the last one holds everything. */
  readonly memory: readonly MemoryLevel[];
  /** Seconds that one row costs besides its arithmetic: calls, addressing. */
  readonly rowSeconds: number;
  /** Seconds that a loop over fewer than a handful of vectors costs to enter. */
  readonly loopSeconds: number;
  /** Seconds to hand a job to other threads and hear of its end; of a launch, on a GPU. */
  readonly dispatchSeconds: number;
  /** Threads that keep all of a GPU busy: fewer take the time that so many would. Absent on a CPU. */
  readonly busyThreads?: number;
  /** Where the numbers come from. */
  readonly source: string;
}

/**
 * One thread of the machine the library was written on: AMD EPYC 7003 (Zen 3), Node 24 with relaxed SIMD. The bandwidths
 * are what a stage loses to them, not what they are: caches prefetch sequential sweeps so well that a transform in the
 * second level runs as fast as one in the first.
 */
export const defaultCpu: DeviceSpec = {
  name: "default CPU",
  stages: ["butterfly"],
  matrixFlops: 0,
  matrixTile: 1,
  generalFlops: 42e9,
  butterflySeconds: { 2: 0.36e-9, 3: 0.56e-9, 4: 0.39e-9, 5: 0.98e-9, 7: 1.8e-9, 8: 0.88e-9 },
  pointSeconds: 1.56e-9,
  directSeconds: { block: 500e-9, output: 0.05e-9, tap: 0.12e-9, loadedTap: 0.17e-9 },
  bytesPerPoint: 8,
  memory: [
    { name: "L1", bytes: 32_768, bandwidth: 4e12 },
    { name: "L2", bytes: 524_288, bandwidth: 2e12 },
    { name: "L3", bytes: 33_554_432, bandwidth: 480e9 },
    { name: "DRAM", bytes: Number.POSITIVE_INFINITY, bandwidth: 15e9 },
  ],
  rowSeconds: 150e-9,
  loopSeconds: 2e-9,
  dispatchSeconds: 6e-6,
  source: "measured on AMD EPYC 7003, 2 cores, Node 24, November 2026",
};

/**
 * A GPU with numbers to plan by: the H200 on which the kernels were tuned. They are what plans lose to each resource there,
 * fitted to measured times, not what the chip's data sheet says.
 */
export const defaultGpu: DeviceSpec = {
  name: "default GPU",
  stages: ["butterfly"],
  matrixFlops: 0,
  matrixTile: 16,
  generalFlops: 500e12,
  butterflySeconds: {},
  pointSeconds: 1.33e-12,
  // Up to 16 taps products hide behind traffic: 8 took what 2 did. Beyond, gradients decide, which take the taps by sixteens.
  directSeconds: { block: 0, output: 0, tap: 0.02e-12, loadedTap: 0.075e-12 },
  bytesPerPoint: 8,
  memory: [
    { name: "workgroup", bytes: 49_152, bandwidth: 42.7e12 },
    { name: "cache", bytes: 60e6, bandwidth: 5.3e12 },
    // Gates, which the model does not see, double the traffic of tensors: this is half of what their bytes move at.
    { name: "memory", bytes: Number.POSITIVE_INFINITY, bandwidth: 2.4e12 },
  ],
  rowSeconds: 0,
  loopSeconds: 0,
  dispatchSeconds: 5e-6,
  // 38,000 of them took 2.5 times their share of time.
  busyThreads: 96_000,
  source: "measured on one NVIDIA H200 through WebGPU, November 2026",
};

/**
 * Seconds per byte of sweeping a working set again and again: what does not fit a level comes from the next. Caches
 * with imperfect replacement keep a share of a set that is somewhat too large.
 */
export function sweepSeconds(device: DeviceSpec, bytes: number): number {
  let seconds = 0;
  let held = 0;
  for (const level of device.memory) {
    const share = Math.min(1, level.bytes / bytes);
    if (share > held) seconds += (share - held) / level.bandwidth;
    held = Math.max(held, share);
  }
  return seconds;
}

/**
 * Prices in the time domain, which `tune` does not measure: those of a usual machine, scaled as the time that a transform takes
 * for a point.
 */
export function scaledDirect(usual: DeviceSpec, pointSeconds: number): DirectSeconds {
  const factor = pointSeconds / usual.pointSeconds;
  const { block, output, tap, loadedTap } = usual.directSeconds!;
  return {
    ...{ block: factor * block, output: factor * output },
    ...{ tap: factor * tap, loadedTap: factor * loadedTap },
  };
}
