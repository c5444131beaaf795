/** Operations of layers written as row programs, beside what they are in float64: what row programs are for. */
import { type Dtype, decode, encode } from "../../src/dtype.ts";
import { activations } from "../../src/math/activation.ts";
import type { Node } from "../../src/math/expr.ts";
import { exp, log, sigmoid } from "../../src/math/functions.ts";
import {
  RowBuilder,
  type RowOperand,
  type RowProgram,
  type RowShape,
} from "../../src/math/row-program.ts";
import { activations64 } from "./activations64.ts";
import { normal, uniform } from "./signals.ts";

/** Storage of cells. */
export type CellType = "float32" | "float16";

/** A tensor of a case as it is bound: rounded to its type. */
export interface CaseTensor {
  readonly dtype: CellType | "uint32";
  readonly values: Float64Array;
}

/** An operation. */
export interface RowOperation {
  readonly name: string;
  readonly build: (dtype: CellType) => RowProgram;
  /** What goes in, results that are only written left out; sizes in elements. */
  readonly inputs: (shape: RowShape, dtype: CellType) => Record<string, CaseTensor>;
  /** Elements of what is only written. */
  readonly outputs?: (shape: RowShape, dtype: CellType) => Record<string, CaseTensor>;
  /** What tensors hold behind it, in float64. */
  readonly exact: (
    x: Readonly<Record<string, Float64Array>>,
    shape: RowShape,
  ) => Record<string, Float64Array>;
}

const cell = (name: string, dtype: CellType, more: Partial<RowOperand> = {}): RowOperand => ({
  ...{ name, kind: "cell", dtype, ...more },
});
const column = (name: string): RowOperand => ({ name, kind: "column", dtype: "float32" });
const row = (name: string, dtype: RowOperand["dtype"] = "float32"): RowOperand => ({
  ...{ name, kind: "row", dtype },
});
const scalar = (name: string, offset = 0, dtype: RowOperand["dtype"] = "float32"): RowOperand => ({
  ...{ name, kind: "scalar", dtype, offset },
});

/** Values as a type stores them. */
export function tensor(values: Float64Array, dtype: CaseTensor["dtype"] = "float32"): CaseTensor {
  if (dtype === "uint32") return { dtype, values };
  return { dtype, values: Float64Array.from(decode(encode(values, dtype as Dtype), dtype)) };
}

const cells = ({ rows, columns }: RowShape, seed: number, dtype: CellType): CaseTensor =>
  tensor(normal(rows * columns, seed), dtype);
const zeros = (count: number, dtype: CellType = "float32"): CaseTensor =>
  tensor(new Float64Array(count), dtype);
const size = ({ rows, columns }: RowShape): number => rows * columns;

/** A loop over the cells. */
function each({ rows, columns }: RowShape, visit: (r: number, c: number, i: number) => void): void {
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) visit(r, c, r * columns + c);
}

/** The sum along every row. */
function rowSums(shape: RowShape, value: (r: number, c: number, i: number) => number): number[] {
  const sums = new Array<number>(shape.rows).fill(0);
  each(shape, (r, c, i) => {
    sums[r] = sums[r]! + value(r, c, i);
  });
  return sums;
}

/** The hash of kernels, and the number in [0, 1) that it makes. */
export function random64(seed: number, stream: number, index: number): number {
  const hash = (key: number, n: number): number => {
    let x = key ^ n;
    x = (Math.imul(x ^ (x >>> 16), 0x85ebca6b) + key) | 0;
    x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
    return (x ^ (x >>> 16)) >>> 0;
  };
  return (hash(hash(seed, stream), index) >>> 8) * 2 ** -24;
}

const epsilon = 1e-5;

/** Mean and 1/σ of every row. */
function moments64(x: Float64Array, shape: RowShape) {
  const mean = rowSums(shape, (_r, _c, i) => x[i]! / shape.columns);
  const variance = rowSums(shape, (r, _c, i) => (x[i]! - mean[r]!) ** 2 / shape.columns);
  return { mean, scale: variance.map((v) => 1 / Math.sqrt(v + epsilon)) };
}

