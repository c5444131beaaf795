/** Generation token by token against forwards of the whole text, and against PyTorch's; hidden states; filters that end. */
import { describe, expect, test } from "vitest";
import { UnsupportedError } from "../../src/errors.ts";
import { HyenaEmbedder } from "../../src/models/embed.ts";
import { drawToken, generate } from "../../src/models/generate.ts";
import { HyenaCache } from "../../src/models/hyena-cache.ts";
import {
  type HyenaLMConfig,
  type HyenaLMOf,
  hyenaLM,
  hyenaLMLogits,
  hyenaLMWeights,
} from "../../src/models/hyena-lm.ts";
import { readHyenaLM } from "../../src/models/published.ts";
import type { ModelMachine } from "../../src/nn/machine.ts";
import { Model } from "../../src/nn/model.ts";
import { listWeights, type Weight } from "../../src/nn/parameters.ts";
import { ModelProgram } from "../../src/nn/program.ts";
import { relativeError } from "../../src/reference/convolution.ts";
import { onGpu } from "../support/backends.ts";
import { goldFacts, goldLM, goldPath, goldTensors } from "../support/gold.ts";
import { drawn, machinesUnderTest } from "../support/machines.ts";

/** A small model all of whose parts matter. */
const config: HyenaLMConfig = {
  ...{ width: 8, layers: 2, inner: 16, maxLength: 400, features: 5, filterWidth: 16 },
  ...{ frequency: 10, shift: 0.02, trainsPositions: true, normEpsilon: 1e-5, dropout: 0.1 },
  ...{ recompute: false, tied: true, vocabulary: 10 },
};

function vivid(c: HyenaLMConfig): HyenaLMOf<Weight> {
  const weights = hyenaLMWeights(c);
  let seed = 0;
  for (const [path, { shape, data }] of listWeights(weights)) {
    if (/filter\.(?!skip|last)/.test(path)) continue;
    const scale = shape.length > 1 ? 1 / Math.sqrt(shape.at(-1)!) : 0.3;
    data.set(drawn(shape, ++seed, scale).data.map((x) => (/norm.*weight/.test(path) ? 1 + x : x)));
  }
  return weights;
}

/** Logits at all positions, from one forward. */
async function forward<M>(
  model: Model<M, HyenaLMOf<Weight>>,
  c: HyenaLMConfig,
  text: readonly number[],
): Promise<(position: number) => Float32Array> {
  const inputs = { ids: { shape: [1, text.length], storage: "uint32" } } as const;
  const program = await ModelProgram.compile(model, inputs, (p, { ids }) => ({
    logits: hyenaLMLogits(ids, p, c),
  }));
  program.write("ids", Uint32Array.from(text));
  await program.run();
  const all = await program.read("logits");
  program.dispose();
  return (position) => all.subarray(position * c.vocabulary, (position + 1) * c.vocabulary);
}

const textOf = (length: number): number[] =>
  Array.from({ length }, (_, i) => (i * i + (i >> 3)) % 10);
const toleranceOn = (machine: ModelMachine): number =>
  machine.storage === "float16" ? 2e-2 : 1e-5;

describe.each(machinesUnderTest)("$name", ({ open }) => {
  test("PyTorch's continuation, its logits on the way", async () => {
    const machine = await open();
    const name = machine.storage === "float16" ? "lm" : "dna";
    const { generation, config: own } = goldFacts(name);
    const c = goldLM({ config: own });
    const model = await Model.create(
      machine,
      await readHyenaLM(goldPath(`${name}.safetensors`), c),
    );
    const cache = new HyenaCache(model, c);
    const { data, shape } = (await goldTensors(`${name}.outputs`)).get("generation")!;
    const wide = shape[1]!;
    let logits = await cache.prompt(generation.prompt);
    for (const [i, token] of generation.tokens.entries()) {
      const wanted = data.subarray(i * wide, (i + 1) * wide);
      expect(relativeError(logits, wanted)).toBeLessThan(toleranceOn(machine));
      // Neighbours are no less apart than the tolerance.
      if (i > 0)
        expect(relativeError(logits, data.subarray((i - 1) * wide, i * wide))).toBeGreaterThan(
          0.05,
        );
      logits = await cache.next(token);
    }
    const greedy: number[] = [];
    const vocabulary = Number(own.vocabulary);
    for await (const token of generate(cache as HyenaCache, generation.prompt, {
      ...{ temperature: 0, count: 20, vocabulary },
    }))
      greedy.push(token);
    expect(greedy).toEqual(generation.tokens);
    cache.dispose();
    model.dispose();
    machine.dispose();
  });

  test("a text that outgrows its room, and its filter", async () => {
    const machine = await open();
    const c = { ...config, extends: true };
    const model = await Model.create(machine, vivid(c));
    // The filters have 400 taps; room is made again at 129 + 1 and at 258 tokens.
    const text = textOf(onGpu ? 140 : 420);
    const exact = await forward(model, c, text);
    const cache = new HyenaCache(model, c);
    const errors: number[] = [];
    const compare = (logits: Float32Array, position: number) =>
      errors.push(relativeError(logits, exact(position)));
    const begin = onGpu ? 3 : 100;
    compare(await cache.prompt(text.slice(0, begin)), begin - 1);
    for (let n = begin; n < text.length; n++) compare(await cache.next(text[n]!), n);
    expect(errors.length).toBe(text.length - begin + 1);
    expect(Math.max(...errors)).toBeLessThan(toleranceOn(machine));
    // A second text begins anew.
    compare(await cache.prompt(text.slice(0, 5)), 4);
    compare(await cache.next(text[5]!), 5);
    expect(Math.max(...errors)).toBeLessThan(toleranceOn(machine));
    cache.dispose();
    model.dispose();
    machine.dispose();
  });
});

