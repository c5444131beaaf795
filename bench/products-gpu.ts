/**
 * `npm run bench -- products --device`: matrix products on the GPU, in TFLOP/s. Every tile that serves a product takes part, under the
 * number of splits that the planner likes best for it; answers are checked against float64 first, and times are taken by turns. The
 * planner's own choice is the record, with PyTorch's product (cuBLAS) where there is PyTorch with CUDA.
 */
import { spawnSync } from "node:child_process";
import type { BoundSchedule } from "../src/backend/gpu.ts";
import type { CommandTarget } from "../src/backend/webgpu/compiled.ts";
import { WebGpuBackend } from "../src/backend/webgpu/device.ts";
import type { GpuProductPlan } from "../src/plan/gpu/product.ts";
import { describeProductPlan, plansOfTile, productTiles } from "../src/plan/gpu/product.ts";
import type { ProductEpilogue, ProductProblem } from "../src/plan/product.ts";
import { plannedProduct } from "../src/schedule/product.ts";
import { timedSubmission } from "./gpu-device.ts";
import { cases, Operands, type ProductCase, problemOf, quickSide } from "./products-data.ts";
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

/** A plan, bound, and its times. */
interface Candidate {
  readonly plan: GpuProductPlan;
  readonly bound: BoundSchedule<CommandTarget>;
  readonly error: number;
  readonly ms: number[];
  calls: number;
}

/** The answers' largest errors. Rounding C to float16 costs 2.1e-4; matrix units do not round sums of products to the nearest. */
function largestError({ a, b, c }: ProductProblem): number {
  if (c.dtype === "float16") return 5e-4;
  return a.dtype === "float16" && b.dtype === "float16" ? 1e-4 : 2e-6;
}

/** What is wrong is said, and the exit code tells; the others go on: a GPU may be lent for minutes. */
function refuse(reason: string): void {
  console.log(`  ${reason}`);
  process.exitCode = 1;
}

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
function torchTimes(chosen: readonly ProductCase[], rounds: number): number[][] {
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
  which: ProductCase,
  rounds: number,
  torch: readonly number[] | undefined,
): Promise<GpuProductRecord | undefined> {
  const { device } = backend;
  const problem = problemOf(which);
  const operands = new Operands(device, problem);
  const { batch, m, n, k, epilogue } = problem;
  const tflops = (ms: number): number => round((2 * batch * m * n * k) / ms / 1e9);
  const plans = candidatePlans(problem, backend);
  const limits = backend.limits(2 ** 30);
  const schedules = plans.map((plan) => plannedProduct(problem, plan, limits));
  const scratch = Math.max(4, ...schedules.map(({ bytes }) => bytes.scratch ?? 0));
  operands.buffers.scratch = device.createBuffer({ size: scratch, usage: 0x80 });
  const prepared = await Promise.allSettled(
    schedules.map((s) => backend.prepare(s, "bench products")),
  );
  const ranges = Object.fromEntries(
    Object.entries(operands.buffers).map(([name, buffer]) => [name, { buffer }]),
  );
  const candidates: Candidate[] = [];
  for (const [i, plan] of plans.entries()) {
    const made = prepared[i]!;
    if (made.status === "rejected") {
      refuse(`${describeProductPlan(plan)} does not compile: ${made.reason}`);
      continue;
    }
    const bound = made.value.bind(ranges, []);
    const candidate: Candidate = { plan, bound, error: 0, ms: [], calls: 1 };
    operands.clear();
    await timed(device, candidate, 1);
    const error = await operands.error();
    if (!(error < largestError(problem))) {
      refuse(`${describeProductPlan(plan)} is wrong by ${error}`);
      continue;
    }
    candidate.calls = Math.max(
      1,
      Math.min(200, Math.ceil(20 / (await timed(device, candidate, 1)))),
    );
    candidates.push({ ...candidate, error });
  }
  if (candidates.length === 0) {
    operands.destroy();
    return undefined;
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
  const nameOf = (each: ProductCase): string => `${each.name} ${each.form} ${each.sides.join("×")}`;
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
    const record = await runCase(backend, which, rounds, torch[i]).catch(refuse);
    if (!record) continue;
    const peer = record.torch_tflops === null ? "" : `   PyTorch ${record.torch_tflops}`;
    console.log(`${record.tflops} TFLOP/s  ${record.ms} ms  error ${record.rel_error}${peer}\n`);
    if (json !== undefined) appendRecords(json, [record]);
  }
  backend.device.destroy();
}
