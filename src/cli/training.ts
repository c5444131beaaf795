/** Trainings as the command line has them: fields with their ranges, presets, and the machine, model and data that come of them. */

import { dnaTokenizer, eitherStrand } from "../data/dna.ts";
import { openFasta } from "../data/fasta.ts";
import type { CharacterSource } from "../data/text.ts";
import { byteTokenizer, CharacterTokenizer, openBytes, openCharacters } from "../data/text.ts";
import type { Tokenizer, TokenSource } from "../data/tokens.ts";
import { loadTokens } from "../data/tokens.ts";
import type { Windows } from "../data/windows.ts";
import { orderedWindows, randomWindows } from "../data/windows.ts";
import { FileError, InvalidArgumentError } from "../errors.ts";
import { openSafetensors } from "../formats/safetensors.ts";
import type { HyenaLMConfig, HyenaLMOf } from "../models/hyena-lm.ts";
import { hyenaLMLoss, hyenaLMWeights } from "../models/hyena-lm.ts";
import type { ModelMachine } from "../nn/machine.ts";
import { Model } from "../nn/model.ts";
import { openMachine } from "../nn/open-machine.ts";
import type { Weight } from "../nn/parameters.ts";
import type { InputSpec } from "../nn/program.ts";
import { show } from "../show.ts";
import type { ParameterGroup } from "../train/adamw.ts";
import { loadWeights } from "../train/checkpoint.ts";
import type { LossProblem } from "../train/evaluation.ts";
import type { Command, Values } from "./options.ts";
import { defined, sharedChoices } from "./options.ts";

/** A number of a training: its lowest and highest value, whether it is an integer, what it is. */
type FieldRule = readonly [low: number, high: number, kind: "integer" | "number", help: string];

const count = (help: string, high = 2 ** 24): FieldRule => [1, high, "integer", help];
const number = (help: string, high: number): FieldRule => [0, high, "number", help];

/** Every field, as `--name` with dashes. */
const rules: Readonly<Record<FieldName, FieldRule>> = {
  width: count("channels of the model"),
  layers: count("blocks"),
  inner: count("neurons between the layers of a block's perceptron"),
  length: count("tokens of a sequence, and positions that filters have", 2 ** 22),
  features: count("features of a position, an odd number"),
  filterWidth: count("neurons of the filters' network"),
  frequency: number("frequency that its sines begin with", 1000),
  shift: number("added to the filters' decay", 10),
  dropout: number("rate of dropout", 0.99),
  batch: count("sequences of a micro-batch", 2 ** 20),
  microBatches: count("micro-batches of a step"),
  steps: count("steps"),
  rate: number("highest learning rate", 1),
  warmup: [0, 2 ** 24, "integer", "steps in which the rate rises"],
  lowest: number("learning rate at the end", 1),
  filterRate: number("learning rate of the features of positions, beside --rate", 1),
  decay: number("weight decay of matrices", 10),
  beta1: number("share that the average of gradients keeps", 0.9999),
  beta2: number("share that the average of their squares keeps", 0.99999),
  clip: number("highest norm of the gradient", 1e6),
  average: number("share that an average of the weights keeps; 0 for none", 0.99999),
  seed: [0, 2 ** 32 - 1, "integer", "what chance depends on"],
  heldOut: number("share of the data, at its end, that is held out", 0.9),
  reportEvery: count("steps between reports"),
  evaluateEvery: count("steps between evaluations"),
  evaluationBatches: [0, 2 ** 24, "integer", "held-out batches that are evaluated; 0 for all"],
  saveEvery: count("steps between checkpoints"),
};

type FieldName =
  | ("width" | "layers" | "inner" | "length" | "features" | "filterWidth" | "frequency" | "shift")
  | ("dropout" | "batch" | "microBatches" | "steps" | "rate" | "warmup" | "lowest" | "filterRate")
  | ("decay" | "beta1" | "beta2" | "clip" | "average" | "seed" | "heldOut")
  | (`${"report" | "evaluate" | "save"}Every` | "evaluationBatches");

/** A training in numbers, and what its data is. */
export type TrainingFields = Readonly<Record<FieldName, number>> & { readonly tokens: TokenKind };

/** What files of data hold. */
export const tokenKinds = ["characters", "bytes", "dna"] as const;
export type TokenKind = (typeof tokenKinds)[number];

