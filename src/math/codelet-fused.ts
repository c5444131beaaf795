/**
 * The DFT for machines whose fused multiply-add costs as much as an addition: rotations in tangent form. Turning a by
 * w = c·(1 + i·τ) takes two multiply-adds, (re − τ·im, im + τ·re), and leaves the factor c pending; the additions that
 * follow become multiply-adds and take it in. A 16-point DFT has 144 operations instead of 168. Idea: Linzer and Feig 1993.
 */
import { dft } from "./codelet.ts";
import type { Complex, Graph } from "./expr.ts";
import { root } from "./roots.ts";

/** factor · (re + i·im). */
export interface Scaled extends Complex {
  readonly factor: number;
}

/** DFT of `x` with exponent sign `sign`. The results' factors are that of x[0]: 1, as a rule. */
export function fusedDft(g: Graph, x: readonly Scaled[], sign: 1 | -1): Scaled[] {
  const r = x.length;
  if (r === 1) return [x[0]!];
  if (r === 2) return [add(g, x[0]!, x[1]!, 1), add(g, x[0]!, x[1]!, -1)];
  if (r === 4) {
    const s = add(g, x[0]!, x[2]!, 1);
    const d = add(g, x[0]!, x[2]!, -1);
    const t = add(g, x[1]!, x[3]!, 1);
    const e = timesI(g, add(g, x[1]!, x[3]!, -1), sign);
    return [add(g, s, t, 1), add(g, d, e, 1), add(g, s, t, -1), add(g, d, e, -1)];
  }
  const p = r % 4 === 0 ? 4 : r % 2 === 0 ? 2 : 0;
  if (p === 0) {
    const plain = dft(
      g,
      x.map((v) => withFactor(g, v)),
      sign,
    );
    return plain.map((v) => ({ ...v, factor: 1 }));
  }
  const m = r / p;
  const inner = Array.from({ length: p }, (_, j) =>
    fusedDft(
      g,
      Array.from({ length: m }, (_, i) => x[i * p + j]!),
      sign,
    ),
  );
  const out: Scaled[] = new Array(r);
  for (let k = 0; k < m; k++) {
    const column = inner.map((row, j) => turn(g, row[k]!, sign * j * k, r));
    fusedDft(g, column, sign).forEach((value, q) => {
      out[k + m * q] = value;
    });
  }
  return out;
}

/** The value with its factor multiplied in. */
export function withFactor(g: Graph, { re, im, factor }: Scaled): Complex {
  const c = g.constant(factor);
  return { re: g.mul(re, c), im: g.mul(im, c) };
}

/** a ± b, with a's factor. */
function add(g: Graph, a: Scaled, b: Scaled, sign: 1 | -1): Scaled {
  const ratio = (sign * b.factor) / a.factor;
  const part = (x: Scaled["re"], y: Scaled["re"]): Scaled["re"] => {
    if (ratio === 1) return g.add(x, y);
    if (ratio === -1) return g.sub(x, y);
    return ratio > 0 ? g.fma(y, g.constant(ratio), x) : g.fnma(y, g.constant(-ratio), x);
  };
  return { re: part(a.re, b.re), im: part(a.im, b.im), factor: a.factor };
}

/** a·i·sign */
function timesI(g: Graph, a: Scaled, sign: 1 | -1): Scaled {
  const { factor } = a;
  return sign > 0 ? { re: g.neg(a.im), im: a.re, factor } : { re: a.im, im: g.neg(a.re), factor };
}

/** a·e^{2πi·n/d} */
export function turn(g: Graph, a: Scaled, n: number, d: number): Scaled {
  // Quarter turns are exact; what remains lies within an eighth of a turn of zero, where the tangent is at most 1.
  const quarters = Math.round((4 * n) / d);
  const quarter = ((quarters % 4) + 4) % 4;
  const q = quarter % 2 === 1 ? timesI(g, a, quarter === 1 ? 1 : -1) : a;
  const base: Scaled = quarter === 2 ? { ...q, factor: -q.factor } : q;
  const rest = 4 * n - quarters * d;
  if (rest === 0) return base;
  const w = root(rest, 4 * d);
  const tangent = g.constant(8 * Math.abs(rest) === 4 * d ? Math.sign(rest) : w.im / w.re);
  return {
    re: g.fnma(base.im, tangent, base.re),
    im: g.fma(base.re, tangent, base.im),
    factor: base.factor * w.re,
  };
}
