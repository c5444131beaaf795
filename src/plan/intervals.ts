/**
 * Sets of integers as runs: bins and points of millions that a pattern keeps lie in a few of them, all of them in one, and
 * what a planner asks is answered by run.
 */

/** Ascending integers: those from the first number to before the second, from the third to before the fourth, … */
export type Intervals = readonly number[];

/** Add those from `from` to before `to` behind all others; what touches the last run lengthens it. */
export function append(intervals: number[], from: number, to: number): void {
  if (from >= to) return;
  const last = intervals.length - 1;
  if (last > 0 && from <= intervals[last]!) intervals[last] = Math.max(to, intervals[last]!);
  else intervals.push(from, to);
}

/** How many integers there are. */
export function countOf(intervals: Intervals): number {
  let count = 0;
  for (let i = 0; i < intervals.length; i += 2) count += intervals[i + 1]! - intervals[i]!;
  return count;
}

/** 1 for each integer from 0 to before `size` that is in the set, 0 for the others. */
export function flagsOf(intervals: Intervals, size: number): Uint8Array {
  const flags = new Uint8Array(size);
  for (let i = 0; i < intervals.length; i += 2) {
    // No call of fill: many runs are of a few integers.
    for (let n = intervals[i]!; n < intervals[i + 1]!; n++) flags[n] = 1;
  }
  return flags;
}

/** Values that floor(n / below) mod `radix` takes, ascending. */
export function digitValues(intervals: Intervals, below: number, radix: number): number[] {
  const seen = new Uint8Array(radix);
  let left = radix;
  for (let i = 0; i < intervals.length && left > 0; i += 2) {
    const first = Math.floor(intervals[i]! / below);
    const last = Math.floor((intervals[i + 1]! - 1) / below);
    for (let n = first; n <= last && left > 0; n++) {
      left -= 1 - seen[n % radix]!;
      seen[n % radix] = 1;
    }
  }
  const values: number[] = [];
  for (let value = 0; value < radix; value++) if (seen[value]) values.push(value);
  return values;
}
