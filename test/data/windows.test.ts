/** Windows: which tokens they hold, chance, and places that are saved and restored. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { eitherStrand } from "../../src/data/dna.ts";
import { uniformAt } from "../../src/data/random.ts";
import { openBytes } from "../../src/data/text.ts";
import { loadTokens, type TokenSource, tokensInMemory } from "../../src/data/tokens.ts";
import { orderedWindows, randomWindows, type WindowOptions } from "../../src/data/windows.ts";
import { InvalidArgumentError } from "../../src/errors.ts";
import { rows, sameTokens, take } from "./support.ts";

/** Tokens that say where they stand. */
const counted = (size: number): TokenSource =>
  tokensInMemory(
    Uint32Array.from({ length: size }, (_, i) => i),
    size,
  );

const anyWindows = fc.record({
  size: fc.integer({ min: 40, max: 400 }),
  batch: fc.integer({ min: 1, max: 4 }),
  length: fc.integer({ min: 1, max: 8 }),
  seed: fc.nat(2 ** 31),
});

describe("windows", () => {
  test("targets are the tokens after the inputs, wherever a window is", async () => {
    await fc.assert(
      fc.asyncProperty(anyWindows, fc.boolean(), async ({ size, ...options }, random) => {
        const make = random ? randomWindows : orderedWindows;
        for (const { inputs, targets } of await take(make(counted(size), options), 5)) {
          expect(inputs.length).toBe(options.batch * options.length);
          inputs.forEach((token, i) => {
            expect(targets[i]).toBe(token + 1);
            if (i % options.length > 0) expect(token).toBe(inputs[i - 1]! + 1);
          });
        }
      }),
      { seed: 15 },
    );
  });

  test("in order, each token is a target once, but for those that fill no batch", async () => {
    await fc.assert(
      fc.asyncProperty(anyWindows, fc.nat(10), async ({ size, batch, length }, from) => {
        const windows = orderedWindows(counted(size), { batch, length, from, to: size - 3 });
        const targets = (await take(windows, 1e9)).flatMap((one) => [...one.targets]);
        const batches = Math.floor(Math.floor((size - 3 - from - 1) / length) / batch);
        expect(targets).toEqual(
          Array.from({ length: batches * batch * length }, (_, i) => from + 1 + i),
        );
      }),
      { seed: 15 },
    );
  });

  test("at random, every place is as likely, and all are within the part", async () => {
    const windows = randomWindows(counted(1000), {
      batch: 50,
      length: 4,
      from: 100,
      to: 115,
      seed: 3,
    });
    const counts = new Map<number, number>();
    for (const batch of await take(windows, 220))
      for (const [first] of rows(batch, 4)) counts.set(first!, (counts.get(first!) ?? 0) + 1);
    // 11 places, of which the last ends with token 114; 1,000 of each, give or take five deviations of 30.
    expect([...counts.keys()].sort((a, b) => a - b)).toEqual(
      Array.from({ length: 11 }, (_, i) => 100 + i),
    );
    for (const count of counts.values()) expect(Math.abs(count - 1000)).toBeLessThan(150);
  });

  test("the seed says which", async () => {
    const of = async (seed: number) =>
      take(randomWindows(counted(1000), { batch: 8, length: 4, seed }), 3);
    expect(await of(1)).toEqual(await of(1));
    expect(await of(1)).not.toEqual(await of(2));
    const [first, second] = await of(1);
    expect(first).not.toEqual(second);
  });

  test("without an end, each pass begins elsewhere and goes on behind the last", async () => {
    const windows = orderedWindows(counted(100), { batch: 1, length: 10, seed: 5, endless: true });
    const firsts = (await take(windows, 90)).map(({ inputs }) => inputs[0]!);
    const passes = Array.from({ length: 10 }, (_, pass) => firsts.slice(9 * pass, 9 * (pass + 1)));
    for (const pass of passes) expect(pass).toEqual(pass.map((_, i) => pass[0]! + 10 * i));
    expect(new Set(passes.map(([first]) => first)).size).toBeGreaterThan(3);
    expect(Math.max(...firsts) + 10).toBeLessThan(100);
  });

  test.each(["random", "ordered", "endless"])(
    "%s: a place that was saved is gone on from, exactly",
    async (kind) => {
      await fc.assert(
        fc.asyncProperty(anyWindows, fc.nat(4), async ({ size, ...options }, before) => {
          const open = () =>
            kind === "random"
              ? randomWindows(counted(size), { ...options, augment: eitherStrand })
              : orderedWindows(counted(size), {
                  ...options,
                  augment: eitherStrand,
                  endless: kind === "endless",
                });
          const windows = open();
          await take(windows, before);
          const state = JSON.parse(JSON.stringify(windows.state()));
          const rest = await take(windows, 4);
          const again = open();
          again.restore(state);
          expect(again.state()).toEqual(state);
          expect(await take(again, 4)).toEqual(rest);
          // The windows that were given go back too.
          windows.restore(state);
          expect(await take(windows, 4)).toEqual(rest);
        }),
        { seed: 15, numRuns: 30 },
      );
    },
  );

  test("a place of other windows, or of another text, is refused", () => {
    const options = { batch: 2, length: 4 };
    const windows = randomWindows(counted(100), options);
    const state = windows.state();
    for (const other of [
      { size: 99 },
      { batch: 3 },
      { length: 5 },
      { seed: 1 },
      { from: 1 },
      { windows: "ordered" as const },
    ])
      expect(() => windows.restore({ ...state, ...other })).toThrow(InvalidArgumentError);
    for (const next of [-1, 0.5, Number.NaN, "1" as never])
      expect(() => windows.restore({ ...state, next })).toThrow(InvalidArgumentError);
    expect(() => windows.restore({} as never)).toThrow(
      /state must be of windows with windows "random"/,
    );
    windows.restore(state);
  });

  test("a mutant is seen: a place that forgets one window", async () => {
    const windows = randomWindows(counted(1000), { batch: 2, length: 4 });
    const state = windows.state();
    const right = await take(windows, 1);
    windows.restore({ ...state, next: state.next + 1 });
    expect(await take(windows, 1)).not.toEqual(right);
  });

  test.each<[string, Partial<WindowOptions>]>([
    ["no batch", { batch: 0 }],
    ["half a length", { length: 1.5 }],
    ["a part beyond the end", { to: 101 }],
    ["a part that ends before it begins", { from: 50, to: 40 }],
    ["a negative seed", { seed: -1 }],
    ["a name that is none", { sed: 1 } as never],
    ["windows longer than the text", { length: 100 }],
  ])("%s is refused", (_, options) => {
    for (const make of [randomWindows, orderedWindows])
      expect(() => make(counted(100), { batch: 1, length: 4, ...options })).toThrow(
        InvalidArgumentError,
      );
  });

  test("the shortest text that has a window", async () => {
    const options = { batch: 1, length: 99 };
    expect(await take(orderedWindows(counted(100), options), 9)).toHaveLength(1);
    expect(await take(randomWindows(counted(100), options), 3)).toHaveLength(3);
    expect(() => orderedWindows(counted(100), { batch: 2, length: 99 })).toThrow(
      /tokens for 2 windows of 99/,
    );
  });
});

