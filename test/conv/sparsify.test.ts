/** Taking frequencies out of a kernel: the taps that are left, and the energy that is not. */
import { describe, expect, test } from "vitest";
import {
  FlashFFTConv,
  FlashFFTConvStream,
  InvalidArgumentError,
  sparsifyKernel,
  UnsupportedError,
} from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { modes } from "../../src/plan/problem.ts";
import { Dft64 } from "../../src/reference/dft64.ts";
import { expectClose, norm } from "../support/close.ts";
import { keepsBin, lagsOf } from "../support/frequencies.ts";
import { normal } from "../support/signals.ts";

describe("Dft64", () => {
  test.each([1, 2, 3, 4, 8, 15, 16, 36, 70, 128, 210, 240])(
    "%i points by their definition",
    (n) => {
      const x = { re: normal(n, 1), im: normal(n, 2) };
      for (const sign of [1, -1] as const) {
        const { re, im } = new Dft64(n).transform(x, sign);
        for (let f = 0; f < n; f++) {
          let [a, b] = [0, 0];
          for (let j = 0; j < n; j++) {
            const angle = (2 * Math.PI * sign * ((f * j) % n)) / n;
            a += x.re[j]! * Math.cos(angle) - x.im[j]! * Math.sin(angle);
            b += x.re[j]! * Math.sin(angle) + x.im[j]! * Math.cos(angle);
          }
          expect(Math.abs(re[f]! - a) + Math.abs(im[f]! - b)).toBeLessThan(1e-12 * n);
        }
      }
    },
  );
});

describe("sparsifyKernel", () => {
  const frequencies = { digits: [8, 16, 6], dropped: [3, 8, 2] };

  test.each(modes)("mode %s: its spectrum, bin by bin, and its energy", (mode) => {
    const period = 768;
    const options = {
      ...{ mode, length: 200, kernelLength: 180, frequencies },
      ...(mode === "circular" && { period }),
    };
    const problem = createProblem(options, "test");
    const channels = 2;
    const k = Float32Array.from(normal(channels * 180, 3));
    const sparse = sparsifyKernel(k, options);
    expect(sparse.period).toBe(period);
    expect(sparse.taps.length).toBe(channels * period);
    for (let h = 0; h < channels; h++) {
      const whole = new Float64Array(period);
      lagsOf(problem).forEach((lag, j) => {
        if (lag !== undefined) whole[(lag + period) % period] = k[h * 180 + j]!;
      });
      const taps = Float64Array.from(sparse.taps.subarray(h * period, (h + 1) * period));
      let [all, kept] = [0, 0];
      for (let f = 0; f <= period / 2; f++) {
        const at = (values: Float64Array): [number, number] => {
          let [re, im] = [0, 0];
          values.forEach((v, n) => {
            const angle = (2 * Math.PI * ((f * n) % period)) / period;
            re += v * Math.cos(angle);
            im -= v * Math.sin(angle);
          });
          return [re, im];
        };
        const [before, after] = [at(whole), at(taps)];
        const keeps = keepsBin(problem.frequencies!, f);
        const weight = f === 0 || 2 * f === period ? 1 : 2;
        const energy = weight * (before[0] ** 2 + before[1] ** 2);
        all += energy;
        if (keeps) kept += energy;
        const miss = [0, 1].map((i) => after[i]! - (keeps ? before[i]! : 0));
        expect(Math.hypot(...miss)).toBeLessThan(1e-5);
      }
      expect(sparse.dropped[h]).toBeCloseTo(1 - kept / all, 10);
    }
  });

  test("the dense circular convolution by its taps is the sparse one, and sparsifying again changes nothing", async () => {
    const length = 300;
    const options = { length, frequencies };
    const u = Float32Array.from(normal(length, 4));
    const k = Float32Array.from(normal(length, 5));
    const { taps, period } = sparsifyKernel(k, options);
    using sparse = await FlashFFTConv.create(options);
    using dense = await FlashFFTConv.create({
      mode: "circular",
      length,
      kernelLength: period,
      period,
    });
    const scale = Float64Array.of(norm(Float64Array.from(u)) * norm(Float64Array.from(k)));
    const rule = { rowLength: length, bound: 6e-7, scale };
    const y = Float64Array.from((await dense.forward(u, taps)) as Float32Array);
    expectClose(await sparse.forward(u, k), y, rule);
    const circular = { mode: "circular", length: period, period, frequencies } as const;
    const again = sparsifyKernel(taps, circular);
    expectClose(again.taps, Float64Array.from(taps), { rowLength: period, bound: 1e-6 });
    expect(again.dropped[0]).toBeLessThan(1e-12);
  });

  test("refuses what has no pattern, and streams refuse patterns", async () => {
    const k = new Float32Array(64);
    expect(() => sparsifyKernel(k, { length: 64 })).toThrow(InvalidArgumentError);
    expect(() => sparsifyKernel(new Float32Array(63), { length: 64, frequencies })).toThrow(
      InvalidArgumentError,
    );
    const turned = { data: new Float32Array(32), shape: [16, 2] };
    const short = { length: 32, kernelLength: 16, frequencies: { band: [0, 0.1] } } as const;
    expect(() => sparsifyKernel(turned, short)).toThrow(/\(H, K\) = \[2, 16\]; got \[16, 2\]/);
    expect(() => sparsifyKernel(k, undefined as never)).toThrow(/Pass those of the FlashFFTConv/);
    const options = { kernelLength: 64, frequencies } as never;
    await expect(FlashFFTConvStream.create(k, options)).rejects.toThrow(UnsupportedError);
    expect(sparsifyKernel(k, { length: 64, frequencies }).dropped[0]).toBe(0);
  });
});
