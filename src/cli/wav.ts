/**
 * RIFF .wav files: linear PCM of 16, 24 and 32 bits and float32, any number of channels, plain or
 * WAVE_FORMAT_EXTENSIBLE. Samples are float32 in memory, channel after channel; integer full scale is 1.
 * Format: "Multimedia Programming Interface and Data Specifications 1.0" (1991) and Microsoft's "Multiple Channel Audio
 * Data and WAVE Files" (2007).
 */
import { FileError, InvalidArgumentError, show } from "../errors.ts";
import type { InputFile } from "./files.ts";

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

const formatPcm = 1;
const formatFloat = 3;
const formatExtensible = 0xfffe;
/** What follows the format's number in the sub-format of WAVE_FORMAT_EXTENSIBLE. */
const extensibleTail = [0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71] as const;
const maxFileBytes = 2 ** 32;
/** Frames converted at a time: about a megabyte. */
const blockBytes = 2 ** 20;
const otherFormats: Readonly<Record<string, string>> = {
  RF64: "RF64, the 64-bit form",
  BW64: "BW64, the 64-bit form",
  RIFX: "RIFX, the big-endian form",
  FORM: "AIFF",
  fLaC: "FLAC",
  OggS: "Ogg",
};

/** Bytes of one sample of one channel. */
function sampleBytes(encoding: WavEncoding): 2 | 3 | 4 {
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
  if (other) throw file.refuse("must be a RIFF .wav file", other, "Convert it first, for example: sox FILE out.wav.");
  await file.read(riff, 0);
  if (tag(riff, 0) !== "RIFF" || tag(riff, 8) !== "WAVE") {
    const got = show(`${tag(riff, 0)}…${tag(riff, 8)}`);
    throw file.refuse("must begin with RIFF…WAVE", got, "Give a .wav or a .npy file.");
  }
  const announced = new DataView(riff.buffer).getUint32(4, true);
  if (announced === 0 || announced === 0xffffffff) {
    throw file.refuse(
      "must say how long it is",
      `a size field of ${show(announced)}, as programs leave it that write to a pipe`,
      "Write it to a file instead, or repair it, for example: sox --ignore-length FILE out.wav.",
    );
  }
  const end = announced + 8;
  // Writers disagree on whether the size counts a pad byte at the very end.
  if (end > file.size + 1) {
    throw file.refuse(
      `must not be cut short: its header announces ${show(end)} bytes`,
      `${show(file.size)} bytes`,
      "Copy or record the file again.",
    );
  }
  return await readChunks(file, Math.min(end, file.size));
}

