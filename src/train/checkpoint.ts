/**
 * Checkpoints: one safetensors file with the weights under their paths, what the optimiser keeps beside them, and in its metadata
 * where the loop stands. Whoever looks for weights reads it like any other file of weights. A file appears whole or not at all.
 */
import { FileError } from "../errors.ts";
import type { WriteContext } from "../files/output.ts";
import type { SafetensorsFile } from "../formats/safetensors.ts";
import { openSafetensors, writeSafetensors } from "../formats/safetensors.ts";
import type { StoredTensor } from "../formats/stored.ts";
import { float32Of, tensorOf } from "../formats/stored.ts";
import type { Model } from "../nn/model.ts";
import type { ArenaName, TensorShape } from "../nn/tensor.ts";
import { show } from "../show.ts";
import { AdamW } from "./adamw.ts";

/** Where a training stands. */
export interface LoopState {
  /** Steps done. */
  readonly step: number;
  /** Micro-batches taken from the data. */
  readonly position: number;
  readonly seed: number;
  /** Seconds of training. */
  readonly seconds: number;
  /** The last report: steps done then, and seconds. Losses since then are summed up in the optimiser's state. */
  readonly reported: { readonly step: number; readonly seconds: number };
  /** The lowest loss of the held-out part, and the steps done then. */
  readonly best: { readonly loss: number; readonly step: number } | null;
}

/** Arenas that a checkpoint keeps, and what stands before the paths of their tensors. */
type KeptArena = Exclude<ArenaName, "half" | "gradient">;
const kept: Readonly<Record<KeptArena, string>> = {
  parameter: "",
  moment: "optimiser.moment.",
  square: "optimiser.square.",
  average: "optimiser.average.",
};

const statePrefix = "optimiser.state.";
const loopKey = "loop";

/** What is written beside the weights. */
export interface SaveOptions {
  /** Texts for whoever reads the file: the model's configuration, say. */
  readonly metadata?: Readonly<Record<string, string>>;
  readonly context?: WriteContext;
}

/** Write weights alone: the parameters, or their average. */
export async function saveWeights<M>(
  path: string,
  model: Model<M>,
  { metadata, context }: SaveOptions = {},
  arena: KeptArena = "parameter",
): Promise<void> {
  const tensors = new Map<string, StoredTensor>();
  const values = await model.read(arena);
  for (const [name, { weight }] of model.places)
    tensors.set(name, tensorOf(values.get(name)!, weight.shape));
  const options = { metadata: { format: "pt", ...metadata }, ...(context && { context }) };
  await writeSafetensors(path, tensors, options);
}

/**
 * Write everything that a resumed run needs.
 * @throws FileError where the disk refuses; what stood under the path stays.
 */
export async function saveCheckpoint<M>(
  path: string,
  model: Model<M>,
  loop: LoopState,
  { metadata, context }: SaveOptions = {},
): Promise<void> {
  const tensors = new Map<string, StoredTensor>();
  // One arena is held at a time: tensors are written by name, so those of one arena follow one another.
  let held: { name: KeptArena; values: Promise<Map<string, Float32Array>> } | undefined;
  const valuesOf = (name: KeptArena): Promise<Map<string, Float32Array>> => {
    if (held?.name !== name) held = { name, values: model.read(name) };
    return held.values;
  };
  for (const name of arenasOf(model)) {
    for (const [at, { weight }] of model.places) {
      const bytes = async () =>
        new Uint8Array(((await valuesOf(name)).get(at)! as Float32Array<ArrayBuffer>).buffer);
      tensors.set(`${kept[name]}${at}`, { dtype: "F32", shape: weight.shape, bytes });
    }
  }
  for (const name of AdamW.states) {
    const values = await model.readState(name);
    tensors.set(`${statePrefix}${name}`, tensorOf(values, [values.length]));
  }
  const texts = { format: "pt", ...metadata, [loopKey]: JSON.stringify(loop) };
  await writeSafetensors(path, tensors, { metadata: texts, ...(context && { context }) });
}

function arenasOf<M>({ arenas }: Model<M>): KeptArena[] {
  return (Object.keys(kept) as KeptArena[]).filter((name) => arenas.includes(name));
}

/**
 * Put a checkpoint into a model whose optimiser there is.
 * @returns where the loop stands.
 * @throws FileError for a broken file and for one of another model: tensors that lack, are unknown or have another shape are named.
 */
