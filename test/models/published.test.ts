/** Weights in files: all published names and shapes, files that PyTorch wrote, and what is refused. */
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { FileError } from "../../src/errors.ts";
import { openSafetensors, safetensorsBlob } from "../../src/formats/safetensors.ts";
import { type StoredTensor, tensorOf } from "../../src/formats/stored.ts";
import { hyenaDNAs } from "../../src/models/hyena-dna.ts";
import {
  type HyenaLMConfig,
  type HyenaLMOf,
  hyenaLMs,
  hyenaLMWeights,
} from "../../src/models/hyena-lm.ts";
import { publishedTensors, readHyenaLM, writeHyenaLM } from "../../src/models/published.ts";
import { listWeights, type Weight } from "../../src/nn/parameters.ts";
import {
  goldFacts,
  goldLM,
  goldLongConv,
  goldPath,
  goldTensors,
  readLongConv,
} from "../support/gold.ts";

const dna = goldLM(goldFacts("dna"));
type Published = Record<string, { shapes: Record<string, number[]>; config: never }>;
const published: Published = JSON.parse(readFileSync(goldPath("published.json"), "utf8"));
const ours: Record<string, HyenaLMConfig> = { ...hyenaDNAs, "hyena-small": hyenaLMs.small };

test.each(Object.keys(ours))("names and shapes of %s are the published ones", (name) => {
  const { shapes, config } = published[name]!;
  const own = ours[name]!;
  const [prefix, tied] = name === "hyena-small" ? ["", true] : ["hyena.", own.tied];
  expect({ order: 2, ...own }).toMatchObject({ ...goldLM({ config }), tied });
  const tensors = publishedTensors(
    hyenaLMWeights({ ...own, layers: 1 }, "zeros"),
    new Map(),
    prefix,
  );
  const found = Object.fromEntries(
    [...tensors].map(([key, { shape }]) => [key.replace("layers.0", "layers.*"), shape]),
  );
  // A tied head is left out of Hyena's own files.
  if (name === "hyena-small") delete found["lm_head.weight"];
  expect(found).toEqual(shapes);
});

const flat = (weights: HyenaLMOf<Weight>) =>
  new Map([...listWeights(weights)].map(([path, { data }]) => [path, data]));

test("safetensors, shards and Lightning's checkpoints hold the same weights", async () => {
  const weights = await readHyenaLM(goldPath("dna.safetensors"), dna);
  const gold = await goldTensors("dna");
  expect(weights.blocks[1]!.mixer.filter.frequency.data).toEqual(
    gold.get("hyena.backbone.layers.1.mixer.filter_fn.implicit_filter.1.freq")!.data,
  );
  expect(weights.head.data).toEqual(gold.get("lm_head.weight")!.data);
  for (const name of ["dna.ckpt", "dna.layer.ckpt", "dna-sharded/model.safetensors.index.json"])
    expect(flat(await readHyenaLM(goldPath(name), dna))).toEqual(flat(weights));
  expect(weights.blocks[0]!.mixer.filter.decay.frozen).toBe(true);
});

test("what is written is read again, under the published names", async () => {
  const folder = await mkdtemp(join(tmpdir(), "published-"));
  try {
    const path = join(folder, "model.safetensors");
    const weights = await readHyenaLM(goldPath("dna.safetensors"), dna);
    const moved = new Map([["norm.bias", weights.norm.bias.data.map((x) => x + 1)]]);
    await writeHyenaLM(path, weights, moved);
    expect(flat(await readHyenaLM(path, dna))).toEqual(new Map([...flat(weights), ...moved]));
    const [written, gold] = [await openSafetensors(path), await goldTensors("dna")];
    const shapes = (tensors: ReadonlyMap<string, { shape: readonly number[] }>) =>
      Object.fromEntries([...tensors].map(([name, { shape }]) => [name, shape]));
    expect(shapes(written.tensors)).toEqual(shapes(gold));
    await written.close();
  } finally {
    await rm(folder, { recursive: true });
  }
});

test("heads are tied where the configuration says so and the file's numbers are the embedding's", async () => {
  const lm = goldLM(goldFacts("lm"));
  const tied = await readHyenaLM(goldPath("lm.safetensors"), lm);
  expect(tied.head).toBe(tied.embedding);
  const whole = await safetensorsBlob(publishedTensors(tied));
  const again = await readHyenaLM(whole, lm);
  expect(again.head).toBe(again.embedding);
  expect((await readHyenaLM(whole, { ...lm, tied: false })).head).not.toBe(again.embedding);
  const own = await readHyenaLM(goldPath("dna.safetensors"), { ...dna, tied: true });
  expect(own.head.data).not.toEqual(own.embedding.data);
  await expect(readHyenaLM(goldPath("lm.safetensors"), { ...lm, tied: false })).rejects.toThrow(
    "missing: lm_head.weight",
  );
});

test("names that are missing, unknown, misshapen or contradictory are all listed", async () => {
  const weights = await readHyenaLM(goldPath("dna.safetensors"), dna);
  const refused = async (change: (tensors: Map<string, StoredTensor>) => void): Promise<string> => {
    const tensors = new Map(publishedTensors(weights));
    change(tensors);
    const error = await readHyenaLM(await safetensorsBlob(tensors), dna).catch((e) => e);
    expect(error).toBeInstanceOf(FileError);
    return error.parts.value;
  };
  const layer = "hyena.backbone.layers.1";
  const filter = `${layer}.mixer.filter_fn`;
  expect(
    await refused((tensors) => {
      tensors.delete(`${layer}.norm2.bias`);
      tensors.delete("lm_head.weight");
      tensors.set("hyena.backbone.extra", tensorOf(new Float32Array(1), [1]));
      tensors.set(`${filter}.bias`, tensorOf(new Float32Array(25), [25]));
      tensors.set(`${filter}.pos_emb.z`, tensorOf(new Float32Array(500), [100, 5]));
      const frequency = new Float32Array(64);
      tensors.set(`${filter}.implicit_filter.5.freq`, tensorOf(frequency, [1, 64]));
    }),
  ).toBe(
    "missing: backbone.layers.1.norm2.bias, lm_head.weight; unknown: hyena.backbone.extra; " +
      `misshapen: ${filter}.pos_emb.z (100, 5) instead of (1, 100, 5), ${filter}.bias (25) instead of (24); ` +
      `contradictory: ${filter}.implicit_filter.5.freq and ${filter}.implicit_filter.1.freq`,
  );
  expect(await refused((tensors) => tensors.clear())).toContain("backbone.layers.1.mlp.fc2.bias");
  const other = readHyenaLM(goldPath("dna.safetensors"), { ...dna, layers: 1 });
  await expect(other).rejects.toThrow(`${layer}.mixer.in_proj.weight`);
  await expect(readHyenaLM(goldPath("calls.ckpt"), dna)).rejects.toThrow("missing: backbone");
  await expect(readHyenaLM(goldPath("legacy.ckpt"), dna)).rejects.toThrow(FileError);
  await expect(readHyenaLM(new Uint8Array(1), dna)).rejects.toThrow(FileError);
});

test("classifiers are read under their names", async () => {
  const c = goldLongConv(goldFacts("long-conv"));
  const weights = await readLongConv(goldPath("long-conv.safetensors"), c);
  const gold = await goldTensors("long-conv");
  expect(weights.layers[1]!.kernel.data).toEqual(gold.get("conv_layers.1.kernel")!.data);
  await expect(readLongConv(goldPath("long-conv-causal.safetensors"), c)).rejects.toThrow(
    "encoder.weight (20, 1) instead of (16, 3)",
  );
});
