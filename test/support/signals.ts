/** Seeded signals: the same numbers in every run and on every machine. */

/** Uniform numbers in (0, 1) from a seed (xorshift128, seeded by splitmix32). */
export function uniform(seed: number): () => number {
  let s = seed | 0;
  const next = (): number => {
    s = (s + 0x9e3779b9) | 0;
    let z = s;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return z ^ (z >>> 15);
  };
  let [a, b, c, d] = [next(), next(), next(), next()];
  return () => {
    let t = d ^ (d << 11);
    t ^= t >>> 8;
    d = c;
    c = b;
    b = a;
    a = t ^ a ^ (a >>> 19);
    return ((a >>> 0) + 0.5) / 2 ** 32;
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
