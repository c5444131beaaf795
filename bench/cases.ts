/** What is measured: groups of contenders on one workload, whose rounds alternate, and who is compared with whom. */
import { openFftw } from "./fftw.ts";
import { openFftJs, openMlConvolution } from "./javascript.ts";
import { type OursOptions, openOurs } from "./ours.ts";
import { openPffft } from "./pffft.ts";
import { openTorch } from "./torch.ts";
import type { Contender, Shape, Workload } from "./workload.ts";

/** Opens a contender, or says why it cannot take part. */
export type Open = (workload: Workload) => Contender | string | Promise<Contender | string>;

/** Ours under one key against a peer under another; both keys of the group. */
export interface Comparison {
  readonly case: string;
  readonly ours: string;
  /** Nobody: the time alone is recorded. */
  readonly peer?: string;
  /** The peer's name in the record, where it is ours in another form. */
  readonly as?: string;
}

export interface Group {
  readonly name: string;
  readonly shape: Shape;
  readonly contenders: ReadonlyMap<string, Open>;
  readonly comparisons: readonly Comparison[];
}

const K = 1024;

const ours =
  (options: OursOptions): Open =>
  (workload) =>
    openOurs(workload, options);

function shapeOf(batch: number, channels: number, length: number): Shape {
  return { mode: "causal", batch, channels, length, kernelLength: length };
}

function nameOf({ mode, batch, channels, length, kernelLength }: Shape, what: string): string {
  return `${what} ${mode} B=${batch} H=${channels} L=${length} K=${kernelLength}`;
}

/** Everybody on one causal problem, the spectrum of the kernel kept. */
function againstPeers(shape: Shape, threads: readonly number[]): Group {
  const contenders = new Map<string, Open>();
  const comparisons: Comparison[] = [];
  for (const n of threads) {
    contenders.set(`ours ${n}`, ours({ threads: n }));
    contenders.set(`PyTorch ${n}`, (workload) => openTorch(workload, n));
    comparisons.push({ case: "causal", ours: `ours ${n}`, peer: `PyTorch ${n}` });
    if (n > 1 && threads.includes(1)) {
      comparisons.push({
        case: "threads",
        ours: `ours ${n}`,
        peer: "ours 1",
        as: "ours, 1 thread",
      });
    }
  }
  if (threads.includes(1)) {
    contenders
      .set("arrays", ours({ threads: 1, data: "arrays" }))
      .set("gated", ours({ threads: 1, pass: "gated" }))
      .set("backward", ours({ threads: 1, pass: "backward" }))
      .set("pffft", (workload) => openPffft(workload, "resident"))
      .set("pffft arrays", (workload) => openPffft(workload, "arrays"))
      .set("fft.js", (workload) => openFftJs(workload, false))
      .set("fft.js pairs", (workload) => openFftJs(workload, true))
      .set("FFTW", openFftw);
    comparisons.push(
      { case: "causal", ours: "ours 1", peer: "pffft" },
      { case: "causal", ours: "arrays", peer: "pffft arrays" },
      { case: "causal", ours: "arrays", peer: "fft.js" },
      { case: "causal", ours: "arrays", peer: "fft.js pairs" },
      { case: "causal", ours: "ours 1", peer: "FFTW" },
      { case: "gated", ours: "gated", peer: "ours 1", as: "ours, ungated" },
      { case: "backward", ours: "backward", peer: "ours 1", as: "ours, forward" },
    );
  }
  return { name: nameOf(shape, "causal"), shape, contenders, comparisons };
}

/** Ours with more threads against ours with one. */
function threadScaling(shape: Shape, threads: readonly number[]): Group {
  const contenders = new Map([1, ...threads].map((n) => [`ours ${n}`, ours({ threads: n })]));
  const more = [...contenders.keys()].filter((key) => key !== "ours 1");
  const comparisons = more.map((key) => ({
    case: "threads",
    ours: key,
    peer: "ours 1",
    as: "ours, 1 thread",
  }));
  return { name: nameOf(shape, "threads"), shape, contenders, comparisons };
}

/** Ours alone, or one form of ours against another, on one thread. */
function alone(shape: Shape, what: "growth" | "backward"): Group {
  const contenders = new Map<string, Open>([["ours 1", ours({ threads: 1 })]]);
  if (what === "growth") {
    return {
      name: nameOf(shape, what),
      shape,
      contenders,
      comparisons: [{ case: what, ours: "ours 1" }],
    };
  }
  contenders.set("backward", ours({ threads: 1, pass: "backward" }));
  const comparisons = [{ case: what, ours: "backward", peer: "ours 1", as: "ours, forward" }];
  return { name: nameOf(shape, what), shape, contenders, comparisons };
}

/** The one mode of ml-convolution. */
function centred(length: number): Group {
  const shape: Shape = { mode: "same", batch: 4, channels: 4, length, kernelLength: length - 1 };
  const contenders = new Map<string, Open>([
    ["arrays", ours({ threads: 1, data: "arrays" })],
    ["ml-convolution", openMlConvolution],
  ]);
  const comparisons = [{ case: "same", ours: "arrays", peer: "ml-convolution" }];
  return { name: nameOf(shape, "same"), shape, contenders, comparisons };
}

