/**
 * The oracle's FFT: products of real sequences in float64, by radix-4 butterflies with exactly reduced twiddles.
 *
 * A real sequence of up to 2M samples becomes M complex ones, a[n] − i·a[n+M]: the real polynomials modulo x^2M + 1
 * are the complex ones modulo x^M + i. Each step splits x^2h = c² into x^h = c and x^h = −c, so that every block of
 * the transform has one constant, values end up in an order that is never undone, and products are taken point by
 * point: no separate treatment of real input, no permutation, no zero half.
 */

/** Values of a real sequence at the M roots of x^M = −i, in the transform's own order. */
export interface Spectrum64 {
  readonly re: Float64Array;
  readonly im: Float64Array;
}

function newSpectrum(points: number): Spectrum64 {
  return { re: new Float64Array(points), im: new Float64Array(points) };
}

let last: Fft64 | undefined;

/** An FFT for sequences of up to `samples`: the one last asked for, where that is as long. Twiddles take as long as a transform. */
export function fftOf(samples: number): Fft64 {
  if (last?.points !== pointsOf(samples)) last = new Fft64(samples);
  return last;
}

/** M for up to so many samples. */
function pointsOf(samples: number): number {
  let points = 1;
  while (2 * points < samples) points *= 2;
  return points;
}

/** The FFT of one size with its twiddles. */
export class Fft64 {
  /** M: complex points; sequences hold up to 2M real samples. */
  readonly points: number;
  /** exp(−iπφ(b)/2) of block b, where block b stands for x^h = exp(−2πiφ(b)). */
  readonly #cos: Float64Array;
  readonly #sin: Float64Array;

  /** An FFT for sequences (and products of sequences) of up to `samples` real samples. */
  constructor(samples: number) {
    const points = pointsOf(samples);
    this.points = points;
    // Blocks that are split in four run from 2·d to 3·d − 1 when there are d of them. Radix-2 leaves ask for half of
    // the number of a block among up to points/2.
    const size = Math.max(2, (3 * points) / 4);
    this.#cos = new Float64Array(size);
    this.#sin = new Float64Array(size);
    this.#setTwiddle(1);
    for (let blocks = 1; 2 * blocks < size; blocks *= 2) {
      for (let block = 2 * blocks; block < Math.min(3 * blocks, size); block++) {
        this.#setTwiddle(block);
      }
    }
  }

  /** Transform `samples`, read as zeros past their end. */
  forward(samples: Float64Array): Spectrum64 {
    const { points } = this;
    const { re, im } = newSpectrum(points);
    re.set(samples.subarray(0, points));
    const upper = samples.subarray(points, 2 * points);
    for (let n = 0; n < upper.length; n++) im[n] = -upper[n]!;
    this.#split(re, im, 0, points, 2);
    return { re, im };
  }

  /** The first `length` samples behind a spectrum, which is overwritten. */
  inverse({ re, im }: Spectrum64, length: number): Float64Array {
    const { points } = this;
    this.#join(re, im, 0, points, 2);
    const samples = new Float64Array(length);
    const scale = 1 / points;
    for (let n = 0; n < Math.min(points, length); n++) samples[n] = re[n]! * scale;
    for (let n = points; n < length; n++) samples[n] = -im[n - points]! * scale;
    return samples;
  }

