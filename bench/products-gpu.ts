/**
 * `npm run bench -- products --device`: matrix products on the GPU, in TFLOP/s. Every tile that serves a product takes part, under the
 * number of splits that the planner likes best for it; answers are checked against float64 first, and times are taken by turns. The
 * planner's own choice is the record, with PyTorch's product (cuBLAS) where there is PyTorch with CUDA.
 */
import { spawnSync } from "node:child_process";
import type { BoundSchedule } from "../src/backend/gpu.ts";
import type { CommandTarget } from "../src/backend/webgpu/compiled.ts";
import { WebGpuBackend } from "../src/backend/webgpu/device.ts";
import { decode } from "../src/dtype.ts";
import type { GpuProductPlan } from "../src/plan/gpu/product.ts";
import {
  describeProductPlan,
  itemsOf,
  plansOfTile,
  productTiles,
} from "../src/plan/gpu/product.ts";
import type {
  Matrix,
  ProductBuffer,
  ProductEpilogue,
  ProductProblem,
} from "../src/plan/product.ts";
import { relativeError } from "../src/reference/convolution.ts";
import { plannedProduct } from "../src/schedule/product.ts";
import { fill, filled, usage } from "./gpu-data.ts";
import { readBytes, timedSubmission } from "./gpu-device.ts";
import { appendRecords, round } from "./records.ts";
import { median } from "./webgpu.ts";

/** One product's speed; TFLOP/s of the median. */
export interface GpuProductRecord {
  readonly case: string;
  readonly form: string;
  readonly batch: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly dtypes: string;
  readonly epilogue: ProductEpilogue;
  readonly plan: string;
  readonly ms: number;
  readonly min_ms: number;
  readonly predicted_ms: number;
  readonly tflops: number;
  /** What the issue asks for; null where it asks for nothing. */
  readonly bar_tflops: number | null;
  readonly rel_error: number;
  /** The fastest plan where it is not the planner's. */
  readonly best: string | null;
  readonly best_tflops: number;
  /** PyTorch's; null where it did not take part. */
  readonly torch_ms: number | null;
  readonly torch_tflops: number | null;
  readonly rounds: number;
  readonly adapter: string;
  readonly node: string;
}

type Dtypes = readonly [a: Matrix["dtype"], b: Matrix["dtype"], c: Matrix["dtype"]];

interface Case {
  readonly name: string;
  readonly form: "NN" | "NT" | "TN" | "TT";
  readonly sides: readonly [m: number, n: number, k: number];
  readonly dtypes: Dtypes;
  readonly bar?: number;
  readonly epilogue?: ProductEpilogue;
  /** Items, which share A. */
  readonly batch?: number;
}

const half: Dtypes = ["float16", "float16", "float16"];
const gradient: Dtypes = ["float16", "float16", "float32"];
const single: Dtypes = ["float32", "float32", "float32"];
const activated = { bias: "columns", activation: "silu", keeps: true } as const;

/** Products of models of width 768 at 65,536 tokens: x·Wᵀ, dy·W, dyᵀ·x; squares; the vocabulary in chunks of tokens. */
const cases: readonly Case[] = [
  { name: "square", form: "NN", sides: [4096, 4096, 4096], dtypes: half, bar: 300 },
  { name: "square", form: "NT", sides: [4096, 4096, 4096], dtypes: half, bar: 300 },
  { name: "up", form: "NT", sides: [65_536, 3072, 768], dtypes: half, bar: 270 },
  { name: "down", form: "NT", sides: [65_536, 768, 3072], dtypes: half, bar: 270 },
  { name: "up, dx", form: "NN", sides: [65_536, 768, 3072], dtypes: half, bar: 220 },
  { name: "down, dx", form: "NN", sides: [65_536, 3072, 768], dtypes: half, bar: 220 },
  {
    name: "up, dW",
    form: "TN",
    sides: [3072, 768, 65_536],
    dtypes: gradient,
    bar: 220,
    epilogue: { accumulate: true },
  },
  {
    name: "down, dW",
    form: "TN",
    sides: [768, 3072, 65_536],
    dtypes: gradient,
    bar: 220,
    epilogue: { accumulate: true },
  },
  { name: "few terms", form: "NT", sides: [65_536, 768, 256], dtypes: half, bar: 200 },
  { name: "few columns", form: "NT", sides: [65_536, 256, 768], dtypes: half, bar: 200 },
  { name: "square, float32", form: "NN", sides: [4096, 4096, 4096], dtypes: single, bar: 25 },
  { name: "square, float32", form: "NT", sides: [4096, 4096, 4096], dtypes: single, bar: 25 },
  {
    name: "up, activated",
    form: "NT",
    sides: [65_536, 3072, 768],
    dtypes: half,
    epilogue: activated,
  },
  {
    name: "in-projection",
    form: "NT",
    sides: [2304, 8192, 768],
    dtypes: half,
    batch: 8,
    epilogue: { bias: "rows" },
  },
  { name: "logits", form: "NT", sides: [8192, 50_304, 768], dtypes: half },
  { name: "logits, dx", form: "NN", sides: [8192, 768, 50_304], dtypes: half },
  {
    name: "logits, dW",
    form: "TN",
    sides: [50_304, 768, 8192],
    dtypes: gradient,
    epilogue: { accumulate: true },
  },
  { name: "small", form: "NT", sides: [8192, 64, 64], dtypes: half },
];

