/** The JavaScript packages: fft.js with the convolution written around it, and ml-convolution's own convolution. */
import FFT from "fft.js";
import { FFTConvolution } from "ml-convolution";
import type { Contender, Workload } from "./workload.ts";

/** Slow peers work through as many rows as make about this many samples. */
const samples = 1 << 21;

/**
 * fft.js, causal, the spectra of the kernels kept. One row a transform, with its cheaper transform of real input; or
 * `pairs`: two rows of the batch that share a kernel as one complex sequence, which the package leaves to its user.
 */
export function openFftJs(workload: Workload, pairs: boolean): Contender | string {
  const { channels, batch, length, kernelLength, u, k } = workload;
  if (workload.mode !== "causal" || kernelLength > length)
    return "the bench drives it causally, K ≤ L";
  if (pairs && batch % 2 !== 0) return "pairs need an even batch";
  const size = 2 ** Math.ceil(Math.log2(2 * length));
  const fft = new FFT(size);
  const batches = Math.min(batch, Math.max(pairs ? 2 : 1, Math.floor(samples / length / channels)));
  const used = Math.min(channels, Math.max(1, Math.floor(samples / length / batches)));
  const input = pairs ? fft.createComplexArray() : fft.createComplexArray().slice(0, size);
  const [spectrum, output] = [fft.createComplexArray(), fft.createComplexArray()];
  const spectra = Array.from({ length: used }, (_, h) => {
    const padded = new Array<number>(size).fill(0);
    for (let j = 0; j < kernelLength; j++) padded[j] = k[h * kernelLength + j]!;
    const taps = fft.createComplexArray();
    fft.realTransform(taps, padded);
    fft.completeSpectrum(taps);
    return taps;
  });
  const y = new Float32Array(u.length);
  const multiply = (taps: number[], end: number): void => {
    for (let i = 0; i < end; i += 2) {
      const a = spectrum[i]!;
      const b = spectrum[i + 1]!;
      const c = taps[i]!;
      const d = taps[i + 1]!;
      spectrum[i] = a * c - b * d;
      spectrum[i + 1] = a * d + b * c;
    }
  };
  const single = (from: number, taps: number[]): void => {
    for (let n = 0; n < length; n++) input[n] = u[from + n]!;
    fft.realTransform(spectrum, input);
    multiply(taps, size + 2);
    fft.completeSpectrum(spectrum);
    fft.inverseTransform(output, spectrum);
    for (let n = 0; n < length; n++) y[from + n] = output[2 * n]!;
  };
  const pair = (from: number, other: number, taps: number[]): void => {
    for (let n = 0; n < length; n++) {
      input[2 * n] = u[from + n]!;
      input[2 * n + 1] = u[other + n]!;
    }
    fft.transform(spectrum, input);
    multiply(taps, 2 * size);
    fft.inverseTransform(output, spectrum);
    for (let n = 0; n < length; n++) {
      y[from + n] = output[2 * n]!;
      y[other + n] = output[2 * n + 1]!;
    }
  };
  return {
    name: pairs ? "fft.js pairs" : "fft.js",
    threads: 1,
    data: "arrays",
    rows: batches * used,
    rowIndex: (index) => Math.floor(index / used) * channels + (index % used),
    pass: "forward",
    settleMs: 0,
    run() {
      for (let h = 0; h < used; h++) {
        for (let b = 0; b < batches; b += pairs ? 2 : 1) {
          const from = (b * channels + h) * length;
          if (pairs) pair(from, from + channels * length, spectra[h]!);
          else single(from, spectra[h]!);
        }
      }
    },
    answer: (row) => y.subarray(row * length, (row + 1) * length),
    dispose() {},
  };
}

/** ml-convolution, one object a channel, in the one mode it has: centred, an odd number of taps (`same`). */
export function openMlConvolution(workload: Workload): Contender | string {
  const { channels, rows, length, kernelLength, u, k } = workload;
  if (workload.mode !== "same" || kernelLength % 2 === 0) return "has only the mode same, odd K";
  // It correlates: its kernel is ours turned round.
  const convolutions = Array.from(
    { length: channels },
    (_, h) =>
      new FFTConvolution(
        length,
        Array.from(k.subarray(h * kernelLength, (h + 1) * kernelLength)).reverse(),
      ),
  );
  const answers: ArrayLike<number>[] = [];
  const inputs = Array.from({ length: rows }, (_, row) =>
    u.subarray(row * length, (row + 1) * length),
  );
  return {
    name: "ml-convolution",
    threads: 1,
    data: "arrays",
    rows,
    pass: "forward",
    settleMs: 0,
    run() {
      for (let row = 0; row < rows; row++) {
        answers[row] = convolutions[row % channels]!.convolve(inputs[row]!);
      }
    },
    answer: (row) => Float32Array.from(answers[row]!),
    dispose() {},
  };
}