/** The groups of `bench cpu`; `quick` keeps a few of each kind. */
export function cpuGroups(threads: readonly number[], quick: boolean): Group[] {
  const several = threads.filter((n) => n > 1);
  if (quick) {
    return [
      ...[K, 4 * K, 64 * K].map((L) => againstPeers(shapeOf(4, 16, L), threads)),
      ...[K, 64 * K].map((L) => againstPeers(shapeOf(1, 1, L), threads)),
      ...[K, 16 * K, 256 * K, K * K].map((L) =>
        alone(shapeOf(1, Math.max(1, (64 * K) / L), L), "growth"),
      ),
      centred(4 * K),
    ];
  }
  const groups = [K, 4 * K, 16 * K, 64 * K, 256 * K, 512 * K].map((L) =>
    againstPeers(shapeOf(4, 16, L), threads),
  );
  groups.push(againstPeers(shapeOf(2, 4, K * K), threads));
  for (const L of [K, 4 * K, 16 * K, 64 * K, 512 * K, K * K]) {
    groups.push(againstPeers(shapeOf(1, 1, L), threads));
  }
  if (several.length > 0) {
    for (const L of [K, 4 * K, 16 * K, 64 * K, 256 * K]) {
      groups.push(threadScaling(shapeOf(1, 16, L), several));
    }
  }
  for (const L of [K, 16 * K, 256 * K]) groups.push(alone(shapeOf(1, 64, L), "backward"));
  for (let L = K; L <= 4 * K * K; L *= 2) {
    groups.push(alone(shapeOf(1, Math.min(64, Math.max(1, (4 * K * K) / L)), L), "growth"));
  }
  for (const L of [K, 16 * K]) groups.push(centred(L));
  return groups;
}

/** Blocks for 1K taps, the same whatever L: the planner takes larger ones for longer rows. */
const workspacePlan = "8192: 2·4·4·4·4·4 @15361";

/** Ours alone under several keys, each in a record of its own case. */
function recorded(
  name: string,
  shape: Shape,
  cases: ReadonlyMap<string, [string, OursOptions]>,
): Group {
  const contenders = new Map([...cases].map(([key, [, options]]) => [key, ours(options)]));
  const comparisons = [...cases].map(([key, [name]]) => ({ case: name, ours: key }));
  return { name: nameOf(shape, name), shape, contenders, comparisons };
}

/** A kernel much shorter than the input, gated: time falls with K, and work memory does not grow with L. */
export function partialGroups(threads: readonly number[], quick: boolean): Group[] {
  const kernels = [64 * K, 16 * K, 4 * K, K, 256];
  const lengths = quick ? [64 * K, K * K] : [64 * K, 256 * K, K * K, 4 * K * K, 16 * K * K];
  const partial = new Map(
    threads.flatMap((n): [string, [string, OursOptions]][] => [
      [`gated ${n}`, ["partial", { threads: n, pass: "gated" }]],
      [`backward ${n}`, ["partial backward", { threads: n, pass: "backward" }]],
    ]),
  );
  const workspace = new Map(
    threads.map((n): [string, [string, OursOptions]] => [
      `gated ${n}`,
      ["workspace", { threads: n, pass: "gated", plan: workspacePlan }],
    ]),
  );
  return [
    ...kernels.map((k) =>
      recorded("partial", { ...shapeOf(1, 16, 64 * K), kernelLength: k }, partial),
    ),
    ...lengths.map((L) =>
      recorded("workspace", { ...shapeOf(1, 1, L), kernelLength: K }, workspace),
    ),
  ];
}

/** The twenty shapes of `bench plans`: every mode, lengths that are powers of two and not, long and short kernels. */
export function planShapes(quick: boolean): Shape[] {
  const shapes: [Shape["mode"], number, number, number, number][] = [
    ["causal", 4, 16, 256, 256],
    ["causal", 4, 16, 1024, 1024],
    ["causal", 2, 24, 3000, 3000],
    ["causal", 4, 16, 4096, 4096],
    ["causal", 4, 16, 4096, 64],
    ["causal", 4, 8, 10_000, 10_000],
    ["causal", 1, 64, 16_384, 16_384],
    ["causal", 1, 16, 48_502, 8192],
    ["causal", 1, 8, 65_536, 65_536],
    ["causal", 1, 4, 131_072, 131_072],
    ["causal", 1, 2, 524_288, 524_288],
    ["causal", 1, 1, 1024, 1024],
    ["causal", 1, 1, 20_000, 20_000],
    ["causal", 1, 1, 661_500, 240_000],
    ["causal", 1, 1, 1_048_576, 1_048_576],
    ["circular", 4, 16, 2048, 2048],
    ["circular", 2, 8, 44_100, 44_100],
    ["bidirectional", 4, 16, 8192, 16_384],
    ["full", 1, 8, 100_000, 5000],
    ["same", 4, 16, 5000, 513],
  ];
  const chosen = quick ? shapes.filter((_, index) => index % 5 === 1) : shapes;
  return chosen.map(([mode, batch, channels, length, kernelLength]) => ({
    ...{ mode, batch, channels, length, kernelLength },
  }));
}
