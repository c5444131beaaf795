/**
 * NumPy's .npy files, as far as rows of samples need them: little-endian, C order, float16, float32, float64 (to be
 * rounded), and 16-bit words. NumPy has no bfloat16 of its own; ml_dtypes saves it under the descriptor '<V2', and
 * people without ml_dtypes keep its bits as '<u2'.
 * Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
 */
import type { Dtype } from "../dtype.ts";
import type { InputFile } from "../files/input.ts";
import { printable, show } from "../show.ts";

/** How samples stand in a file: a storage type, float64, or 16-bit words whose meaning the user names. */
export type StoredType = Dtype | "float64" | "bits16";

/** What the header of a .npy file says. */
interface NpyHeader {
  readonly stored: StoredType;
  /** One to three dimensions, each at least 1. */
  readonly shape: readonly number[];
  /** Position of the first sample in the file. */
  readonly dataStart: number;
}

const magic = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59] as const;
/** NumPy itself writes 118 bytes for our shapes; a header longer than this describes something else. */
const maxHeaderBytes = 65_536;

const descriptors: Readonly<Record<string, StoredType>> = {
  "<f4": "float32",
  "<f2": "float16",
  "<f8": "float64",
  "<u2": "bits16",
  "<V2": "bfloat16",
  "|V2": "bfloat16",
  bfloat16: "bfloat16",
};

/** Bytes of one sample in the file. */
export function bytesPerStored(stored: StoredType): 2 | 4 | 8 {
  if (stored === "float64") return 8;
  return stored === "float32" ? 4 : 2;
}

/** Whether a file that begins with `bytes` (6 or more) is a .npy file. */
export function isNpy(bytes: Uint8Array): boolean {
  return magic.every((byte, i) => bytes[i] === byte);
}

/**
 * Read and check the header, and that the file is exactly as long as the header says.
 * @throws FileError
 */
export async function readNpyHeader(file: InputFile): Promise<NpyHeader> {
  const start = new Uint8Array(10);
  await file.read(start, 0);
  const major = start[6]!;
  if (major < 1 || major > 3) {
    throw file.refuse(
      "must be a .npy file of format 1.0, 2.0 or 3.0",
      `format ${major}.${start[7]}`,
      "Save it again with numpy.save.",
    );
  }
  const lengthBytes = major === 1 ? 2 : 4;
  const lengthField = new Uint8Array(lengthBytes);
  await file.read(lengthField, 8);
  const view = new DataView(lengthField.buffer);
  const headerBytes = major === 1 ? view.getUint16(0, true) : view.getUint32(0, true);
  if (headerBytes > maxHeaderBytes) {
    throw file.refuse(
      `must have a .npy header of at most ${show(maxHeaderBytes)} bytes`,
      `${show(headerBytes)} bytes`,
      "Save one plain array of samples with numpy.save.",
    );
  }
  const text = new Uint8Array(headerBytes);
  await file.read(text, 8 + lengthBytes);
  const fields = parseFields(file, new TextDecoder("latin1").decode(text));
  const stored = checkDescriptor(file, fields.get("descr"));
  checkOrder(file, fields.get("fortran_order"));
  const shape = checkShape(file, fields.get("shape"));
  const dataStart = 8 + lengthBytes + headerBytes;
  const needed = dataStart + shape.reduce((a, b) => a * b, 1) * bytesPerStored(stored);
  if (file.size !== needed) {
    const kind = file.size < needed ? "must not be cut short" : "must end with its data";
    throw file.refuse(
      `${kind}: its shape ${show(shape)} needs ${show(needed)} bytes`,
      `${show(file.size)} bytes`,
      "Copy the file again, or save one array with numpy.save.",
    );
  }
  return { stored, shape, dataStart };
}

/** The header is a Python dictionary literal with three fields; each value stays text here. */
function parseFields(file: InputFile, text: string): Map<string, string> {
  const fields = new Map<string, string>();
  const field =
    /\s*['"](\w+)['"]\s*:\s*('[^']*'|"[^"]*"|True|False|\([\d\s,]*\)|\[[^\]]*\])\s*(?:,|(?=\}))/y;
  const open = /^\s*\{/.exec(text);
  let position = open ? open[0].length : 0;
  while (open) {
    field.lastIndex = position;
    const match = field.exec(text);
    if (!match) break;
    fields.set(match[1]!, match[2]!);
    position = field.lastIndex;
  }
  const complete = ["descr", "fortran_order", "shape"].every((name) => fields.has(name));
  if (open && complete && fields.size === 3 && /^\s*\}\s*$/.test(text.slice(position)))
    return fields;
  throw file.refuse(
    "must have a .npy header with descr, fortran_order and shape",
    show(text.trim()),
    "Save it again with numpy.save.",
  );
}

function checkDescriptor(file: InputFile, text = ""): StoredType {
  const name = text.slice(1, -1);
  const stored = text.startsWith("[") ? undefined : descriptors[name];
  if (stored && Object.hasOwn(descriptors, name)) return stored;
  const remedy = name.startsWith(">")
    ? "Save it in little-endian order: numpy.save(path, a.astype(a.dtype.newbyteorder('<')))."
    : "Convert it first: numpy.save(path, a.astype(numpy.float32)).";
  throw file.refuse(
    "must hold little-endian float32 ('<f4'), float16 ('<f2') or bfloat16 ('<V2', or '<u2' with --dtype)",
    `descr ${printable(text)}`,
    remedy,
  );
}

function checkOrder(file: InputFile, text = ""): void {
  if (text === "False") return;
  throw file.refuse(
    "must be in C order (fortran_order False)",
    `fortran_order ${printable(text)}`,
    "Save it as numpy.save(path, numpy.ascontiguousarray(a)).",
  );
}

function checkShape(file: InputFile, text = ""): readonly number[] {
  const sizes = text
    .slice(1, -1)
    .split(",")
    .map((size) => size.trim());
  if (sizes.at(-1) === "") sizes.pop();
  const shape = sizes.map(Number);
  const usable = sizes.every((size) => /^\d+$/.test(size)) && shape.every((size) => size >= 1);
  const count = shape.reduce((a, b) => a * b, 1);
  if (usable && shape.length >= 1 && shape.length <= 3 && count <= Number.MAX_SAFE_INTEGER / 8)
    return shape;
  throw file.refuse(
    "must have one to three dimensions, none of them empty",
    `shape ${printable(text)}`,
    "Save samples of shape (L), (H, L) or (B, H, L).",
  );
}

/** The header that numpy.save would write before samples of this type and shape; the data begins at a multiple of 64. */
export function npyHeader(stored: StoredType, shape: readonly number[]): Uint8Array {
  const descriptor = Object.keys(descriptors).find((key) => descriptors[key] === stored)!;
  const tuple = `(${shape.join(", ")}${shape.length === 1 ? "," : ""})`;
  const text = `{'descr': '${descriptor}', 'fortran_order': False, 'shape': ${tuple}, }`;
  const total = Math.ceil((10 + text.length + 1) / 64) * 64;
  const bytes = new Uint8Array(total).fill(0x20);
  bytes.set(magic);
  bytes.set([1, 0, (total - 10) & 255, (total - 10) >> 8], 6);
  bytes.set(new TextEncoder().encode(text), 10);
  bytes[total - 1] = 0x0a;
  return bytes;
}