const elementwise = (
  name: string,
  inputs: readonly string[],
  value: (b: RowBuilder, x: readonly Node[]) => Node,
  exact: (...x: number[]) => number,
): RowOperation => ({
  name,
  build: (dtype) => {
    const b = new RowBuilder();
    b.store(
      cell("y", dtype),
      value(
        b,
        inputs.map((n) => b.input(cell(n, dtype))),
      ),
    );
    return b.finish();
  },
  inputs: (shape, dtype) =>
    Object.fromEntries(inputs.map((n, i) => [n, cells(shape, 3 + i, dtype)])),
  outputs: (shape, dtype) => ({ y: zeros(size(shape), dtype) }),
  exact: (x, shape) => ({
    y: Float64Array.from({ length: size(shape) }, (_, i) => exact(...inputs.map((n) => x[n]![i]!))),
  }),
});

const layerNorm: RowOperation = {
  name: "LayerNorm",
  build: (dtype) => {
    const b = new RowBuilder();
    const { g } = b;
    const x = b.input(cell("x", dtype));
    const share = b.input(scalar("constants"));
    const mean = g.mul(b.sum(x), share);
    const centred = g.sub(x, mean);
    const variance = g.mul(b.sum(g.mul(centred, centred)), share);
    const scale = g.div(g.constant(1), g.sqrt(g.add(variance, b.input(scalar("constants", 1)))));
    const normal = g.mul(centred, scale);
    b.store(cell("y", dtype), g.fma(normal, b.input(column("gamma")), b.input(column("beta"))));
    b.store(row("mean"), mean);
    b.store(row("scale"), scale);
    return b.finish();
  },
  inputs: (shape, dtype) => ({
    x: cells(shape, 3, dtype),
    gamma: tensor(normal(shape.columns, 4)),
    beta: tensor(normal(shape.columns, 5)),
    constants: tensor(Float64Array.of(1 / shape.columns, epsilon)),
  }),
  outputs: (shape, dtype) => ({
    y: zeros(size(shape), dtype),
    mean: zeros(shape.rows),
    scale: zeros(shape.rows),
  }),
  exact: ({ x, gamma, beta }, shape) => {
    const { mean, scale } = moments64(x!, shape);
    const y = new Float64Array(size(shape));
    each(shape, (r, c, i) => {
      y[i] = (x![i]! - mean[r]!) * scale[r]! * gamma![c]! + beta![c]!;
    });
    return { y, mean: Float64Array.from(mean), scale: Float64Array.from(scale) };
  },
};

const layerNormGradient: RowOperation = {
  name: "LayerNorm's gradient",
  build: (dtype) => {
    const b = new RowBuilder();
    const { g } = b;
    const [x, dy] = [b.input(cell("x", dtype)), b.input(cell("dy", dtype))];
    const [mean, scale] = [b.input(row("mean")), b.input(row("scale"))];
    const share = b.input(scalar("constants"));
    const unit = g.mul(g.sub(x, mean), scale);
    const d = g.mul(dy, b.input(column("gamma")));
    const first = g.mul(b.sum(d), share);
    const second = g.mul(b.sum(g.mul(d, unit)), share);
    b.store(cell("dx", dtype), g.mul(g.sub(g.sub(d, first), g.mul(unit, second)), scale));
    b.columnSum(column("dgamma"), g.mul(dy, unit), true);
    b.columnSum(column("dbeta"), dy);
    return b.finish();
  },
  inputs: (shape, dtype) => {
    const x = cells(shape, 3, dtype);
    const { mean, scale } = moments64(x.values, shape);
    return {
      ...{ x, dy: cells(shape, 4, dtype) },
      ...{ mean: tensor(Float64Array.from(mean)), scale: tensor(Float64Array.from(scale)) },
      gamma: tensor(normal(shape.columns, 5)),
      constants: tensor(Float64Array.of(1 / shape.columns)),
      dgamma: tensor(normal(shape.columns, 6)),
    };
  },
  outputs: (shape, dtype) => ({ dx: zeros(size(shape), dtype), dbeta: zeros(shape.columns) }),
  exact: ({ x, dy, gamma, mean, scale, dgamma }, shape) => {
    const unit = (r: number, i: number): number => (x![i]! - mean![r]!) * scale![r]!;
    const d = (c: number, i: number): number => dy![i]! * gamma![c]!;
    const first = rowSums(shape, (_r, c, i) => d(c, i) / shape.columns);
    const second = rowSums(shape, (r, c, i) => (d(c, i) * unit(r, i)) / shape.columns);
    const dx = new Float64Array(size(shape));
    const sums = { dgamma: Float64Array.from(dgamma!), dbeta: new Float64Array(shape.columns) };
    each(shape, (r, c, i) => {
      dx[i] = scale![r]! * (d(c, i) - first[r]! - unit(r, i) * second[r]!);
      sums.dgamma[c] = sums.dgamma[c]! + dy![i]! * unit(r, i);
      sums.dbeta[c] = sums.dbeta[c]! + dy![i]!;
    });
    return { dx, ...sums };
  },
};

