/** .wav files: every encoding read and written, every cut and hostile header refused, nothing clipped in silence. */
import { describe, expect, test } from "vitest";
import { SignalFile } from "../../src/cli/signal.ts";
import type { WavEncoding, WavFormat } from "../../src/cli/wav.ts";
import {
  checkWavSize,
  measureLevel,
  outputGain,
  peakOf,
  writeWav,
} from "../../src/cli/wav-output.ts";
import { FileError, InvalidArgumentError } from "../../src/errors.ts";
import { bytesOf, chunk, concat, Folder, le, pcm, type WavParts, wav } from "./support.ts";

const call = "flashfftconv conv";

/** Read a whole file. */
async function read(path: string) {
  const file = await SignalFile.open(path, call, undefined);
  try {
    const samples = new Float32Array(file.count);
    await file.read(samples, "float32");
    return { shape: file.shape, wav: file.wav!, samples };
  } finally {
    await file.close();
  }
}

async function refusal(path: string): Promise<FileError> {
  const error = await read(path).then(
    () => expect.fail("the file was accepted"),
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(FileError);
  expect((error as FileError).parts.call).toBe(call);
  return error as FileError;
}

/** Everything that `writeWav` writes. */
async function written(format: WavFormat, samples: Float32Array, gain = 1): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  await writeWav(
    async (bytes) => void parts.push(bytes.slice()),
    format,
    samples,
    gain,
    () => {},
  );
  return concat(...parts);
}

/** Two channels of three frames, in the integers of each encoding. */
const integers = {
  16: [0, -32_768, 32_767, 1, -1, 12_345],
  24: [0, -8_388_608, 8_388_607, 1, -1, 1_234_567],
  32: [0, -2_147_483_648, 2_147_483_392, 256, -256, 1_234_567_168],
} as const;

describe("reading", () => {
  test.each([16, 24, 32] as const)(
    "PCM of %i bits, interleaved, plain and extensible",
    async (bits) => {
      const values = integers[bits];
      const data = pcm(values, bits);
      const scaled = values.map((value) => value / 2 ** (bits - 1));
      const byChannel = [0, 2, 4, 1, 3, 5].map((i) => scaled[i]!);
      for (const extensible of [false, true]) {
        const path = new Folder().write(
          "a.wav",
          wav({ channels: 2, rate: 44_100, bits, data, extensible }),
        );
        const { shape, samples, wav: header } = await read(path);
        expect(shape).toEqual([2, 3]);
        expect(samples).toEqual(Float32Array.from(byChannel));
        expect(header).toMatchObject({
          sampleRate: 44_100,
          encoding: bits,
          channelMask: extensible ? 3 : 0,
        });
      }
    },
  );

  test("float32, with NaN and values beyond full scale", async () => {
    const values = Float32Array.of(0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 1e-30);
    for (const extensible of [false, true]) {
      const parts = { channels: 1, bits: 32, kind: 3, data: bytesOf(values), extensible };
      const { samples } = await read(new Folder().write("a.wav", wav(parts)));
      expect(samples).toEqual(values);
    }
  });

  test("chunks of odd length before the samples, and any after", async () => {
    const odd = chunk("LIST", new Uint8Array(5));
    const data = pcm([1, 2, 3], 16);
    const parts = { channels: 1, bits: 16, data, before: odd, after: odd };
    const { samples } = await read(new Folder().write("a.wav", wav(parts)));
    expect(samples).toEqual(Float32Array.from([1, 2, 3], (value) => value / 32_768));
  });

  test("an odd number of data bytes, with and without the pad byte at the end", async () => {
    const data = pcm([1, 2, 3], 24);
    const file = wav({ channels: 1, bits: 24, data });
    const folder = new Folder();
    for (const bytes of [file, file.subarray(0, -1)]) {
      expect((await read(folder.write("a.wav", bytes))).samples.length).toBe(3);
    }
  });

  test("bytes after the RIFF chunk do not matter", async () => {
    const file = wav({ channels: 1, bits: 16, data: pcm([7], 16) });
    const { samples } = await read(new Folder().write("a.wav", concat(file, "junk")));
    expect(samples).toEqual(Float32Array.of(7 / 32_768));
  });

  test("files longer than a block of the reader", async () => {
    const frames = 400_000;
    const data = Int16Array.from(
      { length: 2 * frames },
      (_, i) => (i % 2 ? -1 : 1) * ((i >> 1) % 30_000),
    );
    const path = new Folder().write("a.wav", wav({ channels: 2, bits: 16, data: bytesOf(data) }));
    const { samples } = await read(path);
    for (let i = 0; i < frames; i++) {
      const value = (i % 30_000) / 32_768;
      if (samples[i] !== value || samples[frames + i] !== -value) expect.fail(`frame ${i}`);
    }
  });
});