describe("on one machine", () => {
  const { open } = machinesUnderTest[0]!;

  test("a filter for 400 positions runs on 512: what is further back does not count", async () => {
    const machine = await open();
    const c = { ...config, extends: true };
    // Of one block: two see twice as far.
    const model = await Model.create(machine, vivid({ ...c, layers: 1 }));
    const text = textOf(512);
    const long = await forward(model, c, text);
    const short = await forward(model, config, text.slice(0, 400));
    expect(relativeError(long(399), short(399))).toBeLessThan(1e-5);
    const changed = await forward(model, c, [5, ...text.slice(1)]);
    const apart = (position: number) => relativeError(changed(position), long(position));
    // The first token passes the short filter for two positions more.
    expect(apart(390)).toBeGreaterThan(1e-4);
    for (const position of [402, 450, 511]) expect(apart(position)).toBeLessThan(1e-5);
    await expect(forward(model, config, text)).rejects.toThrow("0 ≤ from < to ≤ 400");
    model.dispose();
    machine.dispose();
  });

  test("convolutions that keep a band of frequencies", async () => {
    const machine = await open();
    const model = await Model.create(machine, vivid(config));
    const text = textOf(128);
    const all = await forward(model, config, text);
    const band = (to: number): HyenaLMConfig => ({ ...config, frequencies: { band: [0, to] } });
    const whole = await forward(model, band(1), text);
    const lower = await forward(model, band(0.125), text);
    expect(relativeError(whole(127), all(127))).toBeLessThan(1e-5);
    const apart = relativeError(lower(127), all(127));
    expect(apart).toBeGreaterThan(1e-3);
    model.dispose();
    machine.dispose();
  });

  test("draws: by chance, from the likeliest, the same from one seed; and what is refused", async () => {
    const logits = Float32Array.of(0, Math.log(2), Math.log(5), -100);
    const share = (temperature: number, topK: number): number[] => {
      const counts = [0, 0, 0, 0];
      for (let i = 0; i < 800; i++)
        counts[drawToken(logits, temperature, topK, (i + 0.5) / 800)]! += 1;
      return counts;
    };
    expect(share(1, 4)).toEqual([100, 200, 500, 0]);
    expect(share(1, 1)).toEqual([0, 0, 800, 0]);
    expect(share(0, 4)).toEqual([0, 0, 800, 0]);
    expect(share(0.5, 2)[1]! / 800).toBeCloseTo(4 / 29, 2);
    const machine = await open();
    const model = await Model.create(machine, vivid(config));
    const cache = new HyenaCache(model, config) as HyenaCache;
    const write = async (seed: number): Promise<number[]> => {
      const tokens: number[] = [];
      for await (const token of generate(cache, [1, 2], { seed, count: 12, topK: 8 }))
        tokens.push(token);
      return tokens;
    };
    const [first, again, other] = [await write(1), await write(1), await write(2)];
    expect(again).toEqual(first);
    expect(other).not.toEqual(first);
    await expect(cache.prompt([])).rejects.toThrow("1 to 400 tokens");
    await expect(cache.prompt([10])).rejects.toThrow("below 10");
    await expect(cache.prompt(textOf(401))).rejects.toThrow("got 401");
    await cache.prompt([1]);
    await new HyenaCache(model, config).prompt([1]);
    await expect(cache.next(1)).rejects.toThrow("another text");
    await expect(generate(cache, [1], { temperature: -1 }).next()).rejects.toThrow("temperature");
    await expect(generate(cache, [1], { top: 1 } as never).next()).rejects.toThrow("topK");
    const refused = [{ order: 3 }, { frequencies: { band: [0, 0.2] as const } }];
    for (const more of refused)
      expect(() => new HyenaCache(model, { ...config, ...more })).toThrow(UnsupportedError);
    cache.dispose();
    model.dispose();
    machine.dispose();
  });

  test("hidden states, and their mean", async () => {
    const machine = await open();
    const weights = vivid(config);
    const model = await Model.create(machine, weights);
    const [batch, length] = [2, 24];
    const tokens = Uint32Array.from({ length: batch * length }, (_, i) => (i * 7) % 10);
    const embedders = await Promise.all(
      [false, true].map((mean) => HyenaEmbedder.open(model, config, { batch, length, mean })),
    );
    const [hidden, mean] = await Promise.all(embedders.map((e) => e.embed(tokens)));
    const inputs = { ids: { shape: [batch, length], storage: "uint32" } } as const;
    const program = await ModelProgram.compile(model, inputs, (p, { ids }) => ({
      y: hyenaLM(ids, p, config),
    }));
    program.write("ids", tokens);
    await program.run();
    expect(hidden).toEqual(await program.read("y"));
    const sums = new Float32Array(batch * config.width);
    hidden!.forEach((x, i) => {
      const item = Math.floor(i / (length * config.width));
      sums[item * config.width + (i % config.width)]! += x / length;
    });
    expect(relativeError(mean!, sums)).toBeLessThan(1e-5);
    for (const each of [...embedders, program]) each.dispose();
    model.dispose();
    machine.dispose();
  });
});
