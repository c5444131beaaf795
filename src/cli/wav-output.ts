/** Writing .wav files: how loud the samples are, whether integers can hold them, and their bytes. */
import { FileError, InvalidArgumentError } from "../errors.ts";
import { show } from "../show.ts";
import {
  blockBytes,
  extensibleTail,
  formatExtensible,
  formatFloat,
  formatPcm,
  sampleBytes,
  type WavEncoding,
  type WavFormat,
} from "./wav.ts";

/** The size fields of a .wav file have 32 bits. */
const maxFileBytes = 2 ** 32;

/** How loud samples are. */
interface SoundLevel {
  /** Largest and smallest finite sample; full scale is 1. */
  readonly highest: number;
  readonly lowest: number;
  /** Samples that are NaN or infinite. */
  readonly notFinite: number;
}

/** Measure samples of full scale 1. */
export function measureLevel(samples: Float32Array): SoundLevel {
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

/** The level of no samples. */
export const silence: SoundLevel = { highest: 0, lowest: 0, notFinite: 0 };

/** The level of two pieces together. */
export function louder(a: SoundLevel, b: SoundLevel): SoundLevel {
  return {
    highest: Math.max(a.highest, b.highest),
    lowest: Math.min(a.lowest, b.lowest),
    notFinite: a.notFinite + b.notFinite,
  };
}

/** Largest magnitude of the finite samples. */
export function peakOf(level: SoundLevel): number {
  return Math.max(level.highest, -level.lowest);
}

/**
 * The factor to write samples with: 1, or with `normalize` the one that brings the peak to full scale.
 * @throws InvalidArgumentError where integers would clip, or cannot hold NaN or infinity.
 */
export function outputGain(
  level: SoundLevel,
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
  if (Math.round(level.highest * steps) < steps && Math.round(level.lowest * steps) >= -steps)
    return 1;
  throw new InvalidArgumentError({
    call,
    requirement: `${what} holds peaks up to ${largest.toFixed(5)}`,
    value: `a peak of ${peak.toPrecision(5)} (${(20 * Math.log10(peak)).toFixed(2)} dB)`,
    remedy:
      "Add --normalize to bring the peak to full scale, --gain to turn it down, or --bits float to keep it as it is.",
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
  await write(wavHeader(format));
  const blockFrames = Math.max(1, Math.floor(blockBytes / (channels * sampleBytes(encoding))));
  const room = new Uint8Array(Math.min(blockFrames, frames) * channels * sampleBytes(encoding));
  for (let first = 0; first < frames; first += blockFrames) {
    const end = Math.min(frames, first + blockFrames);
    const rows = Array.from({ length: channels }, (_, c) =>
      samples.subarray(c * frames + first, c * frames + end),
    );
    await write(encodeFrames(format, rows, gain, room));
    onProgress(end / frames);
  }
  await write(padding(format));
}

/** The bytes of some frames, each sample multiplied by `gain`, at the beginning of `room`. */
export function encodeFrames(
  { encoding }: WavFormat,
  channels: readonly Float32Array[],
  gain: number,
  room: Uint8Array,
): Uint8Array {
  const width = sampleBytes(encoding);
  const frameBytes = channels.length * width;
  const bytes = room.subarray(0, channels[0]!.length * frameBytes);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  channels.forEach((row, c) => {
    encodeChannel(view, row, c * width, frameBytes, encoding, gain);
  });
  return bytes;
}

/** What follows the samples: a byte where they are odd in number. */
export function padding({ channels, frames, encoding }: WavFormat): Uint8Array {
  return new Uint8Array((frames * channels * sampleBytes(encoding)) % 2);
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
    for (let i = 0, at = start; i < count; i++, at += stride)
      view.setFloat32(at, row[i]! * gain, true);
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
