/** Whole models against PyTorch's: outputs, the loss, every gradient, ten losses of AdamW steps; and mutants that must not pass. */
import { describe, expect, test } from "vitest";
import { taps } from "../../src/models/hyena.ts";
import type { HyenaLMOf } from "../../src/models/hyena-lm.ts";
import { hyenaLM } from "../../src/models/hyena-lm.ts";
import { longConvLayers, longConvLogits, longConvLoss } from "../../src/models/long-conv.ts";
import { hyenaNaming, publishedWeight, readHyenaLM } from "../../src/models/published.ts";
import { Model } from "../../src/nn/model.ts";
import { linear } from "../../src/nn/operations/linear.ts";
import { crossEntropy } from "../../src/nn/operations/loss.ts";
import type { Weight, Weights } from "../../src/nn/parameters.ts";
import type { InputSpecs, Outputs } from "../../src/nn/program.ts";
import { ModelProgram } from "../../src/nn/program.ts";
import type { TapeTensor } from "../../src/nn/tape.ts";
import { AdamW } from "../../src/train/adamw.ts";
import { onGpu } from "../support/backends.ts";
import {
  expectNear,
  goldFacts,
  goldLM,
  goldLongConv,
  goldPath,
  goldTensors,
  longConvNaming,
  readLongConv,
} from "../support/gold.ts";
import { machinesUnderTest } from "../support/machines.ts";

type Arrays = Map<string, Float32Array>;

/** A model with its batches, and the names of its parameters in the files. */
interface GoldModel {
  readonly weights: Weights;
  readonly inputs: InputSpecs;
  readonly batches: readonly Readonly<Record<string, Float32Array | Uint32Array>>[];
  readonly body: (p: never, inputs: never) => Outputs;
  readonly nameOf: (path: string) => string;
  readonly outputs: readonly string[];
  /** What our filters have and PyTorch's have not: the skip, as a tap. */
  readonly skips: Readonly<Record<string, Float32Array>>;
}

async function languageModel(name: string): Promise<GoldModel> {
  const facts = goldFacts(name);
  const c = goldLM(facts);
  const [[first = []] = []] = facts.ids;
  const shape = [facts.ids[0]!.length, first.length - 1];
  const filters = Array.from({ length: c.layers }, (_, i) => `filters.${i}`);
  const weights = await readHyenaLM(goldPath(`${name}.safetensors`), c);
  const skips = weights.blocks.map(({ mixer }) => mixer.filter.skip.data);
  return {
    weights,
    skips: Object.fromEntries(filters.map((key, i) => [key, skips[i]!])),
    inputs: { ids: { shape, storage: "uint32" }, labels: { shape, storage: "uint32" } },
    batches: facts.ids.map((rows) => ({
      ids: Uint32Array.from(rows.flatMap((row) => row.slice(0, -1))),
      labels: Uint32Array.from(rows.flatMap((row) => row.slice(1))),
    })),
    body: (p: HyenaLMOf<TapeTensor>, { ids, labels }: Record<string, TapeTensor>) => {
      const hidden = hyenaLM(ids!, p, c);
      const k = p.blocks.map((block) => taps(shape[1]!, block.mixer.filter, c));
      return {
        ...{ hidden, logits: linear(hidden, { weight: p.head }) },
        ...Object.fromEntries(filters.map((key, i) => [key, k[i]!])),
        loss: crossEntropy(hidden, p.head, labels!),
      };
    },
    nameOf: (path) => {
      const { name: own } = publishedWeight(path, [], hyenaNaming);
      return name === "dna" && own.startsWith("backbone.") ? `hyena.${own}` : own;
    },
    outputs: ["hidden", "logits", ...filters],
  };
}

async function classifier(name: string): Promise<GoldModel> {
  const facts = goldFacts(name);
  const c = goldLongConv(facts);
  const inputs = (await goldTensors(`${name}.outputs`)).get("inputs")!;
  const [, ...shape] = inputs.shape;
  const size = inputs.data.length / facts.labels.length;
  return {
    weights: await readLongConv(goldPath(`${name}.safetensors`), c),
    inputs: {
      x: { shape, storage: "float32" },
      labels: { shape: [shape[0]!], storage: "uint32" },
    },
    batches: facts.labels.map((labels, i) => ({
      x: inputs.data.slice(i * size, (i + 1) * size),
      labels: Uint32Array.from(labels),
    })),
    body: (p: never, { x, labels }: Record<string, TapeTensor>) => ({
      "blocks.1": longConvLayers(x!, p, c),
      logits: longConvLogits(x!, p, c),
      loss: longConvLoss(x!, labels!, p, c),
    }),
    nameOf: (path) => publishedWeight(path, [], longConvNaming).name,
    outputs: ["logits", "blocks.1"],
    skips: {},
  };
}

const models = {
  ...{ dna: languageModel, lm: languageModel },
  ...{ "long-conv": classifier, "long-conv-causal": classifier },
};
// A processor that plays a GPU compiles each model's kernels for many seconds.
const names = (onGpu ? ["lm", "long-conv"] : Object.keys(models)) as (keyof typeof models)[];

