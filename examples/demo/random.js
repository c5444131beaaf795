/**
 * Seeded pseudo-random numbers, so that every run of the demo makes the same sounds.
 *
 * @param {number} seed
 * @returns {() => number} the next number, uniform in [−1, 1)
 */
export function noiseSource(seed) {
  let state = seed >>> 0;
  return () => {
    // Mulberry32.
    state = (state + 0x6d2b79f5) | 0;
    let z = Math.imul(state ^ (state >>> 15), state | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 31 - 1;
  };
}