const crossEntropy: RowOperation = {
  name: "softmax cross-entropy in place",
  build: (dtype) => {
    const b = new RowBuilder();
    const { g } = b;
    const logits = b.input(cell("logits", dtype));
    const label = b.input(row("labels", "uint32"));
    const factor = b.input(scalar("constants"));
    const e = (x: Node): Node => exp(g, x);
    const largest = b.max(logits);
    const shifted = g.sub(logits, largest);
    const sum = b.sum(e(shifted));
    b.total(scalar("loss"), g.mul(g.sub(log(g, sum), b.at(shifted, label)), factor), true);
    const distance = g.sub(b.columnIndex(), label);
    const isLabel = g.sub(g.constant(0.5), g.mul(distance, distance));
    const one = g.select(isLabel, g.constant(1), g.constant(0));
    const probability = g.mul(e(shifted), g.div(g.constant(1), sum));
    b.store(cell("logits", dtype), g.mul(g.sub(probability, one), factor));
    return b.finish();
  },
  inputs: (shape, dtype) => {
    const draw = uniform(9);
    const labels = Float64Array.from({ length: shape.rows }, () =>
      Math.floor(draw() * shape.columns),
    );
    return {
      logits: tensor(
        normal(size(shape), 3).map((v) => 3 * v),
        dtype,
      ),
      labels: tensor(labels, "uint32"),
      constants: tensor(Float64Array.of(0.25)),
      loss: tensor(Float64Array.of(0.5)),
    };
  },
  exact: ({ logits, labels, loss }, shape) => {
    const sums = rowSums(shape, (_r, _c, i) => Math.exp(logits![i]!));
    let total = loss![0]!;
    const result = new Float64Array(size(shape));
    each(shape, (r, c, i) => {
      const isLabel = labels![r] === c;
      if (isLabel) total += 0.25 * (Math.log(sums[r]!) - logits![i]!);
      result[i] = 0.25 * (Math.exp(logits![i]!) / sums[r]! - Number(isLabel));
    });
    return { logits: result, loss: Float64Array.of(total) };
  },
};

const dropout: RowOperation = {
  name: "dropout",
  build: (dtype) => {
    const b = new RowBuilder();
    const { g } = b;
    const random = b.random(b.input(scalar("seed", 1, "uint32")), 77);
    const kept = g.mul(b.input(cell("x", dtype)), g.constant(1.25));
    b.store(cell("y", dtype), g.select(g.sub(g.constant(0.8), random), kept, g.constant(0)));
    return b.finish();
  },
  inputs: (shape, dtype) => ({
    x: cells(shape, 3, dtype),
    seed: tensor(Float64Array.of(1, 0xfedcba98), "uint32"),
  }),
  outputs: (shape, dtype) => ({ y: zeros(size(shape), dtype) }),
  exact: ({ x, seed }) => ({
    y: x!.map((v, i) => (random64(seed![1]!, 77, i) < Math.fround(0.8) ? v * 1.25 : 0)),
  }),
};

