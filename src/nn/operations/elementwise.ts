/** Operations on each number by itself: sums, products, activations, gated units, dropout. */
import type { ActivationName } from "../../math/activation.ts";
import { activations } from "../../math/activation.ts";
import type { Node } from "../../math/expr.ts";
import type { TapeTensor } from "../tape.ts";
import { checkShape, misshapen } from "../tensor.ts";
import { Rows, rowsOver } from "./rows.ts";
import { gradientSums } from "./sums.ts";

/** a + b, of one shape. */
export function add(a: TapeTensor, b: TapeTensor): TapeTensor {
  checkShape(a.tape.place || "add", b, a.shape);
  const sum = gradientSums.add(a, b);
  a.tape.operation({ inputs: [a, b], outputs: [sum], gradient: ([d]) => [d, d] });
  return sum;
}

/** a ⊙ b, of one shape. */
export function multiplied(a: TapeTensor, b: TapeTensor): TapeTensor {
  const { tape } = a;
  checkShape(tape.place || "multiply", b, a.shape);
  const times = (x: TapeTensor, y: TapeTensor): TapeTensor => {
    const rows = rowsOver(x);
    const product = tape.tensor(x.shape, x.storage);
    rows.store(product, rows.g.mul(rows.cell(x), rows.cell(y)));
    rows.run();
    return product;
  };
  const product = times(a, b);
  tape.operation({
    inputs: [a, b],
    outputs: [product],
    gradient: ([d]) => [times(d!, b), times(d!, a)],
  });
  return product;
}

/** One of the activations of the library, by its name: `gelu`, `gelu-exact`, `silu`, `relu`. */
export function activation(x: TapeTensor, name: ActivationName): TapeTensor {
  const { value, slope } = activations[name];
  const { tape } = x;
  const y = tape.tensor(x.shape, x.storage);
  const rows = rowsOver(x);
  rows.store(y, value(rows.g, rows.cell(x)));
  rows.run();
  tape.operation({
    inputs: [x],
    outputs: [y],
    gradient: ([d]) => {
      const back = rowsOver(x);
      const dx = tape.tensor(x.shape, x.storage);
      back.store(dx, back.g.mul(back.cell(d!), slope(back.g, back.cell(x))));
      back.run();
      return [dx];
    },
  });
  return y;
}

/**
 * A gated linear unit: the first half of each row times σ of the second (`sigmoid`), or times another activation of it.
 * @param x (…, 2N)
 * @returns (…, N)
 */
export function glu(x: TapeTensor, name: ActivationName = "sigmoid"): TapeTensor {
  const { tape } = x;
  if (x.width % 2 !== 0) throw misshapen(tape.place || "glu", "an even width", x.width);
  const width = x.width / 2;
  const { value, slope } = activations[name];
  const shape = { rows: x.rows, columns: width };
  const [left, right] = [{ stride: x.width }, { stride: x.width, offset: width }];
  const y = tape.tensor([...x.shape.slice(0, -1), width], x.storage);
  const rows = new Rows(tape, shape);
  rows.store(y, rows.g.mul(rows.cell(x, left), value(rows.g, rows.cell(x, right))));
  rows.run();
  tape.operation({
    inputs: [x],
    outputs: [y],
    gradient: ([d]) => {
      const dx = tape.tensor(x.shape, x.storage);
      const half = (place: typeof left, factor: (g: Rows["g"], a: Node, b: Node) => Node): void => {
        const back = new Rows(tape, shape);
        const value = factor(back.g, back.cell(x, left), back.cell(x, right));
        back.store(dx, back.g.mul(back.cell(d!), value), place);
        back.run();
      };
      half(left, (g, _, b) => value(g, b));
      half(right, (g, a, b) => g.mul(a, slope(g, b)));
      return [dx];
    },
  });
  return y;
}

/**
 * Set each number to 0 with probability `rate` in training, and scale the others by 1/(1 − rate). Which ones is computed again for
 * the gradient, from the step's seed: no mask is kept. A residual is added behind it.
 */
export function dropout(x: TapeTensor, rate: number, residual?: TapeTensor): TapeTensor {
  const { tape } = x;
  if (!(rate >= 0 && rate < 1))
    throw misshapen(tape.place || "dropout", "a rate from 0 to 1", rate);
  if (rate === 0 || !tape.training) return residual ? add(residual, x) : x;
  const stream = tape.nextStream();
  const seed = tape.state("seed", [], "uint32");
  const drop = (from: TapeTensor, and?: TapeTensor): TapeTensor => {
    const to = tape.tensor(from.shape, from.storage);
    const rows = rowsOver(from);
    const { g } = rows;
    const drawn = rows.along.random(rows.scalar(seed), stream);
    const kept = g.mul(rows.cell(from), g.constant(1 / (1 - rate)));
    // A number below the rate is dropped: rate − drawn > 0.
    const value = g.select(g.sub(g.constant(rate), drawn), g.constant(0), kept);
    rows.store(to, and ? g.add(value, rows.cell(and)) : value);
    rows.run();
    return to;
  };
  const y = drop(x, residual);
  tape.operation({
    inputs: [x, ...(residual ? [residual] : [])],
    outputs: [y],
    gradient: ([d]) => [drop(d!), ...(residual ? [d] : [])],
  });
  return y;
}