/** Walk the chunks up to the samples. */
async function readChunks(file: InputFile, end: number): Promise<WavHeader> {
  let format: Omit<WavHeader, "frames" | "dataStart"> | undefined;
  const chunk = new Uint8Array(8);
  for (let position = 12; position + 8 <= end; ) {
    await file.read(chunk, position);
    const size = new DataView(chunk.buffer).getUint32(4, true);
    const start = position + 8;
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

function parseFormat(file: InputFile, bytes: Uint8Array): Omit<WavHeader, "frames" | "dataStart"> {
  if (bytes.length < 16) {
    throw file.refuse("must have a fmt chunk of 16 bytes or more", `${bytes.length}`, "Write the file again.");
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
  const encoding: WavEncoding | undefined = integer ? bits : kind === formatFloat && bits === 32 ? "float" : undefined;
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
  const names: Readonly<Record<number, string>> = { 1: "PCM", 2: "ADPCM", 3: "float", 6: "A-law", 7: "µ-law", 85: "MP3" };
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
  const bytes = new Uint8Array(blockFrames * frameBytes);
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
    for (let i = 0, at = start; i < count; i++, at += stride) row[i] = view.getInt16(at, true) / 0x8000;
  } else if (encoding === 24) {
    for (let i = 0, at = start; i < count; i++, at += stride) {
      row[i] = (view.getUint16(at, true) + view.getInt8(at + 2) * 0x10000) / 0x80_0000;
    }
  } else if (encoding === 32) {
    for (let i = 0, at = start; i < count; i++, at += stride) row[i] = view.getInt32(at, true) / 0x8000_0000;
  } else {
    for (let i = 0, at = start; i < count; i++, at += stride) row[i] = view.getFloat32(at, true);
  }
}

/** How loud samples are. */
export interface Level {
  /** Largest and smallest finite sample; full scale is 1. */
  readonly highest: number;
  readonly lowest: number;
  /** Samples that are NaN or infinite. */
  readonly notFinite: number;
}

/** Measure samples of full scale 1. */
export function measureLevel(samples: Float32Array): Level {
  let highest = 0;
  let lowest = 0;
  let notFinite = 0;
  for (let i = 0; i < samples.length; i++) {
    const sample = samples[i]!;
    if (!Number.isFinite(sample)) notFinite++;
    else if (sample > highest) highest = sample;
    else if (sample < lowest) lowest = sample;
  }
  return { highest, lowest, notFinite };
}

/** Largest magnitude of the finite samples. */
export function peakOf(level: Level): number {
  return Math.max(level.highest, -level.lowest);
}

/**
 * The factor to write samples with: 1, or with `normalize` the one that brings the peak to full scale.
 * @throws InvalidArgumentError where integers would clip, or cannot hold NaN or infinity.
 */
export function outputGain(
  level: Level,
  encoding: WavEncoding,
  normalize: boolean,
  call: string,
): number {
  if (encoding === "float" && !normalize) return 1;
  const what = encoding === "float" ? "--normalize" : `${encoding}-bit output`;
  if (level.notFinite > 0) {
    throw new InvalidArgumentError({
      call,
      requirement: `${what} needs finite samples`,
      value: `${show(level.notFinite)} that are NaN or infinite`,
      remedy: "Look for them in the input, or write --bits float without --normalize.",
    });
  }
  const peak = peakOf(level);
  const steps = encoding === "float" ? 1 : 2 ** (encoding - 1);
  const largest = encoding === "float" ? 1 : (steps - 1) / steps;
  if (normalize) return peak === 0 ? 1 : largest / peak;
  if (Math.round(level.highest * steps) < steps && Math.round(level.lowest * steps) >= -steps) return 1;
  throw new InvalidArgumentError({
    call,
    requirement: `${what} holds peaks up to ${largest.toFixed(5)}`,
    value: `a peak of ${peak.toPrecision(5)} (${(20 * Math.log10(peak)).toFixed(2)} dB)`,
    remedy: "Add --normalize to bring the peak to full scale, or --bits float to keep it as it is.",
  });
}

/** @throws FileError if a .wav file of this format would pass the 4 GiB that its size fields hold. */
export function checkWavSize(format: WavFormat, path: string, call: string): void {
  const bytes = 128 + format.frames * format.channels * sampleBytes(format.encoding);
  const frameBytes = format.channels * sampleBytes(format.encoding);
  if (bytes <= maxFileBytes && frameBytes <= 0xffff) return;
  throw new FileError({
    call,
    requirement: `${show(path)} must stay below ${show(maxFileBytes)} bytes and 65,536 bytes a frame, as .wav demands`,
    value: `${show(bytes)} bytes in frames of ${show(frameBytes)}`,
    remedy: "Write a .npy file, use fewer --bits, or cut the input.",
  });
}

/** Write a whole .wav file of `samples`, (channels, frames), each multiplied by `gain`. */
export async function writeWav(
  write: (bytes: Uint8Array) => Promise<void>,
  format: WavFormat,
  samples: Float32Array,
  gain: number,
  onProgress: (fraction: number) => void,
): Promise<void> {
  const { channels, frames, encoding } = format;
  const width = sampleBytes(encoding);
  const frameBytes = channels * width;
  await write(wavHeader(format));
  const blockFrames = Math.max(1, Math.floor(blockBytes / frameBytes));
  const bytes = new Uint8Array(Math.min(blockFrames, frames) * frameBytes);
  const view = new DataView(bytes.buffer);
  for (let first = 0; first < frames; first += blockFrames) {
    const count = Math.min(blockFrames, frames - first);
    for (let c = 0; c < channels; c++) {
      const row = samples.subarray(c * frames + first, c * frames + first + count);
      encodeChannel(view, row, c * width, frameBytes, encoding, gain);
    }
    await write(bytes.subarray(0, count * frameBytes));
    onProgress((first + count) / frames);
  }
  if ((frames * frameBytes) % 2 === 1) await write(new Uint8Array(1));
}

function encodeChannel(
  view: DataView,
  row: Float32Array,
  start: number,
  stride: number,
  encoding: WavEncoding,
  gain: number,
): void {
  const count = row.length;
  if (encoding === "float") {
    for (let i = 0, at = start; i < count; i++, at += stride) view.setFloat32(at, row[i]! * gain, true);
    return;
  }
  const scale = gain * 2 ** (encoding - 1);
  for (let i = 0, at = start; i < count; i++, at += stride) {
    const value = Math.round(row[i]! * scale);
    if (encoding === 16) view.setInt16(at, value, true);
    else if (encoding === 32) view.setInt32(at, value, true);
    else {
      view.setUint16(at, value & 0xffff, true);
      view.setInt8(at + 2, value >> 16);
    }
  }
}

/**
 * Everything before the samples. More than two channels call for the extensible form; for two, 24 and 32 bits are
 * written in the plain one, which every reader takes (Python's wave module before 3.12 refuses the other).
 */
export function wavHeader(format: WavFormat): Uint8Array {
  const { channels, sampleRate, encoding, frames } = format;
  const width = sampleBytes(encoding);
  const isFloat = encoding === "float";
  const extensible = channels > 2;
  const formatBytes = extensible ? 40 : isFloat ? 18 : 16;
  // Formats other than plain PCM state their length once more, in a chunk named fact.
  const factBytes = isFloat ? 12 : 0;
  const dataBytes = frames * channels * width;
  const header = new Uint8Array(12 + 8 + formatBytes + factBytes + 8);
  const view = new DataView(header.buffer);
  const text = (at: number, value: string): void => header.set(new TextEncoder().encode(value), at);
  text(0, "RIFF");
  view.setUint32(4, header.length - 8 + dataBytes + (dataBytes % 2), true);
  text(8, "WAVEfmt ");
  view.setUint32(16, formatBytes, true);
  const kind = isFloat ? formatFloat : formatPcm;
  view.setUint16(20, extensible ? formatExtensible : kind, true);
  view.setUint16(22, channels, true);
  view.setUint32(24, sampleRate, true);
  // The byte rate has 32 bits; a rate beyond them is written as the largest, readers go by the frame size.
  view.setUint32(28, Math.min(sampleRate * channels * width, 0xffffffff), true);
  view.setUint16(32, channels * width, true);
  view.setUint16(34, width * 8, true);
  if (extensible) {
    view.setUint16(36, 22, true);
    view.setUint16(38, width * 8, true);
    view.setUint32(40, format.channelMask, true);
    view.setUint16(44, kind, true);
    header.set(extensibleTail, 46);
  }
  let at = 20 + formatBytes;
  if (isFloat) {
    text(at, "fact");
    view.setUint32(at + 4, 4, true);
    view.setUint32(at + 8, frames, true);
    at += factBytes;
  }
  text(at, "data");
  view.setUint32(at + 4, dataBytes, true);
  return header;
}
