import { describe, expect, test } from "vitest";
import { relativeError } from "../../src/reference/convolution.ts";
import { correlation, Fft64, spectrumProduct } from "../../src/reference/fft64.ts";
import { impulse, normal } from "../support/signals.ts";

const sizes = [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 64, 127, 128, 255, 256, 1000, 1024];

describe("Fft64", () => {
  test.each(sizes)("holds sequences of %i samples and gives them back", (size) => {
    const fft = new Fft64(size);
    expect(2 * fft.points).toBeGreaterThanOrEqual(size);
    const samples = normal(size, size);
    expect(relativeError(fft.inverse(fft.forward(samples), size), samples)).toBeLessThan(1e-15);
  });

  test.each(sizes)("evaluates the polynomial of %i samples at the roots of x^M = −i", (size) => {
    const fft = new Fft64(size);
    const samples = normal(size, size);
    const { re, im } = fft.forward(samples);
    // Every root exp(2πi(j − 1/4)/M) appears once: compare as sets, by the value that is nearest.
    const taken = new Set<number>();
    for (let j = 0; j < fft.points; j++) {
      let sumRe = 0;
      let sumIm = 0;
      for (let n = 0; n < size; n++) {
        const turns = (n * (4 * j - 1)) / (4 * fft.points);
        sumRe += samples[n]! * Math.cos(2 * Math.PI * (turns % 1));
        sumIm += samples[n]! * Math.sin(2 * Math.PI * (turns % 1));
      }
      const nearest = re.findIndex(
        (value, i) =>
          !taken.has(i) && Math.hypot(value - sumRe, im[i]! - sumIm) < 1e-11 * Math.sqrt(size),
      );
      expect(nearest).toBeGreaterThanOrEqual(0);
      taken.add(nearest);
    }
  });

  test("products wrap past 2M with a minus sign, as x^2M = −1", () => {
    const fft = new Fft64(8);
    const a = fft.forward(impulse(8, 5));
    const b = fft.forward(impulse(8, 6));
    const wrapped = fft.inverse(spectrumProduct(a, b), 8);
    expect(relativeError(wrapped, impulse(8, 3, -1))).toBeLessThan(1e-15);
  });

  test("correlation moves back by the impulse's position", () => {
    const fft = new Fft64(8);
    const samples = normal(8, 1);
    const moved = fft.inverse(correlation(fft.forward(samples), fft.forward(impulse(8, 3))), 5);
    expect(relativeError(moved, samples.subarray(3, 8))).toBeLessThan(1e-15);
  });

  test("a convolution of 2^20 samples is exact to float64 where integers check it", () => {
    // Integers up to 9: every output is an integer below 2^27, so rounding recovers it, and a sum mod 2 confirms it.
    const size = 2 ** 19;
    const a = normal(size, 5).map((value) => Math.round(3 * value));
    const b = normal(size, 6).map((value) => Math.round(3 * value));
    const fft = new Fft64(2 * size);
    const c = fft.inverse(spectrumProduct(fft.forward(a), fft.forward(b)), 2 * size - 1);
    let worst = 0;
    let sum = 0;
    for (const value of c) {
      worst = Math.max(worst, Math.abs(value - Math.round(value)));
      sum += Math.round(value);
    }
    expect(worst).toBeLessThan(1e-8);
    const total = (values: Float64Array) => values.reduce((t, value) => t + value, 0);
    expect(sum).toBe(total(a) * total(b));
    for (const n of [0, 1, size - 1, size, 2 * size - 2]) {
      let direct = 0;
      for (let j = Math.max(0, n - size + 1); j <= Math.min(n, size - 1); j++) {
        direct += a[n - j]! * b[j]!;
      }
      expect(Math.round(c[n]!)).toBe(direct);
    }
  });
});