/** Sides of a quick run, which a processor that plays the GPU computes in seconds. */
const quickSide = 96;

function problemOf({ form, sides, dtypes, batch = 1, epilogue = {} }: Case): ProductProblem {
  const [m, n, k] = sides;
  const matrix = (rows: number, columns: number, which: number, one = false): Matrix => {
    const transposed = form[which] === "T";
    const stride = transposed ? rows : columns;
    return { transposed, stride, batchStride: one ? 0 : rows * columns, dtype: dtypes[which]! };
  };
  return {
    ...{ batch, m, n, k, sumsBatch: false, epilogue },
    ...{ a: matrix(m, k, 0, batch > 1), b: matrix(k, n, 1), c: matrix(m, n, 2) },
  };
}

/** Where each operand begins in the pool of samples. */
const starts = { a: 0, b: 300_007, z: 500_009, residual: 700_001, bias: 900_001 } as const;

/** Sums that are checked: at corners, and at places in between. */
function checkedCells({ m, n }: ProductProblem, items: number): readonly (readonly number[])[] {
  const corners = [0, m - 1].flatMap((i) => [0, n - 1].map((j) => [0, i, j] as const));
  const inner = Array.from({ length: 28 }, (_, t) => {
    const share = (salt: number): number => (((t + 1) * salt) % 1009) / 1009;
    return [t % items, Math.floor(share(433) * m), Math.floor(share(617) * n)] as const;
  });
  return [...corners, ...inner];
}

/** A plan, bound, and its times. */
interface Candidate {
  readonly plan: GpuProductPlan;
  readonly bound: BoundSchedule<CommandTarget>;
  readonly error: number;
  readonly ms: number[];
  calls: number;
}

/** The buffers of a product. */
class Operands {
  readonly problem: ProductProblem;
  readonly buffers: Record<string, GPUBuffer> = {};
  readonly #device: GPUDevice;
  #expected: number[] | undefined;

  constructor(device: GPUDevice, problem: ProductProblem) {
    this.problem = problem;
    this.#device = device;
    const { m, n, k, batch, a, b, c, epilogue } = problem;
    const put = (
      name: ProductBuffer,
      count: number,
      dtype: Matrix["dtype"],
      start: number,
    ): void => {
      this.buffers[name] = fill(device, [count], dtype, start).data as GPUBuffer;
    };
    const cells = itemsOf(problem) * m * n;
    put("a", a.batchStride === 0 ? m * k : batch * m * k, a.dtype, starts.a);
    put("b", batch * k * n, b.dtype, starts.b);
    for (const name of ["c", "z", "residual", "sum"] as const)
      if (
        name === "c" ||
        (name === "sum" ? epilogue.keeps : epilogue[name === "z" ? "slope" : name])
      )
        put(name, cells, c.dtype, starts.z);
    if (epilogue.bias) put("bias", Math.max(m, n), "float32", starts.bias);
  }

