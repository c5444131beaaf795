/** The part of @echogarden/pffft-wasm that the bench calls; the package ships no types. Pointers are byte offsets. */
declare module "@echogarden/pffft-wasm/simd" {
  export interface Pffft {
    readonly HEAPF32: Float32Array;
    _pffft_new_setup(length: number, type: 0 | 1): number;
    _pffft_destroy_setup(setup: number): void;
    _pffft_aligned_malloc(bytes: number): number;
    _pffft_aligned_free(pointer: number): void;
    _pffft_transform(
      setup: number,
      input: number,
      output: number,
      work: number,
      direction: 0 | 1,
    ): void;
    _pffft_zconvolve_accumulate(
      setup: number,
      a: number,
      b: number,
      sum: number,
      scale: number,
    ): void;
  }
  export default function create(): Promise<Pffft>;
}
