/** Seeded signals: the same numbers in every run and on every machine. */

/** Uniform numbers in (0, 1) from a seed (xorshift128, seeded by splitmix32). */
export function uniform(seed: number): () => number {
  const state = new Uint32Array(4);
  let s = seed >>> 0;
  for (let i = 0; i < 4; i++) {
    s = (s + 0x9e3779b9) >>> 0;
    let z = s;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    state[i] = z ^ (z >>> 15);
  }
  return () => {
    let t = state[3]!;
    t ^= t << 11;
    t ^= t >>> 8;
    const first = state[0]!;
    state.copyWithin(1, 0, 3);
    state[0] = t ^ first ^ (first >>> 19);
    return (state[0]! + 0.5) / 2 ** 32;
  };
}

/** `count` independent samples of the standard normal distribution: a signal of unit scale. */
export function normal(count: number, seed: number): Float64Array {
  const draw = uniform(seed);
  const samples = new Float64Array(count);
  for (let n = 0; n < count; n += 2) {
    const radius = Math.sqrt(-2 * Math.log(draw()));
    const angle = 2 * Math.PI * draw();
    samples[n] = radius * Math.cos(angle);
    if (n + 1 < count) samples[n + 1] = radius * Math.sin(angle);
  }
  return samples;
}

/** `count` zeros but for `value` at `position`. */
export function impulse(count: number, position: number, value = 1): Float64Array {
  const samples = new Float64Array(count);
  samples[position] = value;
  return samples;
}
