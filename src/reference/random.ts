/** Random samples that are the same in every run: what `verify` and `bench` convolve. */

/** A source of samples with mean 0 and variance 1 (normal, by Box and Muller's transform). */
export function normalSource(seed: number): () => number {
  const uniform = uniformSource(seed);
  let kept: number | undefined;
  return () => {
    if (kept !== undefined) {
      const value = kept;
      kept = undefined;
      return value;
    }
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    const angle = 2 * Math.PI * uniform();
    kept = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  };
}

/** Numbers from 0 to 1, 1 excluded, of 32 bits each (mulberry32, public domain). */
function uniformSource(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let word = Math.imul(state ^ (state >>> 15), state | 1);
    word ^= word + Math.imul(word ^ (word >>> 7), word | 61);
    return ((word ^ (word >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** `count` normal samples. */
export function normalSamples(source: () => number, count: number): Float64Array {
  return Float64Array.from({ length: count }, source);
}
