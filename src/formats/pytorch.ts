/**
 * Checkpoints of PyTorch (.pt, .bin, Lightning's .ckpt): a zip archive with a pickle of what was saved and an entry for the memory
 * of each storage. Nothing of them is run; a tensor's bytes are read when they are asked for.
 */
import { type FlashFFTConvError, UnsupportedError } from "../errors.ts";
import { InputFile, type Readable } from "../files/input.ts";
import { show } from "../show.ts";
import { PickledName, PickledObject, PickleError, unpickle } from "./pickle.ts";
import {
  elements,
  isCount,
  isShape,
  type StoredTensor,
  type TensorType,
  typeBits,
  type WeightFile,
} from "./stored.ts";
import { readZip, type ZipEntry } from "./zip.ts";

/** A checkpoint: the tensors by name, and all that was saved with them. */
export interface PyTorchFile extends WeightFile {
  /**
   * What was saved: dicts as Maps, lists and tuples as arrays, tensors as `StoredTensor`, and objects of other classes as inert
   * `PickledObject`s.
   */
  readonly objects: unknown;
}

const opening = "openPyTorch";
const again = "Copy the file again, or save it again with torch.save.";

/** Types by the class of a storage. */
const storages: Readonly<Record<string, TensorType>> = {
  ...{ FloatStorage: "F32", HalfStorage: "F16", BFloat16Storage: "BF16", DoubleStorage: "F64" },
  ...{ LongStorage: "I64", IntStorage: "I32", ShortStorage: "I16", CharStorage: "I8" },
  ...{ ByteStorage: "U8", BoolStorage: "BOOL", ComplexFloatStorage: "C64" },
};

/** A tensor that is expanded from a smaller storage takes its full size when it is read: at most so many elements. */
const mostExpanded = 2 ** 26;

/** The memory of tensors: `count` elements. */
class Storage {
  readonly dtype: TensorType;
  readonly count: number;
  readonly entry: ZipEntry;

  constructor(dtype: TensorType, count: number, entry: ZipEntry) {
    this.dtype = dtype;
    this.count = count;
    this.entry = entry;
  }
}

/** The tensors of this file's own making, to be told from all else that a pickle holds. */
const tensorsMade = new WeakSet<object>();

const isTensor = (value: unknown): value is StoredTensor =>
  typeof value === "object" && value !== null && tensorsMade.has(value);

/** Elements of a storage, from one on and with strides. */
function stridedTensor(
  { dtype, entry }: Storage,
  offset: number,
  shape: readonly number[],
  strides: readonly number[],
): StoredTensor {
  const bytes = async (): Promise<Uint8Array<ArrayBuffer>> => {
    if (elements(shape) === 0) return new Uint8Array(0);
    const width = typeBits[dtype] / 8;
    const span = width * (lastOf(shape, strides) + 1);
    const part = span === entry.size ? await entry.all() : await entry.read(offset * width, span);
    const isDense = shape.every(
      (size, i) => size === 1 || strides[i] === elements(shape.slice(i + 1)),
    );
    return isDense ? part : gathered(part, width, shape, strides);
  };
  const tensor = { dtype, shape, bytes };
  tensorsMade.add(tensor);
  return tensor;
}

/** The distance from the first element to the last. */
const lastOf = (shape: readonly number[], strides: readonly number[]): number =>
  shape.reduce((sum, size, i) => sum + (size - 1) * strides[i]!, 0);

function gathered(
  bytes: Uint8Array<ArrayBuffer>,
  width: number,
  shape: readonly number[],
  strides: readonly number[],
): Uint8Array<ArrayBuffer> {
  const Words = ({ 1: Uint8Array, 2: Uint16Array, 4: Uint32Array }[width] ??
    Float64Array) as Uint32ArrayConstructor;
  const source = new Words(bytes.buffer);
  const target = new Words(elements(shape));
  const index = shape.map(() => 0);
  let from = 0;
  for (let i = 0; i < target.length; i++) {
    target[i] = source[from]!;
    for (let d = shape.length - 1; d >= 0; d--) {
      from += strides[d]!;
      if (++index[d]! < shape[d]!) break;
      from -= strides[d]! * shape[d]!;
      index[d] = 0;
    }
  }
  return new Uint8Array(target.buffer);
}

/**
 * Open a checkpoint. `tensors` are those of `state_dict` where there is one (Lightning), of `state.model` (Composer), else all:
 * names of nested dicts and lists are joined by points. Classes and functions that are none of PyTorch's tensors stay inert and do
 * not matter; those that a tensor needs and nobody knows are an error.
 * @throws FileError where the file cannot be read, is broken, or holds no tensors; UnsupportedError for tensors of other kinds
 * (sparse, quantised) and for files of machines with the other order of bytes.
 * @example
 * const file = await openPyTorch("weights.ckpt");
 * const table = await float32Of(file.tensors.get("model.backbone.embeddings.word_embeddings.weight")!);
 * await file.close();
 */