const adamW: RowOperation = {
  name: "AdamW in place",
  build: () => {
    const b = new RowBuilder();
    const { g } = b;
    const [p, d, m, v] = ["p", "g", "m", "v"].map((n) => b.input(cell(n, "float32")));
    const s = (i: number): Node => b.input(scalar("scalars", i));
    const [rate, beta1, beta2, decay, correct1, correct2] = [0, 1, 2, 3, 4, 5].map(s);
    const one = g.constant(1);
    const mean = g.fma(g.sub(one, beta1!), d!, g.mul(beta1!, m!));
    const square = g.fma(g.mul(d!, g.sub(one, beta2!)), d!, g.mul(beta2!, v!));
    const size = g.add(g.sqrt(g.mul(square, correct2!)), g.constant(1e-8));
    const step = g.div(g.mul(mean, correct1!), size);
    const less = g.mul(p!, g.sub(one, g.mul(rate!, decay!)));
    b.store(cell("p", "float32"), g.fnma(rate!, step, less));
    b.store(cell("m", "float32"), mean);
    b.store(cell("v", "float32"), square);
    b.store(cell("g", "float32"), g.constant(0));
    return b.finish();
  },
  inputs: (shape) => ({
    p: cells(shape, 3, "float32"),
    g: cells(shape, 4, "float32"),
    m: cells(shape, 5, "float32"),
    v: tensor(normal(size(shape), 6).map((v) => v * v)),
    scalars: tensor(Float64Array.of(0.01, 0.9, 0.98, 0.1, 1.5, 2.5)),
  }),
  exact: ({ p, g, m, v, scalars }) => {
    const [rate, beta1, beta2, decay, correct1, correct2] = scalars!;
    const mean = m!.map((x, i) => beta1! * x + (1 - beta1!) * g![i]!);
    const square = v!.map((x, i) => beta2! * x + (1 - beta2!) * g![i]! ** 2);
    const step = mean.map((x, i) => (x * correct1!) / (Math.sqrt(square[i]! * correct2!) + 1e-8));
    const moved = p!.map((x, i) => x * (1 - rate! * decay!) - rate! * step[i]!);
    return { p: moved, m: mean, v: square, g: new Float64Array(p!.length) };
  },
};

const halves = (name: string, dtype: CellType, { columns }: RowShape) =>
  [0, columns].map((offset) => cell(name, dtype, { stride: 2 * columns, offset })) as [
    RowOperand,
    RowOperand,
  ];

/** Of programs that name a stride, the shape belongs to the program. */
function glu(shape: RowShape): RowOperation {
  const { rows, columns } = shape;
  const at = (r: number, c: number, half: number): number => (2 * r + half) * columns + c;
  const both = tensor(normal(2 * rows * columns, 3));
  return {
    name: "GLU and its gradient, of two halves",
    build: (dtype) => {
      const b = new RowBuilder();
      const { g } = b;
      const [a, z] = halves("h", dtype, shape).map((h) => b.input(h)) as [Node, Node];
      const gate = sigmoid(g, z);
      const dy = b.input(cell("dy", dtype));
      b.store(cell("y", dtype), g.mul(a, gate));
      const [da, dz] = halves("dh", dtype, shape);
      b.store(da, g.mul(dy, gate));
      const slope = g.mul(gate, g.sub(g.constant(1), gate));
      b.store(dz, g.mul(g.mul(dy, a), slope), true);
      return b.finish();
    },
    inputs: (_, dtype) => ({
      h: tensor(both.values, dtype),
      dy: cells(shape, 4, dtype),
      dh: tensor(normal(2 * size(shape), 5), dtype),
    }),
    outputs: (_, dtype) => ({ y: zeros(size(shape), dtype) }),
    exact: ({ h, dy, dh }) => {
      const [y, d] = [new Float64Array(size(shape)), Float64Array.from(dh!)];
      each(shape, (r, c, i) => {
        const [a, s] = [h![at(r, c, 0)]!, 1 / (1 + Math.exp(-h![at(r, c, 1)]!))];
        y[i] = a * s;
        d[at(r, c, 0)] = dy![i]! * s;
        d[at(r, c, 1)] = dh![at(r, c, 1)]! + dy![i]! * a * s * (1 - s);
      });
      return { y, dh: d };
    },
  };
}

