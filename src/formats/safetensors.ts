/**
 * The safetensors format: 8 bytes with the length of a header in JSON, the header, the tensors one behind the other. Models
 * in several files have an index beside them, model.safetensors.index.json, which names the file of each tensor.
 * Format: https://huggingface.co/docs/safetensors
 */
import { InvalidArgumentError, UnsupportedError } from "../errors.ts";
import { InputFile, type Readable } from "../files/input.ts";
import { node } from "../files/node.ts";
import { checkOutput, plainContext, type WriteContext, writeWhole } from "../files/output.ts";
import { printable, show } from "../show.ts";
import {
  elements,
  isCount,
  isShape,
  type StoredTensor,
  storedBytes,
  type TensorType,
  typeBits,
  type WeightFile,
} from "./stored.ts";

type Metadata = Readonly<Record<string, string>>;

/** A file of the format, or all files of an index. */
export interface SafetensorsFile extends WeightFile {
  /** Texts that stand beside the tensors. */
  readonly metadata: Metadata;
}

/** How an index finds the files that it names. */
export interface OpenSafetensorsOptions {
  /** The file of a name; unless given, the one beside the index. */
  readonly shard?: (name: string) => Readable | Promise<Readable>;
}

/** What is written beside the tensors, and how. */
export interface WriteSafetensorsOptions {
  readonly metadata?: Metadata;
  /** Most bytes of tensors in one file. Where they are more, `path` becomes an index, which must end in .index.json. */
  readonly shardBytes?: number;
  /** What interrupts the writing, and how bytes reach the disk. */
  readonly context?: WriteContext;
}

/** Most bytes of a header; so many as the format's own library takes. */
const mostHeader = 100_000_000;
const brace = 0x7b;
const again = "Write the file again, or fetch it again from where it came.";
const [opening, writing] = ["openSafetensors", "writeSafetensors"];

const parse = (bytes: Uint8Array): unknown =>
  JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const areTexts = (value: unknown): value is Record<string, string> =>
  isObject(value) && Object.values(value).every((text) => typeof text === "string");

/**
 * Open a file of the format, or an index (.json) and the files that it names. Only headers are read; each tensor is when its
 * bytes are asked for.
 * @throws FileError where a file cannot be read or breaks the format anywhere, UnsupportedError for an unknown type.
 * @example
 * const file = await openSafetensors("model.safetensors");
 * const { shape } = file.tensors.get("lm_head.weight")!; // [16, 128]
 * const weight = await float32Of(file.tensors.get("lm_head.weight")!);
 * await file.close();
 */