  /** Sums of products in float64: what `sum` holds, or C where there is no activation. */
  #exact([item = 0, i = 0, j = 0]: readonly number[]): number {
    const { a, b, k, epilogue } = this.problem;
    const along = (which: Matrix, start: number, row: number, inner: boolean): Float64Array => {
      const strided = which.transposed === inner;
      const from = item * which.batchStride + (strided ? row : row * which.stride);
      return filled(which.dtype, start, { from, count: k, apart: strided ? which.stride : 1 });
    };
    const left = along(a, starts.a, i, true);
    const right = along(b, starts.b, j, false);
    const bias = epilogue.bias === "rows" ? i : j;
    const more = epilogue.bias ? filled("float32", starts.bias, { from: bias, count: 1 })[0]! : 0;
    return left.reduce((sum, x, q) => sum + x * right[q]!, more);
  }

  clear(): void {
    const encoder = this.#device.createCommandEncoder();
    encoder.clearBuffer(this.buffers.c!);
    this.#device.queue.submit([encoder.finish()]);
  }

  /** The relative error of some cells: their words alone are read. */
  async error(): Promise<number> {
    const { c, epilogue } = this.problem;
    const cells = checkedCells(this.problem, itemsOf(this.problem));
    this.#expected ??= cells.map((cell) => this.#exact(cell));
    const each = c.dtype === "float32" ? 1 : 2;
    const places = cells.map(([item = 0, i = 0, j = 0]) => item * c.batchStride + i * c.stride + j);
    const words = this.#device.createBuffer({ size: 4 * places.length, usage });
    const encoder = this.#device.createCommandEncoder();
    const from = this.buffers[epilogue.keeps ? "sum" : "c"]!;
    places.forEach((at, w) => {
      encoder.copyBufferToBuffer(from, 4 * Math.floor(at / each), words, 4 * w, 4);
    });
    this.#device.queue.submit([encoder.finish()]);
    const bytes = await readBytes(this.#device, words, 4 * places.length);
    words.destroy();
    const stored = each === 1 ? new Float32Array(bytes) : new Uint16Array(bytes);
    const found = decode(stored, c.dtype);
    return relativeError(
      places.map((at, w) => found[each * w + (at % each)]!),
      this.#expected,
    );
  }

  destroy(): void {
    for (const buffer of Object.values(this.buffers)) buffer.destroy();
  }
}

/** The answers' largest errors: what rounding C costs, and twice as much. */
const largestError = { float32: 2e-6, float16: 4e-4 } as const;

/** Milliseconds of so many calls in one submission. */
async function timed(device: GPUDevice, { bound }: Candidate, calls: number): Promise<number> {
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  for (let i = 0; i < calls; i++) bound.encode(pass);
  pass.end();
  return timedSubmission(device, encoder);
}

/** Every tile under the number of splits that is cheapest for it. */
function candidatePlans(problem: ProductProblem, backend: WebGpuBackend): GpuProductPlan[] {
  const limits = backend.limits(2 ** 30);
  const tiles = productTiles(problem, limits).map((tile) =>
    plansOfTile(problem, tile, limits).reduce((a, b) => (b.seconds < a.seconds ? b : a)),
  );
  const cheapest = tiles.toSorted((a, b) => a.seconds - b.seconds);
  return backend.isSoftware ? cheapest.slice(0, 2) : cheapest;
}

/** Reads cases as JSON, answers the sorted milliseconds of each. */
const torchScript = `
import json, sys, torch
torch.backends.cuda.matmul.allow_tf32 = False
for c in json.load(sys.stdin):
    (m, n, k), batch = c["sides"], c.get("batch", 1)
    def random(rows, columns, turned, items=()):
        shape = (*items, columns, rows) if turned else (*items, rows, columns)
        x = torch.randn(shape, device="cuda", dtype=getattr(torch, c["dtypes"][0]))
        return x.mT if turned else x
    a = random(m, k, c["form"][0] == "T")
    b = random(k, n, c["form"][1] == "T", (batch,) if batch > 1 else ())
    calls = max(2, int(4e12 / (2 * batch * m * n * k))) if c["dtypes"][0] == "float16" else 4
    for _ in range(calls): a @ b
    times = []
    for _ in range(c["rounds"]):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls): a @ b
        end.record(); torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / calls)
    print(json.dumps(sorted(times)), flush=True)
`;

/** Milliseconds of PyTorch's products, one list for each case; fewer where there is no PyTorch, or it fails. */
function torchTimes(chosen: readonly Case[], rounds: number): number[][] {
  const input = JSON.stringify(chosen.map((each) => ({ ...each, rounds })));
  const { status, stdout, stderr, error } = spawnSync("python3", ["-c", torchScript], {
    ...{ input, encoding: "utf8" },
  });
  if (status !== 0)
    console.log(`no PyTorch: ${error?.message ?? stderr.trim().split("\n").at(-1)}`);
  return (stdout ?? "")
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as number[]);
}

