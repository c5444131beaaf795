/**
 * Weights of published models: their names in files, read from safetensors (in shards too) and from PyTorch's checkpoints, written as
 * the `-hf` files of HyenaDNA have them.
 */
import { FileError } from "../errors.ts";
import type { Readable } from "../files/input.ts";
import { InputFile } from "../files/input.ts";
import { openPyTorch } from "../formats/pytorch.ts";
import { openSafetensors, writeSafetensors } from "../formats/safetensors.ts";
import type { StoredTensor, WeightFile } from "../formats/stored.ts";
import { float32Of, tensorOf } from "../formats/stored.ts";
import type { Mapped, Weight, Weights } from "../nn/parameters.ts";
import { listWeights, mapWeights } from "../nn/parameters.ts";
import { show } from "../show.ts";
import type { HyenaLMConfig, HyenaLMOf } from "./hyena-lm.ts";
import { hyenaLMWeights } from "./hyena-lm.ts";

/** How the weights of a model are called in files. Names are replaced part by part, in order. */
export interface Naming {
  /** From a path of the tree to the name. */
  readonly names: readonly (readonly [RegExp, string])[];
  /** From a name of a file, with what trainers put around it, to the name. */
  readonly aliases: readonly (readonly [RegExp, string])[];
  /** Names whose shapes have ones, which trees leave out: where, by the tree's shape. */
  readonly ones: readonly (readonly [RegExp, (shape: readonly number[]) => readonly number[]])[];
  /** Names of what a tree has no place for: it follows from the configuration. */
  readonly implied: RegExp;
}

const before =
  (...ones: number[]) =>
  (shape: readonly number[]) => [...ones, ...shape];

/** HyenaDNA's and Hyena's. The three sines of a filter are one module: its frequencies have three names. */
export const hyenaNaming: Naming = {
  names: [
    [/^embedding$/, "backbone.embeddings.word_embeddings.weight"],
    [/^head$/, "lm_head.weight"],
    [/^norm\./, "backbone.ln_f."],
    [/^blocks\./, "backbone.layers."],
    [/\.inProjection\./, ".in_proj."],
    [/\.outProjection\./, ".out_proj."],
    [/\.short\./, ".short_filter."],
    [/\.mlp\.first\./, ".mlp.fc1."],
    [/\.mlp\.second\./, ".mlp.fc2."],
    [/\.filter\.positions$/, ".filter_fn.pos_emb.z"],
    [/\.filter\.layers\.0\./, ".filter_fn.implicit_filter.0."],
    [/\.filter\.layers\.1\./, ".filter_fn.implicit_filter.2."],
    [/\.filter\.layers\.2\./, ".filter_fn.implicit_filter.4."],
    [/\.filter\.frequency$/, ".filter_fn.implicit_filter.1.freq"],
    [/\.filter\.last\./, ".filter_fn.implicit_filter.6."],
    [/\.filter\.decay$/, ".filter_fn.modulation.deltas"],
    [/\.filter\.skip$/, ".filter_fn.bias"],
  ],
  aliases: [
    [/^(?:model|hyena)\./, ""],
    [/\.(mixer|mlp)\.layer\./, ".$1."],
    [/\.implicit_filter\.[35]\.freq$/, ".implicit_filter.1.freq"],
  ],
  ones: [
    [/\.short_filter\.weight$/, ([channels = 0, taps = 0]) => [channels, 1, taps]],
    [/\.(?:freq|pos_emb\.z)$/, before(1)],
    [/\.deltas$/, before(1, 1)],
  ],
  // Times of the positions: from 0 to 1 in equal steps.
  implied: /\.pos_emb\.t$/,
};

const replaced = (name: string, rules: Naming["names"]): string =>
  rules.reduce((text, [from, to]) => text.replace(from, to), name);

/** The name of a weight in files, without what stands before `backbone.`, and its shape there. */
export function publishedWeight(
  path: string,
  shape: readonly number[],
  naming: Naming,
): { readonly name: string; readonly shape: readonly number[] } {
  const name = replaced(path, naming.names);
  const [, change] = naming.ones.find(([pattern]) => pattern.test(name)) ?? [];
  return { name, shape: change ? change(shape) : shape };
}

/**
 * A language model's weights from a file: HyenaDNA's `-hf` safetensors (or their index), Lightning's `.ckpt`, Hyena's. The head is the
 * embedding where the configuration ties them and the file has none or the same numbers; else it is the file's.
 * @throws FileError where the file is broken, or is not of this configuration: all names that are missing, unknown or of another shape.
 * @example
 * const weights = await readHyenaLM("hyenadna-tiny-1k-seqlen-hf/model.safetensors", hyenaDNAs["tiny-1k"]);
 */
export async function readHyenaLM(source: Readable, c: HyenaLMConfig): Promise<HyenaLMOf<Weight>> {
  const own = hyenaLMWeights({ ...c, tied: false }, "zeros");
  const optional = c.tied ? ["lm_head.weight"] : [];
  const weights = await readWeights(source, own, hyenaNaming, optional);
  const { embedding, head } = weights;
  const same = head.data.length === 0 || head.data.every((x, i) => x === embedding.data[i]);
  return c.tied && same ? { ...weights, head: embedding } : weights;
}

