/** Numbers from 0 to 1, 1 excluded, of 53 bits, that depend on a seed and a place in the row: nothing has to be kept to go on. */
export function uniformAt(seed: number, stream: number, index: number): number {
  const words = [seed, stream, index, index / 2 ** 32];
  return ((hash(words, 0) >>> 5) * 2 ** 26 + (hash(words, 1) >>> 6)) / 2 ** 53;
}

/** MurmurHash3 of 32-bit words (public domain). */
function hash(words: readonly number[], start: number): number {
  let sum = start;
  for (const word of words) {
    sum ^= Math.imul(rotated(Math.imul(word, 0xcc9e2d51), 15), 0x1b873593);
    sum = Math.imul(rotated(sum, 13), 5) + 0xe6546b64;
  }
  sum ^= 4 * words.length;
  sum = Math.imul(sum ^ (sum >>> 16), 0x85ebca6b);
  sum = Math.imul(sum ^ (sum >>> 13), 0xc2b2ae35);
  return (sum ^ (sum >>> 16)) >>> 0;
}

const rotated = (word: number, by: number): number => (word << by) | (word >>> (32 - by));
