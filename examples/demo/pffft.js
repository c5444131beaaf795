/**
 * The fastest way to convolve in JavaScript until now: PFFFT compiled to WebAssembly SIMD (@echogarden/pffft-wasm),
 * driven as well as it can be: real transforms, the kernel's spectrum kept in PFFFT's own order, the transform length
 * tried out, and nothing allocated or copied in a call beyond the input, which has to be padded with zeros.
 */
import createPffft from "@echogarden/pffft-wasm/simd";

/**
 * @typedef {object} Peer
 * @property {number} size points of the transform
 * @property {() => void} run convolve every row
 * @property {(row: number) => Float32Array} answer row `row` of the last run
 * @property {() => void} dispose
 */

/**
 * Rows of `length` samples with rows of `taps` taps; the outputs kept are `outputs` samples from `offset` on of the
 * linear convolution.
 *
 * @param {Float32Array} u (rows, length)
 * @param {Float32Array} k (rows, taps)
 * @param {{ rows: number, length: number, taps: number, offset: number, outputs: number }} shape
 * @returns {Promise<Peer>}
 */
export async function openPeer(u, k, { rows, length, taps, offset, outputs }) {
  const pffft = await createPffft();
  const full = length + taps - 1;
  // What wraps around may fall on outputs that nobody wants: those below `offset`, or above what is kept.
  const size = quickestSize(pffft, Math.max(full - offset, offset + outputs));
  const setup = pffft._pffft_new_setup(size, 0);
  /** @param {number} floats */
  const allocate = (floats) => {
    const pointer = pffft._pffft_aligned_malloc(4 * floats);
    if (pointer === 0) throw new Error(`pffft-wasm: no memory for ${floats} floats`);
    return pointer;
  };
  const pointers = [size, size, size, size, rows * size, rows * size].map(allocate);
  const [padded, spectrum, product, work, spectra, results] = pointers;
  // Nothing is allocated from here on, so the heap stays where it is.
  /** @param {number} pointer @param {number} floats */
  const view = (pointer, floats) => pffft.HEAPF32.subarray(pointer / 4, pointer / 4 + floats);
  for (let row = 0; row < rows; row++) {
    view(padded, size)
      .fill(0)
      .set(k.subarray(row * taps, (row + 1) * taps));
    pffft._pffft_transform(setup, padded, spectra + 4 * row * size, work, 0);
  }
  view(padded, size).fill(0);
  const [input, sum] = [view(padded, length), view(product, size)];
  return {
    size,
    run() {
      for (let row = 0; row < rows; row++) {
        input.set(u.subarray(row * length, (row + 1) * length));
        pffft._pffft_transform(setup, padded, spectrum, work, 0);
        sum.fill(0); // PFFFT's multiplication accumulates
        pffft._pffft_zconvolve_accumulate(
          setup,
          spectrum,
          spectra + 4 * row * size,
          product,
          1 / size,
        );
        pffft._pffft_transform(setup, product, results + 4 * row * size, work, 1);
      }
    },
    answer: (row) => view(results + 4 * (row * size + offset), outputs),
    dispose() {
      pffft._pffft_destroy_setup(setup);
      for (const pointer of pointers) pffft._pffft_aligned_free(pointer);
    },
  };
}

/**
 * The quickest of the transform lengths 2^a 3^b 5^c from `least` on, to a quarter more: measured.
 *
 * @param {import("@echogarden/pffft-wasm/simd").Pffft} pffft
 * @param {number} least
 */
function quickestSize(pffft, least) {
  /** @type {number[]} */
  const sizes = [];
  for (let five = 1; five <= 25; five *= 5) {
    for (let three = five; three <= 27 * five; three *= 3) {
      // PFFFT needs a multiple of 32.
      for (let size = 32 * three; size <= 1.25 * least; size *= 2)
        if (size >= least) sizes.push(size);
    }
  }
  let best = { size: 0, ms: Number.POSITIVE_INFINITY };
  for (const size of sizes) {
    const setup = pffft._pffft_new_setup(size, 0);
    const pointers = [size, size, size].map((floats) => pffft._pffft_aligned_malloc(4 * floats));
    for (const pointer of pointers) pffft.HEAPF32.fill(0, pointer / 4, pointer / 4 + size);
    for (let round = 0; round < 4; round++) {
      const start = performance.now();
      pffft._pffft_transform(setup, pointers[0], pointers[1], pointers[2], 0);
      const ms = performance.now() - start;
      if (ms < best.ms) best = { size, ms };
    }
    for (const pointer of pointers) pffft._pffft_aligned_free(pointer);
    pffft._pffft_destroy_setup(setup);
  }
  return best.size;
}