export async function openPyTorch(source: Readable): Promise<PyTorchFile> {
  const file = await InputFile.open(source, opening);
  try {
    const objects = await readObjects(file);
    const tensors = namedTensors(file, weightsIn(objects));
    if (tensors.size > 0) return { tensors, objects, close: () => file.close() };
    const remedy = "Save model.state_dict() with torch.save.";
    throw file.refuse("must hold tensors by their names", "none", remedy);
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function readObjects(file: InputFile): Promise<unknown> {
  const start = await file.bytes(0, Math.min(2, file.size));
  if (start[0] !== 0x50 || start[1] !== 0x4b) {
    const remedy = "Save it again with torch.save of PyTorch 1.6 or newer.";
    const value = file.size === 0 ? "an empty file" : "another file, or one of PyTorch before 1.6";
    throw file.refuse("must be a checkpoint of PyTorch, a zip archive", value, remedy);
  }
  const entries = await readZip(file);
  const root = [...entries.keys()].find((name) => /^[^/]*\/data\.pkl$/.test(name));
  if (root === undefined)
    throw file.refuse("must be a checkpoint of PyTorch", "an archive without data.pkl", again);
  const folder = root.slice(0, -"data.pkl".length);
  const order = await entries.get(`${folder}byteorder`)?.all();
  if (order && new TextDecoder().decode(order) !== "little")
    throw unsupported(file, "little-endian numbers", show(new TextDecoder().decode(order)));
  const pickle = await entries.get(root)!.all();
  try {
    return unpickle(pickle, {
      load: (identity) => storageOf(file, identity, (key) => entries.get(`${folder}data/${key}`)),
      call: (name, args) => made(file, name, args),
    });
  } catch (error) {
    if (!(error instanceof PickleError)) throw error;
    throw file.refuse("must hold a pickle of protocol 2 to 5", error.message, again, error);
  }
}

function unsupported(file: InputFile, what: string, value: string): FlashFFTConvError {
  const requirement = `${show(file.path)} must hold ${what}`;
  const remedy = "Save it with torch.save as plain tensors: {k: v.detach().clone()}.";
  return new UnsupportedError({ call: opening, requirement, value, remedy });
}

/** What PyTorch writes for a storage: ("storage", its class, its key, a device, elements). */
function storageOf(
  file: InputFile,
  identity: unknown,
  entryOf: (key: string) => ZipEntry | undefined,
): unknown {
  const [, type, key, , count] = Array.isArray(identity) ? identity : [];
  const name = type instanceof PickledName ? type.name : show(type);
  const dtype = storages[name.replace(/^torch\./, "")];
  // Whatever tensor needs it says that it is unknown.
  if (!dtype) return new PickledObject(name, []);
  const entry = typeof key === "string" ? entryOf(key) : undefined;
  if (entry && isCount(count) && entry.size === (count * typeBits[dtype]) / 8)
    return new Storage(dtype, count, entry);
  const value = `${show(entry?.size)} for ${show(count)} of ${dtype}`;
  throw file.refuse(`must hold the bytes of storage ${show(key)}`, value, again);
}

/** What a call makes, of those that tensors need; undefined for all others. */
function made(file: InputFile, name: string, args: readonly unknown[]): unknown {
  switch (name) {
    case "collections.OrderedDict": {
      const [pairs = []] = args;
      return Array.isArray(pairs) && pairs.every(Array.isArray)
        ? new Map(pairs as [unknown, unknown][])
        : undefined;
    }
    case "torch._utils._rebuild_tensor":
    case "torch._utils._rebuild_tensor_v2":
      return tensorFrom(file, args);
    case "torch._utils._rebuild_parameter":
    case "torch._utils._rebuild_parameter_with_state":
      return args[0];
    case "torch._tensor._rebuild_from_type_v2": {
      const [rebuild, , inner] = args;
      const known = rebuild instanceof PickledName && rebuild.name !== name;
      return known && Array.isArray(inner) ? made(file, rebuild.name, inner) : undefined;
    }
  }
  if (!/^torch\._\w+\._rebuild_/.test(name)) return undefined;
  throw unsupported(file, "dense tensors", name);
}

function tensorFrom(file: InputFile, args: readonly unknown[]): StoredTensor {
  const [storage, offset, shape, strides] = args;
  if (storage instanceof PickledObject)
    throw unsupported(file, `storages of class ${Object.keys(storages).join(", ")}`, storage.name);
  if (storage instanceof Storage && isCount(offset) && isShape(shape) && areStrides(strides)) {
    const count = elements(shape);
    if (count > Math.max(storage.count, mostExpanded))
      throw unsupported(
        file,
        `at most ${show(mostExpanded)} elements expanded of fewer`,
        show(shape),
      );
    const fits = count === 0 || offset + lastOf(shape, strides) < storage.count;
    if (fits && strides.length === shape.length)
      return stridedTensor(storage, offset, shape, strides);
  }
  throw file.refuse(
    "must hold tensors that lie within their storages",
    show([offset, shape, strides]),
    again,
  );
}

const areStrides = (value: unknown): value is readonly number[] =>
  Array.isArray(value) && value.every(isCount);

const within = (value: unknown, key: string): unknown =>
  value instanceof Map ? value.get(key) : undefined;

/** Where the weights are, in the files of Lightning and of Composer; elsewhere, they are all that was saved. */
function weightsIn(objects: unknown): unknown {
  const known = [within(objects, "state_dict"), within(within(objects, "state"), "model")];
  return known.find((value) => value instanceof Map) ?? objects;
}

function namedTensors(file: InputFile, root: unknown): Map<string, StoredTensor> {
  const tensors = new Map<string, StoredTensor>();
  // A dict may hold itself, and many dicts the same one.
  const seen = new Set<unknown>();
  const left: (readonly [path: string, value: unknown])[] = [["", root]];
  while (left.length > 0) {
    const [path, value] = left.pop()!;
    if (isTensor(value)) {
      if (tensors.has(path)) throw file.refuse("must give each tensor its name", show(path), again);
      tensors.set(path, value);
    } else if ((value instanceof Map || Array.isArray(value)) && !seen.has(value)) {
      seen.add(value);
      const children = [...value.entries()].reverse();
      for (const [key, child] of children) {
        const own = typeof key === "string" ? key : show(key);
        left.push([path === "" ? own : `${path}.${own}`, child]);
      }
    }
  }
  return tensors;
}
