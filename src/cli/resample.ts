/**
 * A kernel at the sample rate of its input, where the user asks for it. The work is done by libsamplerate, the reference among
 * resamplers, as the package below brings it to WebAssembly: its best converter reproduces tones to 1e-7 of their size up to
 * 0.9 of the band. Users install it themselves: it is 2 MB, and few need it.
 */
import { InvalidArgumentError, UnsupportedError } from "../errors.ts";
import type { Mode } from "../plan/problem.ts";
import { show } from "../show.ts";
import type { SignalFile } from "./signal.ts";

const packageName = "@alexanderolsen/libsamplerate-js";

/** A change of rate. */
export interface Resampling {
  /** Hz of the file. */
  readonly from: number;
  /** Hz of the input. */
  readonly to: number;
  /** Samples for which the response rings before its first sample, and after its last one, at the new rate. */
  readonly ring: number;
  /** Taps at the new rate: the response and what rings around it. */
  readonly taps: number;
}

/** Modes in which a response may ring ahead of its first sample. */
export const resampledModes: readonly Mode[] = ["full", "causal", "same"];
/** Samples to either side that the best converter sums, at the lower of both rates: 143, and some. */
const reach = 150;
/** Largest rate that the package takes, and largest ratio of rates. */
const [highestRate, largestRatio] = [192_000, 256];
/** Samples given or taken at a time: well within the 4 MB that the package has for either. */
const pieceSamples = 2 ** 16;

/** What a kernel of `frames` samples becomes at another rate. */
function resamplingOf(from: number, to: number, frames: number, call: string): Resampling {
  const [a, b] = reduced(from, to);
  const ratio = Math.max(a / b, b / a);
  if (Math.max(a, b) > highestRate || ratio > largestRatio) {
    throw new UnsupportedError({
      call,
      requirement: `--resample takes rates up to ${show(highestRate)} Hz whose ratio is at most ${largestRatio}`,
      value: `${show(from)} Hz and ${show(to)} Hz`,
      remedy: "Resample the kernel in steps, with another program.",
    });
  }
  const ring = Math.ceil(reach * Math.max(1, b / a));
  return { from, to, ring, taps: Math.ceil((frames * b) / a) + 2 * ring };
}

/** Only the ratio of rates counts, and the package has a largest rate. */
function reduced(from: number, to: number): [number, number] {
  let [a, b] = [from, to];
  while (b > 0) [a, b] = [b, a % b];
  return [from / a, to / a];
}

/** What is used of the package. */
interface Converter {
  full(samples: Float32Array): Float32Array;
  destroy(): void;
}
interface LibSampleRate {
  create(
    channels: number,
    from: number,
    to: number,
    options: { readonly converterType: 0 },
  ): Promise<Converter>;
}

/**
 * The response at the new rate, with the same gain at every frequency that both rates have: `ring` samples before its first
 * one, and `ring` after its last.
 * @throws UnsupportedError where the package is missing.
 */
export async function resample(
  response: Float32Array,
  { from, to, ring, taps }: Resampling,
  call: string,
): Promise<Float32Array> {
  const { create } = await load(call);
  const [a, b] = reduced(from, to);
  const converter = await create(1, a, b, { converterType: 0 });
  try {
    // Whole periods of both rates, so that the first sample falls on one of the new rate.
    const periods = Math.ceil((ring + 1) / b);
    const padded = new Float32Array(periods * a + response.length);
    padded.set(response, periods * a);
    const out = new Float32Array(taps);
    const first = periods * b - ring;
    const step = Math.max(1, Math.floor(pieceSamples / Math.max(1, b / a)));
    let done = 0;
    for (let at = 0; done < first + taps; at += step) {
      // After the end, zeros push out what the converter still holds.
      const piece = new Float32Array(step);
      piece.set(padded.subarray(at, at + step));
      const made = converter.full(piece);
      const skipped = Math.max(0, first - done);
      const at0 = Math.max(0, done - first);
      out.set(made.subarray(skipped, skipped + Math.max(0, taps - at0)), at0);
      done += made.length;
    }
    // A response of half the samples has half the sum: its taps are as many times larger.
    return out.map((tap) => (tap * a) / b);
  } finally {
    converter.destroy();
  }
}

async function load(call: string): Promise<LibSampleRate> {
  try {
    const name: string = packageName;
    return ((await import(name)) as { default: LibSampleRate }).default;
  } catch (cause) {
    throw new UnsupportedError(
      {
        call,
        requirement: `--resample needs the package ${packageName}`,
        value: "none beside flashfftconv",
        remedy: `Install it there (npm install ${packageName}), or resample the kernel with another program.`,
      },
      cause,
    );
  }
}

/**
 * The change of rate that a kernel needs; undefined where it has the input's.
 * @throws InvalidArgumentError where rates differ and `asked` is false, or where nothing says what they are.
 */
export function rateChange(
  input: SignalFile,
  kernel: SignalFile,
  asked: boolean,
  call: string,
): Resampling | undefined {
  if (asked && !(input.wav && kernel.wav)) {
    throw new InvalidArgumentError({
      call,
      requirement: "--resample takes a .wav input and a .wav kernel, which say their sample rates",
      value: show((input.wav ? kernel : input).path),
      remedy: "Leave --resample out, or give a .wav file.",
    });
  }
  const [to, from] = [input.wav?.sampleRate, kernel.wav?.sampleRate];
  if (from === undefined || to === undefined || from === to) return undefined;
  if (asked) return resamplingOf(from, to, kernel.wav!.frames, call);
  throw new InvalidArgumentError({
    call,
    requirement: "--input and --kernel must have the same sample rate",
    value: `${show(to)} Hz in ${show(input.path)} and ${show(from)} Hz in ${show(kernel.path)}`,
    remedy: `Add --resample to bring the kernel to ${show(to)} Hz.`,
  });
}
