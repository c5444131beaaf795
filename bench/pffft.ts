/**
 * @echogarden/pffft-wasm (SIMD) doing causal convolutions channel by channel: transform, multiply, inverse, with the
 * spectra of the kernels kept in pffft's own order. Tuned as its best user would: buffers allocated once, raw pointers,
 * the unordered transform, a work buffer instead of the stack, rows that share a kernel one after the other.
 */
import create, { type Pffft } from "@echogarden/pffft-wasm/simd";
import type { Contender, Workload } from "./workload.ts";

/** A heap that grows detaches the views of it, so the two forms, which live side by side, have one each. */
const instances = new Map<Contender["data"], Pffft>();

/**
 * `resident`: rows lie in pffft's heap, already padded with zeros to 2L, and the answers stay there in rows of 2L, so
 * that nothing is ever copied. `arrays`: rows of L in the caller's arrays are copied in and out.
 */
export async function openPffft(
  workload: Workload,
  data: Contender["data"],
): Promise<Contender | string> {
  const { channels, rows, length, kernelLength, u, k } = workload;
  if (workload.mode !== "causal") return "the bench drives it in the causal mode alone";
  const size = 2 * length;
  if (kernelLength > length || size < 32) return "needs K ≤ L and L ≥ 16";
  const pffft = instances.get(data) ?? (await create());
  instances.set(data, pffft);
  const owned: number[] = [];
  const dispose = (): void => {
    for (const pointer of owned) pffft._pffft_aligned_free(pointer);
  };
  const allocate = (floats: number): number => {
    const pointer = pffft._pffft_aligned_malloc(4 * floats);
    if (pointer === 0) throw new Error(`pffft-wasm: no memory for ${floats} floats`);
    owned.push(pointer);
    return pointer;
  };
  const setup = pffft._pffft_new_setup(size, 0);
  if (setup === 0) return `has no transform of ${size} points`;
  const spectra = allocate(channels * size);
  const [spectrum, product, work] = [allocate(size), allocate(size), allocate(size)];
  const resident = data === "resident";
  const input = allocate(resident ? rows * size : size);
  const output = resident ? allocate(rows * size) : product;
  // The heap no longer grows, so views of it stay valid.
  const floats = (pointer: number, count: number): Float32Array =>
    pffft.HEAPF32.subarray(pointer / 4, pointer / 4 + count);
  floats(spectra, channels * size).fill(0);
  for (let h = 0; h < channels; h++) {
    const taps = spectra + 4 * h * size;
    floats(taps, kernelLength).set(k.subarray(h * kernelLength, (h + 1) * kernelLength));
    pffft._pffft_transform(setup, taps, taps, work, 0);
  }
  floats(input, resident ? rows * size : size).fill(0);
  const rowOf = (array: Float32Array, row: number): Float32Array =>
    array.subarray(row * length, (row + 1) * length);
  const y = new Float32Array(resident ? 0 : rows * length);
  const inputs = Array.from({ length: rows }, (_, row) => rowOf(u, row));
  const outputs = Array.from({ length: rows }, (_, row) => rowOf(y, row));
  if (resident)
    for (let row = 0; row < rows; row++) floats(input + 4 * row * size, length).set(inputs[row]!);
  const padded = floats(input, length);
  const sum = floats(product, size);
  const first = floats(product, length);

  const convolve = (from: number, taps: number, to: number): void => {
    pffft._pffft_transform(setup, from, spectrum, work, 0);
    sum.fill(0); // the only multiplication it offers accumulates
    pffft._pffft_zconvolve_accumulate(setup, spectrum, taps, product, 1 / size);
    pffft._pffft_transform(setup, product, to, work, 1);
  };
  return {
    name: "pffft-wasm",
    threads: 1,
    data,
    rows,
    pass: "forward",
    settleMs: 0,
    run() {
      for (let h = 0; h < channels; h++) {
        const taps = spectra + 4 * h * size;
        for (let row = h; row < rows; row += channels) {
          if (resident) {
            convolve(input + 4 * row * size, taps, output + 4 * row * size);
          } else {
            padded.set(inputs[row]!);
            convolve(input, taps, product);
            outputs[row]!.set(first);
          }
        }
      }
    },
    answer: (row) => (resident ? floats(output + 4 * row * size, length) : outputs[row]!),
    dispose() {
      pffft._pffft_destroy_setup(setup);
      dispose();
    },
  };
}
