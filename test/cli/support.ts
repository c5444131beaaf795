/** The command line in this process, files built byte by byte without the code under test, and folders that vanish. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished } from "vitest";
import { main, type Terminal } from "../../src/cli/main.ts";
import { type Dtype, decode, encode } from "../../src/dtype.ts";
import { normal } from "../support/signals.ts";

/** What a run printed and returned. */
export interface Run {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Run a command line in this process. */
export async function run(
  argv: readonly string[],
  terminal: Partial<Terminal> & { readonly terminalWidth?: number } = {},
): Promise<Run> {
  let stdout = "";
  let stderr = "";
  const isTTY = terminal.terminalWidth !== undefined;
  const code = await main(argv, {
    ...terminal,
    stdout: { write: (text) => (stdout += text) },
    stderr: { write: (text) => (stderr += text), isTTY, columns: terminal.terminalWidth },
  });
  return { code, stdout, stderr };
}

/** Run a command line with --json; every line of its output, parsed. */
export async function runJson(
  argv: readonly string[],
): Promise<Run & { readonly records: readonly Record<string, unknown>[] }> {
  const result = await run([...argv, "--json"]);
  const lines = result.stdout.split("\n");
  if (lines.pop() !== "") throw new Error("the output must end with a line end");
  return { ...result, records: lines.map((line) => JSON.parse(line)) };
}

/** A folder for one test. */
export class Folder {
  readonly path: string;

  constructor() {
    this.path = mkdtempSync(join(tmpdir(), "flashfftconv-cli-"));
    onTestFinished(() => rmSync(this.path, { recursive: true, force: true }));
  }

  /** The path of a file in it. */
  file(name: string): string {
    return join(this.path, name);
  }

  /** Write a file and return its path. */
  write(name: string, bytes: Uint8Array): string {
    writeFileSync(this.file(name), bytes);
    return this.file(name);
  }

  /** The bytes of a file. */
  read(name: string): Uint8Array<ArrayBuffer> {
    return new Uint8Array(readFileSync(this.file(name)));
  }

