/** The products that `bench -- products --device` measures, their operands, and some of their cells in float64. */
import { decode } from "../src/dtype.ts";
import { itemsOf } from "../src/plan/gpu/product.ts";
import type {
  Matrix,
  ProductBuffer,
  ProductEpilogue,
  ProductProblem,
} from "../src/plan/product.ts";
import { relativeError } from "../src/reference/convolution.ts";
import { fill, filled, usage } from "./gpu-data.ts";
import { readBytes } from "./gpu-device.ts";

type Dtypes = readonly [a: Matrix["dtype"], b: Matrix["dtype"], c: Matrix["dtype"]];

/** A product, and what is wanted of it in TFLOP/s. */
export interface ProductCase {
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
export const cases: readonly ProductCase[] = [
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
export const quickSide: number = 96;

export function problemOf({
  form,
  sides,
  dtypes,
  batch = 1,
  epilogue = {},
}: ProductCase): ProductProblem {
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

/** The buffers of a product. */
export class Operands {
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
