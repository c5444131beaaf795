/**
 * Calls of one row that return no promise, on one thread: `forwardSync` with a prepared kernel against pffft-wasm, and against the
 * call that returns a promise. The arrays are those of the contender, so that nothing is copied.
 */
import { FlashFFTConv } from "../src/index.ts";
import type { Group, Open } from "./cases.ts";
import { openOurs } from "./ours.ts";
import { openPffft } from "./pffft.ts";
import type { Contender, Workload } from "./workload.ts";

/** forwardSync as a contender. */
async function openSync(workload: Workload, data: Contender["data"]): Promise<Contender> {
  const { mode, batch, channels, length, kernelLength, rows, u, k } = workload;
  const threads = 1;
  const conv = await FlashFFTConv.create({ mode, length, kernelLength, threads, batch, channels });
  const kernel = conv.prepareKernelSync(k);
  const input = data === "resident" ? conv.allocateInput(batch, channels) : u;
  input.set(u);
  const out =
    data === "resident" ? conv.allocateOutput(batch, channels) : new Float32Array(u.length);
  const options = { out };
  const { chosen } = conv.explain();
  return {
    ...{ name: "ours", threads, data, rows, pass: "forward", settleMs: 0 },
    ...{ plan: chosen.plan, predictedMs: chosen.predictedMs },
    run: () => conv.forwardSync(input, kernel, options),
    answer: (row) => out.subarray(row * length, (row + 1) * length),
    dispose: () => conv.dispose(),
  };
}

function group(length: number): Group {
  const shape = { mode: "causal", batch: 1, channels: 1, length, kernelLength: length } as const;
  const contenders = new Map<string, Open>([
    ["sync", (workload) => openSync(workload, "resident")],
    ["sync arrays", (workload) => openSync(workload, "arrays")],
    ["promise", (workload) => openOurs(workload, { threads: 1 })],
    ["pffft", (workload) => openPffft(workload, "resident")],
    ["pffft arrays", (workload) => openPffft(workload, "arrays")],
  ]);
  return {
    ...{ name: `sync L=${length}`, shape, contenders },
    comparisons: [
      { case: "sync", ours: "sync", peer: "pffft" },
      { case: "sync", ours: "sync arrays", peer: "pffft arrays" },
      { case: "sync promise", ours: "sync", peer: "promise", as: "ours, awaited" },
    ],
  };
}

/** The groups of `bench sync`. */
export function syncGroups(quick: boolean): Group[] {
  return (quick ? [256, 1024] : [64, 256, 1024, 4096, 16_384]).map(group);
}

/** The groups of `bench threads`: two threads over one, for whatever number of rows. */
export function threadGroups(several: readonly number[], quick: boolean): Group[] {
  const most = quick ? 2 ** 21 : 2 ** 24;
  const shapes = [1, 2, 3, 8, 64, 128].flatMap((channels) =>
    [256, 1024, 4096, 16_384, 65_536, 262_144]
      .filter((length) => channels * length <= most)
      .map((length) => ({ batch: 1, channels, length, kernelLength: length })),
  );
  return shapes.map((shape) => {
    const keys = [1, ...several].map((n) => [`ours ${n}`, n] as const);
    const open =
      (threads: number): Open =>
      (workload) =>
        openOurs(workload, { threads });
    const { channels, length } = shape;
    return {
      name: `threads H=${channels} L=${length}`,
      shape: { mode: "causal", ...shape },
      contenders: new Map(keys.map(([key, n]) => [key, open(n)])),
      comparisons: keys
        .slice(1)
        .map(([ours]) => ({ case: "threads", ours, peer: "ours 1", as: "ours, 1 thread" })),
    };
  });
}