  /** Every file in it, hidden ones included, sorted. */
  list(): readonly string[] {
    return readdirSync(this.path).sort();
  }
}

/** Bytes one after another. */
export function concat(...parts: readonly (Uint8Array | readonly number[] | string)[]): Uint8Array {
  return Buffer.concat(
    parts.map((part) =>
      typeof part === "string" ? Buffer.from(part, "latin1") : Buffer.from(part),
    ),
  );
}

/** An integer of `size` bytes, little-endian. */
export function le(value: number, size: number): Uint8Array {
  return Uint8Array.from({ length: size }, (_, i) => Math.floor(value / 256 ** i) % 256);
}

/** The bytes of a typed array. */
export function bytesOf(samples: ArrayBufferView): Uint8Array {
  return new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
}

/** A .npy file as NumPy lays it out. */
export function npy(
  descr: string,
  shape: readonly number[],
  data: ArrayBufferView,
  version = 1,
): Uint8Array {
  const tuple = `(${shape.join(", ")}${shape.length === 1 ? "," : ""})`;
  return npyOf(`{'descr': '${descr}', 'fortran_order': False, 'shape': ${tuple}, }`, data, version);
}

/** A .npy file with any header. */
export function npyOf(header: string, data: ArrayBufferView, version = 1): Uint8Array {
  const prefix = version === 1 ? 10 : 12;
  const length = Math.ceil((prefix + header.length + 1) / 64) * 64 - prefix;
  const text = `${header.padEnd(length - 1)}\n`;
  return concat("\x93NUMPY", [version, 0], le(length, prefix - 8), text, bytesOf(data));
}

/** What a .npy file holds, read without the code under test. */
export function readNpy(file: Uint8Array<ArrayBuffer>): {
  readonly descr: string;
  readonly shape: readonly number[];
  readonly data: ArrayBuffer;
} {
  const headerLength = file[8]! + 256 * file[9]!;
  const header = Buffer.from(file.subarray(10, 10 + headerLength)).toString("latin1");
  const match = /^\{'descr': '(.*)', 'fortran_order': False, 'shape': \((.*)\), \} *\n$/.exec(
    header,
  );
  if (!match || file[6] !== 1 || (10 + headerLength) % 64 !== 0) throw new Error(header);
  const shape = match[2]!
    .split(",")
    .filter((size) => size.trim() !== "")
    .map(Number);
  return { descr: match[1]!, shape, data: file.buffer.slice(10 + headerLength) };
}

/** Parts of a .wav file; what is left out is as it should be. */
export interface WavParts {
  readonly channels: number;
  readonly rate?: number;
  readonly bits: number;
  readonly kind?: number;
  readonly data: Uint8Array;
  /** Chunks between fmt and data. */
  readonly before?: Uint8Array;
  /** Chunks after data. */
  readonly after?: Uint8Array;
  /** Write the fmt chunk as WAVE_FORMAT_EXTENSIBLE. */
  readonly extensible?: boolean;
  readonly frameBytes?: number;
}

/** One RIFF chunk, padded to an even length. */
export function chunk(name: string, data: Uint8Array): Uint8Array {
  return concat(name, le(data.length, 4), data, data.length % 2 === 1 ? [0] : []);
}

/** A .wav file, byte by byte. */
export function wav(parts: WavParts): Uint8Array {
  const { channels, rate = 8000, bits, kind = 1, data, extensible = false } = parts;
  const frameBytes = parts.frameBytes ?? (channels * bits) / 8;
  const format = concat(
    le(extensible ? 0xfffe : kind, 2),
    le(channels, 2),
    le(rate, 4),
    le(rate * frameBytes, 4),
    le(frameBytes, 2),
    le(bits, 2),
    extensible ? concat(le(22, 2), le(bits, 2), le(3, 4), le(kind, 2), guidTail) : [],
  );
  const body = concat(
    "WAVE",
    chunk("fmt ", format),
    parts.before ?? [],
    chunk("data", data),
    parts.after ?? [],
  );
  return concat("RIFF", le(body.length, 4), body);
}

/** The fixed part of the sub-format's identifier: 0000-0010-8000-00AA00389B71. */
const guidTail = [0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71];

/** Integers of `bits` bits, little-endian, as a .wav file holds them. */
export function pcm(values: readonly number[], bits: number): Uint8Array {
  return concat(...values.map((value) => le(value < 0 ? value + 2 ** bits : value, bits / 8)));
}

/** How NumPy names the storage types. */
export const descrOf: Readonly<Record<Dtype, string>> = {
  float32: "<f4",
  float16: "<f2",
  bfloat16: "<V2",
};

/** Write random samples of a shape as .npy; its path, and the numbers as stored. */
export function random(
  folder: Folder,
  name: string,
  shape: readonly number[],
  dtype: Dtype,
  seed: number,
): { readonly path: string; readonly exact: Float64Array } {
  const count = shape.reduce((a, b) => a * b, 1);
  const stored = encode(normal(count, seed), dtype);
  const path = folder.write(name, npy(descrOf[dtype], shape, stored));
  return { path, exact: decode(stored, dtype) };
}

/** Samples of a .npy file, as stored. */
export function samplesOf(
  folder: Folder,
  name: string,
  dtype: Dtype,
): {
  readonly descr: string;
  readonly shape: readonly number[];
  readonly stored: Float32Array | Uint16Array;
} {
  const { descr, shape, data } = readNpy(folder.read(name));
  const stored = dtype === "float32" ? new Float32Array(data) : new Uint16Array(data);
  return { descr, shape, stored };
}

/** Run a command line with --json that must succeed without a word beside its records. */
export async function succeed(
  argv: readonly string[],
): Promise<readonly Record<string, unknown>[]> {
  const { code, stderr, records } = await runJson(argv);
  expect([code, stderr]).toEqual([0, ""]);
  return records;
}
