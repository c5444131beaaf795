/** Zip archives whose entries are stored as they are, read by ranges: what PyTorch writes. ZIP64 too. */
import type { InputFile } from "../files/input.ts";
import { show } from "../show.ts";

/** An entry of an archive. */
export interface ZipEntry {
  /** Bytes. */
  readonly size: number;
  /** A part of it. */
  read(position: number, count: number): Promise<Uint8Array<ArrayBuffer>>;
  /** All of it, against its check sum. */
  all(): Promise<Uint8Array<ArrayBuffer>>;
}

/** Signatures and sizes of records, without what varies. */
const [endMark, end64Mark, locator64Mark] = [0x06054b50, 0x06064b50, 0x07064b50];
const [entryMark, localMark] = [0x02014b50, 0x04034b50];
const [endBytes, locatorBytes, end64Bytes, entryBytes, localBytes] = [22, 20, 56, 46, 30];
const mostComment = 65_535;
const again = "Copy or write the file again.";

/**
 * The entries of an archive, by name.
 * @throws FileError where it is none, is cut short, or has entries that are compressed or encrypted.
 */
export async function readZip(file: InputFile): Promise<Map<string, ZipEntry>> {
  const wrong = (what: string, value: string) =>
    file.refuse(`must be a whole zip archive: ${what}`, value, again);
  const tailBytes = Math.min(file.size, endBytes + locatorBytes + mostComment);
  const tail = viewOf(await file.bytes(file.size - tailBytes, tailBytes));
  let at = tailBytes - endBytes;
  const isEnd = (): boolean =>
    tail.getUint32(at, true) === endMark &&
    at + endBytes + tail.getUint16(at + 20, true) === tailBytes;
  while (at >= 0 && !isEnd()) at--;
  if (at < 0) throw wrong("its directory stands at its end", "none there");
  let [count, size, start] = [
    tail.getUint16(at + 10, true),
    long(tail, at + 12),
    long(tail, at + 16),
  ];
  const locator = at - locatorBytes;
  if (locator >= 0 && tail.getUint32(locator, true) === locator64Mark) {
    const position = wide(tail, locator + 8);
    if (position + end64Bytes > file.size) throw wrong("its directory lies within", show(position));
    const end64 = viewOf(await file.bytes(position, end64Bytes));
    if (end64.getUint32(0, true) !== end64Mark) throw wrong("it has a ZIP64 directory", "none");
    [count, size, start] = [wide(end64, 32), wide(end64, 40), wide(end64, 48)];
  }
  if (start + size > file.size || count * entryBytes > size)
    throw wrong("its directory lies within", `${show(size)} bytes at ${show(start)}`);
  const directory = viewOf(await file.bytes(start, size));
  const entries = new Map<string, ZipEntry>();
  let next = 0;
  for (let i = 0; i < count; i++) {
    const length = (field: number): number =>
      next + entryBytes <= size ? directory.getUint16(next + field, true) : size;
    const [nameBytes, extraBytes, commentBytes] = [length(28), length(30), length(32)];
    const after = next + entryBytes + nameBytes + extraBytes + commentBytes;
    if (after > size || directory.getUint32(next, true) !== entryMark)
      throw wrong(`its directory has ${show(count)} entries`, show(i));
    const entry = entryOf(directory, next, nameBytes, extraBytes);
    const { name, flags, method, stored, bytes, local, sum } = entry;
    if (method !== 0 || (flags & 1) !== 0 || stored !== bytes) {
      const what = (flags & 1) !== 0 ? "encrypted" : `compressed by method ${method}`;
      const remedy = "Save it with torch.save, or zip it again without compression (zip -0).";
      throw file.refuse("must hold entries as they are", `${show(name)}, ${what}`, remedy);
    }
    if (local + localBytes + bytes > start || entries.has(name))
      throw wrong("each entry lies before the directory, once", show(name));
    entries.set(name, open(file, name, bytes, local, sum, start));
    next = after;
  }
  return entries;
}

/** Fields of the directory about one entry; those of 32 bits that are full stand in the extra field 1, of 64 bits. */
function entryOf(directory: DataView, at: number, nameBytes: number, extraBytes: number) {
  const short = (field: number): number => directory.getUint16(at + field, true);
  const text = new Uint8Array(directory.buffer, at + entryBytes, nameBytes);
  const name = new TextDecoder().decode(text);
  const sizes = [24, 20, 42].map((field) => long(directory, at + field));
  const extraStart = at + entryBytes + nameBytes;
  for (let e = extraStart; e + 4 <= extraStart + extraBytes; ) {
    const end = Math.min(e + 4 + directory.getUint16(e + 2, true), extraStart + extraBytes);
    if (directory.getUint16(e, true) === 1) {
      let field = e + 4;
      sizes.forEach((value, i) => {
        if (value !== 0xffffffff || field + 8 > end) return;
        sizes[i] = wide(directory, field);
        field += 8;
      });
    }
    e = end;
  }
  const [bytes, stored, local] = sizes as [number, number, number];
  return {
    name,
    flags: short(8),
    method: short(10),
    sum: long(directory, at + 16),
    bytes,
    stored,
    local,
  };
}

/** An entry that lies before `limit`. */
function open(
  file: InputFile,
  name: string,
  size: number,
  at: number,
  sum: number,
  limit: number,
): ZipEntry {
  let start: number | undefined;
  const read = async (position: number, count: number): Promise<Uint8Array<ArrayBuffer>> => {
    // What stands before the data repeats the directory, but for the length of its extra field.
    if (start === undefined) {
      const local = viewOf(await file.bytes(at, localBytes));
      const found = at + localBytes + local.getUint16(26, true) + local.getUint16(28, true);
      if (local.getUint32(0, true) !== localMark || found + size > limit)
        throw file.refuse("must have its entries where it says", show(name), again);
      start = found;
    }
    return file.bytes(start + position, count);
  };
  const all = async (): Promise<Uint8Array<ArrayBuffer>> => {
    const bytes = await read(0, size);
    if (crc32(bytes) === sum) return bytes;
    throw file.refuse("must have entries that match their check sums", show(name), again);
  };
  return { size, read, all };
}

const viewOf = ({ buffer }: Uint8Array): DataView => new DataView(buffer);

const long = (view: DataView, at: number): number => view.getUint32(at, true);

const wide = (view: DataView, at: number): number => Number(view.getBigUint64(at, true));

const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let word = byte;
  for (let bit = 0; bit < 8; bit++) word = (word >>> 1) ^ ((word & 1) * 0xedb88320);
  return word;
});

function crc32(bytes: Uint8Array): number {
  let sum = -1;
  for (let i = 0; i < bytes.length; i++) sum = (sum >>> 8) ^ crcTable[(sum ^ bytes[i]!) & 255]!;
  return ~sum >>> 0;
}