describe("chance", () => {
  test("is even, and depends on each of its numbers", () => {
    const bins = new Uint32Array(16);
    for (let i = 0; i < 16_000; i++) {
      const number = uniformAt(1, 0, i);
      expect(number >= 0 && number < 1).toBe(true);
      bins[Math.floor(number * 16)]!++;
    }
    // 1,000 a bin, give or take five deviations of 31.
    for (const count of bins) expect(Math.abs(count - 1000)).toBeLessThan(155);
    const others = [0, 2 ** 32, 2 ** 33].map((index) => uniformAt(1, 0, index));
    const places = [...others, uniformAt(2, 0, 0), uniformAt(1, 1, 0), uniformAt(1, 0, 1)];
    expect(new Set(places).size).toBe(places.length);
    // The bits of a checkpoint's numbers do not change from version to version.
    expect([uniformAt(0, 0, 0), uniformAt(15, 1, 1e6)]).toMatchInlineSnapshot(`
      [
        0.5047119823290322,
        0.41582315727497554,
      ]
    `);
  });
});

describe("tokens", () => {
  test("beyond the vocabulary are named with their place", () => {
    expect(() => tokensInMemory(Uint32Array.of(1, 2, 3), 3)).toThrow(
      /below 3, the size of the vocabulary; got 3 at 2/,
    );
  });

  test("in memory are those of the source", async () => {
    const bytes = Uint8Array.from({ length: 600_000 }, (_, i) => i * 7 + (i >> 8));
    const source = await loadTokens(await openBytes(bytes));
    const tokens = new Uint32Array(bytes.length);
    await source.read(tokens, 0);
    expect(sameTokens(tokens, Uint32Array.from(bytes))).toBe(true);
    const part = new Uint32Array(3);
    await source.read(part, 300_000);
    expect([...part]).toEqual([...bytes.subarray(300_000, 300_003)]);
  });
});
