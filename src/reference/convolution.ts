/**
 * The float64 oracle: what every mode, gate and gradient is, and the reference that tests and `flashfftconv verify`
 * compare with. Two ways: `direct` sums, which are the definition, and `fft`, the same numbers at lengths where sums
 * would take days.
 */
import { InvalidArgumentError } from "../errors.ts";
import type { Problem } from "../plan/problem.ts";
import { show } from "../show.ts";
import { correlation, fftOf, type Spectrum64, spectrumProduct } from "./fft64.ts";

/** How the oracle computes: by its definition, by FFT, or by whichever is quicker. */
type OracleMethod = "auto" | "direct" | "fft";

/** What goes into y = postgate ⊙ ((pregate ⊙ u) ∗ k) + skip ⊙ u, as float64. */
export interface OracleInputs {
  /** B */
  readonly batch: number;
  /** H */
  readonly channels: number;
  /** (B, H, L) */
  readonly u: Float64Array;
  /** (H, K) */
  readonly k: Float64Array;
  /** (B, H, L) */
  readonly pregate?: Float64Array;
  /** (B, H, outputLength) */
  readonly postgate?: Float64Array;
  /** D, (H); only where outputLength = L */
  readonly skip?: Float64Array;
  /** `auto` by default. */
  readonly method?: OracleMethod;
}

/** Gradients of Σ dy·y. Those of gates and skip are there when the gate or skip was. */
export interface OracleGradients {
  /** (B, H, L) */
  readonly du: Float64Array;
  /** (H, K), summed over the batch */
  readonly dk: Float64Array;
  /** (B, H, L) */
  readonly dpregate?: Float64Array;
  /** (B, H, outputLength) */
  readonly dpostgate?: Float64Array;
  /** (H), summed over batch and samples */
  readonly dskip?: Float64Array;
}

/**
 * y = postgate ⊙ ((pregate ⊙ u) ∗ k) + skip ⊙ u, (B, H, outputLength).
 * @throws InvalidArgumentError when an array has not the length that batch, channels and problem ask for.
 */
export function oracleForward(problem: Problem, inputs: OracleInputs): Float64Array {
  checkInputs("oracleForward", problem, inputs);
  return forward(problem, inputs, new Rows(problem, inputs, false));
}

/**
 * Gradients of Σ dy·y with respect to everything that went in; dy is (B, H, outputLength).
 * @throws InvalidArgumentError when an array has not the length that batch, channels and problem ask for.
 */
export function oracleBackward(
  problem: Problem,
  inputs: OracleInputs & { readonly dy: Float64Array },
): OracleGradients {
  checkInputs("oracleBackward", problem, inputs);
  return backward(problem, inputs, new Rows(problem, inputs, false));
}

/**
 * Both of the same inputs, each when it is asked for. What both need is kept from forward to backward: spectra of taps and
 * inputs, and what postgates multiply.
 */
export function oracleBoth(
  problem: Problem,
  inputs: OracleInputs & { readonly dy: Float64Array },
): { forward(): Float64Array; backward(): OracleGradients } {
  checkInputs("oracleBoth", problem, inputs);
  const rows = new Rows(problem, inputs, true);
  return {
    forward: () => forward(problem, inputs, rows),
    backward() {
      const gradients = backward(problem, inputs, rows);
      rows.forget();
      return gradients;
    },
  };
}

/** The rows that go in, as their convolutions need them; computed again at each call, or kept. */
class Rows {
  readonly convolution: RowConvolution<unknown, unknown>;
  readonly #problem: Problem;
  readonly #inputs: OracleInputs;
  readonly #known: Map<string, unknown> | undefined;

  constructor(problem: Problem, inputs: OracleInputs, keeps: boolean) {
    this.convolution = rowConvolution(problem, inputs.method ?? "auto");
    this.#problem = problem;
    this.#inputs = inputs;
    this.#known = keeps ? new Map() : undefined;
  }

