/**
 * Butterflies, written once over the expression graph: the r-point DFT X_k = Σ_j x_j ω^{±jk}, ω = e^{2πi/r}, for any
 * radix. 2, 3, 4, 5, 8 and 16 in their short forms, other odd primes by pairing j with r−j, composites by Cooley–Tukey.
 */
import type { Complex, Graph } from "./expr.ts";
import { root } from "./roots.ts";

/** DFT of `x` with exponent sign `sign`; the radix is x.length. */
export function dft(g: Graph, x: readonly Complex[], sign: 1 | -1): Complex[] {
  const r = x.length;
  if (r === 1) return [x[0]!];
  if (r === 2) return [g.cadd(x[0]!, x[1]!), g.csub(x[0]!, x[1]!)];
  if (r === 4) return dft4(g, x, sign);
  const p = r % 4 === 0 ? 4 : smallestFactor(r);
  return p === r ? oddPrime(g, x, sign) : composite(g, x, sign, r / p, p);
}

function smallestFactor(n: number): number {
  for (let p = 2; p * p <= n; p++) if (n % p === 0) return p;
  return n;
}

/** a·i·sign */
function timesI(g: Graph, a: Complex, sign: 1 | -1): Complex {
  return sign > 0 ? { re: g.neg(a.im), im: a.re } : { re: a.im, im: g.neg(a.re) };
}

function dft4(g: Graph, x: readonly Complex[], sign: 1 | -1): Complex[] {
  const s = g.cadd(x[0]!, x[2]!);
  const d = g.csub(x[0]!, x[2]!);
  const t = g.cadd(x[1]!, x[3]!);
  const e = timesI(g, g.csub(x[1]!, x[3]!), sign);
  return [g.cadd(s, t), g.cadd(d, e), g.csub(s, t), g.csub(d, e)];
}

/** a·e^{2πi·n/d}, with the cheap forms for eighths of a turn. */
function rotate(g: Graph, a: Complex, n: number, d: number): Complex {
  const w = root(n, d);
  if ((4 * n) % d === 0) {
    const quarter = ((((4 * n) / d) % 4) + 4) % 4;
    if (quarter === 0) return a;
    if (quarter === 1) return timesI(g, a, 1);
    if (quarter === 2) return { re: g.neg(a.re), im: g.neg(a.im) };
    return timesI(g, a, -1);
  }
  if ((8 * n) % d === 0) {
    // (re + i·im)(±1 ± i)/√2: two additions and two products.
    const h = g.constant(Math.SQRT1_2);
    const re = w.re * w.im > 0 ? g.sub(a.re, a.im) : g.add(a.re, a.im);
    const im = w.re * w.im > 0 ? g.add(a.re, a.im) : g.sub(a.im, a.re);
    const sign = w.re > 0 ? h : g.constant(-Math.SQRT1_2);
    return { re: g.mul(re, sign), im: g.mul(im, sign) };
  }
  return g.cmul(a, { re: g.constant(w.re), im: g.constant(w.im) });
}

/** Cooley–Tukey, decimation in time, r = m·p: p interleaved DFTs of m points, rotated, then m DFTs of p points. */
function composite(g: Graph, x: readonly Complex[], sign: 1 | -1, m: number, p: number): Complex[] {
  const r = m * p;
  const inner: Complex[][] = [];
  for (let j = 0; j < p; j++) {
    const part = Array.from({ length: m }, (_, i) => x[i * p + j]!);
    inner.push(dft(g, part, sign));
  }
  const out: Complex[] = new Array(r);
  for (let k = 0; k < m; k++) {
    const column = inner.map((row, j) => rotate(g, row[k]!, sign * j * k, r));
    dft(g, column, sign).forEach((value, q) => {
      out[k + m * q] = value;
    });
  }
  return out;
}

/** Odd prime r: with s_j = x_j + x_{r−j} and d_j = x_j − x_{r−j}, the cosines act on s and the sines on d. */
function oddPrime(g: Graph, x: readonly Complex[], sign: 1 | -1): Complex[] {
  const r = x.length;
  const half = (r - 1) / 2;
  const sums: Complex[] = [];
  const differences: Complex[] = [];
  for (let j = 1; j <= half; j++) {
    sums.push(g.cadd(x[j]!, x[r - j]!));
    differences.push(g.csub(x[j]!, x[r - j]!));
  }
  const out: Complex[] = new Array(r);
  out[0] = sums.reduce((a, b) => g.cadd(a, b), x[0]!);
  for (let k = 1; k <= half; k++) {
    let even = x[0]!;
    let odd: Complex = { re: g.constant(0), im: g.constant(0) };
    for (let j = 1; j <= half; j++) {
      const w = root(j * k, r);
      const c = g.constant(w.re);
      const s = g.constant(sign * w.im);
      even = { re: g.fma(sums[j - 1]!.re, c, even.re), im: g.fma(sums[j - 1]!.im, c, even.im) };
      odd = {
        re: g.fma(differences[j - 1]!.re, s, odd.re),
        im: g.fma(differences[j - 1]!.im, s, odd.im),
      };
    }
    const turned = timesI(g, odd, 1);
    out[k] = g.cadd(even, turned);
    out[r - k] = g.csub(even, turned);
  }
  return out;
}
