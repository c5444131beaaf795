/**
 * RIFF .wav files: linear PCM of 16, 24 and 32 bits and float32, any number of channels, plain or
 * WAVE_FORMAT_EXTENSIBLE. Samples are float32 in memory, channel after channel; integer full scale is 1.
 * Format: "Multimedia Programming Interface and Data Specifications 1.0" (1991) and Microsoft's "Multiple Channel Audio
 * Data and WAVE Files" (2007).
 */

import type { InputFile } from "../files/input.ts";
import { show } from "../show.ts";

/** Bits of one integer sample, or float32. */
export type WavEncoding = 16 | 24 | 32 | "float";

/** What describes the samples of a .wav file. */
export interface WavFormat {
  readonly channels: number;
  /** Hz. */
  readonly sampleRate: number;
  readonly encoding: WavEncoding;
  /** Samples of each channel. */
  readonly frames: number;
  /** Which loudspeaker each channel belongs to, as WAVE_FORMAT_EXTENSIBLE numbers them; 0 where nothing is said. */
  readonly channelMask: number;
}

/** A format and where its samples begin in the file. */
export interface WavHeader extends WavFormat {
  readonly dataStart: number;
}

export const formatPcm = 1;
export const formatFloat = 3;
export const formatExtensible = 0xfffe;
/** What follows the format's number in the sub-format of WAVE_FORMAT_EXTENSIBLE. */
export const extensibleTail: readonly number[] = [
  0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71,
];
/** Frames converted at a time: about a megabyte. */
export const blockBytes: number = 2 ** 20;
const otherFormats: Readonly<Record<string, string>> = {
  RF64: "RF64, the 64-bit form",
  BW64: "BW64, the 64-bit form",
  RIFX: "RIFX, the big-endian form",
  FORM: "AIFF",
  fLaC: "FLAC",
  OggS: "Ogg",
};

/** Bytes of one sample of one channel. */
export function sampleBytes(encoding: WavEncoding): 2 | 3 | 4 {
  if (encoding === "float") return 4;
  return encoding === 16 ? 2 : encoding === 24 ? 3 : 4;
}

function tag(bytes: Uint8Array, position: number): string {
  return String.fromCharCode(...bytes.subarray(position, position + 4));
}

/** Whether a file that begins with `bytes` (4 or more) is a RIFF file, or another sound file that is known by name. */
export function isSound(bytes: Uint8Array): boolean {
  return tag(bytes, 0) === "RIFF" || tag(bytes, 0) in otherFormats;
}

/**
 * Read and check the header, and that the file holds all that it announces.
 * @throws FileError
 */
export async function readWavHeader(file: InputFile): Promise<WavHeader> {
  const riff = new Uint8Array(12);
  await file.read(riff.subarray(0, 4), 0);
  const other = otherFormats[tag(riff, 0)];
  if (other)
    throw file.refuse(
      "must be a RIFF .wav file",
      other,
      "Convert it first, for example: sox FILE out.wav.",
    );
  await file.read(riff, 0);
  if (tag(riff, 0) !== "RIFF" || tag(riff, 8) !== "WAVE") {
    const got = show(`${tag(riff, 0)}…${tag(riff, 8)}`);
    throw file.refuse("must begin with RIFF…WAVE", got, "Give a .wav or a .npy file.");
  }
  const announced = new DataView(riff.buffer).getUint32(4, true);
  if (file.piped && isOpenEnd(announced, file.size - 8)) return await readChunks(file, file.size);
  if (announced === 0 || announced === 0xffffffff) {
    throw file.refuse(
      "must say how long it is",
      `a size field of ${show(announced)}, as programs leave it that write to a pipe`,
      "Pipe it into this command as -, or repair it, for example: sox --ignore-length FILE out.wav.",
    );
  }
  const end = announced + 8;
  // Writers leave out the pad byte after an odd number of bytes at the very end, yet count it.
  if (end > file.size + 1) throw file.refuse(...cutShort(end, file.size));
  const header = await readChunks(file, Math.min(end, file.size));
  const frameBytes = header.channels * sampleBytes(header.encoding);
  if (end <= file.size || header.dataStart + header.frames * frameBytes === file.size)
    return header;
  throw file.refuse(...cutShort(end, file.size));
}

/**
 * Whether a size is none that was known: programs that write to a pipe put 0 or a number near to 2 or 4 GiB there.
 */
function isOpenEnd(size: number, there: number): boolean {
  return size === 0 || (size >= 0x7fff_f000 && size > there);
}

function cutShort(announced: number, size: number): [string, string, string] {
  const requirement = `must not be cut short: its header announces ${show(announced)} bytes`;
  return [requirement, `${show(size)} bytes`, "Copy or record the file again."];
}

