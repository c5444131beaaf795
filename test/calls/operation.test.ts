/** What objects of every class have in common: options, names in errors, the end. */
import { describe, expect, test } from "vitest";
import {
  FlashDepthwiseConv1d,
  FlashFFTConv,
  FlashFFTConvStream,
  FlashHyenaProjections,
  UnsupportedError,
} from "../../src/index.ts";

const simd = { instructions: "simd", threads: 1 } as const;
const short = { channels: 2, kernelLength: 3, ...simd };
const taps = Float32Array.of(1, 2, 3);

describe("a worker of the caller's", () => {
  test.each([
    ["FlashDepthwiseConv1d.create", (o: object) => FlashDepthwiseConv1d.create({ ...short, ...o })],
    [
      "FlashHyenaProjections.create",
      (o: object) => FlashHyenaProjections.create({ ...short, ...o }),
    ],
    [
      "FlashFFTConvStream.create",
      (o: object) => FlashFFTConvStream.create(taps, { ...simd, ...o }),
    ],
  ] as const)("%s says that only a FlashFFTConv takes one", async (call, create) => {
    const made = create({ worker: { postMessage() {} } });
    await expect(made).rejects.toBeInstanceOf(UnsupportedError);
    await expect(made).rejects.toThrow(`${call}: worker is an option of FlashFFTConv alone`);
  });
});

test("streams take workspaceBytes as the others do", async () => {
  using stream = await FlashFFTConvStream.create(taps, { ...simd, workspaceBytes: 2 ** 20 });
  expect(stream.blockLength).toBeGreaterThan(0);
});

test("the end of each class by using and await using", async () => {
  const calls: (() => unknown)[] = [];
  {
    await using conv = await FlashFFTConv.create({ length: 8, ...simd });
    await using filter = await FlashDepthwiseConv1d.create(short);
    await using projections = await FlashHyenaProjections.create(short);
    await using stream = await FlashFFTConvStream.create(taps, simd);
    calls.push(
      () => conv.allocateInput(1, 1),
      () => filter.allocateInput(1, 1),
      () => projections.allocateInput(1, 1),
      () => stream.render([], []),
    );
  }
  const names = ["FlashFFTConv", "FlashDepthwiseConv1d", "FlashHyenaProjections"];
  for (const [i, name] of [...names, "FlashFFTConvStream"].entries())
    expect(calls[i]).toThrow(`it needs a ${name} that has not been disposed`);
});

test("what explain() gives can't be written to, down to its numbers", async () => {
  using conv = await FlashFFTConv.create({
    ...{ length: 64, mode: "circular", frequencies: { band: [0, 0.25] }, ...simd },
  });
  const explanation = conv.explain() as {
    -readonly [N in keyof ReturnType<typeof conv.explain>]: unknown;
  };
  const depth = (value: unknown): void => {
    if (typeof value !== "object" || value === null) return;
    expect(Object.isFrozen(value)).toBe(true);
    for (const part of Object.values(value)) depth(part);
  };
  depth(explanation);
  expect(() => {
    explanation.candidates = [];
  }).toThrow(TypeError);
  expect(String(conv.explain())).toContain("left out of a row");
});