  taps(channel: number): unknown {
    const { kernelLength } = this.#problem;
    return this.#once(`taps ${channel}`, () =>
      this.convolution.taps(rowOf(this.#inputs.k, channel, kernelLength)),
    );
  }

  /** pregate ⊙ u. */
  samples(row: number): unknown {
    const { u, pregate } = this.#inputs;
    const { length } = this.#problem;
    return this.#once(`samples ${row}`, () =>
      this.convolution.samples(times(rowOf(u, row, length), rowOf(pregate, row, length))),
    );
  }

  /** z = (pregate ⊙ u) ∗ k. */
  convolved(row: number, samples: unknown, taps: unknown): Float64Array {
    return this.#once(`convolved ${row}`, () => this.convolution.convolve(samples, taps));
  }

  forget(): void {
    this.#known?.clear();
  }

  #once<T>(name: string, compute: () => T): T {
    const value = (this.#known?.get(name) as T | undefined) ?? compute();
    this.#known?.set(name, value);
    return value;
  }
}

function forward(problem: Problem, inputs: OracleInputs, rows: Rows): Float64Array {
  const { batch, channels, u, postgate, skip } = inputs;
  const { length, outputLength } = problem;
  const y = new Float64Array(batch * channels * outputLength);
  for (let channel = 0; channel < channels; channel++) {
    const taps = rows.taps(channel);
    for (let row = channel; row < batch * channels; row += channels) {
      const output = rowOf(y, row, outputLength);
      const z = rows.convolved(row, rows.samples(row), taps);
      output.set(times(z, rowOf(postgate, row, outputLength)));
      if (!skip) continue;
      const input = rowOf(u, row, length);
      for (let n = 0; n < length; n++) output[n] = output[n]! + skip[channel]! * input[n]!;
    }
  }
  return y;
}

function backward(
  problem: Problem,
  inputs: OracleInputs & { readonly dy: Float64Array },
  rows: Rows,
): OracleGradients {
  const { batch, channels, u, k, dy, pregate, postgate, skip } = inputs;
  const { length, kernelLength, outputLength } = problem;
  const du = new Float64Array(u.length);
  const dk = new Float64Array(k.length);
  const dpregate = pregate && new Float64Array(u.length);
  const dpostgate = postgate && new Float64Array(dy.length);
  const dskip = skip && new Float64Array(channels);
  for (let channel = 0; channel < channels; channel++) {
    const taps = rows.taps(channel);
    for (let row = channel; row < batch * channels; row += channels) {
      const input = rowOf(u, row, length);
      const samples = rows.samples(row);
      const upstream = rowOf(dy, row, outputLength);
      const dz = times(upstream, rowOf(postgate, row, outputLength));
      const { dx, dtaps } = rows.convolution.transpose(dz, samples, taps);
      rowOf(du, row, length).set(times(dx, rowOf(pregate, row, length)));
      rowOf(dpregate, row, length)?.set(times(dx, input));
      if (dpostgate) {
        const z = rows.convolved(row, samples, taps);
        rowOf(dpostgate, row, outputLength).set(times(upstream, z));
      }
      for (let j = 0; j < kernelLength; j++) {
        dk[channel * kernelLength + j] = dk[channel * kernelLength + j]! + dtaps[j]!;
      }
      if (!skip || !dskip) continue;
      for (let n = 0; n < length; n++) {
        du[row * length + n] = du[row * length + n]! + skip[channel]! * upstream[n]!;
        dskip[channel] = dskip[channel]! + upstream[n]! * input[n]!;
      }
    }
  }
  return {
    du,
    dk,
    ...(dpregate && { dpregate }),
    ...(dpostgate && { dpostgate }),
    ...(dskip && { dskip }),
  };
}