export async function openSafetensors(
  source: Readable,
  options: OpenSafetensorsOptions = {},
): Promise<SafetensorsFile> {
  const file = await InputFile.open(source, opening);
  try {
    const start = await file.bytes(0, Math.min(9, file.size));
    // Behind the length, a header begins with a brace; an index begins with one itself.
    const isIndex = start[8] !== brace && (start[0] === brace || /\.json$/.test(file.path));
    return isIndex ? await openIndex(file, options) : await readHeader(file);
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function readHeader(file: InputFile): Promise<SafetensorsFile> {
  const start = new DataView((await file.bytes(0, 8)).buffer);
  const length = Number(start.getBigUint64(0, true));
  const most = Math.min(mostHeader, file.size - 8);
  if (length > most || length < 2) {
    throw file.refuse(
      `must be a safetensors file, whose header has 2 to ${show(most)} bytes`,
      `${show(length)} bytes`,
      again,
    );
  }
  const header = await parseJson(file, 8, length);
  const { __metadata__: metadata = {}, ...entries } = header;
  if (!areTexts(metadata)) {
    throw file.refuse("must have texts as metadata", show(metadata), again);
  }
  const dataStart = 8 + length;
  const tensors = new Map<string, StoredTensor>();
  const ranges: [begin: number, end: number, name: string][] = [];
  for (const [name, entry] of Object.entries(entries)) {
    const { dtype, shape, begin, end } = checkEntry(file, name, entry);
    ranges.push([begin, end, name]);
    const bytes = () => file.bytes(dataStart + begin, end - begin);
    tensors.set(name, { dtype, shape, bytes });
  }
  let reached = 0;
  for (const [begin, end, name] of ranges.sort((a, b) => a[0] - b[0] || a[1] - b[1])) {
    if (begin !== reached) {
      const what = "must hold tensors one behind the other, without gaps or overlaps";
      throw file.refuse(
        what,
        `${show(name)} at ${show(begin)} after ${show(reached)} bytes`,
        again,
      );
    }
    reached = end;
  }
  if (dataStart + reached !== file.size) {
    const needed = dataStart + reached;
    const cut = file.size < needed ? "must not be cut short" : "must end with its tensors";
    throw file.refuse(`${cut}: they need ${show(needed)} bytes`, `${show(file.size)} bytes`, again);
  }
  return { tensors, metadata, close: () => file.close() };
}

async function parseJson(
  file: InputFile,
  position: number,
  length: number,
): Promise<Record<string, unknown>> {
  const bytes = await file.bytes(position, length);
  let cause: unknown;
  try {
    const value = parse(bytes);
    if (isObject(value)) return value;
  } catch (error) {
    cause = error;
  }
  const text = printable(new TextDecoder().decode(bytes.subarray(0, 300)));
  throw file.refuse("must have an object in JSON as its header", text, again, cause);
}

interface Entry {
  readonly dtype: TensorType;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

function checkEntry(file: InputFile, name: string, entry: unknown): Entry {
  const { dtype, shape, data_offsets: offsets, ...more } = isObject(entry) ? entry : {};
  if (typeof dtype === "string" && !Object.hasOwn(typeBits, dtype)) {
    throw new UnsupportedError({
      call: opening,
      requirement: `${show(name)} in ${show(file.path)} must be of type ${Object.keys(typeBits).join(", ")}`,
      value: show(dtype),
      remedy: "Convert the tensor with the program that wrote it.",
    });
  }
  const [begin, end, ...rest] = Array.isArray(offsets) ? (offsets as unknown[]) : [];
  if (typeof dtype === "string" && isShape(shape) && isCount(begin) && isCount(end)) {
    const needed = storedBytes(dtype as TensorType, elements(shape));
    if (end - begin === needed && rest.length + Object.keys(more).length === 0)
      return { dtype: dtype as TensorType, shape, begin, end };
  }
  throw file.refuse(
    `must give dtype, shape and data_offsets of ${show(name)}, which agree`,
    show(entry),
    again,
  );
}

async function openIndex(
  file: InputFile,
  { shard }: OpenSafetensorsOptions,
): Promise<SafetensorsFile> {
  const index = await parseJson(file, 0, file.size);
  const { weight_map: map } = index;
  if (!areTexts(map)) {
    throw file.refuse("must be an index with a weight_map of texts", show(index), again);
  }
  const names = [...new Set(Object.values(map))];
  const outside = names.find((name) => /[/\\\0]|^\.*$/.test(name));
  if (outside !== undefined) {
    const what = "must name files beside it";
    throw file.refuse(what, show(outside), "Correct its weight_map.");
  }
  const beside = (name: string): string => node.path.join(node.path.dirname(file.path), name);
  const opened = new Map<string, SafetensorsFile>();
  const closers = [() => file.close()];
  const close = async (): Promise<void> => {
    for (const closeOne of closers.splice(0)) await closeOne();
  };
  try {
    for (const name of names) {
      const found = await InputFile.open(await (shard ?? beside)(name), opening);
      closers.push(() => found.close());
      opened.set(name, await readHeader(found));
    }
    const all = [...opened].flatMap(([home, { tensors }]) =>
      [...tensors].map(([name, tensor]) => [name, home, tensor] as const),
    );
    const held = new Set(all.filter(([name, home]) => map[name] === home).map(([name]) => name));
    const wrong = Object.keys(map).find((name) => !held.has(name));
    const extra = all.find(([name, home]) => map[name] !== home);
    if (wrong !== undefined || extra) {
      const value =
        wrong === undefined ? `${show(extra?.[0])}, left out` : `${show(wrong)}, not there`;
      throw file.refuse("must name the tensors that its files hold", value, again);
    }
    const metadata = Object.assign({}, ...[...opened.values()].map((one) => one.metadata));
    return { tensors: new Map(all.map(([name, , tensor]) => [name, tensor])), metadata, close };
  } catch (error) {
    await close();
    throw error;
  }
}

type Named = readonly (readonly [name: string, tensor: StoredTensor])[];
type Write = (bytes: Uint8Array) => Promise<void>;

const sizeOf = ({ dtype, shape }: StoredTensor): number => storedBytes(dtype, elements(shape));

/** One file: its header, and the tensors in its order, the widest first: each begins at a multiple of its element's size. */
async function emit(tensors: Named, metadata: Metadata | undefined, write: Write): Promise<void> {
  const order = tensors.toSorted(
    ([a, { dtype: x }], [b, { dtype: y }]) => typeBits[y] - typeBits[x] || (a < b ? -1 : 1),
  );
  const entries: [string, unknown][] = metadata ? [["__metadata__", metadata]] : [];
  let end = 0;
  for (const [name, tensor] of order) {
    const offsets = [end, end + sizeOf(tensor)];
    end = offsets[1]!;
    entries.push([name, { dtype: tensor.dtype, shape: tensor.shape, data_offsets: offsets }]);
  }
  const text = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)));
  const header = new Uint8Array(8 + Math.ceil(text.length / 8) * 8).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(header.length - 8), true);
  header.set(text, 8);
  await write(header);
  for (const [name, tensor] of order) {
    const bytes = await tensor.bytes();
    if (bytes.length !== sizeOf(tensor)) throw unwritable(name, `${show(bytes.length)} bytes`);
    await write(bytes);
  }
}