const positions: RowOperation = {
  name: "positions, whose rows repeat, and the numbers of rows and columns",
  build: (dtype) => {
    const b = new RowBuilder();
    const { g } = b;
    const at = b.input(cell("table", "float32", { period: 7 }));
    const x = g.add(b.input(cell("x", dtype)), at);
    const numbers = g.fma(b.rowIndex(), g.constant(0.125), b.columnIndex());
    b.store(cell("y", dtype), g.fma(numbers, g.constant(1 / 64), x));
    return b.finish();
  },
  inputs: (shape, dtype) => ({
    x: cells(shape, 3, dtype),
    table: cells({ rows: 7, columns: shape.columns }, 4, "float32"),
  }),
  outputs: (shape, dtype) => ({ y: zeros(size(shape), dtype) }),
  exact: ({ x, table }, shape) => {
    const y = new Float64Array(size(shape));
    each(shape, (r, c, i) => {
      y[i] = x![i]! + table![(r % 7) * shape.columns + c]! + (r / 8 + c) / 64;
    });
    return { y };
  },
};

const squares: RowOperation = {
  name: "total of squares, and a row of maxima",
  build: (dtype) => {
    const b = new RowBuilder();
    const x = b.input(cell("x", dtype));
    b.total(scalar("sums", 1), b.sum(b.g.mul(x, x)));
    b.store(row("largest"), b.max(x), true);
    return b.finish();
  },
  inputs: (shape, dtype) => ({
    x: cells(shape, 3, dtype),
    sums: tensor(Float64Array.of(5, 6)),
    largest: tensor(normal(shape.rows, 7)),
  }),
  exact: ({ x, largest }, shape) => {
    const most = new Array<number>(shape.rows).fill(Number.NEGATIVE_INFINITY);
    each(shape, (r, _c, i) => {
      most[r] = Math.max(most[r]!, x![i]!);
    });
    return {
      sums: Float64Array.of(
        5,
        x!.reduce((sum, v) => sum + v * v, 0),
      ),
      largest: Float64Array.from(most, (m, r) => m + largest![r]!),
    };
  },
};

const bias: RowOperation = {
  name: "the gradient of a bias",
  build: (dtype) => {
    const b = new RowBuilder();
    b.columnSum(column("db"), b.input(cell("dy", dtype)), true);
    return b.finish();
  },
  inputs: (shape, dtype) => ({
    dy: cells(shape, 3, dtype),
    db: tensor(normal(shape.columns, 4)),
  }),
  exact: ({ dy, db }, shape) => {
    const sums = Float64Array.from(db!);
    each(shape, (_r, c, i) => {
      sums[c] = sums[c]! + dy![i]!;
    });
    return { db: sums };
  },
};

const { gelu } = activations;

/** All of them, for a shape. */
export const rowOperations = (shape: RowShape): readonly RowOperation[] => [
  elementwise(
    "add",
    ["a", "b"],
    ({ g }, [a, b]) => g.add(a!, b!),
    (a, b) => a! + b!,
  ),
  elementwise("GELU", ["z"], ({ g }, [z]) => gelu.value(g, z!), activations64.gelu.value),
  elementwise(
    "GELU's gradient",
    ["z", "dy"],
    ({ g }, [z, dy]) => g.mul(dy!, gelu.slope(g, z!)),
    (z, dy) => dy! * activations64.gelu.slope(z!),
  ),
  ...[layerNorm, layerNormGradient, crossEntropy, dropout, adamW, glu(shape)],
  ...[positions, squares, bias],
];
