/** Rows of samples in a file, .wav or .npy: told apart by their first bytes, read in the storage type asked for. */
import {
  type Dtype,
  fromBfloat16,
  fromFloat16,
  type SampleArray,
  toBfloat16,
  toFloat16,
} from "../dtype.ts";
import { InputFile } from "../files/input.ts";
import { printable, show } from "../show.ts";
import { bytesPerStored, isNpy, readNpyHeader, type StoredType } from "./npy.ts";
import { isSound, readWavHeader, readWavSamples, sampleBytes, type WavHeader } from "./wav.ts";

/** Arrays that this command line allocates: bits for the half-precision types. */
export type HostArray = Float32Array | Uint16Array;

/** Samples per conversion step. */
const blockSamples = 2 ** 18;

/** An array for `count` samples of `dtype`. */
export function allocate(dtype: Dtype, count: number): HostArray {
  return dtype === "float32" ? new Float32Array(count) : new Uint16Array(count);
}

/** The bytes of an array. */
export function bytesOf(samples: SampleArray): Uint8Array {
  return new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
}

/** An open file of samples whose header was checked. */
export class SignalFile {
  readonly path: string;
  /** (L), (H, L) or (B, H, L); (channels, frames) for .wav. */
  readonly shape: readonly number[];
  /** How the samples stand in the file; float32 for every .wav. */
  readonly stored: StoredType;
  /** What the samples mean: `stored`, or the type that the user named for 16-bit words. */
  readonly meaning: Dtype | "float64";
  /** Header of a .wav file. */
  readonly wav: WavHeader | undefined;
  readonly #file: InputFile;
  readonly #dataStart: number;

  private constructor(
    file: InputFile,
    header: { shape: readonly number[]; stored: StoredType; dataStart: number },
    meaning: Dtype | "float64",
    wav: WavHeader | undefined,
  ) {
    this.path = file.path;
    this.shape = header.shape;
    this.stored = header.stored;
    this.meaning = meaning;
    this.wav = wav;
    this.#file = file;
    this.#dataStart = header.dataStart;
  }

  /**
   * Open a file and check its header.
   * @throws FileError
   */
  static async open(path: string, call: string, dtype: Dtype | undefined): Promise<SignalFile> {
    return SignalFile.of(await InputFile.open(path, call), dtype);
  }

  /**
   * Check the header of an open file; it is closed where that fails.
   * @param dtype what the user said: it names the meaning of 16-bit words and permits the rounding of float64.
   * @throws FileError
   */
  static async of(file: InputFile, dtype: Dtype | undefined): Promise<SignalFile> {
    try {
      const start = new Uint8Array(6);
      await file.read(start, 0);
      if (isSound(start)) {
        const wav = await readWavHeader(file);
        const { channels, frames, dataStart } = wav;
        const header = { shape: [channels, frames], stored: "float32", dataStart } as const;
        return new SignalFile(file, header, "float32", wav);
      }
      if (!isNpy(start)) {
        throw file.refuse(
          "must be a .wav or a .npy file",
          `a file that begins with ${show(String.fromCharCode(...start))}`,
          "Convert it first.",
        );
      }
      const header = await readNpyHeader(file);
      return new SignalFile(file, header, meaningOf(file, header.stored, dtype), undefined);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Samples in the file. */
  get count(): number {
    return this.shape.reduce((a, b) => a * b, 1);
  }

  /** The file's name with its shape, for people. */
  describe(): string {
    const shape = this.shape.map((size) => show(size)).join(" × ");
    const rate = this.wav ? `, ${show(this.wav.sampleRate)} Hz` : "";
    return `${printable(this.path)} (${shape}${rate})`;
  }

  /**
   * Fill `target`, which holds `dtype`, with the samples from `first` on, rounded once where the file's type is wider.
   * A .wav file is read whole.
   * @throws FileError
   */
  async read(
    target: SampleArray,
    dtype: Dtype,
    first = 0,
    onProgress: (fraction: number) => void = () => {},
  ): Promise<void> {
    if (this.wav) {
      if (dtype !== "float32" || first !== 0 || target.length !== this.count) {
        throw new Error("a .wav file is read whole, as float32");
      }
      return await readWavSamples(this.#file, this.wav, target as Float32Array, onProgress);
    }
    const width = bytesPerStored(this.stored);
    const convert = conversion(this.meaning, dtype);
    const stored =
      this.meaning === "float64"
        ? new Float64Array(blockSamples)
        : convert && allocate(this.meaning, blockSamples);
    for (let done = 0; done < target.length; done += blockSamples) {
      const count = Math.min(blockSamples, target.length - done);
      const position = this.#dataStart + (first + done) * width;
      const offset = target.byteOffset + done * target.BYTES_PER_ELEMENT;
      if (!stored || !convert) {
        const bytes = new Uint8Array(target.buffer, offset, count * target.BYTES_PER_ELEMENT);
        await this.#file.read(bytes, position);
      } else {
        await this.#file.read(new Uint8Array(stored.buffer, 0, count * width), position);
        for (let i = 0; i < count; i++) target[done + i] = convert(stored[i]!);
      }
      onProgress((done + count) / target.length);
    }
  }

  /**
   * Frames [first, first + count) of a .wav file, (channels, count), at the beginning of `room`.
   * @throws FileError
   */
  async readFrames(first: number, count: number, room: Float32Array): Promise<Float32Array> {
    const header = this.wav;
    if (!header) throw new Error("only a .wav file has frames");
    const { channels, encoding, dataStart } = header;
    const piece = { ...header, frames: count };
    const at = dataStart + first * channels * sampleBytes(encoding);
    const rows = room.subarray(0, channels * count);
    await readWavSamples(this.#file, { ...piece, dataStart: at }, rows, () => {});
    return rows;
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}

function meaningOf(
  file: InputFile,
  stored: StoredType,
  dtype: Dtype | undefined,
): Dtype | "float64" {
  if (stored === "bits16") {
    if (dtype === "float16" || dtype === "bfloat16") return dtype;
    throw file.refuse(
      "holds 16-bit words ('<u2'), whose meaning --dtype must name",
      dtype === undefined ? "no --dtype" : `--dtype ${dtype}`,
      "Add --dtype bfloat16 or --dtype float16.",
    );
  }
  if (stored === "float64" && dtype === undefined) {
    throw file.refuse(
      "must hold float32, float16 or bfloat16, or --dtype must say what to round it to",
      "float64 without --dtype",
      "Add --dtype float32, or save it with numpy.save(path, a.astype(numpy.float32)).",
    );
  }
  return stored;
}

/** The function from stored samples to samples of `to`; none where they are the same. */
function conversion(from: Dtype | "float64", to: Dtype): ((stored: number) => number) | undefined {
  if (from === to) return undefined;
  const widen = from === "float16" ? fromFloat16 : from === "bfloat16" ? fromBfloat16 : identity;
  const round = to === "float16" ? toFloat16 : to === "bfloat16" ? toBfloat16 : identity;
  return (stored) => round(widen(stored));
}

function identity(value: number): number {
  return value;
}

/** Rows of samples as (B, H, L). */
interface FileRows {
  readonly batch: number;
  readonly channels: number;
  readonly length: number;
}

/** (L), (H, L) and (B, H, L) as (B, H, L). */
export function fileRowsOf(shape: readonly number[]): FileRows {
  const [length = 1, channels = 1, batch = 1] = shape.toReversed();
  return { batch, channels, length };
}