describe("refusing", () => {
  const good: WavParts = { channels: 2, bits: 16, data: pcm([1, 2, 3, 4], 16) };

  test.each([
    ["plain", good],
    [
      "extensible with chunks around",
      {
        ...good,
        extensible: true,
        before: chunk("LIST", new Uint8Array(5)),
        after: chunk("LIST", new Uint8Array(8)),
      },
    ],
  ] as const)("a file cut at any byte: %s", async (_, parts) => {
    const folder = new Folder();
    const bytes = wav(parts);
    expect((await read(folder.write("whole.wav", bytes))).samples.length).toBe(4);
    for (let length = 0; length < bytes.length; length++) {
      await refusal(folder.write("cut.wav", bytes.subarray(0, length)));
    }
  });

  /** The good file with some bytes replaced. */
  const patched = (position: number, bytes: Uint8Array | readonly number[] | string) => {
    const file = wav(good);
    file.set(concat(bytes), position);
    return file;
  };

  test.each([
    ["RF64", patched(0, "RF64"), "64-bit"],
    ["RIFX", patched(0, "RIFX"), "big-endian"],
    ["AIFF", patched(0, "FORM"), "AIFF"],
    ["FLAC", patched(0, "fLaC"), "FLAC"],
    ["AVI", patched(8, "AVI "), "WAVE"],
    ["a size that was never filled in", patched(4, le(0xffffffff, 4)), "how long"],
    ["a size of zero", patched(4, le(0, 4)), "how long"],
    ["data longer than the file", patched(40, le(0xffffffff, 4)), "cut short"],
    ["no samples", wav({ ...good, data: new Uint8Array(0) }), "whole frames"],
    ["half a frame", wav({ ...good, data: pcm([1, 2, 3], 16) }), "whole frames"],
    ["no channels", patched(22, [0, 0]), "agrees with itself"],
    ["no sample rate", patched(24, [0, 0, 0, 0]), "agrees with itself"],
    ["frames of another size", patched(32, [3, 0]), "agrees with itself"],
    ["8 bits", wav({ ...good, bits: 8 }), "PCM of 8 bits"],
    ["12 bits", patched(34, [12, 0]), "PCM of 12 bits"],
    [
      "float64",
      wav({ channels: 1, bits: 64, kind: 3, data: new Uint8Array(8) }),
      "float of 64 bits",
    ],
    ["A-law", wav({ ...good, kind: 6 }), "A-law"],
    ["µ-law", wav({ ...good, kind: 7 }), "µ-law"],
    ["ADPCM", wav({ ...good, kind: 2 }), "ADPCM"],
    ["an unknown format", wav({ ...good, kind: 0x1234 }), "0x1234"],
    [
      "data before fmt",
      concat("RIFF", le(4 + 8 + 4, 4), "WAVE", chunk("data", pcm([1, 2], 16))),
      "fmt",
    ],
    ["no data", concat("RIFF", le(4 + 24, 4), "WAVE", wav(good).subarray(12, 36)), "chunk data"],
    [
      "a short fmt chunk",
      concat("RIFF", le(4 + 12, 4), "WAVE", chunk("fmt ", new Uint8Array(4))),
      "16 bytes",
    ],
  ])("%s", async (_, bytes, hint) => {
    expect((await refusal(new Folder().write("hostile.wav", bytes))).message).toContain(hint);
  });

  test("an extensible format whose sub-format is unknown", async () => {
    const file = wav({ ...good, extensible: true });
    file[20 + 30] = 1;
    expect((await refusal(new Folder().write("a.wav", file))).message).toContain("0xfffe");
  });
});

