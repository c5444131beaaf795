import { expect, test } from "vitest";
import { rateSchedule } from "../../src/train/schedule.ts";

test("warm-up rises in a straight line, and the shapes fall from the rate to the lowest", () => {
  const options = { rate: 2, warmup: 4, lowest: 0.5, until: 12 };
  for (const [shape, middle, end] of [
    ["cosine", 1.25, 0.5],
    ["linear", 1.25, 0.5],
    ["constant", 2, 2],
  ] as const) {
    const rate = rateSchedule({ ...options, shape }, 20);
    expect([1, 2, 3, 4].map(rate)).toEqual([0.5, 1, 1.5, 2]);
    expect(rate(8)).toBeCloseTo(middle, 12);
    expect([12, 13, 20].map(rate)).toEqual([end, end, end]);
  }
  const cosine = rateSchedule(options, 20);
  expect(cosine(6)).toBeCloseTo(0.5 + 1.5 * 0.5 * (1 + Math.SQRT1_2), 12);
});

test("without a warm-up the first step is below the rate and the last has the lowest", () => {
  const rate = rateSchedule({ rate: 1, shape: "linear" }, 10);
  expect(rate(1)).toBeCloseTo(0.9, 12);
  expect(rate(10)).toBe(0);
});

test.each([
  [{ rate: -1 }, "rate must be a number from 0 on"],
  [{ rate: Number.NaN }, "rate must be"],
  [{ rate: 1, warmup: -1 }, "warmup must be"],
  [{ rate: 1, warmup: 5, until: 4 }, "until must be a number from 5 on"],
  [{ rate: 1, shape: "cosinus" }, "shape must be one of constant, linear, cosine"],
  [{ rate: 1, lower: 0 }, "options may have rate, shape, warmup, lowest, until"],
])("%o is refused", (options, message) => {
  expect(() => rateSchedule(options as never, 10)).toThrow(message);
});