/** One case: checked, woken, timed by turns. */
async function runCase(
  backend: WebGpuBackend,
  which: Case,
  rounds: number,
  torch: readonly number[] | undefined,
): Promise<GpuProductRecord> {
  const { device } = backend;
  const problem = problemOf(which);
  const operands = new Operands(device, problem);
  const { batch, m, n, k, c, epilogue } = problem;
  const tflops = (ms: number): number => round((2 * batch * m * n * k) / ms / 1e9);
  const plans = candidatePlans(problem, backend);
  const limits = backend.limits(2 ** 30);
  const schedules = plans.map((plan) => plannedProduct(problem, plan, limits));
  const scratch = Math.max(4, ...schedules.map(({ bytes }) => bytes.scratch ?? 0));
  operands.buffers.scratch = device.createBuffer({ size: scratch, usage: 0x80 });
  const prepared = await Promise.all(schedules.map((s) => backend.prepare(s, "bench products")));
  const ranges = Object.fromEntries(
    Object.entries(operands.buffers).map(([name, buffer]) => [name, { buffer }]),
  );
  const candidates: Candidate[] = [];
  for (const [i, plan] of plans.entries()) {
    const bound = prepared[i]!.bind(ranges, []);
    const candidate: Candidate = { plan, bound, error: 0, ms: [], calls: 1 };
    operands.clear();
    await timed(device, candidate, 1);
    const error = await operands.error();
    if (!(error < largestError[c.dtype]))
      throw new Error(`${which.name}: ${describeProductPlan(plan)} is wrong by ${error}`);
    candidate.calls = Math.max(
      1,
      Math.min(200, Math.ceil(20 / (await timed(device, candidate, 1)))),
    );
    candidates.push({ ...candidate, error });
  }
  // An idle GPU runs at a fraction of its clock.
  const wakingMs = backend.isSoftware ? 0 : 300;
  for (const start = performance.now(); performance.now() - start < wakingMs; )
    await timed(device, candidates[0]!, candidates[0]!.calls);
  for (let r = 0; r < rounds; r++)
    for (const each of candidates)
      each.ms.push((await timed(device, each, each.calls)) / each.calls);
  for (const { ms } of candidates) ms.sort((x, y) => x - y);
  operands.destroy();
  for (const { plan, ms } of candidates.toSorted((x, y) => x.ms[0]! - y.ms[0]!))
    console.log(
      `  ${String(tflops(ms[0]!)).padStart(6)} at best, ${String(tflops(median(ms))).padStart(6)}  ${describeProductPlan(plan)}, expected ${tflops(1e3 * plan.seconds)}`,
    );
  const [own] = candidates;
  const best = candidates.reduce((x, y) => (median(y.ms) < median(x.ms) ? y : x));
  return {
    ...{
      case: which.name,
      form: which.form,
      batch,
      m,
      n,
      k,
      dtypes: which.dtypes.join(),
      epilogue,
    },
    plan: describeProductPlan(own!.plan),
    ...{ ms: round(median(own!.ms)), min_ms: round(own!.ms[0]!) },
    ...{ predicted_ms: round(1e3 * own!.plan.seconds), tflops: tflops(median(own!.ms)) },
    ...{ bar_tflops: which.bar ?? null, rel_error: own!.error },
    best: best === own ? null : describeProductPlan(best.plan),
    best_tflops: tflops(median(best.ms)),
    torch_ms: torch ? round(median(torch)) : null,
    torch_tflops: torch ? tflops(median(torch)) : null,
    ...{ rounds, adapter: backend.name, node: process.version },
  };
}

/** All cases whose name, as printed, fits; a quick run computes small ones. */
export async function runProductsGpu(
  only: RegExp,
  quick: boolean,
  json: string | undefined,
): Promise<void> {
  const backend = await WebGpuBackend.open(undefined, "bench products");
  const nameOf = (each: Case): string => `${each.name} ${each.form} ${each.sides.join("×")}`;
  const chosen = cases.filter((each) => only.test(nameOf(each)));
  const rounds = quick ? 1 : 5;
  const torch = backend.isSoftware ? [] : torchTimes(chosen, rounds);
  for (const [i, each] of chosen.entries()) {
    const [m, n, k] = each.sides.map((side) => Math.min(side, quickSide)) as [
      number,
      number,
      number,
    ];
    const which = quick ? { ...each, sides: [m, n, k] as const } : each;
    console.log(`${nameOf(each)}${each.bar ? `, wanted ${each.bar} TFLOP/s` : ""}`);
    const record = await runCase(backend, which, rounds, torch[i]);
    const peer = record.torch_tflops === null ? "" : `   PyTorch ${record.torch_tflops}`;
    console.log(`${record.tflops} TFLOP/s  ${record.ms} ms  error ${record.rel_error}${peer}\n`);
    if (json !== undefined) appendRecords(json, [record]);
  }
  backend.device.destroy();
}