/** Walk the chunks up to the samples. */
async function readChunks(file: InputFile, end: number): Promise<WavHeader> {
  let format: Omit<WavHeader, "frames" | "dataStart"> | undefined;
  const chunk = new Uint8Array(8);
  for (let position = 12; position + 8 <= end; ) {
    await file.read(chunk, position);
    const start = position + 8;
    const announced = new DataView(chunk.buffer).getUint32(4, true);
    const untilEnd = file.piped && tag(chunk, 0) === "data" && isOpenEnd(announced, end - start);
    const size = untilEnd ? wholeFrames(end - start, format) : announced;
    if (start + size > end) {
      throw file.refuse(
        `must not be cut short: its chunk ${show(tag(chunk, 0))} ends at byte ${show(start + size)}`,
        `${show(end)} bytes`,
        "Copy or record the file again.",
      );
    }
    if (tag(chunk, 0) === "fmt ") {
      const bytes = new Uint8Array(Math.min(size, 40));
      await file.read(bytes, start);
      format = parseFormat(file, bytes);
    } else if (tag(chunk, 0) === "data") {
      if (!format) break;
      const frameBytes = format.channels * sampleBytes(format.encoding);
      if (size === 0 || size % frameBytes !== 0) {
        throw file.refuse(
          `must hold whole frames of ${frameBytes} bytes, at least one`,
          `${show(size)} bytes of samples`,
          "Write the file again.",
        );
      }
      return { ...format, frames: size / frameBytes, dataStart: start };
    }
    position = start + size + (size % 2);
  }
  const missing = format ? "data" : "fmt, before data,";
  throw file.refuse(`must have a chunk ${missing} in it`, "none", "Write the file again.");
}

/** The bytes of as many whole frames as are there. */
function wholeFrames(bytes: number, format: Omit<WavHeader, "frames" | "dataStart"> | undefined) {
  return bytes - (bytes % (format ? format.channels * sampleBytes(format.encoding) : 1));
}

function parseFormat(file: InputFile, bytes: Uint8Array): Omit<WavHeader, "frames" | "dataStart"> {
  if (bytes.length < 16) {
    throw file.refuse(
      "must have a fmt chunk of 16 bytes or more",
      `${bytes.length}`,
      "Write the file again.",
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const channels = view.getUint16(2, true);
  const sampleRate = view.getUint32(4, true);
  const frameBytes = view.getUint16(12, true);
  const bits = view.getUint16(14, true);
  let kind = view.getUint16(0, true);
  let channelMask = 0;
  if (kind === formatExtensible && bytes.length >= 40) {
    const known = extensibleTail.every((byte, i) => bytes[26 + i] === byte);
    kind = known ? view.getUint16(24, true) : formatExtensible;
    channelMask = view.getUint32(20, true);
  }
  const integer = kind === formatPcm && (bits === 16 || bits === 24 || bits === 32);
  const encoding: WavEncoding | undefined = integer
    ? bits
    : kind === formatFloat && bits === 32
      ? "float"
      : undefined;
  if (encoding === undefined) {
    throw file.refuse(
      "must be PCM of 16, 24 or 32 bits, or float of 32",
      `${formatName(kind)} of ${bits} bits`,
      "Convert it first, for example: sox FILE -e signed-integer -b 24 out.wav.",
    );
  }
  if (channels === 0 || sampleRate === 0 || frameBytes !== channels * sampleBytes(encoding)) {
    throw file.refuse(
      "must have a fmt chunk that agrees with itself",
      `${channels} channels at ${sampleRate} Hz in frames of ${frameBytes} bytes, ${bits} bits a sample`,
      "Write the file again.",
    );
  }
  return { channels, sampleRate, encoding, channelMask };
}

function formatName(kind: number): string {
  const names: Readonly<Record<number, string>> = {
    1: "PCM",
    2: "ADPCM",
    3: "float",
    6: "A-law",
    7: "µ-law",
    85: "MP3",
  };
  return names[kind] ?? `format 0x${kind.toString(16).padStart(4, "0")}`;
}

/**
 * Read all samples into `target`, (channels, frames), as float32.
 * @throws FileError
 */
export async function readWavSamples(
  file: InputFile,
  header: WavHeader,
  target: Float32Array,
  onProgress: (fraction: number) => void,
): Promise<void> {
  const { channels, frames, encoding } = header;
  const width = sampleBytes(encoding);
  const frameBytes = channels * width;
  const blockFrames = Math.max(1, Math.floor(blockBytes / frameBytes));
  const bytes = new Uint8Array(Math.min(blockFrames, frames) * frameBytes);
  const view = new DataView(bytes.buffer);
  for (let first = 0; first < frames; first += blockFrames) {
    const count = Math.min(blockFrames, frames - first);
    await file.read(bytes.subarray(0, count * frameBytes), header.dataStart + first * frameBytes);
    for (let c = 0; c < channels; c++) {
      const row = target.subarray(c * frames + first, c * frames + first + count);
      decodeChannel(view, row, c * width, frameBytes, encoding);
    }
    onProgress((first + count) / frames);
  }
}

function decodeChannel(
  view: DataView,
  row: Float32Array,
  start: number,
  stride: number,
  encoding: WavEncoding,
): void {
  const count = row.length;
  if (encoding === 16) {
    for (let i = 0, at = start; i < count; i++, at += stride)
      row[i] = view.getInt16(at, true) / 0x8000;
  } else if (encoding === 24) {
    for (let i = 0, at = start; i < count; i++, at += stride) {
      row[i] = (view.getUint16(at, true) + view.getInt8(at + 2) * 0x10000) / 0x80_0000;
    }
  } else if (encoding === 32) {
    for (let i = 0, at = start; i < count; i++, at += stride)
      row[i] = view.getInt32(at, true) / 0x8000_0000;
  } else {
    for (let i = 0, at = start; i < count; i++, at += stride) row[i] = view.getFloat32(at, true);
  }
}
