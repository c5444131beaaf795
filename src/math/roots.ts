/**
 * Roots of unity to float64 accuracy: the angle is a fraction of a turn with integer numerator and denominator, reduced
 * to the first octant before any sine is taken, so that no rounding of 2π·x ever enters.
 */

/** e^{2πi·n/d}; n any integer up to 2^53, d a positive integer. */
export function root(n: number, d: number): { re: number; im: number } {
  let m = n % d;
  if (m < 0) m += d;
  // Eighths of a turn: m·8 stays exact below 2^53.
  const octant = Math.floor((8 * m) / d);
  const quarter = ((octant + 1) >> 1) & 3;
  // Distance from the nearest quarter turn, within ±1/8 turn: exact integers over 4d.
  const rest = 4 * m - ((octant + 1) >> 1) * d;
  const angle = (Math.PI / 2) * (rest / d);
  const c = Math.cos(angle);
  const s = Math.sin(angle);
  if (quarter === 0) return { re: c, im: s };
  if (quarter === 1) return { re: 0 - s, im: c };
  if (quarter === 2) return { re: -c, im: 0 - s };
  return { re: s, im: -c };
}