  /** Octant reduction: the angle handed to Math.sin and Math.cos is at most π/4, and exact up to the factor 2π. */
  #setTwiddle(block: number): void {
    const turns = reversedBits(block) / 2 ** 34;
    if (turns <= 1 / 8) {
      this.#cos[block] = Math.cos(2 * Math.PI * turns);
      this.#sin[block] = -Math.sin(2 * Math.PI * turns);
    } else {
      this.#cos[block] = Math.sin(2 * Math.PI * (1 / 4 - turns));
      this.#sin[block] = -Math.cos(2 * Math.PI * (1 / 4 - turns));
    }
  }

  /** Depth first, so that blocks that fit in a cache are finished while they are there. */
  #split(re: Float64Array, im: Float64Array, start: number, size: number, block: number): void {
    if (size === 1) return;
    const odd = block % 2 === 1;
    const half = block >> 1;
    // r: the square root of this block's constant, −i apart between the two children of one parent.
    const rr = odd ? this.#sin[half]! : this.#cos[half]!;
    const ri = odd ? -this.#cos[half]! : this.#sin[half]!;
    if (size === 2) {
      const tr = rr * re[start + 1]! - ri * im[start + 1]!;
      const ti = rr * im[start + 1]! + ri * re[start + 1]!;
      re[start + 1] = re[start]! - tr;
      im[start + 1] = im[start]! - ti;
      re[start] = re[start]! + tr;
      im[start] = im[start]! + ti;
      return;
    }
    const sr = this.#cos[block]!;
    const si = this.#sin[block]!;
    const quarter = size / 4;
    for (let a = start; a < start + quarter; a++) {
      const b = a + quarter;
      const c = b + quarter;
      const d = c + quarter;
      const cr = rr * re[c]! - ri * im[c]!;
      const ci = rr * im[c]! + ri * re[c]!;
      const dr = rr * re[d]! - ri * im[d]!;
      const di = rr * im[d]! + ri * re[d]!;
      const pr = re[b]! + dr;
      const pi = im[b]! + di;
      const qr = re[b]! - dr;
      const qi = im[b]! - di;
      const spr = sr * pr - si * pi;
      const spi = sr * pi + si * pr;
      const sqr = sr * qr - si * qi;
      const sqi = sr * qi + si * qr;
      const lr = re[a]! + cr;
      const li = im[a]! + ci;
      const mr = re[a]! - cr;
      const mi = im[a]! - ci;
      re[a] = lr + spr;
      im[a] = li + spi;
      re[b] = lr - spr;
      im[b] = li - spi;
      re[c] = mr + sqi;
      im[c] = mi - sqr;
      re[d] = mr - sqi;
      im[d] = mi + sqr;
    }
    for (let child = 0; child < 4 && quarter > 1; child++) {
      this.#split(re, im, start + child * quarter, quarter, 4 * block + child);
    }
  }

  /** The exact mirror of #split, larger by `size`. */
  #join(re: Float64Array, im: Float64Array, start: number, size: number, block: number): void {
    if (size === 1) return;
    const odd = block % 2 === 1;
    const half = block >> 1;
    const rr = odd ? this.#sin[half]! : this.#cos[half]!;
    const ri = odd ? this.#cos[half]! : -this.#sin[half]!;
    if (size === 2) {
      const tr = re[start]! - re[start + 1]!;
      const ti = im[start]! - im[start + 1]!;
      re[start] = re[start]! + re[start + 1]!;
      im[start] = im[start]! + im[start + 1]!;
      re[start + 1] = rr * tr - ri * ti;
      im[start + 1] = rr * ti + ri * tr;
      return;
    }
    const quarter = size / 4;
    for (let child = 0; child < 4 && quarter > 1; child++) {
      this.#join(re, im, start + child * quarter, quarter, 4 * block + child);
    }
    const sr = this.#cos[block]!;
    const si = -this.#sin[block]!;
    for (let a = start; a < start + quarter; a++) {
      const b = a + quarter;
      const c = b + quarter;
      const d = c + quarter;
      const lr = re[a]! + re[b]!;
      const li = im[a]! + im[b]!;
      const mr = re[c]! + re[d]!;
      const mi = im[c]! + im[d]!;
      const tr = re[a]! - re[b]!;
      const ti = im[a]! - im[b]!;
      const vr = im[d]! - im[c]!;
      const vi = re[c]! - re[d]!;
      const pr = sr * tr - si * ti;
      const pi = sr * ti + si * tr;
      const qr = sr * vr - si * vi;
      const qi = sr * vi + si * vr;
      re[a] = lr + mr;
      im[a] = li + mi;
      re[b] = pr + qr;
      im[b] = pi + qi;
      re[c] = rr * (lr - mr) - ri * (li - mi);
      im[c] = rr * (li - mi) + ri * (lr - mr);
      re[d] = rr * (pr - qr) - ri * (pi - qi);
      im[d] = rr * (pi - qi) + ri * (pr - qr);
    }
  }
}

/** a · b point by point: the spectrum of a ∗ b. */
export function spectrumProduct(a: Spectrum64, b: Spectrum64): Spectrum64 {
  const { re, im } = newSpectrum(a.re.length);
  for (let n = 0; n < re.length; n++) {
    re[n] = a.re[n]! * b.re[n]! - a.im[n]! * b.im[n]!;
    im[n] = a.re[n]! * b.im[n]! + a.im[n]! * b.re[n]!;
  }
  return { re, im };
}

/** a · conj(b) point by point: the spectrum of the correlation Σ_j a[n+j] b[j]. The result may be written over a. */
export function correlation(
  a: Spectrum64,
  b: Spectrum64,
  { re, im }: Spectrum64 = newSpectrum(a.re.length),
): Spectrum64 {
  for (let n = 0; n < re.length; n++) {
    const [ar, ai] = [a.re[n]!, a.im[n]!];
    re[n] = ar * b.re[n]! + ai * b.im[n]!;
    im[n] = ai * b.re[n]! - ar * b.im[n]!;
  }
  return { re, im };
}

/** The 32 bits of `value` in opposite order. */
function reversedBits(value: number): number {
  let x = value;
  x = ((x >>> 1) & 0x55555555) | ((x & 0x55555555) << 1);
  x = ((x >>> 2) & 0x33333333) | ((x & 0x33333333) << 2);
  x = ((x >>> 4) & 0x0f0f0f0f) | ((x & 0x0f0f0f0f) << 4);
  x = ((x >>> 8) & 0x00ff00ff) | ((x & 0x00ff00ff) << 8);
  return ((x >>> 16) | (x << 16)) >>> 0;
}