/** Numbers of a gold file by name, without those that have no gradient. */
async function goldArrays(name: string): Promise<Arrays> {
  const tensors = await goldTensors(name);
  return new Map([...tensors].map(([key, { data }]) => [key, data]));
}

const renamed = (values: ReadonlyMap<string, Float32Array>, { nameOf }: GoldModel): Arrays =>
  new Map([...values].map(([path, data]) => [nameOf(path), data]));

describe.each(machinesUnderTest)("$name", ({ open }) => {
  test.each(names)("%s is PyTorch's, and so are ten steps of training", async (name) => {
    const facts = goldFacts(name);
    const gold = await models[name](name);
    const machine = await open();
    const half = machine.storage === "float16";
    const tolerance = half ? 2e-2 : 1e-5;
    const model = await Model.create(machine, gold.weights);
    const program = await ModelProgram.compile(model, gold.inputs, gold.body as never, {
      losses: ["loss"],
    });
    const run = async (batch: number): Promise<number> => {
      const values = gold.batches[batch]!;
      for (const key in values) program.write(key, values[key]!);
      await program.run();
      return (await program.read("loss"))[0]!;
    };

    const loss = await run(0);
    const outputs: Arrays = new Map();
    for (const key of gold.outputs) outputs.set(key, await program.read(key));
    const all = await goldArrays(`${name}.outputs`);
    const wanted: Arrays = new Map(gold.outputs.map((key) => [key, all.get(key)!]));
    for (const [key, skip] of Object.entries(gold.skips)) {
      const filter = wanted.get(key)!;
      skip.forEach((x, d) => {
        filter[(d * filter.length) / skip.length]! += x;
      });
    }
    expectNear(outputs, wanted, tolerance);
    expect(Math.abs(loss / facts.loss - 1)).toBeLessThan(half ? 2e-2 : 1e-5);
    const gradients = renamed(await model.read("gradient"), gold);
    const goldGradients = await goldArrays(`${name}.gradients`);
    expectNear(gradients, goldGradients, tolerance);

    // What the comparison refuses.
    const logits = outputs.get("logits")!;
    const only = (key: string, values: Float32Array, from: Arrays): void =>
      expect(() =>
        expectNear(new Map([[key, values]]), new Map([[key, from.get(key)!]]), tolerance),
      ).toThrow();
    only("logits", new Float32Array(logits.length), wanted);
    only("logits", Float32Array.of(0, ...logits.subarray(0, -1)), wanted);
    only("logits", logits.slice(0, -1), wanted);
    // The last sample alone.
    const { width } = { width: logits.length / gold.inputs.labels!.shape.reduce((a, b) => a * b) };
    only("logits", logits.slice().fill(0, -width), wanted);
    for (const [key, values] of goldGradients)
      if (values.length > 1) only(key, values.toReversed(), goldGradients);

    const groups = Object.values(facts.optimiser.groups);
    const base = groups[0]!.lr;
    await model.write(
      new Map(
        [...model.places].map(([p, { weight }]) => [p, new Float32Array(weight.data.length)]),
      ),
      "gradient",
    );
    const optimiser = await AdamW.create(model, {
      ...{ betas: facts.optimiser.betas, eps: facts.optimiser.eps, clip: facts.optimiser.clip },
      groups: (path) => {
        const own = groups.find((group) => group.names.includes(gold.nameOf(path)))!;
        return { rate: own.lr / base, decay: own.weight_decay };
      },
    });
    const losses: number[] = [];
    for (let step = 0; step < 10; step++) {
      losses.push(await run(step));
      await optimiser.step(step + 1, base * facts.optimiser.schedule[step]!, true);
    }
    losses.push(await run(0));
    const apart = [...facts.losses, facts.loss_after].map((x, i) => Math.abs(losses[i]! / x - 1));
    expect(Math.max(...apart)).toBeLessThan(half ? 2e-2 : 1e-4);
    if (!half) {
      const after = renamed(await model.read(), gold);
      expectNear(after, await goldArrays(`${name}.final`), 1e-4);
    }
    optimiser.dispose();
    program.dispose();
    model.dispose();
    machine.dispose();
  });
});

test("gates that changed places are seen", async () => {
  const gold = await languageModel("dna");
  const weights = gold.weights as HyenaLMOf<Weight>;
  // The first two thirds of the projections and of their filters: what is before the convolution, and behind it.
  for (const { mixer } of weights.blocks) {
    for (const { data } of [...Object.values(mixer.inProjection), ...Object.values(mixer.short)]) {
      const third = data.length / 3;
      const first = data.slice(0, third);
      data.copyWithin(0, third, 2 * third).set(first, third);
    }
  }
  const machine = await machinesUnderTest[0]!.open();
  const model = await Model.create(machine, gold.weights);
  const program = await ModelProgram.compile(model, gold.inputs, gold.body as never, {});
  for (const key in gold.batches[0]) program.write(key, gold.batches[0][key]!);
  await program.run();
  const logits = await program.read("logits");
  const all = await goldArrays("dna.outputs");
  const wanted = new Map([["logits", all.get("logits")!]]);
  expect(() => expectNear(new Map([["logits", logits]]), wanted, 2e-2)).toThrow();
  program.dispose();
  model.dispose();
  machine.dispose();
});