const usual = {
  ...{ features: 33, filterWidth: 64, frequency: 14, shift: 0, dropout: 0, batch: 16 },
  ...{ microBatches: 1, warmup: 100, lowest: 1e-4, filterRate: 1e-5, decay: 0.1, beta1: 0.9 },
  ...{ beta2: 0.99, clip: 1, average: 0, seed: 0, heldOut: 0.1, reportEvery: 10 },
  ...{ evaluationBatches: 0, saveEvery: 500, tokens: "characters" as TokenKind },
};

/** Trainings by name. */
export const presets: Readonly<Record<PresetName, TrainingFields>> = {
  // nanoGPT's sizes for a GPU, with longer sequences.
  shakespeare: {
    ...{ ...usual, width: 384, layers: 6, inner: 1536, length: 1024, features: 5, dropout: 0.2 },
    ...{ steps: 3000, rate: 1e-3, evaluateEvery: 250 },
  },
  // nanoGPT's sizes for a processor.
  "shakespeare-cpu": {
    ...{ ...usual, width: 128, layers: 4, inner: 512, length: 64, features: 5, filterWidth: 32 },
    ...{ batch: 12, steps: 2000, rate: 2e-3, evaluateEvery: 500 },
  },
  // HyenaDNA tiny.
  dna: {
    ...{ ...usual, width: 128, layers: 2, inner: 512, length: 32_768, features: 5, frequency: 10 },
    ...{ shift: 0.05, batch: 8, steps: 4000, rate: 6e-4, beta2: 0.999, evaluateEvery: 500 },
    ...{ tokens: "dna" },
  },
};
export type PresetName = "shakespeare" | "shakespeare-cpu" | "dna";

const dashed = (name: string): string => name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);

/** The fields as options. */
export const fieldOptions: Command["options"] = [
  { name: "tokens", value: "KIND", help: `what the data is: ${tokenKinds.join(", ")} (FASTA)` },
  ...Object.entries(rules).map(([name, [, , kind, help]]) => ({
    ...{ name: dashed(name), value: kind === "integer" ? "N" : "X", help },
  })),
];

/** `base` with what the user set. */
export function fieldsOf(values: Values, base: TrainingFields): TrainingFields {
  const given = Object.entries(rules).map(([name, [low, high, kind]]) => [
    name,
    values[kind](dashed(name), low, high),
  ]);
  const tokens = values.choice("tokens", tokenKinds);
  return { ...base, ...defined({ tokens, ...Object.fromEntries(given) }) };
}

/** The machine that the user asked for: float16 on GPUs, unless something else is said. */
export async function machineOf(values: Values): Promise<ModelMachine> {
  const { backend, threads, instructions } = sharedChoices(values);
  const precision =
    values.choice("precision", ["float32", "mixed"]) ??
    (backend === "webgpu" ? "mixed" : undefined);
  return openMachine(defined({ backend, threads, instructions, precision }));
}

/** Data as tokens, the vocabulary being those of a model that was trained or, without one, of the data. */
export async function openData(
  path: string,
  kind: TokenKind,
  known?: Tokenizer,
): Promise<{ readonly source: TokenSource; readonly tokenizer: Tokenizer }> {
  if (kind === "dna")
    return { source: await loadTokens(await openFasta(path)), tokenizer: dnaTokenizer };
  if (kind === "bytes") return { source: await openBytes(path), tokenizer: byteTokenizer };
  const source: CharacterSource = await openCharacters(path, known as CharacterTokenizer);
  return { source, tokenizer: source.tokenizer };
}

/** What a file of weights says of its model. */
interface ModelTexts {
  readonly fields: TrainingFields;
  readonly tokenizer: Tokenizer;
}

/** The texts of a model for the files that hold it. */
export function textsOf(fields: TrainingFields, tokenizer: Tokenizer): Record<string, string> {
  const characters = tokenizer instanceof CharacterTokenizer ? tokenizer.characters : undefined;
  const names = ["tokens", ...Object.keys(rules)] as (keyof TrainingFields)[];
  const ordered = Object.fromEntries(names.map((name) => [name, fields[name]]));
  return { flashfftconv: JSON.stringify({ fields: ordered, characters }) };
}

/** @throws FileError where a file was not written by a training here. */
export async function readTexts(path: string, call: string): Promise<ModelTexts> {
  const file = await openSafetensors(path);
  const text = file.metadata.flashfftconv;
  await file.close();
  try {
    const { fields, characters } = JSON.parse(text ?? "");
    const complete = Object.keys(rules).every((name) => Number.isFinite(fields[name]));
    if (!complete || !tokenKinds.includes(fields.tokens)) throw new Error(text);
    const own = { dna: dnaTokenizer, bytes: byteTokenizer } as const;
    const { tokens } = fields as TrainingFields;
    return {
      fields,
      tokenizer: tokens === "characters" ? new CharacterTokenizer(characters) : own[tokens],
    };
  } catch (cause) {
    const parts = {
      ...{ call, requirement: `${show(path)} must be a model that flashfftconv train wrote` },
      value: text === undefined ? "a file without its fields" : show(text),
      remedy: "Give best.safetensors or checkpoint.safetensors of a training.",
    };
    throw new FileError(parts, cause);
  }
}