function unwritable(name: string, value: string): InvalidArgumentError {
  return new InvalidArgumentError({
    call: writing,
    requirement: `${show(name)} must be a tensor of a known type whose bytes are those of its shape, or texts as metadata`,
    value,
    remedy: "Make tensors with tensorOf; turn what else there is into texts.",
  });
}

function checked(tensors: ReadonlyMap<string, StoredTensor>, metadata: unknown): Named {
  for (const [name, tensor] of tensors) {
    const { dtype, shape } = tensor;
    if (name === "__metadata__" || !Object.hasOwn(typeBits, dtype) || !isShape(shape))
      throw unwritable(name, show({ dtype, shape }));
  }
  if (metadata !== undefined && !areTexts(metadata)) throw unwritable("metadata", show(metadata));
  return [...tensors];
}

/**
 * The bytes of a file of the format, for whoever has no file system.
 * @throws InvalidArgumentError for a tensor that cannot be written.
 * @example
 * const blob = await safetensorsBlob(new Map([["w", tensorOf(new Float32Array(6), [2, 3])]]));
 */
export async function safetensorsBlob(
  tensors: ReadonlyMap<string, StoredTensor>,
  { metadata }: Pick<WriteSafetensorsOptions, "metadata"> = {},
): Promise<Blob> {
  const parts: BlobPart[] = [];
  await emit(checked(tensors, metadata), metadata, async (bytes) => {
    parts.push(bytes as Uint8Array<ArrayBuffer>);
  });
  return new Blob(parts);
}

/**
 * Write tensors into a file, or several and their index: whole, or what stood there stays. Each tensor's bytes are asked for
 * when it is its turn.
 * @throws FileError where the disk refuses, InvalidArgumentError for a tensor that cannot be written.
 * @example
 * const weights = new Map([["w", tensorOf(new Float32Array(6), [2, 3])]]);
 * await writeSafetensors("model.safetensors", weights, { metadata: { format: "pt" } });
 */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, StoredTensor>,
  options: WriteSafetensorsOptions = {},
): Promise<void> {
  const { metadata, shardBytes = Number.POSITIVE_INFINITY, context = plainContext() } = options;
  const shards = split(checked(tensors, metadata), shardBytes);
  const paths = shards.length === 1 ? [path] : shardPaths(path, shards.length);
  const files: (readonly [path: string, produce: (write: Write) => Promise<void>])[] = shards.map(
    (held, i) => [paths[i]!, (write) => emit(held, metadata, write)],
  );
  if (shards.length > 1) {
    const homes = shards.flatMap((held, i) =>
      held.map(([name]) => [name, node.path.basename(paths[i]!)] as const),
    );
    const total = shards.flat().reduce((sum, [, tensor]) => sum + sizeOf(tensor), 0);
    const index = { metadata: { total_size: total }, weight_map: Object.fromEntries(homes) };
    const text = new TextEncoder().encode(`${JSON.stringify(index, undefined, 2)}\n`);
    files.unshift([path, (write) => write(text)]);
  }
  // Each file is written within the one before it: all of them are complete before the first gets its name, and the index
  // gets its own last.
  const writeFrom = async (i: number): Promise<void> => {
    const [file, produce] = files[i]!;
    await writeWhole(await checkOutput(file, writing), writing, context, async (write) => {
      await produce(write);
      if (i + 1 < files.length) await writeFrom(i + 1);
    });
  };
  await writeFrom(0);
}

/** Tensors in the order given, as many a file as it may hold, at least one. */
function split(tensors: Named, most: number): Named[] {
  const shards: [string, StoredTensor][][] = [[]];
  let held = 0;
  for (const [name, tensor] of tensors) {
    if (held > 0 && held + sizeOf(tensor) > most) {
      shards.push([]);
      held = 0;
    }
    shards.at(-1)!.push([name, tensor]);
    held += sizeOf(tensor);
  }
  return shards;
}

function shardPaths(index: string, count: number): string[] {
  const ending = ".safetensors.index.json";
  if (index.endsWith(ending)) {
    const number = (i: number): string => String(i).padStart(5, "0");
    const stem = index.slice(0, -ending.length);
    const of = (i: number) => `${stem}-${number(i + 1)}-of-${number(count)}.safetensors`;
    return Array.from({ length: count }, (_, i) => of(i));
  }
  throw new InvalidArgumentError({
    call: writing,
    requirement: `tensors of more than shardBytes need ${count} files, and a path that ends in ${ending}`,
    value: show(index),
    remedy: "Name the index, model.safetensors.index.json for example, or raise shardBytes.",
  });
}