async function openWeights(source: Readable): Promise<WeightFile & { readonly path: string }> {
  const file = await InputFile.open(source, "readWeights");
  let start: Uint8Array;
  try {
    start = await file.bytes(0, Math.min(2, file.size));
  } finally {
    await file.close();
  }
  const isZip = start[0] === 0x50 && start[1] === 0x4b;
  const opened = await (isZip ? openPyTorch(source) : openSafetensors(source));
  const { tensors, close } = opened;
  return { tensors, path: file.path, close: () => close.call(opened) };
}

/**
 * Weights of a tree's shapes from a file with names of its own; those that are `optional` and not there have no numbers.
 * @throws FileError as `readHyenaLM` does.
 */
export async function readWeights<Tree extends Weights>(
  source: Readable,
  tree: Tree,
  naming: Naming,
  optional: readonly string[] = [],
): Promise<Mapped<Tree, Weight>> {
  const file = await openWeights(source);
  try {
    const found = new Map<string, [name: string, tensor: StoredTensor][]>();
    for (const [name, tensor] of file.tensors) {
      const plain = replaced(name, naming.aliases);
      found.set(plain, [...(found.get(plain) ?? []), [name, tensor]]);
    }
    const faults: Record<"missing" | "unknown" | "misshapen" | "contradictory", string[]> = {
      ...{ missing: [], unknown: [], misshapen: [], contradictory: [] },
    };
    const values = new Map<string, Float32Array>();
    for (const [path, weight] of listWeights(tree)) {
      const { name, shape } = publishedWeight(path, weight.shape, naming);
      const given = found.get(name) ?? [];
      found.delete(name);
      if (given.length === 0 && !optional.includes(name)) faults.missing.push(name);
      const alike = given.filter(([as, { shape: own }]) => {
        if (String(own) === String(shape)) return true;
        faults.misshapen.push(`${as} (${own.join(", ")}) instead of (${shape.join(", ")})`);
        return false;
      });
      const read = await Promise.all(alike.map(([, tensor]) => float32Of(tensor)));
      read.forEach((data, i) => {
        if (!data.every((x, j) => Object.is(x, read[0]![j])))
          faults.contradictory.push(`${alike[i]![0]} and ${alike[0]![0]}`);
      });
      values.set(path, read[0] ?? new Float32Array());
    }
    for (const [plain, given] of found)
      if (!naming.implied.test(plain)) faults.unknown.push(...given.map(([name]) => name));
    const texts = Object.entries(faults).filter(([, names]) => names.length > 0);
    if (texts.length > 0) {
      throw new FileError({
        call: "readWeights",
        requirement: `${show(file.path)} must hold the weights of this configuration`,
        value: texts.map(([fault, names]) => `${fault}: ${names.join(", ")}`).join("; "),
        remedy: "Pass the configuration that the file was written with.",
      });
    }
    return mapWeights(tree, (weight, path) => ({ ...weight, data: values.get(path)! }));
  } finally {
    await file.close();
  }
}

/**
 * A language model's weights as the `-hf` files of HyenaDNA have them: with the times of the positions, and the head even where it is
 * the embedding.
 * @param values numbers by path instead of the tree's, as `model.read()` gives them.
 * @param prefix what stands before `backbone.`: nothing in Hyena's own files.
 * @example
 * const blob = await safetensorsBlob(publishedTensors(weights));
 */
export function publishedTensors(
  weights: HyenaLMOf<Weight>,
  values: ReadonlyMap<string, Float32Array> = new Map(),
  prefix = "hyena.",
): ReadonlyMap<string, StoredTensor> {
  const tensors = new Map<string, StoredTensor>();
  const tied = weights.head === weights.embedding;
  mapWeights(weights, (weight, path) => {
    const { name, shape } = publishedWeight(path, weight.shape, hyenaNaming);
    const full = name.replace(/^backbone\./, `${prefix}backbone.`);
    const data = values.get(tied && path === "head" ? "embedding" : path) ?? weight.data;
    tensors.set(full, tensorOf(data, shape));
    if (!path.endsWith(".positions")) return;
    const [length = 0] = weight.shape;
    const times = Float32Array.from({ length }, (_, i) => i / Math.max(1, length - 1));
    tensors.set(full.replace(/z$/, "t"), tensorOf(times, [1, length, 1]));
  });
  return tensors;
}

/**
 * Write a language model as `-hf` safetensors.
 * @param values as those of `publishedTensors`.
 * @throws FileError where the disk refuses.
 * @example
 * await writeHyenaLM("model.safetensors", weights, await model.read());
 */
export async function writeHyenaLM(
  path: string,
  weights: HyenaLMOf<Weight>,
  values?: ReadonlyMap<string, Float32Array>,
): Promise<void> {
  await writeSafetensors(path, publishedTensors(weights, values), { metadata: { format: "pt" } });
}