/** A model's sizes: rows of the embedding are a multiple of 8, since halves are stored in pairs and products like it. */
export function configOf(f: TrainingFields, { size }: Tokenizer): HyenaLMConfig {
  const { width, layers, inner, features, filterWidth, frequency, shift, dropout } = f;
  return {
    ...{ width, layers, inner, features, filterWidth, frequency, shift, dropout },
    ...{ maxLength: f.length, vocabulary: Math.ceil(size / 8) * 8, tied: true },
    ...{ trainsPositions: true, normEpsilon: 1e-5, recompute: false },
  };
}

/** Shapes of a micro-batch of windows. */
type WindowInputs = Readonly<Record<"inputs" | "targets", InputSpec>>;
type Problem<M> = LossProblem<M, HyenaLMOf<Weight>, WindowInputs>;

/** The model of a training, and how its loss comes of windows. */
export async function problemOfModel<M>(
  machine: ModelMachine<M>,
  config: HyenaLMConfig,
  f: TrainingFields,
): Promise<Problem<M>> {
  const shape: InputSpec = { shape: [f.batch, f.length], storage: "uint32" };
  return {
    model: await Model.create(machine, hyenaLMWeights(config, f.seed + 1)),
    inputs: { inputs: shape, targets: shape },
    loss: (p, { inputs, targets }) => hyenaLMLoss(inputs, targets, p, config),
  };
}

/** Windows to learn from, from a number of batches on, and those of the held-out part where there is one. */
interface TrainingWindows {
  data(from: number): Windows;
  validation?(): Windows;
}

/** The windows of a training: at random from the first part of the data, in order from the held-out part. */
export function windowsOf(source: TokenSource, f: TrainingFields): TrainingWindows {
  const { batch, length, seed } = f;
  const border = Math.floor(source.size * (1 - f.heldOut));
  const windows = (): Windows =>
    randomWindows(source, {
      ...{ batch, length, seed, to: border },
      ...(f.tokens === "dna" && { augment: eitherStrand }),
    });
  // Checked now: data that is too short is known before the work.
  const first = windows();
  const most = f.evaluationBatches || Number.POSITIVE_INFINITY;
  const to = Math.min(source.size, border + most * batch * length + 1);
  const held = () => orderedWindows(source, { batch, length, from: border, to });
  if (f.heldOut > 0) held();
  return {
    data: (from: number): Windows => {
      const own = windows();
      own.restore({ ...first.state(), next: from * batch });
      return own;
    },
    ...(f.heldOut > 0 && { validation: held }),
  };
}

/** A model of a file, on a machine. */
export async function openModel<M>(
  machine: ModelMachine<M>,
  path: string,
  values: Values,
): Promise<ModelTexts & { readonly problem: Problem<M>; readonly config: HyenaLMConfig }> {
  const { fields: base, tokenizer } = await readTexts(path, values.call);
  const fields = fieldsOf(values, base);
  const config = configOf(fields, tokenizer);
  const problem = await problemOfModel(machine, config, fields);
  await loadWeights(path, problem.model);
  return { problem, fields, tokenizer, config };
}

/** Parameters that learn in a way of their own: features of positions slowly, filters and embeddings without decay. */
export function groupsOf({
  rate,
  filterRate,
}: TrainingFields): (path: string) => ParameterGroup | undefined {
  return (path) => {
    if (path.endsWith("filter.positions"))
      return { rate: rate > 0 ? filterRate / rate : 0, decay: 0 };
    return /\.filter\.|\.short\.|^embedding$/.test(path) ? { decay: 0 } : undefined;
  };
}

/** @throws InvalidArgumentError without a preset. */
export function presetOf(values: Values): TrainingFields {
  const name = values.choice("preset", Object.keys(presets) as PresetName[]);
  if (name) return presets[name];
  throw new InvalidArgumentError({
    call: values.call,
    requirement: "--preset is required, or --resume",
    value: "neither",
    remedy: `Add --preset ${Object.keys(presets).join(" or ")}.`,
  });
}
