/**
 * FFTW 3 in single precision (Debian's libfftw3-single3), called through koffi on plans measured by FFTW itself. It has
 * no multiplication of spectra: a loop of WebAssembly SIMD over the same memory does that, so that FFTW's share of the
 * time is not drowned in JavaScript. One thread: its threads would leave the multiplication behind.
 */
import { op, section, simd, u32, v128, vector } from "../src/kernels/cpu/print/wasm-encode.ts";
import type { Contender, Workload } from "./workload.ts";

/** What the bench calls of FFTW. */
interface Fftw {
  planForward(size: number, input: Float32Array, output: Float32Array, flags: number): unknown;
  planInverse(size: number, input: Float32Array, output: Float32Array, flags: number): unknown;
  forward(plan: unknown, input: Float32Array, output: Float32Array): void;
  inverse(plan: unknown, input: Float32Array, output: Float32Array): void;
  destroy(plan: unknown): void;
}

let library: Fftw | string | undefined;

async function loadFftw(): Promise<Fftw | string> {
  try {
    const { default: koffi } = await import("koffi");
    const lib = koffi.load("libfftw3f.so.3");
    const plan = (name: string): Fftw["planForward"] =>
      lib.func(`void *fftwf_plan_dft_${name}_1d(int n, float *in, float *out, uint flags)`);
    const execute = (name: string): Fftw["forward"] =>
      lib.func(`void fftwf_execute_dft_${name}(void *plan, float *in, float *out)`);
    lib.func("void fftwf_set_timelimit(double seconds)")(10);
    return {
      planForward: plan("r2c"),
      planInverse: plan("c2r"),
      forward: execute("r2c"),
      inverse: execute("c2r"),
      destroy: lib.func("void fftwf_destroy_plan(void *plan)"),
    };
  } catch (error) {
    return `libfftw3f.so.3 through koffi: ${error instanceof Error ? error.message.split("\n")[0] : error}`;
  }
}

/** FFTW_MEASURE: plans are chosen by timing them. */
const measurePlans = 0;

/** (a, b, end) → a[i] = a[i]·b[i] for interleaved complex float32 from byte a up to byte `end`, two at a time. */
function multiplication(memory: WebAssembly.Memory): (a: number, b: number, end: number) => void {
  const local = (index: number): number[] => [op.localGet, index];
  const load = (index: number): number[] => [...local(index), ...simd(v128.load), 4, 0];
  const lanes = (index: number, ...order: number[]): number[] => [
    ...load(index),
    ...load(index),
    ...simd(v128.shuffle),
    ...order.flatMap((lane) => [0, 1, 2, 3].map((byte) => 4 * lane + byte)),
  ];
  // −1 on real parts: subtracts the product of the imaginary parts.
  const signs = [...simd(v128.const), ...new Uint8Array(new Float32Array([-1, 1, -1, 1]).buffer)];
  const advance = (index: number): number[] => [
    ...local(index),
    op.i32Const,
    16,
    op.i32Add,
    op.localSet,
    index,
  ];
  const product = [
    ...[...lanes(0, 0, 0, 2, 2), ...load(1), ...simd(v128.f32x4Mul)],
    ...[...lanes(0, 1, 1, 3, 3), ...lanes(1, 1, 0, 3, 2), ...simd(v128.f32x4Mul), ...signs],
    ...[...simd(v128.f32x4Mul), ...simd(v128.f32x4Add)],
  ];
  const body = [
    ...[0, op.loop, op.empty, ...local(0), ...product, ...simd(v128.store), 4, 0],
    ...[
      ...advance(0),
      ...advance(1),
      ...local(0),
      ...local(2),
      op.i32LtU,
      op.brIf,
      0,
      op.end,
      op.end,
    ],
  ];
  const text = (name: string): number[] => [name.length, ...new TextEncoder().encode(name)];
  const bytes = Uint8Array.from([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, vector([[0x60, 3, 0x7f, 0x7f, 0x7f, 0]])),
    ...section(2, vector([[...text("m"), ...text("m"), 2, 0, 1]])),
    ...section(3, vector([[0]])),
    ...section(7, vector([[...text("f"), 0, 0]])),
    ...section(10, vector([[...u32(body.length), ...body]])),
  ]);
  const module = new WebAssembly.Module(bytes);
  const { exports } = new WebAssembly.Instance(module, { m: { m: memory } });
  return exports.f as (a: number, b: number, end: number) => void;
}

/** FFTW, causal, spectra kept, rows padded to 2L in memory that FFTW and WebAssembly share: nothing is copied. */
export async function openFftw(workload: Workload): Promise<Contender | string> {
  library ??= await loadFftw();
  if (typeof library === "string") return library;
  const fftw = library;
  const { channels, rows, length, kernelLength, u, k } = workload;
  if (workload.mode !== "causal" || kernelLength > length || length % 2 !== 0) {
    return "the bench drives it causally, K ≤ L, L even";
  }
  const size = 2 * length;
  const bins = size + 4; // L + 1 complex values, to a multiple of 16 bytes
  const total = 4 * (2 * rows * size + (channels + 1) * bins);
  const memory = new WebAssembly.Memory({ initial: Math.ceil(total / 65536) });
  const multiply = multiplication(memory);
  const heap = new Float32Array(memory.buffer);
  const inputs = Array.from({ length: rows }, (_, r) => heap.subarray(r * size, (r + 1) * size));
  const answersAt = rows * size;
  const answers = inputs.map((_, r) =>
    heap.subarray(answersAt + r * size, answersAt + (r + 1) * size),
  );
  const spectraAt = 2 * rows * size;
  const scratchAt = spectraAt + channels * bins;
  const spectrum = heap.subarray(scratchAt, scratchAt + bins);
  const forward = fftw.planForward(size, inputs[0]!, spectrum, measurePlans);
  const inverse = fftw.planInverse(size, spectrum, answers[0]!, measurePlans);
  const padded = new Float32Array(size);
  for (let h = 0; h < channels; h++) {
    // FFTW's inverse is unscaled: the kernel carries 1/N.
    for (let j = 0; j < kernelLength; j++) padded[j] = k[h * kernelLength + j]! / size;
    inputs[0]!.set(padded);
    fftw.forward(
      forward,
      inputs[0]!,
      heap.subarray(spectraAt + h * bins, spectraAt + (h + 1) * bins),
    );
  }
  for (let row = 0; row < rows; row++) {
    inputs[row]!.fill(0).set(u.subarray(row * length, (row + 1) * length));
  }
  return {
    name: "FFTW",
    threads: 1,
    data: "resident",
    rows,
    pass: "forward",
    settleMs: 0,
    run() {
      for (let h = 0; h < channels; h++) {
        for (let row = h; row < rows; row += channels) {
          fftw.forward(forward, inputs[row]!, spectrum);
          multiply(4 * scratchAt, 4 * (spectraAt + h * bins), 4 * (scratchAt + bins));
          fftw.inverse(inverse, spectrum, answers[row]!);
        }
      }
    },
    answer: (row) => answers[row]!.subarray(0, length),
    dispose() {
      fftw.destroy(forward);
      fftw.destroy(inverse);
    },
  };
}