/**
 * ‖actual − expected‖ / ‖expected‖ in L2. NaN as soon as either side has one; 0 when both are zero, infinite when only
 * `expected` is.
 */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) {
    throw new InvalidArgumentError({
      call: "relativeError",
      requirement: "actual and expected must have one length",
      value: `${show(actual.length)} and ${show(expected.length)} values`,
      remedy: "Compare arrays of the same shape.",
    });
  }
  let difference = 0;
  let reference = 0;
  for (let n = 0; n < expected.length; n++) {
    difference += (actual[n]! - expected[n]!) ** 2;
    reference += expected[n]! ** 2;
  }
  return difference === 0 ? 0 : Math.sqrt(difference / reference);
}

/** One row's convolution and its transpose, of taps and of samples x as it wants them: their spectra, or themselves. */
interface RowConvolution<Samples, Taps> {
  taps(k: Float64Array): Taps;
  samples(x: Float64Array): Samples;
  /** z = x ∗ k, outputLength samples. */
  convolve(samples: Samples, taps: Taps): Float64Array;
  /** Gradients of Σ dz·(x ∗ k): dx, L samples, and dtaps, K. */
  transpose(
    dz: Float64Array,
    samples: Samples,
    taps: Taps,
  ): { dx: Float64Array; dtaps: Float64Array };
}

/** Below this many products the sums are as quick as the FFT. */
const directProducts = 65_536;

function rowConvolution(problem: Problem, method: OracleMethod): RowConvolution<unknown, unknown> {
  const direct =
    method === "direct" ||
    (method === "auto" && problem.outputLength * problem.kernelLength <= directProducts);
  return direct ? directRows(problem) : fftRows(problem);
}

/**
 * The definition of the modes: which sample of x meets tap j at output n. An index outside 0 … L − 1 meets zero.
 */
function sourceIndex({ mode, kernelLength, period }: Problem, n: number, j: number): number {
  switch (mode) {
    case "causal":
    case "full":
      return n - j;
    case "same":
      return n - j + Math.floor((kernelLength - 1) / 2);
    case "circular":
      return (n - j + period) % period;
    case "bidirectional":
      if (2 * j === kernelLength) return -1;
      return 2 * j < kernelLength ? n - j : n - j + kernelLength;
  }
}

/** z[n] = Σ_j x[source(n, j)] k[j], term by term. */
function directRows(problem: Problem): RowConvolution<Float64Array, Float64Array> {
  const { length, kernelLength, outputLength } = problem;
  return {
    taps: (k) => k,
    samples: (x) => x,
    convolve(x, taps) {
      const z = new Float64Array(outputLength);
      for (let n = 0; n < outputLength; n++) {
        for (let j = 0; j < kernelLength; j++) {
          const m = sourceIndex(problem, n, j);
          if (m >= 0 && m < length) z[n] = z[n]! + x[m]! * taps[j]!;
        }
      }
      return z;
    },
    transpose(dz, x, taps) {
      const dx = new Float64Array(length);
      const dtaps = new Float64Array(kernelLength);
      for (let n = 0; n < outputLength; n++) {
        for (let j = 0; j < kernelLength; j++) {
          const m = sourceIndex(problem, n, j);
          if (m < 0 || m >= length) continue;
          dx[m] = dx[m]! + dz[n]! * taps[j]!;
          dtaps[j] = dtaps[j]! + dz[n]! * x[m]!;
        }
      }
      return { dx, dtaps };
    },
  };
}

/**
 * Every mode is a view of the linear convolution `full`, L + K − 1 samples: a window of it or, with a period, the sum
 * of what falls on one place of the circle. The transpose spreads dz over `full` the same way and correlates.
 */
