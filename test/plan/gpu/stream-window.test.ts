/** Windows of streams on a GPU: which samples they hold, and how long their blocks are. */
import { describe, expect, test } from "vitest";
import { defaultGpu } from "../../../src/plan/device.ts";
import { onePart } from "../../../src/plan/geometry.ts";
import { mostWindowTaps, windowHop, windowProblem } from "../../../src/plan/gpu/stream-window.ts";
import { maxLength } from "../../../src/plan/problem.ts";

const limits = { sharedBytes: 49_152, threads: 1024, values: 32, bindingBytes: 2 ** 31 };
const one = { batch: 1, channels: 1 };
const hopOf = (taps: number, rows = one, bindingBytes = limits.bindingBytes) =>
  windowHop(taps, rows, defaultGpu, { ...limits, bindingBytes });

describe("a window", () => {
  test.each([
    [1, 16],
    [2, 16],
    [7, 5],
    [100, 48],
  ])(
    "of %i taps and %i samples has an output where all taps meet samples, and needs no zeros around it",
    (taps, hop) => {
      const problem = windowProblem(taps, hop);
      const { past = 0, length, outputLength } = problem;
      expect([past % 2, length - past, outputLength]).toEqual([0, hop, hop]);
      const [part] = onePart(problem);
      expect(part!.positions).toBe(length);
      // Tap j of output n meets sample n + past − j.
      const reached = part!.taps.flatMap(({ index, count, position }) =>
        Array.from({ length: count }, (_, i) => [index + i, 0 - (position + i)]),
      );
      expect(new Map(reached.map(([tap, at]) => [tap, at]))).toEqual(
        new Map(Array.from({ length: taps }, (_, j) => [j, past - j])),
      );
    },
  );
});

describe("blocks of a stream by default", () => {
  const all = [1, 2, 100, 5000, 65_536, 661_500, 5_000_000, mostWindowTaps];

  test.each(all)(
    "%i taps: half of a window or more is new, and no transform is longer than there are",
    (taps) => {
      for (const rows of [one, { batch: 8, channels: 768 }]) {
        const hop = hopOf(taps, rows);
        const { length } = windowProblem(taps, hop);
        expect(2 * hop).toBeGreaterThanOrEqual(length);
        expect(length).toBeLessThanOrEqual(2 * maxLength);
        expect(Number.isInteger(Math.log2(length))).toBe(true);
      }
    },
  );

  test("are long enough to be worth a wait, and shorter where rows are many", () => {
    const few = hopOf(100);
    const many = hopOf(100, { batch: 8, channels: 64 });
    expect(few).toBeGreaterThan(2 ** 18);
    expect(many).toBeLessThan(few);
    expect(512 * many).toBeGreaterThan(2 ** 18);
  });

  test("keep a row within what one binding spans, and all within memory", () => {
    expect(windowProblem(1000, hopOf(1000, one, 2 ** 20)).length).toBeLessThanOrEqual(2 ** 18);
    const rows = { batch: 4, channels: 256 };
    expect(4 * 1024 * windowProblem(5000, hopOf(5000, rows)).length).toBeLessThan(2 ** 28);
  });
});
