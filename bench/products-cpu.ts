/**
 * Matrix products on the CPU, in GFLOP/s: ours on one thread and on two, beside a loop of the same instructions that stays in
 * registers, and XNNPACK through tfjs-backend-wasm on one thread where that is installed:
 * `npm install --no-save @tensorflow/tfjs-core @tensorflow/tfjs-backend-wasm` (66 MB, which no other command needs).
 */
import { openCpu } from "../src/backend/cpu/backend.ts";
import type { Instructions } from "../src/backend/cpu/features.ts";
import { features } from "../src/backend/cpu/features.ts";
import { compileProduct, runProduct } from "../src/calls/cpu-product.ts";
import type { Statement } from "../src/kernels/cpu/ir.ts";
import { loop } from "../src/kernels/cpu/ir.ts";
import { printWasm } from "../src/kernels/cpu/print/wasm.ts";
import { Graph } from "../src/math/expr.ts";
import { registerTiles } from "../src/plan/cpu/product.ts";
import type { Matrix, ProductEpilogue, ProductProblem } from "../src/plan/product.ts";
import { normalSource } from "../src/reference/random.ts";
import { appendRecords, describeMachine, type Machine, round } from "./records.ts";

type Form = "NN" | "NT" | "TN" | "TT";
type Case = readonly [m: number, n: number, k: number, form: Form, epilogue?: ProductEpilogue];

const cases: readonly Case[] = [
  [256, 256, 256, "NN"],
  [512, 512, 512, "NN"],
  [1024, 768, 768, "NN"],
  ...(["NT", "TN", "TT"] as const).map((form): Case => [1024, 768, 768, form]),
  [16384, 384, 128, "NT", { bias: "columns" }],
  [4096, 1536, 384, "NT", { bias: "columns", activation: "silu", keeps: true }],
  [384, 1536, 16384, "TN", { accumulate: true }],
  [128, 128, 16384, "TN", { accumulate: true }],
  [1024, 64, 5, "NT", { bias: "columns" }],
  [1024, 64, 64, "NT", { bias: "columns" }],
  [1, 768, 768, "NT"],
  [1, 768, 768, "NN"],
  [1, 768, 3072, "NT"],
];

const gflops = ([m, n, k]: Case, ms: number): number => round((2 * m * n * k) / ms / 1e6);

/** Calls of one contender, timed. */
interface ProductContender {
  readonly name: string;
  run(): void | Promise<void>;
  dispose(): void;
}

function problemOf([m, n, k, form, epilogue = {}]: Case): ProductProblem {
  const matrix = (transposed: boolean, rows: number, columns: number): Matrix => {
    const stride = transposed ? rows : columns;
    return { transposed, stride, batchStride: 0, dtype: "float32" };
  };
  return {
    ...{ batch: 1, m, n, k, sumsBatch: false, epilogue },
    a: matrix(form[0] === "T", m, k),
    b: matrix(form[1] === "T", k, n),
    c: matrix(false, m, n),
  };
}

const names = ["a", "b", "c", "bias", "sum"] as const;

async function openOursOn(
  instructions: Instructions,
  which: Case,
  threads: number,
): Promise<ProductContender> {
  const backend = openCpu({ instructions, shared: threads > 1 }, "bench");
  const problem = problemOf(which);
  const product = await compileProduct(backend, problem, threads, "bench");
  const { m, n, k } = problem;
  const sizes = { a: m * k, b: k * n, c: m * n, bias: n, sum: m * n };
  const blocks = names.map((name) => backend.allocate(4 * sizes[name], "bench"));
  const source = normalSource(1);
  names.forEach((name, i) => {
    const view = new Float32Array(backend.arena.buffer, blocks[i]!.address, sizes[name]);
    for (let at = 0; at < view.length; at++) view[at] = name === "c" ? 0 : source() / 8;
  });
  const at = Object.fromEntries(names.map((name, i) => [name, blocks[i]!.address]));
  const user = { threads, workspaceBytes: 0 };
  backend.retain(user);
  const addresses = at as Record<(typeof names)[number], number>;
  const run = () => runProduct(backend, product, addresses, "bench");
  await run();
  const of = (name: "a" | "b" | "c" | "bias", i: number): number =>
    new Float32Array(backend.arena.buffer, at[name])[i]!;
  const { a, b, epilogue } = problem;
  // A wrong answer has no speed: the last cell, where no activation hides the sum.
  let last = epilogue.bias ? of("bias", n - 1) : 0;
  for (let l = 0; l < k; l++) {
    const x = of("a", a.transposed ? l * a.stride + m - 1 : (m - 1) * a.stride + l);
    last += x * of("b", b.transposed ? (n - 1) * b.stride + l : l * b.stride + n - 1);
  }
  if (!epilogue.activation && !(Math.abs(of("c", m * n - 1) - last) < 1e-5 * Math.sqrt(k)))
    throw new Error(`products: the last cell is ${of("c", m * n - 1)} and must be ${last}`);
  return {
    name: `ours × ${threads}`,
    run,
    dispose() {
      for (const block of blocks) backend.arena.free(block);
      backend.releaseProgram(product.program);
      backend.release(user);
    },
  };
}

/** Rounds of the register-only loop. */
const rounds = 20_000;