function fftRows(problem: Problem): RowConvolution<Spectrum64, Spectrum64> {
  const { mode, length, kernelLength, outputLength } = problem;
  // Causal taps from L on meet no sample: without them, a long kernel costs no longer transform. Bidirectional taps are
  // padded in their middle to the whole circle.
  const paddedMiddle = mode === "bidirectional";
  const taps = paddedMiddle
    ? 2 * length
    : mode === "causal"
      ? Math.min(length, kernelLength)
      : kernelLength;
  const half = kernelLength >> 1;
  const padded = (row: Float64Array): Float64Array => {
    if (!paddedMiddle) return row.subarray(0, taps);
    const out = new Float64Array(taps);
    out.set(row.subarray(0, half));
    out.set(row.subarray(half + 1), taps - half + 1);
    return out;
  };
  const unpadded = (row: Float64Array): Float64Array => {
    const out = new Float64Array(kernelLength);
    if (!paddedMiddle) {
      out.set(row);
      return out;
    }
    out.set(row.subarray(0, half));
    out.set(row.subarray(taps - half + 1), half + 1);
    return out;
  };
  const fullLength = length + taps - 1;
  const fft = fftOf(fullLength);
  const offset = mode === "same" ? Math.floor((kernelLength - 1) / 2) : 0;
  const circle = mode === "circular" ? problem.period : mode === "bidirectional" ? 2 * length : 0;
  return {
    taps: (k) => fft.forward(padded(k)),
    samples: (x) => fft.forward(x),
    convolve(samples, spectrum) {
      const full = fft.inverse(spectrumProduct(samples, spectrum), fullLength);
      const z = full.slice(offset, offset + outputLength);
      if (circle)
        for (let n = circle; n < fullLength; n++) z[n - circle] = z[n - circle]! + full[n]!;
      return z;
    },
    transpose(dz, samples, spectrum) {
      const full = new Float64Array(fullLength);
      full.set(dz.subarray(0, Math.min(outputLength, fullLength - offset)), offset);
      if (circle) for (let n = circle; n < fullLength; n++) full[n] = dz[n - circle]!;
      const upstream = fft.forward(full);
      const dx = fft.inverse(correlation(upstream, spectrum), length);
      const dtaps = unpadded(fft.inverse(correlation(upstream, samples, upstream), taps));
      return { dx, dtaps };
    },
  };
}

function rowOf(values: Float64Array, row: number, length: number): Float64Array;
function rowOf(
  values: Float64Array | undefined,
  row: number,
  length: number,
): Float64Array | undefined;
function rowOf(
  values: Float64Array | undefined,
  row: number,
  length: number,
): Float64Array | undefined {
  return values?.subarray(row * length, (row + 1) * length);
}

function times(values: Float64Array, gate: Float64Array | undefined): Float64Array {
  if (!gate) return values;
  const out = new Float64Array(values.length);
  for (let n = 0; n < out.length; n++) out[n] = values[n]! * gate[n]!;
  return out;
}

function checkInputs(
  call: string,
  { length, kernelLength, outputLength }: Problem,
  inputs: OracleInputs & { readonly dy?: Float64Array },
): void {
  const rows = inputs.batch * inputs.channels;
  const need = (name: string, values: Float64Array | undefined, count: number): void => {
    if (!values || values.length === count) return;
    throw new InvalidArgumentError({
      call,
      requirement: `${name} must have ${show(count)} values for batch ${show(inputs.batch)} and channels ${show(inputs.channels)}`,
      value: show(values),
      remedy: "Make batch, channels and the arrays agree.",
    });
  };
  need("u", inputs.u, rows * length);
  need("k", inputs.k, inputs.channels * kernelLength);
  need("pregate", inputs.pregate, rows * length);
  need("postgate", inputs.postgate, rows * outputLength);
  need("skip", inputs.skip, inputs.channels);
  need("dy", inputs.dy, rows * outputLength);
  if (!inputs.skip || outputLength === length) return;
  throw new InvalidArgumentError({
    call,
    requirement: "skip needs outputs as long as inputs",
    value: `${show(outputLength)} outputs for ${show(length)} inputs`,
    remedy: "Leave skip out, or use a mode other than 'full'.",
  });
}
