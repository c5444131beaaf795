/** Normalisation of rows: LayerNorm (Ba et al., arXiv 1607.06450) and RMSNorm (Zhang and Sennrich, arXiv 1910.07467). */
import type { Node } from "../../math/expr.ts";
import type { TapeTensor } from "../tape.ts";
import { checkShape } from "../tensor.ts";
import type { Rows } from "./rows.ts";
import { rowsOver } from "./rows.ts";

/** Weights of a normalisation. */
export interface NormParameters {
  /** (N) */
  readonly weight: TapeTensor;
  /** (N); RMSNorm has none. */
  readonly bias?: TapeTensor | undefined;
}

function norm(
  x: TapeTensor,
  { weight, bias }: NormParameters,
  eps: number,
  centred: boolean,
): TapeTensor {
  const { tape, width } = x;
  const place = tape.place || weight.label;
  checkShape(place, weight, [width]);
  if (bias) checkShape(place, bias, [width]);
  const perRow = x.shape.slice(0, -1);
  const mean = centred ? tape.tensor(perRow, "float32") : undefined;
  const scale = tape.tensor(perRow, "float32");
  const y = tape.tensor(x.shape, x.storage);
  const average = (rows: Rows, value: Node): Node =>
    rows.g.mul(rows.along.sum(value), rows.g.constant(1 / width));

  const rows = rowsOver(x);
  const { g } = rows;
  const value = rows.cell(x);
  const middle = centred ? average(rows, value) : g.constant(0);
  const apart = g.sub(value, middle);
  const deviation = g.sqrt(g.add(average(rows, g.mul(apart, apart)), g.constant(eps)));
  const inverse = g.div(g.constant(1), deviation);
  const normal = g.mul(g.mul(apart, inverse), rows.column(weight));
  rows.store(y, bias ? g.add(normal, rows.column(bias)) : normal);
  if (mean) rows.storeRow(mean, middle);
  rows.storeRow(scale, inverse);
  rows.run();

  tape.operation({
    inputs: [x, weight, ...(bias ? [bias] : [])],
    outputs: [y],
    takesCarried: true,
    gradient: ([dy], [carried]) => {
      const back = rowsOver(x);
      const b = back.g;
      const s = back.row(scale);
      const x0 = mean ? b.sub(back.cell(x), back.row(mean)) : back.cell(x);
      const unit = b.mul(x0, s);
      const d = back.cell(dy!);
      const du = b.mul(d, back.column(weight));
      const along = b.mul(unit, average(back, b.mul(du, unit)));
      const flat = centred ? b.sub(du, average(back, du)) : du;
      const own = b.mul(b.sub(flat, along), s);
      const dx = tape.sink(x, x.storage);
      // What is added to a parameter's gradient has no other gradient to carry along.
      const joins = carried && !dx.accumulate;
      back.store(dx.tensor, joins ? b.add(own, back.cell(carried)) : own, {}, dx.accumulate);
      const dweight = tape.sink(weight, "float32");
      back.columnSum(dweight.tensor, b.mul(d, unit), dweight.accumulate);
      const dbias = bias && tape.sink(bias, "float32");
      if (dbias) back.columnSum(dbias.tensor, d, dbias.accumulate);
      back.run();
      return [dx.result, dweight.result, ...(dbias ? [dbias.result] : [])];
    },
  });
  return y;
}

/**
 * (x − mean)/σ ⊙ weight + bias, of each row.
 * @param x (…, N)
 */
export function layerNorm(x: TapeTensor, p: NormParameters, eps = 1e-5): TapeTensor {
  return norm(x, p, eps, true);
}

/**
 * x/√(mean x² + eps) ⊙ weight, of each row.
 * @param x (…, N)
 */
export function rmsNorm(x: TapeTensor, p: NormParameters, eps = 1e-6): TapeTensor {
  return norm(x, p, eps, false);
}