/** GFLOP a call of the loop of the tile's instructions, in registers alone. */
function openRoofline(instructions: Instructions): ProductContender & { readonly gflop: number } {
  const { rows, vectors, lanes } = registerTiles[instructions];
  const sums = Array.from({ length: rows * vectors }, (_, i) => `sum${i}`);
  const g = new Graph();
  const [a, b] = [g.register("a"), g.register("b")];
  const registers = sums.map((register) => ({
    name: register,
    value: g.fma(a, b, g.register(register)),
  }));
  const start = ["a", "b", ...sums].map((name, i) => ({
    name,
    value: g.load({ pointer: "at", offset: 16 * i }, "float32"),
  }));
  const stores = sums.map((register, i) => ({
    at: { pointer: "at", offset: 16 * i },
    ...({ format: "float32", value: g.register(register), first: 0, last: 4 } as const),
  }));
  const steps = Array.from(
    { length: 4 },
    (): Statement => ({ op: "block", stores: [], registers }),
  );
  const body: Statement[] = [
    { op: "block", stores: [], registers: start },
    loop("i", 0, rounds, 1, steps),
    { op: "block", stores },
  ];
  const module = { lanes, functions: [{ name: "spin", parameters: ["at"], body, exported: true }] };
  const relaxed = instructions === "relaxed-simd";
  const bytes = printWasm(module, { relaxed, sharedPages: undefined });
  const memory = new WebAssembly.Memory({ initial: 1 });
  const code = new WebAssembly.Module(bytes as Uint8Array<ArrayBuffer>);
  const { exports } = new WebAssembly.Instance(code, { env: { memory } });
  return {
    name: "registers",
    gflop: (2 * 4 * lanes * sums.length * rounds) / 1e9,
    run: () => (exports.spin as (at: number) => void)(0),
    dispose() {},
  };
}

/** As much of tfjs as is needed. */
interface Tensor {
  dispose(): void;
}
interface TensorFlow {
  setBackend(name: string): Promise<boolean>;
  ready(): Promise<void>;
  randomNormal(shape: readonly number[]): Tensor;
  matMul(a: Tensor, b: Tensor, transposeA: boolean, transposeB: boolean): Tensor;
}

async function loadTensorFlow(): Promise<TensorFlow | undefined> {
  const [core, wasm] = ["@tensorflow/tfjs-core", "@tensorflow/tfjs-backend-wasm"];
  try {
    const tf = (await import(core)) as TensorFlow;
    await import(wasm);
    await tf.setBackend("wasm");
    await tf.ready();
    return tf;
  } catch (error) {
    if ((error as { code?: string }).code !== "ERR_MODULE_NOT_FOUND") throw error;
    return undefined;
  }
}

/** In form NN whatever ours is: tfjs has others in plain loops, at 1 GFLOP/s. It packs B in the first call alone. */
function openXnnpack(tf: TensorFlow, [m, n, k]: Case): ProductContender {
  const [a, b] = [tf.randomNormal([m, k]), tf.randomNormal([k, n])];
  return {
    name: "XNNPACK",
    run: () => tf.matMul(a, b, false, false).dispose(),
    dispose() {
      a.dispose();
      b.dispose();
    },
  };
}

/** Least milliseconds of a call of each, by rounds that alternate. */
async function leastTimes(
  contenders: readonly ProductContender[],
  rounds: number,
  roundMs: number,
): Promise<number[]> {
  const least = contenders.map(() => Number.POSITIVE_INFINITY);
  const calls = contenders.map(() => 1);
  for (let r = 0; r < rounds; r++) {
    for (const [i, { run }] of contenders.entries()) {
      const start = performance.now();
      for (let call = 0; call < calls[i]!; call++) {
        const running = run();
        if (running) await running;
      }
      const ms = (performance.now() - start) / calls[i]!;
      if (r > 0) least[i] = Math.min(least[i]!, ms);
      calls[i] = Math.max(1, Math.round(roundMs / ms));
    }
  }
  return least;
}

/** One product's speeds, in GFLOP/s. */
export interface ProductRecord extends Machine {
  readonly case: string;
  readonly threads: number;
  readonly gflops: number;
  /** Of the loop in registers, on one thread. */
  readonly registers: number;
  /** gflops / (threads · registers) */
  readonly share: number;
  /** XNNPACK's, on one thread; null where it is not installed. */
  readonly xnnpack: number | null;
}

/** Measure all cases whose names match. */
export async function runProductsCpu(
  threads: readonly number[],
  only: RegExp,
  quick: boolean,
  json: string | undefined,
): Promise<ProductRecord[]> {
  const instructions = features().relaxedSimd ? "relaxed-simd" : "simd";
  const machine = describeMachine(instructions);
  const tf = await loadTensorFlow();
  const all: ProductRecord[] = [];
  for (const which of cases) {
    const [m, n, k, form, epilogue = {}] = which;
    const name = [`${m}×${n}×${k}`, form, ...Object.values(epilogue)].join(" ");
    if (!only.test(name)) continue;
    const roofline = openRoofline(instructions);
    const ours = [];
    for (const count of threads) ours.push(await openOursOn(instructions, which, count));
    const contenders = [roofline, ...ours, ...(tf ? [openXnnpack(tf, which)] : [])];
    const least = await leastTimes(contenders, quick ? 9 : 41, quick ? 5 : 10);
    for (const c of contenders) c.dispose();
    const registers = round((1e3 * roofline.gflop) / least[0]!);
    threads.forEach((count, i) => {
      const speed = gflops(which, least[1 + i]!);
      const record: ProductRecord = {
        ...{ case: name, threads: count, gflops: speed, registers },
        share: round(speed / count / registers),
        xnnpack: tf ? gflops(which, least.at(-1)!) : null,
        ...machine,
      };
      all.push(record);
      const peer = record.xnnpack === null ? "" : `   XNNPACK × 1 ${record.xnnpack}`;
      console.log(
        `${name.padEnd(38)} ${count} thread${count > 1 ? "s" : " "}  ${String(speed).padStart(6)} GFLOP/s  ${(100 * record.share).toFixed(0).padStart(3)} % of ${registers}${peer}`,
      );
      if (json !== undefined) appendRecords(json, [record]);
    });
  }
  return all;
}