describe("writing", () => {
  const channels = 2;
  const frames = 3;

  test.each([16, 24, 32] as const)("PCM of %i bits comes back the same", async (bits) => {
    const byChannel = [0, 2, 4, 1, 3, 5].map((i) => integers[bits][i]! / 2 ** (bits - 1));
    const samples = Float32Array.from(byChannel);
    const format = {
      channels,
      frames,
      sampleRate: 48_000,
      encoding: bits,
      channelMask: 0,
    } as const;
    const bytes = await written(format, samples);
    expect(Buffer.from(bytes)).toEqual(
      wav({ channels, rate: 48_000, bits, data: pcm(integers[bits], bits) }),
    );
    expect((await read(new Folder().write("a.wav", bytes))).samples).toEqual(samples);
  });

  test.each([1, 2, 3, 6])("float32 of %i channels comes back the same", async (count) => {
    const samples = Float32Array.from({ length: count * 5 }, (_, i) => i - 3.25);
    const format = {
      channels: count,
      frames: 5,
      sampleRate: 8000,
      encoding: "float",
      channelMask: 0x3f,
    } as const;
    const {
      samples: again,
      shape,
      wav: header,
    } = await read(new Folder().write("a.wav", await written(format, samples)));
    expect(again).toEqual(samples);
    expect(shape).toEqual([count, 5]);
    expect(header).toMatchObject({
      sampleRate: 8000,
      encoding: "float",
      channelMask: count > 2 ? 0x3f : 0,
    });
  });

  test("an odd number of bytes is padded, and the sizes are right", async () => {
    const format = {
      channels: 1,
      frames: 3,
      sampleRate: 8000,
      encoding: 24,
      channelMask: 0,
    } as const;
    const bytes = await written(format, new Float32Array(3));
    expect(bytes.length % 2).toBe(0);
    expect(new DataView(bytes.buffer, bytes.byteOffset).getUint32(4, true)).toBe(bytes.length - 8);
  });

  test("longer than a block of the writer", async () => {
    const count = 700_000;
    const samples = Float32Array.from({ length: count }, (_, i) => (i % 1000) / 1000);
    const format = {
      channels: 1,
      frames: count,
      sampleRate: 8000,
      encoding: "float",
      channelMask: 0,
    } as const;
    const path = new Folder().write("a.wav", await written(format, samples));
    expect(Buffer.compare(bytesOf((await read(path)).samples), bytesOf(samples))).toBe(0);
  });

  test("nothing beyond 4 GiB, nor frames beyond 16 bits", () => {
    const format = {
      channels: 2,
      frames: 2 ** 29,
      sampleRate: 8000,
      encoding: "float",
      channelMask: 0,
    } as const;
    expect(() => checkWavSize(format, "a.wav", call)).toThrow(FileError);
    expect(() => checkWavSize({ ...format, encoding: 16, frames: 2 ** 30 }, "a.wav", call)).toThrow(
      FileError,
    );
    expect(() => checkWavSize({ ...format, channels: 20_000, frames: 1 }, "a.wav", call)).toThrow(
      FileError,
    );
    checkWavSize({ ...format, frames: 2 ** 28 }, "a.wav", call);
  });
});

describe("clipping", () => {
  const gainOf = (samples: readonly number[], encoding: WavEncoding, normalize = false) =>
    outputGain(measureLevel(Float32Array.from(samples)), encoding, normalize, call);

  test("samples that fit are written as they are", () => {
    expect(gainOf([0.5, -1, 32_767 / 32_768], 16)).toBe(1);
    expect(gainOf([-1, 1 - 2 ** -23], 24)).toBe(1);
    expect(gainOf([100, -100, Number.NaN], "float")).toBe(1);
    expect(gainOf([0], 16)).toBe(1);
  });

  test.each([
    [16, 1],
    [16, 0.999_99],
    [16, -1.000_02],
    [24, 1],
    [32, 1],
    [32, -1.000_001],
  ] as const)("%i bits refuse a peak of %f", (encoding, sample) => {
    expect(() => gainOf([0, sample], encoding)).toThrow(InvalidArgumentError);
    expect(() => gainOf([0, sample], encoding)).toThrow("--normalize");
  });

  test.each([16, 24, 32] as const)(
    "--normalize brings the peak of %i bits to full scale",
    async (encoding) => {
      for (const samples of [[2, -8, 1], [1e-4, -2e-4], [3]]) {
        const gain = gainOf(samples, encoding, true);
        const format = {
          channels: 1,
          frames: samples.length,
          sampleRate: 8000,
          encoding,
          channelMask: 0,
        } as const;
        const bytes = await written(format, Float32Array.from(samples), gain);
        const again = await read(new Folder().write("a.wav", bytes));
        expect(peakOf(measureLevel(again.samples))).toBeCloseTo(1, 4);
        samples.forEach((sample, i) => void expect(again.samples[i]).toBeCloseTo(sample * gain, 4));
      }
    },
  );

  test("float32 is normalized on request, silence stays silence", () => {
    expect(gainOf([4, -2], "float", true)).toBe(0.25);
    expect(gainOf([0, 0], 16, true)).toBe(1);
  });

  test.each([Number.NaN, Number.POSITIVE_INFINITY])("integers refuse %f", (sample) => {
    for (const normalize of [false, true]) {
      expect(() => gainOf([0, sample], 16, normalize)).toThrow("finite");
    }
    expect(() => gainOf([0, sample], "float", true)).toThrow("finite");
  });
});
