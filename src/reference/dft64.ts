/**
 * Complex DFTs in float64 of any length with small prime factors, for what is computed once and must be exact: by
 * recursive decimation in time, twiddles exact fractions of a turn.
 */
import { primeFactors } from "../math/factor.ts";
import { root } from "../math/roots.ts";

/** Complex numbers as two arrays. */
interface Complex64 {
  readonly re: Float64Array;
  readonly im: Float64Array;
}

/** DFTs of one length, whose twiddles are computed once. */
export class Dft64 {
  readonly #size: number;
  /** Radices, fours before a two. */
  readonly #radices: readonly number[];
  /** e^{2πi·n/N}. */
  readonly #turns: Complex64;

  constructor(size: number) {
    const factors = primeFactors(size);
    const twos = factors.filter((p) => p === 2).length;
    const fours = new Array<number>(twos >> 1).fill(4);
    this.#size = size;
    this.#radices = [...fours, ...factors.slice(twos - (twos % 2))];
    this.#turns = { re: new Float64Array(size), im: new Float64Array(size) };
    for (let n = 0; n < size; n++) {
      const { re, im } = root(n, size);
      this.#turns.re[n] = re;
      this.#turns.im[n] = im;
    }
  }

  /** X[f] = Σ_n x[n]·e^{±2πi·fn/N}, unscaled; `sign` is that of the exponent. */
  transform(x: Complex64, sign: 1 | -1): Complex64 {
    const out = { re: new Float64Array(this.#size), im: new Float64Array(this.#size) };
    const scratch = { re: new Float64Array(8), im: new Float64Array(8) };
    const block = (depth: number, from: number, stride: number, to: number): void => {
      const r = this.#radices[depth];
      if (r === undefined) {
        out.re[to] = x.re[from]!;
        out.im[to] = x.im[from]!;
        return;
      }
      const m = this.#size / stride / r;
      for (let j = 0; j < r; j++) block(depth + 1, from + j * stride, stride * r, to + j * m);
      for (let k = 0; k < m; k++) this.#butterfly(out, scratch, r, m, to + k, k * stride, sign);
    };
    block(0, 0, 1, 0);
    return out;
  }

  /** r values m apart from `at` on, value j turned by j·`turn`: their DFT in place. */
  #butterfly(
    out: Complex64,
    { re, im }: Complex64,
    r: number,
    m: number,
    at: number,
    turn: number,
    sign: 1 | -1,
  ): void {
    const { re: cos, im: sin } = this.#turns;
    for (let j = 0; j < r; j++) {
      const [x, y] = [out.re[at + j * m]!, out.im[at + j * m]!];
      const [c, s] = [cos[j * turn]!, sign * sin[j * turn]!];
      re[j] = x * c - y * s;
      im[j] = x * s + y * c;
    }
    if (r === 4) {
      const [sr, si, dr, di] = [re[0]! + re[2]!, im[0]! + im[2]!, re[0]! - re[2]!, im[0]! - im[2]!];
      const [tr, ti] = [re[1]! + re[3]!, im[1]! + im[3]!];
      const [er, ei] = [sign * (im[3]! - im[1]!), sign * (re[1]! - re[3]!)];
      out.re[at] = sr + tr;
      out.im[at] = si + ti;
      out.re[at + m] = dr + er;
      out.im[at + m] = di + ei;
      out.re[at + 2 * m] = sr - tr;
      out.im[at + 2 * m] = si - ti;
      out.re[at + 3 * m] = dr - er;
      out.im[at + 3 * m] = di - ei;
      return;
    }
    for (let q = 0; q < r; q++) {
      let [a, b] = [0, 0];
      for (let j = 0; j < r; j++) {
        const n = ((j * q) % r) * (this.#size / r);
        const [c, s] = [cos[n]!, sign * sin[n]!];
        a += re[j]! * c - im[j]! * s;
        b += re[j]! * s + im[j]! * c;
      }
      out.re[at + q * m] = a;
      out.im[at + q * m] = b;
    }
  }
}