export async function loadCheckpoint<M>(path: string, model: Model<M>): Promise<LoopState> {
  const file = await openSafetensors(path);
  try {
    const loop = parseLoop(path, file);
    const wanted = new Map<string, TensorShape | undefined>();
    for (const name of arenasOf(model))
      for (const [at, { weight }] of model.places) wanted.set(`${kept[name]}${at}`, weight.shape);
    for (const name of AdamW.states) wanted.set(`${statePrefix}${name}`, undefined);
    checkTensors(path, file, wanted);
    const states = new Map<string, Float32Array>();
    for (const name of AdamW.states) {
      const values = await float32Of(file.tensors.get(`${statePrefix}${name}`)!);
      const { length } = await model.readState(name);
      if (values.length !== length)
        throw broken(path, `optimiser state of ${show(length)} numbers`, show(values.length));
      states.set(name, values);
    }
    // Nothing of the model changes before all of the file has been read.
    const arenas = new Map<KeptArena, Map<string, Float32Array>>();
    for (const name of arenasOf(model)) arenas.set(name, await read(file, model, kept[name]));
    for (const [name, values] of arenas) await model.write(values, name);
    for (const [name, values] of states) model.writeState(name, values);
    return loop;
  } finally {
    await file.close();
  }
}

/**
 * Put the weights of a file into a model; what a checkpoint holds beside them is left alone.
 * @returns the file's metadata.
 * @throws FileError for a broken file and for one of another model.
 */
export async function loadWeights<M>(
  path: string,
  model: Model<M>,
): Promise<Readonly<Record<string, string>>> {
  const file = await openSafetensors(path);
  try {
    const wanted = new Map([...model.places].map(([at, { weight }]) => [at, weight.shape]));
    checkTensors(path, file, wanted, true);
    await model.write(await read(file, model, ""));
    return file.metadata;
  } finally {
    await file.close();
  }
}

async function read<M>(
  file: SafetensorsFile,
  model: Model<M>,
  prefix: string,
): Promise<Map<string, Float32Array>> {
  const values = new Map<string, Float32Array>();
  for (const at of model.places.keys())
    values.set(at, await float32Of(file.tensors.get(`${prefix}${at}`)!));
  return values;
}

/** Refuse a file whose tensors are others than those wanted. */
function checkTensors(
  path: string,
  { tensors }: SafetensorsFile,
  wanted: ReadonlyMap<string, TensorShape | undefined>,
  alone = false,
): void {
  const rest = [...tensors.keys()].filter((n) => !wanted.has(n));
  const unknown = alone ? rest.filter((n) => !n.startsWith("optimiser.")) : rest;
  const lacking = [...wanted.keys()].filter((n) => !tensors.has(n));
  const misshapen = [...wanted].flatMap(([name, shape]) => {
    const found = tensors.get(name)?.shape;
    if (!found || !shape || String(found) === String(shape)) return [];
    return [`${name} (${found.join(", ")}) for (${shape.join(", ")})`];
  });
  const said = [
    ["lacking", lacking],
    ["unknown", unknown],
    ["misshapen", misshapen],
  ] as const;
  const texts = said
    .filter(([, names]) => names.length > 0)
    .map(([what, names]) => {
      const first = names.slice(0, 3).join(", ");
      return `${what}: ${first}${names.length > 3 ? ` and ${names.length - 3} more` : ""}`;
    });
  if (texts.length > 0) throw broken(path, "the tensors of this model", texts.join("; "));
}

function parseLoop(path: string, { metadata }: SafetensorsFile): LoopState {
  const text = metadata[loopKey];
  try {
    const loop = JSON.parse(text ?? "null") as Partial<LoopState> | null;
    const numbers = [loop?.step, loop?.position, loop?.seed, loop?.seconds, loop?.reported?.step];
    if (numbers.every(Number.isFinite)) return loop as LoopState;
  } catch {
    // Said below.
  }
  throw broken(path, "the place of a training in its metadata", text ? show(text) : "none");
}

function broken(path: string, needed: string, value: string): FileError {
  return new FileError({
    call: "resume",
    requirement: `${show(path)} must have ${needed}`,
    value,
    remedy: "Give the checkpoint of a training with this model and these options.",
  });
}
