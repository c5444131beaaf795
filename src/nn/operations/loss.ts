/** Losses: what training makes small. Each computes its gradient on the way, while what it needs is at hand. */
import { exp, log } from "../../math/functions.ts";
import type { Tape, TapeTensor } from "../tape.ts";
import { checkShape, checkWidth, misshapen } from "../tensor.ts";
import { multiply } from "./multiply.ts";
import { Rows, rowsOver } from "./rows.ts";
import { sumDown } from "./sums.ts";

/** Bytes that the logits of a chunk may take: small enough for a binding, large enough for a product. */
const chunkBytes = 2 ** 29;

/** The mean over rows, times `weight`, of a loss. */
export interface LossOptions {
  /** What the loss counts beside others; 1 by default. */
  readonly weight?: number;
  /** Rows at once; by default as many as have logits of half a gigabyte. */
  readonly chunkRows?: number;
  /** (V), added to the logits. */
  readonly bias?: TapeTensor | undefined;
}

/**
 * Softmax cross-entropy of a linear head: the mean over rows of −log softmax(x·Wᵀ)[label]. Logits exist for some rows at a time, and
 * their gradient takes their place (Hsu et al., Liger Kernel, arXiv 2410.10989).
 * @param x (…, D)
 * @param head (V, D)
 * @param labels (…) below V; rows whose label is `entries` or more (say 2³² − 1) count for nothing.
 * @returns a scalar
 */
export function crossEntropy(
  x: TapeTensor,
  head: TapeTensor,
  labels: TapeTensor,
  options: LossOptions = {},
): TapeTensor {
  const { tape } = x;
  const place = tape.place || "crossEntropy";
  const [vocabulary = 0, width = 0] = head.shape;
  checkWidth(place, x, width);
  if (labels.storage !== "uint32") throw misshapen(place, "labels in uint32", labels.storage);
  if (labels.size !== x.rows) throw misshapen(place, `${x.rows} labels`, labels.size);
  const { weight = 1, chunkRows = chunkOf(x, vocabulary), bias } = options;
  if (bias) checkShape(place, bias, [vocabulary]);
  const rows = x.reshape(x.rows, width);
  const flat = labels.reshape(x.rows);
  const stored = x.storage === "float16" ? tape.stored(head) : head;
  const matrix = (tensor: TapeTensor, columns: number) => ({
    ...{ tensor, rows: tensor.size / columns, columns, transposed: false, batch: 1 },
  });
  const losses = tape.tensor([x.rows], "float32");
  const dx = tape.tensor(rows.shape, x.storage);
  const share = weight / x.rows;
  for (let from = 0; from < x.rows; from += chunkRows) {
    const to = Math.min(x.rows, from + chunkRows);
    const part = (of: TapeTensor): TapeTensor => of.slice(from, to);
    const logits = tape.tensor([to - from, vocabulary], x.storage);
    const [input, table] = [matrix(part(rows), width), matrix(stored, width)];
    const scores = matrix(logits, vocabulary);
    multiply(input, { ...table, rows: width, columns: vocabulary, transposed: true }, scores, {
      bias,
    });
    softmaxLoss(logits, part(flat), part(losses), share);
    if (!tape.training) continue;
    multiply(scores, table, matrix(part(dx), width));
    const sum = matrix(tape.gradientOf(head), width);
    const turned = { ...scores, rows: vocabulary, columns: to - from, transposed: true };
    multiply(turned, input, sum, { accumulate: true });
    if (bias) sumDown(logits, bias, "rows");
  }
  const weights = bias ? [head, bias] : [head];
  return lossOf(tape, losses, share, [x, ...weights], [dx, ...weights.map(() => undefined)]);
}

function chunkOf({ rows, storage }: TapeTensor, vocabulary: number): number {
  const fits = Math.floor(chunkBytes / (vocabulary * (storage === "float16" ? 2 : 4)));
  // Chunks of one size, in steps that views may begin at.
  const chunks = Math.ceil(rows / Math.max(128, fits));
  return Math.ceil(rows / chunks / 128) * 128;
}

/** The loss of each row; in training the logits become their gradient, scaled for float16. */
function softmaxLoss(
  logits: TapeTensor,
  labels: TapeTensor,
  losses: TapeTensor,
  share: number,
): void {
  const { tape } = logits;
  const rows = rowsOver(logits);
  const { g, along } = rows;
  const label = rows.row(labels);
  const counts = g.select(g.sub(g.constant(logits.width), label), g.constant(1), g.constant(0));
  const loss = (value: ReturnType<typeof rows.cell>) => {
    const apart = g.sub(value, along.max(value));
    const power = exp(g, apart);
    const sum = along.sum(power);
    rows.storeRow(losses, g.mul(counts, g.sub(log(g, sum), along.at(apart, label))));
    return { power, sum };
  };
  if (!tape.training) {
    loss(rows.cell(logits));
    rows.run();
    return;
  }
  const scale = g.mul(g.mul(rows.scalar(lossScale(tape)), g.constant(share)), counts);
  rows.inPlace(logits, (value) => {
    const { power, sum } = loss(value);
    const hit = g.sub(g.constant(0.5), distance(rows, label));
    const wanted = g.select(hit, g.constant(1), g.constant(0));
    return g.mul(scale, g.sub(g.div(power, sum), wanted));
  });
  rows.run();
}

/** |column − label| */
function distance({ g, along }: Rows, label: ReturnType<Rows["cell"]>) {
  const apart = g.sub(along.columnIndex(), label);
  return g.max(apart, g.neg(apart));
}

/** What gradients are multiplied with on the way back, so that float16 holds them; the optimiser divides by it. */
export function lossScale(tape: Tape): TapeTensor {
  return tape.state("loss scale");
}

/**
 * The mean of squared differences.
 * @param x, target of one shape
 * @returns a scalar
 */
export function meanSquaredError(
  x: TapeTensor,
  target: TapeTensor,
  options: LossOptions = {},
): TapeTensor {
  const { tape } = x;
  const { weight = 1 } = options;
  checkShape(tape.place || "meanSquaredError", target, x.shape);
  const losses = tape.tensor([x.rows], "float32");
  const dx = tape.tensor(x.shape, x.storage);
  const share = weight / x.size;
  const rows = rowsOver(x);
  const { g } = rows;
  const apart = g.sub(rows.cell(x), rows.cell(target));
  rows.storeRow(losses, rows.along.sum(g.mul(apart, apart)));
  if (tape.training) {
    const scale = g.mul(rows.scalar(lossScale(tape)), g.constant(2 * share));
    rows.store(dx, g.mul(apart, scale));
  }
  rows.run();
  return lossOf(tape, losses, share, [x], [dx]);
}

/** The sum of the rows' losses, which gradients begin from: dx is there already, and dW added up. */
function lossOf(
  tape: Tape,
  losses: TapeTensor,
  share: number,
  inputs: readonly TapeTensor[],
  gradients: readonly (TapeTensor | undefined)[],
): TapeTensor {
  const loss = tape.tensor([], "float32");
  const rows = new Rows(tape, { rows: losses.size, columns: 1 });
  rows.total(loss, rows.g.mul(rows.row(losses), rows.g.constant(share)));
  rows.run();
  const shaped = gradients.map((d, i) => d && tape.view(d, inputs[i]!.shape, 0));
  tape.operation({ inputs, outputs: [loss], gradient: () => shaped });
  return loss;
}
