/** Factors and lengths that transform well. */

/** Prime factors in ascending order. */
export function primeFactors(n: number): number[] {
  const out: number[] = [];
  let rest = n;
  for (let p = 2; p * p <= rest; p++) {
    for (; rest % p === 0; rest /= p) out.push(p);
  }
  if (rest > 1) out.push(rest);
  return out;
}

/** All multiples of `step` in [low, high] that are step·2^a 3^b 5^c 7^d, ascending. */
export function smoothMultiples(low: number, high: number, step: number): number[] {
  const out: number[] = [];
  for (let d = step; d <= high; d *= 7) {
    for (let c = d; c <= high; c *= 5) {
      for (let b = c; b <= high; b *= 3) {
        for (let a = b; a <= high; a *= 2) if (a >= low) out.push(a);
      }
    }
  }
  return out.sort((x, y) => x - y);
}
